"""Planning: from integer graph and design point to the netlist, op by op and edge by edge."""

from __future__ import annotations

import math
from dataclasses import replace

from hwgen.blocks.base import BlockConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.blocks.lane_change import LaneChangeConfig
from hwgen.blocks.registry import block_config
from hwgen.design import OFF_CHIP, DesignPoint, EdgeName, Folding
from hwgen.errors import HwgenError, naming
from hwgen.ir import (
    Graph,
    Node,
    Reshape,
    Table,
    TensorType,
    split_rows,
)
from hwgen.netlist import Edge, Netlist
from hwgen.offchip.memory_map import map_memory
from hwgen.parts.stream import StreamType

__all__ = ["plan"]


def plan(graph: Graph, design: DesignPoint) -> Netlist:
    """The blocks and edges of a design.

    Raises
    ------
    :exc:`HwgenError`
        If the design names unknown nodes or edges, or folds one that has no block, or a folding
        does not fit its op.
    """
    for name in design.split:
        with naming("The design's split"):
            graph = split_rows(graph, name)
    planner = _Planner(graph, design)
    planner.check_names()
    for k, name in enumerate(graph.inputs):
        planner.input(k, name)
    for node in planner.nodes:
        planner.node(node)
    planner.check_foldings()
    for k, name in enumerate(graph.outputs):
        planner.output(k, name)
    return planner.finished()


Port = tuple[str | None, int]
"""A port of a block, or of the outside; see :class:`hwgen.netlist.Edge`."""


