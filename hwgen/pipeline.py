"""The graph builder: integer graph and design point to one pipeline of blocks.

This is the only place where an op meets its block.  :func:`plan` lists the blocks and the edges
between them (a :class:`Netlist`: configurations only, for timing and totals); :class:`Pipeline`
is the hardware.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from amaranth.hdl import Module
from amaranth.lib import wiring

from hwgen.blocks.argmax import ArgMaxConfig
from hwgen.blocks.base import BlockConfig, Resources, StreamType, shared
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.elementwise import AdderConfig, TableLookupConfig
from hwgen.blocks.gather import GatherConfig
from hwgen.blocks.globalpool import GlobalPoolConfig
from hwgen.blocks.pad import PadConfig
from hwgen.blocks.pool import PoolConfig
from hwgen.blocks.product import ProductConfig
from hwgen.blocks.queue import FifoConfig
from hwgen.blocks.resize import NearestResizeConfig
from hwgen.blocks.route import ConcatenateConfig, LaneChangeConfig, SplitterConfig
from hwgen.design import DesignPoint, Folding
from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    ArgMax,
    AveragePool,
    Concat,
    Convolution,
    GatherChannels,
    Gemm,
    GlobalAveragePool,
    GlobalMaxPool,
    Graph,
    MaxPool,
    Mul,
    Op,
    Pad,
    Reshape,
    Resize,
    Split,
    Table,
    TensorType,
)

__all__ = ["Edge", "Netlist", "Pipeline", "block_config", "plan"]


@dataclass(frozen=True)
class Edge:
    """A stream from an output port to an input port; ``None`` stands for the outside.

    Members
    -------
    name : ``tensor>consumer``
    tensor : name of the tensor that flows
    source, sink : (block name, port index) or, outside, (None, index of graph input or output)
    """

    name: str
    tensor: str
    source: tuple[str | None, int]
    sink: tuple[str | None, int]


@dataclass
class Netlist:
    """Blocks in topological order, and the edges between them.

    Members
    -------
    graph : the integer graph it came from
    blocks : block name to configuration
    ops : block name to the name of the node that it carries out (helpers are missing)
    edges : every stream
    inputs, outputs : tensor names and stream types at the outside
    """

    graph: Graph
    blocks: dict[str, BlockConfig] = field(default_factory=dict)
    ops: dict[str, str] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    inputs: dict[str, StreamType] = field(default_factory=dict)
    outputs: dict[str, StreamType] = field(default_factory=dict)

    @property
    def interval(self) -> int:
        """Cycles a frame: those of the slowest block, or of the widest stream."""
        streams = (*self.inputs.values(), *self.outputs.values())
        return max(
            max(config.interval for config in self.blocks.values()),
            max(stream.beats for stream in streams),
        )

    def resources(self) -> Resources:
        """What all blocks take together."""
        return sum_resources(config.resources() for config in self.blocks.values())


def sum_resources(parts: Iterable[Resources]) -> Resources:
    """Sum of resources."""
    total = Resources()
    for part in parts:
        total += part
    return total


def conv_lanes_in(op: Convolution, lanes: int, folding: Folding) -> int:
    """Most lanes, dividing those of the stream, that a folded convolution can take."""
    word = folding.channel_lanes * folding.group_lanes
    segment = op.weight.shape[-1] * (op.groups if folding.group_lanes > 1 else 1)
    return math.gcd(lanes, word, segment)


def as_conv(op: Op, tensor: TensorType) -> Convolution | None:
    """The convolution that carries out an op, if it is one."""
    if isinstance(op, Gemm):
        return op.as_conv(tensor)
    return op if isinstance(op, Convolution) else None


def block_config(
    op: Op, types: tuple[TensorType, ...], folding: Folding, lanes_in: int, lanes_out: int
) -> BlockConfig:
    """The block that carries out an op.

    Parameters
    ----------
    op : what is computed
    types : types of its inputs
    folding : how it is folded
    lanes_in : lanes of the input stream (convolutions take fewer if their folding needs it)
    lanes_out : lanes of the output; all blocks but convolutions and ArgMax take the same at the
        input
    """
    tensor = types[0]
    conv = as_conv(op, tensor)
    if conv is not None:
        return FoldedConvConfig(
            op=conv, tensor=tensor, lanes_in=conv_lanes_in(conv, lanes_in, folding),
            lanes_out=lanes_out, channel_lanes=folding.channel_lanes,
            tap_lanes=folding.tap_lanes, group_lanes=folding.group_lanes, pe=folding.pe,
            capacity=folding.capacity,
            multiplier=folding.multiplier, products=folding.products,
        )
    if isinstance(op, GlobalAveragePool | GlobalMaxPool):
        return GlobalPoolConfig(op=op, tensor=tensor, lanes=lanes_out,
                                multiplier=folding.multiplier)
    if isinstance(op, MaxPool | AveragePool):
        return PoolConfig(op=op, tensor=tensor, lanes=lanes_out, tap_lanes=folding.tap_lanes,
                          capacity=folding.capacity, multiplier=folding.multiplier)
    if isinstance(op, Resize):
        return NearestResizeConfig(op=op, tensor=tensor, lanes=lanes_out,
                                   capacity=folding.capacity)
    if isinstance(op, Pad):
        return PadConfig(op=op, tensor=tensor, lanes=lanes_out, capacity=folding.capacity)
    if isinstance(op, GatherChannels):
        return GatherConfig(op=op, tensor=tensor, lanes=lanes_out)
    if isinstance(op, ArgMax):
        return ArgMaxConfig(op=op, tensor=tensor, lanes=lanes_in)
    if isinstance(op, Mul):
        return ProductConfig(op=op, tensors=(types[0], types[1]), lanes=lanes_out,
                             multiplier=folding.multiplier)
    if isinstance(op, Table):
        return TableLookupConfig(op=op, tensor=tensor, lanes=lanes_out)
    if isinstance(op, Add):
        return AdderConfig(op=op, tensors=(types[0], types[1]), lanes=lanes_out)
    if isinstance(op, Concat):
        return ConcatenateConfig(tensors=types, lanes=lanes_out)
    if isinstance(op, Split):
        return SplitterConfig(op=op, tensor=tensor, lanes=lanes_out)
    raise HwgenError(f"No block carries out {type(op).__name__}")


def plan(graph: Graph, design: DesignPoint) -> Netlist:
    """The blocks and edges of a design.

    Raises
    ------
    :exc:`HwgenError`
        If the design names unknown nodes or edges, or a folding does not fit its op.
    """
    netlist = Netlist(graph)
    names = {node.name for node in graph.nodes}
    for name in design.foldings:
        if name not in names:
            raise HwgenError(f"The design folds {name!r}, which is not in the graph")
    for name in design.lanes:
        if name not in graph.types:
            raise HwgenError(f"The design sets lanes of {name!r}, which is not in the graph")

    # A reshaped tensor is the same stream: whoever reads it reads the tensor that it comes from.
    origin = {name: name for name in graph.types}
    for node in graph.nodes:
        if isinstance(node.op, Reshape):
            origin[node.name] = origin[node.inputs[0]]
    nodes = [node for node in graph.nodes if not isinstance(node.op, Reshape)]
    # Where each tensor comes from, and (branch by branch) where it goes to.
    sources: dict[str, list[tuple[str | None, int]]] = {}
    uses: dict[str, list[str]] = {name: [] for name in graph.types}
    for node in nodes:
        for tensor in node.inputs:
            uses[origin[tensor]].append(node.name)
    for name in graph.outputs:
        uses[origin[name]].append("output")
    depths = dict(design.depths)

    def edge_name(tensor: str, k: int) -> str:
        same = uses[tensor][:k].count(uses[tensor][k])
        return f"{tensor}>{uses[tensor][k]}" + (f"~{same}" if same else "")

    def depth(name: str) -> int:
        return depths.pop(name, 0)

    def add(name: str, config: BlockConfig, edges: list[str]) -> None:
        wanted = tuple(depth(edge) for edge in edges)
        if any(wanted):
            least = config.least_depths
            full = tuple(w or d for w, d in zip(wanted, least, strict=True))
            config = replace(config, depths=full)
        netlist.blocks[name] = config

    def publish(tensor: str, source: tuple[str | None, int], stream: StreamType) -> None:
        """Give each use of a tensor an output port of its own."""
        count = len(uses[tensor])
        if source[0] is not None and count == 1:
            sources[tensor] = [source]
            return
        fork = f"fork_{tensor}" if count > 1 else f"fifo_{tensor}"
        add(fork, FifoConfig(stream=stream, branches=max(count, 1)),
            [edge_name(tensor, k) for k in range(count)])
        netlist.edges.append(Edge(f"{tensor}>{fork}", tensor, source, (fork, 0)))
        sources[tensor] = [(fork, k) for k in range(count)]

    def connect(tensor: str, sink: tuple[str | None, int], lanes: int) -> None:
        """Take the next use of a tensor, with the lanes that the sink wants."""
        type, tensor = graph.types[tensor], origin[tensor]
        k = len(uses[tensor]) - len(sources[tensor])
        name = edge_name(tensor, k)
        source = sources[tensor].pop(0)
        have = stream_lanes[tensor]
        if have != lanes:
            block = f"lanes_{name.replace('>', '_').replace('~', '_')}"
            if type != graph.types[tensor]:
                # Reshaped: lanes need not divide the channels of both shapes.
                type = TensorType((type.size,), type.quantisation)
            config = LaneChangeConfig(tensor=type, lanes_in=have, lanes_out=lanes)
            add(block, config, [f"{name}:{lanes}"])
            netlist.edges.append(Edge(name, tensor, source, (block, 0)))
            name, source = f"{name}:{lanes}", (block, 0)
        netlist.edges.append(Edge(name, tensor, source, sink))

    stream_lanes = {name: design.lanes.get(name, 1) for name in graph.types}
    for k, (name, type) in enumerate(graph.inputs.items()):
        if not uses[name]:
            raise HwgenError(f"Nothing reads the input {name!r}")
        stream = netlist.inputs[name] = StreamType(type, stream_lanes[name])
        publish(name, (None, k), stream)
    for node in nodes:
        types = tuple(graph.types[t] for t in node.inputs)
        folding = design.foldings.get(node.name, Folding())
        lanes_in, lanes_out = stream_lanes[origin[node.inputs[0]]], stream_lanes[node.name]
        try:
            config = block_config(node.op, types, folding, lanes_in, lanes_out)
        except HwgenError as error:
            raise HwgenError(f"Node {node.name!r}: {error}") from None
        for port, tensor in enumerate(node.inputs):
            connect(tensor, (node.name, port), config.inputs[port].lanes)
        for tensor in node.outputs:
            if not uses[tensor]:
                raise HwgenError(f"Nothing reads the tensor {tensor!r}")
        add(node.name, config, [edge_name(t, 0) if len(uses[t]) == 1 else f"{t}>fork_{t}"
                                for t in node.outputs])
        netlist.ops[node.name] = node.name
        for port, (tensor, stream) in enumerate(zip(node.outputs, config.outputs, strict=True)):
            stream_lanes[tensor] = stream.lanes
            publish(tensor, (node.name, port), stream)
    for k, name in enumerate(graph.outputs):
        lanes = math.gcd(stream_lanes[origin[name]], graph.types[name].channels)
        netlist.outputs[name] = StreamType(graph.types[name], lanes)
        connect(name, (None, k), lanes)
    if depths:
        raise HwgenError(f"The design sets the depth of {min(depths)!r}, which is not an edge")
    return netlist


class Pipeline(wiring.Component):
    """All blocks of a netlist, connected.

    Parameters
    ----------
    netlist : :class:`Netlist`

    Members
    -------
    i, or i_0, i_1, … : :py:`In(stream.Signature(payload))`
        One for each input of the graph.
    o, or o_0, o_1, … : :py:`Out(stream.Signature(payload))`
        One for each output of the graph.

    Timing
    ------
    See :mod:`sim.timing`.
    """

    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        self.inputs = tuple(netlist.inputs.values())
        self.outputs = tuple(netlist.outputs.values())
        self.input_ports = _port_names("i", len(self.inputs))
        self.output_ports = _port_names("o", len(self.outputs))
        members = {n: wiring.In(t.signature)
                   for n, t in zip(self.input_ports, self.inputs, strict=True)}
        members |= {n: wiring.Out(t.signature)
                    for n, t in zip(self.output_ports, self.outputs, strict=True)}
        super().__init__(members)

    @property
    def config(self) -> Pipeline:
        """What the test bench needs to know of the ports."""
        return self

    def elaborate(self, platform):
        m = Module()
        blocks = {}
        for name, config in self.netlist.blocks.items():
            blocks[name] = shared(m, name, config, platform)
        for edge in self.netlist.edges:
            (source, out), (sink, into) = edge.source, edge.sink
            if source is None:
                port = wiring.flipped(getattr(self, self.input_ports[out]))
                stream = self.inputs[out]
            else:
                config = self.netlist.blocks[source]
                port = getattr(blocks[source], config.output_ports[out])
                stream = config.outputs[out]
            if sink is None:
                end = wiring.flipped(getattr(self, self.output_ports[into]))
                wanted = self.outputs[into]
            else:
                config = self.netlist.blocks[sink]
                end = getattr(blocks[sink], config.input_ports[into])
                wanted = config.inputs[into]
            # Amaranth compares widths only.  Shapes may differ: a Gemm flattens its input.
            if (stream.payload, stream.beats) != (wanted.payload, wanted.beats):
                raise HwgenError(f"Edge {edge.name!r} joins {stream} and {wanted}")
            wiring.connect(m, port, end)
        return m


def _port_names(prefix: str, count: int) -> tuple[str, ...]:
    return (prefix,) if count == 1 else tuple(f"{prefix}_{k}" for k in range(count))
