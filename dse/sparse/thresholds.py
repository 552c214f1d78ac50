"""The search for sparsity: thresholds of weights and activations together with the hardware.

After HASS (Yu et al., "HASS: Hardware-Aware Sparsity Search for Dataflow DNN Accelerator", 2024,
section V): how much of each layer becomes zero is chosen by black-box optimisation, and every
choice is judged by the accuracy that is left and by the hardware that is designed for it.  HASS
adds these up with weights; here they stay apart, and the result is all choices that none beats.

Accuracy and hardware are functions that are given, so the search works for any network and task.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwgen.boards import Board
from hwgen.dse.tradeoff.digest import digest
from hwgen.dse.tradeoff.front import Front, Hardware
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm, Graph
from hwgen.models.compression.pruning import channel_means, kept_groups, prune, threshold

if TYPE_CHECKING:
    import optuna

__all__ = ["SAMPLERS", "Frames", "Space", "applied", "designed", "search_thresholds", "space"]

SAMPLERS = "tpe", "nsga2"
"""Ways to choose what is tried next."""
BEYOND = "beyond"
"""Where a trial has how much more accuracy is lost than the floor allows."""
STARTS = 0.25, 0.5, 0.75
"""Parts of the largest shares that the search starts with."""

Shares = Mapping[str, Mapping[str, float]]
"""Shares that become zero, of ``"weights"`` by layer and of ``"activations"`` by tensor."""
Frames = Mapping[str, np.ndarray]
"""Integer inputs of a graph, ``(frames, *shape)`` by name."""


@dataclass(frozen=True)
class Space:
    """What may become zero.

    Members
    -------
    weights : layer to the largest share of its groups of weights that are not zero anyhow
    activations : tensor to the largest share of its values that are not zero anyhow
    pe : output channels of a group of weights, one number or by layer
    """

    weights: Mapping[str, float]
    activations: Mapping[str, float]
    pe: int | Mapping[str, int] = 1

    def __post_init__(self) -> None:
        for what, shares in (("weights", self.weights), ("values", self.activations)):
            for name, share in shares.items():
                if not 0 < share < 1:
                    raise HwgenError(f"The largest share of {what} of {name!r} must be between "
                                     f"0 and 1, not {share!r}")

    def size(self, layer: str) -> int:
        """Output channels of a group of weights."""
        return self.pe if isinstance(self.pe, int) else self.pe.get(layer, 1)


def space(
    graph: Graph, *, weights: float = 0.9, activations: float = 0.8,
    pe: int | Mapping[str, int] = 1,
) -> Space:
    """All that may become zero: the weights and the inputs of layers with several input channels.

    Parameters
    ----------
    graph : integer graph
    weights, activations : largest shares; 0: none of them
    pe : output channels of a group of weights, one number or by layer; a layer with fewer has as
        many as it has channels
    """
    layers = [n for n in graph.nodes if isinstance(n.op, Conv | Gemm) and n.op.weight.shape[-1] > 1]
    sizes = {}
    for node in layers:
        assert isinstance(node.op, Conv | Gemm)
        cout = len(node.op.weight) // (node.op.groups if isinstance(node.op, Conv) else 1)
        sizes[node.name] = min(pe if isinstance(pe, int) else pe.get(node.name, 1), cout)
    tensors = dict.fromkeys(n.inputs[0] for n in layers if n.inputs[0] not in graph.inputs)
    return Space(
        dict.fromkeys(sizes, weights) if weights else {},
        dict.fromkeys(tensors, activations) if activations else {},
        sizes,
    )


def applied(graph: Graph, choice: Mapping, means: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The network that a point of the search stands for.

    Parameters
    ----------
    graph : as it was given to the search
    choice : choice of a :class:`hwgen.dse.tradeoff.front.Point`
    means : see :func:`hwgen.models.compression.pruning.prune`; those of the frames that the search
        had
    """
    weights = {name: share for name, share in choice["weights"].items() if share}
    pruned = prune(graph, weights, pe=choice["pe"], means=means)
    return threshold(pruned, choice["activations"], unit="codes")


def designed(board: Board, **options: Any) -> Callable[[Graph, Frames], Hardware]:
    """Hardware as the search designs it for a board, with measured sparsity.

    See :func:`hwgen.dse.design.search.search`.

    Parameters
    ----------
    board : what it must fit
    options : of the search, such as ``target_fps``
    """

    def hardware(graph: Graph, frames: Frames) -> Hardware:
        from hwgen.dse.design.search import search
        from hwgen.dse.sparse.statistics import measure

        return Hardware.of(search(graph, board, statistics=measure(graph, frames), **options))

    return hardware


