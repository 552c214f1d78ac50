"""Layers with weights in integers: weights, biases and requantisation are chosen together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Requantise, TensorType
from hwgen.models.lowering.affine import Affine
from hwgen.models.lowering.core import Lowering, Result, multiplier_bits, scales
from hwgen.models.lowering.exact import LARGEST_BIAS, exact_requantise, sign_requantise
from hwgen.models.quantisation.bias import corrected_bias

__all__ = ["IntegerLayer", "integers", "scaled"]

WIDE_BIAS = 1 << 36
"""Largest bias of a layer that reads more than 8 bits; integer ONNX has no such layers anyway."""

WHOLE, FLOAT = 1e-3, 2e-7
"""A bias this near to a whole number of steps of the sum is meant as one, plus the relative error
that float32 may have made."""

COARSE = 0.25
"""Most that rounding a bias to whole steps of the sum may change, in steps of the result."""

Arrange = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class IntegerLayer:
    """What a layer with weights is in integers.

    Members
    -------
    weights : shape ``(Cout, *kernel, Cin / groups)``
    weight_bits : :class:`int`
    bias : int64 array, shape ``(Cout,)``
        Added to ``sum(w * (x - zero_point))``.
    requantise : :class:`Requantise`
    result : what the layer gives
    """

    weights: np.ndarray
    weight_bits: int
    bias: np.ndarray
    requantise: Requantise
    result: Result

    def padded_bias(self, type: TensorType) -> np.ndarray:
        """The bias that is added to ``sum(w * x)``, where padding is the zero point."""
        sums = self.weights.reshape(len(self.bias), -1).sum(1, dtype=np.int64)
        return self.bias - type.zero_point * sums


@dataclass(frozen=True)
class _Weights:
    """Integer weights ``(Cout, *kernel, Cin / groups)`` and a scale for each output channel."""

    integers: np.ndarray
    scale: np.ndarray
    bits: int
    given: bool
    """The file states the integers."""

    @classmethod
    def quantised(cls, real: np.ndarray, bits: int, least: np.ndarray) -> _Weights:
        """Rounded weights, with scales by output channel that are not below ``least``."""
        flat = real.reshape(len(real), -1)
        limit = (1 << (bits - 1)) - 1
        scale = _channel_scale(np.maximum(flat.max(1), -flat.min(1)) / limit, least)
        steps = flat / scale[:, None]
        integers = np.clip(np.rint(steps, out=steps), -limit, limit, out=steps).astype(np.int16)
        return cls(integers.reshape(real.shape), scale, bits, False)

    @classmethod
    def coded(cls, integers: np.ndarray, scale: np.ndarray, name: str) -> _Weights:
        """The weights that a file states, with as many bits as they need."""
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
            raise HwgenError(f"weights {name!r} need {bits} bits; up to 8 are "
                             f"supported: quantise them to 8")
        return cls(integers, largest[:, 0], bits, True)

    def raised(self, least: np.ndarray) -> _Weights:
        """The same weights, rounded to scales that are not below ``least``."""
        zero = ~self.integers.reshape(len(self.integers), -1).any(1)
        scale = _channel_scale(np.where(zero, 0.0, self.scale), least)
        ratio = (self.scale / scale).reshape(-1, *(1,) * (self.integers.ndim - 1))
        return _Weights(np.rint(self.integers * ratio).astype(np.int64), scale, self.bits,
                        self.given)

    def sums(self, type: TensorType) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest ``sum(w * (x - zero_point))`` of each channel."""
        flat = self.integers.reshape(len(self.integers), -1).astype(np.int64)
        positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
        low = type.quantisation.low - type.zero_point
        high = type.quantisation.high - type.zero_point
        return positive * low + negative * high, positive * high + negative * low


