"""Ops with weights: convolutions, transposed ones, matrix products; and scales per channel."""

from __future__ import annotations

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Conv, ConvTranspose, Gemm
from hwgen.models.lowering.affine import Affine
from hwgen.models.lowering.attention import put_attention
from hwgen.models.lowering.core import Lowering, Result, handles
from hwgen.models.lowering.layout import plain_positions
from hwgen.models.lowering.products import is_product, put_product
from hwgen.models.lowering.weights import integers, scaled
from hwgen.models.onnx.nodes import attributes, spatial_pads

__all__ = ["put_affine", "put_scaled"]


def _affine(low: Lowering, node: onnx.NodeProto) -> Affine:
    return low.affine.get(node.output[0], Affine(node.output[0]))


@handles("Conv")
def _conv(low: Lowering, node: onnx.NodeProto) -> None:
    at, affine = attributes(node), _affine(low, node)
    source = low.tensor(node.input[0])
    type = low.type(source)

    def arrange(w: np.ndarray) -> np.ndarray:
        return np.moveaxis(w, 1, -1)

    layer = integers(low, node, source, arrange, affine)
    kernel = layer.weights.shape[1:-1]
    stride = tuple(at.get("strides", (1,) * len(kernel)))
    dilation = tuple(at.get("dilations", (1,) * len(kernel)))
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    low.put(layer.result.name, Conv(
        layer.weights, layer.padded_bias(type), layer.requantise, layer.result.quantisation,
        stride, spatial_pads(at, extent, stride, type.spatial), int(at.get("group", 1)),
        layer.weight_bits, dilation,
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

    layer = integers(low, node, source, arrange, affine)
    extent = layer.weights.shape[1:-1]
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
    low.put(layer.result.name, ConvTranspose(
        layer.weights, layer.bias, layer.requantise, layer.result.quantisation, stride, pads,
        groups, layer.weight_bits,
    ), source)


@handles("Gemm")
def _gemm(low: Lowering, node: onnx.NodeProto) -> None:
    at = attributes(node)
    if node.input[1] not in low.network.constants:
        raise HwgenError("weights must be constant: export a product of two streams as a MatMul")
    if at.get("transA"):
        raise HwgenError("transA = 1 is not supported: a frame is one row")
    alpha, beta = float(at.get("alpha", 1.0)), float(at.get("beta", 1.0))
    affine = _affine(low, node)
    whole = Affine(affine.end, affine.axis, affine.scale * alpha, affine.shift)
    _dense(low, node, whole, bool(at.get("transB")), beta / alpha if alpha else 0.0)


@handles("MatMul")
def _matmul(low: Lowering, node: onnx.NodeProto) -> None:
    if node.output[0] in low.network.attention:
        put_attention(low, low.network.attention[node.output[0]])
        return
    if is_product(low.network, node):
        put_product(low, node)
        return
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

    layer = integers(low, node, source, arrange, affine)
    low.put(layer.result.name, Conv(
        layer.weights, layer.padded_bias(type), layer.requantise, layer.result.quantisation,
        weight_bits=layer.weight_bits,
    ), source, axis=len(shape) - 1)


def _dense(
    low: Lowering, node: onnx.NodeProto, affine: Affine, transposed: bool, factor: float
) -> None:
    """A fully connected layer; the order of its inputs is the stream's."""
    name = node.input[0]
    source, positions = low.view(name).tensor, low.positions(name)
    if 2 * positions.size <= low.type(source).size:
        # Of few elements of a frame, such as a class token: those alone are multiplied.
        source = low.arranged(source, positions, name)
        positions = plain_positions(low.shape(name))
    type = low.type(source)
    if positions.shape[0] != 1 or len(np.unique(positions)) != positions.size:
        raise HwgenError(f"the input must be one row, not of shape {positions.shape}")

    def arrange(w: np.ndarray) -> np.ndarray:
        w = w if transposed else w.T
        ordered = np.zeros((len(w), type.size), w.dtype)
        ordered[:, positions.ravel()] = w
        return ordered

    layer = integers(low, node, source, arrange, affine, factor, positions.ravel())
    low.put(layer.result.name, Gemm(
        layer.weights, layer.padded_bias(type), layer.requantise, layer.result.quantisation,
        layer.weight_bits,
    ), source)


@handles("BatchNormalization")
def _batch_normalization(low: Lowering, node: onnx.NodeProto) -> None:
    affine = low.affine.get(node.output[0])
    if affine is None:
        raise HwgenError("its parameters must be constant, and it must not be in training mode")
    put_affine(low, node.input[0], affine)


def put_affine(low: Lowering, name: str, affine: Affine) -> None:
    """A chain of scales and shifts of its own: a depthwise convolution of one tap."""
    result, view = low.result(affine.end, sign=True), low.view(name)
    axis, positions = affine.axis, None
    if len(low.shape(name)) == 2 and view.positions is not None:
        # Features in whatever order they come; so are the parameters.
        source, order = low.features(name)
        positions = order.reshape(low.shape(name))
        affine = affine.ordered(np.argsort(order))
    else:
        source = low.tensor(name, axis)
    put_scaled(low, result, source, affine.scale, affine.shift, axis, positions)


def put_scaled(
    low: Lowering, result: Result, source: str, scale: np.ndarray, shift: np.ndarray,
    axis: int = 1, positions: np.ndarray | None = None,
) -> None:
    """A scale and a shift for each channel, as a depthwise convolution of one tap.

    Parameters
    ----------
    result, axis, positions : of the ONNX tensor; see :meth:`Lowering.put`
    source : tensor of the integer graph
    scale, shift : vectors along its channels, or scalars
    """
    type, layer = low.type(source), scaled(low, source, scale, shift, result)
    low.put(result.name, Conv(
        layer.weights.reshape(type.channels, *(1,) * len(type.spatial), 1),
        layer.padded_bias(type), layer.requantise, result.quantisation,
        groups=type.channels, weight_bits=layer.weight_bits,
    ), source, axis=axis, positions=positions)
