"""Amounts of the resources that the search divides, by name and as columns of arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hwgen.device.cost import Resources

__all__ = [
    "BANDWIDTH", "BRAM18", "DSP", "FF", "LOGIC", "LUT", "MEMORY", "ON_CHIP", "PLENTY", "RESOURCES",
    "URAM", "Amounts", "vector",
]


class Amounts(NamedTuple):
    """An amount of each resource.

    Members
    -------
    dsp, ff, lut : multipliers, flip-flops and LUTs
    bram18, uram : 18 Kb blocks and UltraRAMs
    bandwidth : bytes that go to or come from off-chip memory a frame
    """

    dsp: float = 0.0
    ff: float = 0.0
    lut: float = 0.0
    bram18: float = 0.0
    uram: float = 0.0
    bandwidth: float = 0.0


RESOURCES = Amounts._fields
"""Names of the resources, in the order of the columns of arrays."""

DSP, FF, LUT, BRAM18, URAM, BANDWIDTH = range(len(RESOURCES))
"""Columns of arrays of amounts."""

LOGIC = slice(DSP, LUT + 1)
"""Columns of what logic takes."""

MEMORY = slice(FF, URAM + 1)
"""Columns of what memories on the chip take."""

ON_CHIP = slice(DSP, URAM + 1)
"""Columns of all that the device itself has."""

PLENTY = 1e9
"""As much of a resource as no design needs."""


def vector(resources: Resources) -> np.ndarray:
    """Resources as an array of amounts; they take no bandwidth."""
    return np.array([getattr(resources, name, 0) for name in RESOURCES], float)
