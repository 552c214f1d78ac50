"""Off-chip memory in simulations: how it behaves, and what a run made of it.

The memory itself is ``memory.hpp``, which is compiled into the harness.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwgen.boards import Board
from hwgen.errors import HwgenError

__all__ = ["FAULTS", "MemoryModel", "MemoryUse"]

FAULTS = ("read_slverr", "read_decerr", "write_slverr", "write_decerr", "silent")
"""Kinds of faults that the memory can have."""

_NANOSECONDS = {
    "DDR3": (200, 7800, 260),
    "DDR4": (200, 7800, 350),
    "HBM": (200, 3900, 350),
    "SDRAM": (100, 7800, 66),
}
"""By kind of memory: latency as seen from the fabric, refresh interval, and time of a refresh
(tREFI and tRFC of the JEDEC standards, for 8 Gb dice; 4 Gb for DDR3)."""


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """How off-chip memory behaves.  Times are in cycles of the design's clock.

    Parameters
    ----------
    gbps : :class:`float`
        Peak bandwidth, Gbit/s, that all ports and both directions share.
    efficiency : :class:`float`
        Part of the peak that long bursts reach, refresh included: above 0, at most 1.
    latency : :class:`int`
        Fewest cycles from a read's address to its first data, and from a write's last data to its
        response.
    jitter : :class:`int`
        Most cycles that are added to a latency, at random.
    refresh_interval, refresh_cycles : :class:`int`
        Cycles from one refresh to the next, and those of a refresh, in which nothing moves; if they
        are 0, there is none.
    back_pressure : :class:`float`
        Probability that a channel pauses, each cycle; below 1.
    clock_mhz : :class:`float`
        The design's clock.
    fault : :class:`str`
        Empty, or one of :data:`FAULTS`, a colon and a number.  With ``read_slverr:3`` the fourth
        read (from reset, of all ports) comes back with one bad word, marked SLVERR; with
        ``read_decerr:3`` all its words are bad, marked DECERR.  With ``write_…`` a write is
        answered so, and not done.  With ``silent:3`` three reads and writes are answered, and none
        after them.
    seed : :class:`int`
        Of what is random: jitter, pauses, and the bytes that nothing has been written to.

    Raises
    ------
    :exc:`HwgenError`
        If a value is out of range.
    """

    gbps: float = 153.6
    efficiency: float = 0.8
    latency: int = 50
    jitter: int = 0
    refresh_interval: int = 1950
    refresh_cycles: int = 88
    back_pressure: float = 0.0
    clock_mhz: float = 250
    fault: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("gbps", "clock_mhz"):
            if not getattr(self, name) > 0:
                raise HwgenError(f"{name} must be positive, not {getattr(self, name)!r}")
        if not 0 < self.efficiency <= 1:
            raise HwgenError(f"efficiency must be above 0, at most 1, not {self.efficiency!r}")
        if self.latency < 1:
            raise HwgenError(f"latency must be 1 or more, not {self.latency!r}")
        for name in ("jitter", "refresh_cycles", "seed"):
            if getattr(self, name) < 0:
                raise HwgenError(f"{name} must be 0 or more, not {getattr(self, name)!r}")
        if self.refresh_cycles and self.refresh_interval <= self.refresh_cycles:
            raise HwgenError(
                f"refresh_interval must be above refresh_cycles, {self.refresh_cycles}, "
                f"not {self.refresh_interval!r}"
            )
        if not 0 <= self.back_pressure < 1:
            raise HwgenError(f"back_pressure must be 0 or more, below 1, "
                             f"not {self.back_pressure!r}")
        if self.fault and not re.fullmatch(rf"({'|'.join(FAULTS)}):[0-9]+", self.fault):
            raise HwgenError(f"fault must be one of {', '.join(FAULTS)}, a colon and a number, "
                             f"not {self.fault!r}")

    @classmethod
    def of_board(cls, board: Board, clock_mhz: float | None = None) -> MemoryModel:
        """All memory of a board as one.

        Parameters
        ----------
        board : :class:`hwgen.boards.Board`
        clock_mhz : the design's clock; default: the board's

        Raises
        ------
        :exc:`HwgenError`
            If the board has none.
        """
        if not board.memory:
            raise HwgenError(f"Board {board.name} has no off-chip memory")
        clock_mhz = board.clock_mhz if clock_mhz is None else clock_mhz
        largest = max(board.memory, key=lambda memory: memory.total_gbps)
        latency, interval, refresh = (
            max(1, round(time * clock_mhz / 1000)) for time in _NANOSECONDS[largest.kind]
        )
        return cls(
            gbps=board.offchip_gbps,
            efficiency=min(1.0, board.offchip_practical_gbps / board.offchip_gbps),
            latency=latency, refresh_interval=interval, refresh_cycles=refresh,
            clock_mhz=clock_mhz,
        )

    @property
    def bytes_per_cycle(self) -> float:
        """Bytes a cycle that long bursts reach on average, refresh included."""
        return self.gbps * self.efficiency * 125 / self.clock_mhz

    @property
    def rate(self) -> float:
        """Bytes a cycle while there is no refresh: as many as make the mean
        :attr:`bytes_per_cycle`, unless the peak is less.
        """
        share = self.refresh_cycles / self.refresh_interval if self.refresh_cycles else 0
        return min(self.bytes_per_cycle / (1 - share), self.gbps * 125 / self.clock_mhz)

    def settings(self) -> str:
        """The file that the harness reads: lines of a name and a value."""
        values: dict[str, object] = {name: getattr(self, name) for name in (
            "rate", "latency", "jitter", "refresh_interval", "refresh_cycles", "back_pressure",
            "seed",
        )}
        if self.fault:
            values["fault"], values["fault_at"] = self.fault.split(":")
        return "".join(f"{name} {value}\n" for name, value in values.items())


@dataclass(frozen=True)
class MemoryUse:
    """What moved between a design and its off-chip memory.

    Members
    -------
    bytes_read, bytes_written : bytes from the first frame's beginning to the last one's end
    read, written : the same for each port
    total_read, total_written : bytes from reset on, so with what is fetched ahead of the frames
    frame_read, frame_written : array ``(frames - 1,)``
        Bytes between the last output beat of a frame and that of the next one.  At the end of a
        run the first blocks have no more frames to work on: what says most of the steady state is
        the middle of a long one.
    waits : cycles, from the first frame on, in which something in the design waited for the memory
    held : cycles, likewise, in which data were due and bandwidth or refresh held them back
    ready : cycles from reset until all was there that is fetched ahead of the first frame
    """

    bytes_read: int
    bytes_written: int
    read: tuple[int, ...]
    written: tuple[int, ...]
    total_read: int
    total_written: int
    frame_read: np.ndarray
    frame_written: np.ndarray
    waits: int
    held: int
    ready: int

    @classmethod
    def of_report(cls, report: Mapping) -> MemoryUse:
        """From what the harness prints."""
        frames = np.array(report["frames"], dtype=np.int64).reshape(-1, 2)
        return cls(
            bytes_read=sum(report["read"]), bytes_written=sum(report["written"]),
            read=tuple(report["read"]), written=tuple(report["written"]),
            total_read=report["total_read"], total_written=report["total_written"],
            frame_read=np.diff(frames[:, 0]), frame_written=np.diff(frames[:, 1]),
            waits=report["waits"], held=report["held"], ready=report["ready"],
        )

    @property
    def bytes_per_frame(self) -> float:
        """Mean of the bytes read and written for a frame, over the whole run.

        What was fetched ahead of the first frame is not counted, because at the end as much has
        been fetched ahead of a frame that does not come.
        """
        return (self.bytes_read + self.bytes_written) / (len(self.frame_read) + 1)
