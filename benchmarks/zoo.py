"""Every network of the zoo at a small size: its Verilog against reference and prediction.

    python -m benchmarks.zoo [--quick] [--transformers] [--size N] [--layers N] [--precision P]
        [NETWORK ...]

Each network is quantised, folded for an interval at which it is quick to simulate, emitted, and
run in Verilator on photographs: evenly paced, where interval and latency must be as predicted, and
with random stalls.  Of transformers it is a layer or two, at their full width.  Printed are also
the decibels of the integer reference against the float network, of the worst of the outputs.
``--quick`` takes the small networks, ``--transformers`` those that can be cut to layers.  Exits
with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from hwgen import boards
from hwgen.dse.design.search import design_for
from hwgen.emit.verilog import emit
from hwgen.models import zoo
from hwgen.models.load import Source, read
from hwgen.models.onnx.session import session
from hwgen.sim.verilator import VerilatorModel
from hwgen.timing import sized

SIZES = {
    "yolov3-tiny": 32, "alexnet": 64, "unet-bilinear": 16, "unet-transposed": 16, "x3d-m": 32,
    "deit-tiny": 64, "deit-small": 64, "mixer-s16": 224, "swin-tiny": 224, "mobilevit-xxs": 64,
    "gpt2": 12, "opt-125m": 12, "tinyllama-like": 12, "bert-mini": 24, "minilm-l6": 24,
    "kws-lstm": 49, "kws-gru": 49,
}
"""Height and width of the input, or tokens of a text; 32 where none is given."""
LAYERS = {
    "deit-tiny": 2, "deit-small": 2, "vit-b16": 2, "mixer-s16": 1, "convnext-tiny": 2,
    "swin-tiny": 1, "mobilevit-xxs": 2, "gpt2": 2, "opt-125m": 2, "tinyllama-like": 2,
    "bert-mini": 2, "minilm-l6": 2,
}
"""Layers that are kept of transformers, of each stage where there are several."""
INTERVALS = {"kws-lstm": 20_000, "kws-gru": 20_000}
"""Least cycles a frame where steps wait for one another: fewer take many multipliers."""
QUICK = ["resnet8", "mobilenetv3-small", "squeezenet"]


def main() -> int:
    parser = argparse.ArgumentParser(description="The zoo in Verilator")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="default: all")
    parser.add_argument("--quick", action="store_true", help=", ".join(QUICK))
    parser.add_argument("--transformers", action="store_true",
                        help="those that can be cut to layers")
    parser.add_argument("--size", type=int, help="of images, or tokens; default: a small one")
    parser.add_argument("--layers", type=int, help="that are kept of transformers")
    parser.add_argument("--precision", default="w8a8")
    parser.add_argument("--interval", type=int, default=0,
                        help="cycles a frame; default: what some 1,000 DSPs reach")
    options = parser.parse_args()
    wrong = 0
    print(f"{'network':<18} {'size':>4} {'layers':>6} {'ops':>4} {'dB':>5} {'wrong':>6} "
          f"{'interval':>9} {'predicted':>9} {'latency':>9} {'predicted':>9} {'DSP':>5} "
          f"{'seconds':>8}")
    names = QUICK if options.quick else zoo.names()
    if options.transformers:
        names = [name for name in zoo.names() if zoo.find(name).layers is not None]
    for name in options.networks or names:
        wrong += run(name, options)
        gc.collect()
    return 1 if wrong else 0


def decibels(source: Source, frames: int = 4) -> float:
    """The integer reference against the float network, on frames of the calibration.

    Returns
    -------
    signal to noise of the output that has most noise
    """
    graph, network = source.graph, source.network
    ours, runner = graph.evaluate(source.calibration(frames)), session(network.model)
    feeds = [runner.run(network.outputs, feed) for feed in islice(source.feeds, frames)]
    worst = float("inf")
    for name, values in zip(network.outputs, zip(*feeds, strict=True), strict=True):
        real, type = np.concatenate(values), graph.types[name]
        if real.shape[1:] != type.shape:
            real = np.moveaxis(real, 1, -1)
        noise = type.quantisation.dequantise(ours[name].reshape(real.shape)) - real
        worst = min(worst, 10 * np.log10(np.mean(np.square(real)) / np.mean(np.square(noise))))
    return worst


def run(name: str, options: argparse.Namespace, frames: int = 2) -> int:
    """Build and simulate one network; prints a line and returns whether it is wrong."""
    begin, interval = time.perf_counter(), options.interval
    size = options.size or SIZES.get(name, 32)
    layers = None if zoo.find(name).layers is None else options.layers or LAYERS.get(name)
    source = read(name, size=size, layers=layers, precision=options.precision)
    graph = source.graph
    near = decibels(source)
    board = boards.load("u250")
    largest = max(t.size for t in graph.types.values())
    # Short for large networks, which are slow to simulate.
    share = 1_000 if graph.macs < 50_000_000 else 4_000
    interval = interval or max(
        INTERVALS.get(name, 2_000), graph.macs // share, largest // 4)
    design = design_for(graph, board, interval)
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
    print(f"{name:<18} {size:>4} {layers or 'all':>6} {len(graph.nodes):>4} {near:>5.1f} "
          f"{mismatches:>6} {paced.interval:>9,} {timing.interval:>9,} {paced.latency:>9,} "
          f"{timing.latency:>9,} "
          f"{netlist.resources().dsp:>5,} {time.perf_counter() - begin:>8.0f}", flush=True)
    exact = (paced.interval, paced.latency) == (timing.interval, timing.latency)
    return int(bool(mismatches) or not exact)


if __name__ == "__main__":
    sys.exit(main())
