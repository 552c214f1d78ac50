"""The order of nodes: some tools append nodes whose outputs others in front of them read."""

from __future__ import annotations

import onnx

from hwgen.models.onnx.nodes import reads

__all__ = ["sort_nodes"]


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put the nodes of a model into topological order, if they have one and are not in it."""
    graph = model.graph
    pending = {out for node in graph.node for out in node.output if out}
    waiting, ordered = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if pending.intersection(reads(node)):
                later.append(node)
            else:
                ordered.append(node)
                pending.difference_update(node.output)
        if len(later) == len(waiting):
            # They wait for each other, which the checker says of them.
            return
        waiting = later
    if [id(node) for node in ordered] != [id(node) for node in graph.node]:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(copies)
