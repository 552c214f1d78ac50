"""How registers and memory of a device are reached: six calls, which every board carries out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from .errors import DriverError

__all__ = ["Buffer", "Memory", "Transport", "library"]


class Buffer(Protocol):
    """Memory that both sides see.

    Members
    -------
    address : where the device finds it
    array : uint8, what software sees of it
    """

    address: int
    array: np.ndarray


class Transport(Protocol):
    """Registers and memory of a device.

    Every call raises ``DriverError`` if the device cannot be reached.
    """

    def read32(self, offset: int) -> int:
        """A register."""
        ...

    def write32(self, offset: int, value: int) -> None:
        """Write a register."""
        ...

    def allocate(self, size: int) -> Buffer:
        """Memory of ``size`` bytes, at a multiple of 4096."""
        ...

    def flush(self, buffer: Buffer) -> None:
        """Let the device see what software wrote."""
        ...

    def invalidate(self, buffer: Buffer) -> None:
        """Let software see what the device wrote."""
        ...

    def wait(self, seconds: float) -> None:
        """Until the interrupt is up, or for so long, or less: whoever waits looks again."""
        ...

    def free(self, buffer: Buffer) -> None:
        """Give memory back."""
        ...

    def clock_mhz(self) -> float | None:
        """The clock that is really set; None if nobody knows."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


@dataclass
class Memory:
    """A :class:`Buffer`, and what else a transport knows it by."""

    address: int
    array: np.ndarray
    raw: Any = None


def library(name: str, get: str) -> Any:
    """A library that only one transport needs.

    Raises
    ------
    :exc:`DriverError`
        If it is not installed; ``get`` says how to get it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise DriverError(f"This needs {name}, which cannot be imported ({error}): {get}") from None
