"""Attention, products of two streams, softmax: in integer ops, exactly as hardware computes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from hwgen.ir import Attention, MatMul, Node, Requantise, Softmax, TensorType
from hwgen.ir.attention import STEPS_PER_NAT
from hwgen.models.export.integer import IntegerWriter
from hwgen.models.export.qdq import QdqWriter
from hwgen.models.export.writer import Writer, writes

__all__: list[str] = []

HIDDEN = -(1 << 50)
"""The score of a key that is not seen."""


@writes(Attention, form=IntegerWriter)
def _attention(
    writer: IntegerWriter, node: Node, op: Attention, types: list[TensorType]
) -> None:
    q, k, v = (
        _heads(writer, tensor, heads, op, type)
        for tensor, heads, type in zip(
            node.inputs, (op.heads, op.kv_heads, op.kv_heads), types, strict=True))

    def number(value, dtype=np.int64) -> str:
        return writer.constant(value, dtype)

    turned = writer.op("Transpose", k, perm=[0, 1, 2, 4, 3])
    scores = writer.op("Cast", writer.op("MatMulInteger", q, turned), to=TensorProto.INT64)
    if op.bias is not None:
        scores = writer.op("Add", scores, number(op.bias << op.bias_shift))
    masked = op.causal or op.hidden is not None
    seen = number(op.seen(*types[:2]), bool)
    if masked:
        scores = writer.op("Where", seen, scores, number(HIDDEN))
    largest = writer.op("ReduceMax", scores, number([-1]), keepdims=1)
    e = _exponentials(writer, op, writer.op("Sub", largest, scores),
                      op.multipliers[..., None, None])
    if masked:
        e = writer.op("Where", seen, e, number(0))
    reciprocal = writer.op(
        "Div", number(op.numerator), writer.op("ReduceSum", e, number([-1]), keepdims=1))
    sums = writer.op("MatMulInteger", writer.op("Cast", e, to=TensorProto.INT8), v)
    product = writer.op("Mul", writer.op("Cast", sums, to=TensorProto.INT64), reciprocal)
    one = Requantise(np.array([1]), np.array([op.shift]))
    out = writer._requantised(product, one, op.output, 2)
    type = writer.graph.types[node.name]
    _together(writer, out, type, out=node.name)


def _exponentials(
    writer: IntegerWriter, op: Attention | Softmax, below: str, factors: np.ndarray
) -> str:
    """Exponentials of distances from the largest, which are multiplied by some factors."""
    def number(value) -> str:
        return writer.constant(value, np.int64)

    # Distances are not negative, so a division rounds down; what is beyond the table may be cut.
    shift = int(op.step.shift[0])
    most = (len(op.exp) << shift) // np.maximum(factors, 1) + 1
    scaled = writer.op("Mul", writer.op("Min", below, number(most)), number(factors))
    entry = writer.op("Div", scaled, number(1 << shift))
    entry = writer.op("Min", entry, number(len(op.exp) - 1))
    return writer.op("Gather", number(op.exp), entry)


def _heads(
    writer: Writer, tensor: str, heads: int, op: Attention | MatMul, type: TensorType
) -> str:
    """Tokens of each head: ``(N, C, *spatial)`` as ``(N, windows, heads, tokens, d)``."""
    split = writer.op("Reshape", tensor, writer.constant(
        [-1, heads, type.channels // heads, op.windows, type.pixels // op.windows], np.int64))
    if heads != op.heads:
        order = np.repeat(np.arange(heads), op.heads // heads)
        split = writer.op("Gather", split, writer.constant(order, np.int64), axis=1)
    return writer.op("Transpose", split, perm=[0, 3, 1, 4, 2])


def _together(writer: Writer, tensor: str, type: TensorType, out: str = "") -> str:
    """``(N, windows, heads, tokens, e)`` as ``(N, heads * e, *spatial)``."""
    tensor = writer.op("Transpose", tensor, perm=[0, 2, 4, 1, 3])
    shape = writer.constant([-1, type.channels, *type.spatial], np.int64)
    return writer.op("Reshape", tensor, shape, out=out)


@writes(Attention, form=QdqWriter)
def _softmax(writer: QdqWriter, node: Node, op: Attention, types: list[TensorType]) -> None:
    q, k, v = (
        _heads(writer, writer._real(tensor, type.quantisation), heads, op, type)
        for tensor, heads, type in zip(
            node.inputs, (op.heads, op.kv_heads, op.kv_heads), types, strict=True))
    # Nats of a step of the scores.
    unit = np.ldexp(op.multipliers.astype(np.float64), -int(op.step.shift[0])) / STEPS_PER_NAT
    unit = unit[..., None, None]
    turned = writer.op("Transpose", k, perm=[0, 1, 2, 4, 3])
    scale = writer.constant(unit / (types[0].scale * types[1].scale), np.float32)
    scores = writer.op("Mul", writer.op("MatMul", q, turned), scale)
    if op.bias is not None:
        bias = writer.constant((op.bias << op.bias_shift) * unit, np.float32)
        scores = writer.op("Add", scores, bias)
    if op.causal or op.hidden is not None:
        scores = writer.op("Where", writer.constant(op.seen(*types[:2]), bool), scores,
                           writer.constant(-np.inf, np.float32))
    out = writer.op("MatMul", writer.op("Softmax", scores, axis=-1), v)
    type = writer.graph.types[node.name]
    writer._codes(_together(writer, out, type), op.output, out=node.name)


def _operands(
    writer: Writer, tensors: list[str], op: MatMul, types: list[TensorType]
) -> list[str]:
    """Both operands of a product of each head; the second is turned for scores."""
    found = [_heads(writer, tensor, op.heads, op, type)
             for tensor, type in zip(tensors, types, strict=True)]
    if op.form == "scores":
        found[1] = writer.op("Transpose", found[1], perm=[0, 1, 2, 4, 3])
    return found


@writes(MatMul, form=IntegerWriter)
def _matmul(writer: IntegerWriter, node: Node, op: MatMul, types: list[TensorType]) -> None:
    operands = _operands(writer, list(node.inputs), op, types)
    if max(type.bits for type in types) <= 8:
        acc = writer.op("MatMulInteger", *operands)
    else:
        # Wider codes have no op of integers; doubles hold all sums.
        acc = writer.op("MatMul", *(
            writer.op("Cast", each, to=TensorProto.DOUBLE) for each in operands))
    type = writer.graph.types[node.name]
    writer._requantised(_together(writer, acc, type), op.requantise, op.output,
                        len(type.shape) + 1, out=node.name)


@writes(MatMul, form=QdqWriter)
def _real_matmul(writer: QdqWriter, node: Node, op: MatMul, types: list[TensorType]) -> None:
    real = [writer._real(tensor, type.quantisation)
            for tensor, type in zip(node.inputs, types, strict=True)]
    out = writer.op("MatMul", *_operands(writer, real, op, types))
    type = writer.graph.types[node.name]
    units = types[0].scale * types[1].scale
    scale = np.ldexp(op.requantise.multiplier.astype(np.float64), -op.requantise.shift)
    ratio = scale * op.output.scale / units
    by = ratio.reshape(-1, *(1,) * (len(type.shape) - 1))
    together = _together(writer, out, type)
    scaled = writer.op("Mul", together, writer.constant(by, np.float32))
    writer._codes(scaled, op.output, out=node.name)


@writes(Softmax, form=IntegerWriter)
def _softmax_alone(
    writer: IntegerWriter, node: Node, op: Softmax, types: list[TensorType]
) -> None:
    wide = writer.op("Cast", _grouped(writer, node.inputs[0], op, types[0]), to=TensorProto.INT64)
    axis = writer.constant([2], np.int64)
    largest = writer.op("ReduceMax", wide, axis, keepdims=1)
    e = _exponentials(writer, op, writer.op("Sub", largest, wide), op.step.multiplier[:1])
    reciprocal = writer.op("Div", writer.constant(op.numerator, np.int64),
                           writer.op("ReduceSum", e, axis, keepdims=1))
    one = Requantise(np.array([1]), np.array([op.shift]))
    out = writer._requantised(writer.op("Mul", e, reciprocal), one, op.output, 2)
    _ungrouped(writer, out, types[0], node.name)


def _grouped(writer: Writer, tensor: str, op: Softmax, type: TensorType) -> str:
    """``(N, C, *spatial)`` as ``(N, groups, C / groups, pixels)``."""
    return writer.op("Reshape", tensor, writer.constant(
        [-1, op.groups, type.channels // op.groups, type.pixels], np.int64))


def _ungrouped(writer: Writer, tensor: str, type: TensorType, out: str = "") -> str:
    shape = writer.constant([-1, type.channels, *type.spatial], np.int64)
    return writer.op("Reshape", tensor, shape, out=out)


@writes(Softmax, form=QdqWriter)
def _real_softmax(writer: QdqWriter, node: Node, op: Softmax, types: list[TensorType]) -> None:
    (type,) = types
    x = _grouped(writer, writer._real(node.inputs[0], type.quantisation), op, type)
    unit = float(op.step.multiplier[0]) * 2.0 ** -int(op.step.shift[0]) / STEPS_PER_NAT
    scaled = writer.op("Mul", x, writer.constant(unit / type.scale, np.float32))
    out = _ungrouped(writer, writer.op("Softmax", scaled, axis=2), type)
    writer._codes(out, op.output, out=node.name)
