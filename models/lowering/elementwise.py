"""Sums, differences and products of streams, and functions that differ by channel."""

from __future__ import annotations

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Add, Mul, Op, Table
from hwgen.models.lowering.affine import along
from hwgen.models.lowering.conv import put_affine
from hwgen.models.lowering.core import Lowering, handles, scales

__all__: list[str] = []


def _operands(
    low: Lowering, a: str, b: str, out: str
) -> tuple[str, str, int, np.ndarray | None]:
    """Two tensors of one shape, repeated where they broadcast; axis or positions of the result."""
    shape = low.shape(out)
    first, second = low.view(a), low.view(b)
    if (low.shape(a) == low.shape(b) and first.positions is not None
            and second.positions is not None
            and low.type(first.tensor).shape == low.type(second.tensor).shape
            and np.array_equal(first.positions, second.positions)):
        # Whatever the order is, it is the same in both.
        return first.tensor, second.tensor, 1, first.positions
    axis = next((low.channel_axis(t) for t in (a, b)
                 if low.shape(t) == shape and low.view(t).positions is not None), 1)
    tensors = []
    for name in (a, b):
        if low.shape(name) == shape:
            tensors.append(low.tensor(name, axis))
            continue
        rank = len(shape)
        have = (1,) * (rank - len(low.shape(name))) + low.shape(name)
        positions = np.broadcast_to(low.positions(name).reshape(have), shape)
        tensors.append(low.arranged(low.view(name).tensor, positions, name, axis))
    return tensors[0], tensors[1], axis, None


@handles("Add", "Sub", "Mul", "Div", "Sum")
def _binary(low: Lowering, node: onnx.NodeProto) -> None:
    affine = low.affine.get(node.output[0])
    live = [i for i in node.input if i and i not in low.network.constants]
    if affine is not None:
        put_affine(low, live[0], affine, 1)
        return
    if len(live) < len(node.input):
        raise HwgenError(
            "a constant must be a scalar or a vector along the channels, of the stream's shape"
        )
    if node.op_type == "Div" or len(live) != 2:
        raise HwgenError(
            "only sums, differences and products of two streams are supported"
        )
    out = node.output[0]
    a, b, axis, positions = _operands(low, *live, out)
    types = low.type(a), low.type(b)
    result = low.result(out)
    codes = result.quantisation
    if node.op_type == "Mul":
        ratio = types[0].scale * types[1].scale / codes.scale
        op: Op = Mul(scales(ratio, codes), codes)
    else:
        sign = -1 if node.op_type == "Sub" else 1
        op = Add.from_types(types[0].quantisation, types[1].quantisation, codes, sign)
    low.put(result.name, op, a, b, axis=axis, positions=positions)


@handles("PRelu")
def _prelu(low: Lowering, node: onnx.NodeProto) -> None:
    """Each channel has a slope of its own, and so a table of its own."""
    name, slopes = node.input[0], low.constant(node.input[1])
    axis = low.channel_axis(name)
    slope = along(slopes, low.shape(name), axis)
    if slope is None:
        raise HwgenError(
            f"slopes of shape {slopes.shape} must be a scalar or a vector along the channels"
        )
    source = low.tensor(name, axis)
    have = low.type(source).quantisation
    codes = low.quantisation(node.output[0])
    real = have.dequantise(np.arange(have.low, have.high + 1)).astype(np.float64)
    slope = np.broadcast_to(slope, (low.type(source).channels,))
    values = np.where(real >= 0, real, slope[:, None] * real)
    low.put(node.output[0], Table(codes.quantise(values), codes), source, axis=axis)

