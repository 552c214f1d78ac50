"""Small pieces of integer arithmetic, with one adder between registers."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed

__all__ = ["add_carry", "adder_tree", "counter", "delayed", "levels", "signed_width"]


def signed_width(low: int, high: int) -> int:
    """Bits of the narrowest signed integer that holds ``low`` and ``high``."""
    return max((n if n >= 0 else ~n).bit_length() for n in (low, high)) + 1


def levels(count: int) -> int:
    """Number of levels in a binary tree over ``count`` terms."""
    return (count - 1).bit_length()


def delayed(m: Module, value: Value, cycles: int, name: str) -> Value:
    """The value, ``cycles`` cycles later."""
    for k in range(cycles):
        later = Signal(value.shape(), name=f"{name}_later_{k}", reset_less=True)
        m.d.sync += later.eq(value)
        value = later
    return value


def add_carry(a: Value, b: Value, carry: Value | None) -> Value:
    """``a + b + carry`` of signed integers in one adder, whose lowest bit takes the carry."""
    if carry is None:
        return a + b
    return (Cat(Const(1, 1), a).as_signed() + Cat(carry, b).as_signed()) >> 1


def adder_tree(
    m: Module, terms: list[tuple[Value, Value | None]], bits: int, name: str
) -> tuple[Value, Value | None]:
    """Registered binary tree of adders over signed values of ``bits`` bits, some with carries.

    Each adder adds one of the carries of its two terms and passes on the other with the sum.  The
    latency is ``levels(len(terms))`` cycles.

    Returns
    -------
    the sum, and the carry that is still to be added, if any
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
    """A register for 0..count-1, with at least one bit because Verilog has no empty vectors."""
    return Signal(range(max(count, 2)), **options)


def wrapped_bits(count: int) -> int:
    """Bits of a counter that needs a comparison to wrap; 0 if it wraps by overflow."""
    bits = max(count - 1, 1).bit_length()
    return bits if count & (count - 1) else 0
