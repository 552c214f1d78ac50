"""Boards: one TOML file each, beside this module, and their loader."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from decimal import Decimal
from importlib.resources import files
from math import inf
from pathlib import Path

from hwgen.device.cost import Resources
from hwgen.device.multiplier import FAMILIES
from hwgen.errors import HwgenError, reason

__all__ = ["AXI_BITS", "MEMORY_KINDS", "PROCESSORS", "Board", "Memory", "Shares", "load", "names"]

MEMORY_KINDS = ("DDR3", "DDR4", "HBM", "SDRAM")
"""Kinds of external memory."""

AXI_BITS = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Widths that the data of an AXI port can have (AMBA AXI, A1.2)."""

PROCESSORS = ("zynq-7000", "zynq-ultrascale+")
"""Families of devices that have processors beside the fabric."""

CLOCKS = {"ultrascale+": 891.0, "ultrascale": 741.0, "7series": 741.0, "ecp5": 400.0}
"""Per family, the highest clock of anything in it, MHz: that of DSPs of the fastest speed grade
(AMD DS923, DS893, DS183), for ECP5 that of its PLLs (Lattice FPGA-DS-02012)."""

LEAST_CLOCK = 1.0
"""The least clock, in MHz."""

LARGEST = dict.fromkeys(("dsp", "bram18", "uram", "lut", "ff"), 10**10)
"""The most of each resource that a device may have: a thousand times what the largest has, so that
a search can be asked what would help."""

LEAST_SHARE = 0.01
"""The least share of anything."""


def _whole(name: str, value: object, least: int, most: int) -> None:
    """Raise :exc:`HwgenError` for what is not an integer between two, both included."""
    # A bool is an int to Python, and not to whoever wrote it.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise HwgenError(f"{name} must be an integer from {least} to {most}, not {value!r}")


def _within(value: object, least: float, most: float) -> bool:
    """Whether something is a number between two, both included."""
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _number(name: str, value: object, least: float, most: float) -> None:
    """Raise :exc:`HwgenError` for what is not a number between two, both included."""
    if not _within(value, least, most):
        raise HwgenError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}")


@dataclass(frozen=True)
class Memory:
    """External memory: one or several channels that are alike.

    Parameters
    ----------
    name : :class:`str`
    kind : :class:`str`
        One of :data:`MEMORY_KINDS`.
    gbps : :class:`float`
        Peak bandwidth of a channel, Gbit/s; from 0.001 to 100,000.
    axi_bits : :class:`int`
        Width of the AXI ports through which a design reaches it, one of :data:`AXI_BITS`.
    count : :class:`int`
        Channels, 1 to 256.
    ports : :class:`int`
        AXI ports that share a channel, 1 to 64.
    practical : :class:`float`
        Part of the peak that long bursts reach in practice, from 0.01 to 1.

    Raises
    ------
    :exc:`HwgenError`
        If a value is of the wrong kind or out of range.
    """

    name: str
    kind: str
    gbps: float
    axi_bits: int
    count: int = 1
    ports: int = 1
    practical: float = 0.8

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise HwgenError(f"name must be the memory's name, not {self.name!r}")
        if self.kind not in MEMORY_KINDS:
            raise HwgenError(f"kind must be one of {', '.join(MEMORY_KINDS)}, not {self.kind!r}")
        _number("gbps", self.gbps, 0.001, 1e6)
        if isinstance(self.axi_bits, bool | float) or self.axi_bits not in AXI_BITS:
            widths = ", ".join(map(str, AXI_BITS))
            raise HwgenError(f"axi_bits must be one of {widths}, not {self.axi_bits!r}")
        _whole("count", self.count, 1, 256)
        _whole("ports", self.ports, 1, 64)
        _number("practical", self.practical, LEAST_SHARE, 1)

    @property
    def total_gbps(self) -> float:
        """Peak bandwidth of all its channels, Gbit/s."""
        return self.gbps * self.count

    @property
    def practical_gbps(self) -> float:
        """Bandwidth that long bursts reach, all channels together, Gbit/s."""
        return self.total_gbps * self.practical


