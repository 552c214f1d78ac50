"""What is searched: decompositions of a network's layers, judged by accuracy and real hardware."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from hwgen.boards import Board
from hwgen.dse.design.search import search
from hwgen.dse.low_rank.journal import Journal
from hwgen.dse.tradeoff.digest import digest
from hwgen.dse.tradeoff.front import Front, Hardware, Point
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models.compression.decomposition import (
    SCHEMES,
    Cost,
    Decomposition,
    cost,
    from_json,
    to_json,
)
from hwgen.models.compression.layers import Layer, layers
from hwgen.models.compression.rewrite import decompose, squared_error
from hwgen.models.frames.samples import Feed
from hwgen.models.lowering import lower
from hwgen.models.onnx.network import Network
from hwgen.models.quantisation.calibrate import statistics
from hwgen.models.quantisation.precision import Precision

__all__ = ["Choice", "Judge", "Problem", "Way", "designed", "key", "rich_ranks", "ways"]

KEPT = 8
"""Graphs that a judge remembers: to distil one anew takes long."""

Choice = Mapping[str, Decomposition]
"""Decomposition by layer; layers that stay are left out."""


def key(choice: Choice) -> str:
    """The same text for the same choice: by that a journal knows it."""
    return to_json(dict(sorted(choice.items())))


@dataclass(frozen=True)
class Way:
    """What a layer may become: ``decomposition`` None, it stays; and what that costs."""

    decomposition: Decomposition | None
    cost: Cost

    @classmethod
    def of(cls, layer: Layer, decomposition: Decomposition | None = None) -> Way:
        """That way, with its cost for a layer."""
        return cls(decomposition, cost(layer, decomposition))


@dataclass(frozen=True, eq=False)
class Problem:
    """A trained network, and how to judge what becomes of it.

    Parameters
    ----------
    network : float
    frames : float inputs without labels: for calibration, sensitivities and distillation
    accuracy : share, 0..1, that an integer graph gets right on a validation set
        Or any other measure for which more is better.
    hardware : cycles and DSPs of an integer graph; see :func:`designed`
    precision : of weights and activations that are not decomposed into integers; or text, see
        :meth:`hwgen.models.quantisation.precision.Precision.parse`
    steps : of distillation (:func:`hwgen.models.training.tuning.distil`) of each network that
        is judged; 0: none
    rate, batch : of the distillation
    tuned : instead of that distillation: what becomes of a float network that was decomposed
    corrected : biases make up for the rounding of weights
    """

    network: Network
    frames: Sequence[Feed]
    accuracy: Callable[[Graph], float]
    hardware: Callable[[Graph], tuple]
    precision: str | Precision = "w8a8"
    steps: int = 0
    rate: float = 2e-3
    batch: int = 32
    tuned: Callable[[Network], Network] | None = None
    corrected: bool = False

    def __post_init__(self) -> None:
        if not len(self.frames):
            raise HwgenError("A search over decompositions needs frames; there are none")

    @cached_property
    def layers(self) -> dict[str, Layer]:
        """Layers that could be decomposed, by name."""
        return layers(self.network)

    @cached_property
    def bits(self) -> Precision:
        """Bits of weights and activations."""
        given = self.precision
        return given if isinstance(given, Precision) else Precision.parse(given)

    def decomposed(self, choice: Choice) -> Network:
        """The float network of a choice, distilled if that is wanted."""
        student = decompose(self.network, choice)
        if self.tuned is not None:
            return self.tuned(student)
        if self.steps and choice:
            from hwgen.models.training.tuning import distil

            student = distil(student, self.network, self.frames, steps=self.steps,
                             rate=self.rate, batch=self.batch)
        return student

    def integer(self, network: Network) -> Graph:
        """The integer graph of a float network."""
        found = statistics(network, self.frames, "minmax", self.bits.activations)
        return lower(network, found.ranges, self.bits, found.means if self.corrected else None)

    def graph(self, choice: Choice) -> Graph:
        """The integer graph of a choice."""
        return self.integer(self.decomposed(choice))


@dataclass
class Judge:
    """Judges choices, each once: what a file keeps need not be judged again.

    Parameters
    ----------
    problem : what is searched
    storage : file that keeps what was found, to go on with it later; None: it is not kept
    board : name of what the hardware is designed for; a file about another is refused
    floor : loss of accuracy beyond which no hardware is designed: such a point counts as slow as
        the reference

    Members
    -------
    points : all that were judged, in order
    """

    problem: Problem
    storage: Path | None = None
    board: str = ""
    floor: float = float("inf")
    points: dict[str, Point] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._graphs: dict[str, Graph] = {}
        if not self.floor >= 0:
            raise HwgenError(f"Floor must be 0 or more, not {self.floor!r}")
        problem = self.problem
        self.about = {
            "network": digest(problem.network.constants), "frames": digest(list(problem.frames)),
            "precision": str(problem.precision), "steps": problem.steps, "rate": problem.rate,
            "batch": problem.batch, "corrected": problem.corrected, "board": self.board,
        }
        self.journal = Journal(self.storage, self.about)
        for name, value in self.journal.entries.items():
            if name.startswith("{"):
                self.points[name] = Point(**value)
        self.reference = self({})

    def __call__(self, choice: Choice) -> Point:
        """Accuracy and hardware of a choice."""
        name = key(choice)
        if name not in self.points:
            graph = self.graph(choice)
            right = float(self.problem.accuracy(graph))
            if choice and right < self.reference.accuracy - self.floor:
                made: tuple = Hardware(self.reference.interval, self.reference.dsp)
            else:
                made = self.problem.hardware(graph)
            point = Point.of({"layers": json.loads(name)}, right, made)
            self.points[name] = point
            self.journal.note(name, asdict(point))
        return self.points[name]

    def graph(self, choice: Choice) -> Graph:
        """The integer graph of a choice; of the last few, the one that was judged."""
        name = key(choice)
        if name not in self._graphs:
            if len(self._graphs) >= KEPT:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[name] = self.problem.graph(choice)
        return self._graphs[name]

    def hardware(self, choice: Choice) -> Hardware:
        """Cycles and DSPs of a choice, whatever its accuracy: without distillation, so soon known;
        without the design."""
        name = f"hardware {key(choice)}"
        if name not in self.journal.entries:
            graph = self.problem.integer(decompose(self.problem.network, choice))
            made = Point.of({}, 0.0, self.problem.hardware(graph))
            self.journal.note(name, [made.interval, made.dsp])
        return Hardware(*self.journal.entries[name])

    def error(self, layer: Layer, decomposition: Decomposition | None) -> float:
        """Relative squared error of a layer's weights; 0 if it stays."""
        if decomposition is None:
            return 0.0
        name = f"error {layer.name} {decomposition}"
        if name not in self.journal.entries:
            self.journal.note(name, squared_error(layer.weight, decomposition))
        return self.journal.entries[name]

    def front(self, meta: Mapping | None = None) -> Front:
        """The front of all that was judged."""
        return Front.of(self.points.values(), self.reference, {**self.about, **(meta or {})})

    def save(self, point: Point, folder: Path) -> None:
        """Write the network of a point and its design, for ``hwgen.build``::

            python -m hwgen.build FOLDER/graph.npz --board BOARD --design FOLDER/design.json

        Raises
        ------
        :exc:`HwgenError`
            If the point has no design.
        """
        if point.design is None:
            raise HwgenError("The point has no design: its hardware was not designed")
        folder.mkdir(parents=True, exist_ok=True)
        self.graph(chosen(point)).save(folder / "graph.npz")
        (folder / "design.json").write_text(json.dumps(point.design, indent=1) + "\n")
        (folder / "decomposition.json").write_text(
            json.dumps(point.choice["layers"], indent=1) + "\n")


