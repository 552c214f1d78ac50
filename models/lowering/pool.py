"""Pooling, and what amounts to it: means and maxima over spatial axes."""

from __future__ import annotations

import math

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import (
    ArgMax,
    AveragePool,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Pads,
)
from hwgen.models.lowering.core import Lowering, handles, scales
from hwgen.models.lowering.layout import plain_positions
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


def _global_mean(
    low: Lowering, out: str, source: str, axis: int = 1, positions: np.ndarray | None = None
) -> None:
    type, result = low.type(source), low.result(out)
    ratio = type.scale / result.quantisation.scale / type.pixels
    op = GlobalAveragePool(scales(ratio, result.quantisation), result.quantisation)
    low.put(result.name, op, source, axis=axis, positions=positions)


@handles("GlobalAveragePool")
def _global_average_pool(low: Lowering, node: onnx.NodeProto) -> None:
    _global_mean(low, node.output[0], low.tensor(node.input[0]))


@handles("GlobalMaxPool")
def _global_max_pool(low: Lowering, node: onnx.NodeProto) -> None:
    low.put(node.output[0], GlobalMaxPool(), low.tensor(node.input[0]))


@handles("ReduceMean", "ReduceMax")
def _reduce(low: Lowering, node: onnx.NodeProto) -> None:
    at, shape = attributes(node), low.shape(node.input[0])
    rank = len(shape)
    axes = at.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = low.constant(node.input[1]).astype(int).tolist()
    reduced = {a % rank for a in axes} if axes else set(range(rank))
    axis = low.channel_axis(node.input[0])
    spatial = [k for k in range(1, rank) if k != axis]
    if not reduced or not reduced <= set(spatial):
        raise HwgenError(
            f"only reductions over spatial axes are supported, not over {sorted(reduced)}"
        )
    out = node.output[0]
    source = low.tensor(node.input[0], axis)
    kept = tuple(1 if k in reduced else n for k, n in enumerate(shape))
    positions = plain_positions(kept, axis).reshape(low.shape(out))
    if len(positions.shape) > 1 and np.array_equal(positions, plain_positions(low.shape(out))):
        positions = None
    mean = node.op_type == "ReduceMean"
    if reduced == set(spatial):
        if mean:
            _global_mean(low, out, source, positions=positions)
        else:
            low.put(out, GlobalMaxPool(), source, positions=positions)
        return
    type = low.type(source)
    kernel = tuple(shape[k] if k in reduced else 1 for k in spatial)
    if mean:
        result = low.result(out)
        ratio = type.scale / result.quantisation.scale / math.prod(kernel)
        op = AveragePool(kernel, scales(ratio, result.quantisation), result.quantisation, kernel)
        low.put(result.name, op, source, positions=positions)
    else:
        low.put(out, MaxPool(kernel, kernel), source, positions=positions)


@handles("ArgMax")
def _argmax(low: Lowering, node: onnx.NodeProto) -> None:
    at, shape = attributes(node), low.shape(node.input[0])
    axis = at.get("axis", 0) % len(shape)
    if axis == 0:
        raise HwgenError("along the batch it is not supported, only along the channels")
    if at.get("select_last_index"):
        raise HwgenError("of equal channels only the first is found: select_last_index must be 0")
    source = low.tensor(node.input[0], axis)
    kept = tuple(1 if k == axis else n for k, n in enumerate(shape))
    out = low.shape(node.output[0])
    positions = plain_positions(kept, axis).reshape(out)
    tensor = low.graph.add(ArgMax(), source, name=low.fresh(node.output[0]))
    low.move(node.output[0], tensor, positions)
