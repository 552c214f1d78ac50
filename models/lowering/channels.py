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
    else into all layers that read it.  Tensors in between lose their meaning as a float tensor.
    """
    nodes = list(graph.nodes)
    for node in graph.nodes:
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
