"""Alveo cards, and boards with XRT: the C interface of the Xilinx Runtime.

XRT's own Python module (pyxrt) reaches no registers, so what is used is its library
(``xrt_device.h``, ``xrt_kernel.h``, ``xrt_bo.h``).
"""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DriverError
from .transport import Memory

__all__ = ["LIBRARY", "Xrt"]

LIBRARY = "libxrt_coreutil.so.2"
POLL = 200e-6
"""Seconds from one look at the registers to the next."""
TO_DEVICE, FROM_DEVICE = 0, 1
NORMAL = 0
"""Flags of memory that both sides have a copy of."""
FIRST_ADDRESS = 1
"""Number of the first argument that is an address, behind the number of frames."""

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "xrtDeviceOpen": (c_void_p, [c_uint32]),
    "xrtDeviceClose": (c_int, [c_void_p]),
    "xrtDeviceLoadXclbinFile": (c_int, [c_void_p, c_char_p]),
    "xrtDeviceGetXclbinUUID": (None, [c_void_p, c_char_p]),
    "xrtPLKernelOpenExclusive": (c_void_p, [c_void_p, c_char_p, c_char_p]),
    "xrtKernelClose": (c_int, [c_void_p]),
    "xrtKernelArgGroupId": (c_int, [c_void_p, c_int]),
    "xrtKernelReadRegister": (c_int, [c_void_p, c_uint32, POINTER(c_uint32)]),
    "xrtKernelWriteRegister": (c_int, [c_void_p, c_uint32, c_uint32]),
    "xrtBOAlloc": (c_void_p, [c_void_p, c_size_t, c_uint64, c_uint32]),
    "xrtBOFree": (c_int, [c_void_p]),
    "xrtBOMap": (c_void_p, [c_void_p]),
    "xrtBOAddress": (c_uint64, [c_void_p]),
    "xrtBOSync": (c_int, [c_void_p, c_int, c_size_t, c_size_t]),
}
"""What is called, with the types of its result and of its arguments."""


class Xrt:
    """A kernel of XRT as a transport.

    Parameters
    ----------
    xclbin : file for the device
    kernel : name of the kernel, or ``kernel:{instance}``
    device : number of the device
    bank : number of the bank of memory; default: that of the kernel's first address
    library : XRT's library, or where it is

    Raises
    ------
    :exc:`DriverError`
        If XRT is not installed, or does not open the device, the file or the kernel.
    """

    def __init__(
        self, xclbin: str | Path, kernel: str = "accelerator", *, device: int = 0,
        bank: int | None = None, library: Any = LIBRARY,
    ) -> None:
        if not Path(xclbin).is_file():
            raise DriverError(f"There is no xclbin {xclbin}")
        self._xrt = xrt = self._load(library) if isinstance(library, str) else library
        self._kernel: Any = None
        self._device = xrt.xrtDeviceOpen(device)
        if not self._device:
            raise DriverError(f"XRT does not open device {device}: see `xrt-smi examine`")
        try:
            self._check(xrt.xrtDeviceLoadXclbinFile(self._device, str(xclbin).encode()),
                        f"load {xclbin}")
            identity = ctypes.create_string_buffer(16)
            xrt.xrtDeviceGetXclbinUUID(self._device, identity)
            self._kernel = xrt.xrtPLKernelOpenExclusive(self._device, identity, kernel.encode())
            if not self._kernel:
                raise DriverError(f"XRT does not open the kernel {kernel} for registers: it is not "
                                  f"in {xclbin}, or another process has it")
            self._bank: int = bank if bank is not None else xrt.xrtKernelArgGroupId(
                self._kernel, FIRST_ADDRESS)
            if self._bank < 0:
                raise DriverError(f"XRT does not know the memory of {kernel}: give its bank")
        except DriverError:
            self.close()
            raise

    @staticmethod
    def _load(name: str) -> Any:
        try:
            library = ctypes.CDLL(name)
            for function, (result, arguments) in FUNCTIONS.items():
                found = getattr(library, function)
                found.restype, found.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise DriverError(f"This needs XRT, whose {name} cannot be used ({error}): install "
                              f"xrt, and `source /opt/xilinx/xrt/setup.sh`") from None
        return library

    @staticmethod
    def _check(status: int, what: str) -> None:
        if status:
            raise DriverError(f"XRT does not {what}: error {status}")

    def read32(self, offset: int) -> int:
        value = c_uint32()
        self._check(self._xrt.xrtKernelReadRegister(self._kernel, offset, ctypes.byref(value)),
                    f"read register {offset:#x}")
        return value.value

    def write32(self, offset: int, value: int) -> None:
        self._check(self._xrt.xrtKernelWriteRegister(self._kernel, offset, value),
                    f"write register {offset:#x}")

    def allocate(self, size: int) -> Memory:
        handle = self._xrt.xrtBOAlloc(self._device, size, NORMAL, self._bank)
        place = self._xrt.xrtBOMap(handle) if handle else None
        if not handle or not place:
            raise DriverError(f"XRT has no memory for {size} bytes in bank {self._bank}: run fewer "
                              f"frames at once")
        array = np.frombuffer((ctypes.c_uint8 * size).from_address(place), np.uint8)
        return Memory(self._xrt.xrtBOAddress(handle), array, handle)

    def free(self, buffer: Memory) -> None:
        buffer.array = np.zeros(0, np.uint8)
        self._check(self._xrt.xrtBOFree(buffer.raw), "take memory back")

    def flush(self, buffer: Memory) -> None:
        self._check(self._xrt.xrtBOSync(buffer.raw, TO_DEVICE, buffer.array.size, 0),
                    "copy to the device")

    def invalidate(self, buffer: Memory) -> None:
        self._check(self._xrt.xrtBOSync(buffer.raw, FROM_DEVICE, buffer.array.size, 0),
                    "copy from the device")

    def wait(self, seconds: float) -> None:
        time.sleep(min(seconds, POLL))

    def clock_mhz(self) -> float | None:
        return None

    def close(self) -> None:
        """Let go of the device; what it holds stays."""
        if self._kernel:
            self._xrt.xrtKernelClose(self._kernel)
        if self._device:
            self._xrt.xrtDeviceClose(self._device)
        self._kernel = self._device = None