@dataclass(frozen=True)
class Shares:
    """Share of each resource that a design may take; placers and routers need the rest.

    Parameters
    ----------
    dsp, bram18, uram, lut, ff : :class:`float`
        Each from 0.01 to 1.

    Raises
    ------
    :exc:`HwgenError`
        If a share is not such a number.
    """

    dsp: float = 0.97
    bram18: float = 0.95
    uram: float = 0.95
    lut: float = 0.7
    ff: float = 0.8

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            _number(name, share, LEAST_SHARE, 1)

    def of(self, held: Resources) -> Resources:
        """The shares of what a device holds, each rounded down."""
        # In decimals, as they were written: a float of 0.29 times 100 is 28.
        return Resources(**{
            name: int(Decimal(str(share)) * getattr(held, name))
            for name, share in asdict(self).items()
        })


@dataclass(frozen=True)
class Board:
    """A board, what its device holds, and how much of it a design may take.

    Parameters
    ----------
    name : :class:`str`
    part : :class:`str`
        The device, as the vendor's tool calls it.
    family : :class:`str`
        One of :data:`hwgen.device.multiplier.FAMILIES`; decides what a multiplier can do.
    dsp, bram18, uram, lut, ff : :class:`int`
        What the device holds, block RAM in units of 18 Kb; each from 0 to :data:`LARGEST`.
    clock_mhz : :class:`float`
        Default clock, MHz.
    memory : sequence of :class:`Memory`
        External memory; their names differ.
    shares : :class:`Shares`
    most_mhz : :class:`float`
        The highest clock that a design may ask for, MHz, at most what its family can do
        (:data:`CLOCKS`); 0: just that.
    reserved : :class:`Resources`
        What something beside the design takes, such as a shell.
    processor : :class:`str`
        One of :data:`PROCESSORS`, if the device has processors; "": it has none.
    board_part : :class:`str`
        The board in Vivado's board files, without its version, such as
        ``xilinx.com:zcu104:part0``; "": there is none.
    platform : :class:`str`
        The Vitis platform of an accelerator card; "": it is none.
    slrs : :class:`int`
        Dies (super logic regions) of the device, 1 to 4.

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
    clock_mhz: float
    memory: tuple[Memory, ...] = ()
    shares: Shares = field(default=Shares())
    most_mhz: float = 0.0
    reserved: Resources = field(default=Resources())
    processor: str = ""
    board_part: str = ""
    platform: str = ""
    slrs: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.part, str) or not self.part:
            raise HwgenError(f"part must be the device's name, not {self.part!r}")
        if not isinstance(self.family, str) or self.family not in FAMILIES:
            raise HwgenError(f"family must be one of {', '.join(FAMILIES)}, not {self.family!r}")
        for name in ("dsp", "bram18", "uram", "lut", "ff"):
            _whole(name, getattr(self, name), 0, LARGEST[name])
        if self.most_mhz != 0:
            _number("most_mhz", self.most_mhz, LEAST_CLOCK, CLOCKS[self.family])
        if not isinstance(self.reserved, Resources):
            raise HwgenError("reserved is no property of a board: a build sets it")
        self.check_clock(self.clock_mhz, "clock_mhz")
        if self.processor not in ("", *PROCESSORS):
            raise HwgenError(f"processor must be one of {', '.join(PROCESSORS)}, or be left out, "
                             f"not {self.processor!r}")
        for name, pattern, like in (
                ("board_part", r"[\w.-]+:[\w.-]+:[\w.-]+", "xilinx.com:zcu104:part0"),
                ("platform", r"[\w.-]+", "xilinx_u50_gen3x16_xdma_5_202210_1")):
            value = getattr(self, name)
            if not isinstance(value, str) or (value and not re.fullmatch(pattern, value)):
                raise HwgenError(f"{name} must be a name like {like}, not {value!r}")
        _whole("slrs", self.slrs, 1, 4)
        called = [memory.name for memory in self.memory]
        for name in called:
            if called.count(name) > 1:
                raise HwgenError(f"memory names must differ, not {name!r} twice")

    def check_clock(self, mhz: float, name: str = "Clock") -> None:
        """Raise :exc:`HwgenError` for a clock that the device cannot have.

        Parameters
        ----------
        mhz : the clock, MHz
        name : what the message calls it
        """
        most = self.most_mhz or CLOCKS[self.family]
        if not _within(mhz, LEAST_CLOCK, most):
            whose = "" if self.most_mhz else f", the most of {self.family} devices"
            given = f"{mhz:g}" if _within(mhz, -inf, inf) else repr(mhz)
            raise HwgenError(f"{name} must be from {LEAST_CLOCK:g} to {most:g} MHz on board "
                             f"{self.name}{whose}, not {given}")

    @property
    def multiplier(self) -> str:
        """The device's multiplier, one of :data:`hwgen.device.multiplier.MULTIPLIERS`."""
        return FAMILIES[self.family]

    @property
    def resources(self) -> Resources:
        """What the device holds."""
        return Resources(self.dsp, self.lut, self.ff, self.bram18, self.uram)

    @property
    def usable(self) -> Resources:
        """What a design may take of it."""
        whole = self.shares.of(self.resources)
        return Resources(*(max(getattr(whole, each.name) - getattr(self.reserved, each.name), 0)
                           for each in fields(Resources)))

    @property
    def offchip_gbps(self) -> float:
        """Peak bandwidth of all external memory, Gbit/s."""
        return sum(memory.total_gbps for memory in self.memory)

    @property
    def offchip_practical_gbps(self) -> float:
        """Bandwidth that long bursts reach, all external memory together, Gbit/s."""
        return sum(memory.practical_gbps for memory in self.memory)