class _Planner:
    """Builds a netlist in topological order.

    Members
    -------
    netlist : what is there so far
    nodes : those that may have a block of their own
    origin : per tensor, the one whose stream it is: a reshaped tensor is the same stream
    uses : per tensor, who takes it, one after the other
    streams : per tensor, the stream that its producer sends
    sources : per tensor, the ports that are not taken yet
    depths, memories, evicted : what the design says of edges that are not there yet
    """

    def __init__(self, graph: Graph, design: DesignPoint) -> None:
        self.graph, self.design = graph, design
        self.netlist = Netlist(graph, family=design.family)
        self.origin = {name: name for name in graph.types}
        for node in graph.nodes:
            if isinstance(node.op, Reshape):
                self.origin[node.name] = self.origin[node.inputs[0]]
        self.nodes = [node for node in graph.nodes if not isinstance(node.op, Reshape)]
        self.uses: dict[str, list[str]] = {name: [] for name in graph.types}
        for node in self.nodes:
            for tensor in node.inputs:
                self.uses[self.origin[tensor]].append(node.name)
        for name in graph.outputs:
            self.uses[self.origin[name]].append("output")
        self.streams: dict[str, StreamType] = {}
        self.sources: dict[str, list[Port]] = {}
        self.depths = dict(design.depths)
        self.evicted = {name for name, style in design.memories.items() if style == OFF_CHIP}
        self.memories = {name: style for name, style in design.memories.items()
                         if name not in self.evicted}
        self.tables = _tables(graph, self.nodes, self.uses, design)
        self.absorbed = {table.name for table in self.tables.values()}

    # What the design says

    def check_names(self) -> None:
        """Refuse names of nodes and tensors that are not there."""
        design, names = self.design, {node.name for node in self.graph.nodes}
        for name in design.foldings:
            if name not in names:
                raise HwgenError(f"The design folds {name!r}, which is not in the graph")
        for what, values in (("lanes", design.lanes), ("pixels", design.pixels)):
            for name in values:
                if name not in self.graph.types:
                    raise HwgenError(
                        f"The design sets {what} of {name!r}, which is not in the graph")

    def check_foldings(self) -> None:
        """Refuse foldings of nodes that got no block."""
        blocks, ops = self.netlist.blocks, self.netlist.ops
        for name, folding in self.design.foldings.items():
            if name not in blocks and folding != Folding():
                # A reshape, a table that is part of the block before, or a node whose rows are
                # split.
                instead = [block for block, carried in ops.items() if name in carried]
                instead += [f"{name}_window"] if f"{name}_window" in blocks else []
                where = f": fold {instead[0]!r}" if instead else ""
                raise HwgenError(
                    f"The design folds {name!r}, which has no block of its own{where}")

    # Blocks and edges

    def edge(self, tensor: str, k: int) -> EdgeName:
        """The edge of a tensor's use."""
        uses = self.uses[tensor]
        return EdgeName(tensor, uses[k], uses[:k].count(uses[k]))

    def add(self, name: str, config: BlockConfig, edges: list[EdgeName]) -> None:
        """Add a block, with the queues that the design wants on the edges behind it."""
        changes: dict[str, tuple] = {}
        wanted = tuple(self.depths.pop(str(edge), 0) for edge in edges)
        if any(wanted):
            # The least depths take time to find.
            least = wanted if all(wanted) else config.least_depths
            changes["depths"] = tuple(w or d for w, d in zip(wanted, least, strict=True))
        styles = tuple(self.memories.pop(str(edge), "") for edge in edges)
        if any(styles):
            changes["styles"] = styles
        self.netlist.blocks[name] = replace(config, **changes) if changes else config

    def join(self, name: EdgeName, tensor: str, source: Port, sink: Port) -> None:
        """Add an edge."""
        self.netlist.edges.append(Edge(str(name), tensor, source, sink))

    def publish(self, tensor: str, source: Port, stream: StreamType) -> None:
        """Give each use of a tensor an output port of its own."""
        self.streams[tensor] = stream
        count = len(self.uses[tensor])
        if source[0] is not None and count == 1:
            self.sources[tensor] = [source]
            return
        fork = f"fork_{tensor}" if count > 1 else f"fifo_{tensor}"
        self.add(fork, FifoConfig(stream=stream, branches=max(count, 1)),
                 [self.edge(tensor, k) for k in range(count)])
        self.join(EdgeName(tensor, fork), tensor, source, (fork, 0))
        self.sources[tensor] = [(fork, k) for k in range(count)]

    def connect(self, tensor: str, sink: Port, wanted: StreamType) -> None:
        """Take the next use of a tensor, as the sink wants it."""
        type, tensor = self.graph.types[tensor], self.origin[tensor]
        use = name = self.edge(tensor, len(self.uses[tensor]) - len(self.sources[tensor]))
        source, have = self.sources[tensor].pop(0), self.streams[tensor]
        if have.elements != wanted.elements:
            block = f"lanes_{name.block}"
            # Reshaped, lanes need not divide the channels of both shapes.
            flat = (have.flat.tensor if type == self.graph.types[tensor]
                    else TensorType((type.size,), type.quantisation))
            behind = name.part_behind(wanted.elements // have.pixels)
            self.add(block, LaneChangeConfig(
                tensor=flat, lanes_in=have.elements, lanes_out=wanted.elements
            ), [behind])
            self.join(name, tensor, source, (block, 0))
            name, source, have = behind, (block, 0), wanted
        if str(use) in self.evicted:
            # Last of all, for beats would queue in front of whoever takes them late.
            self.evicted.discard(str(use))
            block, ports = f"evict_{use.block}", self.design.ports
            self.join(name, tensor, source, (block, 0))
            name, source = use.part_behind(OFF_CHIP), (block, 0)
            self.add(block, EvictionConfig(
                stream=have, axi=ports.axi, burst=ports.burst, memory_latency=ports.memory_latency
            ), [name])
        self.join(name, tensor, source, sink)

    # Stages

    def input(self, k: int, name: str) -> None:
        """Take in an input of the graph."""
        if not self.uses[name]:
            raise HwgenError(f"Nothing reads the input {name!r}")
        lanes, pixels = self.design.lanes.get(name, 1), self.design.pixels.get(name, 1)
        with naming(f"Input {name!r}"):
            stream = StreamType(self.graph.types[name], lanes, pixels)
        self.netlist.inputs[name] = stream
        self.publish(name, (None, k), stream)

    def node(self, node: Node) -> None:
        """Add a node's block, unless another one has taken it in."""
        if node.name in self.absorbed:
            return
        types, design = self.graph.types, self.design
        table = self.tables.get(node.name)
        carried = (node,) if table is None else (node, table)
        tensors = carried[-1].outputs
        lanes, pixels = design.lanes.get(tensors[0], 1), design.pixels.get(tensors[0], 1)
        with naming(f"Node {node.name!r}"):
            config = block_config(
                node.op, tuple(self._taken(t) for t in node.inputs),
                design.foldings.get(node.name, Folding()), lanes, pixels, design.ports,
                table.op if table is not None else None,
            )
        for port, tensor in enumerate(node.inputs):
            self.connect(tensor, (node.name, port), config.inputs[port])
        for tensor in tensors:
            if not self.uses[tensor]:
                raise HwgenError(f"Nothing reads the tensor {tensor!r}")
        self.add(node.name, config, [
            self.edge(t, 0) if len(self.uses[t]) == 1 else EdgeName(t, f"fork_{t}")
            for t in tensors])
        self.netlist.ops[node.name] = tuple(each.name for each in carried)
        for port, (tensor, stream) in enumerate(zip(tensors, config.outputs, strict=True)):
            self.publish(tensor, (node.name, port),
                         StreamType(types[tensor], stream.elements // pixels, pixels))

    def _taken(self, tensor: str) -> StreamType:
        """The stream of a tensor that a node reads, under the node's shape."""
        type, stream = self.graph.types[tensor], self.streams[self.origin[tensor]]
        return stream if type == self.graph.types[self.origin[tensor]] else _reshaped(type, stream)

    def output(self, k: int, name: str) -> None:
        """Lead a tensor to an output of the graph."""
        type, have = self.graph.types[name], self.streams[self.origin[name]]
        self.netlist.outputs[name] = stream = StreamType(
            type, math.gcd(have.lanes, type.channels),
            have.pixels if self.origin[name] == name else 1,
        )
        self.connect(name, (None, k), stream)

    def finished(self) -> Netlist:
        """The netlist, its off-chip memory laid out; nothing of the design may be left over."""
        if self.depths:
            raise HwgenError(
                f"The design sets the depth of {min(self.depths)!r}, which is not an edge")
        if wrong := self.evicted or self.memories:
            raise HwgenError(
                f"The design sets the memory of {min(wrong)!r}, which is not an edge")
        ports = self.design.ports
        self.netlist.offchip = map_memory(self.netlist.blocks, ports.axi, ports.count, ports.rate)
        return self.netlist


def _tables(
    graph: Graph, nodes: list[Node], uses: dict[str, list[str]], design: DesignPoint
) -> dict[str, Node]:
    """Tables that need no block of their own, by the convolution whose only results they take.

    Unless the design has something to say of what is between them.
    """
    made = {tensor: node for node in nodes for tensor in node.outputs}
    tables = {}
    for node in nodes:
        (source, *_), before = node.inputs, made.get(node.inputs[0])
        if (
            isinstance(node.op, Table) and not node.op.by_channel
            and before is not None and uses[source] == [node.name]
            and before.op.as_conv(graph.types[before.inputs[0]]) is not None
            and all(values.get(source, 1) == values.get(node.name, 1)
                    for values in (design.lanes, design.pixels))
            and not any(edge.startswith(f"{source}>{node.name}")
                        for edge in (*design.depths, *design.memories))
        ):
            tables[before.name] = node
    return tables


def _reshaped(type: TensorType, stream: StreamType) -> StreamType:
    """A stream under another shape: lanes that divide the channels of both."""
    if stream.pixels > 1:
        raise HwgenError(f"A reshaped tensor comes one pixel a beat, not {stream.pixels!r}")
    return StreamType(type, math.gcd(type.channels, stream.lanes))
