"""The search: the shortest interval for which everything fits the board.

For an interval every stream gets the fewest lanes and pixels a beat that carry a frame
(:mod:`hwgen.dse.design.streams`), every op a table of its foldings
(:mod:`hwgen.dse.design.tables`), and the device is divided among them
(:mod:`hwgen.dse.design.allocate`); the interval is found by bisection
(:mod:`hwgen.dse.design.state`).  Then the design is planned and scheduled.  What its queues,
buffers and control take beyond the tables is known now (:mod:`hwgen.dse.design.learned`), so the
device is divided again with what is left, until both agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from hwgen.boards import Board
from hwgen.design import DesignPoint
from hwgen.device.cost import Resources
from hwgen.dse.design.allocate import Allocation, allocate
from hwgen.dse.design.amounts import PLENTY, RESOURCES, vector
from hwgen.dse.design.bounds import Bounds, bounds
from hwgen.dse.design.found import STREAM, TARGET, Found
from hwgen.dse.design.refusal import lacking, refusal
from hwgen.dse.design.state import STEP, Interval, SearchState, Sized
from hwgen.dse.design.streaming import External
from hwgen.dse.design.streams import Beats
from hwgen.dse.sparse.statistics import Statistics
from hwgen.dse.sparse.ways import as_measured
from hwgen.errors import HwgenError
from hwgen.ir import AveragePool, Conv, Graph, MaxPool, split_rows
from hwgen.timing import sized

__all__ = ["OBJECTIVES", "OFFCHIP_POLICIES", "design_for", "search"]

OBJECTIVES = ("throughput", "latency")
OFFCHIP_POLICIES = ("auto", "never", "prefer")
"""When off-chip memory is used: where a design is short of memory; not at all; wherever it can."""
PASSES = 6
"""Times that the device is divided, at most, until division and plan agree."""
SLOW_LOOKS = (4, 16)
"""How much slower designs are that are looked at if none fits."""
LARGE_ROWS = (0.05, 0.025, 0.01)
"""Shares of the on-chip memory from which on the rows that a window keeps may be off chip; the last
is tried if nothing fits otherwise, for that takes many LUTs."""
FAR = 1.1
"""How much longer an interval may be than one at which whole parts do not fit."""
WORTH = 1.03
"""How much faster a design must be to be worth another pass."""


@dataclass(frozen=True)
class Goal:
    """What a search is for.

    Members
    -------
    cycles : of a frame, to reach with as little as possible; 0: as few as can be
    fps : the same in frames a second
    objective, offchip : see :func:`search`
    progress : called with what is at work
    """

    cycles: int
    fps: float
    objective: str
    offchip: str
    progress: Callable[[str], None]


def design_for(graph: Graph, board: Board, interval: int, pairs: bool = False) -> DesignPoint:
    """The cheapest design that meets an interval, whether or not it fits; not sized yet.

    Raises
    ------
    :exc:`HwgenError`
        If no design is as fast.
    """
    state = SearchState(graph, board, 0.0)
    beats = state.streams.choose(interval, pairs)
    if beats is not None:
        found = allocate(state.parts(beats), np.full(len(RESOURCES), PLENTY), interval)
        if found is not None:
            return state.design(found, interval, beats)
    raise HwgenError(f"No design needs at most {interval} cycles a frame")


def search(
    graph: Graph, board: Board, *, clock_mhz: float = 0.0, target_fps: float = 0.0,
    objective: str = "throughput", offchip: str = "auto", statistics: Statistics | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Found:
    """The best design for a board.

    Parameters
    ----------
    graph : integer graph
    board : what it must fit
    clock_mhz : clock; 0: the board's default
    target_fps : frames a second to reach with as little as possible; 0: as many as fit
    objective : ``"throughput"``; or ``"latency"``: at the shortest interval, the rest of the board
        makes ops faster than they need to be
    offchip : when queues and weights may be in off-chip memory, one of :data:`OFFCHIP_POLICIES`
    statistics : of the network's zeros, for convolutions that pass over them where that pays
    progress : called with what is at work

    Raises
    ------
    :exc:`HwgenError`
        If nothing fits, or the target is out of reach.
    """
    for name, value, legal in (
        ("Objective", objective, OBJECTIVES), ("Offchip", offchip, OFFCHIP_POLICIES),
    ):
        if value not in legal:
            raise HwgenError(f"{name} must be one of {', '.join(legal)}, not {value!r}")
    clock = clock_mhz or board.clock_mhz
    board.check_clock(clock)
    if target_fps > clock * 1e6:
        raise HwgenError(f"{target_fps:g} frames a second are out of reach on {board.name} at "
                         f"{clock:g} MHz: a frame takes a cycle at least")
    begin = time.perf_counter()
    goal = Goal(int(clock * 1e6 / target_fps) if target_fps else 0, target_fps, objective, offchip,
                progress)
    found: list[Found] = []
    failure = None
    # What sparse layers take beside the tables is known less well: never be worse for them.
    for given in dict.fromkeys((None, statistics)):
        try:
            found.append(_search(SearchState(graph, board, clock_mhz, given), goal, given))
        except HwgenError as error:
            failure = error
    if not found:
        assert failure is not None
        raise failure
    best = min(found, key=lambda found: _cost(found, goal)) if found[1:] else found[0]
    return replace(best, seconds=time.perf_counter() - begin)


def _cost(found: Found, goal: Goal) -> tuple[int, int, int]:
    """What is to be small: cycles beyond a target, then DSPs, then LUTs."""
    need = found.netlist.resources()
    return max(found.timing.interval, goal.cycles), need.dsp, need.lut


class _Best:
    """The best design so far.

    Members
    -------
    found : the design; None: none fits
    state : of the search that found it; of the first one, if none fits
    failure : why the last search failed, if one did
    """

    def __init__(self, state: SearchState, bound: Bounds, goal: Goal) -> None:
        self.found: Found | None = None
        self.state, self.bound, self.goal = state, bound, goal
        self.failure: HwgenError | None = None

    def attempt(self, state: SearchState, split: tuple[str, ...] = ()) -> None:
        """Search, with the rows of some nodes split; keep what is found if it is faster."""
        try:
            found = _passes(state, self.bound, self.goal)
        except HwgenError as error:
            self.failure = error
            return
        if self.found is None or found.timing.interval < self.found.timing.interval:
            self.found = replace(found, design=replace(found.design, split=split))
            self.state = state

    @property
    def short_of_memory(self) -> bool:
        """Whether more memory would help."""
        return self.found is None or self.found.limit in ("bram18", "uram")


def _search(state: SearchState, goal: Goal, statistics: Statistics | None) -> Found:
    """The best design, with or without sparse convolutions; see :func:`search`."""
    bound = bounds(state.graph, state.board, state.streams, state.clock)
    state.quick = max(bound.dsp_cycles, 1)
    if goal.offchip == "prefer" and state.offered is None:
        raise HwgenError(f"Board {state.board.name} has no off-chip memory, so that offchip cannot "
                         f"be 'prefer'")
    state.look(max(bound.dsp_cycles, goal.cycles, 1))
    best = _Best(state, bound, goal)
    goal.progress("memory on chip")
    if goal.offchip != "prefer":
        best.attempt(state)
        if best.failure and (goal.offchip == "never" or state.offered is None):
            raise best.failure
    if state.offered and goal.offchip != "never" and best.short_of_memory:
        _off_chip(state, best, statistics)
    found = best.found
    if found is None:
        raise best.failure or HwgenError(refusal(state))
    if goal.objective == "latency":
        goal.progress("latency")
        found = quicker(best.state, found)
    if found.netlist.sparse and statistics is not None:
        goal.progress("cycles as they were measured")
        found = measured(found, statistics, state.usable)
    goal.progress("what slower designs take")
    best.state.explore(found.timing.interval)
    return replace(found, explored=best.state.explored)


# Off-chip memory

def _off_chip(state: SearchState, best: _Best, statistics: Statistics | None) -> None:
    """Search with off-chip memory; then, if memory is still short, with large rows split too."""
    goal, board = best.goal, state.board
    prefer = goal.offchip == "prefer"
    assert state.offered is not None
    for external in _ports(state.offered, best):
        goal.progress(f"off-chip memory, {external.ports.data_bits} bits a port")
        best.attempt(state.with_external(external, prefer))
    shares: dict[tuple[str, ...], float] = {}
    for share in LARGE_ROWS:
        shares.setdefault(large_windows(state.graph, board, share), share)
    shares.pop((), None)
    for split, share in shares.items():
        if best.found and (best.found.limit != "bram18" or share == LARGE_ROWS[-1]):
            break
        parted = SearchState(split_all(state.graph, split), board, state.clock, statistics)
        parted.quick = state.quick
        assert parted.offered is not None
        goal.progress(f"off-chip memory, {parted.offered.ports.data_bits} bits a port, and line "
                      f"buffers")
        outside = parted.with_external(parted.offered, prefer)
        outside.look(parted.quick)
        best.attempt(outside, split)


def _ports(external: External | None, best: _Best) -> Iterator[External]:
    """Ports to try: narrower ones, too, if they may be what the best design then needs.

    Narrower ports take fewer block memories, so they help if these are scarce, and what the design
    moves would pass.
    """
    while external is not None:
        yield external
        external = external.narrower
        if external is not None and best.found is not None:
            memory_map = best.found.netlist.offchip
            moved = 0.0
            if memory_map:
                moved = (memory_map.reads + memory_map.writes) / best.found.timing.interval
            if best.found.limit != "bram18" or moved >= external.bytes_per_cycle:
                return


def large_windows(graph: Graph, board: Board, share: float) -> tuple[str, ...]:
    """Nodes whose windows keep rows that are large for a board."""
    held = board.resources.memory_bits
    found = []
    for node in graph.nodes:
        if isinstance(node.op, Conv | MaxPool | AveragePool) and node.op.window.kernel:
            tensor, window = graph.types[node.inputs[0]], node.op.window
            kept = (window.extent[0] - 1) * tensor.size // tensor.spatial[0] * tensor.bits
            if window.kernel[0] > 1 and kept > share * held:
                found.append(node.name)
    return tuple(found)


def split_all(graph: Graph, names: tuple[str, ...]) -> Graph:
    """A graph with the rows of some nodes split."""
    for name in names:
        graph = split_rows(graph, name)
    return graph


# What is done with the best design

def measured(found: Found, statistics: Statistics, usable: Resources) -> Found:
    """A design with the cycles that its sparse convolutions take, computed exactly."""
    graph, split = found.netlist.graph, found.design.split
    for balanced in (True, False):
        design = as_measured(graph, replace(found.design, split=()), statistics, balanced)
        design, netlist, timing = sized(graph, design)
        if not lacking(netlist.resources(), usable):
            break
    return replace(found, design=replace(design, split=split), netlist=netlist, timing=timing)


def quicker(state: SearchState, found: Found) -> Found:
    """The same interval, with ops made faster by what is left over."""
    for pairs in state.pairs:
        beats = state.streams.choose(found.timing.interval, pairs)
        if beats is not None:
            found = _quicker(state, found, beats)
    return found


def _quicker(state: SearchState, found: Found, beats: Beats) -> Found:
    """The same between given streams; in three tries, each with less of what was too much."""
    interval = found.timing.interval
    have = state.have(interval)
    for _ in range(3):
        allocation = state.allocate(state.parts(beats), interval, True, have)
        if allocation is None:
            break
        design, built = state.build(allocation, interval, beats)
        if not lacking(built.need, state.usable):
            timing = built.timing
            if (timing.interval, timing.latency) < (interval, found.timing.latency):
                design = replace(design, split=found.design.split)
                return replace(found, design=design, netlist=built.netlist, timing=timing)
            break
        have = have - np.maximum(vector(built.need) - vector(state.usable), 0) * 1.1
    return found


# Dividing, planning and dividing again

def _passes(state: SearchState, bound: Bounds, goal: Goal) -> Found:
    """Divide the device, plan and schedule, until both agree: the best design on the way."""
    best = None
    low = max(state.streams.least_interval(), goal.cycles, 1)
    looks = [] if goal.cycles else [state.quick * n for n in SLOW_LOOKS]
    for number in range(PASSES):
        goal.progress(f"dividing the device, pass {number + 1}")
        try:
            shortest = _shortest(state, low, looks if best is None else [])
        except HwgenError:
            if best is None:
                raise
            return best
        if goal.cycles and shortest.cycles > goal.cycles:
            raise HwgenError(
                f"{goal.fps:g} frames a second are out of reach on {state.board.name} at "
                f"{state.clock:g} MHz: ask for a lower target_fps or choose a larger board"
            )
        design, built = _divided(state, shortest, goal)
        interval = built.timing.interval
        good = not lacking(built.need, state.usable)
        if good and (best is None or interval < best.timing.interval):
            limit = _limit(state, interval, shortest.pairs, bound, goal)
            best = Found(design, built.netlist, built.timing, bound, limit)
        state.learn(built)
        # What is left over, now that it is known better, may make it faster: once, but for tiles,
        # whose buffers only show when they are built.
        enough = goal.cycles or (number and state.external is None)
        shorter = int(interval / WORTH)
        if good and (enough or shorter < low or not state.feasible(shorter)):
            break
    if best is None:
        raise HwgenError(refusal(state))
    return best


def _shortest(state: SearchState, low: int, looks: list[int]) -> Interval:
    """The shortest interval at which all fits.

    If there is none, slower designs are looked at, of which the tables may miss less: ``looks`` are
    their intervals, from which those that were looked at are taken.
    """
    while True:
        try:
            return state.least(low)
        except HwgenError:
            if not looks:
                raise
            state.look(looks.pop(0))


def _divided(state: SearchState, shortest: Interval, goal: Goal) -> Sized:
    """A design for an interval, or for one that is a little longer; planned and scheduled."""
    low, interval, step = 0, shortest.cycles, STEP
    while (found := _allocated(state, interval, shortest.pairs)) is None:
        low, interval, step = interval, int(interval * step) + 1, step * step
        if interval > max(state.slow):
            # Divisible layers would fit, whole ones do not.
            raise HwgenError(refusal(state))
    while low and interval > FAR * low + 1:
        middle = (low + interval) // 2
        if nearer := _allocated(state, middle, shortest.pairs):
            interval, found = middle, nearer
        else:
            low = middle
    beats, allocation = found
    goal.progress(f"schedule at {interval:,} cycles")
    return state.build(allocation, interval, beats)


def _allocated(
    state: SearchState, interval: int, pairs: bool
) -> tuple[Beats, Allocation] | None:
    """Streams for an interval, and a way for every part; None: not all fits."""
    beats = state.streams.choose(interval, pairs)
    assert beats is not None
    allocation = state.allocate(state.parts(beats), interval)
    return None if allocation is None else (beats, allocation)


def _limit(state: SearchState, interval: int, pairs: bool, bound: Bounds, goal: Goal) -> str:
    """What keeps a design from being faster; see :class:`Found`."""
    if goal.cycles:
        return TARGET
    if interval <= state.streams.least_interval() * STEP:
        return STREAM
    return state.scarcest(interval - 1, pairs)
