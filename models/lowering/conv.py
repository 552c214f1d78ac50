"""Ops with weights: convolutions, transposed ones, matrix products; and scales per channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Conv, ConvTranspose, Gemm, Pads, Quantisation, Requantise
from models.lowering.affine import Affine
from models.lowering.core import Lowering, Result, handles, scales
from models.onnx_import import attributes
from models.quantisation.bias import corrected_bias

__all__ = ["scale_channels", "spatial_pads"]


@dataclass(frozen=True)
class _Weights:
    """Integer weights ``(Cout, *kernel, Cin / groups)`` and a scale for each output channel."""

    integers: np.ndarray
    scale: np.ndarray
    bits: int
    given: bool
    """The file states the integers."""

    @classmethod
    def quantised(cls, real: np.ndarray, bits: int) -> _Weights:
        """Symmetric, by the largest weight of each output channel."""
        flat = real.reshape(len(real), -1)
        limit = (1 << (bits - 1)) - 1
        scale = np.float32(np.maximum(flat.max(1), -flat.min(1)) / limit).astype(np.float64)
        scale[scale == 0] = 1.0
        steps = flat / scale[:, None]
        integers = np.clip(np.rint(steps, out=steps), -limit, limit, out=steps).astype(np.int16)
        return cls(integers.reshape(real.shape), scale, bits, False)

    @classmethod
    def coded(cls, integers: np.ndarray, scale: np.ndarray, name: str) -> _Weights:
        """As a file states them; as many bits as the integers need."""
        flat = scale.reshape(len(scale), -1)
        largest = flat.max(1, keepdims=True)
        # Where weights were put in between, zeros, there is no scale.
        if ((flat != largest) & (flat != 0)).any():
            raise HwgenError(
                f"weights {name!r} have several scales within an output channel: quantise them "
                f"per tensor or per output channel"
            )
        low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
        bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0, 1) + 1
        if bits > 9:
            raise HwgenError(f"weights {name!r} need {bits} bits; up to 8 are supported")
        return cls(integers, largest[:, 0], bits, True)


def _prepare(low: Lowering, node: onnx.NodeProto, arrange, affine: Affine) -> _Weights:
    """Integer weights of a node, with the scales behind it folded in.

    ``arrange`` brings the weights of the file to ``(Cout, *kernel, Cin / groups)``.
    """
    name = node.input[1]
    real = arrange(low.constant(name))
    gain = np.broadcast_to(affine.scale, (len(real),))
    if name not in low.network.weights:
        real = real * gain.reshape(-1, *(1,) * (real.ndim - 1))
        return _Weights.quantised(real, low.precision.weights(node.name, node.output[0]))
    coded = low.network.weights[name].mapped(arrange)
    # A negative scale turns the signs of its channel's weights: requantisation knows none.
    sign = np.where(gain < 0, -1, 1).reshape(-1, *(1,) * (real.ndim - 1))
    weights = _Weights.coded(coded.integers * sign, coded.scale, name)
    scale = np.where(gain == 0, 1.0, weights.scale * np.abs(gain))
    integers = np.where(gain.reshape(sign.shape) == 0, 0, weights.integers)
    return _Weights(integers, scale, weights.bits, True)


def _bias(
    low: Lowering, node: onnx.NodeProto, weights: _Weights, arrange, affine: Affine,
    factor: float = 1.0, order: np.ndarray | None = None,
) -> np.ndarray:
    """Real bias of a node, with the shifts behind it, corrected for what rounding weights does.

    ``order``: per input of a fully connected layer its position among the weights.
    """
    cout = len(weights.integers)
    bias = np.zeros(cout)
    if len(node.input) > 2 and node.input[2]:
        bias = np.broadcast_to(low.constant(node.input[2]).ravel() * factor, (cout,))
    bias = bias * affine.scale + affine.shift
    mean = low.means.get(node.input[0])
    if mean is None or weights.given:
        return bias
    real = arrange(low.constant(node.input[1]))
    if order is not None:
        ordered = np.zeros(real.shape[-1])
        ordered[order] = mean
        mean = ordered
    real = real * np.broadcast_to(affine.scale, (cout,)).reshape(-1, *(1,) * (real.ndim - 1))
    spread = weights.scale.reshape(-1, *(1,) * (real.ndim - 1))
    return corrected_bias(real, weights.integers * spread, bias, mean)


def _result(
    low: Lowering, affine: Affine, product: np.ndarray
) -> tuple[Result, Requantise]:
    """What an op with weights gives; ``product``: scales of its accumulators."""
    result = low.result(affine.end, sign=True)
    if result.sign:
        return result, Requantise.from_scale(np.ones(len(product)))
    return result, scales(product / result.quantisation.scale, result.quantisation)


def _integer_bias(bias: np.ndarray, product: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(bias / product), -(2.0**31), 2.0**31 - 1).astype(np.int64)


def spatial_pads(
    at: dict, kernel: tuple[int, ...], stride: tuple[int, ...], spatial: tuple[int, ...]
) -> Pads:
    """Padding of an ONNX node as (before, after) per dimension; ``kernel``: with dilation."""
    auto = at.get("auto_pad", b"NOTSET").decode()
    rank = len(kernel)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for n, k, s in zip(spatial, kernel, stride, strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return tuple(pads)
    flat = at.get("pads", (0,) * (2 * rank)) if auto == "NOTSET" else (0,) * (2 * rank)
    return tuple(zip(flat[:rank], flat[rank:], strict=True))


def _affine(low: Lowering, node: onnx.NodeProto) -> Affine:
    return low.affine.get(node.output[0], Affine(node.output[0]))


@handles("Conv")
def _conv(low: Lowering, node: onnx.NodeProto) -> None:
    at, affine = attributes(node), _affine(low, node)
    source = low.tensor(node.input[0])
    type = low.type(source)

    def arrange(w: np.ndarray) -> np.ndarray:
        return np.moveaxis(w, 1, -1)

    weights = _prepare(low, node, arrange, affine)
    kernel = weights.integers.shape[1:-1]
    stride = tuple(at.get("strides", (1,) * len(kernel)))
    dilation = tuple(at.get("dilations", (1,) * len(kernel)))
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    product = weights.scale * type.scale
    bias = _integer_bias(_bias(low, node, weights, arrange, affine), product)
    sums = weights.integers.reshape(len(bias), -1).sum(1, dtype=np.int64)
    result, requantise = _result(low, affine, product)
    low.put(result.name, Conv(
        weights.integers, bias - type.zero_point * sums, requantise, result.quantisation, stride,
        spatial_pads(at, extent, stride, type.spatial), int(at.get("group", 1)), weights.bits,
        dilation,
    ), source)


@handles("ConvTranspose")
def _conv_transpose(low: Lowering, node: onnx.NodeProto) -> None:
    at, affine = attributes(node), _affine(low, node)
    source = low.tensor(node.input[0])
    type = low.type(source)
    groups = int(at.get("group", 1))
    rank = len(type.spatial)
    dilation = tuple(at.get("dilations", (1,) * rank))

    def arrange(w: np.ndarray) -> np.ndarray:
        cin, cout, *kernel = w.shape
        w = w.reshape(groups, cin // groups, cout, *kernel)
        w = np.moveaxis(w, 1, -1).reshape(groups * cout, *kernel, cin // groups)
        if all(d == 1 for d in dilation):
            return w
        # Dilation is a larger kernel with zeros between the taps.
        full = np.zeros((len(w), *((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)),
                         w.shape[-1]), w.dtype)
        full[(slice(None), *(slice(None, None, d) for d in dilation))] = w
        return full

    weights = _prepare(low, node, arrange, affine)
    extent = weights.integers.shape[1:-1]
    stride = tuple(at.get("strides", (1,) * rank))
    out = low.shape(node.output[0])[2:]
    before = at.get("pads", (0,) * (2 * rank))[:rank]
    auto = at.get("auto_pad", b"NOTSET").decode()
    if auto != "NOTSET" or "output_shape" in at:
        extra = at.get("output_padding", (0,) * rank)
        total = [(n - 1) * s + k + e - m for n, s, k, e, m in zip(
            type.spatial, stride, extent, extra, out, strict=True)]
        before = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
        before = [0 for _ in total] if auto == "VALID" else before
    pads = tuple(
        (b, (n - 1) * s + k - b - m)
        for b, n, s, k, m in zip(before, type.spatial, stride, extent, out, strict=True)
    )
    product = weights.scale * type.scale
    bias = _integer_bias(_bias(low, node, weights, arrange, affine), product)
    result, requantise = _result(low, affine, product)
    low.put(result.name, ConvTranspose(
        weights.integers, bias, requantise, result.quantisation, stride, pads, groups,
        weights.bits,
    ), source)


@handles("Gemm")
def _gemm(low: Lowering, node: onnx.NodeProto) -> None:
    at = attributes(node)
    if at.get("transA"):
        raise HwgenError("transA = 1 is not supported: a frame is one row")
    alpha, beta = float(at.get("alpha", 1.0)), float(at.get("beta", 1.0))
    affine = _affine(low, node)
    whole = Affine(affine.end, affine.scale * alpha, affine.shift)
    _dense(low, node, whole, bool(at.get("transB")), beta / alpha if alpha else 0.0)


@handles("MatMul")
def _matmul(low: Lowering, node: onnx.NodeProto) -> None:
    if node.input[1] not in low.network.constants:
        raise HwgenError(
            "only the product of a stream with a constant matrix on its right is supported"
        )
    if low.constant(node.input[1]).ndim != 2:
        raise HwgenError(
            f"weights must be a matrix, not of shape {low.constant(node.input[1]).shape}"
        )
    shape = low.shape(node.input[0])
    if len(shape) == 2:
        _dense(low, node, _affine(low, node), False, 1.0)
        return
    # Rows of a matrix are pixels, its columns channels: a convolution of one tap.
    affine = _affine(low, node)
    source = low.tensor(node.input[0], len(shape) - 1)
    type = low.type(source)

    def arrange(w: np.ndarray) -> np.ndarray:
        return w.T.reshape(w.shape[1], *(1,) * len(type.spatial), w.shape[0])

    weights = _prepare(low, node, arrange, affine)
    product = weights.scale * type.scale
    bias = _integer_bias(_bias(low, node, weights, arrange, affine), product)
    sums = weights.integers.reshape(len(bias), -1).sum(1, dtype=np.int64)
    result, requantise = _result(low, affine, product)
    low.put(result.name, Conv(
        weights.integers, bias - type.zero_point * sums, requantise, result.quantisation,
        weight_bits=weights.bits,
    ), source, axis=len(shape) - 1)


def _dense(
    low: Lowering, node: onnx.NodeProto, affine: Affine, transposed: bool, factor: float
) -> None:
    """A fully connected layer; the order of its inputs is the stream's."""
    name = node.input[0]
    source, positions = low.view(name).tensor, low.positions(name)
    type = low.type(source)
    if positions.shape[0] != 1 or len(np.unique(positions)) != positions.size:
        raise HwgenError(f"the input must be one row, not of shape {positions.shape}")

    def arrange(w: np.ndarray) -> np.ndarray:
        w = w if transposed else w.T
        ordered = np.zeros((len(w), type.size), w.dtype)
        ordered[:, positions.ravel()] = w
        return ordered

    weights = _prepare(low, node, arrange, affine)
    product = weights.scale * type.scale
    bias = _integer_bias(
        _bias(low, node, weights, arrange, affine, factor, positions.ravel()), product)
    sums = weights.integers.sum(1, dtype=np.int64)
    result, requantise = _result(low, affine, product)
    low.put(result.name, Gemm(
        weights.integers, bias - type.zero_point * sums, requantise, result.quantisation,
        weights.bits,
    ), source)


