"""What a search knows and asks: whether all fits at an interval, and at which it does at least."""

from __future__ import annotations

from bisect import bisect_right
from copy import copy
from itertools import chain
from typing import NamedTuple

import numpy as np

from hwgen.boards import Board
from hwgen.design import DesignPoint
from hwgen.dse.design.allocate import WEIGHTS, Allocation, allocate, fits
from hwgen.dse.design.amounts import (
    BANDWIDTH,
    ON_CHIP,
    PLENTY,
    RESOURCES,
    Amounts,
    vector,
)
from hwgen.dse.design.learned import Built, Learned
from hwgen.dse.design.memories import assign_memories
from hwgen.dse.design.point import fill_in
from hwgen.dse.design.refusal import Lack, lacking, refusal
from hwgen.dse.design.streaming import External
from hwgen.dse.design.streams import Beats, Streams
from hwgen.dse.design.table import Consumer
from hwgen.dse.design.tables import Tables
from hwgen.dse.sparse.statistics import Statistics
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.timing import sized

__all__ = ["STEP", "Interval", "SearchState", "Sized"]

SLOWER = (1.3, 2, 4)
"""How much longer the intervals are of designs that are looked at for comparison."""
RESERVE = np.array(Amounts(ff=0.015, lut=0.015, bandwidth=0.2))
"""Share of each resource that is held back while it is divided, for logic is not known exactly."""
PREFER = np.array(Amounts(dsp=1, ff=1, lut=1, bram18=8, uram=8, bandwidth=0.05))
"""How much more resources count if off-chip memory is preferred."""
STEP = 1.002
"""Intervals closer than this are alike."""


class Interval(NamedTuple):
    """An interval at which all fits.

    Members
    -------
    cycles : a frame
    pairs : whether depthwise convolutions compute pixels in pairs
    """

    cycles: int
    pairs: bool


class Sized(NamedTuple):
    """A design that was planned and scheduled, with its memories.

    Members
    -------
    design : the design point
    built : what became of it
    """

    design: DesignPoint
    built: Built


