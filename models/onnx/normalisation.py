"""How images are normalised before a network sees them, as they were in its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import Quantisation

__all__ = ["Normalisation", "codes_of_pixels"]

WHOLE = 1e-3
"""A zero point this near to a whole number is one: the difference is rounding of what was given."""


@dataclass(frozen=True)
class Normalisation:
    """A network takes ``(pixel / 255 - mean) / std`` of each channel.

    Parameters
    ----------
    mean : of each channel, or one for all, of values in 0..1; empty: 0
    std : likewise, a divisor that is positive; empty: 1

    Members
    -------
    mean, std : as many of the one as of the other

    Raises
    ------
    :exc:`HwgenError`
        If a number is not finite, a divisor is not positive, or there are not as many of the one
        as of the other.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        mean, std = (tuple(map(float, values)) for values in (self.mean, self.std))
        if not all(np.isfinite((*mean, *std))) or not all(value > 0 for value in std):
            raise HwgenError(f"Means must be finite, and standard deviations positive as well, not "
                             f"{_listed(mean)} and {_listed(std)}")
        count = max(len(mean), len(std))
        mean, std = mean or (0.0,), std or (1.0,)
        mean, std = (values * count if len(values) == 1 else values for values in (mean, std))
        if len(mean) != len(std):
            raise HwgenError(f"There must be as many means as standard deviations, not "
                             f"{len(mean)} and {len(std)}")
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "std", std)

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return bool(self.mean)

    def __str__(self) -> str:
        return f"mean {_listed(self.mean)} and std {_listed(self.std)}"

    def of(self, channels: int) -> Normalisation:
        """The same for an image of so many channels.

        Raises
        ------
        :exc:`HwgenError`
            If it is that of another number of channels.
        """
        if len(self.mean) not in (1, channels):
            raise HwgenError(f"{len(self.mean)} means and standard deviations do not go with "
                             f"{channels} channels: give one of each, or one for each channel")
        repeats = channels // len(self.mean)
        return Normalisation(self.mean * repeats, self.std * repeats)

    @property
    def range(self) -> tuple[float, float]:
        """What images with values 0..1 become at least and at most."""
        ends = [(end - mean) / std for mean, std in zip(self.mean, self.std, strict=True)
                for end in (0, 1)]
        return min(ends), max(ends)

    def apply(self, images: np.ndarray, axis: int) -> np.ndarray:
        """Images as the network takes them.

        Parameters
        ----------
        images : floats in 0..1
        axis : which axis are the channels

        Returns
        -------
        float32 array of the same shape
        """
        shape = [1] * images.ndim
        shape[axis] = -1
        mean, std = (np.reshape(values, shape) for values in (self.mean, self.std))
        return ((images - mean) / std).astype(np.float32)


def codes_of_pixels(low: float, high: float, bits: int) -> Quantisation:
    """Codes for normalised images, which no pixel exceeds.

    With one code for each of 256 pixels, a zero point of half a code (as mean and std of 0.5 have)
    would round pixels to every other code.  The range is given one code less then.

    Parameters
    ----------
    low, high : values of the darkest and the brightest pixel
    bits : of the codes
    """
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, steps = -(1 << (bits - 1)), (1 << bits) - 1
    scale = float(np.float32((high - low) / steps))
    zero = bottom - low / scale
    if abs(zero - round(zero)) > WHOLE:
        scale = float(np.float32((high - low) / (steps - 1)))
        zero = bottom - low / scale
    return Quantisation(scale, min(round(zero), bottom + steps), bits)


def _listed(values: tuple[float, ...]) -> str:
    """Numbers as the command line takes them."""
    return ",".join(f"{value:g}" for value in values) or "none"
