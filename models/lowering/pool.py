"""Pooling, and what amounts to it: means and maxima over spatial axes."""

from __future__ import annotations

import math

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import (
    ArgMax,
    AveragePool,
    ChannelMax,
    Conv,
    GatherChannels,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Op,
    Pads,
    Quantisation,
    Table,
    TensorType,
)
from hwgen.models.lowering.core import Lowering, finer, handles, no_finer, scales
from hwgen.models.lowering.layout import arrangement, plain_positions
from hwgen.models.onnx.nodes import attributes, spatial_pads

__all__: list[str] = []

Geometry = tuple[tuple[int, ...], tuple[int, ...], Pads, tuple[int, ...], bool]


def _geometry(low: Lowering, node: onnx.NodeProto) -> Geometry:
    """Kernel, stride, pads and dilation, and whether windows reach beyond the padded frame."""
    at = attributes(node)
    kernel = tuple(at["kernel_shape"])
    ones = (1,) * len(kernel)
    stride, dilation = tuple(at.get("strides", ones)), tuple(at.get("dilations", ones))
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    spatial = low.shape(node.input[0])[2:]
    pads = spatial_pads(at, extent, stride, spatial)
    want = low.shape(node.output[0])[2:]
    full = tuple(
        (a, max(b, (w - 1) * s + e - n - a))
        for (a, b), w, s, e, n in zip(pads, want, stride, extent, spatial, strict=True)
    )
    return kernel, stride, full, dilation, full != pads


@handles("MaxPool")
def _max_pool(low: Lowering, node: onnx.NodeProto) -> None:
    if len(node.output) > 1 and node.output[1]:
        raise HwgenError("the indices of the maxima are not supported")
    kernel, stride, pads, dilation, _ = _geometry(low, node)
    low.put(node.output[0], MaxPool(kernel, stride, pads, dilation), low.tensor(node.input[0]))


@handles("AveragePool")
def _average_pool(low: Lowering, node: onnx.NodeProto) -> None:
    kernel, stride, pads, dilation, beyond = _geometry(low, node)
    counted = bool(attributes(node).get("count_include_pad", 0))
    padded = any(any(p) for p in pads)
    if counted and beyond:
        raise HwgenError("ceil_mode with count_include_pad = 1 is not supported")
    source = low.tensor(node.input[0])
    type, taps = low.type(source), math.prod(kernel)
    if not padded and kernel == type.spatial:
        _global_mean(low, node.output[0], source)
        return
    result = low.result(node.output[0])
    counts = np.array([taps]) if counted or not padded else np.arange(1, taps + 1)
    requantise = scales(type.scale / result.quantisation.scale / counts, result.quantisation)
    low.put(result.name, AveragePool(
        kernel, requantise, result.quantisation, stride, pads, counted or not padded, dilation
    ), source)


def _global_mean(low: Lowering, out: str, source: str) -> None:
    type, result = low.type(source), low.result(out)
    low.put(result.name, _mean(type, type.spatial, 1.0, result.quantisation), source)


@handles("GlobalAveragePool")
def _global_average_pool(low: Lowering, node: onnx.NodeProto) -> None:
    _global_mean(low, node.output[0], low.tensor(node.input[0]))


@handles("GlobalMaxPool")
def _global_max_pool(low: Lowering, node: onnx.NodeProto) -> None:
    low.put(node.output[0], GlobalMaxPool(), low.tensor(node.input[0]))


