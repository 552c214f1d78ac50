"""A board with PYNQ (pynq.io): an overlay, its registers, and memory from ``pynq.allocate``."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DriverError
from .transport import Memory, library

__all__ = ["Pynq"]

REGISTERS = 4096
"""Bytes of registers."""
POLL = 200e-6
"""Seconds from one look at the registers to the next, if there is no interrupt."""


class Pynq:
    """A board with PYNQ as a transport.

    Parameters
    ----------
    bitstream : file of the overlay, which is loaded; None: one is there
    overlay : a ``pynq.Overlay`` that is there
    ip : name of the accelerator in the overlay; may be left out if the overlay has one alone
    address : of the registers, if there is no overlay
    device : ``pynq.Device``; default: the active one
    target : where memory is allocated, such as a bank of an Alveo card; default: the device
    interrupt : name of its pin; default: that of the accelerator if the overlay has it connected
    clock : number of the clock of the processing system that runs it; None: nobody knows

    Raises
    ------
    :exc:`DriverError`
        If pynq is not installed, or the overlay has no such accelerator.
    """

    def __init__(
        self, bitstream: str | Path | None = None, *, overlay: Any = None, ip: str | None = None,
        address: int | None = None, device: Any = None, target: Any = None,
        interrupt: str | None = None, clock: int | None = None,
    ) -> None:
        self._pynq = pynq = library("pynq", "pip install pynq, on the board")
        if sum(each is not None for each in (bitstream, overlay, address)) != 1:
            raise DriverError("Give one of bitstream, overlay and address")
        if bitstream is not None:
            if not Path(bitstream).is_file():
                raise DriverError(f"There is no bitstream {bitstream}")
            overlay = pynq.Overlay(str(bitstream), device=device)
        pins: Any = {}
        if overlay is not None:
            ip = self._find(overlay, ip)
            address = overlay.ip_dict[ip]["phys_addr"]
            pins = overlay.interrupt_pins
            if interrupt is None and f"{ip}/interrupt" in pins:
                interrupt = f"{ip}/interrupt"
        self._overlay, self._clock = overlay, clock
        self._target = device if target is None else target
        self._registers = pynq.MMIO(address, REGISTERS, device=device)
        self._interrupt = None if interrupt is None else pynq.Interrupt(interrupt)
        self._loop = asyncio.new_event_loop() if self._interrupt is not None else None
        self._up: asyncio.Task[None] | None = None

    @staticmethod
    def _find(overlay: Any, ip: str | None) -> str:
        names = [name for name, each in overlay.ip_dict.items() if "phys_addr" in each]
        if ip is None and len(names) == 1:
            return names[0]
        if ip is None or ip not in names:
            what = "Say which ip of the overlay is the accelerator" if ip is None else (
                f"The overlay has no ip {ip}")
            raise DriverError(f"{what}: there are {', '.join(names) or 'none'}")
        return ip

    def read32(self, offset: int) -> int:
        return self._registers.read(offset)

    def write32(self, offset: int, value: int) -> None:
        self._registers.write(offset, value)

    def allocate(self, size: int) -> Memory:
        try:
            raw = self._pynq.allocate((size,), np.uint8, target=self._target)
        except (MemoryError, RuntimeError, OSError) as error:
            raise DriverError(f"PYNQ has no memory for {size} bytes ({error}): run fewer frames at "
                              f"once") from None
        return Memory(raw.device_address, raw.view(np.ndarray), raw)

    def free(self, buffer: Memory) -> None:
        # PYNQ takes memory back when nobody uses it any more.
        buffer.array, buffer.raw = np.zeros(0, np.uint8), None

    def flush(self, buffer: Memory) -> None:
        buffer.raw.flush()

    def invalidate(self, buffer: Memory) -> None:
        buffer.raw.invalidate()

    def wait(self, seconds: float) -> None:
        if self._loop is None or self._interrupt is None:
            time.sleep(min(seconds, POLL))
            return

        if self._up is None or self._up.done():
            self._up = self._loop.create_task(self._interrupt.wait())
        self._loop.run_until_complete(asyncio.wait([self._up], timeout=seconds))

    def clock_mhz(self) -> float | None:
        if self._clock is None:
            return None
        return float(getattr(self._pynq.Clocks, f"fclk{self._clock}_mhz"))

    def close(self) -> None:
        """Let go of the device; the overlay stays."""
        if self._loop is not None:
            if self._up is not None and self._up.cancel():
                self._loop.run_until_complete(asyncio.wait([self._up]))
            self._loop.close()
