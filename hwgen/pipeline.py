"""The graph builder: integer graph and design point to one pipeline of blocks.

This is the only place where an op meets its block.  :func:`plan` lists the blocks and the edges
between them (a :class:`Netlist`: configurations only, for timing and totals); :class:`Pipeline`
is the hardware.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Module
from amaranth.lib import stream, wiring

from hwgen.blocks import area
from hwgen.blocks.argmax import ArgMaxConfig
from hwgen.blocks.axi import AxiConfig
from hwgen.blocks.base import BlockConfig, Resources, StreamType, shared
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.convolution import ConvolutionConfig
from hwgen.blocks.elementwise import AdderConfig, TableLookupConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.gather import GatherConfig
from hwgen.blocks.globalpool import GlobalPoolConfig
from hwgen.blocks.pad import PadConfig
from hwgen.blocks.pool import PoolConfig
from hwgen.blocks.product import ProductConfig
from hwgen.blocks.queue import FifoConfig
from hwgen.blocks.resize import NearestResizeConfig
from hwgen.blocks.route import ConcatenateConfig, LaneChangeConfig, SplitterConfig
from hwgen.blocks.sparse_conv import SparseConvConfig
from hwgen.blocks.storage import FAMILY
from hwgen.blocks.weights import LOAD_BITS
from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.errors import HwgenError, naming
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
    Node,
    Op,
    Pad,
    Reshape,
    Resize,
    Split,
    Table,
    TensorType,
    split_rows,
)
from hwgen.offchip import ID_BITS, Layout, lay_out

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
    graph : the integer graph it came from, with the design's nodes split
    blocks : block name to configuration
    ops : block name to the names of the nodes that it carries out, one after the other (helpers
        are missing)
    edges : every stream
    inputs, outputs : tensor names and stream types at the outside
    offchip : how off-chip memory is used, if it is
    family : device family, one of :data:`hwgen.blocks.cost.COEFFICIENTS`
    """

    graph: Graph
    blocks: dict[str, BlockConfig] = field(default_factory=dict)
    ops: dict[str, tuple[str, ...]] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    inputs: dict[str, StreamType] = field(default_factory=dict)
    outputs: dict[str, StreamType] = field(default_factory=dict)
    offchip: Layout | None = None
    family: str = FAMILY

    @property
    def interval(self) -> int:
        """Cycles a frame: those of the slowest block, of the longest stream, or of the off-chip
        memory."""
        streams = (*self.inputs.values(), *self.outputs.values())
        return max(
            max(config.interval for config in self.blocks.values()),
            max(stream.beats for stream in streams),
            self.offchip.interval if self.offchip else 0,
        )

    @property
    def sparse(self) -> list[str]:
        """Blocks that pass over zeros: how long they take depends on the data, and all times are
        those of the average."""
        return [name for name, config in self.blocks.items()
                if isinstance(config, SparseConvConfig)]

    @property
    def loading(self) -> list[str]:
        """Blocks whose weights are loaded after reset, in that order."""
        return [name for name, config in self.blocks.items()
                if isinstance(config, ConvolutionConfig) and config.loads]

    def load_words(self) -> list[int]:
        """Words of weights that are loaded after reset, in order."""
        words = []
        for name in self.loading:
            config = self.blocks[name]
            assert isinstance(config, ConvolutionConfig)
            words += config.load_words()
        return words

    def resources(self) -> Resources:
        """What all blocks take together, and the ports to off-chip memory."""
        ports = self.offchip.port_configs if self.offchip else ()
        areas = (config.area() for config in (*self.blocks.values(), *ports))
        return area.total(areas).resources(self.family)


LOAD = "load"
"""Port for weights that are loaded."""


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


def flat_op(op: Op, pixels: int) -> Op:
    """What an op does to streams of several pixels a beat, seen as ones of more channels.

    Raises
    ------
    :exc:`HwgenError`
        If its block takes one pixel at a time.
    """
    if pixels == 1 or isinstance(op, Add | Mul | Concat):
        return op
    if isinstance(op, Table):
        return replace(op, values=np.repeat(op.values, pixels, axis=0)) if op.by_channel else op
    if isinstance(op, Split):
        return replace(op, sizes=tuple(n * pixels for n in op.sizes))
    if isinstance(op, GatherChannels):
        return replace(op, order=tuple(n * pixels + k for n in op.order for k in range(pixels)))
    raise HwgenError(f"{type(op).__name__} takes one pixel a beat, not {pixels!r}")


