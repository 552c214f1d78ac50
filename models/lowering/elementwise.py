"""Sums, differences and products of streams, and functions that differ by channel."""

from __future__ import annotations

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Add, Extremum, Mul, Op, Reshape, Table
from hwgen.models.lowering.affine import along, scale_and_shift
from hwgen.models.lowering.conv import put_affine, put_scaled
from hwgen.models.lowering.core import Lowering, handles, no_finer, scales
from hwgen.models.lowering.layout import arrangement, plain_positions

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
    if found := _in_order(low, a, b, shape):
        return *found, 1, low.positions(a)
    if found := _in_order(low, b, a, shape):
        return found[1], found[0], 1, low.positions(b)
    axis = next((low.channel_axis(t) for t in (a, b)
                 if low.shape(t) == shape and low.view(t).positions is not None), 1)
    one, other = low.broadcast(a, shape, axis), low.broadcast(b, shape, axis)
    extents = low.type(one).shape
    if low.type(other).shape != extents:
        # The same elements in the same order: only extents of 1 differ.
        other = low.graph.add(Reshape(extents), other, name=low.fresh(f"{b}_alike"))
    return one, other, axis, None


def _in_order(
    low: Lowering, whole: str, other: str, shape: tuple[int, ...]
) -> tuple[str, str] | None:
    """Two tensors, the second repeated in the order in which the elements of the first come.

    None if the first can have its channels at an axis, or the second would have to be put in
    another order.
    """
    view, rank = low.view(whole), len(shape)
    type = low.type(view.tensor)
    if low.shape(whole) != shape or view.positions is None or view.positions.size != type.size or (
            arrangement(view.positions, type.shape, low.channel_axis(whole)) is not None):
        return None
    order = np.argsort(view.positions.ravel())
    if not np.array_equal(view.positions.ravel()[order], np.arange(type.size)):
        return None
    have = low.shape(other)
    spread = np.broadcast_to(
        low.positions(other).reshape((1,) * (rank - len(have)) + have), shape)
    spread = spread.ravel()[order].reshape(1, *type.shape)
    source, last = low.view(other).tensor, len(type.shape)
    if arrangement(spread, low.type(source).shape, last) is None:
        return None
    return view.tensor, low.arranged(source, spread, other, last)


@handles("Add", "Sub", "Mul", "Div", "Sum")
def _binary(low: Lowering, node: onnx.NodeProto) -> None:
    affine = low.affine.get(node.output[0])
    live = [i for i in node.input if i and i not in low.network.constants]
    if affine is not None:
        put_affine(low, live[0], affine)
        return
    if len(live) == 1 and len(node.input) == 2:
        _by_element(low, node, live[0])
        return
    if len(live) < len(node.input):
        raise HwgenError("only one constant and one stream, or two streams, are supported")
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
        if result.name not in low.network.codes:
            codes = no_finer(codes, min(type.scale for type in types))
        op = Add.from_types(types[0].quantisation, types[1].quantisation, codes, sign)
    low.put(result.name, op, a, b, axis=axis, positions=positions)


@handles("Max", "Min")
def _extremum(low: Lowering, node: onnx.NodeProto) -> None:
    """The largest or smallest of several streams, all in the codes of the result."""
    out = node.output[0]
    if fixed := [i for i in node.input if i in low.network.constants]:
        raise HwgenError(f"of several streams and a constant, {fixed[0]!r}, it is not supported")
    shape, codes = low.shape(out), low.quantisation(out)
    axis = next((low.channel_axis(t) for t in node.input if low.shape(t) == shape), 1)
    largest, *rest = (low.rescaled(low.broadcast(t, shape, axis), codes) for t in node.input)
    op = Extremum(node.op_type == "Min")
    for other in rest[:-1]:
        largest = low.graph.add(op, largest, other, name=low.fresh(f"{out}_of"))
    low.put(out, op, largest, rest[-1], axis=axis)


def _by_element(low: Lowering, node: onnx.NodeProto, name: str) -> None:
    """A stream and a constant that differs from element to element: a scale and shift for each.

    The frame is one pixel then, whose channels are its elements.
    """
    out = node.output[0]
    shape, first = low.shape(out), node.input[0] == name
    constant = low.constant(node.input[1 if first else 0])
    if shape[0] != 1 or constant.ndim > len(shape):
        raise HwgenError(f"a constant of shape {constant.shape} would be added to the batch")
    axis = low.channel_axis(name) if low.shape(name) == shape else 1
    source = low.broadcast(name, shape, axis)
    values = np.moveaxis(np.broadcast_to(constant, shape), axis, -1).ravel()
    change = scale_and_shift("Add" if node.op_type == "Sum" else node.op_type, values, first)
    if change is None:
        raise HwgenError("a quotient must have a constant without zeros below its stream")
    flat = low.graph.add(Reshape((len(values),)), source, name=low.fresh(f"{name}_flat"))
    result = low.result(out, sign=True)
    put_scaled(low, result, flat, *change, positions=plain_positions(shape, axis))


@handles("PRelu")
def _prelu(low: Lowering, node: onnx.NodeProto) -> None:
    """Each channel has a slope of its own, and so a table of its own."""
    name, slopes = node.input[0], low.constant(node.input[1])
    shape, own = low.shape(name), low.channel_axis(name)
    by_axis = {axis: along(slopes, shape, axis) for axis in (own, *range(1, len(shape)))}
    axis, slope = next(((a, s) for a, s in by_axis.items() if s is not None), (own, None))
    if slope is None:
        raise HwgenError(f"slopes of shape {slopes.shape} do not fit frames of {shape[1:]}")
    source = low.tensor(name, axis)
    have = low.type(source).quantisation
    codes = low.quantisation(node.output[0])
    real = have.dequantise(np.arange(have.low, have.high + 1)).astype(np.float64)
    slope = np.broadcast_to(slope, (low.type(source).channels,))
    values = np.where(real >= 0, real, slope[:, None] * real)
    low.put(node.output[0], Table(codes.quantise(values), codes), source, axis=axis)

