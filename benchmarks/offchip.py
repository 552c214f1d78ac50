"""Off-chip memory in whole networks: weights that are streamed, queues that are evicted.

    python -m benchmarks.offchip [--quick] [--simulate] [--precision W] [MODEL SIZE BOARD ...]

The search at full size, which predicts: what a design takes, how fast it is, and what it moves to
and from memory.  With ``--simulate`` the same networks at a small size, on boards of which memory
and DSPs were taken away, so that the small designs stream and evict too: the whole Verilog in
Verilator with a memory that behaves as the board's does, beside reference and prediction.  Exits
with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hwgen import boards
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.dse.design.found import Found
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.models.load import read
from hwgen.netlist import Netlist
from hwgen.report.figures import report
from hwgen.sim.verilator import MemoryModel, VerilatorModel

FRAMES = 3
"""Frames that are simulated."""


@dataclass(frozen=True)
class Case:
    """A network on a board.

    Parameters
    ----------
    model, size, board : their names, and the extent of a frame
    offchip : as :func:`hwgen.dse.design.search.search` takes it
    precision : bits of weights and activations
    dsp, bram18, uram : what is left of the board; None: all of it
    streams, evicts : what a design must have
    """

    model: str
    size: int
    board: str
    offchip: str = "auto"
    precision: str = "w8a8"
    dsp: int | None = None
    bram18: int | None = None
    uram: int | None = None
    streams: bool = False
    evicts: bool = False

    def __str__(self) -> str:
        return " | ".join((f"{self.model} {self.size}", self.precision, self.board, self.offchip))

    def reduced(self) -> boards.Board:
        """The board, or what is left of it."""
        left = {name: value for name in ("dsp", "bram18", "uram")
                if (value := getattr(self, name)) is not None}
        return replace(boards.load(self.board), **left)


CASES = (
    Case("unet-transposed", 256, "zcu104"),
    Case("unet-transposed", 256, "zcu102"),
    Case("unet-transposed", 256, "u200", "prefer"),
    Case("yolov5n", 640, "zcu104", "never"),
    Case("yolov5n", 640, "zcu104", "prefer"),
    Case("resnet18", 224, "zcu102"),
    Case("resnet18", 224, "zcu102", precision="w4a4"),
    Case("resnet50", 224, "zcu102"),
    Case("vgg16", 224, "zcu102"),
    Case("x3d-m", 224, "zcu102", precision="w4a4"),
    Case("x3d-m", 224, "zcu102", precision="w4a6"),
    Case("x3d-m", 224, "zcu102", precision="w4a8"),
    Case("yolov5n", 320, "zedboard"),
    Case("yolov5n", 320, "zedboard", precision="w4a8"),
    Case("yolov5n", 320, "zedboard", precision="w4a4"),
)
QUICK = (Case("yolov5n", 320, "zcu104", "prefer"),
         Case("resnet18", 224, "zcu102", precision="w4a4"))

SIMULATED = (
    Case("unet-transposed", 32, "zcu104", dsp=1200, bram18=700, uram=0, streams=True),
    Case("yolov5n", 224, "zcu104", "prefer", evicts=True),
    Case("resnet18", 64, "zcu102", streams=True),
    Case("resnet50", 32, "zcu102", streams=True),
    Case("vgg16", 32, "zcu102", streams=True),
    Case("x3d-m", 32, "zcu102", precision="w4a4", dsp=400, bram18=500, streams=True, evicts=True),
    Case("yolov5n", 96, "zedboard", precision="w4a4", bram18=200, streams=True, evicts=True),
)
SIMULATED_QUICK = (SIMULATED[2],)

CASE = ("network", "bits", "board", "off-chip")
DESIGN = (
    *CASE, "search, s", "interval", "fps", "latency, ms: first, last output", "MAC/DSP/cycle",
    "DSP", "LUT", "BRAM18", "URAM", "limited by",
)
MOVED = (
    *CASE, "read, MB", "written, MB", "Gbit/s", "of practical", "layers streamed",
    "weights, MB", "re-read by site, MB", "queues evicted", "on chip behind forks, kbit",
)
SIMULATION = (
    *CASE, "DSP, BRAM18, URAM", "streamed, evicted", "differ", "interval", "predicted", "latency",
    "predicted", "read, bytes a frame", "predicted", "written", "predicted", "waits", "Gbit/s",
    "compile, s", "run, s",
)


def streamed(netlist: Netlist) -> list[str]:
    """Layers whose weights are streamed."""
    return [name for name, config in netlist.blocks.items()
            if isinstance(config, FoldedConvConfig) and config.tile]


def evicted(netlist: Netlist) -> list[str]:
    """Queues whose bodies are off chip."""
    return [name for name, config in netlist.blocks.items() if isinstance(config, EvictionConfig)]


def bits_behind_forks(netlist: Netlist) -> int:
    """Bits on chip of the queues behind forks, up to the ops that take from them."""
    found, behind = 0, set()
    for edge in netlist.edges:
        name, port = edge.source
        if name is None or name in netlist.ops:
            continue
        config = netlist.blocks[name]
        if isinstance(config, FifoConfig) and len(config.outputs) > 1:
            behind.add(name)
        if name not in behind:
            continue
        behind.add(edge.sink[0])
        if isinstance(config, EvictionConfig):
            found += config.word_bits * (config.head_words + config.tail_words)
        else:
            found += config.outputs[port].width * config.queue_depths[port]
    return found


def line(cells: tuple) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def header(columns: tuple[str, ...]) -> None:
    line(columns)
    print("|" + "---|" * len(columns))


def predicted(cases: tuple[Case, ...]) -> None:
    """Search the designs, and print what is predicted of them, or why there is none."""
    header(DESIGN)
    moved = []
    for case in cases:
        board = case.reduced()
        graph = read(case.model, size=case.size, precision=case.precision).graph
        try:
            found = search(graph, board, offchip=case.offchip)
        except HwgenError as error:
            line((case, str(error)))
            continue
        timing, usable, clock = found.timing, board.usable, found.design.clock_mhz
        data = report(
            found.netlist, found.design, model=case.model, interval=timing.interval,
            latency=timing.latency, first_output=timing.first_output, board=board.resources,
            usable=usable,
        )
        first, last = (cycles / clock / 1000 for cycles in (timing.first_output, timing.latency))
        line((
            case, f"{found.seconds:.0f}", f"{timing.interval:,}", f"{data['fps']:.1f}",
            f"{first:.1f}, {last:.1f}", f"{data['mac_per_dsp_cycle']:.2f}",
            *(f"{data[name]:,} of {getattr(usable, name):,}"
              for name in ("dsp", "lut", "bram18", "uram")), found.limit,
        ))
        moved.append((case, *moves(data, found, board)))
    print()
    header(MOVED)
    for cells in moved:
        line(cells)


def moves(data: dict, found: Found, board: boards.Board) -> Iterator[str]:
    """What a design moves to and from memory; bandwidth is with the frames themselves."""
    memory, netlist = data["offchip"], found.netlist
    gbps = data["offchip_bytes_per_frame"] * 8e-9 * data["fps"]
    for key in ("bytes_read", "bytes_written"):
        yield f"{memory.get(key, 0) / 1e6:.1f}"
    yield f"{gbps:.1f}"
    yield f"{gbps / board.offchip_practical_gbps:.0%}"
    yield str(len(streamed(netlist)))
    for key in ("weight_bytes", "weight_bytes_by_site"):
        yield f"{memory.get(key, 0) / 1e6:,.1f}"
    yield str(len(evicted(netlist)))
    yield f"{bits_behind_forks(netlist) / 1000:,.0f}"


def simulated(cases: tuple[Case, ...]) -> bool:
    """Run designs as Verilog; returns whether all was as predicted."""
    header(SIMULATION)
    good = [_simulated(case) for case in cases]
    return all(good)


def _simulated(case: Case) -> bool:
    board = case.reduced()
    source = read(case.model, size=case.size, precision=case.precision)
    found = search(source.graph, board, offchip=case.offchip)
    netlist, timing = found.netlist, found.timing
    layers, queues = streamed(netlist), evicted(netlist)
    rtl = emit(netlist)
    gc.collect()
    inputs = source.frames(FRAMES, seed=1)
    wanted = source.graph.evaluate(inputs)
    clock = found.design.clock_mhz
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model = VerilatorModel(rtl, netlist, Path(folder))
        compiled = time.perf_counter() - begin
        run = model.run(
            inputs, interval=timing.interval, memory=MemoryModel.of_board(board, clock)
        )
    differ = sum(int((run.outputs[name] != wanted[name]).sum()) for name in wanted)
    memory_map, use, need = netlist.offchip, run.memory, netlist.resources()
    if memory_map is None or use is None:
        raise SystemExit(f"{case}: nothing is off chip")
    bytes_read, bytes_written = use.bytes_read / FRAMES, use.bytes_written / FRAMES
    gbps = use.bytes_per_frame * 8e-3 * clock / run.interval
    line((
        case, f"{need.dsp:,}, {need.bram18:,}, {need.uram:,}", f"{len(layers)}, {len(queues)}",
        f"{differ} of {sum(values.size for values in wanted.values()):,}", f"{run.interval:,}",
        f"{timing.interval:,}", f"{run.latency:,}", f"{timing.latency:,}", f"{bytes_read:,.0f}",
        f"{memory_map.reads:,}", f"{bytes_written:,.0f}", f"{memory_map.writes:,}", use.waits,
        f"{gbps:.1f}", f"{compiled:.0f}", f"{run.seconds:.0f}",
    ))
    # What comes through an evicted queue may come earlier: memory is quicker than its slowest.
    first, last = timing.of_frames(FRAMES)
    outputs = list(netlist.outputs)
    exact = all((run.first[name] == first[k]).all() and (run.last[name] == last[k]).all()
                for k, name in enumerate(outputs))
    early = all((run.first[name] <= first[k]).all() and (run.last[name] <= last[k]).all()
                for k, name in enumerate(outputs))
    wrong = [what for what, bad in (
        ("outputs", differ), ("interval", run.interval != timing.interval),
        ("time of a frame", not (early if queues else exact)), ("waits", use.waits),
        ("bytes", (bytes_read, bytes_written) != (memory_map.reads, memory_map.writes)),
        ("nothing streamed", case.streams and not layers),
        ("nothing evicted", case.evicts and not queues),
    ) if np.any(bad)]
    if wrong:
        print(f"NOT as predicted: {', '.join(wrong)}", flush=True)
    return not wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="off-chip memory in whole networks")
    parser.add_argument("--quick", action="store_true", help="small networks")
    parser.add_argument("--simulate", action="store_true", help="in Verilator, at a small size")
    parser.add_argument("cases", nargs="*", metavar="MODEL SIZE BOARD",
                        help="names; a board's may have ':prefer' or ':never' behind it")
    parser.add_argument("--precision", default="w8a8", metavar="wNaM", help="bits of these cases")
    options = parser.parse_args()
    given = options.cases
    if len(given) % 3:
        parser.error("give a model, a size and a board for each case")
    cases = tuple(
        Case(model, int(size), *name.split(":"), precision=options.precision)
        for model, size, name in zip(given[::3], given[1::3], given[2::3], strict=True)
    )
    if options.simulate:
        return not simulated(cases or (SIMULATED_QUICK if options.quick else SIMULATED))
    predicted(cases or (QUICK if options.quick else CASES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
