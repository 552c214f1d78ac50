"""Normalisation of each pixel over its channels: LayerNorm and RMSNorm, in integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.requantise import requantise
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = ["LayerNorm"]

FRACTION_BITS = 7
"""Bits of a variance's mantissa behind the point: 1 to 4 in steps of 1/128."""
FIRST_ENTRY = 1 << FRACTION_BITS
"""The mantissa 1, which is the first entry of the table."""
ENTRIES = 3 << FRACTION_BITS
"""Entries of the table of reciprocal roots: mantissas from 1 up to, but not with, 4."""
ROOT_BITS = 17
"""Bits of a reciprocal root: with a sign, the narrow port of a DSP48E2."""
VARIANCE_BITS = 56
"""Most bits of a variance."""


@dataclass(frozen=True, eq=False)
class LayerNorm(Op):
    """``(x - mean) / sqrt(variance + epsilon)`` over the channels of each pixel, in integers.

    For a pixel with ``C`` channels of codes ``x``, sums are exact, and the reciprocal root comes
    from a table of the variance's mantissa::

        s = sum(x)                               (0 without centring, x then less the zero point)
        v = C * sum(x * x) - s * s + epsilon
        k, t = the power of 4 below v, floor(128 * v / 4**k)       (t is 128 to 511)
        out[c] = clamp(zp + round_half_even((C * x[c] - s) * roots[t - 128] / 2**(shift + k)))

    One pass gives both sums; a second one scales.  The root is right to 0.2 %, which is less than
    half a step of 8-bit codes.  (Ba, Kiros and Hinton, "Layer Normalization", 2016; Zhang and
    Sennrich, "Root Mean Square Layer Normalization", 2019.  A table indexed by the mantissa takes
    the place of the iterated roots of I-BERT.)

    Parameters
    ----------
    centred : :class:`bool`
        Whether the mean is subtracted; RMSNorm does not.
    epsilon : :class:`int`
        Added to the variance, which is in units of ``(scale / C)**2``; from 1 to ``2**54``.
    roots : integer array, shape ``(384,)``
        Reciprocal roots of mantissas, below ``2**17``, with the scale of the output.
    shift : :class:`int`
        1..30.
    output : :class:`Quantisation`

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    centred: bool
    epsilon: int
    roots: np.ndarray
    shift: int
    output: Quantisation

    def __post_init__(self) -> None:
        roots = whole(self.roots, "Reciprocal roots")
        if roots.shape != (ENTRIES,) or roots.min() < 0 or roots.max() >> ROOT_BITS:
            raise HwgenError(f"Reciprocal roots must be {ENTRIES} numbers below 2**{ROOT_BITS}")
        object.__setattr__(self, "roots", roots)
        if not 1 <= self.epsilon <= 1 << VARIANCE_BITS - 2:
            raise HwgenError(f"Epsilon must be from 1 to 2**{VARIANCE_BITS - 2}, not "
                             f"{self.epsilon!r}")
        if not 1 <= self.shift <= 30:
            raise HwgenError(f"Shift must be between 1 and 30, not {self.shift!r}")

    @classmethod
    def from_types(
        cls, tensor: TensorType, output: Quantisation, epsilon: float, *, centred: bool = True
    ) -> LayerNorm:
        """The closest integer form of a normalisation in float.

        Parameters
        ----------
        tensor : type of the input
        output : codes of the result
        epsilon : what is added to the variance of real values

        Raises
        ------
        :exc:`HwgenError`
            If epsilon is beyond the variances of the codes, or the codes of the output are too
            fine or too coarse.
        """
        mantissas = (np.arange(ENTRIES) + FIRST_ENTRY + 0.5) / FIRST_ENTRY
        ratio = 1 / (output.scale * np.sqrt(mantissas))
        shift = ROOT_BITS - int(np.frexp(ratio[0])[1])
        if not 1 <= shift <= 30:
            raise HwgenError(f"A normalisation cannot have the scale {output.scale:g}")
        unit = (tensor.scale / tensor.channels) ** 2
        steps = max(round(min(epsilon / unit, 2.0**VARIANCE_BITS)), 1)
        roots = np.minimum(np.rint(ratio * 2.0**shift), (1 << ROOT_BITS) - 1)
        return cls(centred, steps, roots.astype(np.int64), shift, output)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if self.variance_bits(x) > VARIANCE_BITS:
            raise HwgenError(
                f"A normalisation of {x.channels} channels of {x.bits} bits takes variances of "
                f"{self.variance_bits(x)} bits; the most are {VARIANCE_BITS}")
        return (TensorType(x.shape, self.output),)

    def offset(self, tensor: TensorType) -> int:
        """What is subtracted from codes: the zero point, where the mean is not."""
        return 0 if self.centred else tensor.zero_point

    def variance_bits(self, tensor: TensorType) -> int:
        """Bits of the largest variance, with epsilon."""
        return (self.most_variance(tensor) + self.epsilon).bit_length()

    def most_variance(self, tensor: TensorType) -> int:
        """The largest variance of any codes, without epsilon."""
        q, channels = tensor.quantisation, tensor.channels
        if self.centred:
            # Half of the channels at one end, half at the other.
            return (channels * (q.high - q.low)) ** 2 // 4
        most = max(q.high - q.zero_point, q.zero_point - q.low)
        return (channels * most) ** 2

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        (x,), (tensor,) = inputs, types
        x = np.asarray(x, np.int64) - self.offset(tensor)
        total = x.sum(-1, keepdims=True) if self.centred else np.int64(0)
        variance = tensor.channels * (x * x).sum(-1, keepdims=True) - total * total + self.epsilon
        powers = np.int64(1) << 2 * np.arange(VARIANCE_BITS // 2 + 1)
        k = np.searchsorted(powers, variance, "right") - 1
        down = 2 * k - FRACTION_BITS
        entry = (variance << np.maximum(-down, 0)) >> np.maximum(down, 0)
        scaled = (tensor.channels * x - total) * self.roots[entry - FIRST_ENTRY]
        return (requantise(scaled, 1, self.shift + k, self.output),)
