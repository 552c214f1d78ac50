"""YOLOv5n at full size: the whole network's Verilog on photographs, against reference and model.

    python -m benchmarks.full_frame [--quick] [--size N] [--board BOARD] [--frames N]

Prints the time of each phase; mismatches against the integer reference; simulated against
predicted interval and latency; how full the queues become.  Exits with 1 if any of them differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boards
import models
from dse.search import search
from hwgen.emit.verilog import emit
from models.images import photographs, to_stream
from sim.verilator import VerilatorModel


@contextmanager
def phase(name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    print(f"{name:<12} {time.perf_counter() - begin:8.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="YOLOv5n at full size in Verilator")
    parser.add_argument("--quick", action="store_true", help="96x96, 1000 frames a second")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--board", default="zcu102")
    parser.add_argument("--frames", type=int, default=3)
    options = parser.parse_args()
    if options.quick:
        options.size = 96
    board = boards.load(options.board)

    with phase("network"):
        graph = models.load("yolov5n", size=options.size)
    with phase("search"):
        found = search(graph, board, target_fps=1000 if options.quick else 0)
        netlist, timing = found.netlist, found.timing
    with phase("emit"):
        rtl = emit(netlist)
    photos = photographs(options.frames, (options.size, options.size), seed=1)
    inputs = to_stream(photos, graph)
    with phase("reference"):
        wanted = graph.evaluate(inputs)
    with tempfile.TemporaryDirectory() as folder:
        with phase("compile"):
            model = VerilatorModel(rtl, netlist, Path(folder), monitor=True)
        with phase("simulate"):
            run = model.run(inputs, interval=timing.interval)

    mismatches = sum(int((run.outputs[n] != wanted[n]).sum()) for n in wanted)
    total = netlist.resources()
    print(f"\nyolov5n {options.size}x{options.size} on {board.name}, {options.frames} photographs")
    print(f"mismatches               {mismatches} of {sum(v.size for v in wanted.values()):,}")
    print(f"interval, cycles         {run.interval:,} simulated, {timing.interval:,} predicted")
    print(f"latency, cycles          {run.latency:,} simulated, {timing.latency:,} predicted")
    print(f"DSP                      {total.dsp:,}")
    print(f"MAC per DSP per cycle    {graph.macs / (run.interval * total.dsp):.3f}")
    over = [name for name, peak in run.peaks.items() if peak > timing.depths[name]]
    deepest = max(timing.depths, key=lambda name: timing.depths[name])
    print(f"queues                   {len(run.peaks)}, {len(over)} ever fuller than predicted")
    print(f"deepest queue            {deepest}: {run.peaks[deepest]:,} beats held, "
          f"{timing.depths[deepest]:,} predicted")
    print(f"simulation               {run.cycles / run.seconds:,.0f} cycles a second")
    exact = (run.interval, run.latency) == (timing.interval, timing.latency)
    return 0 if exact and not mismatches and not over else 1


if __name__ == "__main__":
    sys.exit(main())
