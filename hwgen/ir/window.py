"""Geometry of a window that slides over the spatial dimensions of a tensor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from hwgen.errors import HwgenError

__all__ = ["Pads", "Window", "pad"]

Pads = tuple[tuple[int, int], ...]
"""Per spatial dimension: pixels added before and after; negative ones are cut off."""


def pad(x: np.ndarray, pads: Pads, fill: int | None) -> np.ndarray:
    """Frames ``(frames, *spatial, channels)`` with pixels added or cut off at their edges.

    Parameters
    ----------
    x : array
    pads : per spatial dimension (before, after)
    fill : value of added pixels; None: that of the nearest pixel of the frame
    """
    grow = ((0, 0), *((max(a, 0), max(b, 0)) for a, b in pads), (0, 0))
    x = np.pad(x, grow, mode="edge") if fill is None else np.pad(x, grow, constant_values=fill)
    cut = tuple(slice(max(-a, 0), n - max(-b, 0))
                for n, (a, b) in zip(x.shape[1:-1], pads, strict=True))
    return x[(slice(None), *cut)]


@dataclass(frozen=True)
class Window:
    """Kernel, stride, padding and dilation.

    Parameters
    ----------
    kernel, stride, dilation : sequences of :class:`int`, one per spatial dimension
    pads : sequence of (before, after), one per spatial dimension
        Negative ones cut pixels off.

    Raises
    ------
    :exc:`HwgenError`
        If ranks differ, or a parameter is out of range.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    pads: Pads = ()
    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        dims = len(self.kernel)
        object.__setattr__(self, "kernel", tuple(map(int, self.kernel)))
        for name in ("stride", "dilation"):
            object.__setattr__(self, name, tuple(map(int, getattr(self, name))) or (1,) * dims)
        pads = tuple((int(a), int(b)) for a, b in self.pads) or ((0, 0),) * dims
        object.__setattr__(self, "pads", pads)
        if not len(self.kernel) == len(self.stride) == len(self.pads) == len(self.dilation):
            raise HwgenError(f"Kernel, stride, pads and dilation must have one rank: {self!r}")
        if any(n < 1 for n in (*self.kernel, *self.stride, *self.dilation)):
            raise HwgenError(f"Kernel, stride and dilation must be positive: {self!r}")

    @property
    def taps(self) -> int:
        """Pixels in a window."""
        return math.prod(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first tap to the last, both included, per dimension."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def output(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Extents of the output for an input of ``spatial`` extents.

        Raises
        ------
        :exc:`HwgenError`
            If the window does not fit.
        """
        if len(spatial) != len(self.kernel):
            raise HwgenError(
                f"A {len(self.kernel)}-dimensional window needs as many spatial dimensions, "
                f"not {tuple(spatial)!r}"
            )
        out = tuple(
            (n + sum(p) - e) // s + 1
            for n, e, s, p in zip(spatial, self.extent, self.stride, self.pads, strict=True)
        )
        if any(n < 1 for n in out):
            raise HwgenError(f"Window {self.kernel!r} does not fit into {tuple(spatial)!r}")
        return out

    def views(self, x: np.ndarray, fill: int | None) -> list[np.ndarray]:
        """Per tap (row-major), the pixels it meets: arrays ``(frames, *output, channels)``."""
        out = self.output(x.shape[1:-1])
        if any(any(p) for p in self.pads):
            x = pad(x, self.pads, fill)
        steps = tuple(zip(self.stride, out, self.dilation, strict=True))
        return [
            x[(slice(None), *(slice(o * d, o * d + s * (n - 1) + 1, s)
                              for o, (s, n, d) in zip(tap, steps, strict=True)))]
            for tap in product(*map(range, self.kernel))
        ]
