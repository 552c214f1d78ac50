"""Forms in which files write out what is simpler, brought into the simpler one.

A softmax of exponentials and their sum; a mean as a sum times a number; a variance as the mean of
squares minus the square of the mean, which loses digits that integers do not have; a scale of
constants that is multiplied with a factor of a row first, so that it is as large as the frame.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from hwgen.models.onnx.editor import Editor
from hwgen.models.onnx.nodes import attributes, is_square, opset
from hwgen.models.onnx.order import sort_nodes

__all__ = ["simplify"]

MOVES = {"Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Ops through which a mean or a sum goes on to what it is subtracted from, or divides."""


LEAST = -1e30
"""What is at most this is never the largest."""


def simplify(model: onnx.ModelProto, kept: Collection[str]) -> bool:
    """Bring forms into simpler ones, in place; returns whether anything has changed.

    Parameters
    ----------
    model : with constants folded and shapes inferred
    kept : tensors that stay as they are: those whose codes the file states
    """
    graph = Editor(model)
    changed = False
    for form in (_slice, _guard, _mean, _variance, _softmax, _scale, _least):
        for node in list(graph.graph.node):
            whole = [node.output[0], *node.input]
            if kept and not set(kept).isdisjoint(whole):
                continue
            if any(each is node for each in graph.graph.node):
                changed |= form(graph, node)
    if changed:
        graph.drop_unread()
        sort_nodes(model)
    return changed


def _axes(graph: Editor, node: onnx.NodeProto) -> list[int] | None:
    """The axes of a reduction, sorted; None if they are not known."""
    at, rank = attributes(node), len(graph.shapes.get(node.input[0], ()))
    axes = at.get("axes")
    if len(node.input) > 1 and node.input[1]:
        found = graph.constant(node.input[1])
        if found is None:
            return None
        axes = found.ravel().tolist()
    if not axes and at.get("noop_with_empty_axes"):
        return []
    return sorted({a % rank for a in (axes or range(rank))}) if rank else None


def _scalar(graph: Editor, name: str) -> float | None:
    """A constant of one element; None if it is no such."""
    value = graph.constant(name)
    return float(value.reshape(())) if value is not None and value.size == 1 else None


def _reduction(graph: Editor, kind: str, name: str) -> tuple[str, list[int]] | None:
    """What a tensor is the mean (or sum, or maximum) of, and along which axes."""
    while (node := graph.maker(name)) is not None:
        if node.op_type == kind:
            axes = _axes(graph, node)
            return None if not axes else (node.input[0], axes)
        if node.op_type == "Max" and kind == "ReduceMax":
            # Nothing is less than the least number.
            live = [i for i in node.input if (_scalar(graph, i) or 0) > -3e38]
            if len(live) != 1:
                return None
            name = live[0]
        elif node.op_type in MOVES:
            name = node.input[0]
        else:
            return None
    return None


def _slice(graph: Editor, node: onnx.NodeProto) -> bool:
    """A Slice that keeps all is nothing."""
    if node.op_type != "Slice" or not graph.shapes.get(node.input[0]):
        return False
    steps = graph.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
    if steps is None or (steps < 0).any() or (
            graph.shapes[node.input[0]] != graph.shapes.get(node.output[0])):
        return False
    graph.replace(node, [helper.make_node("Identity", [node.input[0]], node.output,
                                          name=node.name)])
    return True


def _guard(graph: Editor, node: onnx.NodeProto) -> bool:
    """What takes the place of a softmax that is not a number: none is, of finite scores."""
    if node.op_type != "Where":
        return False
    condition, maker = graph.maker(node.input[0]), graph.maker(node.input[2])
    if condition is None or condition.op_type != "IsNaN" or maker is None or (
            maker.op_type != "Softmax" or condition.input[0] != node.input[2]):
        return False
    graph.replace(node, [helper.make_node("Identity", [node.input[2]], node.output,
                                          name=node.name)])
    return True


def _mean(graph: Editor, node: onnx.NodeProto) -> bool:
    """A sum times 1 / N, or divided by N, is a mean."""
    if node.op_type not in ("Mul", "Div") or len(node.input) != 2:
        return False
    for total, by in (node.input, node.input[::-1])[: 2 if node.op_type == "Mul" else 1]:
        maker, factor = graph.maker(total), _scalar(graph, by)
        if maker is None or maker.op_type != "ReduceSum" or not factor:
            continue
        axes = _axes(graph, maker)
        if not axes or graph.shapes.get(total) != graph.shapes.get(node.output[0]):
            continue
        count = np.prod([graph.shapes[maker.input[0]][a] for a in axes])
        share = count * factor if node.op_type == "Mul" else count / factor
        if abs(share - 1) > 1e-6:
            continue
        keep = attributes(maker).get("keepdims", 1)
        graph.replace(node, [_reduced(graph, "ReduceMean", maker.input[0], axes, node, keep)])
        return True
    return False


def _reduced(
    graph: Editor, kind: str, source: str, axes: list[int], node: onnx.NodeProto, keep: int
) -> onnx.NodeProto:
    """A reduction that makes what a node makes."""
    out = node.output[0]
    if opset(graph.model) >= 18:
        name = graph.add(np.array(axes), f"{out}.axes")
        return helper.make_node(kind, [source, name], [out], name=node.name, keepdims=keep)
    return helper.make_node(kind, [source], [out], name=node.name, axes=axes, keepdims=keep)


