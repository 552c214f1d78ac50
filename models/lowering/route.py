"""Ops that move data: concatenation, split, views, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hwgen.errors import HwgenError
from hwgen.ir import Concat, Conv, GatherChannels, Pad, Quantisation, Requantise, Reshape, Split
from hwgen.models.lowering.core import Lowering, handles
from hwgen.models.lowering.embedding import put_embedding
from hwgen.models.lowering.layout import LARGEST, plain_positions
from hwgen.models.onnx.nodes import attributes, axis_pads

__all__: list[str] = []


@handles("Concat")
def _concat(low: Lowering, node: onnx.NodeProto) -> None:
    out = node.output[0]
    shape = low.shape(out)
    axis = attributes(node)["axis"] % len(shape)
    if axis == 0:
        raise HwgenError("only parts of a frame can be joined, not frames")
    live = [name for name in node.input if name not in low.network.constants]
    if len(live) == len(node.input) and _rolled(low, node, axis):
        return
    for name in node.input:
        if name in low.network.constants and name not in low.views:
            _as_stream(low, name, live[0], low.result(out).quantisation)
    if len(shape) == 2:
        # Features may come in any order, as long as it is known.
        parts, orders = zip(*(low.features(name) for name in node.input), strict=True)
        begins = np.cumsum([0, *map(len, orders)])
        order = np.concatenate([k + begin for k, begin in zip(orders, begins, strict=False)])
        moved = not np.array_equal(order, np.arange(len(order)))
        low.put(*_joined(low, node, list(parts)), positions=order[None] if moved else None)
        return
    channels = _channel_axis(low, node.input, axis)
    tensors = [low.tensor(name, channels) for name in node.input]
    if axis == channels:
        low.put(*_joined(low, node, tensors), axis=axis)
        return
    if all(low.shape(name)[axis] == 1 for name in node.input):
        # Frames of one shape: pixel by pixel, one after the other.
        order = [0, *(k for k in range(1, len(shape)) if k not in (axis, channels)), axis, channels]
        stack = np.arange(math.prod(shape)).reshape([shape[k] for k in order])
        low.put(*_joined(low, node, tensors), positions=stack.transpose(np.argsort(order)))
        return
    # In the order of the stream: what is inside of the axis is one after the other.
    order = [k for k in range(1, len(shape)) if k != channels] + [channels]
    outer = [shape[k] for k in order[: order.index(axis)]]
    lines = []
    for name, tensor in zip(node.input, tensors, strict=True):
        inner = math.prod(low.type(tensor).shape) // math.prod(outer)
        line = Reshape((*outer, inner))
        lines.append(low.graph.add(line, tensor, name=low.fresh(f"{name}_line")))
    low.put(*_joined(low, node, lines), positions=plain_positions(shape, channels))


def _rolled(low: Lowering, node: onnx.NodeProto, axis: int) -> bool:
    """Join parts of one stream, such as those of a roll, if all of it is there in another order.

    Then nothing is computed: it is another view of the stream.
    """
    views = [low.view(name) for name in node.input]
    out, source = node.output[0], views[0].tensor
    if out in low.network.codes or any(view.tensor != source for view in views):
        return False
    positions = np.concatenate([low.positions(name) for name in node.input], axis)
    if not np.array_equal(np.sort(positions.ravel()), np.arange(low.type(source).size)):
        return False
    low.move(out, source, positions)
    return True


def _as_stream(low: Lowering, name: str, like: str, codes: Quantisation) -> None:
    """Make a constant a stream, such as a class token: elements of a stream times 0, plus it.

    Parameters
    ----------
    name : the constant
    like : the stream
    codes : of the constant
    """
    value, positions = low.constant(name), low.positions(like)
    if value.ndim != positions.ndim or value.shape[0] != 1:
        raise HwgenError(f"constant {name!r} of shape {list(value.shape)} is joined to frames of "
                         f"shape {list(positions.shape)}: export with a batch of 1")
    some = positions[np.ix_(*(np.arange(n) % m for n, m in
                              zip(value.shape, positions.shape, strict=True)))]
    axis = low.channel_axis(like)
    source = low.arranged(low.view(like).tensor, some, name, axis)
    flat = low.graph.add(Reshape((value.size,)), source, name=low.fresh(f"{name}_flat"))
    fill = codes.quantise(np.moveaxis(value, axis, -1).ravel()).astype(np.int64)
    tensor = _filled(low, f"{name}_stream", flat, np.zeros(value.size, bool), fill, codes)
    low.network.shapes.setdefault(name, value.shape)
    low.move(name, tensor, plain_positions(value.shape, axis))


def _channel_axis(low: Lowering, names: Sequence[str], axis: int) -> int:
    """Where the channels of streams that are joined are, so that as few as possible are moved."""
    axes = [low.channel_axis(name) for name in names]
    if axis in axes and all(
            a == axis or low.shape(name)[axis] == 1 for a, name in zip(axes, names, strict=True)):
        return axis
    return max(set(axes), key=axes.count)


def _joined(
    low: Lowering, node: onnx.NodeProto, tensors: list[str]
) -> tuple[str, Concat, *tuple[str, ...]]:
    """Name, op and inputs of a concatenation of channels."""
    result = low.result(node.output[0])
    name, codes = result.name, result.quantisation
    have = {low.type(tensor).quantisation for tensor in tensors}
    if len(have) == 1 and name == node.output[0] and name not in low.network.codes:
        # Nothing asks for other codes than those that all of them have.
        (codes,) = have
    return name, Concat(), *(low.rescaled(tensor, codes) for tensor in tensors)


@handles("Split")
def _split(low: Lowering, node: onnx.NodeProto) -> None:
    name, shape = node.input[0], low.shape(node.input[0])
    axis = attributes(node).get("axis", 0) % len(shape)
    sizes = tuple(low.shape(out)[axis] for out in node.output)
    # Parts that nothing reads are no outputs.
    used = [bool(low.network.users.get(out)) or out in low.network.outputs for out in node.output]
    if axis == 1 and low.view(name).positions is None and all(used):
        low.put_all(list(node.output), Split(sizes), low.tensor(name))
        return
    view, positions = low.view(name), low.positions(name)
    parts = np.split(positions, np.cumsum(sizes)[:-1], axis=axis)
    for out, part in zip(node.output, parts, strict=True):
        low.move(out, view.tensor, part)


@handles("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand",
         "DepthToSpace", "SpaceToDepth", "Tile", "GatherElements", "GatherND", "Compress")
def _view(low: Lowering, node: onnx.NodeProto) -> None:
    """Another view of the same stream: the op is carried out on positions."""
    name = node.input[0]
    if node.op_type == "Gather" and name in low.network.constants:
        put_embedding(low, node)
        return
    view, positions = low.view(name), low.positions(name)
    feeds = {name: positions}
    feeds |= {i: low.network.constants[i] for i in node.input[1:] if i in low.network.constants}
    if missing := [i for i in node.input[1:] if i and i not in feeds]:
        raise HwgenError(f"{missing[0]!r} must be constant")
    infos = [helper.make_tensor_value_info(
        k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()]
    graph = helper.make_graph([node], "view", infos, [onnx.ValueInfoProto(name=node.output[0])])
    model = helper.make_model(graph, opset_imports=[
        o for o in low.network.model.opset_import if o.domain in ("", "ai.onnx")])
    try:
        (result,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever an op of numpy raises
        raise HwgenError(f"cannot be carried out: {str(error)[:200]}") from None
    moved = np.asarray(result)
    if moved.size > LARGEST:
        raise HwgenError(f"a tensor of {moved.size} elements is too large to be rearranged")
    if moved.shape != low.shape(node.output[0]):
        moved = moved.reshape(low.shape(node.output[0]))
    # Operands of attention may have their heads as a batch, and what cells take their steps.
    if moved.ndim < 1 or (moved.shape[0] != 1 and not low.batch_moves(node.output[0])):
        raise HwgenError(
            f"shape {list(moved.shape)} does not keep a frame apart: the first axis is the batch"
        )
    low.move(node.output[0], view.tensor, moved)


@handles("Pad")
def _pad(low: Lowering, node: onnx.NodeProto) -> None:
    at, name = attributes(node), node.input[0]
    rank = len(low.shape(name))
    pads = axis_pads(node, rank, low.constant)
    if any(pads[0]):
        raise HwgenError("the first axis is the batch: it cannot be padded")
    mode = at.get("mode", b"constant").decode()
    channels = low.channel_axis(name)
    if mode in ("reflect", "wrap") or (mode == "edge" and (any(pads[channels]) or rank < 3)):
        view, positions = low.view(name), low.positions(name)
        low.move(node.output[0], view.tensor, _padded(positions, pads, mode))
        return
    if mode not in ("constant", "edge"):
        raise HwgenError(
            f"mode {mode!r} is not supported; supported are constant, edge, reflect, wrap")
    source = low.tensor(name, channels)
    codes = low.type(source).quantisation
    fill = None
    if mode == "constant":
        value = float(at.get("value", 0.0))
        if len(node.input) > 2 and node.input[2]:
            value = float(low.constant(node.input[2]).ravel()[0])
        fill = int(codes.quantise(np.asarray(value)))
        if any(pads[channels]):
            source = _more_channels(low, node.output[0], source, pads[channels], fill)
    spatial = [sides for axis, sides in enumerate(pads) if axis not in (0, channels)]
    if any(map(any, spatial)):
        low.put(node.output[0], Pad(tuple(spatial), fill), source, axis=channels)
    else:
        low.move(node.output[0], source, plain_positions(low.shape(node.output[0]), channels))


def _padded(positions: np.ndarray, pads: list[tuple[int, int]], mode: str) -> np.ndarray:
    """Positions with more of them around, or fewer where pads are negative."""
    crop = tuple(slice(max(-a, 0), n - max(-b, 0))
                 for (a, b), n in zip(pads, positions.shape, strict=True))
    more = [(max(a, 0), max(b, 0)) for a, b in pads]
    return np.pad(positions[crop], more, mode=mode)  # pyright: ignore[reportCallIssue]


def _more_channels(
    low: Lowering, name: str, source: str, pads: tuple[int, int], fill: int
) -> str:
    """A tensor with constant channels around its own, or without some of them.

    Other channels stand where they shall be; a convolution of one tap multiplies them by 0.
    """
    type = low.type(source)
    order = np.arange(-pads[0], type.channels + pads[1])
    inside = (order >= 0) & (order < type.channels)
    source = low.graph.add(GatherChannels(tuple(np.where(inside, order, 0).tolist())), source,
                           name=low.fresh(f"{name}_channels"))
    if inside.all():
        return source
    return _filled(low, f"{name}_filled", source, inside, fill, type.quantisation)


def _filled(
    low: Lowering, name: str, source: str, kept: np.ndarray, fill: np.ndarray | int,
    codes: Quantisation,
) -> str:
    """A tensor some of whose channels are kept, while the others become the codes ``fill``."""
    ones = (1,) * len(low.type(source).spatial)
    # sum(w * x) has the zero point in it; what is filled in stands alone.
    bias = np.where(kept, -codes.zero_point, fill - codes.zero_point)
    return low.graph.add(Conv(
        kept.astype(np.int16).reshape(-1, *ones, 1), bias,
        Requantise.from_scale(np.ones(len(kept))), codes, groups=len(kept), weight_bits=2,
    ), source, name=low.fresh(name))
