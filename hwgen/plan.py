"""Planning: from integer graph and design point to the netlist, op by op and edge by edge."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from hwgen.blocks.base import BlockConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.blocks.lane_change import LaneChangeConfig
from hwgen.blocks.registry import block_config
from hwgen.design import OFF_CHIP, DesignPoint, Folding
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
from hwgen.offchip.layout import lay_out
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
    axi = design.ports.axi

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
            and before.op.as_conv(graph.types[before.inputs[0]]) is not None
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
