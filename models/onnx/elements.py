"""Elements of other types than float32: half, bfloat16 and double become float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["to_float32"]

FLOATS = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
STATED = {"to", "dtype", "output_dtype"}
"""Attributes that hold an element type."""


def to_float32(model: onnx.ModelProto) -> dict[str, int]:
    """Compute a model in float32, whatever floats the file has.

    Returns
    -------
    outputs of the file that had another type, to that
    """
    outputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.output
               if value.type.tensor_type.elem_type in FLOATS}
    _convert(model.graph)
    for function in model.functions:
        _convert_nodes(function.node)
    return outputs


def _convert(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _convert_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    _convert_nodes(graph.node)


def _convert_nodes(nodes) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in STATED and attribute.i in FLOATS:
                attribute.i = TensorProto.FLOAT
            if attribute.HasField("t"):
                _convert_tensor(attribute.t)
            if attribute.HasField("g"):
                _convert(attribute.g)
            for graph in attribute.graphs:
                _convert(graph)


def _convert_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in FLOATS:
        with np.errstate(over="ignore"):
            # What float32 does not hold is infinite then, and refused as such.
            value = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
