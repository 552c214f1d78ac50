"""Attention in integer ops, exactly as the hardware computes, and as a softmax in float."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from hwgen.ir import Attention, Node, Requantise, TensorType
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
        _heads(writer, tensor, heads, op.heads, type)
        for tensor, heads, type in zip(
            node.inputs, (op.heads, op.kv_heads, op.kv_heads), types, strict=True))

    def number(value, dtype=np.int64) -> str:
        return writer.constant(value, dtype)

    turned = writer.op("Transpose", k, perm=[0, 1, 3, 2])
    scores = writer.op("Cast", writer.op("MatMulInteger", q, turned), to=TensorProto.INT64)
    seen = number(np.arange(types[1].pixels) < op.keys_seen(*types[:2])[:, None], bool)
    if op.causal:
        scores = writer.op("Where", seen, scores, number(HIDDEN))
    largest = writer.op("ReduceMax", scores, number([-1]), keepdims=1)
    below = writer.op("Sub", largest, scores)
    # Differences are not negative, so a division rounds down; what is beyond the table may be cut.
    most = (len(op.exp) << int(op.step.shift[0])) // max(int(op.step.multiplier[0]), 1) + 1
    scaled = writer.op("Mul", writer.op("Min", below, number(most)), number(op.step.multiplier[0]))
    entry = writer.op("Div", scaled, number(1 << int(op.step.shift[0])))
    entry = writer.op("Min", entry, number(len(op.exp) - 1))
    e = writer.op("Gather", number(op.exp), entry)
    if op.causal:
        e = writer.op("Where", seen, e, number(0))
    reciprocal = writer.op(
        "Div", number(op.numerator), writer.op("ReduceSum", e, number([-1]), keepdims=1))
    sums = writer.op("MatMulInteger", writer.op("Cast", e, to=TensorProto.INT8), v)
    product = writer.op("Mul", writer.op("Cast", sums, to=TensorProto.INT64), reciprocal)
    one = Requantise(np.array([1]), np.array([op.shift]))
    out = writer._requantised(product, one, op.output, 2)
    # (N, heads, tokens, e) to (N, heads * e, tokens)
    out = writer.op("Transpose", out, perm=[0, 1, 3, 2])
    type = writer.graph.types[node.name]
    writer.op("Reshape", out, number([-1, type.channels, *type.spatial]), out=node.name)


def _heads(
    writer: Writer, tensor: str, heads: int, wanted: int, type: TensorType
) -> str:
    """Tokens of each head: ``(N, C, *spatial)`` as ``(N, heads, tokens, d)``."""
    split = writer.op("Reshape", tensor, writer.constant(
        [-1, heads, type.channels // heads, type.pixels], np.int64))
    if heads != wanted:
        order = np.repeat(np.arange(heads), wanted // heads)
        split = writer.op("Gather", split, writer.constant(order, np.int64), axis=1)
    return writer.op("Transpose", split, perm=[0, 1, 3, 2])


@writes(Attention, form=QdqWriter)
def _softmax(writer: QdqWriter, node: Node, op: Attention, types: list[TensorType]) -> None:
    q, k, v = (
        _heads(writer, writer._real(tensor, type.quantisation), heads, op.heads, type)
        for tensor, heads, type in zip(
            node.inputs, (op.heads, op.kv_heads, op.kv_heads), types, strict=True))
    ratio = float(np.ldexp(op.step.multiplier[0], -int(op.step.shift[0]))) / STEPS_PER_NAT
    scale = ratio / (types[0].scale * types[1].scale)
    turned = writer.op("Transpose", k, perm=[0, 1, 3, 2])
    scores = writer.op("Mul", writer.op("MatMul", q, turned), writer.constant(scale, np.float32))
    if op.causal:
        seen = np.arange(types[1].pixels) < op.keys_seen(*types[:2])[:, None]
        scores = writer.op("Where", writer.constant(seen, bool), scores,
                           writer.constant(-np.inf, np.float32))
    out = writer.op("MatMul", writer.op("Softmax", scores, axis=-1), v)
    type = writer.graph.types[node.name]
    shape = writer.constant([-1, type.channels, *type.spatial], np.int64)
    out = writer.op("Reshape", writer.op("Transpose", out, perm=[0, 1, 3, 2]), shape)
    writer._codes(out, op.output, out=node.name)
