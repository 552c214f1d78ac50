"""Ranks that are searched for against one rank ratio for all layers, at equal cycles.

    python -m benchmarks.svd_nas [--quick] [--network NAME] [--board zcu104] [--dsp N] [--lut N]
        [--frames N] [--steps N] [--descent N] [--seed N] [--resume] [--out DIR]

The networks are those of ``benchmarks/sparse_search.py``: of ``examples/digits.py``, and a residual
one for cluttered digits.  Once trained, all that is known is a few frames without labels: they
calibrate, guide the search, and a decomposed network learns from them to copy the one that it came
from.  Each table is with or without that distillation; the last one of the digits has frames of
noise only.

For every budget, "uniform" is the largest common ratio of svd_spatial ranks whose design is fast
enough, with every layer decomposed or the first and last ones kept, whichever is more often right.
"searched" is what :func:`hwgen.dse.low_rank.relaxation.relax` finds with at most the cycles that
this one takes.  Both choose by one half of the test images; "other" is the accuracy with the other
half.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.digits import cluttered
from benchmarks.sparse_search import LUTS, train_residual
from examples.digits import Images, classify, digits, export
from examples.digits import train as train_digits
from hwgen import boards
from hwgen.dse.low_rank.problem import Problem, chosen, designed, hardware
from hwgen.dse.low_rank.relaxation import relax, synthetic
from hwgen.dse.tradeoff.front import Front, Point
from hwgen.dse.tradeoff.judge import Judge
from hwgen.ir import Graph
from hwgen.models.compression.decomposition import Decomposition, cost
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.reader import read

SHARES = 0.6, 0.4, 0.3, 0.22, 0.16
"""Budgets: intervals as shares of that of the network as it is."""
RATIOS = tuple(0.6 * 0.9**k for k in range(30))
"""Ranks as shares of the largest there are, the same for all layers."""
STATISTICS = {"mean": 0.3, "deviation": 0.35, "limits": (0.0, 1.0)}
"""What is known of frames where there are none."""


@dataclass(frozen=True)
class Subject:
    """A trained network with its data.

    Members
    -------
    name, network : what it is called, and the network
    frames : without labels
    chosen, other : images that searches see the accuracy on, and others
    """

    name: str
    network: Network
    frames: Sequence[Feed]
    chosen: Images
    other: Images

    def right(self, graph: Graph) -> float:
        return self.chosen.accuracy(classify(graph, self.chosen)) / 100

    def right_otherwise(self, judge: Judge[Problem], point: Point) -> float:
        """Per cent, of the other images."""
        return self.other.accuracy(classify(judge.graph(chosen(point)), self.other))


# Uniform ranks

def uniform(problem: Problem, ratio: float, kept: Sequence[str] = ()) -> dict[str, Decomposition]:
    """Every layer by svd_spatial, a matrix by its SVD, with the same share of its ranks.

    Parameters
    ----------
    problem : gives the layers
    ratio : of the ranks
    kept : layers that stay; so do those that would not become smaller
    """
    choice = {}
    for name, layer in problem.layers.items():
        cout, cin, *kernel = layer.shape
        scheme, most = "svd_last", min(cout, cin)
        if kernel:
            scheme, most = "svd_spatial", min(cout * kernel[0], cin * kernel[1])
        given = Decomposition(scheme, max(round(ratio * most), 1))
        if name not in kept and cost(layer, given).macs < cost(layer).macs:
            choice[name] = given
    return choice


def best_uniform(judge: Judge[Problem], limit: float) -> dict[bool, Point]:
    """The largest ratio that keeps within an interval: with all layers, and but for the ends."""
    names = list(judge.problem.layers)
    found = {}
    for ends in (True, False):
        for ratio in RATIOS:
            choice = uniform(judge.problem, ratio, () if ends else (names[0], names[-1]))
            # Tuned weights may need other hardware, by a little.
            if hardware(judge, choice).interval <= limit and judge(choice).interval <= limit:
                found[ends] = judge(choice)
                break
    return found


# What is compared

def compare(subject: Subject, what: str, options: argparse.Namespace, steps: int) -> list[float]:
    """Print a table; returns the points of accuracy that are won, with the other images."""
    board = replace(boards.load(options.board), dsp=options.dsp,
                    lut=options.lut or LUTS * options.dsp)
    problem = Problem(subject.network, subject.frames, subject.right, designed(board),
                         steps=steps, rate=options.rate)
    judges = []
    for kind in ("uniform", "searched"):
        storage = options.out / f"{subject.name}-{what}-{kind}.journal"
        if not options.resume:
            storage.unlink(missing_ok=True)
        judges.append(Judge(problem, storage, f"{options.board} {board.dsp} {board.lut}"))
    plain, searching = judges
    reference = plain.reference
    print(f"{subject.name}, {what}: {len(subject.frames)} frames, {options.dsp} DSPs; as it is "
          f"{100 * reference.accuracy:.2f} % right, other "
          f"{subject.right_otherwise(plain, reference):.2f} %, {reference.interval:,} cycles")
    print("              uniform                          searched                   won, points\n"
          "  budget   cycles   right   other  (all layers)    cycles   right   other"
          "   right   other       s", flush=True)
    won = []
    for share in options.shares:
        begin = time.perf_counter()
        found = best_uniform(plain, share * reference.interval)
        if not found:
            print(f"  {share:6.2f}   no uniform ratio is as fast")
            continue
        base = max(found.values(), key=lambda point: point.accuracy)
        budget = base.interval / reference.interval
        relax(searching, budgets=[budget], steps=options.descent, tries=options.tries,
              seed=options.seed)
        best = max((p for p in searching.points.values() if p.interval <= base.interval),
                   key=lambda point: point.accuracy)
        others = [subject.right_otherwise(judge, point)
                  for judge, point in ((plain, base), (searching, best))]
        won.append(others[1] - others[0])
        every = f"{100 * found[True].accuracy:.2f}" if True in found else "-"
        print(f"  {share:6.2f}{base.interval:9,}{100 * base.accuracy:8.2f}{others[0]:8.2f}"
              f"{every:>14}{best.interval:10,}{100 * best.accuracy:8.2f}{others[1]:8.2f}"
              f"{100 * (best.accuracy - base.accuracy):+8.2f}{won[-1]:+8.2f}"
              f"{time.perf_counter() - begin:8.0f}", flush=True)
    fronts = plain.front({"search": "uniform"}), searching.front({"search": "relaxation"})
    for front, kind in zip(fronts, ("uniform", "searched"), strict=True):
        front.save(options.out / f"{subject.name}-{what}-{kind}.json")
    plot(fronts, options.out / f"{subject.name}-{what}", f"{subject.name}, {what}")
    print()
    return won


def plot(fronts: tuple[Front, Front], path: Path, title: str) -> None:
    """Draw accuracy over cycles, of what is uniform and what is searched."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for front, label, mark in zip(fronts, ("uniform rank", "searched"), "so", strict=True):
        points = [*front.points, *front.others]
        axes.scatter([p.interval for p in points], [100 * p.accuracy for p in points],
                     marker=mark, label=label)
    reference = fronts[0].reference
    axes.scatter([reference.interval], [100 * reference.accuracy], s=90, marker="*",
                 color="tab:red", label="as given")
    axes.set_xscale("log")
    axes.set_xlabel("Cycles a frame")
    axes.set_ylabel("Right, %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_name(path.name + suffix), dpi=120,
                       metadata={"Date": None} if suffix == ".svg" else None)


