"""Cost model: the resources of a device that parts of blocks take, by device family.

Memories and DSPs are counted.  LUTs and flip-flops are estimated as weighted sums of features.  A
*kind* of part has *features*, numbers that follow from its structure, such as the bits of an
adder, or the bits that go through a multiplexer.  The coefficients, LUTs and flip-flops per unit
of a feature, are never negative.  ``python -m benchmarks.resources --fit`` fits them to the results
of synthesis and writes them to the files of :data:`COEFFICIENTS`, one for each kind of LUT.

An :class:`Area` describes what a block takes in these terms, independently of the family;
:meth:`Area.resources` converts it to the numbers of a family, :class:`Resources`.
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
"""File of coefficients of each device family."""


@dataclass(frozen=True)
class Resources:
    """Resources of a device that a block takes.

    Block memories are counted in units of 18 Kb; ``lut`` and ``ff`` are estimates.  On an ECP5,
    LUTs are what nextpnr counts as ``TRELLIS_COMB``: LUTs with four inputs, two for each CCU2C of a
    carry chain, six for each DPR16X4 (16 words of four bits).
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
        """A memory with a write port and a read port; ``style`` ``""``: whichever is cheaper."""
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
    """What a block takes, on any device.

    Members
    -------
    six, four : resources that are counted, for devices whose LUTs have six or four inputs
    logic : kind and features of each part whose LUTs and flip-flops are estimated
    """

    six: Resources = field(default=Resources())
    four: Resources = field(default=Resources())
    logic: tuple[tuple[str, dict[str, float]], ...] = ()

    def __add__(self, other: Area) -> Area:
        return total((self, other))

    def resources(self, family: str = FAMILY) -> Resources:
        """Resources on devices of a family, one of :data:`COEFFICIENTS`."""
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
    """Area of counted resources.

    Parameters
    ----------
    six : number of each resource on devices whose LUTs have six inputs
    four : resources on devices whose LUTs have four inputs; None: the same
    """
    found = Resources(**six)
    return Area(found, found if four is None else four)


def memory(width: int, depth: int, style: str = "") -> Area:
    """A memory with a write port and a read port; ``style`` ``""``: whichever is cheaper."""
    return Area(*(Resources.memory(width, depth, style, family) for family in (FAMILY, "ecp5")))


def logic(kind: str, **features: float) -> Area:
    """Area of a part in LUTs and flip-flops, without memories.

    A feature whose name begins with ``lut_`` or ``ff_`` counts only for LUTs or flip-flops.  With
    ``lut4_`` or ``ff4_`` it counts only on devices whose LUTs have four inputs and cannot be
    memories or shift registers.
    """
    return Area(logic=((kind, features),))


@cache
def coefficients(family: str = FAMILY) -> dict[str, dict[str, dict[str, float]]]:
    """Per kind and feature, ``lut`` and ``ff`` per unit; features that are missing cost nothing."""
    return tomllib.loads(files("hwgen.device").joinpath(COEFFICIENTS[family]).read_text())


def estimate(kind: str, what: str, family: str = FAMILY, **features: Any) -> Any:
    """Estimate of the LUTs or flip-flops of a part, not rounded.

    Parameters
    ----------
    kind : kind of logic
    what : ``"lut"`` or ``"ff"``
    family : one of :data:`COEFFICIENTS`
    features : numbers or arrays; see :func:`logic`
    """
    rates = coefficients(family).get(kind, {})
    return sum(rates[name].get(what, 0.0) * value
               for name, value in features.items() if name in rates)


def shift_or_registers(registers: int, bits: int) -> dict[str, float]:
    """Features of ``registers`` registers in a row; three or more become a shift register."""
    if registers > 2:
        return {"lut_shift": bits, "ff4_shift": registers * bits}
    return {"ff_register": registers * bits}


class Part(ABC):
    """Base class of configurations of hardware, which know how much of a device it takes.

    Members
    -------
    large : whether the module is so large that simulators should not inline its instances
    """

    large: ClassVar[bool] = False

    @abstractmethod
    def area(self) -> Area:
        """What it takes, on any device."""

    def resources(self, family: str = FAMILY) -> Resources:
        """Resources on devices of a family, one of :data:`hwgen.device.cost.COEFFICIENTS`."""
        return self.area().resources(family)
