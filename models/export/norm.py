"""LayerNorm and RMSNorm in integer ops, exactly as the hardware computes, and in float."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from hwgen.ir import LayerNorm, Node, TensorType
from hwgen.ir.norm import FIRST_ENTRY, FRACTION_BITS, VARIANCE_BITS
from hwgen.models.export.integer import IntegerWriter
from hwgen.models.export.qdq import QdqWriter
from hwgen.models.export.writer import writes

__all__: list[str] = []

CHANNELS = [1]


@writes(LayerNorm, form=IntegerWriter)
def _integer(writer: IntegerWriter, node: Node, op: LayerNorm, types: list[TensorType]) -> None:
    (type,) = types

    def number(value) -> str:
        return writer.constant(value, np.int64)

    def summed(tensor: str) -> str:
        return writer.op("ReduceSum", tensor, number(CHANNELS), keepdims=1)

    x = writer.op("Cast", node.inputs[0], to=TensorProto.INT64)
    if op.offset(type):
        x = writer.op("Sub", x, number(op.offset(type)))
    squares = summed(writer.op("Mul", x, x))
    variance = writer.op("Add", writer.op("Mul", squares, number(type.channels)),
                         number(op.epsilon))
    difference = writer.op("Mul", x, number(type.channels))
    if op.centred:
        total = summed(x)
        variance = writer.op("Sub", variance, writer.op("Mul", total, total))
        difference = writer.op("Sub", difference, total)
    # How many powers of 4 are no larger; then the mantissa, rounded down.
    powers = np.int64(1) << 2 * np.arange(1, VARIANCE_BITS // 2)
    rank = len(type.shape) + 1
    each = writer.op("Unsqueeze", variance, number([rank]))
    k = writer.op("ReduceSum", writer.op(
        "Cast", writer.op("GreaterOrEqual", each, number(powers)), to=TensorProto.INT64),
        number([rank]), keepdims=0)
    down = 2 * np.arange(len(powers) + 1) - FRACTION_BITS
    up, below = (writer.op("Gather", number(np.int64(1) << np.maximum(n, 0)), k)
                 for n in (-down, down))
    entry = writer.op("Div", writer.op("Mul", variance, up), below)
    root = writer.op("Gather", number(op.roots), writer.op("Sub", entry, number(FIRST_ENTRY)))
    scaled = writer.op("Cast", writer.op("Mul", difference, root), to=TensorProto.DOUBLE)
    shifts = np.ldexp(1.0, -op.shift - np.arange(len(powers) + 1))
    power = writer.op("Gather", writer.constant(shifts, np.float64), k)
    writer._rounded(writer.op("Mul", scaled, power), op.output, out=node.name)


@writes(LayerNorm, form=QdqWriter)
def _float(writer: QdqWriter, node: Node, op: LayerNorm, types: list[TensorType]) -> None:
    (type,) = types

    def mean(tensor: str) -> str:
        return writer.op("ReduceMean", tensor, writer.constant(CHANNELS, np.int64), keepdims=1)

    x = writer._real(node.inputs[0], type.quantisation)
    if op.centred:
        x = writer.op("Sub", x, mean(x))
    epsilon = op.epsilon * (type.scale / type.channels) ** 2
    power = writer.op("Add", mean(writer.op("Mul", x, x)),
                      writer.constant(epsilon, np.float32))
    writer._codes(writer.op("Div", x, writer.op("Sqrt", power)), op.output, out=node.name)