def axi_config(ports: MemoryPorts) -> AxiConfig:
    """Widths of the AXI ports."""
    return AxiConfig(data_bits=ports.data_bits, id_bits=ID_BITS)


def block_config(
    op: Op, streams: tuple[StreamType, ...], folding: Folding, lanes: int, pixels: int = 1,
    ports: MemoryPorts | None = None, table: Table | None = None,
) -> BlockConfig:
    """The block that carries out an op.

    Parameters
    ----------
    op : what is computed
    streams : its inputs, as they come (convolutions take fewer lanes if their folding needs it)
    folding : how it is folded
    lanes, pixels : channels and pixels a beat of the output; all blocks but convolutions and
        ArgMax take the same at the input
    ports : how off-chip memory is reached
    table : of a convolution, what its results go through

    Raises
    ------
    :exc:`HwgenError`
        If the folding does not fit the op, or says something that its block does not obey.
    """
    config = _block_config(op, streams, folding, lanes, pixels, ports, table)
    for each in fields(Folding):
        value = getattr(folding, each.name)
        if value != each.default and each.name not in config.folding_fields:
            legal = ", ".join(config.folding_fields) or "none"
            raise HwgenError(
                f"{each.name} must be {each.default!r}, not {value!r}, for a "
                f"{config.title} does not use it; fields that it uses: {legal}"
            )
    return config


def _block_config(
    op: Op, streams: tuple[StreamType, ...], folding: Folding, lanes: int, pixels: int,
    ports: MemoryPorts | None, table: Table | None,
) -> BlockConfig:
    """See :func:`block_config`."""
    tensor = streams[0].tensor
    conv = as_conv(op, tensor)
    if conv is not None and folding.sparse is not None:
        return sparse_config(conv, streams[0], folding, lanes, pixels, table)
    if conv is not None:
        config = FoldedConvConfig(
            op=conv, tensor=tensor, lanes_in=conv_lanes_in(conv, streams[0].lanes, folding),
            lanes_out=lanes, pixels_in=streams[0].pixels, pixels_out=pixels,
            channel_lanes=folding.channel_lanes,
            tap_lanes=folding.tap_lanes, group_lanes=folding.group_lanes, pe=folding.pe,
            capacity=folding.capacity, multiplier=folding.multiplier,
            requantiser_multiplier=folding.requantiser, shared=folding.shared,
            products=folding.products, window_style=folding.window, weight_style=folding.weights,
            tile=folding.tile, resident=folding.resident, fold_cycles=folding.fold_cycles,
            lookup=table,
        )
        if config.tile:
            ports = ports or MemoryPorts()
            config = replace(config, axi=axi_config(ports), burst=ports.burst,
                             memory_latency=ports.latency)
        return config
    if any(stream.pixels != pixels for stream in streams):
        raise HwgenError(
            f"{type(op).__name__} takes as many pixels a beat as it sends, {pixels!r}, "
            f"not {[stream.pixels for stream in streams]!r}"
        )
    op = flat_op(op, pixels)
    if pixels > 1:
        # Blocks that work element by element, or move channels, see pixels as channels.
        streams = tuple(stream.flat for stream in streams)
        tensor, lanes = streams[0].tensor, lanes * pixels
    types = tuple(stream.tensor for stream in streams)
    if isinstance(op, GlobalAveragePool | GlobalMaxPool):
        return GlobalPoolConfig(op=op, tensor=tensor, lanes=lanes, multiplier=folding.multiplier)
    if isinstance(op, MaxPool | AveragePool):
        return PoolConfig(op=op, tensor=tensor, lanes=lanes, tap_lanes=folding.tap_lanes,
                          capacity=folding.capacity, window_style=folding.window,
                          multiplier=folding.multiplier)
    if isinstance(op, Resize):
        return NearestResizeConfig(op=op, tensor=tensor, lanes=lanes, capacity=folding.capacity,
                                   window_style=folding.window, pace=folding.fold_cycles)
    if isinstance(op, Pad):
        return PadConfig(op=op, tensor=tensor, lanes=lanes, capacity=folding.capacity,
                         window_style=folding.window, pace=folding.fold_cycles)
    if isinstance(op, GatherChannels):
        return GatherConfig(op=op, tensor=tensor, lanes=lanes)
    if isinstance(op, ArgMax):
        return ArgMaxConfig(op=op, tensor=tensor, lanes=streams[0].lanes)
    if isinstance(op, Mul):
        return ProductConfig(op=op, tensors=(types[0], types[1]), lanes=lanes,
                             multiplier=folding.multiplier, pace=folding.fold_cycles)
    if isinstance(op, Table):
        return TableLookupConfig(op=op, tensor=tensor, lanes=lanes)
    if isinstance(op, Add):
        return AdderConfig(op=op, tensors=(types[0], types[1]), lanes=lanes)
    if isinstance(op, Concat):
        return ConcatenateConfig(tensors=types, lanes=lanes)
    if isinstance(op, Split):
        return SplitterConfig(op=op, tensor=tensor, lanes=lanes)
    raise HwgenError(f"No block carries out {type(op).__name__}")