class _Thresholds:
    """What is searched, as :class:`hwgen.dse.tradeoff.judge.Problem`; choices are plain data."""

    def __init__(
        self, graph: Graph, frames: Frames, accuracy: Callable[[Graph], float],
        hardware: Callable[[Graph, Frames], tuple], where: Space,
    ) -> None:
        self.given, self.where, self.accuracy = graph, where, accuracy
        self.hardware = lambda graph: hardware(graph, frames)
        self.about = {"network": digest(graph), "space": digest(where),
                      "frames": digest(dict(frames))}
        self._means = channel_means(graph, frames)
        ops = {node.name: node.op for node in graph.nodes}
        self._zeros: dict[str, float] = {}
        for name in where.weights:
            if not isinstance(op := ops.get(name), Conv | Gemm):
                raise HwgenError(f"The graph has no convolution or matrix {name!r} to prune")
            kept = kept_groups(op.weight, pe=where.size(name), least=1e-9,
                               groups=op.groups if isinstance(op, Conv) else 1)
            self._zeros[name] = 1 - float(kept.mean())
        self._magnitudes = {}
        values = graph.evaluate(frames, keep=sorted(where.activations))
        for name, value in values.items():
            far = abs(value.astype(np.int64) - graph.types[name].zero_point).ravel()
            self._magnitudes[name] = np.sort(far[far > 0])
        self.whole = self.choice({"weights": dict.fromkeys(where.weights, 0.0),
                                  "activations": dict.fromkeys(where.activations, 0.0)})

    def choice(self, shares: Shares) -> dict:
        """What shares of what is not zero anyhow amount to."""
        codes = {}
        for name, share in shares["activations"].items():
            far = self._magnitudes[name]
            place = int(share * len(far))
            codes[name] = int(far[place]) if place else 0
        weights = {}
        for name, share in shares["weights"].items():
            zero = self._zeros[name]
            weights[name] = round(zero + share * (1 - zero), 3) if share else 0.0
        return {
            "weights": weights,
            "activations": codes,
            "pe": {name: self.where.size(name) for name in shares["weights"]},
        }

    def key(self, choice: dict) -> str:
        return json.dumps(choice, sort_keys=True)

    def plain(self, choice: dict) -> dict:
        return choice

    def graph(self, choice: dict) -> Graph:
        return self.given if choice == self.whole else applied(self.given, choice, self._means)


def search_thresholds(
    graph: Graph, frames: Frames, accuracy: Callable[[Graph], float],
    hardware: Callable[[Graph, Frames], tuple], *, where: Space | None = None, trials: int = 100,
    floor: float = 0.05, sampler: str = "tpe", seed: int = 0, storage: Path | None = None,
    board: str = "", progress: Callable[[str], None] = lambda _: None,
) -> Front:
    """Networks with more zeros and their hardware: those that none beats.

    Parameters
    ----------
    graph : integer graph
    frames : what thresholds, mean values and hardware go by; not those of ``accuracy``
    accuracy : share of a validation set that a graph gets right
    hardware : interval, DSPs and design of a graph for the frames; see :class:`Hardware`
    where : what may become zero; default: of all layers, see :func:`space`
    trials : networks that are tried, with those that the file knows
    floor : loss of accuracy beyond which no hardware is designed
    sampler : one of :data:`SAMPLERS`
    seed : same seed, same search, also if it was interrupted
    storage : file that keeps what was found, to go on with it when the search is called again with
        the same arguments; None: it is not kept
    board : name of what ``hardware`` designs for; a file about another is refused
    progress : called with what was tried

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range, or the file is damaged, or about something else.
    """
    if sampler not in SAMPLERS:
        raise HwgenError(f"Sampler must be one of {', '.join(SAMPLERS)}, not {sampler!r}")
    if trials < 1:
        raise HwgenError(f"The search needs 1 or more trials, not {trials!r}")
    where = where or space(graph)
    if not where.weights and not where.activations:
        raise HwgenError("There is nothing that could become zero: the graph has no layers with "
                         "several input channels, or none was given")
    problem = _Thresholds(graph, frames, accuracy, hardware, where)
    judge = Judge(problem, storage, board, floor)
    with _study(where) as study:
        for number in range(trials):
            # Choices depend on what was tried before and on nothing else, so that a search that
            # was interrupted asks for the same ones again.
            study.sampler = _sampler(sampler, seed + number)
            trial = study.ask()
            point = judge(problem.choice(_shares(trial, where)))
            trial.set_user_attr(BEYOND, judge.beyond(point.accuracy))
            study.tell(trial, [point.accuracy, math.log(max(point.interval, 1)), point.dsp])
            progress(f"{number + 1} of {trials}: {100 * point.accuracy:.2f} % right, "
                     f"{point.interval:,.0f} cycles, {point.dsp} DSPs")
    return judge.front({"trials": trials, "sampler": sampler, "seed": seed})


# What is tried next

@contextmanager
def _study(where: Space) -> Iterator[optuna.Study]:
    """A new study, with what it starts with; meanwhile Optuna says nothing but warnings."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Samplers that know constraints are marked as experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
            for start in _starts(where):
                study.enqueue_trial(start)
            yield study
    finally:
        optuna.logging.set_verbosity(level)


def _shares(trial: optuna.Trial, where: Space) -> Shares:
    """The shares of a trial."""
    return {
        kind: {name: trial.suggest_float(f"{kind}:{name}", 0, most)
               for name, most in sorted(most.items())}
        for kind, most in (("weights", where.weights), ("activations", where.activations))
    }


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """What chooses; trials that are too wrong count as not feasible."""
    from optuna.samplers import NSGAIISampler, TPESampler

    def constraints(trial: optuna.trial.FrozenTrial) -> tuple[float]:
        return (trial.user_attrs.get(BEYOND, 0.0),)

    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=24, constraints_func=constraints)
    return TPESampler(seed=seed, multivariate=True, n_startup_trials=12,
                      constraints_func=constraints)


def _starts(where: Space) -> Iterator[dict[str, float]]:
    """Trials to start with, all layers alike: nothing becomes zero; then some of weights and
    activations, of weights alone, of activations alone."""
    for part in (0.0, *STARTS):
        for of_weights, of_values in ((part, part), (part, 0.0), (0.0, part)):
            yield {
                **{f"weights:{name}": of_weights * most for name, most in where.weights.items()},
                **{f"activations:{name}": of_values * most
                   for name, most in where.activations.items()},
            }
            if not part or not (where.weights and where.activations):
                break
