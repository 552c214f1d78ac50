"""Orders of channels that cost nothing: the weights in front of them or behind are put in order."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from hwgen.ir import (
    Convolution,
    GatherChannels,
    Gemm,
    Graph,
    Node,
    Op,
    Rearrange,
    Requantise,
    Reshape,
    Table,
)

__all__ = ["fold_orders", "rebuilt"]


def fold_orders(graph: Graph) -> Graph:
    """The same graph, its orders of channels taken into layers with weights where that is possible.

    An order is taken into the layer in front, also through tables, if that has no other reader; or
    else into all layers that read it.  A layer of which each reader takes channels of its own, as
    queries, keys and values are, becomes a layer for each.  Tensors in between lose their meaning
    as a float tensor.
    """
    nodes = list(graph.nodes)
    for node in graph.nodes:
        if _by_pixel(node.op) and any(node is each for each in nodes):
            nodes = _parted(graph, nodes, node) or nodes
    for node in [node for node in graph.nodes if any(node is each for each in nodes)]:
        order, channels = _order(node.op), graph.types[node.inputs[0]].channels
        if order is not None and np.array_equal(np.sort(order), np.arange(channels)):
            nodes = _into_front(graph, nodes, node, order) or _into_readers(
                graph, nodes, node, order) or nodes
    return graph if all(map(operator.is_, nodes, graph.nodes)) else rebuilt(graph, nodes)


def rebuilt(graph: Graph, nodes: Iterable[Node]) -> Graph:
    """A graph with other nodes between its inputs and outputs."""
    folded = Graph(meta=dict(graph.meta))
    for name, type in graph.inputs.items():
        folded.add_input(name, type)
    for node in nodes:
        folded.add_node(node.op, node.inputs, node.outputs)
    folded.outputs = list(graph.outputs)
    floats = graph.meta.get("floats", {})
    folded.meta["floats"] = {t: f for t, f in floats.items() if t in folded.types}
    return folded


def _order(op: Op) -> np.ndarray | None:
    """The order of channels that an op makes of a pixel; of a vector, any order of a frame."""
    if isinstance(op, GatherChannels):
        return np.array(op.order)
    return op.order.ravel() if isinstance(op, Rearrange) else None


def _parted(graph: Graph, nodes: list[Node], layer: Node) -> list[Node] | None:
    """The nodes with a layer for each part of the channels of one; None if they are no parts."""
    chain = [layer]
    while True:
        name = chain[-1].name
        readers = [each for each in nodes for tensor in each.inputs if tensor == name]
        if name in graph.outputs or not readers:
            return None
        if len(readers) > 1 or not isinstance(readers[0].op, Table):
            break
        chain.append(readers[0])
    orders = [np.array(each.op.order) if isinstance(each.op, GatherChannels) else None
              for each in readers]
    known = [order for order in orders if order is not None]
    if len(readers) < 2 or len(known) < len(readers):
        return None
    taken = np.concatenate(known)
    if len(np.unique(taken)) < len(taken):
        return None
    made: dict[int, list[Node]] = {}
    for k, (reader, order) in enumerate(zip(readers, known, strict=True)):
        source, parts = chain[0].inputs, []
        for each in chain:
            outputs = reader.outputs if each is chain[-1] else (f"{each.name}_part_{k}",)
            parts.append(Node(_ordered(each.op, order), source, outputs))
            source = outputs
        made[id(reader)] = parts
    # In the place of the layer, so that whatever reads a part comes after it.
    first = [part for parts in made.values() for part in parts]
    gone = {id(each) for each in (*chain[1:], *readers)}
    return [part for each in nodes if id(each) not in gone
            for part in (first if each is layer else [each])]


def _into_front(
    graph: Graph, nodes: list[Node], node: Node, order: np.ndarray
) -> list[Node] | None:
    """The nodes with an order of channels taken into the layer in front; None if there is none."""
    made = {tensor: node for node in nodes for tensor in node.outputs}
    readers = [tensor for node in nodes for tensor in node.inputs] + graph.outputs
    chain: list[Node] = []
    source = node.inputs[0]
    while source in made and readers.count(source) == 1:
        chain.append(made[source])
        if not isinstance(made[source].op, Table):
            break
        source = made[source].inputs[0]
    if not chain or not _weighted(chain[-1].op):
        return None
    changed = {id(each): replace(each, op=_ordered(each.op, order)) for each in chain}
    for each in chain:
        graph.meta.get("floats", {}).pop(each.name, None)
    if isinstance(node.op, Rearrange):
        instead = replace(node, op=Reshape(node.op.order.shape))
        return [instead if each is node else changed.get(id(each), each) for each in nodes]
    # The last of them makes what the order made, under its name.
    changed[id(chain[0])] = replace(changed[id(chain[0])], outputs=node.outputs)
    return [changed.get(id(each), each) for each in nodes if each is not node]


def _into_readers(
    graph: Graph, nodes: list[Node], node: Node, order: np.ndarray
) -> list[Node] | None:
    """The nodes with an order of channels taken into all layers that read it; None if some cannot.
    """
    readers = [each for each in nodes if node.name in each.inputs]
    if isinstance(node.op, Rearrange) or node.name in graph.outputs or not readers:
        return None
    changed = {}
    for each in readers:
        if not isinstance(each.op, Convolution) or each.op.groups > 1:
            return None
        weight = each.op.weight[..., np.argsort(order)]
        changed[id(each)] = replace(each, op=replace(each.op, weight=weight), inputs=node.inputs)
    return [changed.get(id(each), each) for each in nodes if each is not node]


def _weighted(op: Op) -> bool:
    """Whether an op's output channels can be put in another order."""
    return isinstance(op, Gemm) or (isinstance(op, Convolution) and op.groups == 1)


def _by_pixel(op: Op) -> bool:
    """Whether a layer needs no window, so that several of it cost no more than one."""
    return _weighted(op) and (isinstance(op, Gemm) or (
        isinstance(op, Convolution) and op.window.taps == 1))


def _ordered(op: Op, order: np.ndarray) -> Op:
    """An op that makes its channels in another order."""
    if isinstance(op, Table):
        return replace(op, values=op.values[order]) if op.by_channel else op
    assert isinstance(op, Convolution | Gemm)
    return replace(op, weight=op.weight[order], bias=op.bias[order],
                   requantise=_chosen(op.requantise, order))


def _chosen(requantise: Requantise, order: np.ndarray) -> Requantise:
    """The requantisation of channels in another order."""
    if len(requantise) == 1:
        return requantise
    offset = requantise.offset
    return replace(requantise, multiplier=requantise.multiplier[order],
                   shift=requantise.shift[order],
                   offset=None if offset is None else offset[order])
