"""Configuration of a convolution from what a designer has: weights, stride, padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Quantisation, Requantise, TensorType
from hwgen.ir.types import whole

__all__ = ["conv2d"]


def conv2d(
    weights, *, size: tuple[int, int], bias=None, stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0, dilation: int | tuple[int, int] = 1, groups: int = 1,
    input: Quantisation | None = None, output: Quantisation | None = None, weight_bits: int = 8,
    **folding: Any,
) -> FoldedConvConfig:
    """The configuration of a two-dimensional convolution.

    Parameters
    ----------
    weights : array, shape ``(Cout, Cin / groups, height, width)``
        Weights in PyTorch's order.  Integers are used as they are, with a scale of 1; real numbers
        are rounded to ``weight_bits``, with a scale for each output channel.
    size : pair of :class:`int`
        Height and width of the input.
    bias : array, shape ``(Cout,)``, or None
        Bias in the units of the weights times those of the input.
    stride, padding, dilation : :class:`int`, or a pair for height and width
    groups : :class:`int`
    input : :class:`Quantisation`
        Quantisation of the input; by default a scale of 1 and 8 bits.
    output : :class:`Quantisation`
        Quantisation of the output; by default 8 bits and the range of the largest accumulator, so
        that nothing saturates.
    weight_bits : :class:`int`
        Bits of a weight, 2..8.
    folding
        Parameters of :class:`hwgen.blocks.conv.FoldedConvConfig`, such as ``pe=4``.

    Returns
    -------
    the configuration; ``config.at_full_speed().create()`` is the hardware

    Raises
    ------
    :exc:`HwgenError`
        If shapes do not fit each other, or the folding does not fit the convolution.
    """
    array = np.asarray(weights)
    if array.ndim != 4 or not array.size:
        raise HwgenError(f"Weights must be (Cout, Cin / groups, height, width), not "
                         f"{array.shape!r}")
    if type(weight_bits) is not int or not 2 <= weight_bits <= 8:
        raise HwgenError(f"Weights must have 2 to 8 bits, not {weight_bits!r}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise HwgenError("Weights must be finite: some are NaN or infinite")
    input = input or Quantisation()
    kernel = np.moveaxis(array, 1, -1)
    if array.dtype.kind == "f":
        limit = (1 << (weight_bits - 1)) - 1
        peaks = np.abs(kernel).reshape(len(kernel), -1).max(1)
        scales = np.where(peaks > 0, peaks, 1.0) / limit
        kernel = np.rint(kernel / scales[:, None, None, None])
    else:
        scales = np.ones(len(kernel))
    kernel = whole(kernel, "Weights")
    units = scales * input.scale
    real = np.zeros(len(kernel)) if bias is None else np.asarray(bias, float)
    if real.shape != (len(kernel),):
        raise HwgenError(f"Bias must have {len(kernel)} entries, not shape {real.shape!r}")
    whole_bias = np.rint(real / units).astype(np.int64)
    if output is None:
        reach = np.abs(kernel).reshape(len(kernel), -1).sum(1) * max(
            input.high - input.zero_point, input.zero_point - input.low) + np.abs(whole_bias)
        output = Quantisation(float(max((reach * units).max(), units.max())) / 127)
    # What the zero point of the input adds to the sums is part of the bias.
    sums = kernel.reshape(len(kernel), -1).sum(1)
    pair = _pairs(stride, "Stride"), _pairs(padding, "Padding"), _pairs(dilation, "Dilation")
    op = Conv(
        kernel, whole_bias - input.zero_point * sums,
        Requantise.from_scale(units / output.scale), output, pair[0],
        ((pair[1][0],) * 2, (pair[1][1],) * 2), groups, weight_bits, pair[2],
    )
    tensor = TensorType((*size, array.shape[1] * groups), input)
    return FoldedConvConfig(op=op, tensor=tensor, **folding)


def _pairs(value: int | tuple[int, int], what: str) -> tuple[int, int]:
    """A value for height and one for width."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(n, int) for n in pair):
        raise HwgenError(f"{what} must be an integer or a pair of them, not {value!r}")
    return pair
