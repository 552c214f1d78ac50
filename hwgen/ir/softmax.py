"""Softmax over channels: what attention has inside where it is not one op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.attention import RECIPROCAL_BITS, STEPS, STEPS_PER_NAT
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = ["Softmax"]

EXP_BITS = 12
"""Bits of exponentials: the last of the table is as large as a step of them."""
MOST_EXP_BITS = 16
MOST_NUMERATOR_BITS = 46
"""So that an exponential times its row's reciprocal stays within what a double holds."""


@dataclass(frozen=True, eq=False)
class Softmax(Op):
    """``softmax`` of each group of channels of each pixel, in integers.

    For the ``n`` channels of a group::

        e[j] = exp[min(255, (max(x) - x[j]) * M >> s)]
        out[j] = clamp(zp + round_half_even(e[j] * (numerator // sum_j e[j]) / 2**shift))

    It is that of :class:`hwgen.ir.Attention`, whose exponentials are finer here because they are
    the result: differences from the largest are looked up in steps of 1/32, sums are exact, and
    there is one reciprocal for each group.  Zero points of the input do not matter.

    Parameters
    ----------
    groups : :class:`int`
        Divides the channels; those of a group follow one another.
    step : :class:`Requantise`
        From differences to entries of the table: one multiplier, without an offset.
    exp : integer array, shape ``(256,)``
        Exponentials, 0..65535, the first not 0 and the largest.
    numerator : :class:`int`
        What is divided by the sum of a group, below ``2**46``.
    shift : :class:`int`
        1..47.
    output : :class:`Quantisation`

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    groups: int
    step: Requantise
    exp: np.ndarray
    numerator: int
    shift: int
    output: Quantisation

    def __post_init__(self) -> None:
        exp = whole(self.exp, "Exponentials")
        if exp.shape != (STEPS,) or exp.min() < 0 or exp[0] < 1 or exp.max() > exp[0] or (
                int(exp[0]) >> MOST_EXP_BITS):
            raise HwgenError(f"Exponentials must be {STEPS} numbers below 2**{MOST_EXP_BITS}, the "
                             f"first the largest and at least 1")
        object.__setattr__(self, "exp", exp)
        if type(self.groups) is not int or self.groups < 1:
            raise HwgenError(f"Groups must be a number of at least 1, not {self.groups!r}")
        if len(self.step) != 1 or self.step.offset is not None:
            raise HwgenError("A softmax needs one multiplier for its differences, without an "
                             "offset")
        if not exp[0] <= self.numerator < 1 << MOST_NUMERATOR_BITS:
            raise HwgenError(f"Numerator must be from {exp[0]} to 2**{MOST_NUMERATOR_BITS}, not "
                             f"{self.numerator!r}")
        if not 1 <= self.shift <= 47:
            raise HwgenError(f"Shift must be between 1 and 47, not {self.shift!r}")

    @classmethod
    def from_types(
        cls, groups: int, x: TensorType, output: Quantisation, scale: float = 1.0
    ) -> Softmax:
        """The closest integer form of ``softmax(scale * x)``.

        Parameters
        ----------
        groups : of channels
        x : type of the input
        output : codes of the result
        scale : positive
        """
        largest = (1 << EXP_BITS) - 1
        exp = np.rint(largest * np.exp(-np.arange(STEPS) / STEPS_PER_NAT)).astype(np.int64)
        # What is beyond the table is nothing.
        exp[-1] = 0
        step = Requantise.from_scale(x.scale * scale * STEPS_PER_NAT)
        ratio, count = 1 / output.scale, x.channels // groups
        # The smallest reciprocal, of a row whose exponentials are all the largest, is fine enough.
        bits = min(RECIPROCAL_BITS + (largest * count).bit_length(), MOST_NUMERATOR_BITS)
        shift = int(np.clip(bits - int(np.frexp(ratio)[1]), 1, 47))
        numerator = min(round(ratio * 2.0**shift), (1 << MOST_NUMERATOR_BITS) - 1)
        return cls(groups, step, exp, numerator, shift, output)

    @property
    def reciprocal_bits(self) -> int:
        """Bits of a group's reciprocal: the sum is at least the exponential of 0."""
        return (self.numerator // int(self.exp[0])).bit_length()

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if x.channels % self.groups:
            raise HwgenError(f"{self.groups} groups must divide the {x.channels} channels")
        return (TensorType(x.shape, self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        x = inputs[0].reshape(*inputs[0].shape[:-1], self.groups, -1).astype(np.int64)
        below = x.max(-1, keepdims=True) - x
        entry = below * self.step.multiplier[0] >> self.step.shift[0]
        e = self.exp[np.minimum(entry, STEPS - 1)]
        reciprocal = self.numerator // e.sum(-1, keepdims=True)
        out = requantise(e * reciprocal, 1, self.shift, self.output)
        return (out.reshape(inputs[0].shape),)
