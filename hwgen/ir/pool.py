"""Pooling ops: maximum and mean, over windows and over the whole frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation, TensorType
from hwgen.ir.window import Pads, Window

__all__ = ["AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"]


@dataclass(frozen=True, eq=False)
class MaxPool(Op):
    """Largest value of each window; padding never wins.

    Parameters
    ----------
    kernel, stride, pads, dilation : see :class:`Window`
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    pads: Pads = ()
    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _ = self.window

    @property
    def window(self) -> Window:
        """Geometry of the window."""
        return Window(self.kernel, self.stride, self.pads, self.dilation)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType((*self.window.output(x.spatial), x.channels), x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        out = None
        for view in self.window.views(inputs[0], types[0].quantisation.low):
            out = view.copy() if out is None else np.maximum(out, view, out=out)
        assert out is not None
        return (out,)


@dataclass(frozen=True, eq=False)
class AveragePool(Op):
    """Mean of each window, and requantisation.

    ``requantise(sum(x - zero_point))``; the multiplier holds the division by the number of pixels.

    Parameters
    ----------
    kernel, stride, pads : see :class:`Window`
    requantise : :class:`Requantise`
        One entry, for all channels, if padding counts as 0.0.  If it does not count, entry ``n``
        is for windows with ``n + 1`` pixels in the frame, up to the number of taps.
    output : :class:`Quantisation`
    count_include_pad : :class:`bool`
        Whether padding counts.
    dilation : see :class:`Window`
    """

    kernel: tuple[int, ...]
    requantise: Requantise
    output: Quantisation
    stride: tuple[int, ...] = ()
    pads: Pads = ()
    count_include_pad: bool = True
    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        entries = 1 if self.count_include_pad else self.window.taps
        if len(self.requantise) != entries:
            raise HwgenError(
                f"AveragePool needs {entries} multipliers, not {len(self.requantise)}"
            )

    @property
    def window(self) -> Window:
        """Geometry of the window."""
        return Window(self.kernel, self.stride, self.pads, self.dilation)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType((*self.window.output(x.spatial), x.channels), self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        (x,), (type,) = inputs, types
        sums = np.sum(self.window.views(x.astype(np.int64) - type.zero_point, 0), axis=0)
        if self.count_include_pad:
            return (self.requantise.apply(sums, self.output),)
        ones = np.ones((1, *type.spatial, 1), np.int64)
        entry = np.maximum(np.sum(self.window.views(ones, 0), axis=0), 1) - 1
        rule = self.requantise
        offset = 0 if rule.offset is None else rule.offset[entry]
        return (requantise(sums, rule.multiplier[entry], rule.shift[entry], self.output, offset),)


@dataclass(frozen=True, eq=False)
class GlobalAveragePool(Op):
    """Mean of all pixels of a frame per channel, and requantisation; spatial extents become 1.

    Parameters
    ----------
    requantise : :class:`Requantise`
        One entry; the multiplier holds the division by the number of pixels.
    output : :class:`Quantisation`
    """

    requantise: Requantise
    output: Quantisation

    def __post_init__(self) -> None:
        if len(self.requantise) != 1:
            raise HwgenError(f"GlobalAveragePool needs one multiplier, not {len(self.requantise)}")

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType((*(1,) * len(x.spatial), x.channels), self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        (x,), (type,) = inputs, types
        axes = tuple(range(1, x.ndim - 1))
        sums = (x.astype(np.int64) - type.zero_point).sum(axes, keepdims=True)
        return (self.requantise.apply(sums, self.output),)


@dataclass(frozen=True, eq=False)
class GlobalMaxPool(Op):
    """Largest pixel of a frame per channel; spatial extents become 1."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType((*(1,) * len(x.spatial), x.channels), x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        (x,) = inputs
        return (x.max(tuple(range(1, x.ndim - 1)), keepdims=True),)