def chosen(point: Point) -> dict[str, Decomposition]:
    """The choice of a point."""
    return from_json(json.dumps(point.choice["layers"]))


def designed(board: Board, **options) -> Callable[[Graph], Hardware]:
    """Hardware as :func:`hwgen.dse.design.search.search` designs it for a board.

    Parameters
    ----------
    board : what it must fit
    options : of the search, such as ``target_fps``
    """
    def hardware(graph: Graph) -> Hardware:
        return Hardware.of(search(graph, board, **options))

    return hardware


def ways(
    layer: Layer, *, schemes: Sequence[str] = ("svd_spatial", "svd_last", "svd_first", "cpd"),
    groups: Sequence[int] = (1,), ranks: int = 8, bits: Sequence[int | None] = (None,),
    budget: str = "macs",
) -> list[Way]:
    """What a layer may become so that it is smaller, the cheapest first; last, the layer itself.

    Parameters
    ----------
    layer : to decompose
    schemes, groups : to try with each other; what the layer's shape does not allow gives nothing
    ranks : how many of each, at most: such as are rich in factors (:func:`rich_ranks`), for
        foldings, and evenly far from each other in cost
    bits : of integer factors, for SVD schemes; None: real ones
    budget : by which they are in order, ``macs`` or ``parameters``

    Raises
    ------
    :exc:`HwgenError`
        If a scheme is unknown, or there is nothing to choose from.
    """
    if unknown := [scheme for scheme in schemes if scheme not in SCHEMES[:-1]]:
        raise HwgenError(f"Schemes must be of {', '.join(SCHEMES[:-1])}, not {unknown[0]!r}")
    if ranks < 1:
        raise HwgenError(f"There must be 1 or more ranks to choose from, not {ranks!r}")
    found = [Way.of(layer)]
    for scheme in schemes:
        for count in groups if scheme != "cpd" else (1,):
            most = _most(layer, scheme, count, found[0].cost)
            for rank in rich_ranks(most, ranks):
                for width in bits if scheme != "cpd" else (None,):
                    found.append(
                        Way.of(layer, Decomposition(scheme, rank, count, bits=width)))
    return sorted(found, key=lambda way: (way.decomposition is None, getattr(way.cost, budget)))


def rich_ranks(most: int, count: int) -> list[int]:
    """Up to ``count`` ranks of at most ``most``, evenly spaced, each the one nearby with most
    divisors: those can be folded in most ways."""
    if most < 1:
        return []
    wanted = np.unique(np.rint(np.linspace(0, most, count + 1)[1:]).astype(int))
    reach = max(most // (3 * count), 0)
    found = set()
    for rank in wanted[wanted > 0]:
        near = range(max(rank - reach, 1), min(rank + reach, most) + 1)
        found.add(max(near, key=lambda r: (_divisors(r), -abs(r - rank))))
    return sorted(found)


def _divisors(number: int) -> int:
    return sum(number % k == 0 for k in range(1, number + 1))


def _most(layer: Layer, scheme: str, groups: int, whole: Cost) -> int:
    """The largest rank with which a layer becomes smaller; 0: none."""
    low, high = 0, int(np.prod(layer.shape))
    while low < high:
        rank = (low + high + 1) // 2
        try:
            smaller = cost(layer, Decomposition(scheme, rank, groups)).below(whole)
        except HwgenError:
            smaller = False
        low, high = (rank, high) if smaller else (low, rank - 1)
    return low
