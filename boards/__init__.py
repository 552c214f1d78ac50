"""Boards: one TOML file each, beside this module, and their loader."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from hwgen.blocks.base import Resources
from hwgen.errors import HwgenError

__all__ = ["FAMILIES", "Board", "load", "names"]

FAMILIES = ("ultrascale+", "ultrascale", "7series", "ecp5")


@dataclass(frozen=True)
class Board:
    """A board and what its device holds.

    Parameters
    ----------
    name : :class:`str`
    part : :class:`str`
        As the vendor's tool calls the device.
    family : :class:`str`
        One of :data:`FAMILIES`; decides what a multiplier can do.
    dsp, bram18, uram, lut, ff : :class:`int`
        Block RAM is counted in 18 Kb.
    offchip_gbps : :class:`float`
        Peak bandwidth of the external memory, Gbit/s.
    clock_mhz : :class:`float`
        Default clock.

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

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise HwgenError(f"Family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        for field in ("dsp", "bram18", "uram", "lut", "ff"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 0:
                raise HwgenError(f"{field} must be an integer, 0 or more, not {value!r}")
        for field in ("offchip_gbps", "clock_mhz"):
            value = getattr(self, field)
            if not isinstance(value, int | float) or value <= 0:
                raise HwgenError(f"{field} must be a positive number, not {value!r}")

    @property
    def resources(self) -> Resources:
        """What the device holds."""
        return Resources(self.dsp, self.lut, self.ff, self.bram18, self.uram)


def names() -> list[str]:
    """Names of the boards that come with hwgen."""
    found = (entry.name for entry in files("boards").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load(name: str) -> Board:
    """A board by name, or from a TOML file of one's own.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such board, or its file is not right.
    """
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
        wanted = {f.name for f in fields(Board)} - {"name"}
        if missing := wanted - set(values):
            raise HwgenError(f"{', '.join(sorted(missing))} missing")
        if extra := set(values) - wanted:
            raise HwgenError(f"{', '.join(sorted(extra))} unknown")
        return Board(name=path.stem, **values)
    except OSError as error:
        raise HwgenError(f"{label} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise HwgenError(f"Board file {label}: {error}") from None
