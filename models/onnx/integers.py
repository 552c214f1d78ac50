"""Ops on integers that only choose among their operands, in front of whatever makes floats.

A crop, a larger frame, the larger of two: none can make an integer that its type does not hold, so
each is computed on floats whose codes are these integers.  Sums and products of 8 or 16 bits wrap
around in the file, which floats do not: they stay, and are refused.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.models.onnx.nodes import attributes, opset

__all__ = ["dequantise_choices"]

KINDS = {TensorProto.UINT8: 10, TensorProto.INT8: 10, TensorProto.UINT16: 21, TensorProto.INT16: 21}
"""Types of integers, and the first opset with quantisers for them."""
DATA = {
    **dict.fromkeys(("Max", "Min", "Concat"), slice(None)), "Clip": slice(0, 3),
    "Pad": slice(0, 3, 2), **dict.fromkeys((
        "DepthToSpace", "Expand", "Flatten", "Identity", "MaxPool", "Reshape", "Slice",
        "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"), slice(0, 1)),
}
"""Ops that choose, and which of their inputs are data: others are extents and the like."""


def dequantise_choices(model: onnx.ModelProto) -> None:
    """Dequantise integer inputs that ops choose among, and quantise again behind each of these.

    Nothing changes for a type of integers if another op takes such before a cast to float.
    """
    for kind, first in KINDS.items():
        if opset(model) >= first:
            _of_kind(model.graph, kind)


def _of_kind(graph: onnx.GraphProto, kind: int) -> None:
    known = {c.name: c for c in graph.initializer}
    known |= {n.output[0]: attributes(n)["value"] for n in graph.node
              if n.op_type == "Constant" and "value" in attributes(n)}
    inputs = [v.name for v in graph.input
              if v.type.tensor_type.elem_type == kind and v.name not in known]
    integers, choices, casts = set(inputs), [], []
    for node in graph.node:
        if not integers.intersection(node.input):
            continue
        if node.op_type == "Cast" and attributes(node)["to"] == TensorProto.FLOAT:
            casts.append(node)
        elif node.op_type in DATA and all(
                not i or i in integers or i in known for i in node.input[DATA[node.op_type]]):
            choices.append(node)
            integers.update(node.output)
        elif node.op_type == "DequantizeLinear":
            continue
        else:
            return
    if not choices:
        return
    one, zero = f"codes.{kind}.one", f"codes.{kind}.zero"
    graph.initializer.extend((
        numpy_helper.from_array(np.ones((), np.float32), one),
        numpy_helper.from_array(np.zeros((), helper.tensor_dtype_to_np_dtype(kind)), zero),
    ))
    real = {name: f"{name}.real" for name in integers}
    nodes = [helper.make_node("DequantizeLinear", [i, one, zero], [real[i]]) for i in inputs]
    for node in graph.node:
        if any(node is each for each in casts):
            nodes.append(helper.make_node("Identity", [real[node.input[0]]], node.output))
            continue
        nodes.append(node)
        if not any(node is each for each in choices):
            continue
        for k, name in list(enumerate(node.input))[DATA[node.op_type]]:
            if name in known:
                node.input[k] = f"{node.output[0]}.operand.{k}"
                value = numpy_helper.to_array(known[name]).astype(np.float32)
                graph.initializer.append(numpy_helper.from_array(value, node.input[k]))
            elif name:
                node.input[k] = real[name]
        made = [out for out in node.output if out]
        for k, out in enumerate(node.output):
            node.output[k] = f"{out}.chosen" if out else ""
        for out in made:
            nodes += [helper.make_node("QuantizeLinear", [f"{out}.chosen", one, zero], [out]),
                      helper.make_node("DequantizeLinear", [out, one, zero], [real[out]])]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
