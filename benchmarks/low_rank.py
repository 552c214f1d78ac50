"""Low rank below 8 bits in a language model: perplexity against cycles, simulated.

    python -m benchmarks.low_rank [--quick] [--errors] [--board zcu104] [--dsp N] [--steps N]
        [--out DIR]

The linear layers of the transformer of :mod:`benchmarks.language` share a number of DSPs.  First
what quantisation alone gives: perplexity and cycles a frame (a frame is as many tokens as the
context).  Then ranks are searched for (:mod:`hwgen.dse.low_rank.ranks`), with integers of 4 bits
and activations of 8, within shares of the time that 4 bits alone take; every choice is distilled on
256 sequences without labels.  So is quantisation alone, for the comparison to be fair.  For each
precision of quantisation alone the quickest design is named whose perplexity is within 1 %, as
ITERA-LLM states its gain; for 8 and for 4 bits, the Verilog of both runs some frames.  Choices are
made by one half of the held-out text; perplexities of the other half stand beside.

``--errors`` prints the error of reconstruction instead: integers found rank by rank, against an
SVD that is rounded, for every layer, several ranks and 3, 4, 6 and 8 bits.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.language import (
    CALIBRATION,
    FULL,
    QUICK,
    LanguageModel,
    board_of,
    calibration,
    linear_network,
    perplexity,
    precision_of,
    text,
    trained,
    windows,
)
from benchmarks.simulated import as_predicted
from hwgen.boards import Board
from hwgen.dse.low_rank.problem import Choice, Problem, chosen, designed
from hwgen.dse.low_rank.ranks import fit
from hwgen.dse.low_rank.ways import ways
from hwgen.dse.tradeoff.front import Point
from hwgen.dse.tradeoff.judge import Judge
from hwgen.ir import Graph
from hwgen.models.compression.decomposition import Decomposition
from hwgen.models.compression.itera import decompose_then_quantise, iterate
from hwgen.models.compression.layers import layers
from hwgen.models.compression.rewrite import decompose, squared_error
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.training.network import TorchNetwork
from hwgen.models.training.tuning import shuffled, tune

PRECISIONS = "w8a8", "w6a8", "w5a8", "w4a8"
"""Of quantisation alone."""
LIMITS = 0.88, 0.75, 0.58
"""Of the interval of 4 bits alone."""
WITHIN = 1.01
"""Perplexities that count as equal: their ratio, at most."""
ERROR_BITS = 3, 4, 6, 8
BATCH = 8
FRAMES = 3


@dataclass
class Bench:
    """A model, its linear layers, and the text that is needed.

    Members
    -------
    sequences : without labels, ``(N, T)``
    seen, unseen : held-out text ``(N, T + 1)``: what choices are made by, and the rest
    """

    model: LanguageModel
    network: Network
    board: Board
    sequences: np.ndarray
    seen: np.ndarray
    unseen: np.ndarray
    steps: int
    rate: float

    @cached_property
    def frames(self) -> list[Feed]:
        """What the linear layers are given in all sequences."""
        return list(calibration(self.model, self.network, self.sequences))

    @cached_property
    def said(self) -> Tensor:
        """Logarithms of what the model expects in all sequences."""
        with torch.no_grad():
            return torch.cat([F.log_softmax(self.model(part), -1)
                              for part in torch.from_numpy(self.sequences).split(16)])

    def problem(self, precision: str, tuned: bool) -> Problem:
        """Decompositions at a precision; more accurate is less perplexing."""
        bits = precision_of(self.network, precision)
        width = bits.rules[0].weights
        assert width is not None
        return Problem(
            self.network, self.frames,
            lambda graph: 1 / perplexity(self.model, self.seen, graph), designed(self.board),
            bits, corrected=True,
            tuned=(lambda student: self.distilled(student, width)) if tuned else None,
        )

    def distilled(self, student: Network, bits: int) -> Network:
        """Linear layers in integers that make the model say what it says in float."""
        tokens, wanted = torch.from_numpy(self.sequences), self.said
        batches = shuffled(len(tokens), BATCH)

        def loss(run: Callable[..., dict[str, Tensor]], _: int) -> Tensor:
            some = next(batches)
            return self.divergence(tokens[some], wanted[some], run)

        return tune(student, loss, steps=self.steps, rate=self.rate, bits=lambda _: bits)

    def divergence(
        self, tokens: Tensor, wanted: Tensor, run: Callable[..., dict[str, Tensor]]
    ) -> Tensor:
        """Of what the model says with other linear layers from what it should, a byte."""
        def linears(name: str, x: Tensor) -> Tensor:
            result = f"{name}.result"
            return run({name: x}, [result])[result]

        found = F.log_softmax(self.model(tokens, linears), -1)
        return F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()

    def inputs(self, graph: Graph, frames: int) -> dict[str, np.ndarray]:
        """What the linear layers are given in some frames of the text that choices are made by."""
        feeds = list(calibration(self.model, self.network, self.seen[:frames, :-1]))[:frames]
        return {
            name: np.stack([type.quantisation.quantise(feed[given][0]) for feed in feeds])
            for (name, type), given in zip(
                graph.inputs.items(), self.network.inputs, strict=True)
        }

    def sensitivity(self, trials: Mapping[str, Decomposition]) -> dict[str, float]:
        """What a layer's relative squared error adds to the divergence."""
        tokens = torch.from_numpy(self.sequences[:16])
        wanted, found = self.said[:16], {}
        with torch.no_grad():
            for name, trial in trials.items():
                run = TorchNetwork(decompose(self.network, {name: trial}))
                error = squared_error(layers(self.network)[name].weight, trial)
                found[name] = float(self.divergence(tokens, wanted, run)) / error
        return found


