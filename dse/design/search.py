"""The search: the shortest interval for which everything fits the board.

For an interval every stream gets the fewest lanes and pixels a beat that carry a frame
(:mod:`hwgen.dse.design.streams`), every op a table of its foldings
(:mod:`hwgen.dse.design.foldings`), and the device is divided among them
(:mod:`hwgen.dse.design.allocate`); the interval is found by bisection.  Then the design is planned
and scheduled.  What its queues, buffers and control take beyond the tables is known now, so the
device is divided again with what is left, until both agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from hwgen.boards import Board
from hwgen.design import DesignPoint
from hwgen.device.cost import Resources
from hwgen.dse.design.allocate import allocate
from hwgen.dse.design.bounds import Bounds, bounds
from hwgen.dse.design.foldings import RESOURCES
from hwgen.dse.design.memories import vector
from hwgen.dse.design.state import PLENTY, STEP, SearchState, over
from hwgen.dse.design.streaming import External
from hwgen.dse.design.streams import Streams
from hwgen.dse.sparse.statistics import Statistics
from hwgen.dse.sparse.ways import as_measured
from hwgen.errors import HwgenError
from hwgen.ir import (
    AveragePool,
    Conv,
    Graph,
    MaxPool,
    split_rows,
)
from hwgen.netlist import Netlist
from hwgen.plan import plan
from hwgen.timing import Timing, sized

__all__ = ["OBJECTIVES", "OFFCHIP", "Found", "check_design", "design_for", "search"]

OBJECTIVES = ("throughput", "latency")
PASSES = 6
SLOW_LOOKS = (4, 16)
"""How much slower designs are that are looked at if none fits."""
LARGE_ROWS = (0.05, 0.025, 0.01)
"""Shares of the on-chip memory from which on the rows that a window keeps may be off chip; the last
is tried if nothing fits otherwise, for that takes many LUTs."""
OFFCHIP = ("auto", "never", "prefer")
"""When off-chip memory is used: where a design is short of memory; not at all; wherever it can."""
WORTH = 1.03
"""How much faster a design must be to be worth another pass."""


@dataclass(frozen=True)
class Found:
    """A design and how good it is.

    Members
    -------
    design, netlist, timing : the design, with all depths and capacities
    bounds : what no design of dense work can beat, and what none can that multiplies by DSPs alone
    limit : the resource that is scarcest, or ``"stream"``, or ``"target"`` if no more was wanted
    explored : designs on the way and beyond, as ``report.json`` lists them
    seconds : time that the search took
    """

    design: DesignPoint
    netlist: Netlist
    timing: Timing
    bounds: Bounds
    limit: str
    explored: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def gap(self) -> float:
        """How much longer the interval is than the bound, as a share; negative only if zeros are
        passed over."""
        return self.timing.interval / max(self.bounds.cycles, 1) - 1

    @property
    def dsp_gap(self) -> float:
        """The same beside what DSPs alone could reach; negative if the fabric multiplies too."""
        return self.timing.interval / max(self.bounds.dsp_cycles, 1) - 1

    @property
    def bottlenecks(self) -> list[str]:
        """The blocks that set the interval."""
        return [name for name, config in self.netlist.blocks.items()
                if config.interval == self.netlist.interval]

    def advice(self) -> list[str]:
        """What to change to go faster."""
        if self.limit == "stream":
            return ["The widest stream sets the interval: only a smaller --size makes it faster."]
        if self.limit == "target":
            return ["The design is as fast as it was to be: a higher --target-fps makes it faster."]
        what = {
            "dsp": "DSPs are used up, and so are LUTs to multiply with",
            "lut": "LUTs are used up",
            "ff": "Flip-flops are used up",
            "bram18": "Block memory is used up",
            "uram": "On-chip memory is used up",
            "bandwidth": "The bandwidth of off-chip memory is used up",
        }[self.limit]
        helps = "a larger board"
        if self.limit in ("bram18", "uram", "lut", "ff", "bandwidth"):
            helps += ", fewer bits for weights (--precision w4a8)"
        return [f"{what}: {helps} or a smaller --size makes it faster."]

    def plain(self) -> dict:
        """What ``report.json`` says about the search."""
        return {
            "bounds": asdict(self.bounds), "bound_cycles": self.bounds.cycles, "gap": self.gap,
            "dsp_bound_cycles": self.bounds.dsp_cycles, "dsp_gap": self.dsp_gap,
            "limit": self.limit, "bottlenecks": self.bottlenecks, "advice": self.advice(),
            "explored": self.explored,
        }


def check_design(graph: Graph, board: Board, design: DesignPoint, timing: Timing) -> Found:
    """A design that was given, if it fits its board.

    Raises
    ------
    :exc:`HwgenError`
        If it does not.
    """
    board.check_clock(design.clock_mhz, "The design's clock_mhz")
    design = replace(design, family=board.family)
    netlist = plan(graph, design)
    check_multipliers(netlist, board)
    check_fits(netlist, board)
    shares = vector(netlist.resources()) / np.maximum(vector(board.resources), 1)
    streams = Streams(graph)
    return Found(design, netlist, timing, bounds(graph, board, streams, design.clock_mhz),
                 RESOURCES[int(shares.argmax())])


def check_multipliers(netlist: Netlist, board: Board) -> None:
    """Raise :exc:`HwgenError`, naming block and field, if a multiplier is not the board's."""
    legal = ("", board.multiplier, "fabric")
    for name, config in netlist.blocks.items():
        for choice in ("multiplier", "requantiser_multiplier"):
            if choice in config.folding_fields and (value := getattr(config, choice)) not in legal:
                raise HwgenError(
                    f"Node {name!r}: {choice} must be {board.multiplier!r} or 'fabric' on board "
                    f"{board.name}, not {value!r}"
                )


