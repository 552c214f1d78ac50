"""A network at full size: the whole Verilog, against reference and model.

    python -m benchmarks.full_frame [MODEL] [--quick] [--size N] [--board BOARD] [--frames N]
                                    [--dsp N] [--lut SHARE]

Prints the time of each phase; mismatches against the integer reference; simulated against
predicted interval and latency; how full the queues become.  Exits with 1 if any of them differs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hwgen import boards
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.models.load import read
from hwgen.sim.verilator import VerilatorModel


@contextmanager
def phase(name: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    print(f"{name:<12} {time.perf_counter() - begin:8.1f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="a network at full size in Verilator")
    parser.add_argument("model", nargs="?", default="yolov5n")
    parser.add_argument("--quick", action="store_true", help="96x96, 1000 frames a second")
    parser.add_argument("--size", type=int, help="default: the network's own")
    parser.add_argument("--board", default="zcu102")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--dsp", type=int, help="DSPs that may be used")
    parser.add_argument("--lut", type=float, help="share of the LUTs that may be used")
    options = parser.parse_args()
    if options.quick:
        options.size = 96
    board = boards.load(options.board)
    if options.dsp:
        board = replace(board, shares=replace(board.shares, dsp=options.dsp / board.dsp))
    if options.lut:
        board = replace(board, shares=replace(board.shares, lut=options.lut))

    with phase("network"):
        source = read(options.model, size=options.size)
        graph = source.graph
    with phase("search"):
        found = search(graph, board, target_fps=1000 if options.quick else 0)
        netlist, timing = found.netlist, found.timing
    with phase("emit"):
        rtl = emit(netlist)
    gc.collect()
    inputs = source.frames(options.frames, seed=1)
    with phase("reference"):
        wanted = graph.evaluate(inputs)
    with tempfile.TemporaryDirectory() as folder:
        with phase("compile"):
            model = VerilatorModel(rtl, netlist, Path(folder), monitor=True)
        with phase("simulate"):
            run = model.run(inputs, interval=timing.interval)

    mismatches = sum(int((run.outputs[n] != wanted[n]).sum()) for n in wanted)
    total = netlist.resources()
    shape = "x".join(str(n) for n in next(iter(graph.inputs.values())).shape)
    print(f"\n{options.model} {shape} on {board.name}, {options.frames} frames")
    print(f"mismatches               {mismatches} of {sum(v.size for v in wanted.values()):,}")
    print(f"interval, cycles         {run.interval:,} simulated, {timing.interval:,} predicted")
    print(f"latency, cycles          {run.latency:,} simulated, {timing.latency:,} predicted")
    print(f"first output, cycles     {run.first_output:,} simulated, "
          f"{timing.first_output:,} predicted")
    print(f"bound, cycles            {found.bounds.cycles:,}, gap {found.gap:+.1%}, "
          f"limited by {found.limit}")
    print(f"with DSPs alone          {found.bounds.dsp_cycles:,}, gap {found.dsp_gap:+.1%}")
    print(f"DSP, BRAM18, URAM        {total.dsp:,}, {total.bram18:,}, {total.uram:,}")
    print(f"LUT, FF                  {total.lut:,}, {total.ff:,}")
    print(f"MAC per DSP per cycle    {graph.macs / (run.interval * total.dsp):.3f}")
    over = [name for name, peak in run.peaks.items() if peak > timing.depths[name]]
    deepest = max(timing.depths, key=lambda name: timing.depths[name])
    print(f"queues                   {len(run.peaks)}, {len(over)} ever fuller than predicted")
    print(f"deepest queue            {deepest}: {run.peaks[deepest]:,} beats held, "
          f"{timing.depths[deepest]:,} predicted")
    print(f"simulation               {run.cycles / run.seconds:,.0f} cycles a second")
    first, last = timing.of_frames(options.frames)
    exact = all(
        (run.first[name] == first[k]).all() and (run.last[name] == last[k]).all()
        for k, name in enumerate(netlist.outputs)
    )
    print(f"every frame              {'as' if exact else 'NOT as'} predicted")
    return 0 if exact and not mismatches and not over else 1


if __name__ == "__main__":
    sys.exit(main())