def subjects(options: argparse.Namespace, folder: Path):
    """The networks, one after the other."""
    training, test = digits()
    half = len(test) // 2
    parts = [Images(test.pixels[k], test.labels[k]) for k in (slice(half), slice(half, None))]
    if options.network in ("digits", "both"):
        network = train_digits(training, 6 if options.quick else 15)
        yield _subject("digits", network, training, parts, options.frames, folder)
    if options.network in ("residual", "both"):
        # No digit is in both halves, not even as clutter.
        training = cluttered(training, 3, seed=0)
        parts = [cluttered(part, 2, seed=1 + k) for k, part in enumerate(parts)]
        network = train_residual(training, 4)
        yield _subject("residual", network, training, parts, options.frames, folder)


def _subject(
    name: str, network: torch.nn.Module, training: Images, parts: Sequence[Images], count: int,
    folder: Path,
) -> Subject:
    path = folder / f"{name}.onnx"
    export(network, training.pixels.shape[-1], path)
    made = read(path, None)
    frames = [{made.inputs[0]: training.pixels[k : k + 1]} for k in range(count)]
    return Subject(name, made, frames, *parts)


def main() -> int:
    parser = argparse.ArgumentParser(description="Searched ranks against uniform ones")
    parser.add_argument("--quick", action="store_true",
                        help="the digits alone, less training, few budgets")
    parser.add_argument("--network", choices=("digits", "residual", "both"), default="")
    parser.add_argument("--resume", action="store_true", help="go on with the searches in --out")
    parser.add_argument("--board", default="zcu104")
    parser.add_argument("--dsp", type=int, default=64, help="multipliers")
    parser.add_argument("--lut", type=int, default=0, help="LUTs of the board")
    parser.add_argument("--frames", type=int, default=256, help="without labels")
    parser.add_argument("--steps", type=int, default=0, help="of distillation")
    parser.add_argument("--rate", type=float, default=0.01, help="of distillation")
    parser.add_argument("--descent", type=int, default=0, help="steps of the search's descent")
    parser.add_argument("--tries", type=int, default=0, help="choices judged for a budget")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/svd_nas"), metavar="DIR")
    options = parser.parse_args()
    options.network = options.network or ("digits" if options.quick else "both")
    options.steps = options.steps or (60 if options.quick else 200)
    options.descent = options.descent or (100 if options.quick else 200)
    options.tries = options.tries or (2 if options.quick else 4)
    options.shares = (0.35, 0.2) if options.quick else SHARES
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    torch.set_num_threads(1)
    won = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in subjects(options, Path(folder)):
            won += compare(subject, "plain", options, 0)
            won += compare(subject, "distilled", options, options.steps)
            if subject.name == "digits" and not options.quick:
                noise = synthetic(subject.network, options.frames, seed=options.seed, **STATISTICS)
                compare(replace(subject, frames=noise), "synthetic", options, options.steps)
    if won:
        print(f"with frames, the search wins {min(won):+.2f} to {max(won):+.2f} points, "
              f"{sum(won) / len(won):+.2f} on average; 2 or more at "
              f"{sum(points >= 2 for points in won)} of {len(won)} budgets")
    return 0


if __name__ == "__main__":
    sys.exit(main())
