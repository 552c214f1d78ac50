"""Tensor types: shape, bit width, zero point and scale of one frame of a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError

__all__ = ["Quantisation", "TensorType", "whole"]


def whole(values, what: str) -> np.ndarray:
    """``values`` as int64; they are refused rather than rounded or wrapped.

    Raises
    ------
    :exc:`HwgenError`
        If one is no whole number of 64 bits; ``what`` names them.
    """
    values = np.asarray(values)
    if values.dtype.kind == "f":
        fits = (np.rint(values) == values) & (abs(values) < 2.0**63)
    else:
        fits = np.asarray(values.dtype.kind in "biu")
    if not fits.all():
        raise HwgenError(f"{what} must be whole numbers")
    return values.astype(np.int64)


@dataclass(frozen=True)
class Quantisation:
    """How an integer stands for a real number: ``real = scale * (q - zero_point)``.

    Parameters
    ----------
    scale : :class:`float`
        Positive real value of one step.
    zero_point : :class:`int`
        The integer that means 0.0; within the range of ``bits``.
    bits : :class:`int`
        Width of the signed integer, 2..16.

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    scale: float = 1.0
    zero_point: int = 0
    bits: int = 8

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise HwgenError(f"Bit width must be between 2 and 16, not {self.bits!r}")
        if not self.low <= self.zero_point <= self.high:
            raise HwgenError(
                f"Zero point must be within {self.low}..{self.high} for {self.bits} bits, "
                f"not {self.zero_point!r}"
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise HwgenError(f"Scale must be positive and finite, not {self.scale!r}")

    @property
    def low(self) -> int:
        """Smallest integer of the range."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest integer of the range."""
        return (1 << (self.bits - 1)) - 1

    @property
    def dtype(self) -> np.dtype:
        """The smallest numpy type that holds the integers."""
        return np.dtype(np.int8 if self.bits <= 8 else np.int16)

    def quantise(self, real: np.ndarray) -> np.ndarray:
        """Round real numbers (half to even) to integers of this range, saturating."""
        q = np.rint(np.asarray(real, np.float64) / self.scale) + self.zero_point
        return np.clip(q, self.low, self.high).astype(self.dtype)

    def dequantise(self, integers: np.ndarray) -> np.ndarray:
        """The real numbers (float32) that the integers stand for."""
        centred = np.asarray(integers, np.float64) - self.zero_point
        return (centred * self.scale).astype(np.float32)


@dataclass(frozen=True)
class TensorType:
    """One frame of a tensor: ``(*spatial, channels)``, without a batch axis, and its quantisation.

    Parameters
    ----------
    shape : sequence of :class:`int`
        Spatial extents (none for a vector, one for text or audio, two for images, three for
        video), then channels.
    quantisation : :class:`Quantisation`
        Bit width, zero point, scale.
    """

    shape: tuple[int, ...]
    quantisation: Quantisation = Quantisation()

    def __init__(self, shape: Sequence[int], quantisation: Quantisation | None = None) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        object.__setattr__(self, "quantisation", quantisation or Quantisation())
        if not self.shape or any(n < 1 for n in self.shape):
            raise HwgenError(f"Shape must be one or more positive extents, not {self.shape!r}")

    @property
    def spatial(self) -> tuple[int, ...]:
        """Extents of the spatial dimensions, outermost first."""
        return self.shape[:-1]

    @property
    def channels(self) -> int:
        """Extent of the channel dimension."""
        return self.shape[-1]

    @property
    def pixels(self) -> int:
        """Number of pixels in a frame: the product of the spatial extents."""
        return math.prod(self.spatial)

    @property
    def size(self) -> int:
        """Number of elements in a frame."""
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Width of an element."""
        return self.quantisation.bits

    @property
    def zero_point(self) -> int:
        """The integer that means 0.0."""
        return self.quantisation.zero_point

    @property
    def scale(self) -> float:
        """Real value of one step."""
        return self.quantisation.scale

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))} i{self.bits}"