class SearchState:
    """The state of a search.

    Parameters
    ----------
    graph, board : the network, and what it must fit
    clock_mhz : clock; 0: the board's default
    statistics : of zeros, for convolutions that may be sparse

    Members
    -------
    usable : resources that a design may take
    offered : off-chip memory of the board, if it has any
    external : off-chip memory, if designs use it
    learned : sizes of buffers and queues, and what the tables miss
    lacking : what the smallest design found lacks, if it did not fit
    explored : designs that were looked at, as ``report.json`` lists them
    quick : cycles of a frame that multipliers alone would allow, more or less
    """

    def __init__(
        self, graph: Graph, board: Board, clock_mhz: float, statistics: Statistics | None = None
    ) -> None:
        self.graph, self.board = graph, board
        self.clock = clock_mhz or board.clock_mhz
        self.streams = Streams(graph)
        self.usable = board.usable
        self.offered = External.of_board(board, self.clock)
        self.external: External | None = None
        self.weights = WEIGHTS
        self.learned = Learned(board)
        self.lacking: list[Lack] = []
        self.explored: list[dict] = []
        self.quick = 1
        self._tables = Tables(graph, board, statistics)
        self._answers: dict[tuple, bool] = {}
        self._prices: np.ndarray | None = None
        self.pairs = [True, False] if self._tables.depthwise else [False]

    def with_external(self, external: External | None, prefer: bool) -> SearchState:
        """The same with off-chip memory, which takes as much as it can if it is preferred."""
        other = copy(self)
        other.learned, other._answers = self.learned.without_tiles(), {}
        other.external = other.offered = external
        other.weights = WEIGHTS * (PREFER if prefer else 1)
        return other

    # What is divided, and among what

    def have(self, interval: int) -> np.ndarray:
        """Amounts that can be divided, shape ``(resources,)``: a little less than there is."""
        have = vector(self.usable)
        if self.external is not None:
            have[BANDWIDTH] = interval * self.external.bytes_per_cycle
        return have * (1 - RESERVE) - self.learned.missing

    def parts(self, beats: Beats) -> list[Consumer]:
        """What is to be built between streams of given lanes and pixels."""
        return self._tables.parts(beats, self.learned, self.external)

    def allocate(self, parts: list[Consumer], interval: int, latency: bool = False,
                 have: np.ndarray | None = None) -> Allocation | None:
        """Divide the available resources among ``parts``.

        See :func:`hwgen.dse.design.allocate.allocate`.
        """
        have = self.have(interval) if have is None else have
        return allocate(parts, have, interval, latency, self.weights)

    # Which intervals are possible

    def feasible(self, interval: int) -> Interval | None:
        """The interval, if all fits at it, nearly; None: it does not."""
        if interval < 1:
            return None
        for pairs in self.pairs:
            beats = self.streams.choose(interval, pairs)
            if beats is not None and self._fits(interval, beats):
                return Interval(interval, pairs)
        return None

    def _fits(self, interval: int, beats: Beats) -> bool:
        """Whether all fits, between streams of given lanes and pixels."""
        parts = self.parts(beats)
        slowest = [part.table.limit(interval) for part in parts]
        if not all(slowest):
            return False
        # Bandwidth is what there is in an interval; all else only depends on the ways there are.
        same = interval if self.external else max(slowest, default=1)
        key = same, tuple(beats.lanes.values()), tuple(beats.pixels.values())
        if key not in self._answers:
            share, self._prices = fits(parts, self.have(interval), interval, prices=self._prices)
            self._answers[key] = share <= 1
        return self._answers[key]

    def scarcest(self, interval: int, pairs: bool) -> str:
        """The resource that a design for an interval is short of; ``"stream"`` if streams are."""
        beats = self.streams.choose(interval, pairs) if interval else None
        if beats is None:
            return "stream"
        have = self.have(interval)
        share, prices = fits(self.parts(beats), have, interval, exact=True)
        if not share or not np.isfinite(share):
            return "stream"
        return RESOURCES[int((prices * np.maximum(have, 1e-6)).argmax())]

    def least(self, low: int) -> Interval:
        """The shortest interval at which all fits, not below one at which it may.

        Raises
        ------
        :exc:`HwgenError`
            If nothing fits at any.
        """
        steps, slowest = [low], max(self.slow)
        while (high := int(steps[-1] * 1.3) + 1) <= slowest:
            steps.append(high)
        # It is near what multipliers alone allow.
        k = max(bisect_right(steps, self.quick) - 1, 0)
        if not any(self.feasible(n) for n in chain(steps[k : k + 2], self._probes(low))):
            raise HwgenError(refusal(self))
        while k and self.feasible(steps[k]):
            k -= 1
        while (good := self.feasible(steps[k])) is None:
            k += 1
            if k == len(steps):
                raise HwgenError(refusal(self))
        low = steps[max(k - 1, 0)]
        while good.cycles > low * STEP + 1:
            middle = (low + good.cycles) // 2
            if found := self.feasible(middle):
                good = found
            else:
                low = middle
        return good

    def _probes(self, low: int) -> list[int]:
        """Intervals at which it is asked whether anything fits."""
        most = max(self.slow)
        doubled = [low << k for k in range(1, (most // low).bit_length())]
        return [*self.slow, *(n for n in doubled if n < most)]

    @property
    def slow(self) -> list[int]:
        """Cycles at which designs are small: they need not be smallest at the slowest, for few
        lanes fill memories badly, but beyond that nothing becomes smaller."""
        slowest = 8 * max(self.graph.macs, max(t.size for t in self.graph.types.values()))
        return [*(n for n in (16 * self.quick, 128 * self.quick) if n < slowest), slowest]

    # Designs

    def design(self, allocation: Allocation, interval: int, beats: Beats) -> DesignPoint:
        """The design point of an allocation."""
        design = DesignPoint(self.board.name, self.clock, family=self.board.family)
        return fill_in(design, self.graph, allocation, interval, beats, self.external)

    def build(self, allocation: Allocation, interval: int, beats: Beats) -> Sized:
        """The design of an allocation, planned and scheduled, with its memories."""
        design, netlist, timing = sized(self.graph, self.design(allocation, interval, beats))
        design, netlist = assign_memories(self.graph, design, netlist, self.board)
        need = netlist.resources()
        self._note(timing.interval, vector(need))
        lack = lacking(need, self.usable)
        if lack and (not self.lacking or _excess(lack) < _excess(self.lacking)):
            self.lacking = lack
        return Sized(design, Built(allocation, netlist, timing, need))

    def learn(self, built: Built) -> None:
        """Learn from a design; see :class:`hwgen.dse.design.learned.Learned`."""
        self._answers = {}
        self.learned.learn(built, self.offered, self.external)

    def look(self, interval: int) -> None:
        """Learn from a design that would meet an interval if the device were large enough."""
        while (beats := self.streams.choose(interval, self.pairs[0])) is None:
            interval *= 2
        have = np.full(len(RESOURCES), PLENTY)
        while (allocation := allocate(self.parts(beats), have, interval)) is None:
            interval *= 2
        _, netlist, timing = sized(self.graph, self.design(allocation, interval, beats))
        self.learn(Built(allocation, netlist, timing, netlist.resources()))

    def explore(self, interval: int) -> None:
        """Look at slower designs, for the curve of intervals against resources."""
        for factor in SLOWER:
            slower = int(interval * factor)
            beats = self.streams.choose(slower, self.pairs[0])
            if beats is not None:
                allocation = self.allocate(self.parts(beats), slower)
                if allocation is not None:
                    self._note(slower, allocation.takes + self.learned.missing)

    def _note(self, interval: int, takes: np.ndarray) -> None:
        """Remember a design that was looked at."""
        on_chip = takes[ON_CHIP]
        self.explored.append({
            "interval_cycles": int(interval),
            **{name: round(float(n))
               for name, n in zip(RESOURCES[ON_CHIP], on_chip, strict=True)},
            "fits": bool((on_chip <= vector(self.usable)[ON_CHIP] + 0.5).all()),
        })


def _excess(lack: list[Lack]) -> float:
    """By how many times a design is too large for a board, by what it lacks most."""
    return max(each.need / max(each.have, 1) for each in lack)

