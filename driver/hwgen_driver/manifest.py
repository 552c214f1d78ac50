"""``accelerator.json``: what the build says of the hardware, and how frames lie in memory."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DriverError

__all__ = ["Manifest", "Port"]

FILE, FORMAT = "accelerator.json", "hwgen-accelerator-1"


@dataclass(frozen=True)
class Port:
    """An input or an output.

    Members
    -------
    name : its name
    shape : of a frame, channels last
    bits : of a code; codes are signed
    scale, zero_point : a code ``c`` stands for ``scale * (c - zero_point)``
    lanes, pixels : channels and pixels of a beat
    element_bytes : bytes of an element in memory
    frame_bytes, stride : bytes of a frame in memory, and from one to the next
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float
    zero_point: int
    lanes: int
    pixels: int
    element_bytes: int
    frame_bytes: int
    stride: int

    @property
    def dtype(self) -> np.dtype:
        """Type of an element in memory."""
        return np.dtype(f"<i{self.element_bytes}")

    def codes(self, frames: np.ndarray) -> np.ndarray:
        """Codes of frames ``(N, *shape)``: integers are codes, floats are rounded to the nearest.

        Raises
        ------
        :exc:`DriverError`
            If the shape is another, a value is NaN, or a code is out of range.
        """
        frames = np.asarray(frames)
        if frames.shape[1:] != self.shape:
            shape = ", ".join(map(str, self.shape))
            raise DriverError(f"{self.name} takes frames of shape (N, {shape}), channels last, "
                              f"not {frames.shape}")
        low, high = -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        if frames.dtype.kind == "f":
            if np.isnan(frames).any():
                raise DriverError(f"{self.name}: frames hold NaN")
            codes = np.rint(frames / np.float64(self.scale)) + self.zero_point
            return np.clip(codes, low, high).astype(self.dtype)
        if frames.dtype.kind not in "iu":
            raise DriverError(f"{self.name} takes floats or integer codes, not {frames.dtype}")
        if frames.size and not (low <= frames.min() and frames.max() <= high):
            raise DriverError(f"{self.name}: codes must be between {low} and {high}, not "
                              f"{frames.min()} to {frames.max()}")
        return frames.astype(self.dtype)

    def values(self, codes: np.ndarray) -> np.ndarray:
        """What codes stand for, float32."""
        return ((codes.astype(np.int64) - self.zero_point) * self.scale).astype(np.float32)

    @property
    def _sites(self) -> int:
        """Groups of pixels that go together."""
        return math.prod(self.shape[:-1]) // self.pixels

    def pack(self, codes: np.ndarray) -> np.ndarray:
        """Bytes of frames as they lie in memory: uint8 ``(N, stride)``."""
        beats = codes.reshape(len(codes), self._sites, self.pixels, self.shape[-1] // self.lanes,
                              self.lanes)
        flat = np.ascontiguousarray(beats.swapaxes(2, 3)).astype(self.dtype).view(np.uint8)
        out = np.zeros((len(codes), self.stride), np.uint8)
        out[:, : self.frame_bytes] = flat.reshape(len(codes), self.frame_bytes)
        return out

    def unpack(self, raw: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`pack`: codes ``(N, *shape)``, which are no view of what is given."""
        rows = np.ascontiguousarray(raw.reshape(-1, self.stride)[:, : self.frame_bytes])
        beats = rows.view(self.dtype).reshape(
            len(rows), self._sites, self.shape[-1] // self.lanes, self.pixels, self.lanes)
        return np.array(beats.swapaxes(2, 3), order="C").reshape(len(rows), *self.shape)


@dataclass(frozen=True)
class Manifest:
    """All that a build says of its hardware.

    Members
    -------
    folder : where the files of the build are
    data : what ``accelerator.json`` holds
    """

    folder: Path
    data: dict[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Manifest:
        """From a build's directory, or from the file itself.

        Raises
        ------
        :exc:`DriverError`
            If there is no such file, or it is none of this version.
        """
        path = Path(path)
        file = path / FILE if path.is_dir() else path
        try:
            data = json.loads(file.read_text())
        except OSError as error:
            raise DriverError(f"{file} cannot be read ({error.strerror}): build with --shell, and "
                              f"give the output's directory") from None
        except ValueError as error:
            raise DriverError(f"{file} is no JSON: {error}") from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise DriverError(f"{file} is not of the format {FORMAT} that this driver reads")
        return cls(file.parent, data)

    def _ports(self, what: str) -> dict[str, Port]:
        try:
            return {name: Port(name, **{**each, "shape": tuple(each["shape"])})
                    for name, each in self.data[what].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise DriverError(
                f"{self.folder / FILE}: {what} are not as expected ({error})") from None

    @cached_property
    def inputs(self) -> dict[str, Port]:
        """The inputs, in order."""
        return self._ports("inputs")

    @cached_property
    def outputs(self) -> dict[str, Port]:
        """The outputs, in order."""
        return self._ports("outputs")

    @property
    def identification(self) -> int:
        """64 bits that the hardware must show."""
        return int(self.data["identification"], 16)

    def argument(self, name: str) -> tuple[int, int]:
        """Offset and bits of an argument."""
        each = self.data["arguments"][name]
        return each["offset"], each["bits"]

    def register(self, name: str) -> int:
        """Offset of a register that tells something."""
        return self.data["registers"][name]

    def image(self, name: str) -> bytes:
        """A file of the build that memory must hold; empty if there is none."""
        entry = self.data[name]
        path = entry["image"] if isinstance(entry, dict) else entry
        if path is None:
            return b""
        try:
            return (self.folder / path).read_bytes()
        except OSError as error:
            raise DriverError(f"{self.folder / path} cannot be read ({error.strerror}): it belongs "
                              f"to the build") from None