def scale_channels(
    low: Lowering, name: str, source: str, scale: np.ndarray, shift: np.ndarray,
    output: Quantisation, axis: int,
) -> None:
    """``scale * x + shift`` per channel, as a depthwise convolution of one tap.

    The weights are 1 or -1; requantisation holds the scales.
    """
    type = low.type(source)
    channels = type.channels
    scale = np.broadcast_to(scale, (channels,)).astype(np.float64)
    shift = np.broadcast_to(shift, (channels,)).astype(np.float64)
    integers = np.sign(scale).astype(np.int64)
    product = np.where(scale == 0, 1.0, np.abs(scale)) * type.scale
    bias = _integer_bias(shift, product) - type.zero_point * integers
    kernel = (1,) * max(len(type.spatial), 0)
    low.put(name, Conv(
        integers.reshape(channels, *kernel, 1), bias,
        scales(product / output.scale, output), output, groups=channels, weight_bits=2,
    ), source, axis=axis)


@handles("BatchNormalization")
def _batch_normalization(low: Lowering, node: onnx.NodeProto) -> None:
    affine = low.affine.get(node.output[0])
    if affine is None:
        raise HwgenError("its parameters must be constant, and it must not be in training mode")
    put_affine(low, node.input[0], affine, 1)


def put_affine(low: Lowering, name: str, affine: Affine, axis: int) -> None:
    """A chain of scales and shifts of its own."""
    result = low.result(affine.end)
    scale_channels(low, result.name, low.tensor(name, axis), affine.scale, affine.shift,
                   result.quantisation, axis)


