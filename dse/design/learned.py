"""What designs that were planned and scheduled show: sizes of buffers and queues, and what the
tables of foldings miss.

The next division of the device knows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from hwgen.blocks.base import BlockConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.registry import block_config
from hwgen.boards import Board
from hwgen.design import OFF_CHIP, EdgeName, Folding
from hwgen.device.cost import Resources
from hwgen.device.storage import BLOCK_BITS
from hwgen.dse.design.allocate import Allocation
from hwgen.dse.design.amounts import BANDWIDTH, LUT, RESOURCES, Amounts, vector
from hwgen.dse.design.memories import memory, ways
from hwgen.dse.design.streaming import External, TileSizes
from hwgen.dse.design.table import Column
from hwgen.errors import HwgenError
from hwgen.netlist import Edge, Netlist
from hwgen.parts.stream import StreamType
from hwgen.timing import Timing

__all__ = ["QUEUE", "Built", "Evicted", "Kept", "Learned"]

QUEUE = "queue "
"""Before the names of edges, where queues are parts."""

LARGE_LUTS = 300
"""LUTs of a queue in LUTs above which it is decided where the queue is."""

LARGE_BITS = 6 * BLOCK_BITS
"""Bits above which a queue may be off chip."""


@dataclass(frozen=True)
class Evicted:
    """A queue off chip.

    Members
    -------
    style : kind of the memory of what stays on the chip; "": whichever is cheaper
    """

    style: str


class Kept(NamedTuple):
    """The ways to build what is kept for a while, on the chip and off it."""

    on_chip: list[Column]
    off_chip: list[Column]


class Built(NamedTuple):
    """A design that was planned and scheduled.

    Members
    -------
    allocation : what it was made of
    netlist, timing : its plan and its schedule
    need : what it takes
    """

    allocation: Allocation
    netlist: Netlist
    timing: Timing
    need: Resources


@dataclass
class Learned:
    """What is known of buffers, queues and of what the tables miss.

    Members
    -------
    board : what is built for
    sites : pixels that the buffers of windows hold, by node
    tiles : sizes that tiles need, by node and rows of the tile
    queues : queues that are large, by edge
    orders : blocks that put large parts of frames in another order, by node
    missing : amounts that designs take beyond what the tables say, shape ``(resources,)``
    """

    board: Board
    sites: dict[str, int] = field(default_factory=dict)
    tiles: dict[str, dict[int, TileSizes]] = field(default_factory=dict)
    queues: dict[str, Kept] = field(default_factory=dict)
    orders: dict[str, Kept] = field(default_factory=dict)
    missing: np.ndarray = field(default_factory=lambda: np.zeros(len(RESOURCES)))

    def without_tiles(self) -> Learned:
        """A copy that learns for itself, and knows nothing yet of tiles."""
        return replace(self, sites=dict(self.sites), tiles={})

    def learn(self, built: Built, offered: External | None, external: External | None) -> None:
        """Learn from a design.

        Parameters
        ----------
        built : the design
        offered : off-chip memory, if queues may be there one day
        external : off-chip memory, if it is used now
        """
        self.queues = {}
        known = sum((np.array(column.takes) for name, column in built.allocation.columns.items()
                     if not name.startswith(QUEUE) and name not in self.orders),
                    np.zeros(len(RESOURCES)))
        earlier, self.orders = self.orders, {}
        edges = {edge.source: edge for edge in built.netlist.edges}
        before = {edge.sink: edge for edge in built.netlist.edges}
        config: Any
        for name, config in built.netlist.blocks.items():
            column = built.allocation.columns.get(name)
            if column is not None and column.window is not None:
                width, depth, copies, style = config.buffer
                known = known + copies * memory(
                    width, depth, style, self.board.family) - column.window
                if config.tile_sites:
                    known = known + self._learn_tiles(name, config, edges[name, 0], built, offered)
                    continue
                self.sites[name] = config.window.sites * config.window.banks
            if name in earlier or (config.window is None and config.buffer is not None):
                known = known + self._learn_order(name, config, earlier.get(name), built, offered)
                if config.evicts:
                    continue
            if config.evicts and column is not None:
                # The table of an embedding, whose column says all that it takes.
                continue
            if config.evicts:
                self.queues[_use(before[name, 0])] = Kept(
                    ways(config.stream.width, config.queue_depths[0], self.board),
                    self._evicted(config),
                )
                known = known + self._takes(config)
                continue
            for k, (stream, depth, style) in enumerate(zip(
                config.outputs, config.queue_depths, config.queue_styles, strict=True
            )):
                luts = memory(stream.width, depth, "distributed", self.board.family)[LUT]
                if luts > LARGE_LUTS:
                    known = known + self._learn_queue(
                        edges[name, k], stream, depth, style, built, offered)
        self.missing = vector(built.need) - known
        if external is not None:
            streams = (*built.netlist.inputs.values(), *built.netlist.outputs.values())
            self.missing[BANDWIDTH] = sum(
                t.tensor.size * -(-t.tensor.bits // 8) for t in streams)

    def _learn_tiles(
        self, name: str, config: Any, edge: Edge, built: Built, offered: External | None
    ) -> np.ndarray:
        """Learn the sizes of a tiled convolution.

        Two tiles of its queue put results in order, which is what its table knows of; if the queue
        is longer, results wait for others.

        Returns
        -------
        takes
            Amounts of the queue beyond the two tiles, if that is a queue of its own.
        """
        assert config.order is not None
        (stream,), (depth,), (style,) = config.outputs, config.queue_depths, config.queue_styles
        ordered = min(depth, config.order.whole(2 * config.order.tile_beats))
        self.tiles.setdefault(name, {})[config.tile] = TileSizes(config.window.sites, ordered)
        more = depth - ordered
        if more * stream.width < LARGE_BITS:
            return np.zeros(len(RESOURCES))
        return self._learn_queue(edge, stream, more, style, built, offered)

    def _learn_queue(
        self, edge: Edge, stream: StreamType, depth: int, style: str, built: Built,
        offered: External | None,
    ) -> np.ndarray:
        """Take up a queue, for which it is decided where it is; returns the amounts it takes."""
        off_chip: list[Column] = []
        if offered is not None and depth * stream.width >= LARGE_BITS:
            off_chip = self._eviction(edge, stream, depth, built, offered)
        self.queues[_use(edge)] = Kept(ways(stream.width, depth, self.board), off_chip)
        return memory(stream.width, depth, style, self.board.family)

    def _eviction(
        self, edge: Edge, stream: StreamType, depth: int, built: Built, offered: External
    ) -> list[Column]:
        """The ways to build a queue off chip; none, if it cannot be there or somebody waits."""
        sink, ports = edge.sink[0], offered.ports
        if sink is not None and sink not in built.netlist.ops:
            return []
        config = EvictionConfig(stream=stream, axi=ports.axi, burst=ports.burst,
                                memory_latency=ports.memory_latency, depths=(depth,))
        # Beats wait until a burst is there, which then goes both ways.
        burst = ports.burst * config.beats_per_word * built.timing.interval // stream.beats
        if built.timing.waits[edge.name] < 2 * ports.memory_latency + 2 * burst:
            return []
        return self._evicted(config)

    def _evicted(self, config: EvictionConfig) -> list[Column]:
        """The ways to build a queue off chip: kinds of memory of what stays on the chip."""
        return [
            Column(Amounts(*self._takes(replace(config, styles=(style,)))), 0, Evicted(style))
            for style in ("", "block")
        ]

    def _learn_order(
        self, name: str, config: Any, earlier: Kept | None, built: Built, offered: External | None
    ) -> np.ndarray:
        """Take up a block that puts frames in another order, for which it is decided where they
        are meanwhile; returns the amounts it takes, if it is large.
        """
        if config.evicts:
            # Its buffer on the chip is known from when it was there.
            assert earlier is not None
            self.orders[name] = earlier
            return self._takes(config)
        width, depth, *_ = config.buffer
        if memory(width, depth, "distributed", self.board.family)[LUT] <= LARGE_LUTS:
            return np.zeros(len(RESOURCES))
        # Queues are parts of their own.
        alone = replace(config, depths=(), styles=())
        on_chip = [
            replace(column, takes=Amounts(*self._takes(replace(alone, window_style=column.choice))),
                    choice=Folding(window_style=column.choice))
            for column in ways(width, depth, self.board)]
        off_chip: list[Column] = []
        if offered is not None and width * depth >= LARGE_BITS:
            off_chip = self._order_off_chip(name, config, built, offered)
        self.orders[name] = Kept(on_chip, off_chip)
        return self._takes(alone)

    def _order_off_chip(
        self, name: str, config: BlockConfig, built: Built, offered: External
    ) -> list[Column]:
        """The way to build a block with its buffer off chip; none, if it cannot be there."""
        node = next(node for node in built.netlist.graph.nodes if node.name == name)
        folding, lanes = Folding(window_style=OFF_CHIP), config.outputs[0].elements
        try:
            off_chip = block_config(node.op, config.inputs, folding, lanes, ports=offered.ports)
        except HwgenError:
            return []
        return [Column(Amounts(*self._takes(off_chip)), off_chip.interval, folding)]

    def _takes(self, config: Any) -> np.ndarray:
        """Amounts that a block takes, shape ``(resources,)``."""
        takes = vector(config.resources(self.board.family))
        if config.offchip is not None:
            takes[BANDWIDTH] = config.offchip.moved(config.axi.word_bytes)
        return takes


def _use(edge: Edge) -> str:
    """The name of an edge, without what stands between its ends."""
    return str(EdgeName.parse(edge.name).whole)
