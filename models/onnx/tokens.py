"""Tokens in the place of the batch: rows of a matrix, as exporters write layers of tokens.

``(1, tokens, channels)`` becomes ``(tokens, channels)`` in front of a matrix product, and the other
way behind it.  A frame then has its tokens along the first axis, which is that of frames elsewhere.
What is between keeps tokens apart, so it may as well have the axis of frames in front.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from hwgen.models.onnx.editor import Editor
from hwgen.models.onnx.nodes import ELEMENTWISE, attributes
from hwgen.models.onnx.quantisers import CodedConstant

__all__ = ["keep_tokens"]

LAST = {"LayerNormalization": -1, "LogSoftmax": -1, "Softmax": -1, "Split": 0}
"""Ops along one axis, and which if they do not say: it must be the last."""


def keep_tokens(
    model: onnx.ModelProto, kept: Collection[str], weights: dict[str, CodedConstant]
) -> bool:
    """Keep the axis of frames where tokens take its place, in place; returns whether that is so.

    Parameters
    ----------
    model : with constants folded and shapes inferred
    kept : tensors that stay as they are: those inside of a quantiser
    weights : constants that the file states in integers; those that are made are added
    """
    graph = Editor(model)
    changed = False
    for node in list(graph.graph.node):
        if node.op_type == "Reshape" and _leaves(graph, node):
            inside = _between(graph, node.output[0])
            if inside is not None and not set(kept).intersection(
                    t for each in inside for t in (*each.input, *each.output)):
                _lift(graph, node, inside, weights)
                changed = True
    if changed:
        # Shapes between are others now.
        del model.graph.value_info[:]
    return changed


def _leaves(graph: Editor, node: onnx.NodeProto) -> bool:
    """Whether a Reshape puts the tokens of a frame in the place of frames."""
    before, after = (graph.shapes.get(t, ()) for t in (node.input[0], node.output[0]))
    return (len(before) > 2 and before[0] == 1 and len(after) == 2 and after[0] > 1
            and node.input[0] not in graph.constants and node.output[0] not in graph.outputs)


def _between(graph: Editor, name: str) -> list[onnx.NodeProto] | None:
    """The nodes up to those that put frames back; None if something else reads their results."""
    inside, found = {name}, []
    for node in graph.graph.node:
        if not inside.intersection(node.input):
            continue
        if node.op_type == "Reshape":
            after = graph.shapes.get(node.output[0], ())
            if not after or after[0] != 1 or node.input[1] in inside:
                return None
            continue
        if not _by_token(graph, node, inside) or graph.outputs.intersection(node.output):
            return None
        found.append(node)
        inside.update(node.output)
    return found


def _by_token(graph: Editor, node: onnx.NodeProto, inside: Collection[str]) -> bool:
    """Whether a node makes each token of its results from the same of what it reads."""
    at = attributes(node)
    live = [i for i in node.input if i and i not in graph.constants]
    if any(name not in inside for name in live):
        return False
    if node.op_type in ("Gemm", "MatMul"):
        fixed = node.input[1] in graph.constants and len(graph.constants[node.input[1]].dims) == 2
        third = len(node.input) < 3 or node.input[2] in graph.constants
        return fixed and third and not at.get("transA")
    if node.op_type in LAST:
        return at.get("axis", LAST[node.op_type]) in (-1, 1) and len(live) == 1
    return node.op_type in ELEMENTWISE and node.op_type != "Dropout" and all(
        len(graph.constants[i].dims) <= 2 for i in node.input if i in graph.constants)


def _lift(
    graph: Editor, first: onnx.NodeProto, inside: list[onnx.NodeProto],
    weights: dict[str, CodedConstant],
) -> None:
    """Give tensors between two Reshapes an axis of frames."""
    out = first.output[0]
    extents = graph.add(np.array([1, *graph.shapes[out]]), f"{out}.extents")
    graph.replace(first, [helper.make_node("Reshape", [first.input[0], extents], [out],
                                           name=first.name)])
    for node in inside:
        if node.op_type == "Gemm":
            graph.replace(node, _products(graph, node, weights))
        for attribute in node.attribute:
            if node.op_type in LAST and attribute.name == "axis":
                attribute.i = -1


def _products(
    graph: Editor, node: onnx.NodeProto, weights: dict[str, CodedConstant]
) -> list[onnx.NodeProto]:
    """A Gemm as a MatMul and an Add."""
    at, (out,) = attributes(node), node.output
    weight = graph.constant(node.input[1])
    assert weight is not None
    name = node.input[1]
    if at.get("transB") or at.get("alpha", 1.0) != 1:
        weight = (weight.T if at.get("transB") else weight) * np.float32(at.get("alpha", 1.0))
        coded = weights.get(name)
        name = graph.add(weight.astype(np.float32), f"{out}.weight")
        if coded is not None and at.get("alpha", 1.0) == 1:
            weights[name] = coded.mapped(np.transpose)
    if len(node.input) < 3 or not node.input[2]:
        return [helper.make_node("MatMul", [node.input[0], name], [out], name=node.name)]
    bias, beta = node.input[2], at.get("beta", 1.0)
    if beta != 1:
        value = graph.constant(bias)
        assert value is not None
        bias = graph.add((value * np.float32(beta)).astype(np.float32), f"{out}.bias")
    return [helper.make_node("MatMul", [node.input[0], name], [f"{out}.product"], name=node.name),
            helper.make_node("Add", [f"{out}.product", bias], [out], name=f"{out}.sum")]
