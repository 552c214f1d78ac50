"""Sparsity searched for: what zeros are worth against dense hardware that packs two products a DSP.

    python -m benchmarks.sparse_search [--quick] [--whole] [--board zcu104] [--dsp N] [--lut N]
        [--trials N] [--seed N] [--resume] [--out DIR]

Two networks are trained: that of ``examples/digits.py``, and a residual one for cluttered digits of
32x32 pixels, which is pruned and trained on, too.  For each, thresholds are searched for together
with the hardware.  Accuracy is that of the integer network; the search goes by one half of the test
images, "other" is the accuracy with the other.  Of a search, the network is shown that has the most
frames a DSP and loses a point of accuracy at most against the dense one.

Hardware is by default the arithmetic of every layer's foldings within ``--dsp`` DSPs, requantisers
included: dense ones with one product in each or two; or sparse ones, but for layers where dense is
better.  What is between the layers, tables of thresholds among it, is left out: ``--whole`` designs
all of it.  One product a DSP is then what no design is faster than: all DSPs busy in every cycle.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.digits import cluttered
from examples.digits import Images, Layer, classify, digits, export, quantise, to_codes
from examples.digits import train as train_digits
from hwgen import boards
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.device.multiplier import Packing
from hwgen.dse.design.search import search
from hwgen.dse.design.streams import fold_choices
from hwgen.dse.sparse.statistics import SparseLayer as Measured
from hwgen.dse.sparse.statistics import layers_of, measure
from hwgen.dse.sparse.thresholds import applied, designed, search_thresholds, space
from hwgen.dse.tradeoff.front import Front, Hardware, Point, best
from hwgen.ir import Conv, Graph, TensorType
from hwgen.models.compression.pruning import channel_means, sparsity
from hwgen.models.training.fine_tuning import fine_tune

PE = 2
"""Output channels that share a DSP, so that weights are pruned in pairs at no cost."""
STREAMS = 1, 2, 3, 4, 6, 8
"""Streams of a multiplier."""
LOSS = 0.01
"""Of accuracy, at most."""
LUTS = 400
"""Of a board, to a DSP, if it is not said how many."""


# The larger network

class Residual(nn.Module):
    """Two residual blocks: twelve million multiplications for an image of 32x32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Layer(1, 16), Layer(16, 32)
        self.third, self.fourth = Layer(32, 32), Layer(32, 32)
        self.fifth = Layer(32, 64)
        self.sixth, self.seventh = Layer(64, 64), Layer(64, 64)
        self.pool, self.largest = nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.second(self.pool(self.first(x)))
        x = x + self.fourth(self.third(x))
        x = self.fifth(self.pool(x))
        x = x + self.seventh(self.sixth(x))
        scores = self.head(self.largest(x).flatten(1))
        return scores, scores.argmax(1, keepdim=True)


class Batches:
    """Batches of images, in another order every time."""

    def __init__(self, images: Images, size: int = 64, seed: int = 0) -> None:
        self.pixels, self.labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
        self.size, self.random = size, torch.Generator().manual_seed(seed)

    def __iter__(self):
        order = torch.randperm(len(self.labels), generator=self.random)
        for chosen in order.split(self.size):
            yield self.pixels[chosen], self.labels[chosen]