def _variance(graph: Editor, node: onnx.NodeProto) -> bool:
    """``E[x * x] - E[x] * E[x]`` is the mean of the squares of ``x - E[x]``."""
    if node.op_type != "Sub":
        return False
    first, second = graph.maker(node.input[0]), graph.maker(node.input[1])
    if first is None or second is None or first.op_type != "ReduceMean" or not is_square(second):
        return False
    square, mean = graph.maker(first.input[0]), graph.maker(second.input[0])
    if square is None or mean is None or not is_square(square) or mean.op_type != "ReduceMean":
        return False
    x, axes = square.input[0], _axes(graph, first)
    if mean.input[0] != x or not axes or axes != _axes(graph, mean):
        return False
    if graph.shapes.get(node.output[0]) != graph.shapes.get(first.output[0]):
        return False
    out, nodes = node.output[0], []
    centred = next(_differences(graph, x, axes), None)
    if centred is None:
        centred = f"{out}.centred"
        spread = onnx.NodeProto(output=[f"{out}.mean"])
        nodes = [_reduced(graph, "ReduceMean", x, axes, spread, 1),
                 helper.make_node("Sub", [x, f"{out}.mean"], [centred], name=centred)]
    keep = attributes(first).get("keepdims", 1)
    graph.replace(node, [
        *nodes, helper.make_node("Mul", [centred] * 2, [f"{out}.square"], name=f"{out}.square"),
        _reduced(graph, "ReduceMean", f"{out}.square", axes, node, keep)])
    return True


def _differences(graph: Editor, x: str, axes: list[int]) -> Iterator[str]:
    """Differences of a tensor from its mean along axes, in its own shape."""
    for node in graph.readers(x):
        if node.op_type == "Sub" and node.input[0] == x and (
                _reduction(graph, "ReduceMean", node.input[1]) == (x, axes)) and (
                graph.shapes.get(node.output[0]) == graph.shapes.get(x)):
            yield node.output[0]


def _softmax(graph: Editor, node: onnx.NodeProto) -> bool:
    """Exponentials of what is left of the largest, divided by their sum, are a softmax."""
    if node.op_type != "Div":
        return False
    exponential = graph.maker(node.input[0])
    if exponential is None or exponential.op_type != "Exp":
        return False
    total = _reduction(graph, "ReduceSum", node.input[1])
    if total is None or total[0] != exponential.output[0] or len(total[1]) != 1:
        return False
    scores, (axis,) = exponential.input[0], total[1]
    below = graph.maker(scores)
    if below is not None and below.op_type == "Sub" and (
            _reduction(graph, "ReduceMax", below.input[1]) == (below.input[0], [axis])):
        scores = below.input[0]
    rank = len(graph.shapes.get(scores, ()))
    if opset(graph.model) < 13 and axis != rank - 1:
        return False
    graph.replace(node, [helper.make_node("Softmax", [scores], node.output, name=node.name,
                                          axis=axis)])
    return True


def _scale(graph: Editor, node: onnx.NodeProto) -> bool:
    """``x * (r * g)`` with constants ``g`` that enlarge ``r`` is ``(x * r) * g``."""
    if node.op_type != "Mul" or is_square(node):
        return False
    for x, product in (node.input, node.input[::-1]):
        maker = graph.maker(product)
        if maker is None or maker.op_type != "Mul" or x in graph.constants or (
                len(graph.readers(product)) > 1 or product in graph.outputs):
            continue
        fixed = [i for i in maker.input if i in graph.constants]
        live = [i for i in maker.input if i not in graph.constants]
        if len(fixed) != 1 or len(live) != 1 or graph.constants[fixed[0]].data_type != (
                TensorProto.FLOAT):
            continue
        sizes = [np.prod(graph.shapes.get(name, ()), dtype=int) for name in (live[0], product, x)]
        if not sizes[0] < sizes[1] or graph.shapes.get(x) != graph.shapes.get(node.output[0]):
            continue
        normal = f"{node.output[0]}.unscaled"
        graph.replace(node, [
            helper.make_node("Mul", [x, live[0]], [normal], name=normal),
            helper.make_node("Mul", [normal, fixed[0]], node.output, name=node.name)])
        return True
    return False


def _least(graph: Editor, node: onnx.NodeProto) -> bool:
    """A maximum over windows of what has least numbers around it has pads itself."""
    if node.op_type != "MaxPool":
        return False
    turn, pad, at = None, graph.maker(node.input[0]), attributes(node)
    rank = len(graph.shapes.get(node.input[0], ()))
    if pad is not None and pad.op_type == "Transpose":
        turn, pad = pad, graph.maker(pad.input[0])
    if pad is None or pad.op_type != "Pad" or len(pad.input) < 3 or rank < 3 or (
            attributes(pad).get("mode", b"constant") != b"constant") or (
            at.get("auto_pad", b"NOTSET") != b"NOTSET") or (len(pad.input) > 3 and pad.input[3]):
        return False
    value, amounts = _scalar(graph, pad.input[2]), graph.constant(pad.input[1])
    if value is None or value > LEAST or amounts is None or amounts.size != 2 * rank:
        return False
    perm = attributes(turn)["perm"] if turn is not None else list(range(rank))
    sides = amounts.reshape(2, rank)[:, perm]
    more = np.array(at.get("pads", [0] * (2 * rank - 4))).reshape(2, -1) + sides[:, 2:]
    extents = (np.array(at["kernel_shape"]) - 1) * np.array(
        at.get("dilations", [1] * (rank - 2))) + 1
    if sides[:, :2].any() or (sides < 0).any() or (more >= extents).any() or at.get("ceil_mode"):
        return False
    (out,), source, before = node.output, pad.input[0], []
    if turn is not None:
        before = [helper.make_node("Transpose", [source], [f"{out}.turned"], perm=perm,
                                   name=f"{out}.turned")]
        source = f"{out}.turned"
    graph.replace(node, [*before, helper.make_node(
        "MaxPool", [source], [out], name=node.name, **{**at, "pads": more.ravel().tolist()})])
    return True
