"""Boards: one TOML file each, beside this module, and their loader."""

from __future__ import annotations

import math
import tomllib
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path

from hwgen.blocks.base import Resources
from hwgen.blocks.multiplier import FAMILIES
from hwgen.errors import HwgenError

__all__ = ["Board", "load", "names"]

@dataclass(frozen=True)
class Board:
    """A board and what its device holds.

    Parameters
    ----------
    name : :class:`str`
    part : :class:`str`
        As the vendor's tool calls the device.
    family : :class:`str`
        One of :data:`hwgen.blocks.multiplier.FAMILIES`; decides what a multiplier can do.
    dsp, bram18, uram, lut, ff : :class:`int`
        Block RAM is counted in 18 Kb.
    offchip_gbps : :class:`float`
        Peak bandwidth of the external memory, Gbit/s.
    clock_mhz : :class:`float`
        Default clock.
    offchip_share : :class:`float`
        Part of the peak that long bursts reach in practice, above 0, at most 1.

    Raises
    ------
    :exc:`HwgenError`
        If a value is of the wrong kind or out of range.
    """

    name: str
    part: str
    family: str
    dsp: int
    bram18: int
    uram: int
    lut: int
    ff: int
    offchip_gbps: float
    clock_mhz: float
    offchip_share: float = 0.8

    def __post_init__(self) -> None:
        if not isinstance(self.part, str) or not self.part:
            raise HwgenError(f"Part must be the device's name, not {self.part!r}")
        if not isinstance(self.family, str) or self.family not in FAMILIES:
            raise HwgenError(f"Family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        for field in ("dsp", "bram18", "uram", "lut", "ff"):
            value = getattr(self, field)
            if type(value) is not int or value < 0:
                raise HwgenError(f"{field} must be an integer, 0 or more, not {value!r}")
        for field in ("offchip_gbps", "clock_mhz", "offchip_share"):
            value = getattr(self, field)
            if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
                raise HwgenError(f"{field} must be a positive number, not {value!r}")
        if self.offchip_share > 1:
            raise HwgenError(f"offchip_share must be at most 1, not {self.offchip_share!r}")

    @property
    def multiplier(self) -> str:
        """The device's multiplier: one of :data:`hwgen.blocks.multiplier.MULTIPLIERS`."""
        return FAMILIES[self.family]

    @property
    def resources(self) -> Resources:
        """What the device holds."""
        return Resources(self.dsp, self.lut, self.ff, self.bram18, self.uram)


def names() -> list[str]:
    """Names of the boards that come with hwgen."""
    found = (entry.name for entry in files("boards").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load(name: str | Path) -> Board:
    """A board by name, or from a TOML file of one's own.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such board, or its file is not right.
    """
    name = str(name)
    if name.endswith(".toml"):
        path, label = Path(name), name
    elif name in names():
        path, label = Path(str(files("boards").joinpath(f"{name}.toml"))), name
    else:
        raise HwgenError(
            f"Board {name!r} is unknown: give one of {', '.join(names())}, or a .toml file"
        )
    try:
        values = tomllib.loads(path.read_text())
        known = {f.name: f.default is MISSING for f in fields(Board) if f.name != "name"}
        if missing := {field for field, needed in known.items() if needed} - set(values):
            raise HwgenError(f"{', '.join(sorted(missing))} missing")
        if extra := set(values) - set(known):
            raise HwgenError(f"{', '.join(sorted(extra))} unknown")
        return Board(name=path.stem, **values)
    except OSError as error:
        raise HwgenError(f"{label} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise HwgenError(f"Board file {label}: {error}") from None
