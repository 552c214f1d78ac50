"""Small pieces of integer arithmetic that blocks are made of: one adder between registers."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed

__all__ = ["add_carry", "adder_tree", "counter", "delayed", "levels", "signed_width"]


def signed_width(low: int, high: int) -> int:
    """Bits of the narrowest signed integer that holds ``low`` and ``high``."""
    return max((n if n >= 0 else ~n).bit_length() for n in (low, high)) + 1


def levels(count: int) -> int:
    """Levels of a binary tree over ``count`` terms."""
    return (count - 1).bit_length()


def delayed(m: Module, value: Value, cycles: int, name: str) -> Value:
    """A value some cycles later."""
    for k in range(cycles):
        later = Signal(value.shape(), name=f"{name}_later_{k}", reset_less=True)
        m.d.sync += later.eq(value)
        value = later
    return value


def add_carry(a: Value, b: Value, carry: Value | None) -> Value:
    """``a + b + carry`` of signed integers in one adder: the carry goes in at the bottom."""
    if carry is None:
        return a + b
    return (Cat(Const(1, 1), a).as_signed() + Cat(carry, b).as_signed()) >> 1


def adder_tree(
    m: Module, terms: list[tuple[Value, Value | None]], bits: int, name: str
) -> tuple[Value, Value | None]:
    """Registered binary tree over signed values of ``bits`` bits, and carries to be added.

    Each adder takes one of its two carries; the other goes on with the sum.  It takes
    ``levels(len(terms))`` cycles.
    """
    level = 0
    while len(terms) > 1:
        level += 1
        sums: list[tuple[Value, Value | None]] = []
        for k in range(0, len(terms), 2):
            label = f"{name}_{level}_{k // 2}"
            total = Signal(signed(bits + level), name=label, reset_less=True)
            carry = terms[min(k + 1, len(terms) - 1)][1]
            if k + 1 < len(terms):
                m.d.sync += total.eq(add_carry(terms[k][0], terms[k + 1][0], terms[k][1]))
            else:
                m.d.sync += total.eq(terms[k][0])
            if carry is not None:
                carry = delayed(m, carry, 1, f"{label}_carry")
            sums.append((total, carry))
        terms = sums
    return terms[0]


def counter(count: int, **options) -> Signal:
    """A register for 0..count-1; one bit at least, for Verilog knows no empty vectors."""
    return Signal(range(max(count, 2)), **options)


def wrapped_bits(count: int) -> int:
    """Bits of a counter that does not wrap of itself: those that a comparison and a choice take."""
    bits = max(count - 1, 1).bit_length()
    return bits if count & (count - 1) else 0