def names() -> list[str]:
    """Names of the boards that come with hwgen."""
    found = (entry.name for entry in files("hwgen.boards").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def _made(
    kind: type, table: Mapping, where: str = "", others: Sequence[str] = (), **given: object
):
    """An instance of a dataclass from a table of a file, whose keys are its fields.

    Parameters
    ----------
    kind : the dataclass
    table : what the file says
    where : what messages begin with
    others : keys that the file may also have in this place
    given : fields that the file cannot set

    Raises
    ------
    :exc:`HwgenError`
        If a key is unknown or missing, or its value is refused.
    """
    known = {f.name: f for f in fields(kind) if f.name not in given}
    if extra := [key for key in table if key not in known]:
        legal = ", ".join((*known, *others))
        raise HwgenError(f"{where}{', '.join(map(repr, extra))} unknown; known are {legal}")
    needed = [
        key for key, f in known.items()
        if f.default is MISSING and f.default_factory is MISSING and key not in table
    ]
    if needed:
        raise HwgenError(f"{where}{', '.join(needed)} missing")
    try:
        return kind(**given, **table)
    except HwgenError as error:
        raise HwgenError(f"{where}{error}") from None


def _board(name: str, values: dict) -> Board:
    """A board from the contents of its file."""
    memory, usable = values.pop("memory", []), values.pop("usable", {})
    if not isinstance(memory, list) or not all(isinstance(entry, dict) for entry in memory):
        raise HwgenError(f"memory must be tables headed [[memory]], not {memory!r}")
    if not isinstance(usable, dict):
        raise HwgenError(f"usable must be a table headed [usable], not {usable!r}")
    channels = tuple(
        _made(Memory, entry, f"memory {k}: ") for k, entry in enumerate(memory, start=1)
    )
    shares = _made(Shares, usable, "usable: ")
    return _made(
        Board, values, others=("memory", "usable"), name=name, memory=channels, shares=shares
    )


def load(name: str | Path) -> Board:
    """Load a board.

    Parameters
    ----------
    name : name of a board that comes with hwgen, or path of a ``.toml`` file

    Raises
    ------
    :exc:`HwgenError`
        If there is no such board, or if its file cannot be read, is not TOML or has a wrong value.
    """
    name = str(name)
    if name.endswith(".toml"):
        path, label = Path(name), name
    elif name in names():
        path, label = Path(str(files("hwgen.boards").joinpath(f"{name}.toml"))), name
    else:
        raise HwgenError(
            f"Board {name!r} is unknown: give one of {', '.join(names())}, or a .toml file"
        )
    try:
        return _board(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise HwgenError(f"Board file {label} cannot be read: {reason(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HwgenError(f"Board file {label} is not TOML: {error}") from None
    except HwgenError as error:
        raise HwgenError(f"Board file {label}: {error}") from None
