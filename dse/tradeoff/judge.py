"""What searches over networks share: every network is judged by its accuracy and its hardware."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from hwgen.dse.tradeoff.front import Front, Hardware, Point
from hwgen.dse.tradeoff.journal import Journal
from hwgen.errors import HwgenError
from hwgen.ir import Graph

__all__ = ["Judge", "Problem"]

KEPT = 8
"""Graphs that a judge remembers: to make one anew may take long."""

class Problem(Protocol):
    """What is searched: choices, the networks that they stand for, and how to judge those."""

    @property
    def about(self) -> Mapping[str, Any]:
        """What is searched, as plain data."""
        ...

    @property
    def whole(self) -> Any:
        """The choice of the network as it is."""
        ...

    @property
    def accuracy(self) -> Callable[[Graph], float]:
        """The share, 0..1, that an integer graph gets right, or whatever else is the better the
        larger it is."""
        ...

    @property
    def hardware(self) -> Callable[[Graph], tuple]:
        """What an integer graph takes, as the fields of :class:`Hardware`."""
        ...

    def key(self, choice: Any) -> str:
        """The same text for the same choice, which begins with a brace."""
        ...

    def plain(self, choice: Any) -> dict:
        """A choice as the plain data of a :class:`Point`."""
        ...

    def graph(self, choice: Any) -> Graph:
        """The integer graph of a choice."""
        ...


AnyProblem = TypeVar("AnyProblem", bound=Problem)


class Judge(Generic[AnyProblem]):
    """Judges choices, each once: what a file keeps is not judged again.

    Parameters
    ----------
    problem : what is searched
    storage : file that keeps what was found, to go on with it later; None: it is not kept
    board : name of what the hardware is designed for
    floor : loss of accuracy beyond which no hardware is designed

    Members
    -------
    about : what is searched, as plain data; a file about something else is refused
    points : all that were judged, in order
    reference : the network as it is
    journal : what was found, in the file

    Raises
    ------
    :exc:`HwgenError`
        If the floor is no number of 0 or more, or the file cannot be used; see :class:`Journal`.
    """

    def __init__(
        self, problem: AnyProblem, storage: Path | None = None, board: str = "",
        floor: float = math.inf,
    ) -> None:
        if not floor >= 0:
            raise HwgenError(f"Floor must be 0 or more, not {floor!r}")
        self.problem, self.floor = problem, floor
        self.about = {**problem.about, "board": board,
                      "floor": floor if math.isfinite(floor) else None}
        self.journal = Journal(storage, self.about)
        self.points = {name: Point(**value) for name, value in self.journal.entries.items()
                       if name.startswith("{")}
        self._graphs: dict[str, Graph] = {}
        self._whole = problem.key(problem.whole)
        self.reference = self(problem.whole)

    def __call__(self, choice: Any) -> Point:
        """The accuracy and the hardware of a choice.

        What is too wrong is not designed: it counts as slow as the network as it is.
        """
        name = self.problem.key(choice)
        if name not in self.points:
            graph = self.graph(choice)
            right = float(self.problem.accuracy(graph))
            # The network as it is has nothing to be compared with.
            if name != self._whole and self.beyond(right) > 0:
                made: tuple = Hardware(self.reference.interval, self.reference.dsp)
            else:
                made = self.problem.hardware(graph)
            point = Point.of(self.problem.plain(choice), right, made)
            self.points[name] = point
            self.journal.note(name, asdict(point))
        return self.points[name]

    def beyond(self, accuracy: float) -> float:
        """How much more accuracy is lost than the floor allows; above 0, it is too wrong."""
        return self.reference.accuracy - self.floor - accuracy

    def graph(self, choice: Any) -> Graph:
        """The integer graph of a choice; of the last few, the one that was judged."""
        name = self.problem.key(choice)
        if name not in self._graphs:
            if len(self._graphs) >= KEPT:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[name] = self.problem.graph(choice)
        return self._graphs[name]

    def front(self, meta: Mapping | None = None) -> Front:
        """The front of all that were judged and are not too wrong.

        Parameters
        ----------
        meta : what else is to be said of the search, as plain data
        """
        points = [point for point in self.points.values() if self.beyond(point.accuracy) <= 0]
        return Front.of(points, self.reference, {**self.about, **(meta or {})})
