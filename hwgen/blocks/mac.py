"""Multiply-accumulate columns: the dot products of one activation vector with one or two weights.

Two outputs share one multiplier: ``(w1 * 2**18 + w0) * x`` is one 27x18 product whose low 18 bits
hold ``w0 * x`` (a borrow goes into the high field), so one DSP48E2 takes two multiply-accumulates
a cycle (Xilinx WP486, "Deep Learning with INT8 Optimization on Xilinx Devices").  The packed
products of as many taps as the low field holds are summed before the fields are parted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.blocks.base import Resources
from hwgen.errors import HwgenError

__all__ = ["MacColumn", "MacColumnConfig"]

FIELD = 18
"""Bits of the low field of a packed product."""


@dataclass(frozen=True, kw_only=True)
class MacColumnConfig:
    """Shape of a column.

    Parameters
    ----------
    simd : :class:`int`
        Products summed each cycle.
    outputs : :class:`int`
        1, or 2 that share their multipliers.
    activation_bits, weight_bits : :class:`int`
    weight_limit : :class:`int`
        Largest magnitude of a weight; decides how many packed products may be summed.
    acc_bits : :class:`int`
        Bits of the accumulators.
    """

    simd: int
    outputs: int
    activation_bits: int
    weight_bits: int
    weight_limit: int
    acc_bits: int

    def __post_init__(self) -> None:
        if self.simd < 1:
            raise HwgenError(f"Simd must be positive, not {self.simd!r}")
        if self.outputs not in (1, 2):
            raise HwgenError(f"A column has 1 or 2 outputs, not {self.outputs!r}")
        if self.outputs == 2 and not (self.weight_bits <= 8 and self.activation_bits <= 9):
            raise HwgenError(
                f"Two products share a multiplier at 8-bit weights and 9-bit activations at most, "
                f"not {self.weight_bits} and {self.activation_bits} bits"
            )

    @property
    def chain(self) -> int:
        """Packed products that are summed before the fields are parted."""
        largest = max(self.weight_limit, 1) << (self.activation_bits - 1)
        return max(1, min(self.simd, ((1 << (FIELD - 1)) - 1) // largest))

    @property
    def product_bits(self) -> int:
        """Bits of a product."""
        return self.activation_bits + self.weight_bits

    @property
    def sum_latency(self) -> int:
        """Cycles from activations and weights to their sum, before the accumulator."""
        if self.outputs == 1:
            return 2 + _levels(self.simd)
        return 3 + _levels(self.chain) + _levels(math.ceil(self.simd / self.chain))

    @property
    def latency(self) -> int:
        """Cycles from the last activations of a sum to the accumulator being visible."""
        return self.sum_latency + 1

    def resources(self, family: str) -> Resources:
        # Counted in tree adders: one LUT a bit.
        if self.outputs == 1:
            lut = (self.simd - 1) * (self.product_bits + 2) + self.acc_bits
            ff = self.simd * (self.product_bits * 2 + 2) + self.acc_bits
        else:
            groups = math.ceil(self.simd / self.chain)
            lut = (self.simd - groups) * 36 + self.simd * 9
            lut += 2 * (groups * FIELD + (groups - 1) * (FIELD + 2) + self.acc_bits)
            ff = self.simd * (27 + 8 + 36 * 2) + 2 * (groups * 2 * FIELD + self.acc_bits)
        return Resources(dsp=self.simd, lut=lut, ff=ff)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        weights = data.ArrayLayout(signed(self.weight_bits), self.simd)
        return wiring.Signature({
            "x": In(data.ArrayLayout(signed(self.activation_bits), self.simd)),
            "w": In(data.ArrayLayout(weights, self.outputs)),
            "add": In(1),
            "first": In(1),
            "acc": Out(data.ArrayLayout(signed(self.acc_bits), self.outputs)),
        })

    def create(self) -> MacColumn:
        return MacColumn(self)


def _levels(count: int) -> int:
    """Levels of a binary tree of registered adders."""
    return math.ceil(math.log2(count)) if count > 1 else 0


def _tree(m: Module, terms: list, bits: int, name: str, limit: int | None = None):
    """Registered binary adder tree; sums of k levels have k more bits than ``bits``."""
    level = 0
    while len(terms) > 1:
        level += 1
        width = bits + level if limit is None else min(bits + level, limit)
        sums = []
        for k in range(0, len(terms), 2):
            total = Signal(signed(width), name=f"{name}_{level}_{k // 2}", reset_less=True)
            m.d.sync += total.eq(sum(terms[k : k + 2][1:], terms[k]))
            sums.append(total)
        terms = sums
    return terms[0]


class MacColumn(wiring.Component):
    """Dot products of ``simd`` activations with one or two weight vectors, accumulated.

    Parameters
    ----------
    config : :class:`MacColumnConfig`

    Members
    -------
    x : :py:`In(ArrayLayout(signed(activation_bits), simd))`
    w : :py:`In(ArrayLayout(ArrayLayout(signed(weight_bits), simd), outputs))`
        In the same cycle as ``x``.
    add, first : :py:`In(1)`
        ``config.sum_latency`` cycles after ``x``: take the sum; begin anew with it.
    acc : :py:`Out(ArrayLayout(signed(acc_bits), outputs))`

    Timing
    ------
    ``config.latency`` cycles; one sum a cycle.
    """

    def __init__(self, config: MacColumnConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        sums = self._single(m) if self.config.outputs == 1 else self._packed(m)
        with m.If(self.add):
            for acc, total in zip(self.acc, sums, strict=True):
                m.d.sync += acc.eq(Mux(self.first, 0, acc) + total)
        return m

    def _single(self, m: Module) -> list:
        config = self.config
        products = []
        for k in range(config.simd):
            x = Signal(signed(config.activation_bits), name=f"x_{k}", reset_less=True)
            w = Signal(signed(config.weight_bits), name=f"w_{k}", reset_less=True)
            product = Signal(signed(config.product_bits), name=f"product_{k}", reset_less=True)
            m.d.sync += [x.eq(self.x[k]), w.eq(self.w[0][k]), product.eq(x * w)]
            products.append(product)
        return [_tree(m, products, config.product_bits, "sum")]

    def _packed(self, m: Module) -> list:
        config = self.config
        low, high = [], []
        for start in range(0, config.simd, config.chain):
            products = []
            for k in range(start, min(start + config.chain, config.simd)):
                x = Signal(signed(config.activation_bits), name=f"x_{k}", reset_less=True)
                w = Signal(signed(config.weight_bits + FIELD + 1), name=f"w_{k}", reset_less=True)
                product = Signal(signed(config.product_bits + FIELD + 1), name=f"product_{k}",
                                 reset_less=True)
                m.d.sync += [
                    x.eq(self.x[k]),
                    w.eq((self.w[1][k] << FIELD) + self.w[0][k]),
                    product.eq(x * w),
                ]
                products.append(product)
            # All chains take as many levels as the longest.
            total = _tree(m, products, config.product_bits + FIELD + 1, f"chain_{start}",
                          2 * FIELD + 1)
            for level in range(_levels(len(products)), _levels(config.chain)):
                later = Signal.like(total, name=f"chain_{start}_wait_{level}", reset_less=True)
                m.d.sync += later.eq(total)
                total = later
            w0 = Signal(signed(FIELD), name=f"low_{start}", reset_less=True)
            w1 = Signal(signed(FIELD + 1), name=f"high_{start}", reset_less=True)
            m.d.sync += [
                w0.eq(total[:FIELD].as_signed()),
                w1.eq((total >> FIELD) + total[FIELD - 1]),
            ]
            low.append(w0)
            high.append(w1)
        return [_tree(m, low, FIELD, "sum_low"), _tree(m, high, FIELD + 1, "sum_high")]