def sparse_config(
    conv: Convolution, stream: StreamType, folding: Folding, lanes: int, pixels: int,
    table: Table | None = None,
) -> SparseConvConfig:
    """The block of a convolution that passes over zeros.

    Raises
    ------
    :exc:`HwgenError`
        If a stream has several pixels a beat.
    """
    sparse = folding.sparse
    assert sparse is not None
    if (stream.pixels, pixels) != (1, 1):
        raise HwgenError(
            f"A sparse convolution takes one pixel a beat, not {stream.pixels!r} and {pixels!r}"
        )
    return SparseConvConfig(
        op=conv, tensor=stream.tensor, lanes_in=conv_lanes_in(conv, stream.lanes, folding),
        lanes_out=lanes, channel_lanes=folding.channel_lanes, tap_lanes=folding.tap_lanes,
        pe=folding.pe, streams=sparse.streams, skip=sparse.skip, queue=sparse.queue,
        cycles=sparse.cycles, capacity=folding.capacity, multiplier=folding.multiplier,
        requantiser_multiplier=folding.requantiser, products=folding.products,
        window_style=folding.window, weight_style=folding.weights, lookup=table,
    )


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
    netlist = Netlist(graph, family=design.family)
    names = {node.name for node in graph.nodes}
    for name in design.foldings:
        if name not in names:
            raise HwgenError(f"The design folds {name!r}, which is not in the graph")
    for what, values in (("lanes", design.lanes), ("pixels", design.pixels)):
        for name in values:
            if name not in graph.types:
                raise HwgenError(f"The design sets {what} of {name!r}, which is not in the graph")

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
    evicted = {name for name, style in design.memories.items() if style == OFF_CHIP}
    memories = {name: style for name, style in design.memories.items() if name not in evicted}
    axi = axi_config(design.ports)

    def edge_name(tensor: str, k: int) -> str:
        same = uses[tensor][:k].count(uses[tensor][k])
        return f"{tensor}>{uses[tensor][k]}" + (f"~{same}" if same else "")

    def add(name: str, config: BlockConfig, edges: list[str]) -> None:
        changes: dict[str, tuple] = {}
        wanted = tuple(depths.pop(edge, 0) for edge in edges)
        if any(wanted):
            # The least depths take time to find.
            least = wanted if all(wanted) else config.least_depths
            full = tuple(w or d for w, d in zip(wanted, least, strict=True))
            changes["depths"] = full
        styles = tuple(memories.pop(edge, "") for edge in edges)
        if any(styles):
            changes["styles"] = styles
        netlist.blocks[name] = replace(config, **changes) if changes else config

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

    def connect(tensor: str, sink: tuple[str | None, int], wanted: StreamType) -> None:
        """Take the next use of a tensor, as the sink wants it."""
        type, tensor = graph.types[tensor], origin[tensor]
        k = len(uses[tensor]) - len(sources[tensor])
        use = name = edge_name(tensor, k)
        source = sources[tensor].pop(0)
        have = streams[tensor]
        if have.elements != wanted.elements:
            block = _block_name("lanes", name)
            flat = have.flat.tensor
            if type != graph.types[tensor]:
                # Reshaped: lanes need not divide the channels of both shapes.
                flat = TensorType((type.size,), type.quantisation)
            config = LaneChangeConfig(
                tensor=flat, lanes_in=have.elements, lanes_out=wanted.elements
            )
            lanes = wanted.elements // have.pixels
            add(block, config, [f"{name}:{lanes}"])
            netlist.edges.append(Edge(name, tensor, source, (block, 0)))
            name, source = f"{name}:{lanes}", (block, 0)
            have = wanted
        if use in evicted:
            # Last of all, for beats would queue in front of whoever takes them late.
            evicted.discard(use)
            block = _block_name("evict", use)
            config = EvictionConfig(
                stream=have, axi=axi, burst=design.ports.burst, memory_latency=design.ports.latency
            )
            netlist.edges.append(Edge(name, tensor, source, (block, 0)))
            name, source = f"{use}:{OFF_CHIP}", (block, 0)
            add(block, config, [name])
        netlist.edges.append(Edge(name, tensor, source, sink))

    streams: dict[str, StreamType] = {}
    for k, (name, type) in enumerate(graph.inputs.items()):
        if not uses[name]:
            raise HwgenError(f"Nothing reads the input {name!r}")
        with naming(f"Input {name!r}"):
            stream = StreamType(type, design.lanes.get(name, 1), design.pixels.get(name, 1))
        netlist.inputs[name] = streams[name] = stream
        publish(name, (None, k), stream)
    tables = _tables(graph, nodes, uses, design)
    absorbed = {table.name for table in tables.values()}
    for node in nodes:
        if node.name in absorbed:
            continue
        table = tables.get(node.name)
        carried = (node,) if table is None else (node, table)
        tensors = carried[-1].outputs
        lanes, pixels = design.lanes.get(tensors[0], 1), design.pixels.get(tensors[0], 1)
        folding = design.foldings.get(node.name, Folding())
        with naming(f"Node {node.name!r}"):
            inputs = tuple(
                streams[origin[t]] if graph.types[t] == graph.types[origin[t]]
                else _reshaped(graph.types[t], streams[origin[t]])
                for t in node.inputs
            )
            config = block_config(node.op, inputs, folding, lanes, pixels, design.ports,
                                  table.op if table is not None else None)
        for port, tensor in enumerate(node.inputs):
            connect(tensor, (node.name, port), config.inputs[port])
        for tensor in tensors:
            if not uses[tensor]:
                raise HwgenError(f"Nothing reads the tensor {tensor!r}")
        add(node.name, config, [edge_name(t, 0) if len(uses[t]) == 1 else f"{t}>fork_{t}"
                                for t in tensors])
        netlist.ops[node.name] = tuple(each.name for each in carried)
        for port, (tensor, stream) in enumerate(zip(tensors, config.outputs, strict=True)):
            streams[tensor] = StreamType(graph.types[tensor], stream.elements // pixels, pixels)
            publish(tensor, (node.name, port), streams[tensor])
    for name, folding in design.foldings.items():
        if name not in netlist.blocks and folding != Folding():
            # A reshape, a table that is part of the block before, or a node whose rows are split.
            blocks = [block for block, ops in netlist.ops.items() if name in ops]
            blocks += [f"{name}_window"] if f"{name}_window" in netlist.blocks else []
            where = f": fold {blocks[0]!r}" if blocks else ""
            raise HwgenError(f"The design folds {name!r}, which has no block of its own{where}")
    for k, name in enumerate(graph.outputs):
        type, have = graph.types[name], streams[origin[name]]
        netlist.outputs[name] = StreamType(
            type, math.gcd(have.lanes, type.channels), have.pixels if origin[name] == name else 1
        )
        connect(name, (None, k), netlist.outputs[name])
    if depths:
        raise HwgenError(f"The design sets the depth of {min(depths)!r}, which is not an edge")
    if wrong := evicted or memories:
        raise HwgenError(f"The design sets the memory of {min(wrong)!r}, which is not an edge")
    netlist.offchip = lay_out(netlist.blocks, axi, design.ports.count, design.ports.rate)
    return netlist


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
            and as_conv(before.op, graph.types[before.inputs[0]]) is not None
            and all(values.get(source, 1) == values.get(node.name, 1)
                    for values in (design.lanes, design.pixels))
            and not any(edge.startswith(f"{source}>{node.name}")
                        for edge in (*design.depths, *design.memories))
        ):
            tables[before.name] = node
    return tables


