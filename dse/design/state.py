"""What a search knows: tables of foldings, sizes of buffers and queues, and what tables miss.

A design that was planned and scheduled shows how large its buffers and queues are, and what control
takes beside them; the next division of the device knows it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np

from hwgen.blocks.base import BlockConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.registry import block_config
from hwgen.boards import Board
from hwgen.design import OFF_CHIP, DesignPoint, EdgeName, Folding
from hwgen.device.arithmetic import signed_width
from hwgen.device.cost import Resources
from hwgen.dse.design.allocate import WEIGHTS, Allocation, Part, allocate, fits
from hwgen.dse.design.foldings import RESOURCES, Column, ConvTable, FixedTable
from hwgen.dse.design.memories import assign_memories, vector, ways
from hwgen.dse.design.streaming import External
from hwgen.dse.design.streams import Streams, fold_choices, is_depthwise
from hwgen.dse.sparse.layer import Layer
from hwgen.dse.sparse.statistics import Statistics
from hwgen.errors import HwgenError
from hwgen.ir import (
    AveragePool,
    Convolution,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Mul,
    Node,
    Pad,
    Resize,
    TensorType,
)
from hwgen.netlist import Edge, Netlist
from hwgen.parts.stream import StreamType
from hwgen.timing import Timing, sized

__all__ = ["PLENTY", "STEP", "SearchState", "over"]

SLOWER = (1.3, 2, 4)
"""How much longer the intervals are of designs that are looked at for comparison."""
QUEUE = "queue "
"""Before the names of edges, where queues are parts."""
RESERVE = np.array([0, 0.015, 0.015, 0, 0, 0.2])
"""Share of each resource that is held back while it is divided."""
LUT = RESOURCES.index("lut")
LARGE = 300
"""LUTs above which it is decided for each queue where it is."""
PREFER = np.array([1, 1, 1, 8, 8, 0.05])
"""How much more resources count if off-chip memory is preferred."""
LARGE_BITS = 6 * 18432
"""Bits above which a queue may be off chip."""
PLENTY = 1e9
"""As much of a resource as no design needs."""
STEP = 1.002
"""Intervals closer than this are alike."""


def over(need: Resources, have: Resources) -> list[str]:
    """Names of the resources of which more is needed than there is."""
    return [f.name for f in fields(Resources) if getattr(need, f.name) > getattr(have, f.name)]


def _excess(lacking: dict[str, tuple[int, int]]) -> float:
    """By how many times a design is too large for a board, by what it lacks most."""
    return max(need / max(has, 1) for need, has in lacking.values())


@dataclass(frozen=True)
class _Evicted:
    """A queue off chip, and the memory of what is left of it."""

    style: str


def _buffer(config: BlockConfig, family: str) -> np.ndarray:
    """What the memory of a convolution's window takes."""
    window = config.window
    assert window is not None
    width, copies = window.word_lanes * window.input.tensor.bits, window.tap_lanes * window.banks
    return copies * vector(Resources.memory(
        width, max(window.depth, 2), window.style, family))


def _bursts(node: Node, graph: Graph) -> bool:
    """Whether a node, left to itself, would send much at once that its inputs did not."""
    if isinstance(node.op, Pad):
        before, after = (sum(max(pads[k], 0) for pads in node.op.pads) for k in range(2))
        return after > 0 and not before
    single = graph.types[node.inputs[0]].pixels == 1
    return isinstance(node.op, Mul) or (isinstance(node.op, Resize) and single)


def _use(edge: Edge) -> str:
    """The name of an edge, without what stands between its ends."""
    return str(EdgeName.parse(edge.name).whole)


