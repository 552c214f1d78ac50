"""What parts of a device are called, and what parts of blocks take of them, by device family.

Memories and DSPs are counted.  LUTs and flip-flops are sums of features, with coefficients fitted
to synthesis: a *kind* of part has *features*, numbers that its structure gives, such as bits of an
adder, or bits that go through a multiplexer.  Coefficients are in one file for each kind of logic
(:data:`COEFFICIENTS`), which ``python -m benchmarks.resources --fit`` writes: LUTs and flip-flops
for each unit of a feature, never negative.

An :class:`Area` is what a block takes, said in those terms and so without regard to the family;
asked for a family, it gives numbers, :class:`Resources`.
"""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from operator import attrgetter
from typing import Any, ClassVar

from hwgen.device.storage import (
    BLOCK_BITS,
    FAMILY,
    FOUR_INPUTS,
    ULTRA_BITS,
    block_count,
    choice_luts,
    memory_part,
    memory_style,
    ram_luts,
    ultra_count,
)

__all__ = [
    "COEFFICIENTS", "Area", "Part", "Resources", "coefficients", "counted", "estimate", "logic",
    "memory", "total",
]

COEFFICIENTS = {
    "ultrascale+": "cost.toml", "ultrascale": "cost.toml", "7series": "cost.toml",
    "ecp5": "cost_ecp5.toml",
}
"""Device families, and the files of their coefficients."""


@dataclass(frozen=True)
class Resources:
    """What a block takes of a device; BRAM in 18 Kb.  ``lut`` and ``ff`` are estimates.

    On an ECP5, LUTs are what nextpnr counts as ``TRELLIS_COMB``: LUTs of four inputs, two for each
    CCU2C of a carry chain, six for each DPR16X4 (16 words of four bits).
    """

    dsp: int = 0
    lut: int = 0
    ff: int = 0
    bram18: int = 0
    uram: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def memory_bits(self) -> int:
        """Bits of block memories and UltraRAMs."""
        return BLOCK_BITS * self.bram18 + ULTRA_BITS * self.uram

    @staticmethod
    @cache
    def memory(width: int, depth: int, style: str = "", family: str = FAMILY) -> Resources:
        """A memory with one port to write and one to read, in a style of its own or a given one."""
        style = memory_style(width, depth, style)
        if style == "distributed":
            return Resources(lut=int(ram_luts(width, depth, family)))
        part_depth = memory_part(width, depth, style)[1]
        choice = int(choice_luts(width, -(-depth // part_depth), family))
        if style == "ultra":
            return Resources(uram=int(ultra_count(width, depth)), lut=choice)
        return Resources(bram18=int(block_count(width, depth)), lut=choice)


_EACH = attrgetter(*(f.name for f in fields(Resources)))


@dataclass(frozen=True)
class Area:
    """What a block takes, whatever the device.

    Members
    -------
    six, four : what is counted, where LUTs have six inputs, and where they have four
    logic : parts whose LUTs and flip-flops are estimated: the kind and the features of each
    """

    six: Resources = field(default=Resources())
    four: Resources = field(default=Resources())
    logic: tuple[tuple[str, dict[str, float]], ...] = ()

    def __add__(self, other: Area) -> Area:
        return total((self, other))

    def resources(self, family: str = FAMILY) -> Resources:
        """What it takes of devices of a family, one of :data:`COEFFICIENTS`."""
        out = self.four if family in FOUR_INPUTS else self.six
        lut, ff = (sum(round(estimate(kind, what, family, **features))
                       for kind, features in self.logic) for what in ("lut", "ff"))
        return out + Resources(lut=lut, ff=ff)


def total(areas: Iterable[Area]) -> Area:
    """Sum of areas."""
    areas = list(areas)
    six, four = (Resources(*map(sum, zip(*(_EACH(getattr(a, name)) for a in areas), strict=True)))
                 for name in ("six", "four"))
    return Area(six, four, tuple(part for a in areas for part in a.logic))


def counted(four: Resources | None = None, **six: int) -> Area:
    """What is counted; ``four``: where LUTs have four inputs, if that is another number."""
    found = Resources(**six)
    return Area(found, found if four is None else four)


def memory(width: int, depth: int, style: str = "") -> Area:
    """A memory with one port to write and one to read, in a style of its own or a given one."""
    return Area(*(Resources.memory(width, depth, style, family) for family in (FAMILY, "ecp5")))


def logic(kind: str, **features: float) -> Area:
    """What a part takes of LUTs and flip-flops, memories not included.

    A feature whose name begins with ``lut_`` or ``ff_`` counts for those alone; one with ``lut4_``
    or ``ff4_`` counts only where LUTs have four inputs and cannot be memories or shift registers.
    """
    return Area(logic=((kind, features),))


@cache
def coefficients(family: str = FAMILY) -> dict[str, dict[str, dict[str, float]]]:
    """Per kind, per feature, the ``lut`` and ``ff`` of a unit; what is missing costs nothing."""
    return tomllib.loads(files("hwgen.device").joinpath(COEFFICIENTS[family]).read_text())


def estimate(kind: str, what: str, family: str = FAMILY, **features: Any) -> Any:
    """LUTs (``what`` is ``"lut"``) or flip-flops (``"ff"``) of a part, not rounded.

    Features are numbers or arrays; see :func:`logic`.
    """
    rates = coefficients(family).get(kind, {})
    return sum(rates[name].get(what, 0.0) * value
               for name, value in features.items() if name in rates)


def shift_or_registers(registers: int, bits: int) -> dict[str, float]:
    """Features of some registers in a row: three or more are a shift register."""
    if registers > 2:
        return {"lut_shift": bits, "ff4_shift": registers * bits}
    return {"ff_register": registers * bits}


class Part(ABC):
    """What takes part of a device, and knows how much.

    Members
    -------
    large : whether its module is so large that simulators keep copies of it apart
    """

    large: ClassVar[bool] = False

    @abstractmethod
    def area(self) -> Area:
        """What it takes, whatever the device."""

    def resources(self, family: str = FAMILY) -> Resources:
        """What it takes of devices of a family, one of :data:`hwgen.device.cost.COEFFICIENTS`."""
        return self.area().resources(family)
