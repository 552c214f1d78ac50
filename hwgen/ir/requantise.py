"""From accumulator to activation: the one rounding rule of the project.

``clamp(zero_point + round_half_even((acc * M + offset) / 2**s))`` with an unsigned M per channel,
and an offset for what lies between two accumulators.  Half to even because ONNX means it (see
docs/architecture.md); the hardware of the same rule is :mod:`hwgen.parts.requantise`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.types import Quantisation

__all__ = ["MAX_BITS", "MAX_SHIFT", "Requantise", "requantise"]

MAX_BITS = 32
"""Most bits of a multiplier."""
MAX_SHIFT = 47
"""Largest shift: a DSP48E2 accumulates in 48 bits, so bit 47 is the sign."""


def requantise(
    acc: np.ndarray, multiplier, shift, output: Quantisation, offset=0
) -> np.ndarray:
    """Exact value of ``clamp(zp + round_half_even((acc * multiplier + offset) / 2**shift))``.

    Parameters
    ----------
    acc : integer array, shape ``(..., C)``
    multiplier, shift, offset : integers, or integer arrays that broadcast against ``acc``
        Shift 1 at least.
    output : :class:`Quantisation`

    Returns
    -------
    array of ``output.dtype``, shape of ``acc``
    """
    shift = np.asarray(shift, np.int64)
    scaled = np.asarray(acc, np.int64) * np.asarray(multiplier, np.int64)
    scaled += (np.int64(1) << (shift - 1)) + offset
    rounded = scaled >> shift
    tie = (rounded << shift) == scaled
    rounded &= ~tie.astype(np.int64)
    rounded += output.zero_point
    return np.clip(rounded, output.low, output.high).astype(output.dtype)


@dataclass(frozen=True, eq=False)
class Requantise:
    """Multipliers and shifts of a requantisation, one of each per channel.

    Parameters
    ----------
    multiplier : integer array, shape ``(C,)``
        Unsigned, below ``2**multiplier_bits``.
    shift : integer array, shape ``(C,)``
        1..47.
    multiplier_bits : :class:`int`
        12..32; 17 fills the signed 18-bit port of a DSP48E2.
    offset : integer array, shape ``(C,)``, or None
        Added to the product, as a bias finer than a step of the accumulator, or beyond its reach;
        below ``2**52``.  None adds nothing; zeros become None.
    """

    multiplier: np.ndarray
    shift: np.ndarray
    multiplier_bits: int = 17
    offset: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "multiplier", np.atleast_1d(np.asarray(self.multiplier, np.int64)))
        object.__setattr__(self, "shift", np.atleast_1d(np.asarray(self.shift, np.int64)))
        if self.multiplier.shape != self.shift.shape or self.multiplier.ndim != 1:
            raise HwgenError(
                f"Multiplier and shift must be vectors of one length, not "
                f"{self.multiplier.shape!r} and {self.shift.shape!r}"
            )
        if not 12 <= self.multiplier_bits <= MAX_BITS:
            raise HwgenError(
                f"Multiplier must have 12 to {MAX_BITS} bits, not {self.multiplier_bits!r}")
        if (self.multiplier < 0).any() or (self.multiplier >> self.multiplier_bits).any():
            raise HwgenError(f"Multipliers must be below 2**{self.multiplier_bits}")
        if (self.shift < 1).any() or (self.shift > MAX_SHIFT).any():
            raise HwgenError(f"Shifts must be between 1 and {MAX_SHIFT}")
        if self.offset is None:
            return
        offset = np.atleast_1d(np.asarray(self.offset, np.int64))
        if offset.shape != self.multiplier.shape:
            raise HwgenError(
                f"Offsets must be a vector like the multipliers, not {offset.shape!r} and "
                f"{self.multiplier.shape!r}"
            )
        if (abs(offset) >> 52).any():
            raise HwgenError("Offsets must be below 2**52")
        object.__setattr__(self, "offset", offset if offset.any() else None)

    @classmethod
    def from_scale(cls, ratio, multiplier_bits: int = 17) -> Requantise:
        """The nearest ``multiplier / 2**shift`` to each positive real ``ratio``.

        Raises
        ------
        :exc:`HwgenError`
            If a ratio is negative, not finite, or so large that it needs a left shift.
        """
        ratio = np.atleast_1d(np.asarray(ratio, np.float64))
        if not np.isfinite(ratio).all() or (ratio < 0).any():
            raise HwgenError("Requantisation ratios must be finite and not negative")
        _, exponent = np.frexp(ratio)
        shift = np.clip(multiplier_bits - exponent, 1, MAX_SHIFT)
        # Beyond 2**bits any ratio is too large all the same, and int64 would overflow.
        scaled = np.ldexp(np.minimum(ratio, 2.0**multiplier_bits), shift)
        multiplier = np.rint(scaled).astype(np.int64)
        carry = multiplier == 1 << multiplier_bits
        multiplier = np.where(carry & (shift > 1), multiplier >> 1, multiplier)
        shift = np.where(carry & (shift > 1), shift - 1, shift)
        if (multiplier >> multiplier_bits).any():
            raise HwgenError(
                f"Requantisation ratio {ratio.max()!r} is too large for a right shift; "
                f"check the scales of the input, weights and output"
            )
        return cls(multiplier, shift, multiplier_bits)

    def __len__(self) -> int:
        return len(self.multiplier)

    def apply(self, acc: np.ndarray, output: Quantisation) -> np.ndarray:
        """Requantise accumulators of shape ``(..., C)``; see :func:`requantise`."""
        return requantise(acc, self.multiplier, self.shift, output,
                          0 if self.offset is None else self.offset)