class SearchState:
    """The state of a search: what is known of buffers, queues and of what the tables miss."""

    def __init__(
        self, graph: Graph, board: Board, clock_mhz: float, statistics: Statistics | None = None
    ) -> None:
        self.graph, self.board, self.statistics = graph, board, statistics
        self.clock = clock_mhz or board.clock_mhz
        self.streams = Streams(graph)
        self.usable = board.usable
        self.offered = External.of_board(board, self.clock)
        self.external: External | None = None
        self.weights = WEIGHTS
        self.sites: dict[str, int] = {}
        self.tiles: dict[str, dict[int, tuple[int, int]]] = {}
        self.queues: dict[str, tuple[list[Column], list[Column]]] = {}
        self.missing = np.zeros(len(RESOURCES))
        self.lacking: dict[str, tuple[int, int]] = {}
        self.explored: list[dict] = []
        self.quick = 1
        self._tables: dict[tuple, ConvTable] = {}
        self._answers: dict[tuple, bool] = {}
        self._prices: np.ndarray | None = None
        self.convolutions = list(self._convolutions())
        depthwise = any(is_depthwise(conv) for _, conv, _ in self.convolutions)
        self.pairs = [True, False] if depthwise else [False]

    def with_external(self, external: External | None, prefer: bool) -> SearchState:
        """The same with off-chip memory, which takes as much as it can if it is preferred."""
        other = copy(self)
        other.sites, other.tiles, other._answers = dict(self.sites), {}, {}
        other.external = other.offered = external
        other.weights = WEIGHTS * (PREFER if prefer else 1)
        return other

    def allocate(self, parts: list[Part], interval: int, latency: bool = False,
                 have: np.ndarray | None = None) -> Allocation | None:
        """Divide what there is."""
        have = self.have(interval) if have is None else have
        return allocate(parts, have, interval, latency, self.weights)

    def _convolutions(self) -> Iterator[tuple[Node, Convolution, tuple]]:
        """Nodes that are convolutions, the convolutions, and what their foldings depend on."""
        for node in self.graph.nodes:
            tensor = self.graph.types[node.inputs[0]]
            conv = node.op.as_conv(tensor)
            if conv is not None:
                yield node, conv, _geometry(conv, tensor)

    def have(self, interval: int) -> np.ndarray:
        """What can be divided: a little less than there is, for logic is not known exactly."""
        have = vector(self.usable)
        if self.external is not None:
            have[-1] = interval * self.external.bytes_per_cycle
        return have * (1 - RESERVE) - self.missing

    def parts(self, lanes: dict[str, int], pixels: dict[str, int]) -> list[Part]:
        """What is to be built between streams of given lanes and pixels."""
        parts = []
        for node, conv, geometry in self.convolutions:
            source = node.inputs[0]
            known = self.tiles.get(node.name, {}) if self.external else {}
            key = (
                geometry, lanes[source], lanes[node.name],
                pixels[source], pixels[node.name], self.sites.get(node.name, 0),
                self.external, tuple(sorted(known.items())), self._measured(node.name),
            )
            # Nodes that are alike share a table.
            if key not in self._tables:
                self._tables[key] = ConvTable(
                    conv, self.graph.types[source], *key[1:5], self.board.multiplier,
                    self.board.uram > 0, key[5], self.external, dict(known), key[8],
                    self.board.family,
                )
            parts.append(Part((node.name,), self._tables[key]))
        for node in self.graph.nodes:
            if isinstance(node.op, AveragePool | GlobalAveragePool | Mul):
                parts.append(Part((node.name,), self._scaled(node, lanes, pixels)))
        for edge, (columns, evicted) in self.queues.items():
            more = evicted if self.external else []
            parts.append(Part((QUEUE + edge,), FixedTable([*columns, *more])))
        return parts

    def _measured(self, name: str) -> Layer | None:
        """Statistics of a node, if it may be sparse."""
        return self.statistics.layers.get(name) if self.statistics else None

    def _scaled(self, node: Node, lanes: dict[str, int], pixels: dict[str, int]) -> FixedTable:
        """An op without weights that multiplies: by the board's multipliers, or in the fabric."""
        columns = []
        for multiplier in dict.fromkeys((self.board.multiplier, "fabric")):
            folding = Folding(multiplier=multiplier)
            takes = vector(self._config(node, folding, lanes, pixels).resources(self.board.family))
            columns.append(Column(tuple(takes), 0, folding))
        # The rest of it is counted with all that the tables miss.
        least = np.minimum.reduce([np.array(c.takes) for c in columns])
        return FixedTable([replace(c, takes=tuple(np.array(c.takes) - least)) for c in columns])

    def _config(self, node: Node, folding: Folding, lanes: dict, pixels: dict):
        inputs = tuple(
            StreamType(self.graph.types[t], lanes[t], pixels[t]) for t in node.inputs
        )
        return block_config(node.op, inputs, folding, lanes[node.name], pixels[node.name])

    def look(self, interval: int) -> None:
        """Learn from a design that would meet an interval if the device were large enough."""
        while (chosen := self.streams.choose(interval, self.pairs[0])) is None:
            interval *= 2
        while True:
            allocation = allocate(self.parts(*chosen), np.full(len(RESOURCES), PLENTY), interval)
            if allocation is not None:
                break
            interval *= 2
        _, netlist, timing = sized(self.graph, self.design(allocation, interval, *chosen))
        self.learn(netlist, netlist.resources(), timing, allocation)

    def feasible(self, interval: int) -> tuple[bool, bool]:
        """Whether all fits at an interval, nearly; and whether with pixels in pairs."""
        if interval < 1:
            return False, False
        for pairs in self.pairs:
            chosen = self.streams.choose(interval, pairs)
            if chosen is not None and self._fits(interval, *chosen):
                return True, pairs
        return False, False

    def _fits(self, interval: int, lanes: dict[str, int], pixels: dict[str, int]) -> bool:
        """Whether all fits, between streams of given lanes and pixels."""
        parts = self.parts(lanes, pixels)
        slowest = [part.table.limit(interval) for part in parts]
        if not all(slowest):
            return False
        # Bandwidth is what there is in an interval; all else only depends on the ways there are.
        same = interval if self.external else max(slowest, default=1)
        key = same, tuple(lanes.values()), tuple(pixels.values())
        if key not in self._answers:
            share, self._prices = fits(parts, self.have(interval), interval, prices=self._prices)
            self._answers[key] = share <= 1
        return self._answers[key]

    def scarcest(self, interval: int, pairs: bool) -> str:
        """The resource that a design for an interval is short of; ``"stream"`` if streams are."""
        chosen = self.streams.choose(interval, pairs) if interval else None
        if chosen is None:
            return "stream"
        have = self.have(interval)
        share, prices = fits(self.parts(*chosen), have, interval, exact=True)
        if not share or not np.isfinite(share):
            return "stream"
        return RESOURCES[int((prices * np.maximum(have, 1e-6)).argmax())]

    def least(self, low: int) -> tuple[int, bool]:
        """The shortest interval at which all fits, not below one at which it may."""
        steps, slowest = [low], max(self.slow)
        while (high := int(steps[-1] * 1.3) + 1) <= slowest:
            steps.append(high)
        # It is near what multipliers alone allow.
        k = max(bisect_right(steps, self.quick) - 1, 0)
        if not any(self.feasible(n)[0] for n in chain(steps[k : k + 2], self.probes(low))):
            raise HwgenError(self.hopeless())
        while k and self.feasible(steps[k])[0]:
            k -= 1
        while not (good := self.feasible(steps[k]))[0]:
            k += 1
            if k == len(steps):
                raise HwgenError(self.hopeless())
        low, high = steps[max(k - 1, 0)], steps[k]
        while high > low * STEP + 1:
            middle = (low + high) // 2
            if (found := self.feasible(middle))[0]:
                high, good = middle, found
            else:
                low = middle
        return high, good[1]

    def probes(self, low: int) -> list[int]:
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

    def hopeless(self) -> str:
        """Why nothing fits: the scarcest resource, and what takes most of it."""
        looks = []
        for interval in self.slow:
            chosen = self.streams.choose(interval, False)
            if chosen is None:
                # No streams are so quick; at the slowest there always are some.
                continue
            parts = self.parts(*chosen)
            share, prices = fits(parts, self.have(interval), interval, exact=True)
            looks.append((share, prices, interval, parts))
        share, prices, interval, parts = min(looks, key=lambda look: look[0])
        have, advice = self.have(interval), "choose a larger board, a smaller --size"
        if share > 1:
            advice += " or fewer bits (--precision, as w4a8 or w4a4)"
        begin = f"Board {self.board.name} is too small for this network"
        for part in parts:
            part.table.limit(interval)
        # The least of each resource that there can be, whatever it takes of the others.
        each = np.stack([part.table.cheapest(np.eye(len(have)))[1] for part in parts])
        least = np.array([len(part.names) for part in parts]) @ each
        if (least > have).any():
            worst = int(np.where(
                least > have, (least + self.missing) / np.maximum(have + self.missing, 1e-6), 0
            ).argmax())
            largest = int(each[:, worst].argmax())
            most = (f", {each[largest, worst]:,.0f} of them for {parts[largest].names[0]!r}"
                    if each[largest, worst] else "")
            return (
                f"{begin}: it needs at least {least[worst] + self.missing[worst]:,.0f} "
                f"{RESOURCES[worst]} of {have[worst] + self.missing[worst]:,.0f} that may be used"
                f"{most}: {advice}"
            )
        # Less of one is more of others: those that have a price are short together, unless more of
        # one alone would not help.
        scarce = prices * np.maximum(have, 0) > 1e-3
        # With more of them, quicker designs come into question too.
        quicker = [(n, self.parts(*chosen)) for n in (self.quick, 4 * self.quick)
                   if (chosen := self.streams.choose(n, False)) is not None]
        tries = [*quicker, *((n, parts) for _, _, n, parts in looks)] if share > 1 else []
        others = np.zeros(len(RESOURCES), bool)
        for k in np.flatnonzero(scarce)[np.argsort(prices[scarce] * have[scarce])]:
            if share > 1 and scarce.sum() > 1:
                others[k] = True
                others[k] = all(
                    fits(parts, np.where(others, PLENTY, self.have(n)), n, exact=True)[0] > 1
                    for n, parts in tries)
                scarce[k] = not others[k]
        names = " and ".join(name for name, is_short in zip(RESOURCES, scarce, strict=True)
                             if is_short)
        if share > 1:
            return (f"{begin}: each design needs more of {names} than there is of them, "
                    f"{share:.2f} times as much at least: {advice}")
        if self.lacking:
            needs = " and ".join(f"{need:,} {name} of {has:,} that may be used"
                                 for name, (need, has) in self.lacking.items())
            return f"{begin}, by a little: the smallest design found needs {needs}: {advice}"
        return f"{begin}, by a little: no way to divide its {names} was found: {advice}"

    def design(self, allocation: Allocation, interval: int, lanes: dict, pixels: dict
               ) -> DesignPoint:
        """The design point of an allocation."""
        design = DesignPoint(
            self.board.name, self.clock, lanes=dict(lanes),
            pixels={name: n for name, n in pixels.items() if n > 1}, family=self.board.family,
        )
        for name, column in allocation.columns.items():
            edge, choice = name.removeprefix(QUEUE), column.choice
            if isinstance(choice, _Evicted):
                design.memories[edge] = OFF_CHIP
                if choice.style:
                    design.memories[str(EdgeName.parse(edge).part_behind(OFF_CHIP))] = choice.style
        if self.external is not None:
            design.ports = self.external.ports
        for node in self.graph.nodes:
            if node.name in allocation.columns:
                folding = allocation.columns[node.name].choice
                assert isinstance(folding, Folding)
                design.foldings[node.name] = folding
            if self.external is not None and _bursts(node, self.graph):
                # Evenly, for bursts would have to be kept by who takes them.
                stream = StreamType(self.graph.types[node.name], lanes[node.name],
                                    pixels[node.name])
                design.foldings[node.name] = replace(
                    design.foldings.get(node.name, Folding()),
                    pace=interval * stream.beats_per_site // stream.beats,
                )
            if isinstance(node.op, MaxPool | AveragePool):
                window = node.op.window
                beats = self.graph.types[node.name].size // lanes[node.name]
                taps = next((int(n) for n in fold_choices(window.taps)
                             if beats * -(-window.taps // n) <= interval), window.taps)
                design.foldings[node.name] = replace(
                    design.foldings.get(node.name, Folding()), tap_lanes=taps
                )
        return design

    def explore(self, interval: int) -> None:
        """Look at slower designs, for the curve of intervals against resources."""
        for factor in SLOWER:
            slower = int(interval * factor)
            chosen = self.streams.choose(slower, self.pairs[0])
            if chosen is not None:
                allocation = self.allocate(self.parts(*chosen), slower)
                if allocation is not None:
                    self.note(slower, allocation.takes + self.missing)

    def build(
        self, allocation: Allocation, interval: int, lanes: dict, pixels: dict
    ) -> tuple[DesignPoint, Netlist, Timing, Resources]:
        """The design of an allocation, planned and scheduled, and what it takes."""
        design, netlist, timing = sized(
            self.graph, self.design(allocation, interval, lanes, pixels)
        )
        design, netlist = assign_memories(self.graph, design, netlist, self.board)
        need = netlist.resources()
        self.note(timing.interval, need)
        lacking = {name: (getattr(need, name), getattr(self.usable, name))
                   for name in over(need, self.usable)}
        if lacking and (not self.lacking or _excess(lacking) < _excess(self.lacking)):
            self.lacking = lacking
        return design, netlist, timing, need

    def note(self, interval: int, need: Resources | np.ndarray) -> None:
        """Remember a design that was looked at."""
        takes = vector(need) if isinstance(need, Resources) else need
        self.explored.append({
            "interval_cycles": int(interval),
            **{name: round(float(n)) for name, n in zip(RESOURCES[:-1], takes[:-1], strict=True)},
            "fits": bool((takes[:-1] <= vector(self.usable)[:-1] + 0.5).all()),
        })

    def learn(
        self, netlist: Netlist, need: Resources, timing: Timing, allocation: Allocation
    ) -> None:
        """Take from a netlist what the tables miss, and how large buffers and queues are."""
        self.queues, self._answers = {}, {}
        known = sum((np.array(column.takes) for name, column in allocation.columns.items()
                     if not name.startswith(QUEUE)), np.zeros(len(RESOURCES)))
        edges = {edge.source: edge for edge in netlist.edges}
        before = {edge.sink: edge for edge in netlist.edges}
        config: Any
        for name, config in netlist.blocks.items():
            column = allocation.columns.get(name)
            if column is not None and column.window:
                known = known + _buffer(config, self.board.family) - column.window
                if config.tile_sites:
                    known = known + self._learn_tiles(name, config, edges[name, 0], netlist, timing)
                    continue
                self.sites[name] = config.window.sites * config.window.banks
            if config.evicts:
                edge = _use(before[name, 0])
                self.queues[edge] = (
                    ways(config.stream.width, config.queue_depths[0], self.board),
                    self._evicted(config),
                )
                takes = vector(config.resources(self.board.family))
                takes[-1] = config.offchip.reads + config.offchip.writes
                known = known + takes
                continue
            for k, (stream, depth, style) in enumerate(zip(
                config.outputs, config.queue_depths, config.queue_styles, strict=True
            )):
                edge = edges[name, k]
                columns = ways(stream.width, depth, self.board)
                if columns[0].takes[LUT] > LARGE:
                    evicted = self._eviction(netlist, edge, stream, depth, timing)
                    self.queues[_use(edge)] = columns, evicted
                    known = known + vector(
                        Resources.memory(stream.width, depth, style, self.board.family))
        self.missing = vector(need) - known
        if self.external is not None:
            streams = (*netlist.inputs.values(), *netlist.outputs.values())
            frames = sum(t.tensor.size * -(-t.tensor.bits // 8) for t in streams)
            self.missing[-1] = frames

    def _learn_tiles(
        self, name: str, config: Any, edge: Edge, netlist: Netlist, timing: Timing
    ) -> np.ndarray:
        """The sizes of a tiled convolution; returns what is known of its queue beyond its table.

        Two tiles of the queue put results in order; if it is longer, results wait for others.
        """
        assert config.order is not None
        (stream,), (depth,), (style,) = config.outputs, config.queue_depths, config.queue_styles
        ordered = min(depth, config.order.whole(2 * config.order.cycle))
        self.tiles.setdefault(name, {})[config.tile] = config.window.sites, ordered
        more = depth - ordered
        if more * stream.width < LARGE_BITS:
            return np.zeros(len(RESOURCES))
        columns = ways(stream.width, more, self.board)
        evicted = self._eviction(netlist, edge, stream, more, timing)
        self.queues[_use(edge)] = columns, evicted
        return vector(Resources.memory(stream.width, more, style, self.board.family))

    def _eviction(
        self, netlist: Netlist, edge: Edge, stream: StreamType, depth: int, timing: Timing
    ) -> list[Column]:
        """The queue of an edge off chip, if it can be there and nobody waits for it."""
        sink, external = edge.sink[0], self.offered
        if (external is None or depth * stream.width < LARGE_BITS
                or (sink is not None and sink not in netlist.ops)):
            return []
        ports = external.ports
        config = EvictionConfig(stream=stream, axi=ports.axi, burst=ports.burst,
                                memory_latency=ports.memory_latency, depths=(depth,))
        # Beats wait until a burst is there, which then goes both ways.
        burst = ports.burst * config.beats_per_word * timing.interval // stream.beats
        if timing.waits[edge.name] < 2 * ports.memory_latency + 2 * burst:
            return []
        return self._evicted(config)

    def _evicted(self, config: EvictionConfig) -> list[Column]:
        columns = []
        for style in ("", "block"):
            styled = replace(config, styles=(style,))
            takes = vector(styled.resources(self.board.family))
            takes[-1] = styled.offchip.reads + styled.offchip.writes
            columns.append(Column(tuple(takes), 0, _Evicted(style)))
        return columns


def _geometry(conv: Convolution, tensor: TensorType) -> tuple:
    """What foldings of a convolution depend on, beside its streams."""
    return (
        type(conv), conv.window, conv.repeat, conv.crop, conv.groups, conv.cout,
        conv.weight.shape[-1], conv.weight_bits, conv.weight_limit, tensor.shape, tensor.bits,
        signed_width(*conv.accumulator_range(tensor)), conv.requantise.multiplier_bits,
        int(conv.requantise.shift.min()), conv.output.bits,
    )