def smoothed(out: tuple[torch.Tensor, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy with smoothed labels, as the examples are trained."""
    return F.cross_entropy(out[0], labels, label_smoothing=0.1)


def train_residual(images: Images, epochs: int) -> nn.Module:
    """A trained network."""
    torch.manual_seed(0)
    network = Residual().train()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    steps = epochs * math.ceil(len(images) / 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.01, total_steps=steps)
    batches = Batches(images)
    for _ in range(epochs):
        for pixels, labels in batches:
            optimiser.zero_grad()
            smoothed(network(pixels), labels).backward()
            optimiser.step()
            schedule.step()
    return network.eval()


# The arithmetic of foldings

@dataclass(frozen=True)
class Fold:
    """One way to fold a layer: cycles a frame, DSPs, and what it is."""

    cycles: float
    dsp: int
    what: dict


class Arithmetic:
    """Interval of a network whose layers share some multipliers.

    Every layer meets the interval with as few DSPs as it can; the interval is the shortest for
    which there are enough.  Streams have as many lanes as it takes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def dense(self, products: int) -> Callable[[Graph, Mapping], Hardware]:
        """Hardware that computes all products, so many in a DSP (0: as many as fit)."""
        return lambda graph, frames: self._divided(
            {name: dense_folds(layer, products)
             for name, layer in measure(graph, _few(frames)).layers.items()})

    def sparse(self, graph: Graph, frames: Mapping[str, np.ndarray]) -> Hardware:
        """Hardware that passes over zeros, or packs dense, whichever is better for a layer."""
        return self._divided({
            name: dense_folds(layer, 0) + sparse_folds(layer)
            for name, layer in measure(graph, frames, samples=512).layers.items()})

    def _divided(self, layers: Mapping[str, list[Fold]]) -> Hardware:
        tables = {name: _front(folds) for name, folds in layers.items()}

        def least(interval: float) -> dict[str, Fold] | None:
            found = {}
            for name, folds in tables.items():
                good = [f for f in folds if f.cycles <= interval]
                if not good:
                    return None
                found[name] = min(good, key=lambda f: f.dsp)
            return found if sum(f.dsp for f in found.values()) <= self.budget else None

        times = sorted({f.cycles for folds in tables.values() for f in folds})
        low, high = 0, len(times) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if least(times[middle]) else (middle + 1, high)
        chosen = least(times[low])
        if chosen is None:
            raise SystemExit(f"{self.budget} DSPs are too few for the {len(layers)} layers")
        return Hardware(max(f.cycles for f in chosen.values()),
                        sum(f.dsp for f in chosen.values()),
                        {name: {**f.what, "dsp": f.dsp, "cycles": f.cycles}
                         for name, f in chosen.items()})


def _few(frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: x[:2] for name, x in frames.items()}


def _front(folds: list[Fold]) -> list[Fold]:
    """Foldings that none beats, the fastest last."""
    found: list[Fold] = []
    for fold in sorted(folds, key=lambda f: (f.dsp, f.cycles)):
        if not found or fold.cycles < found[-1].cycles:
            found.append(fold)
    return found


def output_lanes(cout: int, pe: int, *cycles: float) -> list[int]:
    """The fewest lanes at the output with which the results of a fold leave in some cycles."""
    least = math.gcd(pe, cout % pe or pe)
    legal = [n for n in range(1, least + 1) if not least % n]
    return sorted({next((n for n in legal if pe <= n * each), least) for each in cycles})


def dense_folds(layer: Measured, products: int) -> list[Fold]:
    """All foldings of a dense convolution."""
    op, bits = layer.op, layer.tensor.bits
    if not products:
        products = Packing.densest("dsp48e2", bits, op.weight_bits, op.weight_limit).products
    cin, cout = op.weight.shape[-1], op.cout // op.groups
    found = []
    for taps in fold_choices(op.window.taps).tolist():
        for lanes in fold_choices(cin).tolist():
            steps = -(-op.window.taps // taps) * -(-cin // lanes)
            for pe in fold_choices(cout).tolist():
                (out,) = output_lanes(cout, pe, steps)
                folds = layer.windows * op.groups * -(-cout // pe)
                found.append(Fold(
                    float(folds * max(steps, pe // out)), taps * lanes * -(-pe // products) + out,
                    {"kind": "dense", "lanes": [lanes, taps], "pe": pe, "out": out,
                     "products": products}))
    return found


def sparse_folds(layer: Measured) -> list[Fold]:
    """Foldings of a sparse convolution: few or many streams for each multiplier."""
    op, taps = layer.op, layer.op.window.taps
    cin, cout = op.weight.shape[-1], op.cout // op.groups
    pruned = bool((op.weight == 0).mean() > 0.2)
    packing = SparseConvConfig(op=op, tensor=layer.tensor, pe=min(PE, cout),
                               streams=even_streams(1, 1)).packing.products
    shapes = {(lanes, tap) for lanes in fold_choices(cin).tolist() for tap in (1, taps)}
    found = []
    for lanes, tap in sorted(shapes):
        steps = -(-taps // tap) * -(-cin // lanes)
        for multipliers in sorted({n for size in STREAMS if (n := lanes * tap // size)}):
            streams = even_streams(lanes * tap, multipliers)
            for skip in ("activation", "both") if pruned else ("activation",):
                # Folds take as long whatever pe is, if weights are not looked at.
                known: dict[int, float] = {}
                for pe in fold_choices(cout).tolist() if skip != "both" else (min(PE, cout),):
                    group = pe if skip == "both" else 1
                    if 0 not in known or skip == "both":
                        known = {0: layer.cycles(lanes, tap, group, streams, skip)}
                    folds = layer.windows * op.groups * -(-cout // pe)
                    for out in output_lanes(cout, pe, known[0], steps):
                        if (spacing := pe // out) > steps and spacing not in known:
                            known[spacing] = layer.cycles(lanes, tap, pe, streams, skip,
                                                          lanes_out=out)
                        each = known[spacing if spacing > steps else 0]
                        found.append(Fold(
                            folds * each, multipliers * -(-pe // packing) + out,
                            {"kind": skip, "lanes": [lanes, tap], "pe": pe, "out": out,
                             "multipliers": multipliers}))
    return found


def block(op: Conv, tensor: TensorType, what: Mapping) -> FoldedConvConfig | SparseConvConfig:
    """The block of a folding."""
    (lanes, tap), pe = what["lanes"], what["pe"]
    if what["kind"] == "dense":
        return FoldedConvConfig(
            op=op, tensor=tensor, channel_lanes=lanes, tap_lanes=tap, pe=pe,
            lanes_out=what["out"], products=min(what["products"], pe))
    folds = op.infer(tensor)[0].pixels * op.groups * -(-op.cout // op.groups // pe)
    return SparseConvConfig(
        op=op, tensor=tensor, channel_lanes=lanes, tap_lanes=tap, pe=pe, lanes_out=what["out"],
        skip=what["kind"], streams=even_streams(lanes * tap, what["multipliers"]),
        cycles=what["cycles"] / folds)


def blocks(graph: Graph, made: Hardware) -> dict[str, FoldedConvConfig | SparseConvConfig]:
    """The blocks of all layers of what :class:`Arithmetic` found."""
    assert isinstance(made.design, dict)
    return {name: block(*layers_of(graph)[name], what) for name, what in made.design.items()}


def _arithmetic(made: Hardware) -> bool:
    """Whether a design is one of :class:`Arithmetic`, and not of the whole."""
    return isinstance(made.design, dict) and "format" not in made.design


def exact(graph: Graph, made: Hardware, frames: Mapping[str, np.ndarray]) -> float:
    """The interval by the recurrence that is exact to the cycle, on a larger sample."""
    found, layers = [], measure(graph, frames).layers
    for name, config in blocks(graph, made).items():
        if isinstance(config, FoldedConvConfig):
            found.append(config.interval)
        else:
            folds = config.window.windows * len(config.fold_results)
            found.append(folds * layers[name].exact_cycles(config))
    return max(found)


# What is compared

@dataclass(frozen=True)
class Judges:
    """How networks are judged: by the half searched with, by the other, and in hardware."""

    chosen: Images
    other: Images
    frames: Mapping[str, np.ndarray]
    unpacked: Callable[[Graph, Mapping], Hardware]
    packed: Callable[[Graph, Mapping], Hardware]
    sparse: Callable[[Graph, Mapping], Hardware]

    def accuracy(self, graph: Graph) -> float:
        return self.chosen.accuracy(classify(graph, self.chosen)) / 100


def show(name: str, graph: Graph, judges: Judges, made: Hardware, packed: Hardware) -> None:
    """Print a line of the table."""
    rows = sparsity(graph, judges.frames, PE)
    macs = sum(row.macs for row in rows)
    shares = [100 * sum(getattr(row, key) * row.macs for row in rows) / macs
              for key in ("groups", "activations", "products")]
    each, dense = (1e6 / (h.interval * h.dsp) for h in (made, packed))
    right = judges.other.accuracy(classify(graph, judges.other))
    print(f"  {name:<27}{100 * judges.accuracy(graph):7.2f}{right:8.2f}"
          + "".join(f"{share:7.1f}" for share in shares)
          + f"{made.interval:11,.0f}{made.dsp:6}{each:9.3f}{each / dense:8.2f}"
          + (f"{sum(b.resources().lut for b in blocks(graph, made).values()):9,}"
             if _arithmetic(made) else ""), flush=True)


def header() -> None:
    print("                                right, %       zero, % of products\n"
          "                             chosen   other  pairs  activ  either    cycles   DSP"
          "  fr/Mcyc  to packed  LUTs\n"
          "                                             weights                            /DSP")


def searched(
    graph: Graph, judges: Judges, reference: Point | None, options: argparse.Namespace, name: str,
) -> tuple[Front, Graph]:
    """The front of a search, and its best network."""
    begin = time.perf_counter()
    front = search_thresholds(
        graph, judges.frames, judges.accuracy, judges.sparse, where=space(graph, pe=PE),
        trials=options.trials, floor=2 * LOSS, seed=options.seed, board=options.board,
        storage=options.out / f"{name}.journal" if options.resume else None,
    )
    front = replace(front, reference=reference or front.reference)
    front.save(options.out / f"{name}.json")
    front.plot(options.out / name, f"{name}: accuracy against frames a DSP")
    seconds = (time.perf_counter() - begin) / options.trials
    print(f"  ({name}: {options.trials} trials, {seconds:.1f} s each, {len(front.points)} on the "
          f"front)", flush=True)
    point = best(front, LOSS)
    if point == front.reference and reference is not None:
        return front, graph
    return front, applied(graph, point.choice, channel_means(graph, judges.frames))


def compare(
    name: str, network: nn.Module, training: Images, test: Images, options: argparse.Namespace,
    tuned: nn.Module | None, folder: Path,
) -> None:
    """Print the table of a network."""
    half = len(test) // 2
    parts = Images(test.pixels[:half], test.labels[:half]), Images(test.pixels[half:],
                                                                   test.labels[half:])
    graph = integer(network, training, folder)
    frames = to_codes(graph, Images(training.pixels[-16:], training.labels[-16:]))
    judges = Judges(*parts, frames, *hardware(options))
    macs = graph.macs
    print(f"{name}: {macs:,} multiplications a frame, {len(layers_of(graph))} layers, "
          f"at most {options.dsp} DSPs {'on the board' if options.whole else 'in the layers'}")
    header()
    packed = judges.packed(graph, frames)
    unpacked = judges.unpacked(graph, frames)
    show("1 product a DSP, at best" if options.whole else "dense, 1 product a DSP", graph, judges,
         unpacked, packed)
    show("dense, packed", graph, judges, packed, packed)
    show("sparse, zeros of the ReLU", graph, judges, judges.sparse(graph, frames), packed)
    front, found = searched(graph, judges, None, options, name)
    reference = front.reference
    show("sparse, thresholds", found, judges, judges.sparse(found, frames), packed)
    last = found
    if tuned is not None:
        pruned = integer(tuned, training, folder)
        show("pruned, tuned; dense", pruned, judges, judges.packed(pruned, frames), packed)
        show("pruned, tuned; sparse", pruned, judges, judges.sparse(pruned, frames), packed)
        _, last = searched(pruned, judges, reference, options, f"{name}-pruned")
        show("pruned, tuned, thresholds", last, judges, judges.sparse(last, frames), packed)
    made = judges.sparse(last, frames)
    plain, gain = (dense.interval * dense.dsp / (made.interval * made.dsp)
                   for dense in (unpacked, packed))
    print(f"  sparse gives {gain:.2f} times the frames a DSP of packed dense hardware"
          f"{'' if gain > 1.05 else ' (it does not pay)'}, {plain:.2f} times those of one product "
          f"a DSP")
    if made.design and not options.whole:
        print(f"  its interval by the exact recurrence, with the blocks' queues: "
              f"{exact(last, made, frames):,.0f} cycles")
        kinds = [str(layer["kind"]) for layer in dict(made.design).values()]
        print(f"  layers: {kinds.count('dense')} dense and packed, {kinds.count('activation')} "
              f"skip activations, {kinds.count('both')} skip weights, too\n")


def integer(network: nn.Module, training: Images, folder: Path) -> Graph:
    """The int8 graph of a float network."""
    export(network, training.pixels.shape[-1], folder / "network.onnx")
    return quantise(folder / "network.onnx", training)


def hardware(options: argparse.Namespace) -> tuple:
    """Unpacked, packed and sparse hardware."""
    if not options.whole:
        some = Arithmetic(options.dsp)
        return some.dense(1), some.dense(0), some.sparse
    # With many LUTs to a DSP, the search multiplies in the fabric.
    board = replace(boards.load(options.board), dsp=options.dsp,
                    lut=options.lut or LUTS * options.dsp)

    def unpacked(graph: Graph, _: Mapping[str, np.ndarray]) -> Hardware:
        return Hardware(math.ceil(graph.macs / options.dsp), options.dsp)

    def packed(graph: Graph, _: Mapping[str, np.ndarray]) -> Hardware:
        return Hardware.of(search(graph, board))

    return unpacked, packed, designed(board)


def main() -> int:
    parser = argparse.ArgumentParser(description="Thresholds searched for, against dense hardware")
    parser.add_argument("--quick", action="store_true", help="less training, fewer trials")
    parser.add_argument("--whole", action="store_true", help="whole designs by the search")
    parser.add_argument("--resume", action="store_true", help="go on with the studies in --out")
    parser.add_argument("--board", default="zcu104")
    parser.add_argument("--dsp", type=int, default=64, help="multipliers")
    parser.add_argument("--lut", type=int, default=0, help="LUTs of the board for --whole")
    parser.add_argument("--trials", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/sparse_search"), metavar="DIR")
    options = parser.parse_args()
    options.trials = options.trials or (10 if options.quick else 40)
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    training, test = digits()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        network = train_digits(training, 6 if options.quick else 15)
        print(f"trained in {time.perf_counter() - begin:.0f} s", flush=True)
        compare("digits", network, training, test, options, None, Path(folder))

        copies, epochs = (1, 2) if options.quick else (4, 4)
        training, test = cluttered(training, copies, seed=0), cluttered(test, 2, seed=1)
        if options.quick:
            test = Images(test.pixels[:300], test.labels[:300])
        begin = time.perf_counter()
        network = train_residual(training, epochs)
        middle = time.perf_counter()
        shares = {f"{name}.conv": 0.6 for name in
                  ("second", "third", "fourth", "fifth", "sixth", "seventh")}
        tuned = fine_tune(network, shares, Batches(training, seed=1), epochs, pe=PE, rate=3e-3,
                          loss=smoothed)
        print(f"trained in {middle - begin:.0f} s, pruned and tuned in "
              f"{time.perf_counter() - middle:.0f} s", flush=True)
        compare("residual", network, training, test, options, tuned, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
