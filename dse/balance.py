"""A simple folding search: the same interval for every layer, the least that the DSPs allow.

For an interval T each tensor gets the fewest lanes, and each layer the fewest DSPs, with which it
needs at most T cycles a frame; T is then lowered by bisection until the DSPs are used up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from boards import Board
from hwgen.blocks.arithmetic import signed_width
from hwgen.blocks.base import Resources, block_ram
from hwgen.blocks.mac import chain_length
from hwgen.blocks.multiplier import Packing
from hwgen.design import DesignPoint, Folding
from hwgen.errors import HwgenError
from hwgen.ir import (
    ArgMax,
    AveragePool,
    Convolution,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Mul,
    Node,
    TensorType,
)
from hwgen.pipeline import Netlist, as_conv, block_config
from sim.timing import Timing, sized

__all__ = ["balance", "check_fits", "folded_for", "search"]

USABLE = 0.96
"""Share of the DSPs that is given out: placers need some slack."""


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def _fold_choices(extent: int, step: int = 1) -> np.ndarray:
    """The smallest multiple of ``step`` for each number of folds that an extent can have."""
    lanes = np.arange(step, extent + 1, step)
    folds = -(-extent // lanes)
    return lanes[np.r_[True, folds[1:] < folds[:-1]]]


@dataclass(frozen=True)
class _LaneClass:
    """Tensors that must have the same lanes, because a block between them keeps them."""

    members: tuple[str, ...]
    channels: int
    """Greatest common divisor of the members' channels."""
    elements: int
    """Elements of the largest member."""

    def lanes(self, interval: int) -> int | None:
        """Fewest lanes that carry a frame in an interval."""
        return next((n for n in _divisors(self.channels) if self.elements <= interval * n), None)