@handles("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(low: Lowering, node: onnx.NodeProto) -> None:
    """Means, sums and extrema over any axes: first over pixels, then over channels."""
    at, shape, out = attributes(node), low.shape(node.input[0]), node.output[0]
    rank = len(shape)
    axes = at.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = low.constant(node.input[1]).astype(int).tolist()
    if not axes and at.get("noop_with_empty_axes"):
        low.move(out, low.view(node.input[0]).tensor, low.positions(node.input[0]))
        return
    reduced = {a % rank for a in axes} if axes else set(range(rank))
    if 0 in reduced and shape[0] > 1:
        raise HwgenError("frames are reduced one by one: the first axis is the batch")
    reduced -= {0}
    axis = low.channel_axis(node.input[0])
    if node.op_type in ("ReduceMean", "ReduceSum") and _within_pixels(low, node, sorted(reduced)):
        return
    source = low.tensor(node.input[0], axis)
    spatial = [k for k in range(1, rank) if k != axis]
    kernel = tuple(shape[k] if k in reduced else 1 for k in spatial)
    kept = tuple(1 if k in reduced else n for k, n in enumerate(shape))
    positions = plain_positions(kept, axis).reshape(low.shape(out) or (1,))
    if (positions.ndim == 2 or positions.shape == kept) and np.array_equal(
            positions, plain_positions(positions.shape)):
        positions = None
    pixels, channels = math.prod(kernel) > 1, axis in reduced
    if node.op_type in ("ReduceMax", "ReduceMin"):
        flip = node.op_type == "ReduceMin"
        source = low.flipped(source) if flip else source
        if pixels:
            source = low.graph.add(_largest(low.type(source), kernel), source, name=low.fresh(out))
        if channels:
            source = low.graph.add(ChannelMax(), source, name=low.fresh(f"{out}_channel"))
        low.move(out, low.flipped(source) if flip else source,
                 plain_positions(kept, axis).reshape(low.shape(out) or (1,)))
        return
    if not pixels and not channels:
        low.move(out, source, plain_positions(kept, axis).reshape(low.shape(out) or (1,)))
        return
    result, type = low.result(out), low.type(source)
    terms = math.prod(kernel) * (type.channels if channels else 1)
    factor = 1.0 if node.op_type == "ReduceMean" else float(terms)
    codes = result.quantisation
    if result.name not in low.network.codes:
        codes = no_finer(codes, type.scale * factor / terms)
    if pixels and channels:
        op = _mean(type, kernel, 1.0, finer(type.quantisation))
        source = low.graph.add(op, source, name=low.fresh(f"{out}_pixels"))
        type, pixels = low.type(source), False
    if pixels:
        op = _mean(type, kernel, factor, codes)
    else:
        count, ones = type.channels, (1,) * len(type.spatial)
        op = Conv(np.ones((1, *ones, count), np.int16), np.array([-type.zero_point * count]),
                  scales(np.array([type.scale * factor / count / codes.scale]), codes), codes,
                  weight_bits=2)
    low.put(result.name, op, source, axis=axis, positions=positions)


def _within_pixels(low: Lowering, node: onnx.NodeProto, axes: list[int]) -> bool:
    """Whether means or sums are of channels that each pixel has, and could be put as a convolution.

    They are, where frames have been joined or reshaped so that no axis holds the channels.
    """
    view, out = low.view(node.input[0]), node.output[0]
    type = low.type(view.tensor)
    if view.positions is None or not axes or len(np.unique(view.positions)) != type.size or (
            arrangement(view.positions, type.shape, low.channel_axis(node.input[0])) is not None):
        return False
    kept = [k for k in range(view.positions.ndim) if k not in axes]
    parts = view.positions.transpose(*kept, *axes)
    parts = parts.reshape(math.prod(parts.shape[: len(kept)]), -1)
    pixels, channels = np.divmod(parts, type.channels)
    # Results pixel by pixel, those of one in the order in which they are in the file.
    order = np.argsort(pixels[:, 0], kind="stable")
    rows = channels[order].reshape(type.pixels, -1, parts.shape[1]) if (
        (pixels == pixels[:, :1]).all() and len(parts) % type.pixels == 0) else np.empty((0, 0, 0))
    if not rows.size or (rows != rows[0]).any():
        return False
    result = low.result(out)
    codes, (count, share) = result.quantisation, rows.shape[1:]
    factor = 1 / share if node.op_type == "ReduceMean" else 1.0
    source = low.graph.add(GatherChannels(tuple(rows[0].ravel().tolist())), view.tensor,
                           name=low.fresh(f"{out}_channels"))
    ratios = np.full(count, type.scale * factor / codes.scale)
    low.put(result.name, Conv(
        np.ones((count, *(1,) * len(type.spatial), share), np.int16),
        np.full(count, -type.zero_point * share), scales(ratios, codes), codes, groups=count,
        weight_bits=2,
    ), source, positions=np.argsort(order).reshape(low.shape(out)))
    return True


def _largest(type: TensorType, kernel: tuple[int, ...]) -> Op:
    """The largest of the pixels of each window."""
    return GlobalMaxPool() if kernel == type.spatial else MaxPool(kernel, kernel)


def _mean(type: TensorType, kernel: tuple[int, ...], factor: float, codes: Quantisation) -> Op:
    """The mean of the pixels of each window, times a factor."""
    ratio = type.scale * factor / math.prod(kernel) / codes.scale
    if kernel == type.spatial:
        return GlobalAveragePool(scales(ratio, codes), codes)
    return AveragePool(kernel, scales(ratio, codes), codes, kernel)


@handles("ArgMax")
def _argmax(low: Lowering, node: onnx.NodeProto) -> None:
    at, shape = attributes(node), low.shape(node.input[0])
    axis = at.get("axis", 0) % len(shape)
    if axis == 0:
        raise HwgenError("along the batch it is not supported, only along the channels")
    source = low.tensor(node.input[0], axis)
    count = low.type(source).channels
    last = bool(at.get("select_last_index"))
    if last:
        # The first of equal ones, counted from the other end.
        source = low.graph.add(GatherChannels(tuple(range(count))[::-1]), source,
                               name=low.fresh(f"{node.output[0]}_reversed"))
    kept = tuple(1 if k == axis else n for k, n in enumerate(shape))
    out = low.shape(node.output[0])
    positions = plain_positions(kept, axis).reshape(out)
    tensor = low.graph.add(ArgMax(), source, name=low.fresh(node.output[0]))
    if last:
        codes = low.type(tensor).quantisation
        table = Table.from_function(lambda v: count - 1 - v, codes, codes)
        tensor = low.graph.add(table, tensor, name=low.fresh(f"{node.output[0]}_last"))
    low.move(node.output[0], tensor, positions)
