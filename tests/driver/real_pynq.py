"""The suite through the real pynq, whose device is simulated: ``python -m … BUILD``.

It runs where pynq is installed, which needs a numpy of its own, so there is no hwgen beside it.
"""

from __future__ import annotations

import ctypes
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.driver.model import BASE, SIZE, Model
from tests.driver.suite import check_all

hwgen_driver: Any = import_module("hwgen_driver")
pynq: Any = import_module("pynq")
ADDRESS = 0xA000_0000


class Device(pynq.Device):
    """Registers and memory of a model."""

    capabilities = {"REGISTER_RW": True}

    def __init__(self, model: Model) -> None:
        super().__init__("simulated")
        self.model, self.places = model, import_module("hwgen_driver.places").Places(BASE, SIZE)

    def read_registers(self, address: int, length: int) -> bytes:
        assert length == 4
        return self.model.read32(address - ADDRESS).to_bytes(4, "little")

    def write_registers(self, address: int, data: bytes) -> None:
        assert len(data) == 4
        self.model.write32(address - ADDRESS, int.from_bytes(bytes(data), "little"))

    def allocate(self, shape, dtype, **_) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        try:
            address = self.places.take(size)
        except hwgen_driver.DriverError as error:
            raise RuntimeError(error) from None
        buffer = pynq.buffer.PynqBuffer(
            shape, dtype, device=self, device_address=address, bo=address)
        buffer[:] = 0xEE
        buffer.memory, buffer.return_to, buffer.pointer = self, self, (address, size)
        return buffer

    def return_pointer(self, pointer) -> None:
        """What pynq calls when nobody uses a buffer any more."""
        self.places.give(*pointer)

    def _part(self, bo: int, offset: int, size: int) -> slice:
        return slice(bo - BASE + offset, bo - BASE + offset + size)

    def flush(self, bo: int, offset: int, ptr: int, size: int) -> None:
        self.model.memory[self._part(bo, offset, size)] = ctypes.string_at(ptr, size)

    def invalidate(self, bo: int, offset: int, ptr: int, size: int) -> None:
        ctypes.memmove(ptr, bytes(self.model.memory[self._part(bo, offset, size)]), size)


def main(build: Path) -> None:
    manifest = hwgen_driver.Manifest.load(build)

    def transport():
        model = Model({**manifest.inputs, **manifest.outputs})
        return hwgen_driver.Pynq(address=ADDRESS, device=Device(model)), model

    check_all(hwgen_driver, build, transport)
    print("all is well")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
