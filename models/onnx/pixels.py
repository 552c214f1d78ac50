"""Integer inputs that are cast to float: their integers are the codes, so nothing is rounded.

Scales and shifts in front of the first layer (``x / 255``, ``x / 127.5 - 1``) are what the codes
stand for, as long as a whole number stands for 0.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.models.onnx.nodes import attributes, rename

__all__ = ["dequantise_casts"]

CODES = {TensorProto.UINT8: (0, 255), TensorProto.INT8: (-128, 127),
         TensorProto.UINT16: (0, 65535), TensorProto.INT16: (-32768, 32767)}
MOVING = {"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
WHOLE = 1e-4
"""A zero point this near to a whole number is one: the difference is float32's rounding."""


def dequantise_casts(model: onnx.ModelProto) -> None:
    """Put a DequantizeLinear in the place of the casts of integer inputs, and of scales behind."""
    graph = model.graph
    if not any(value.type.tensor_type.elem_type in CODES for value in graph.input):
        return
    known = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in attributes(node):
            known[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
    for value in graph.input:
        kind = value.type.tensor_type.elem_type
        if kind not in CODES or value.name in known:
            continue
        casts = _casts(graph, value.name)
        if not casts:
            continue
        for node in casts:
            _skip(graph, node, node.input[0])
        real = f"{value.name}.real"
        for node in graph.node:
            rename(node, {value.name: real})
        rank = len(value.type.tensor_type.shape.dim)
        scale, zero = _absorbed(graph, real, rank, known, CODES[kind])
        parameters = (("scale", np.float32(scale)),
                      ("zero", np.asarray(zero, helper.tensor_dtype_to_np_dtype(kind))))
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(v), f"{real}.{what}") for what, v in parameters)
        graph.node.insert(0, helper.make_node(
            "DequantizeLinear", [value.name, f"{real}.scale", f"{real}.zero"], [real]))
        del graph.value_info[:]


def _casts(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """The casts to float of an input; none if others read it than what moves its elements."""
    integers, casts = {name}, []
    for node in graph.node:
        if not integers.intersection(node.input):
            continue
        if node.op_type == "Cast" and attributes(node)["to"] == TensorProto.FLOAT:
            casts.append(node)
        elif node.op_type in MOVING and node.input[0] in integers:
            integers.add(node.output[0])
        else:
            return []
    return [] if integers.intersection(o.name for o in graph.output) else casts


def _skip(graph: onnx.GraphProto, node: onnx.NodeProto, source: str) -> None:
    """Take a node out: what read its output reads ``source``."""
    out = node.output[0]
    if any(value.name == out for value in graph.output):
        node.CopyFrom(helper.make_node("Identity", [source], [out], name=node.name))
        return
    graph.node.remove(node)
    for other in graph.node:
        rename(other, {out: source})


def _absorbed(
    graph: onnx.GraphProto, tensor: str, rank: int, known: dict[str, np.ndarray],
    codes: tuple[int, int],
) -> tuple[float, int]:
    """Scale and zero point of integers, with the nodes behind that only scale and shift.

    These are taken out of the graph.
    """
    outputs = {o.name for o in graph.output}
    scale, shift, best, gone = 1.0, 0.0, (1.0, 0), []
    passed: list[onnx.NodeProto] = []
    while tensor not in outputs:
        readers = [n for n in graph.node if tensor in n.input]
        if len(readers) != 1 or list(readers[0].input).count(tensor) != 1:
            break
        (node,) = readers
        tensor = node.output[0]
        if node.op_type in MOVING and node.input[0] not in known:
            rank = rank if node.op_type in ("Identity", "Transpose") else 1
            continue
        step = _step(node, known, rank)
        if step is None:
            break
        scale, shift = scale * step[0], shift * step[0] + step[1]
        passed.append(node)
        zero = -shift / scale
        if codes[0] <= round(zero) <= codes[1] and abs(zero - round(zero)) < WHOLE:
            best, gone = (scale, round(zero)), list(passed)
    for node in gone:
        _skip(graph, node, next(i for i in node.input if i not in known))
    return best


def _step(
    node: onnx.NodeProto, known: dict[str, np.ndarray], rank: int
) -> tuple[float, float] | None:
    """Scale and shift of a node with one scalar constant; None if it is no such, or turns signs."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.input) != 2:
        return None
    first = node.input[0] not in known
    value = known.get(node.input[1 if first else 0])
    if value is None or value.size != 1 or value.ndim > rank:
        return None
    number = float(value.reshape(()))
    if node.op_type == "Add":
        return 1.0, number
    if node.op_type == "Sub":
        return (1.0, -number) if first else None
    if not number > 0 or not np.isfinite(number):
        return None
    if node.op_type == "Mul":
        return number, 0.0
    return (1 / number, 0.0) if first else None