def _lane_classes(graph: Graph) -> list[_LaneClass]:
    parent = {name: name for name in graph.types}

    def find(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in graph.nodes:
        changes = as_conv(node.op, graph.types[node.inputs[0]]) is not None
        if not changes and not isinstance(node.op, ArgMax):
            tensors = [*node.inputs, *node.outputs]
            for other in tensors[1:]:
                parent[find(other)] = find(tensors[0])
    groups: dict[str, list[str]] = {}
    for name in graph.types:
        groups.setdefault(find(name), []).append(name)
    return [
        _LaneClass(
            tuple(names),
            math.gcd(*(graph.types[n].channels for n in names)),
            max(graph.types[n].size for n in names),
        )
        for names in groups.values()
    ]


def _fold_conv(
    op: Convolution, tensor: TensorType, interval: int, lanes_in: int, lanes_out: int,
    multiplier: str, memory_price: float,
) -> tuple[Folding, int] | None:
    """The cheapest folding that meets an interval, and its DSPs; None: there is none."""
    # Pixels that its buffer will hold, more or less: the window's rows, and those coming in.
    outer = op.window.extent[0] + op.window.stride[0] - 1 if op.window.taps > 1 else 0
    rows = min(tensor.pixels, outer * math.prod(tensor.spatial[1:]) + 4)
    windows = op.infer(tensor)[0].pixels
    cin, cout = op.weight.shape[-1], op.cout // op.groups
    taps = _fold_choices(op.window.taps)
    packing = Packing.densest(multiplier, tensor.bits, op.weight_bits, op.weight_limit)
    bits = signed_width(*op.accumulator_range(tensor)), op.requantise.multiplier_bits + 1
    shift = packing.device.dsps(max(bits), min(bits))
    best: tuple[tuple, Folding, int] | None = None

    def consider(channels: np.ndarray, pes: np.ndarray, groups: int) -> None:
        nonlocal best
        cl, tl, pe = (a.ravel() for a in np.meshgrid(channels, taps, pes, indexing="ij"))
        steps = -(-op.window.taps // tl) * -(-cin // cl)
        results = pe * groups // lanes_out
        folds = -(-op.groups // groups) * -(-cout // pe)
        cycles = windows * folds * np.maximum(steps, results)
        columns = groups * -(-pe // packing.products)
        dsp = packing.device.dsp * cl * tl * columns
        good = np.flatnonzero(cycles <= interval)
        if not len(good):
            return
        blocks = tl * block_ram(groups * cl * tensor.bits, rows * -(-tensor.channels // cl))
        # Weights are read in as many places as a chain has skews.
        places = -(-chain_length(packing, cl * tl) // 2) if packing.device.sum_bits else 1
        row = groups * pe * cl * tl * packing.word_bits
        blocks += places * block_ram(-(-row // places), math.prod(op.repeat) * folds * steps)
        cost = dsp + memory_price * blocks
        # Cheapest; then few copies of the buffer; then few, long columns.
        k = good[np.lexsort((pe[good], tl[good], cost[good]))[0]]
        key = (float(cost[k]), int(tl[k]), int(pe[k]))
        if best is None or key < best[0]:
            folding = Folding(int(cl[k]), int(tl[k]), groups, int(pe[k]), multiplier=multiplier)
            best = key, folding, int(dsp[k]) + lanes_out * shift

    step = math.gcd(lanes_in, cin)
    pes = _fold_choices(cout, lanes_out) if cout % lanes_out == 0 else np.array([], int)
    consider(_fold_choices(cin, step), pes, 1)
    if op.groups > 1:
        for groups in map(int, _fold_choices(op.groups)[1:]):
            rest = op.groups % groups
            whole = (groups * cout % lanes_out, rest * cout % lanes_out, groups * cin % lanes_in)
            if not any(whole):
                consider(np.array([cin]), np.array([cout]), groups)
    return None if best is None else best[1:]


def _fold_pool(
    node: Node, graph: Graph, interval: int, lanes: int, multiplier: str
) -> Folding | None:
    """The fewest parallel taps with which a pool meets an interval."""
    op, tensor = node.op, graph.types[node.inputs[0]]
    assert isinstance(op, MaxPool | AveragePool)
    beats = op.infer(tensor)[0].size // lanes
    for taps in map(int, _fold_choices(op.window.taps)):
        if beats * -(-op.window.taps // taps) <= interval:
            return Folding(tap_lanes=taps, multiplier=multiplier)
    return None


def folded_for(
    graph: Graph, board: Board, interval: int, memory_price: float = 0.05
) -> tuple[DesignPoint, int] | None:
    """The cheapest design that meets an interval, and its DSPs; None: there is none.

    Parameters
    ----------
    graph : integer graph
    board : only its multiplier counts
    interval : cycles a frame
    memory_price : cost of an 18 Kb block of memory, in DSPs
    """
    design = DesignPoint(board.name, board.clock_mhz)
    for group in _lane_classes(graph):
        lanes = group.lanes(interval)
        if lanes is None:
            return None
        design.lanes.update(dict.fromkeys(group.members, lanes))
    total = 0
    for node in graph.nodes:
        source, lanes = node.inputs[0], design.lanes[node.name]
        conv = as_conv(node.op, graph.types[source])
        if conv is not None:
            found = _fold_conv(
                conv, graph.types[source], interval, design.lanes[source], lanes,
                board.multiplier, memory_price,
            )
            if found is None:
                return None
            design.foldings[node.name], dsp = found
            total += dsp
            continue
        folding = Folding(multiplier=board.multiplier)
        if isinstance(node.op, MaxPool | AveragePool):
            folding = _fold_pool(node, graph, interval, lanes, board.multiplier)
            if folding is None:
                return None
            design.foldings[node.name] = folding
        if isinstance(node.op, AveragePool | GlobalAveragePool | Mul):
            # What else has no weights takes no DSP.
            types = tuple(graph.types[t] for t in node.inputs)
            config = block_config(node.op, types, folding, design.lanes[source], lanes)
            design.foldings[node.name] = folding
            total += config.resources().dsp
    return design, total


def balance(
    graph: Graph, board: Board, budget: int, memory_price: float = 0.05
) -> DesignPoint | None:
    """The design with the shortest interval within a budget of DSPs; None: there is none.

    Parameters
    ----------
    graph, board, memory_price : see :func:`folded_for`
    budget : DSPs that may be used
    """
    high = max(graph.macs, max(t.size for t in graph.types.values())) * 4
    least = folded_for(graph, board, high, memory_price)
    if least is None or least[1] > budget:
        return None
    low, best = 0, least[0]
    while high - low > max(1, high // 2000):
        middle = (low + high) // 2
        found = folded_for(graph, board, middle, memory_price)
        if found is not None and found[1] <= budget:
            high, best = middle, found[0]
        else:
            low = middle
    return best


def check_fits(need: Resources, board: Board) -> None:
    """Raise :exc:`HwgenError`, naming the resource, if a design is larger than a board."""
    have = board.resources
    for name in ("dsp", "bram18", "lut", "ff"):
        wanted, held = getattr(need, name), getattr(have, name)
        if wanted > held:
            raise HwgenError(
                f"The design needs {wanted} {name}, board {board.name} has {held}: "
                f"choose a larger board, a smaller --size or a lower --target-fps"
            )


def search(
    graph: Graph, board: Board, *, clock_mhz: float = 0.0, target_fps: float = 0.0
) -> tuple[DesignPoint, Netlist, Timing]:
    """A balanced design for a board, with all depths and capacities.

    Parameters
    ----------
    graph : integer graph
    board : what it must fit
    clock_mhz : clock; 0: the board's default
    target_fps : frames a second to reach with as few resources as possible; 0: as many as fit

    Raises
    ------
    :exc:`HwgenError`
        If nothing fits, or the target is out of reach.
    """
    clock = clock_mhz or board.clock_mhz
    if target_fps:
        found = folded_for(graph, board, int(clock * 1e6 / target_fps))
        if found is None or found[1] > board.dsp:
            raise HwgenError(
                f"{target_fps:g} frames a second are out of reach on {board.name} at "
                f"{clock:g} MHz: lower --target-fps or choose a larger board"
            )
        design, netlist, timing = sized(graph, replace(found[0], clock_mhz=clock))
        check_fits(netlist.resources(), board)
        return design, netlist, timing
    budget, price, have = int(board.dsp * USABLE), 0.05, board.resources
    need = Resources()
    while True:
        found = balance(graph, board, budget, price)
        if found is None:
            check_fits(need, board)
            raise HwgenError(
                f"Board {board.name} is too small for this network: one multiplier for each layer "
                f"is more than its {board.dsp} DSPs"
            )
        design, netlist, timing = sized(graph, replace(found, clock_mhz=clock))
        need = netlist.resources()
        logic = max(need.lut / have.lut, need.ff / have.ff)
        memory = need.bram18 / max(have.bram18, 1)
        if max(logic, memory) <= 1:
            return design, netlist, timing
        # Too much memory: let it cost more.  Too much of anything else: spend fewer DSPs.
        if memory > 1 and price < 3:
            price *= 3
        elif budget > 16:
            budget = int(budget * max(0.5, 0.97 / max(logic, memory)))
        else:
            check_fits(need, board)