def check_fits(netlist: Netlist, board: Board) -> None:
    """Raise :exc:`HwgenError` if a design is larger than a board; it names the resource, and the
    block or the queue that takes most of it."""
    need = netlist.resources()
    for name in over(need, board.resources):
        takes = {repr(block): getattr(config.resources(netlist.family), name)
                 for block, config in netlist.blocks.items()}
        for edge in netlist.edges:
            if edge.source[0] is not None:
                config, k = netlist.blocks[edge.source[0]], edge.source[1]
                queue = Resources.memory(
                    config.outputs[k].width, config.queue_depths[k], config.queue_styles[k],
                    netlist.family)
                takes[f"the queue {edge.name!r}"] = getattr(queue, name)
                takes[repr(edge.source[0])] -= getattr(queue, name)
        largest = max(takes, key=lambda part: takes[part])
        raise HwgenError(
            f"The design needs {getattr(need, name)} {name}, {takes[largest]} of them for "
            f"{largest}; board {board.name} has {getattr(board.resources, name)}: give another "
            f"design, or choose a larger board"
        )


def design_for(graph: Graph, board: Board, interval: int, pairs: bool = False) -> DesignPoint:
    """The cheapest design that meets an interval, whether or not it fits; not sized yet.

    Raises
    ------
    :exc:`HwgenError`
        If no design is as fast.
    """
    state = SearchState(graph, board, 0.0)
    chosen = state.streams.choose(interval, pairs)
    if chosen is not None:
        found = allocate(state.parts(*chosen), np.full(len(RESOURCES), PLENTY), interval)
        if found is not None:
            return state.design(found, interval, *chosen)
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
    offchip : when queues and weights may be in off-chip memory, one of :data:`OFFCHIP`
    statistics : of the network's zeros, for convolutions that pass over them where that pays
    progress : called with what is at work

    Raises
    ------
    :exc:`HwgenError`
        If nothing fits, or the target is out of reach.
    """
    for name, value, legal in (("Objective", objective, OBJECTIVES), ("Offchip", offchip, OFFCHIP)):
        if value not in legal:
            raise HwgenError(f"{name} must be one of {', '.join(legal)}, not {value!r}")
    clock = clock_mhz or board.clock_mhz
    board.check_clock(clock)
    if target_fps > clock * 1e6:
        raise HwgenError(f"{target_fps:g} frames a second are out of reach on {board.name} at "
                         f"{clock:g} MHz: a frame takes a cycle at least")
    begin = time.perf_counter()
    target = int(clock * 1e6 / target_fps) if target_fps else 0
    found: list[Found] = []
    failure = None
    # What sparse layers take beside the tables is known less well: never be worse for them.
    for given in dict.fromkeys((None, statistics)):
        try:
            found.append(_search(graph, board, clock_mhz, target, target_fps, objective, offchip,
                                 given, progress))
        except HwgenError as error:
            failure = error
    if not found:
        assert failure is not None
        raise failure
    best = min(found, key=lambda found: _cost(found, target)) if found[1:] else found[0]
    return replace(best, seconds=time.perf_counter() - begin)


def _search(
    graph: Graph, board: Board, clock_mhz: float, target: int, target_fps: float, objective: str,
    offchip: str, statistics: Statistics | None, progress: Callable[[str], None],
) -> Found:
    """The best design, with or without sparse convolutions; see :func:`search`."""
    state = SearchState(graph, board, clock_mhz, statistics)
    bound = bounds(graph, board, state.streams, state.clock)
    state.quick = max(bound.dsp_cycles, 1)
    if offchip == "prefer" and state.offered is None:
        raise HwgenError(f"Board {board.name} has no off-chip memory for --offchip prefer")
    state.look(max(bound.dsp_cycles, target, 1))
    base = state
    best, failure = None, None
    progress("memory on chip")
    if offchip != "prefer":
        try:
            best = _passes(state, bound, target, target_fps, progress)
        except HwgenError as error:
            if offchip == "never" or state.offered is None:
                raise
            failure = error
    short = best is None or best.limit in ("bram18", "uram")
    splits: dict[tuple[str, ...], float] = {}
    if base.offered and offchip != "never" and short:
        splits[()] = 1.0
        for share in LARGE_ROWS:
            splits.setdefault(large_windows(graph, board, share), share)
    for split, share in splits.items():
        if split:
            if best and (best.limit != "bram18" or share == LARGE_ROWS[-1]):
                break
            base = SearchState(split_all(graph, split), board, clock_mhz, statistics)
            base.quick = state.quick
        external = base.offered
        while external is not None:
            bits = external.ports.data_bits
            progress(f"off-chip memory, {bits} bits a port{', and line buffers' if split else ''}")
            outside = base.with_external(external, offchip == "prefer")
            if split:
                outside.look(base.quick)
            try:
                found = _passes(outside, bound, target, target_fps, progress)
            except HwgenError as error:
                failure = error
            else:
                if best is None or found.timing.interval < best.timing.interval:
                    best = replace(found, design=replace(found.design, split=split))
                    state = outside
            external = None if split else _narrower(external, best)
    if best is None:
        raise failure or HwgenError(state.hopeless())
    if objective == "latency":
        progress("latency")
        best = quicker(state, best)
    if best.netlist.sparse and statistics is not None:
        progress("cycles as they were measured")
        best = measured(best, statistics, state.usable)
    progress("what slower designs take")
    state.explore(best.timing.interval)
    return replace(best, explored=state.explored)


def _narrower(external: External, best: Found | None) -> External | None:
    """Narrower ports, if they may be what a design needs: block memories are scarce, and what it
    moves would pass."""
    narrow = external.narrower
    if narrow is None or best is None:
        return narrow
    layout = best.netlist.offchip
    moved = (layout.reads + layout.writes) / best.timing.interval if layout else 0
    return narrow if best.limit == "bram18" and moved < narrow.bytes_per_cycle else None


def _cost(found: Found, target: int) -> tuple[int, int, int]:
    """What is to be small: cycles beyond a target, then DSPs, then LUTs."""
    need = found.netlist.resources()
    return max(found.timing.interval, target), need.dsp, need.lut


def measured(found: Found, statistics: Statistics, usable: Resources) -> Found:
    """A design with the cycles that its sparse convolutions take, computed exactly."""
    graph, split = found.netlist.graph, found.design.split
    for balanced in (True, False):
        design = as_measured(graph, replace(found.design, split=()), statistics, balanced)
        design, netlist, timing = sized(graph, design)
        if not over(netlist.resources(), usable):
            break
    return replace(found, design=replace(design, split=split), netlist=netlist, timing=timing)


def large_windows(graph: Graph, board: Board, share: float) -> tuple[str, ...]:
    """Nodes whose windows keep rows that are large for a board."""
    held = 18432 * board.bram18 + 72 * 4096 * board.uram
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


def quicker(state: SearchState, found: Found) -> Found:
    """The same interval, with ops made faster by what is left over."""
    interval = found.timing.interval
    have = state.have(interval)
    for pairs in state.pairs:
        chosen = state.streams.choose(interval, pairs)
        for _ in range(3):
            if chosen is None:
                break
            allocation = state.allocate(state.parts(*chosen), interval, True, have)
            if allocation is None:
                break
            design, netlist, timing, need = state.build(allocation, interval, *chosen)
            if over(need, state.usable):
                have = have - np.maximum(vector(need) - vector(state.usable), 0) * 1.1
            elif (timing.interval, timing.latency) < (interval, found.timing.latency):
                design = replace(design, split=found.design.split)
                found = replace(found, design=design, netlist=netlist, timing=timing)
                break
            else:
                break
    return found


def _passes(
    state: SearchState, bound: Bounds, target: int, target_fps: float,
    progress: Callable[[str], None],
) -> Found:
    """Divide the device, plan and schedule, until both agree: the best design on the way."""
    board, best = state.board, None
    low = max(bound.stream, target, 1)
    looks = [] if target else [state.quick * n for n in SLOW_LOOKS]
    for number in range(PASSES):
        progress(f"dividing the device, pass {number + 1}")
        while True:
            try:
                interval, pairs = state.least(low)
                break
            except HwgenError:
                if best is not None:
                    return best
                if not looks:
                    raise
                # What the tables miss may be less in a slower design.
                state.look(looks.pop(0))
        if target and interval > target:
            raise HwgenError(
                f"{target_fps:g} frames a second are out of reach on {board.name} at "
                f"{state.clock:g} MHz: lower --target-fps or choose a larger board"
            )
        step = STEP
        while True:
            chosen = state.streams.choose(interval, pairs)
            assert chosen is not None
            parts = state.parts(*chosen)
            allocation = state.allocate(parts, interval)
            if allocation is not None:
                break
            interval, step = int(interval * step) + 1, step * step
            if interval > max(state.slow):
                # Divisible layers would fit, whole ones do not.
                raise HwgenError(state.hopeless())
        progress(f"schedule at {interval:,} cycles")
        design, netlist, timing, need = state.build(allocation, interval, *chosen)
        good = not over(need, state.usable)
        if good and (best is None or timing.interval < best.timing.interval):
            limit = state.scarcest(timing.interval - 1, pairs)
            if target:
                limit = "target"
            elif timing.interval <= bound.stream * STEP:
                limit = "stream"
            best = Found(design, netlist, timing, bound, limit)
        state.learn(netlist, need, timing, allocation)
        # What is left over, now that it is known better, may make it faster: once, but for tiles,
        # whose buffers only show when they are built.
        enough = target or (number and state.external is None)
        shorter = int(timing.interval / WORTH)
        if good and (enough or shorter < low or not state.feasible(shorter)[0]):
            break
    if best is None:
        raise HwgenError(state.hopeless())
    return best
