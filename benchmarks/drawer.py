"""Random choices of sizes, codes and scales, as networks have them."""

from __future__ import annotations

import math

import numpy as np

from hwgen.ir import Quantisation, Requantise, TensorType

__all__ = ["Drawer"]


class Drawer:
    """Random choices, for devices with some multiplier."""

    def __init__(self, seed: int, multiplier: str) -> None:
        self.multiplier = multiplier
        self.random = np.random.default_rng(seed)

    def whole(self, low: int, high: int) -> int:
        """A number of a range, both ends included."""
        return int(self.random.integers(low, high + 1))

    def spread(self, low: int, high: int) -> int:
        """A number of a range, its logarithm evenly distributed."""
        return round(math.exp(self.random.uniform(math.log(low), math.log(high))))

    def one(self, *choices):
        """One of some values."""
        return choices[self.whole(0, len(choices) - 1)]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def divisor(self, number: int, most: int) -> int:
        """A divisor that is at most some number."""
        return self.one(*(n for n in range(1, most + 1) if number % n == 0))

    def bits(self) -> int:
        """Mostly 8."""
        return self.one(8, 8, 8, 4)

    def quantisation(self, bits: int) -> Quantisation:
        low = -(1 << (bits - 1))
        return Quantisation(
            float(self.random.uniform(0.02, 0.2)),
            self.one(0, low, self.whole(low, -low - 1)), bits,
        )

    def tensor(self, channels: int = 0, *, most: int = 160, bits: int = 0) -> TensorType:
        channels = channels or self.whole(1, 16) * self.one(1, 4, 8, 16)
        extent = self.spread(5, most)
        return TensorType((extent, extent, channels), self.quantisation(bits or self.bits()))

    def depth(self, least: int) -> int:
        """A queue's: mostly the least with which it works."""
        return least if self.chance(0.5) else max(least, self.spread(4, 600))

    def scales(self, spread: float, count: int, bits: int) -> Requantise:
        """Multipliers that take values of this spread to codes of some bits."""
        middle = 2.0 ** (bits - 1) / max(spread, 1.0) * self.random.uniform(0.5, 1)
        width = self.whole(0, 3)
        return Requantise.from_scale(middle * 2.0 ** self.random.uniform(-width, width, count))
