"""Alveo cards: the Xilinx Runtime, through ``xrt.cpp``, which is compiled where XRT is.

The accelerator is a user-managed kernel, whose registers only ``xrt::ip`` reaches.  XRT's Python
module has nothing of the kind.
"""

from __future__ import annotations

import ctypes
import time
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DriverError
from .transport import Memory

__all__ = ["LIBRARY", "SOURCE", "Xrt"]

SOURCE = Path(__file__).with_name("xrt.cpp")
LIBRARY = SOURCE.with_name("libhwgen_xrt.so")
COMMAND = (f"g++ -std=c++17 -O2 -shared -fPIC {SOURCE} -o {LIBRARY} -I$XILINX_XRT/include "
           f"-L$XILINX_XRT/lib -lxrt_coreutil")
POLL = 200e-6
"""Seconds from one look at the registers to the next."""

FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "error": (c_char_p, []),
    "open": (c_int, [c_char_p, c_char_p, c_char_p, POINTER(c_void_p)]),
    "close": (None, [c_void_p]),
    "read": (c_int, [c_void_p, c_uint32, POINTER(c_uint32)]),
    "write": (c_int, [c_void_p, c_uint32, c_uint32]),
    "allocate": (c_int, [c_void_p, c_size_t, c_uint32, POINTER(c_void_p), POINTER(c_uint64),
                         POINTER(c_void_p)]),
    "free": (None, [c_void_p]),
    "sync": (c_int, [c_void_p, c_int]),
}
"""What ``xrt.cpp`` has, with the types of results and arguments."""


class Xrt:
    """A user-managed kernel of XRT as a transport.

    Parameters
    ----------
    xclbin : file for the device
    kernel : name of the kernel, or ``kernel:{instance}``
    device : number of the device, or its place on the bus, such as ``0000:c1:00.1``
    bank : number of the bank of memory that the kernel's ports reach
    library : what ``xrt.cpp`` was compiled to

    Raises
    ------
    :exc:`DriverError`
        If the library is not there, or XRT does not open the device, the file or the kernel.
    """

    def __init__(
        self, xclbin: str | Path, kernel: str = "top", *, device: int | str = 0, bank: int = 0,
        library: str | Path = LIBRARY,
    ) -> None:
        if not Path(xclbin).is_file():
            raise DriverError(f"There is no xclbin {xclbin}")
        self._bank, self._library, self._opened = bank, self._load(library), c_void_p()
        self._call("open", f"open {kernel} of {xclbin} on device {device}", str(device).encode(),
                   str(xclbin).encode(), kernel.encode(), byref(self._opened))

    @staticmethod
    def _load(path: str | Path) -> Any:
        try:
            library = ctypes.CDLL(str(path))
            for name, (result, arguments) in FUNCTIONS.items():
                function = getattr(library, f"hwgen_xrt_{name}")
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise DriverError(f"This needs XRT and what makes it known to Python ({error}): where "
                              f"XRT is set up, run {COMMAND}") from None
        return library

    def _call(self, name: str, what: str, *arguments: Any) -> None:
        if getattr(self._library, f"hwgen_xrt_{name}")(*arguments):
            said = self._library.hwgen_xrt_error().decode(errors="replace")
            raise DriverError(f"XRT does not {what}: {said}")

    def read32(self, offset: int) -> int:
        value = c_uint32()
        self._call("read", f"read register {offset:#x}", self._opened, offset, byref(value))
        return value.value

    def write32(self, offset: int, value: int) -> None:
        self._call("write", f"write register {offset:#x}", self._opened, offset, value)

    def allocate(self, size: int) -> Memory:
        handle, address, place = c_void_p(), c_uint64(), c_void_p()
        self._call("allocate", f"give {size} bytes of bank {self._bank}", self._opened, size,
                   self._bank, byref(handle), byref(address), byref(place))
        assert place.value is not None
        array = np.frombuffer((ctypes.c_uint8 * size).from_address(place.value), np.uint8)
        return Memory(address.value, array, handle)

    def free(self, buffer: Memory) -> None:
        buffer.array = np.zeros(0, np.uint8)
        self._library.hwgen_xrt_free(buffer.raw)

    def flush(self, buffer: Memory) -> None:
        self._call("sync", "copy to the device", buffer.raw, 0)

    def invalidate(self, buffer: Memory) -> None:
        self._call("sync", "copy from the device", buffer.raw, 1)

    def wait(self, seconds: float) -> None:
        time.sleep(min(seconds, POLL))

    def clock_mhz(self) -> float | None:
        return None

    def close(self) -> None:
        """Let go of the device; what it holds stays."""
        self._library.hwgen_xrt_close(self._opened)
        self._opened = c_void_p()
