"""The register map of the shell: what software sees at the AXI4-Lite port.

The first four registers are those that XRT and PYNQ expect of any kernel (UG1393, "Kernel
Interface Requirements"); behind them come the arguments of a run, and from 0x400 on what the
shell says of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "ADDRESS_BITS", "ARGUMENTS", "CONTROL", "ERRORS", "GLOBAL_INTERRUPT", "INTERRUPT_ENABLE",
    "INTERRUPT_STATUS", "RESET", "STATUS", "VERSION", "Argument", "arguments", "status",
]

ADDRESS_BITS = 12
"""Of the AXI4-Lite port: 4 KB."""
CONTROL, GLOBAL_INTERRUPT, INTERRUPT_ENABLE, INTERRUPT_STATUS = 0x00, 0x04, 0x08, 0x0C
ARGUMENTS = 0x10
STATUS = 0x400
VERSION = 1
"""Of this map."""

RESET = "reset"
ERRORS = (
    "frame memory SLVERR", "frame memory DECERR", "frame memory time-out",
    "off-chip memory SLVERR", "off-chip memory DECERR", "off-chip memory time-out",
    "a frame that ended too early", "a frame that ended too late",
)
"""What bit ``k`` of the register ``errors`` says."""

_STATUS = (
    "id_low", "id_high", "version", "errors", RESET, "frames_in", "frames_out", "frame_cycles",
    "input_waits", "input_starves", "output_waits",
)


@dataclass(frozen=True)
class Argument:
    """An argument of a run.

    Members
    -------
    name : such as ``frames`` or ``address_x``
    offset : of its first register
    bits : 32, or 64 for an address, whose low half comes first
    """

    name: str
    offset: int
    bits: int = 32


def arguments(ports: Sequence[str], *, memory: bool, weights: bool) -> list[Argument]:
    """The arguments of a shell, in order.

    Parameters
    ----------
    ports : names of the inputs and then of the outputs whose frames are in memory
    memory : whether the accelerator uses off-chip memory
    weights : whether weights are loaded
    """
    names = [("frames", 32), *((f"address_{port}", 64) for port in ports),
             *((f"stride_{port}", 32) for port in ports)]
    names += [("memory", 64)] * memory + [("weights", 64)] * weights
    return [Argument(name, ARGUMENTS + 8 * k, bits) for k, (name, bits) in enumerate(names)]


def status() -> dict[str, int]:
    """Offsets of the registers from :data:`STATUS` on, by name."""
    return {name: STATUS + 4 * k for k, name in enumerate(_STATUS)}
