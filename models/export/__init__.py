"""The integer graph as standard ONNX: two independent golden models, run by onnxruntime.

:func:`to_integer` writes exactly what ``Graph.evaluate`` computes, in integer ops (ConvInteger,
Add, Cast, Mul, Round, Clip; Gather for tables): both must agree bit for bit at every tensor.
:func:`to_qdq` writes the same network as other tools do, float ops between QuantizeLinear and
DequantizeLinear: op by op it agrees within one step.

Tensors are NCHW with a batch of any size; integers are int8, or int16 above 8 bits.
"""

from __future__ import annotations

import onnx

from hwgen.ir import Graph
from hwgen.models.export import attention, norm, recurrent
from hwgen.models.export.integer import IntegerWriter
from hwgen.models.export.qdq import QdqWriter
from hwgen.models.export.writer import from_onnx_layout, to_onnx_layout

__all__ = ["from_onnx_layout", "to_integer", "to_onnx_layout", "to_qdq"]


# Imported for the ops that they write.
_ = attention, norm, recurrent


def to_integer(graph: Graph) -> onnx.ModelProto:
    """The graph in integer ops; every tensor of the graph is an output of the same name.

    Raises
    ------
    :exc:`HwgenError`
        If an op with weights reads a tensor of more than 8 bits.
    """
    writer = IntegerWriter(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.model(graph.types)


def to_qdq(graph: Graph) -> onnx.ModelProto:
    """The graph as float ops between QuantizeLinear and DequantizeLinear.

    Every tensor of the graph is an output of the same name.
    """
    writer = QdqWriter(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.model(graph.types)
