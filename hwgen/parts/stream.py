"""Streams: tensors as sequences of beats, rows of integers as words, times of beats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import signed
from amaranth.lib import data, stream

from hwgen.errors import HwgenError
from hwgen.ir.types import TensorType

__all__ = ["StreamType", "in_order", "pack_rows", "unpack_rows"]


def pack_rows(values: np.ndarray, bits: int) -> list[int]:
    """Pack each row of a signed integer matrix ``(rows, n)`` into an integer, element 0 lowest."""
    values = np.ascontiguousarray(values)
    if bits == 8:
        raw = values.astype(np.int8).view(np.uint8)
    elif bits == 16:
        raw = values.astype("<i2").view(np.uint8)
    else:
        split = (values.astype(np.int64)[..., None] >> np.arange(bits)) & 1
        flat = split.reshape(len(values), -1).astype(np.uint8)
        raw = np.packbits(flat, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in raw]


def unpack_rows(rows: Sequence[int], bits: int, count: int) -> np.ndarray:
    """Inverse of :func:`pack_rows`: an int64 matrix ``(rows, count)``."""
    size = (bits * count + 7) // 8
    raw = np.frombuffer(b"".join(int(r).to_bytes(size, "little") for r in rows), np.uint8)
    split = np.unpackbits(raw.reshape(len(rows), size), axis=1, bitorder="little")
    split = split[:, : bits * count].reshape(len(rows), count, bits).astype(np.int64)
    split[..., -1] *= -1
    return (split << np.arange(bits)).sum(-1)


@dataclass(frozen=True)
class StreamType:
    """A tensor as a stream: sites in row-major order, each in ``channels / lanes`` beats.

    A site is one pixel, or several adjacent pixels along the innermost dimension.  Each beat holds
    ``lanes`` channels of all pixels of a site: channel by channel, and for each channel pixel by
    pixel.

    Parameters
    ----------
    tensor : :class:`TensorType`
    lanes : :class:`int`
        Channels per beat; divides the channel count, so a stream carries no phantom channels.
    pixels : :class:`int`
        Pixels per beat; divides the innermost extent.

    Raises
    ------
    :exc:`HwgenError`
        If ``lanes`` does not divide the channels, or ``pixels`` does not divide the innermost
        extent.
    """

    tensor: TensorType
    lanes: int = 1
    pixels: int = 1

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.tensor.channels % self.lanes:
            raise HwgenError(
                f"Lanes must divide the {self.tensor.channels} channels, not {self.lanes!r}"
            )
        extent = self.tensor.spatial[-1] if self.tensor.spatial else 1
        if self.pixels < 1 or extent % self.pixels:
            raise HwgenError(f"Pixels a beat must divide the extent {extent}, not {self.pixels!r}")

    @property
    def elements(self) -> int:
        """Elements per beat."""
        return self.lanes * self.pixels

    @property
    def payload(self) -> data.ArrayLayout:
        """Shape of a beat."""
        return data.ArrayLayout(signed(self.tensor.bits), self.elements)

    @property
    def signature(self) -> stream.Signature:
        """Signature of the port, seen from the producer."""
        return stream.Signature(self.payload)

    @property
    def width(self) -> int:
        """Bits per beat."""
        return self.tensor.bits * self.elements

    @property
    def beats_per_site(self) -> int:
        """Beats per site."""
        return self.tensor.channels // self.lanes

    @property
    def beats(self) -> int:
        """Beats per frame."""
        return self.tensor.size // self.elements

    @cached_property
    def flat(self) -> StreamType:
        """The same beats as a stream of one pixel per beat, with the channels of all its pixels.

        A block that works element by element, or that only moves channels, sees no difference.
        """
        if self.pixels == 1:
            return self
        *outer, inner, channels = self.tensor.shape
        shape = (*outer, inner // self.pixels, channels * self.pixels)
        return StreamType(TensorType(shape, self.tensor.quantisation), self.elements)

    def pack(self, frames: np.ndarray) -> list[int]:
        """Frames ``(frames, *shape)`` as one integer per beat."""
        sites = np.asarray(frames).reshape(-1, self.pixels, self.tensor.channels)
        return pack_rows(sites.swapaxes(1, 2).reshape(-1, self.elements), self.tensor.bits)

    def unpack(self, beats: Sequence[int]) -> np.ndarray:
        """Inverse of :meth:`pack`."""
        flat = unpack_rows(beats, self.tensor.bits, self.elements)
        sites = flat.reshape(-1, self.tensor.channels, self.pixels).swapaxes(1, 2)
        return sites.reshape(-1, *self.tensor.shape).astype(self.tensor.quantisation.dtype)


def in_order(times: np.ndarray, spacing: float = 1, count: int = 1) -> np.ndarray:
    """Earliest times that are not before ``times``, in order, and at least ``spacing`` apart.

    They are those of the max-plus recurrence ``t[j] = max(times[j], t[j-1] + spacing)``.  A spacing
    that is not a whole number is kept on average: runs of ``count`` times take whole cycles.
    """
    if (times[1:] - times[:-1] >= spacing).all():
        return times
    index = np.arange(len(times), dtype=np.int64)
    if spacing == int(spacing):
        ramp = index * int(spacing)
    else:
        run, within = np.divmod(index, count)
        ramp = run * math.ceil(count * spacing) + (within * spacing).astype(np.int64)
    ahead = times - ramp
    np.maximum.accumulate(ahead, out=ahead)
    ahead += ramp
    return ahead
