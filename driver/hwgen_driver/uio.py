"""Linux on the board itself: registers through UIO, memory through u-dma-buf.

The kernel's ``uio_pdrv_genirq`` gives registers as ``/dev/uioN``; the module u-dma-buf
(github.com/ikwzm/udmabuf) gives memory that is contiguous for the device as ``/dev/udmabufN``, and
says in sysfs where that is.
"""

from __future__ import annotations

import mmap
import os
import select
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from .errors import DriverError
from .places import Places
from .transport import Memory

__all__ = ["Uio"]

REGISTERS = 4096
"""Bytes of registers."""
POLL = 200e-6
"""Seconds from one look at the registers to the next, if there is no interrupt."""
CLASSES = ("/sys/class/u-dma-buf", "/sys/class/udmabuf")
"""Where u-dma-buf says what it has, newer and older ones."""
BOTH_WAYS = 0
"""``sync_direction`` of memory that both sides write."""


class Uio:
    """A device of UIO as a transport.

    Parameters
    ----------
    registers : such as ``/dev/uio0``
    memory : such as ``/dev/udmabuf0``
    interrupt : wait for the interrupt of the UIO device; if not, registers are looked at again and
        again
    about : directory that says where the memory is (``phys_addr``, ``size``, ``sync_…``); default:
        that of sysfs
    coherent : the port sees the processor's cache, so that nothing is to be flushed

    Raises
    ------
    :exc:`DriverError`
        If a device or what sysfs says of it is missing or cannot be opened.
    """

    def __init__(
        self, registers: str | Path = "/dev/uio0", memory: str | Path = "/dev/udmabuf0", *,
        interrupt: bool = True, about: str | Path | None = None, coherent: bool = False,
    ) -> None:
        self._interrupt, self._coherent = interrupt, coherent
        self._about = self._sysfs(Path(memory)) if about is None else Path(about)
        size, base = self._number("size"), self._number("phys_addr")
        self._places, self._base = Places(base, size), base
        self._device, self._map = self._open(registers, REGISTERS)
        try:
            file, self._memory = self._open(memory, size)
        except DriverError:
            self._map.close()
            os.close(self._device)
            raise
        os.close(file)
        self._words = np.frombuffer(self._map, "<u4")
        self._bytes = np.frombuffer(self._memory, np.uint8)

    @staticmethod
    def _sysfs(memory: Path) -> Path:
        for folder in CLASSES:
            if (found := Path(folder) / memory.name).is_dir():
                return found
        raise DriverError(f"{' and '.join(CLASSES)} have no {memory.name}: load the kernel module "
                          f"u-dma-buf with memory of that name")

    def _number(self, name: str) -> int:
        try:
            return int((self._about / name).read_text(), 0)
        except (OSError, ValueError) as error:
            raise DriverError(f"{self._about / name} does not say a number: {error}") from None

    @staticmethod
    def _open(path: str | Path, size: int) -> tuple[int, mmap.mmap]:
        try:
            file = os.open(path, os.O_RDWR)
        except OSError as error:
            raise DriverError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            return file, mmap.mmap(file, size)
        except (OSError, ValueError) as error:
            os.close(file)
            raise DriverError(f"{size} bytes of {path} cannot be mapped: {error}") from None

    def read32(self, offset: int) -> int:
        return int(self._words[offset // 4])

    def write32(self, offset: int, value: int) -> None:
        self._words[offset // 4] = value

    def allocate(self, size: int) -> Memory:
        address = self._places.take(size)
        begin = address - self._base
        return Memory(address, self._bytes[begin : begin + size])

    def free(self, buffer: Memory) -> None:
        self._places.give(buffer.address, buffer.array.size)

    def _sync(self, buffer: Memory, whom: str) -> None:
        if self._coherent:
            return
        for name, value in (("sync_offset", buffer.address - self._base),
                            ("sync_size", buffer.array.size), ("sync_direction", BOTH_WAYS),
                            (whom, 1)):
            try:
                (self._about / name).write_text(f"{value}")
            except OSError as error:
                raise DriverError(f"{self._about / name} cannot be written: {error.strerror}"
                                  ) from None

    def flush(self, buffer: Memory) -> None:
        self._sync(buffer, "sync_for_device")

    def invalidate(self, buffer: Memory) -> None:
        self._sync(buffer, "sync_for_cpu")

    def wait(self, seconds: float) -> None:
        if not self._interrupt:
            time.sleep(min(seconds, POLL))
            return
        # What was written lets the interrupt through once more; what is read counts them.
        os.write(self._device, (1).to_bytes(4, "little"))
        if select.select([self._device], [], [], seconds)[0]:
            os.read(self._device, 4)

    def clock_mhz(self) -> float | None:
        return None

    def close(self) -> None:
        """Let go of the device; memory that was not given back is kept until nobody uses it."""
        del self._words, self._bytes
        for each in (self._map, self._memory):
            with suppress(BufferError):
                each.close()
        os.close(self._device)
