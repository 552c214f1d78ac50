"""Padding that costs nothing: the convolutions behind it pad by themselves."""

from __future__ import annotations

from dataclasses import replace

from hwgen.ir import Conv, Graph, Node, Pad
from hwgen.models.lowering.channels import rebuilt

__all__ = ["fold_pads"]


def fold_pads(graph: Graph) -> Graph:
    """The same graph, its padding with zeros taken into the convolutions that alone read it.

    Tools write it before a convolution with strides whose padding is uneven, and integer files
    have a quantiser in between.
    """
    nodes = list(graph.nodes)
    for node in graph.nodes:
        op, type = node.op, graph.types[node.inputs[0]]
        if not isinstance(op, Pad):
            continue
        readers = [each for each in nodes if node.name in each.inputs]
        if (op.fill != type.quantisation.zero_point
                or any(s > 1 for s in op.stride) or node.name in graph.outputs or not readers):
            continue
        wider = {id(each): _wider(each, op, node.inputs[0]) for each in readers}
        if all(wider.values()):
            nodes = [wider.get(id(each)) or each for each in nodes if each is not node]
    return graph if len(nodes) == len(graph.nodes) else rebuilt(graph, nodes)


def _wider(node: Node, pad: Pad, source: str) -> Node | None:
    """A convolution that pads by itself; None if it is none, or crops what is padded."""
    op = node.op
    if not isinstance(op, Conv):
        return None
    sides = [[(a, b) for a, b in zip(first, own, strict=True)]
             for first, own in zip(pad.pads, op.pads, strict=True)]
    if any(a < 0 < b or b < 0 < a for side in sides for a, b in side):
        return None
    pads = tuple((before[0] + before[1], behind[0] + behind[1]) for before, behind in sides)
    return replace(node, op=replace(op, pads=pads), inputs=(source,))
