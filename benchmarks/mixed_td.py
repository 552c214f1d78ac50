"""Mixed tensor decompositions in hardware: frames a second and DSP, against the network as it is.

    python -m benchmarks.mixed_td [--quick] [--resume] [--only digits|residual] [--board zcu104]
        [--dsp N] [--trials N] [--steps N] [--seed N] [--out DIR]

Two networks are trained: that of ``examples/digits.py``, and the residual one of
:mod:`benchmarks.sparse_search` for cluttered digits of 32x32 pixels.  For each, a scheme and a rank
are searched for every layer (:mod:`hwgen.dse.low_rank.evolution`); every choice is distilled on
training images without their labels, made integer (W8A8), and its hardware designed.  The search
goes by one half of the test images; "other" is the accuracy with the other half.

Both networks get the same part of the board: ``--dsp`` DSPs, and LUTs in the board's proportion, so
that DSPs are what is short.  Frames a DSP are frames a cycle over the DSPs that a whole design
takes, requantisers included.  The network as it is has two products in a DSP, as its decompositions
have; products a DSP and cycle show how busy DSPs are, and are above two if some products are left
to LUTs.  What is shown has the most frames a DSP of what loses a point of accuracy at most.  Its
Verilog, and that of the network as it is, runs some images of the other half.  Then both are
designed for half the part and for twice, to see whether the gain was luck with foldings.

``--quick``: digits only, with less training and fewer choices.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from benchmarks.digits import cluttered
from benchmarks.simulated import as_predicted
from benchmarks.sparse_search import train_residual
from examples.digits import Images, classify, digits, export, to_codes
from examples.digits import train as train_digits
from hwgen import boards
from hwgen.boards import Board
from hwgen.dse.design.search import search
from hwgen.dse.low_rank.evolution import evolve
from hwgen.dse.low_rank.problem import Problem, chosen, designed, save
from hwgen.dse.low_rank.ways import LayerChoice, ways
from hwgen.dse.tradeoff.front import Hardware, Point, best
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models.compression.layers import FloatLayer
from hwgen.models.onnx.reader import read

LOSS = 0.01
"""Of accuracy, at most."""
FLOOR = 0.05
"""Of accuracy: what loses more is not designed."""
GOAL = 1.73
"""Times the frames a DSP, the least that Mixed-TD states."""


@dataclass(frozen=True)
class Task:
    """A network, its images, and how much is spent on it.

    Members
    -------
    train : gives the trained network
    dsp : of the part of the board
    frames : training images that are used without labels
    trials, steps, rate, batch : of the search and of the distillation of each choice
    cpds : ranks of CPDs that each layer is offered; they take longest to find
    simulated : images that the Verilog runs
    """

    name: str
    train: Callable[[], nn.Module]
    training: Images
    test: Images
    dsp: int
    trials: int
    steps: int
    frames: int = 256
    rate: float = 4e-3
    batch: int = 32
    cpds: int = 3
    simulated: int = 8


def tasks(options: argparse.Namespace) -> list[Task]:
    """What is to be done."""
    quick = options.quick
    training, test = digits()
    small = Task("digits", lambda: train_digits(training, 6 if quick else 15), training, test,
                 options.dsp or 128, options.trials or (8 if quick else 24),
                 options.steps or (60 if quick else 200), cpds=1 if quick else 3)
    if quick:
        return [small]
    many, others = cluttered(training, 3, seed=0), cluttered(test, 2, seed=1)
    large = Task("residual", lambda: train_residual(many, 4), many, others,
                 options.dsp or 256, options.trials or 24, options.steps or 150,
                 frames=512, rate=6e-3, batch=16, cpds=2, simulated=3)
    return [task for task in (small, large) if options.only in ("", task.name)]


def part(board: Board, dsp: int) -> Board:
    """Some DSPs of a board, and LUTs in proportion."""
    return replace(board, dsp=dsp, lut=board.lut * dsp // board.dsp)


def offered(layer: FloatLayer, cpds: int) -> list[LayerChoice]:
    """What a layer may become: SVDs of many ranks, CPDs of few."""
    return [*ways(layer, schemes=("cpd",), ranks=cpds)[:-1],
            *ways(layer, schemes=("svd_spatial", "svd_last", "svd_first"))]


def elsewhere(board: Board, task: Task, graphs: tuple[Graph, Graph]) -> None:
    """Print the gain in other parts of the board, and in the same, with what is short."""
    for dsp in (task.dsp // 2, task.dsp, 2 * task.dsp):
        points, texts = [], []
        try:
            for graph in graphs:
                made = search(graph, part(board, dsp))
                need = made.netlist.resources()
                points.append(Point.of({}, 0.0, Hardware.of(made)))
                texts.append(f"{made.timing.interval:,} cycles, {need.dsp} DSPs, {need.lut:,} LUTs,"
                             f" short of {made.limit}")
        except HwgenError as error:
            texts.append(str(error))
        print(f"  {dsp} DSPs: " + "; then ".join(texts), flush=True)
        if len(points) > 1:
            print(f"    {points[1].efficiency / points[0].efficiency:.2f} times the frames a DSP",
                  flush=True)


def described(judge: Judge[Problem], point: Point) -> str:
    """What became of each layer."""
    choice = chosen(point)
    return ", ".join(
        f"{name.strip('/').split('/')[0]} "
        + (f"{choice[name].scheme} {choice[name].rank}" if name in choice else "stays")
        for name in judge.problem.layers)


def compare(task: Task, board: Board, options: argparse.Namespace) -> bool:
    """Search, print what was found, and simulate it; returns whether that was as predicted."""
    onnx, journal = (options.out / f"{task.name}{suffix}" for suffix in (".onnx", ".jsonl"))
    begin = time.perf_counter()
    if not options.resume:
        onnx.unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
    if not onnx.exists():
        export(task.train(), task.test.pixels.shape[-1], onnx)
    network = read(onnx, None)
    middle = time.perf_counter()
    halves = [Images(task.test.pixels[k::2], task.test.labels[k::2]) for k in range(2)]

    def right(graph: Graph, half: int = 0) -> float:
        return halves[half].accuracy(classify(graph, halves[half])) / 100

    (name,) = network.inputs
    frames = [{name: task.training.pixels[k : k + 1]} for k in range(task.frames)]
    problem = Problem(network, frames, right, designed(part(board, task.dsp)), steps=task.steps,
                      rate=task.rate, batch=task.batch)
    judge = Judge(problem, journal, f"{options.board}, {task.dsp} DSPs", floor=FLOOR)
    front = evolve(
        judge, {name: offered(layer, task.cpds) for name, layer in problem.layers.items()},
        trials=task.trials, loss=2 * LOSS, seed=options.seed,
        progress=(lambda line: print(f"    {line}", flush=True)) if options.verbose else
        (lambda _: None))
    done = time.perf_counter()
    front.save(options.out / f"{task.name}.json")
    front.plot(options.out / task.name, f"{task.name}: accuracy against frames a DSP",
               board.clock_mhz)
    found = best(front, LOSS)
    save(judge, found, options.out / f"{task.name}-best")
    graphs = problem.graph({}), problem.graph(chosen(found))
    reference = front.reference
    print(f"{task.name}: {graphs[0].macs:,} products a frame; {task.dsp} DSPs and "
          f"{part(board, task.dsp).lut:,} LUTs of {options.board}; trained in "
          f"{middle - begin:.0f} s, {len(judge.points) - 1} choices judged in "
          f"{done - middle:.0f} s")
    print("                right, %     products      cycles   DSP  products  frames a s   times\n"
          "             chosen  other                               a DSP     and DSP   as it is\n"
          "                                                       and cycle")

    def line(name: str, point: Point, graph: Graph | None) -> None:
        other, products, busy = "", "", ""
        if graph is not None:
            other, products = f"{100 * right(graph, 1):.2f}", f"{graph.macs:,}"
            busy = f"{graph.macs / (point.interval * point.dsp):.2f}"
        print(f"  {name:<10}{100 * point.accuracy:7.2f}{other:>7}{products:>13}"
              f"{point.interval:>12,}{point.dsp:>6}{busy:>10}"
              f"{board.clock_mhz * point.efficiency:>12,.1f}"
              f"{point.efficiency / reference.efficiency:>8.2f}", flush=True)

    line("as it is", reference, graphs[0])
    line("best", found, graphs[1])
    print(f"  {described(judge, found)}")
    gain, lost = found.efficiency / reference.efficiency, reference.accuracy - found.accuracy
    print(f"  {gain:.2f} times the frames a DSP for {100 * lost:.2f} points of accuracy; the goal, "
          f"{GOAL} times for at most {100 * LOSS:g}, is "
          f"{'reached' if gain >= GOAL else 'missed'}.\n  All of the front:")
    for point in front.points:
        line("", point, None)
    print("  as it is:")
    few = _few(halves[1], task.simulated)
    good = as_predicted(graphs[0], reference, to_codes(graphs[0], few))
    print("  best:")
    good &= as_predicted(graphs[1], found, to_codes(graphs[1], few))
    if not options.quick:
        elsewhere(board, task, graphs)
    print(flush=True)
    return good


def _few(images: Images, count: int) -> Images:
    return Images(images.pixels[:count], images.labels[:count])


def main() -> int:
    parser = argparse.ArgumentParser(description="Mixed decompositions: frames a DSP")
    parser.add_argument("--quick", action="store_true", help="digits only, fewer choices")
    parser.add_argument("--resume", action="store_true", help="go on with what --out has")
    parser.add_argument("--verbose", action="store_true", help="print what is judged")
    parser.add_argument("--only", choices=("digits", "residual"), default="")
    parser.add_argument("--board", default="zcu104")
    parser.add_argument("--dsp", type=int, default=0, help="of the part of the board")
    parser.add_argument("--trials", type=int, default=0, help="choices that are judged")
    parser.add_argument("--steps", type=int, default=0, help="of each distillation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/mixed_td"), metavar="DIR")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    # Many small products: threads would wait for each other.
    torch.set_num_threads(1)
    good = True
    with threadpool_limits(limits=1):
        for task in tasks(options):
            good &= compare(task, boards.load(options.board), options)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