def errors(network: Network, quick: bool) -> bool:
    """Print errors of reconstruction; returns whether finding ranks one by one was always better.
    """
    print("Relative error of the product of integer factors: SVD rounded (best of three ways to "
          "share\nthe singular values) -> integers found rank by rank")
    print("layer             rank" + "".join(f"{bits:>15} bits" for bits in ERROR_BITS))
    better = True
    for name, layer in layers(network).items():
        least = min(layer.shape)
        for rank in (least // 8, least // 2) if quick else (least // 8, least // 4, least // 2):
            row = []
            for bits in ERROR_BITS:
                plain = min(
                    decompose_then_quantise(layer.weight, rank, bits, balance=b).error(layer.weight)
                    for b in (0.0, 0.5, 1.0))
                found = iterate(layer.weight, rank, bits).error(layer.weight)
                better &= found < plain
                row.append(f"  {plain:.4f} -> {found:.4f}")
            print(f"{name:<16}{rank:>6}{''.join(row)}", flush=True)
    return better


@dataclass
class Design:
    """A design, and what it is worth: perplexities of both halves of the text."""

    name: str
    graph: Graph
    point: Point
    seen: float
    unseen: float


def judged(bench: Bench, judge: Judge[Problem], choice: Choice, name: str) -> Design:
    """What a choice is worth; a line of the table is printed."""
    point = judge(choice)
    graph = judge.graph(choice)
    design = Design(name, graph, point, 1 / point.accuracy,
                    perplexity(bench.model, bench.unseen, graph))
    print(f"{name:<24}{design.seen:10.4f}{design.unseen:10.4f}{point.interval:12,}"
          f"{point.dsp:6}", flush=True)
    return design


def compare(bench: Bench, options: argparse.Namespace) -> bool:
    """Quantisation alone, and low rank; returns whether all was simulated as predicted."""
    model = bench.model
    print(f"{'':<24}  perplexity  unseen    interval   DSP")
    print(f"{'float':<24}{perplexity(model, bench.seen):10.4f}"
          f"{perplexity(model, bench.unseen):10.4f}", flush=True)
    alone = [judged(bench, Judge(bench.problem(precision, tuned=False)), {}, precision)
             for precision in PRECISIONS]
    begin = time.perf_counter()
    judge = Judge(bench.problem("w4a8", tuned=True), options.out / f"{options.name}.jsonl",
                  f"{options.board}, {options.dsp} DSPs, {bench.steps} steps, {bench.rate}")
    low = [judged(bench, judge, {}, "w4a8, distilled")]
    problem = judge.problem
    # Real factors: the distillation rounds them, as it does all weights.
    offered = {name: ways(layer, schemes=("svd_last",), ranks=options.ranks)
               for name, layer in problem.layers.items()}
    trials = {name: some[len(some) // 2].decomposition for name, some in offered.items()}
    sensitivity = bench.sensitivity({n: trial for n, trial in trials.items() if trial})
    front = fit(judge, offered, limits=options.limits, sensitivity=sensitivity,
                progress=lambda line: print(f"  {line}", flush=True))
    for point in judge.points.values():
        if point.choice["layers"]:
            low.append(judged(bench, judge, chosen(point), "low rank, w4a8"))
    print(f"searched in {time.perf_counter() - begin:.0f} s")
    front.save(options.out / f"{options.name}.json")
    named: list[Design] = []
    for base in alone:
        best = base
        print(f"\nAt the perplexity of {base.name}, within {WITHIN - 1:.0%}:")
        for kind, others in (("quantised and distilled", low[:1]), ("low rank", low)):
            near = [d for d in others if d.seen <= WITHIN * base.seen]
            if not near:
                print(f"  {kind}: none")
                continue
            best = min(near, key=lambda d: d.point.interval)
            print(f"  {kind}: {best.point.interval:,} cycles for {base.point.interval:,}, "
                  f"{best.point.interval / base.point.interval - 1:+.1%}; perplexity "
                  f"{best.seen / base.seen - 1:+.2%}, unseen {best.unseen / base.unseen - 1:+.2%}; "
                  f"{len(best.point.choice['layers'])} layers of {len(offered)} decomposed")
            if base in (alone[:1] if options.quick else (alone[0], alone[-1])):
                named += [base, best]
    print()
    good = True
    for design in {id(design): design for design in named}.values():
        print(f"{design.name}, {design.point.interval:,} cycles:")
        good &= as_predicted(design.graph, design.point, bench.inputs(design.graph, options.frames))
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="A language model's linear layers at low rank")
    parser.add_argument("--quick", action="store_true", help="a smaller model, fewer choices")
    parser.add_argument("--errors", action="store_true", help="errors of reconstruction instead")
    parser.add_argument("--board", default="zcu104")
    parser.add_argument("--dsp", type=int, default=0, help="that the designs may take")
    parser.add_argument("--steps", type=int, default=0, help="of the distillation")
    parser.add_argument("--rate", type=float, default=0.004, help="of the distillation")
    parser.add_argument("--limits", type=float, nargs="+", default=[], metavar="SHARE",
                        help="of the interval of 4 bits alone")
    parser.add_argument("--out", type=Path, default=Path("build/low_rank"), metavar="DIR")
    options = parser.parse_args()
    # Two threads wait for each other whenever something else runs.
    torch.set_num_threads(1)
    options.name = "quick" if options.quick else "full"
    options.dsp = options.dsp or (96 if options.quick else 256)
    options.ranks = 6 if options.quick else 8
    options.limits = options.limits or (LIMITS[1:2] if options.quick else LIMITS)
    options.frames = 2 if options.quick else FRAMES
    options.out.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    settings = QUICK if options.quick else FULL
    model = trained(settings, lambda line: print(line, flush=True))
    network = linear_network(model, settings.context)
    if options.errors:
        return int(not errors(network, options.quick))
    held = windows(text().held, settings.context, 64 if options.quick else 320)
    bench = Bench(
        model, network, board_of(options.board, options.dsp),
        windows(text().training, settings.context, CALIBRATION)[:, :-1], held[::2], held[1::2],
        options.steps or (60 if options.quick else 1500), options.rate,
    )
    return int(not compare(bench, options))


if __name__ == "__main__":
    sys.exit(main())
