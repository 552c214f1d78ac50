"""Multipliers of device families, and packings of several products into one multiplier.

Outputs that take the same activation share a multiplier: ``sum(w[k] << (k * field)) * x`` is one
product whose fields hold ``w[k] * x`` (each borrows from the next when it is negative).  Packed
products can be added as they are until a field is full (Xilinx WP486, "Deep Learning with INT8
Optimization on Xilinx Devices").  Beyond that paper:

- A field is as wide as the actual weights allow.  With weights of -127..127 it has 19 bits, and 16
  products, not 7, are summed before the fields are separated.
- A field may be one bit short.  The lowest bit of each sum, an XOR of ANDs, is computed beside the
  multiplier; it cancels what the next sum has added to the bit that the two share (the idea of
  overlapping lanes is that of FINN's matrix-vector unit for 4 bits).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import adder_tree, levels, signed_width
from hwgen.device.cost import Area, counted, logic
from hwgen.device.platform import library_instance
from hwgen.errors import HwgenError

__all__ = ["FAMILIES", "MULTIPLIERS", "Multiplier", "MultiplyAdd", "Packing", "RegisteredProduct"]


@dataclass(frozen=True)
class Multiplier:
    """A kind of multiplier.

    Parameters
    ----------
    name : :class:`str`
    wide, narrow : :class:`int`
        Bits of its signed operands: the packed weights, and the activation.
    sum_bits : :class:`int`
        Bits of the sums along a cascade; 0: there is no cascade, and the fabric adds.
    dsp : :class:`int`
        Number of DSPs that it takes.
    """

    name: str
    wide: int
    narrow: int
    sum_bits: int = 0
    dsp: int = 1

    def partial_products(self, a: int, b: int) -> int:
        """Number of multipliers for a product of signed integers, ``a`` and ``b`` bits wide.

        ``a`` is the wider one.
        """
        return -(-(a - 1) // (self.wide - 1)) * -(-(b - 1) // (self.narrow - 1))

    def dsps(self, a: int, b: int) -> int:
        """Number of DSPs for such a product."""
        return self.dsp * self.partial_products(a, b)

    def product_latency(self, a: int, b: int) -> int:
        """Cycles from registered operands to such a product, registered; see :meth:`product`."""
        if not self.dsp:
            return 1 + levels(-(-b // 2))
        return 1 + levels(self.partial_products(a, b))

    def area(
        self, a: int, b: int, count: int = 1, digits: Sequence[int] = (), kind: str = ""
    ) -> Area:
        """Area of ``count`` such products.

        Parameters
        ----------
        digits : for each pair of bits of ``b``, how many of them are not always zero; default all
        kind : prefix of the kind of logic, for products whose costs are fitted separately
        """
        if self.dsp:
            parts = self.partial_products(a, b)
            return counted(dsp=count * self.dsps(a, b)) + logic(
                f"{kind}product", ff_register=count * (a + b), part=count * (parts - 1) * (a + b)
            )
        digits = digits or [min(2, b - k) for k in range(0, b, 2)]
        rows = sum(n > 0 for n in digits)
        tree, level = 0, 1
        while rows > 1:
            tree += rows // 2 * (a + (2 << level))
            rows, level = -(-rows // 2), level + 1
        return logic(
            f"{kind}fabric", double=count * sum(n == 2 for n in digits) * (a + 2),
            single=count * sum(n == 1 for n in digits) * a, tree=count * tree, one=count,
            lut4_adders=count * (2 * sum(n > 0 for n in digits) - 1),
        )

    def product(self, m: Module, a: Value, b: Value, name: str) -> Value:
        """Product of two registers, of which ``a`` is the wider.

        It is the sum of partial products that each fit a multiplier, in a tree of adders.
        """
        width = len(a) + len(b)
        terms: list[tuple[Value, Value | None]] = []

        def term(value: Value) -> None:
            part = Signal(signed(width), name=f"{name}_part_{len(terms)}", reset_less=True)
            m.d.sync += part.eq(value)
            terms.append((part, None))

        if self.dsp:
            for shift_a, x in _chunks(a, self.wide - 1):
                for shift_b, y in _chunks(b, self.narrow - 1):
                    part = RegisteredProduct(self.name, len(x), len(y))
                    m.submodules[f"{name}_part_{len(terms)}"] = part
                    m.d.comb += [part.a.eq(x), part.b.eq(y)]
                    terms.append(((part.p << (shift_a + shift_b))[:width].as_signed(), None))
        else:
            # Rows of two bits each; the highest bit is negative.
            for k in range(0, len(b), 2):
                low = Mux(b[k], a, 0)
                if k + 1 == len(b):
                    term(-low << k)
                else:
                    high = Mux(b[k + 1], a, 0) << 1
                    term((low - high if k + 2 == len(b) else low + high) << k)
        total, _ = adder_tree(m, terms, width, name)
        return total[:width].as_signed()


def _chunks(value: Value, bits: int) -> list[tuple[int, Value]]:
    """Cut a signed value into pieces, of which all but the highest are unsigned.

    Returns
    -------
    the lowest bit of each piece, and the piece as a signed value
    """
    whole = range(0, max(len(value) - 1, 1), bits)
    return [
        (k, value[k:].as_signed() if k == whole[-1] else Cat(value[k : k + bits], Const(0, 1)))
        for k in whole
    ]


MULTIPLIERS = {m.name: m for m in (
    Multiplier("dsp48e2", 27, 18, 48),
    Multiplier("dsp48e1", 25, 18, 48),
    Multiplier("mult18", 18, 18),
    Multiplier("fabric", 18, 18, dsp=0),
)}
"""Multipliers by name: AMD's DSP48E2 and DSP48E1, Lattice's MULT18X18D, adders in the fabric."""

FAMILIES = {
    "ultrascale+": "dsp48e2",
    "ultrascale": "dsp48e2",
    "7series": "dsp48e1",
    "ecp5": "mult18",
}
"""Multiplier of each device family."""


@dataclass(frozen=True)
class Packing:
    """Layout of the weights of several outputs in the wide operand of a multiplier.

    Parameters
    ----------
    multiplier : :class:`str`
        One of :data:`MULTIPLIERS`.
    products : :class:`int`
        Number of outputs that share the multiplier.
    activation_bits, weight_bits : :class:`int`
    weight_limit : :class:`int`
        Largest magnitude of a weight.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such multiplier, or if so many products do not fit it.
    """

    multiplier: str
    products: int
    activation_bits: int
    weight_bits: int
    weight_limit: int

    def __post_init__(self) -> None:
        if self.multiplier not in MULTIPLIERS:
            raise HwgenError(
                f"Multiplier must be one of {', '.join(MULTIPLIERS)}, not {self.multiplier!r}"
            )
        if self.products < 1:
            raise HwgenError(f"Products must be positive, not {self.products!r}")
        device = self.device
        used = (self.products - 1) * self.field + self.word_bits
        if (self.activation_bits > device.narrow or used > device.wide or self.field_terms(1) < 1
                or (self.products > 1 and not device.dsp)):
            raise HwgenError(
                f"{self.products} products of {self.activation_bits}-bit activations and "
                f"{self.weight_bits}-bit weights up to {self.weight_limit} do not fit a "
                f"{self.multiplier}"
            )

    @staticmethod
    @cache
    def densest(
        multiplier: str, activation_bits: int, weight_bits: int, weight_limit: int
    ) -> Packing:
        """The packing of most products that lets a field sum two or more of them."""
        for products in range(12, 1, -1):
            try:
                packing = Packing(multiplier, products, activation_bits, weight_bits, weight_limit)
            except HwgenError:
                continue
            if packing.field_terms(1) > 1:
                return packing
        return Packing(multiplier, 1, activation_bits, weight_bits, weight_limit)

    @property
    def device(self) -> Multiplier:
        """The multiplier."""
        return MULTIPLIERS[self.multiplier]

    @cached_property
    def field(self) -> int:
        """Bits from one weight to the next: the most for which the wide operand has room."""
        if self.products == 1:
            return self.device.wide
        largest = (1 << (self.device.wide - 1)) - 1
        return max((
            f for f in range(self.device.wide)
            if self.weight_limit * sum(1 << (k * f) for k in range(self.products)) <= largest
        ), default=0)

    @property
    def word_bits(self) -> int:
        """Bits of a stored weight, from which 1 is subtracted if the weight below is negative."""
        if self.products == 1:
            return self.weight_bits
        return signed_width(-self.weight_limit - 1, self.weight_limit)

    def bound(self, count: int) -> int:
        """Largest magnitude of a sum of ``count`` products."""
        return (count * max(self.weight_limit, 1)) << (self.activation_bits - 1)

    def field_terms(self, guard: int) -> int:
        """Number of products that a field can sum, if sums may have ``guard`` more bits than it."""
        if self.products == 1:
            return 1 << 20
        return ((1 << self.field >> 1 << guard) - 1) // self.bound(1)

    @property
    def guard(self) -> int:
        """Bits by which sums may exceed their fields: 1 if otherwise a field could sum only few."""
        return int(self.field_terms(0) <= 4)

    def words(self, weights: np.ndarray) -> np.ndarray:
        """Stored form of weights ``(..., outputs)`` of up to ``products`` outputs.

        A negative weight borrows from the next one.  Therefore stored weights, each sign-extended
        to ``field`` bits, form the operand of the multiplier when they are concatenated.
        """
        stored = np.array(weights, np.int64)
        for k in range(1, stored.shape[-1]):
            stored[..., k] -= stored[..., k - 1] < 0
        return stored


class RegisteredProduct(wiring.Component):
    """Product of two signed integers, in a register.

    Synthesis maps the register into multipliers of Xilinx, but not into those of Lattice, which
    are therefore emitted as primitives.

    Parameters
    ----------
    multiplier : :class:`str`
    a_bits, b_bits : :class:`int`
        Bits of the operands; at most those of the multiplier.

    Members
    -------
    a, b : In
    p : Out
        ``a * b``, a cycle later.
    """

    def __init__(self, multiplier: str, a_bits: int, b_bits: int) -> None:
        self.multiplier = multiplier
        super().__init__({
            "a": In(signed(a_bits)), "b": In(signed(b_bits)), "p": Out(signed(a_bits + b_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        if self.multiplier == "mult18":
            a, b = Signal(signed(18)), Signal(signed(18))
            p = Signal(signed(36))
            primitive = library_instance(platform, "hwgen_mult18", i_a=a, i_b=b, o_p=p)
            if primitive is not None:
                m.submodules.mult = primitive
                m.d.comb += [a.eq(self.a), b.eq(self.b), self.p.eq(p)]
                return m
        product = Signal(self.p.shape(), reset_less=True)
        m.d.sync += product.eq(self.a * self.b)
        m.d.comb += self.p.eq(product)
        return m


class MultiplyAdd(wiring.Component):
    """``p = a * b + pcin``: one DSP of a cascade.

    Parameters
    ----------
    multiplier : :class:`str`
        A multiplier with a cascade: ``"dsp48e2"`` or ``"dsp48e1"``.
    late : :class:`bool`
        Delay the operands by a cycle, in a second register inside the DSP.
    first : :class:`bool`
        Whether it is the first DSP of its cascade, for which ``pcin`` is 0.

    Members
    -------
    a : :py:`In(signed(wide))`
    b : :py:`In(signed(narrow))`
    pcin : :py:`In(signed(sum_bits))`
        Connected to ``pcout`` of the DSP before.
    pcout, p : :py:`Out(signed(sum_bits))`
        The same value, for the next DSP and for the fabric.

    Raises
    ------
    :exc:`HwgenError`
        If the multiplier has no cascade.

    Timing
    ------
    Three cycles from the operands (four if ``late``), one cycle from ``pcin``.
    """

    def __init__(self, multiplier: str, *, late: bool, first: bool) -> None:
        self.multiplier = multiplier
        self.late = late
        self.first = first
        device = MULTIPLIERS[multiplier]
        if not device.sum_bits:
            raise HwgenError(f"Multiplier must have a cascade, not {multiplier!r}")
        super().__init__({
            "a": In(signed(device.wide)), "b": In(signed(device.narrow)),
            "pcin": In(signed(device.sum_bits)), "pcout": Out(signed(device.sum_bits)),
            "p": Out(signed(device.sum_bits)),
        })

    def elaborate(self, platform):
        primitive = library_instance(
            platform, f"hwgen_{self.multiplier}", p_LATE=int(self.late), p_FIRST=int(self.first),
            i_a=self.a, i_b=self.b, i_pcin=self.pcin, o_pcout=self.pcout, o_p=self.p,
        )
        if primitive is not None:
            return primitive
        m = Module()
        a, b = self.a, self.b
        for stage in range(2 if self.late else 1):
            a_next = Signal.like(self.a, name=f"a_{stage}", reset_less=True)
            b_next = Signal.like(self.b, name=f"b_{stage}", reset_less=True)
            m.d.sync += [a_next.eq(a), b_next.eq(b)]
            a, b = a_next, b_next
        product = Signal(signed(len(a) + len(b)), reset_less=True)
        total = Signal(signed(len(self.p)), reset_less=True)
        m.d.sync += [product.eq(a * b), total.eq(product + (0 if self.first else self.pcin))]
        m.d.comb += [self.p.eq(total), self.pcout.eq(total)]
        return m
