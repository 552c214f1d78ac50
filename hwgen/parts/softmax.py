"""What a softmax is made of: a row's largest score, exponentials below it, one over their sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned

from hwgen.device.arithmetic import adder_tree, counter, delayed, levels
from hwgen.device.cost import Area, Part, logic, total
from hwgen.device.multiplier import MULTIPLIERS, Multiplier
from hwgen.ir.attention import STEPS
from hwgen.parts.memory import ReadOnlyMemory

__all__ = [
    "LARGEST_LATENCY", "ExponentialsConfig", "largest_of_row", "reciprocal_area",
    "reciprocal_of_sum",
]

LARGEST_LATENCY = 2
"""Cycles from a row's last scores until its largest is known, without those of the tree."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ExponentialsConfig(Part):
    """Exponentials of the distances of scores from the largest of their row, by a table.

    Parameters
    ----------
    bits : :class:`int`
        Of a score.
    lanes : :class:`int`
        Scores side by side.
    multipliers : integer array, shape ``(windows, heads)``, or with extents of 1
        What distances are multiplied by for entries of the table.
    shift : :class:`int`
        Their shift.
    exp : integer array, shape ``(256,)``
    multiplier : :class:`str`
        One of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    """

    bits: int
    lanes: int
    multipliers: np.ndarray
    shift: int
    exp: np.ndarray
    multiplier: str

    @property
    def device(self) -> Multiplier:
        """The multiplier of the distances."""
        return MULTIPLIERS[self.multiplier]

    @property
    def exp_bits(self) -> int:
        """Bits of an exponential."""
        return int(self.exp.max()).bit_length()

    @property
    def table(self) -> ReadOnlyMemory:
        """Memory of the exponentials; there is one for each lane."""
        return ReadOnlyMemory(self.exp_bits, STEPS)

    @cached_property
    def least_over(self) -> np.ndarray:
        """The least distance that is beyond the table, or at its end; shape as the multipliers."""
        most = 1 << self.bits
        over = np.minimum(-(-((STEPS - 1) << self.shift) // np.maximum(self.multipliers, 1)), most)
        return np.where(self.multipliers == 0, most, over)

    @property
    def entry_bits(self) -> int:
        """Bits of a distance that is within the table, with a sign."""
        return max((int(self.least_over.max()) - 1).bit_length(), 1) + 1

    @property
    def _factor_bits(self) -> int:
        """Bits of a multiplier, with a sign."""
        return max(int(self.multipliers.max()).bit_length(), 1) + 1

    @property
    def _operands(self) -> tuple[int, int]:
        """Bits of the operands of the product that makes an entry of the table, wider first."""
        bits = self.entry_bits, self._factor_bits
        return max(bits), min(bits)

    @property
    def latency(self) -> int:
        """Cycles from a score to its exponential."""
        return 5 + self.device.product_latency(*self._operands) + self.table.latency

    def area(self) -> Area:
        """What they take, with the search for the largest."""
        a, b = self._operands
        lanes, bits = self.lanes, self.bits
        return self.device.area(a, b, lanes) + total([self.table.area()] * lanes) + logic(
            "attention", lut_score=lanes * (2 * bits + self.entry_bits),
            ff_score=lanes * (4 * bits + self.entry_bits))

    def lookup(
        self, m: Module, lane: int, largest: Value, score: Value, there: Value, step: Value,
        least_over: Value,
    ) -> Signal:
        """The exponential of a score's distance from the largest; 0 if there is no such score.

        Parameters
        ----------
        largest, score : at the same time
        there : whether there is one, a cycle before the result
        step, least_over : what a distance is multiplied by, two cycles later than the score, and
            the least that is beyond the table, a cycle later
        """
        distance = Signal(unsigned(self.bits), name=f"distance_{lane}", reset_less=True)
        kept = Signal.like(distance, name=f"kept_{lane}")
        over = Signal(name=f"over_{lane}", reset_less=True)
        within = Signal(signed(self.entry_bits), name=f"within_{lane}", reset_less=True)
        m.d.sync += [
            distance.eq(largest - score), kept.eq(distance),
            over.eq(distance >= least_over), within.eq(kept[: self.entry_bits - 1]),
        ]
        over = delayed(m, over, 1, f"over_{lane}")
        if isinstance(step, Const):
            factor: Value = Const(step.value, signed(self._factor_bits))
        else:
            factor = Signal(signed(self._factor_bits), name=f"factor_{lane}")
            m.d.comb += factor.eq(step)
        wide, narrow = sorted((within, factor), key=len, reverse=True)
        product = self.device.product(m, wide, narrow, f"entry_{lane}")
        over = delayed(m, over, self.device.product_latency(*self._operands),
                       f"over_product_{lane}")
        entry = Signal(8, name=f"entry_{lane}", reset_less=True)
        m.d.sync += entry.eq(Mux(over, STEPS - 1, (product >> self.shift)[:8]))
        value = self.table.read(m, f"exp_{lane}", entry, self.exp.tolist())
        e = Signal(self.exp_bits, name=f"e_{lane}", reset_less=True)
        m.d.sync += e.eq(Mux(there, value, 0))
        return e


def largest_of_row(
    m: Module, lanes: Sequence[Value], bits: int, marks: Value
) -> tuple[Signal, Signal]:
    """The largest of the scores of a row, and whether it is complete in this cycle.

    It is :data:`LARGEST_LATENCY` cycles after the last word, and as many as the tree over the lanes
    has levels.

    Parameters
    ----------
    lanes : scores of a word
    bits : of a score
    marks : of a word: whether there is one, whether it is the first of a row, and whether there is
        one which is the last
    """
    best: list[Value] = []
    for lane, value in enumerate(lanes):
        score = Signal(signed(bits), name=f"score_{lane}", reset_less=True)
        m.d.sync += score.eq(value)
        best.append(score)
    for level in range(levels(len(lanes))):
        paired: list[Value] = []
        for k in range(0, len(best), 2):
            larger = Signal(signed(bits), name=f"larger_{level}_{k}", reset_less=True)
            pair = best[k : k + 2]
            m.d.sync += larger.eq(
                pair[0] if len(pair) == 1 else Mux(pair[0] > pair[1], pair[0], pair[1]))
            paired.append(larger)
        best = paired
    marks = delayed(m, marks, 1 + levels(len(lanes)), "largest_marks")
    largest, ended = Signal(signed(bits), name="largest", reset_less=True), Signal(name="ended")
    with m.If(marks[0] & (marks[1] | (best[0] > largest))):
        m.d.sync += largest.eq(best[0])
    m.d.sync += ended.eq(marks[2])
    return largest, ended


def reciprocal_of_sum(
    m: Module, lanes: Sequence[Signal], marks: Value, most: int, numerator: int, bits: int
) -> tuple[Signal, Value]:
    """A number divided by the sum of a row, bit by bit, and whether it is there in the next cycle.

    It is there ``bits + 1`` cycles, and as many as the tree over the lanes has levels, after the
    cycle that follows the row's last word; and stays until the next one is.

    Parameters
    ----------
    lanes : terms of a word
    marks : whether there is a word, and whether it is the last of a row
    most : largest sum
    numerator, bits : what is divided, and bits of the result
    """
    sum_bits, wide = most.bit_length(), len(lanes[0])
    terms: list[tuple[Value, Value | None]] = [
        (Cat(e, Const(0, 1)).as_signed(), None) for e in lanes]
    word_sum, _ = adder_tree(m, terms, wide + 1, "exp_sum")
    marks = delayed(m, marks, levels(len(lanes)), "sum_marks")
    total_ = Signal(sum_bits, name="exp_total", reset_less=True)
    first, complete = Signal(name="sum_first", init=1), Signal(name="sum_complete")
    with m.If(marks[0]):
        m.d.sync += [total_.eq(Mux(first, 0, total_) + word_sum), first.eq(marks[1])]
    m.d.sync += complete.eq(marks[0] & marks[1])
    # The quotient has as many bits as its reciprocal, so the dividend's others begin it.
    divisor = Signal(sum_bits, name="divisor", reset_less=True)
    dividend = Signal(bits, name="dividend", reset_less=True)
    remainder = Signal(sum_bits, name="remainder", reset_less=True)
    quotient = Signal(bits, name="quotient", reset_less=True)
    result = Signal(bits, name="reciprocal", reset_less=True)
    left = counter(bits + 1, name="divide_left")
    shifted = Cat(dividend[-1], remainder)
    difference = Signal(signed(sum_bits + 2), name="divide_difference")
    m.d.comb += difference.eq(shifted - divisor)
    with m.If(complete):
        m.d.sync += [
            divisor.eq(total_), remainder.eq(numerator >> bits), left.eq(bits),
            dividend.eq(numerator & ((1 << bits) - 1)),
        ]
    with m.Elif(left != 0):
        m.d.sync += [
            left.eq(left - 1), dividend.eq(dividend << 1),
            remainder.eq(Mux(difference[-1], shifted, difference)),
            quotient.eq(Cat(~difference[-1], quotient)),
        ]
        with m.If(left == 1):
            # It stays while the next one is made.
            m.d.sync += result.eq(Cat(~difference[-1], quotient))
    return result, left == 1


def reciprocal_area(numerator: int, bits: int) -> Area:
    """What a sum's reciprocal takes."""
    divider = int(numerator).bit_length() + 2 * bits
    return logic("attention", divider=divider)
