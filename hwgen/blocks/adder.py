"""Addition of two streams, beat by beat."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Module, Value

from hwgen.blocks.beat import Pair, PairConfig
from hwgen.blocks.registry import BlockRequest, carries_out, unchanged
from hwgen.device.arithmetic import adder_tree, levels, signed_width
from hwgen.device.cost import Area, logic, total
from hwgen.device.lookup import table_features
from hwgen.ir import Add
from hwgen.parts.memory import read_words
from hwgen.parts.requantise import RoundShift, round_shift_area
from hwgen.parts.stream import pack_rows

__all__ = ["PIECE_BITS", "Adder", "AdderConfig"]


PIECE_BITS = 8
"""Most bits of a code that are looked up in one table."""


@dataclass(frozen=True, kw_only=True)
class AdderConfig(PairConfig):
    """Sum of two tensors, each with its own scale.

    The products with the constant multipliers are looked up in tables, so they take no DSPs.  Codes
    of more than eight bits are cut in two, with a table for each half (distributed arithmetic:
    Croisier et al., US patent 3,777,130, 1973): two tables of 256 words and an adder replace one
    table of 65,536.

    Parameters
    ----------
    op : :class:`hwgen.ir.Add`
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements per beat.
    """

    large: ClassVar[bool] = True

    op: Add

    @cached_property
    def pieces(self) -> list[tuple[int, slice, np.ndarray]]:
        """Terms of the sum: number of the input, bits of its code, and the term for each value."""
        pieces = []
        for k, (tensor, multiplier) in enumerate(
            zip(self.tensors, self.op.multipliers, strict=True)
        ):
            count = -(-tensor.bits // PIECE_BITS)
            for j in range(count):
                low, high = (tensor.bits * n // count for n in (j, j + 1))
                codes = np.arange(1 << (high - low), dtype=np.int64) << low
                if high == tensor.bits:
                    # The highest bit is negative; the zero point is subtracted here.
                    codes -= (codes >> (high - 1) << high) + tensor.zero_point
                pieces.append((k, slice(low, high), multiplier * codes))
        return pieces

    @cached_property
    def product_bits(self) -> int:
        """Bits of a term of the sum."""
        low = min(int(values.min()) for _, _, values in self.pieces)
        return signed_width(low, max(int(values.max()) for _, _, values in self.pieces))

    @property
    def sum_bits(self) -> int:
        """Bits of the sum."""
        return self.product_bits + levels(len(self.pieces))

    @property
    def push_latency(self) -> int:
        return 1 + levels(len(self.pieces)) + RoundShift.latency

    def area(self) -> Area:
        bits = self.product_bits
        columns = [(values[:, None] >> np.arange(bits)) & 1 for _, _, values in self.pieces]
        lanes = self.lanes
        return total((
            super().area(),
            logic("constant", **table_features(columns, lanes)),
            logic("adder", sum=lanes * self.sum_bits * (len(columns) - 1),
                  lut4_adders=lanes * (len(columns) - 1)),
            round_shift_area(self.sum_bits, (self.op.shift,) * 2, self.op.output, lanes),
        ))

    def create(self) -> Adder:
        return Adder(self)


class Adder(Pair):
    """Adds two streams, element by element.

    Parameters
    ----------
    config : :class:`AdderConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    If the second beat of a pair is accepted in cycle t, the sum is visible in t + 11, or in t + 12
    if an input has more than eight bits; one pair per cycle.
    """

    config: AdderConfig

    def results(
        self, m: Module, valid: list[Value], a: list[Value], b: list[Value]
    ) -> list[Value]:
        config, results = self.config, []
        bits, shift = config.product_bits, config.op.shift
        for lane, codes in enumerate(zip(a, b, strict=True)):
            terms: list[tuple[Value, Value | None]] = []
            for j, (k, piece, values) in enumerate(config.pieces):
                word = read_words(
                    m, f"product_{lane}_{j}", codes[k][piece],
                    pack_rows(values[:, None], bits), bits, "distributed",
                )
                terms.append((word.as_signed(), None))
            total, _ = adder_tree(m, terms, bits, f"total_{lane}")
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                config.sum_bits, (shift, shift), config.op.output
            )
            m.d.comb += rounder.i.eq(total)
            results.append(rounder.o)
        return results


@carries_out(Add, pixels=unchanged)
def _adder(request: BlockRequest) -> AdderConfig:
    a, b = request.tensors
    return AdderConfig(op=request.op, tensors=(a, b), lanes=request.lanes,
                       **request.folded(AdderConfig))
