"""As much of the module ``pynq`` as the driver uses, over a model of the hardware."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import numpy as np

from tests.driver.model import BASE, SIZE, STATUS, Model

__all__ = ["fake_pynq"]

IP, ADDRESS = "accelerator_0", 0xA000_0000


class Buffer(np.ndarray):
    """An array that the device has a copy of."""

    model: Model
    device_address: int

    def _part(self) -> slice:
        return slice(self.device_address - BASE, self.device_address - BASE + self.nbytes)

    def flush(self) -> None:
        self.model.memory[self._part()] = self.tobytes()

    def invalidate(self) -> None:
        self[:] = np.frombuffer(bytes(self.model.memory[self._part()]), np.uint8)


def fake_pynq(model: Model, *, interrupt: bool = False) -> Any:
    """The module; its overlay has the accelerator, and an interrupt if that is asked for."""
    # Memory is handed out round and round, because pynq takes it back by itself.
    place = 0

    def allocate(shape: tuple[int, ...], dtype: Any, target: Any = None) -> Buffer:
        nonlocal place
        (size,) = shape
        whole = -(-size // 4096) * 4096
        if whole > SIZE // 8:
            raise RuntimeError("no memory")
        if not place:
            # The first one is that of the weights, which stays.
            begin, place = 0, 4096
        else:
            place = place if place + whole <= SIZE else 4096
            begin, place = place, place + whole
        made = np.full(shape, 0xEE, dtype).view(Buffer)
        made.model, made.device_address = model, BASE + begin
        return made

    class Mmio:
        def __init__(self, address: int, length: int, device: Any = None) -> None:
            assert (address, length) == (ADDRESS, 4096)
            self.read, self.write = model.read32, model.write32

    class Overlay:
        def __init__(self, name: str, device: Any = None) -> None:
            self.ip_dict = {IP: {"phys_addr": ADDRESS}}
            self.interrupt_pins = {f"{IP}/interrupt": {}} if interrupt else {}

    class Interrupt:
        def __init__(self, name: str) -> None:
            assert name == f"{IP}/interrupt"

        async def wait(self) -> None:
            while not model.words[STATUS]:
                await asyncio.sleep(1e-3)

    class Clocks:
        fclk0_mhz = 99.5

    fake: Any = ModuleType("pynq")
    fake.allocate, fake.MMIO, fake.Overlay = allocate, Mmio, Overlay
    fake.Interrupt, fake.Clocks = Interrupt, Clocks
    return fake
