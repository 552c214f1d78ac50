"""Every network of the zoo at a small size: its Verilog against reference and prediction.

    python -m benchmarks.zoo [--quick] [NETWORK ...]

Each network is quantised, folded for an interval at which it is quick to simulate, emitted, and
run in Verilator on photographs: evenly paced, where interval and latency must be as predicted, and
with random stalls.  Of transformers it is a layer or two, at their full width.  ``--quick`` takes
the small ones.  Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from pathlib import Path

from hwgen import boards
from hwgen.dse.design.search import design_for
from hwgen.emit.verilog import emit
from hwgen.models import zoo
from hwgen.models.load import read
from hwgen.sim.verilator import VerilatorModel
from hwgen.timing import sized

SIZES = {
    "yolov3-tiny": 32, "alexnet": 64, "unet-bilinear": 16, "unet-transposed": 16, "x3d-m": 32,
    "deit-tiny": 64, "deit-small": 64, "mixer-s16": 224, "swin-tiny": 224, "mobilevit-xxs": 64,
    "gpt2": 12, "opt-125m": 12, "tinyllama-like": 12, "bert-mini": 24, "minilm-l6": 24,
}
"""Height and width of the input, or tokens of a text; 32 where none is given."""
LAYERS = {
    "deit-tiny": 2, "deit-small": 2, "vit-b16": 2, "mixer-s16": 1, "convnext-tiny": 2,
    "swin-tiny": 1, "mobilevit-xxs": 2, "gpt2": 2, "opt-125m": 2, "tinyllama-like": 2,
    "bert-mini": 2, "minilm-l6": 2,
}
"""Layers that are kept of transformers, of each stage where there are several."""
QUICK = ["resnet8", "mobilenetv3-small", "squeezenet"]


def main() -> int:
    parser = argparse.ArgumentParser(description="The zoo in Verilator")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all")
    parser.add_argument("--quick", action="store_true", help=", ".join(QUICK))
    parser.add_argument("--interval", type=int, default=0,
                        help="cycles a frame; default: what some 1,000 DSPs reach")
    options = parser.parse_args()
    wrong = 0
    print(f"{'network':<18} {'size':>4} {'ops':>4} {'wrong':>6} {'interval':>9} {'predicted':>9} "
          f"{'latency':>8} {'predicted':>9} {'DSP':>5} {'seconds':>8}")
    for name in options.networks or (QUICK if options.quick else zoo.names()):
        wrong += run(name, options.interval)
        gc.collect()
    return 1 if wrong else 0


def run(name: str, interval: int, frames: int = 2) -> int:
    """Build and simulate one network; prints a line and returns whether it is wrong."""
    begin = time.perf_counter()
    size = SIZES.get(name, 32)
    source = read(name, size=size, layers=LAYERS.get(name))
    graph = source.graph
    board = boards.load("u250")
    largest = max(t.size for t in graph.types.values())
    # Short for large networks, which are slow to simulate.
    share = 1_000 if graph.macs < 50_000_000 else 4_000
    design = design_for(graph, board, interval or max(graph.macs // share, largest // 4, 2_000))
    _, netlist, timing = sized(graph, design)
    inputs = source.frames(frames)
    wanted = graph.evaluate(inputs)
    with tempfile.TemporaryDirectory() as folder:
        cycles = timing.latency + frames * timing.interval
        model = VerilatorModel(emit(netlist), netlist, Path(folder), optimise=cycles > 200_000)
        paced = model.run(inputs, interval=timing.interval)
        stalled = model.run(inputs, stall=0.2, seed=1)
    mismatches = sum(
        int((run.outputs[n] != wanted[n]).sum()) for run in (paced, stalled) for n in wanted
    )
    print(f"{name:<18} {size:>4} {len(graph.nodes):>4} {mismatches:>6} {paced.interval:>9,} "
          f"{timing.interval:>9,} {paced.latency:>8,} {timing.latency:>9,} "
          f"{netlist.resources().dsp:>5,} {time.perf_counter() - begin:>8.0f}", flush=True)
    exact = (paced.interval, paced.latency) == (timing.interval, timing.latency)
    return int(bool(mismatches) or not exact)


if __name__ == "__main__":
    sys.exit(main())