def _channel_scale(scale: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Scales of output channels, not below ``least``; 1 where neither says anything."""
    scale = np.maximum(scale, least).astype(np.float32).astype(np.float64)
    # float32 may have rounded them down.
    above = np.nextafter(scale.astype(np.float32), np.float32(np.inf)).astype(np.float64)
    return np.where(scale == 0, 1.0, np.where(scale < least, above, scale))


def integers(
    low: Lowering, node: onnx.NodeProto, source: str, arrange: Arrange, affine: Affine,
    factor: float = 1.0, order: np.ndarray | None = None,
) -> IntegerLayer:
    """A layer with weights, and the scales and shifts behind it.

    Where the file states the weights' integers and the result's codes, every sum gets the code
    that real numbers would give it.  Only plain layers of 8 bits, which have no more than whole
    biases between, keep a multiplier that is as fine as any other's.

    Otherwise weights are rounded to the scale of their output channel.  If the channel's bias
    would not fit then, the scale is as large as the bias needs, because such weights are less than
    a step of the result anyway.

    Parameters
    ----------
    low, node : where, and the ONNX node
    source : tensor of the integer graph that it reads
    arrange : brings the weights of the file to ``(Cout, *kernel, Cin / groups)``
    affine : scales and shifts behind it
    factor : of the bias
    order : position of each input of a fully connected layer among its weights
    """
    type, name = low.type(source), node.input[1]
    real = arrange(low.constant(name))
    gain = np.broadcast_to(affine.scale, (len(real),))
    bias = np.zeros(len(real))
    if len(node.input) > 2 and node.input[2]:
        bias = np.broadcast_to(low.constant(node.input[2]).ravel() * factor, bias.shape)
    bias = bias * affine.scale + affine.shift
    result = low.result(affine.end, sign=True)
    if name in low.network.weights:
        coded = low.network.weights[name].mapped(arrange)
        # A negative scale turns the signs of its channel's weights: requantisation knows none.
        turn = np.sign(gain).astype(np.int64).reshape(-1, *(1,) * (real.ndim - 1))
        given = _Weights.coded(coded.integers * turn, coded.scale, name)
        weights = _Weights(given.integers, np.where(gain == 0, 1.0, given.scale * np.abs(gain)),
                           given.bits, True)
    else:
        real = real * gain.reshape(-1, *(1,) * (real.ndim - 1))
        bits = low.precision.weights(node.name, node.output[0])
        weights = _Weights.quantised(real, bits, _least_scale(bias, type))
        mean = low.means.get(node.input[0])
        if mean is not None:
            if order is not None:
                ordered = np.zeros(real.shape[-1])
                ordered[order] = mean
                mean = ordered
            spread = weights.scale.reshape(-1, *(1,) * (real.ndim - 1))
            bias = corrected_bias(real, weights.integers * spread, bias, mean)
    steps = bias / (weights.scale * type.scale)
    whole = (abs(steps - np.rint(steps)) < WHOLE + FLOAT * abs(steps)).all() and (
        abs(steps) <= LARGEST_BIAS).all()
    plain = result.quantisation.bits == 8 and not affine.absorbed and whole
    return _layer(low, weights, bias, type, result, not plain)


def scaled(
    low: Lowering, source: str, scale: np.ndarray, shift: np.ndarray, result: Result
) -> IntegerLayer:
    """``scale * x + shift`` per channel: weights of 1 or -1, and a requantisation."""
    type = low.type(source)
    scale = np.broadcast_to(scale, (type.channels,)).astype(np.float64)
    shift = np.broadcast_to(shift, (type.channels,)).astype(np.float64)
    weights = _Weights(np.sign(scale).astype(np.int64)[:, None],
                       np.where(scale == 0, 1.0, np.abs(scale)), 2, True)
    return _layer(low, weights, shift, type, result, True)


def _least_scale(bias: np.ndarray, type: TensorType) -> np.ndarray:
    """The smallest scales of weights with which the biases fit."""
    return np.abs(bias) / (LARGEST_BIAS if type.bits <= 8 else WIDE_BIAS) / type.scale


def _layer(
    low: Lowering, weights: _Weights, bias: np.ndarray, type: TensorType, result: Result,
    exact: bool,
) -> IntegerLayer:
    output = result.quantisation
    if result.sign is not None:
        sums = weights.sums(type)
        whole, requantise = sign_requantise(
            bias / (weights.scale * type.scale), *sums, result.sign)
        return IntegerLayer(weights.integers, weights.bits, whole, requantise, result)
    if exact and weights.given and result.name in low.network.codes and output.bits <= 8:
        ratio = weights.scale * type.scale / output.scale
        found = exact_requantise(ratio, bias / output.scale, *weights.sums(type), output,
                                 multiplier_bits(output))
        return IntegerLayer(weights.integers, weights.bits, found.bias, found.requantise, result)
    if weights.given:
        weights = weights.raised(_least_scale(bias, type))
    # A channel that is 0 whatever comes may have any scale: one that requantisation has, too.
    nothing = ~weights.integers.reshape(len(bias), -1).any(1) & (bias == 0)
    product = np.where(nothing, output.scale, weights.scale * type.scale)
    # Where a step of the sum is so many of the result, any sum but 0 saturates.
    most = 2.0 ** (multiplier_bits(output) - 2)
    requantise = scales(np.minimum(product / output.scale, most), output)
    whole = np.rint(bias / product)
    left = (bias - whole * product) / output.scale
    if abs(left).max() > COARSE:
        offset = np.rint(np.ldexp(left, requantise.shift)).astype(np.int64)
        requantise = replace(requantise, offset=offset)
    return IntegerLayer(weights.integers, weights.bits, whole.astype(np.int64), requantise, result)
