"""Sparse convolutions beside dense ones: what passing over zeros saves, and what queues cost.

    python -m benchmarks.sparsity [--quick] [--macs N] [--density D] [--out DIR] [MODEL SIZE ...]

For each layer a dense folding of ``--macs`` multiplications a cycle, with one product a DSP and
with two, and the sparse folding with the fewest DSPs that is as quick, with one and with two.
Densities are measured: of photographs through networks with seeded weights, whose zeros are those
of the architecture and not of training, and of handwritten digits through a network that was
trained on them.  With ``--density`` they are stated instead.

Then layers of reduced size in the Amaranth simulator beside the prediction, and the cycles that are
lost to queues of some depths, as a table and as a plot.  Exits with 1 if a simulated rate is more
than 3 % off, or an output is wrong.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from examples.digits import digits, export, quantise, to_codes, train
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams, usual_queue
from hwgen.dse.sparse.statistics import SparseLayer, Statistics, layers_of, measure, stated
from hwgen.ir import Graph, TensorType
from hwgen.models.load import read
from hwgen.sim.amaranth import simulate

NETWORKS = (("resnet18", 224), ("vgg11", 224))
QUICK = (("resnet18", 64),)
FRAMES = 4
"""Photographs that a network is shown."""
LUTS_PER_DSP = 100
"""What a DSP is worth where one is weighed against LUTs: large devices have about as many."""
MOST_WEIGHTS = 1 << 23
"""Layers with more are left out: their weights do not stay on chip."""
STALLS = (0.05, 0.01)
"""Shares of the cycles that queues may lose."""

LAYERS = (
    "layer", "density", "streams x pe", "cycles", "DSP, one product", "LUT", "DSP, two", "LUT",
    "multipliers / streams x pe", "cycles", "DSP, one", "LUT", "multipliers / streams x pe",
    "cycles", "DSP, two", "LUT", "one: to dense one", "two: to dense two", "two: to dense one",
)
CHOICES = ("multipliers / streams", "busy", "pe", "cycles", "DSP", "LUT")
SIMULATED = ("layer", "multipliers / streams", "density", "folds", "cycles of a fold", "predicted",
             "differ", "quick prediction", "differ", "outputs wrong")


Sparse = tuple[SparseConvConfig, float]


@dataclass(frozen=True)
class Design:
    """A folding of a layer, and its cycles a frame."""

    config: FoldedConvConfig | SparseConvConfig
    cycles: int
    dsp: int
    lut: int

    def __str__(self) -> str:
        config = self.config
        if isinstance(config, FoldedConvConfig):
            return f"{config.simd} x {config.pe}"
        return f"{config.multipliers} / {config.count} x {config.pe}"

    @property
    def cost(self) -> float:
        return self.dsp + self.lut / LUTS_PER_DSP

    def gain(self, other: Design) -> float:
        """Throughput for each DSP, to that of another."""
        return other.cycles * other.dsp / (self.cycles * self.dsp)


def line(cells) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def header(columns: tuple[str, ...]) -> None:
    print()
    line(columns)
    print("|" + "---|" * len(columns))


def lanes_of(count: int) -> list[int]:
    """Lanes with which the folds of ``count`` are full, or nearly so."""
    return sorted({math.ceil(count / folds) for folds in range(1, count + 1)
                   if math.ceil(count / folds) * folds <= 1.1 * count})


# Dense and sparse foldings of a layer

def input_lanes(layer: SparseLayer, most: float) -> int:
    """Fewest lanes with which a frame comes in within so many cycles."""
    cin = layer.op.weight.shape[-1]
    return next((n for n in range(1, cin) if cin % n == 0 and layer.tensor.size <= n * most), cin)


def output_lanes(cout: int, pe: int, cycles: float) -> int:
    """Fewest lanes with which the results of a fold go out within so many cycles; 0: none."""
    results = math.gcd(pe, cout % pe or pe)
    return next((n for n in range(1, results + 1) if results % n == 0 and pe <= n * cycles), 0)


def dense(layer: SparseLayer, macs: int) -> Design:
    """The quickest folding of at most so many multiplications a cycle; of several the cheapest."""
    (cin, cout), taps = (layer.op.weight.shape[-1], layer.op.cout), layer.op.window.taps
    lanes_in = input_lanes(layer, layer.windows * taps * cin * cout / macs)
    found = []
    for tap_lanes in lanes_of(taps):
        for lanes in (n for n in lanes_of(cin) if n % lanes_in == 0):
            if (pe := min(cout, macs // (lanes * tap_lanes))) == 0:
                continue
            folds = math.ceil(cout / pe)
            pe = math.ceil(cout / folds)
            steps = math.ceil(taps / tap_lanes) * math.ceil(cin / lanes)
            if lanes_out := output_lanes(cout, pe, steps):
                found.append((layer.windows * folds * steps, tap_lanes, lanes, pe, lanes_out))
    quickest = min(found)[0]
    return min((built(FoldedConvConfig(
        op=layer.op, tensor=layer.tensor, channel_lanes=lanes, tap_lanes=tap_lanes, pe=pe,
        lanes_in=lanes_in, lanes_out=lanes_out, products=1,
    ), cycles) for cycles, tap_lanes, lanes, pe, lanes_out in found if cycles == quickest),
        key=lambda design: design.cost)


def built(config: FoldedConvConfig | SparseConvConfig, cycles: float) -> Design:
    need = config.resources()
    return Design(config, math.ceil(cycles), need.dsp, need.lut)


def sparse(layer: SparseLayer, shape: tuple[int, int, int], most: int, balanced: bool = False
           ) -> Sparse | None:
    """The folding of a shape that is no slower than ``most`` cycles a frame, and its cycles."""
    cout, (lanes, taps, count) = layer.op.cout, shape
    lanes_in = input_lanes(layer, most)
    if lanes % lanes_in:
        return None
    streams = layer.balanced(lanes, taps, count) if balanced \
        else even_streams(lanes * taps, count)
    quick = layer.cycles(lanes, taps, cout, streams)
    folds = min(cout, int(most / layer.windows / quick))
    while folds:
        pe = math.ceil(cout / folds)
        folds = math.ceil(cout / pe)
        if lanes_out := output_lanes(cout, pe, quick):
            each = folds * layer.cycles(lanes, taps, pe, streams, lanes_out=lanes_out)
            if layer.windows * each <= most:
                return SparseConvConfig(
                    op=layer.op, tensor=layer.tensor, channel_lanes=lanes, tap_lanes=taps, pe=pe,
                    lanes_in=lanes_in, lanes_out=lanes_out, streams=streams,
                ), layer.windows * each
        folds -= 1
    return None


def shapes(layer: SparseLayer) -> Iterator[tuple[int, int, int]]:
    """Channel lanes, tap lanes and multipliers that are tried: up to eight streams for each."""
    cin, taps = layer.op.weight.shape[-1], layer.op.window.taps
    for tap_lanes in (n for n in lanes_of(taps) if n <= 9):
        for lanes in (n for n in lanes_of(cin) if (n <= 64 and n & (n - 1) == 0) or n == cin < 8):
            if (count := lanes * tap_lanes) <= 72:
                each = range(1, min(count, 8) + 1)
                yield from ((lanes, tap_lanes, k) for k in
                            sorted({math.ceil(count / n) for n in each}, reverse=True))


def best_sparse(layer: SparseLayer, most: int) -> tuple[Design, Design] | None:
    """The cheapest sparse foldings that take at most so many cycles a frame, if there are any.

    One with one product a DSP, one with two.
    """
    ways = [(shape, found) for shape in shapes(layer) if (found := sparse(layer, shape, most))]
    best = []
    for products in (1, 0):

        def design(found: Sparse, products: int = products) -> Design:
            return built(replace(found[0], products=products), found[1])

        designs = sorted(((design(found), shape) for shape, found in ways),
                         key=lambda item: item[0].cost)
        ours = [design(found) for _, shape in designs[:3]
                if (found := sparse(layer, shape, most, balanced=True))]
        best.append(min((*ours, *(d for d, _ in designs[:1])), key=lambda d: d.cost, default=None))
    return None if None in best else (best[0], best[1])


def compare(statistics: Statistics, macs: int, only: int = 0) -> list[SparseLayer]:
    """The table of the layers of a network; returns those that are in it."""
    header(LAYERS)
    layers = [layer for layer in statistics.layers.values()
              if layer.op.groups == 1 and layer.op.weight.size <= MOST_WEIGHTS]
    gains = []
    for layer in layers[:only or None]:
        reference = dense(layer, macs)
        packed = built(replace(reference.config, products=0), reference.cycles)
        found = best_sparse(layer, reference.cycles)
        cells = (layer.name, f"{layer.mean_density:.2f}", reference, f"{reference.cycles:,}",
                 reference.dsp, f"{reference.lut:,}", packed.dsp, f"{packed.lut:,}")
        if found is None:
            line((*cells, "none is as quick", *("",) * 10))
            continue
        one, two = found
        gains.append((one.gain(reference), two.gain(packed), two.gain(reference)))
        line((
            *cells, one, f"{one.cycles:,}", one.dsp, f"{one.lut:,}",
            two, f"{two.cycles:,}", two.dsp, f"{two.lut:,}",
            *(f"{gain:.2f}" for gain in gains[-1]),
        ))
    means = np.exp(np.log(gains).mean(0))
    line(("geometric mean", *("",) * 15, *(f"{gain:.2f}" for gain in means)))
    return layers


def choices(layer: SparseLayer, macs: int) -> None:
    """For a layer, how many streams share how many multipliers."""
    reference = dense(layer, macs)
    taps = layer.op.window.taps
    print(f"\n{layer.name}, density {layer.mean_density:.2f}, no slower than "
          f"{reference.cycles:,} cycles; two products a DSP. Busy: share of a multiplier's cycles")
    header(CHOICES)
    for lanes, tap_lanes in ((1, 1), (2, 1), (4, 1), (8, 1), (8, taps)):
        count = lanes * tap_lanes
        for k in sorted({math.ceil(count / n) for n in (1, 2, 4)}):
            found = sparse(layer, (lanes, tap_lanes, k), reference.cycles)
            if found is None or (k == count and count > 1):
                continue
            design = built(*found)
            work = layer.op.weight[0].size * layer.mean_density
            config = design.config
            folds = layer.windows * math.ceil(layer.op.cout / config.pe)
            busy = folds * work / k / design.cycles
            line((f"{k} / {count}", f"{busy:.0%}", config.pe, f"{design.cycles:,}", design.dsp,
                  f"{design.lut:,}"))


# In the simulator

def reduced(
    layer: SparseLayer, values: np.ndarray, extent: int, outputs: int,
    shape: tuple[int, int, int],
) -> tuple[SparseConvConfig, np.ndarray]:
    """A layer with fewer outputs on a piece of its input, and frames for it."""
    op, (lanes, taps, k) = layer.op, shape
    place = tuple(slice((n - min(n, extent)) // 2, (n + min(n, extent)) // 2)
                  for n in layer.tensor.spatial)
    frames = values[(slice(None), *place)]
    small = replace(
        op, weight=op.weight[:outputs], bias=op.bias[:outputs],
        requantise=replace(op.requantise, multiplier=op.requantise.multiplier[:outputs],
                           shift=op.requantise.shift[:outputs]),
    )
    tensor = TensorType(frames.shape[1:], layer.tensor.quantisation)
    config = SparseConvConfig(
        op=small, tensor=tensor, lanes_in=min(lanes, 4), channel_lanes=lanes, tap_lanes=taps,
        pe=math.ceil(outputs / 2), streams=layer.balanced(lanes, taps, k),
    )
    return config.at_full_speed(), frames


def check(name: str, graph: Graph, frames: Mapping[str, np.ndarray], names: list[str],
          shapes: tuple[tuple[int, int, int], ...]) -> bool:
    """Simulate layers of a network; whether all is as predicted."""
    inputs = {node.name: node.inputs[0] for node in graph.nodes}
    few = {key: values[:2] for key, values in frames.items()}
    values = graph.evaluate(few, keep=[inputs[n] for n in names])
    statistics = measure(graph, few)
    good = True
    for layer in (statistics[n] for n in names):
        for shape in shapes:
            config, pieces = reduced(layer, values[inputs[layer.name]], 6, 8, shape)
            small = Graph()
            small.add(config.op, small.add_input("x", config.tensor), name="y")
            mine = measure(small, {"x": pieces})["y"]
            predicted = config.mean_cycles(pieces)
            quick = mine.cycles(config.channel_lanes, config.tap_lanes, config.pe, config.streams,
                                lanes_out=config.lanes_out)
            run = simulate(config.create(), pieces)
            wrong = int((run.outputs["o"] != config.compute(pieces)[0]).sum())
            folds = len(pieces) * config.window.windows * len(config.fold_results)
            took = (run.times["o"][-1] - run.times["o"][0]) / (folds - 1)
            good &= not wrong and abs(predicted / took - 1) <= 0.03
            line((f"{name} {layer.name}", f"{config.multipliers} / {config.count}",
                  f"{mine.mean_density:.2f}", f"{folds:,}", f"{took:.3f}", f"{predicted:.3f}",
                  f"{predicted / took - 1:+.1%}", f"{quick:.3f}", f"{quick / took - 1:+.1%}",
                  wrong))
    return good


# Queues

def stalls(
    layers: list[tuple[str, SparseLayer, tuple[int, int, int]]], folds: int, out: Path
) -> None:
    """Cycles that queues of some depths lose to endless ones; a table, and a plot."""
    header(("layer", "multipliers / streams", "beats of a fold", "cycles of a fold, endless",
            *(f"queue for {stall:.0%} lost" for stall in STALLS), "lost at the usual depth",
            "frame: 5 %", "50 %", "95 %"))
    curves = {}
    for name, layer, shape in layers:
        config = stalling(layer, *shape)
        steps, pe = config.window.steps, config.pe
        windows = max(2, folds // len(config.fold_results))
        endless = layer.exact_cycles(config, windows, queue=windows * steps * 1000)
        depths = [math.ceil(steps * n) for n in (1, 1.25, 1.5, 2, 3, 4, 6, 8, 16, 32)]
        lost = [1 - endless / layer.exact_cycles(config, windows, queue=n) for n in depths]
        title = f"{name}, {config.multipliers} of {config.count}"
        curves[title] = depths, lost
        need = [layer.depth_for(config, stall, folds).queue for stall in STALLS]
        usual = 1 - endless / layer.exact_cycles(config, windows, queue=usual_queue(steps))
        frame = layer.interval(*shape[:2], pe, config.streams)
        line((name, f"{config.multipliers} / {config.count}", steps, f"{endless:.2f}", *need,
              f"{usual:.1%}", *(f"{n:,}" for n in frame)))
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("\nmatplotlib is not installed: no plot")
        return
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for title, (depths, lost) in curves.items():
        axes.plot(depths, 100 * np.array(lost), marker="o", label=title)
    axes.set(xscale="log", xlabel="depth of the queues, beats", ylabel="cycles lost, %")
    axes.grid(alpha=0.3)
    axes.legend()
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "stalls.svg")
    print(f"\nplot: {out / 'stalls.svg'}")


def stalling(layer: SparseLayer, lanes: int, taps: int, k: int) -> SparseConvConfig:
    """A folding that is as quick as its window and so may stall."""
    pe = math.ceil(layer.op.cout / 4)
    return SparseConvConfig(
        op=layer.op, tensor=layer.tensor, channel_lanes=lanes, tap_lanes=taps, pe=pe,
        lanes_out=pe if pe * 4 == layer.op.cout else 1, streams=layer.balanced(lanes, taps, k),
    )


def trained(folder: Path) -> tuple[Graph, dict[str, np.ndarray]]:
    """The digits CNN and 32 of its test images."""
    training, test = digits()
    network = train(training)
    export(network, 8, folder / "digits.onnx")
    graph = quantise(folder / "digits.onnx", training)
    return graph, {name: codes[:32] for name, codes in to_codes(graph, test).items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="sparse convolutions beside dense ones")
    parser.add_argument("--quick", action="store_true", help="ResNet-18 at 64 x 64, half of it")
    parser.add_argument("--macs", type=int, default=128, metavar="N",
                        help="multiplications a cycle of the dense reference")
    parser.add_argument("--density", type=float, metavar="D",
                        help="a density for all layers, instead of measuring")
    parser.add_argument("--out", type=Path, default=Path("build/sparsity"), metavar="DIR")
    parser.add_argument("networks", nargs="*", metavar="MODEL SIZE")
    options = parser.parse_args()
    given = options.networks
    if len(given) % 2:
        parser.error("give a model and a size for each network")
    networks = [(model, int(size)) for model, size in zip(given[::2], given[1::2], strict=True)]
    quick = options.quick
    queues, checked = [], None
    for model, size in networks or (QUICK if quick else NETWORKS):
        source = read(model, size=size)
        if options.density is None:
            frames = source.frames(FRAMES, seed=1)
            statistics = measure(source.graph, frames)
            convolutions = [n for n, (op, _) in layers_of(source.graph).items()
                            if op.window.taps == 9 and op.groups == 1]
            if checked is None:
                checked = f"{model} {size}", source.graph, frames, convolutions[1:4:2]
            print(f"\n{model} {size}: synthetic: {FRAMES} photographs, seeded weights")
        else:
            statistics = stated(source.graph, options.density)
            print(f"\n{model} {size}: stated: density {options.density}")
        layers = compare(statistics, options.macs, 10 if quick else 0)
        threes = [layer for layer in layers if layer.op.window.taps == 9]
        half = min(threes, key=lambda layer: abs(layer.mean_density - 0.5))
        choices(half, options.macs)
        # Half of the streams' products: about as many as a fold has beats.
        queues += [(model, half, (2, 1, 1)), (model, half, (8, 1, 4))]
        queues += [] if quick else [(model, half, (8, 3, 12))]
    with tempfile.TemporaryDirectory() as folder:
        graph, frames = trained(Path(folder))
    statistics = measure(graph, frames)
    print("\ndigits 8: trained: 32 test images")
    layers = compare(statistics, options.macs)
    queues.append(("digits", layers[2], (4, 1, 2)))
    print("\nIn the simulator, pieces of 6 x 6 pixels of two frames, 8 output channels")
    header(SIMULATED)
    good = check("digits", graph, frames, [layers[1].name, layers[2].name], ((4, 1, 2), (4, 3, 6)))
    if checked is not None and not quick:
        good &= check(*checked, ((4, 3, 6), (8, 9, 36)))
    stalls(queues, 256 if quick else 1024, options.out)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