def _block_name(kind: str, edge: str) -> str:
    """Name of a helper on an edge."""
    return f"{kind}_{re.sub('[>~:]', '_', edge)}"


def _reshaped(type: TensorType, stream: StreamType) -> StreamType:
    """A stream under another shape: lanes that divide the channels of both."""
    if stream.pixels > 1:
        raise HwgenError(f"A reshaped tensor comes one pixel a beat, not {stream.pixels!r}")
    return StreamType(type, math.gcd(type.channels, stream.lanes))


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
    load : :py:`In(stream.Signature(LOAD_BITS, always_ready=True))`, if weights are loaded
        :meth:`Netlist.load_words`, once after reset, before blocks with such weights start.
    axi_0, axi_1, … : :py:`Out(axi.signature)`, if there is off-chip memory
        See :class:`hwgen.blocks.axi.AxiPort`.
    memory_base : :py:`In(address_bits)`, if there is off-chip memory
        Where it begins, a multiple of 4 KB.
    memory_error, memory_idle : :py:`Out(3)`, :py:`Out(1)`, if there is off-chip memory
        The ports' errors together; whether all are idle.  After an error no port begins anything:
        once both are up, a reset is clean.
    memory_ready, memory_waits : :py:`Out(1)`, if there is off-chip memory
        All that is fetched ahead has come; something waited for the memory in the cycle before.

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
        if netlist.loading:
            members[LOAD] = wiring.In(stream.Signature(LOAD_BITS, always_ready=True))
        if netlist.offchip:
            axi = netlist.offchip.axi
            members |= {f"axi_{k}": wiring.Out(axi.signature) for k in range(netlist.offchip.ports)}
            members |= {
                "memory_base": wiring.In(axi.address_bits), "memory_error": wiring.Out(3),
                "memory_idle": wiring.Out(1), "memory_ready": wiring.Out(1),
                "memory_waits": wiring.Out(1),
            }
        super().__init__(members)

    @property
    def config(self) -> Pipeline:
        """What the test bench needs to know of the ports."""
        return self

    def load_words(self) -> list[int]:
        """See :meth:`Netlist.load_words`."""
        return self.netlist.load_words()

    def elaborate(self, platform):
        m = Module()
        blocks = {}
        for name, config in self.netlist.blocks.items():
            blocks[name] = shared(m, name, config, platform)
        if self.netlist.loading:
            load = wiring.flipped(getattr(self, LOAD))
            for name in self.netlist.loading:
                wiring.connect(m, load, blocks[name].load)
                load = blocks[name].next
        if self.netlist.offchip:
            self._connect_memory(m, blocks, self.netlist.offchip, platform)
        for edge in self.netlist.edges:
            (source, out), (sink, into) = edge.source, edge.sink
            if source is None:
                port = wiring.flipped(getattr(self, self.input_ports[out]))
                sent = self.inputs[out]
            else:
                config = self.netlist.blocks[source]
                port = getattr(blocks[source], config.output_ports[out])
                sent = config.outputs[out]
            if sink is None:
                end = wiring.flipped(getattr(self, self.output_ports[into]))
                wanted = self.outputs[into]
            else:
                config = self.netlist.blocks[sink]
                end = getattr(blocks[sink], config.input_ports[into])
                wanted = config.inputs[into]
            # Amaranth compares widths only.  Shapes may differ: a Gemm flattens its input.
            if (sent.payload, sent.beats) != (wanted.payload, wanted.beats):
                raise HwgenError(f"Edge {edge.name!r} joins {sent} and {wanted}")
            wiring.connect(m, port, end)
        return m

    def _connect_memory(self, m: Module, blocks: dict, layout: Layout, platform) -> None:
        """Add the ports to off-chip memory, and connect the blocks that use them."""
        # Members made from a signature, which no type checker sees.
        outer: Any = self
        ports: list[Any] = []
        for k, (config, names) in enumerate(
            zip(layout.port_configs, layout.clients, strict=True)
        ):
            port: Any = shared(m, f"port_{k}", config, platform)
            ports.append(port)
            wiring.connect(m, port.axi, wiring.flipped(getattr(self, f"axi_{k}")))
            m.d.comb += port.base.eq(outer.memory_base)
            for n, name in enumerate(names):
                wiring.connect(m, blocks[name].read, getattr(port, f"read_{n}"))
            for n, name in enumerate(layout.writers(names)):
                wiring.connect(m, blocks[name].write, getattr(port, f"write_{n}"))
        ready = [blocks[name].loaded for name, use in layout.uses.items() if use.ahead]
        waits = Cat(blocks[name].waits for name in layout.uses)
        m.d.comb += [blocks[name].base.eq(offset) for name, offset in layout.offsets.items()]
        m.d.sync += [outer.memory_ready.eq(Cat(ready).all()), outer.memory_waits.eq(waits.any())]
        error = ports[0].error
        for port in ports[1:]:
            error |= port.error
        # By the time that the error is seen, all ports have stopped: idle is idle until reset.
        m.d.sync += outer.memory_error.eq(error)
        m.d.comb += [
            *(port.stop.eq(outer.memory_error.any()) for port in ports),
            outer.memory_idle.eq(Cat(port.idle for port in ports).all()),
        ]


def _port_names(prefix: str, count: int) -> tuple[str, ...]:
    return (prefix,) if count == 1 else tuple(f"{prefix}_{k}" for k in range(count))
