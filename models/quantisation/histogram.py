"""Histograms that grow with their data, and the clipping ranges read from them.

Bins are powers of two wide and start at multiples of their width.  When the data outgrow them,
neighbours merge: that is exact, so one pass over the data suffices (the histogram observers of
PyTorch and onnxruntime interpolate instead, or pass twice).
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Histogram"]

BINS = 2048
"""Most bins of a histogram; half of them at least lie within the data's range."""
CHUNK = 1 << 16
"""Elements that are counted at once: with all that is made of them, they stay in the cache."""
LEAST = -100
"""Least exponent of a bin's width: its inverse is a float32."""
COARSE = 2.0 ** (-np.arange(41) / 4)
"""Shares of the full range that the search for a clipping range tries first, down to 1/1024."""
FINE = 2.0 ** (np.arange(-8, 9) / 32)
"""Factors tried around the best of them."""
ROUNDS = 4
"""Most alternations between the two ends."""


class Histogram:
    """Counts of real values over a range that always holds 0.

    Members
    -------
    low, high : smallest and largest value so far, 0 included
    counts : per bin, the values in it, without those that are exactly 0 (any range holds them)
    exponent : bins are ``2**exponent`` wide
    first : bin ``i`` starts at ``(first + i) * 2**exponent``
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.exponent = LEAST
        self.first = 0
        self.counts = np.zeros(1, np.int64)

    @property
    def edges(self) -> np.ndarray:
        """Where the bins begin and the last one ends, float64."""
        return np.ldexp(np.arange(len(self.counts) + 1) + float(self.first), self.exponent)

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Count finite ``values``, whose smallest and largest are ``low`` and ``high``."""
        self._widen(min(low, self.low), max(high, self.high))
        if self.low == self.high:
            return
        flat = values.reshape(-1)
        flat = flat if flat.itemsize >= 4 else flat.astype(np.float32)
        size = len(self.counts)
        inverse = flat.dtype.type(math.ldexp(1.0, -self.exponent))
        for start in range(0, len(flat), CHUNK):
            part = flat[start : start + CHUNK]
            # Truncation is rounding down, once the first bin is bin 0.
            bins = (part * inverse - self.first).astype(np.intp)
            found = np.bincount(bins, minlength=size)
            # The subtraction may round a value at the very end up to the next bin.
            found[size - 1] += found[size:].sum()
            found[-self.first] -= part.size - np.count_nonzero(part)
            self.counts += found[:size]

    def _widen(self, low: float, high: float) -> None:
        """Make the bins cover ``low`` to ``high``, merging them as often as that needs."""
        if (low, high) == (self.low, self.high):
            return
        exponent = max(self.exponent, math.frexp((high - low) / BINS)[1] - 1)
        while True:
            first = math.floor(math.ldexp(low, -exponent))
            size = math.floor(math.ldexp(high, -exponent)) - first + 1
            if size <= BINS:
                break
            exponent += 1
        places = (np.arange(len(self.counts)) + self.first) >> min(exponent - self.exponent, 62)
        counts = np.zeros(size, np.int64)
        np.add.at(counts, places - first, self.counts)
        self.counts, self.exponent, self.first = counts, exponent, first
        self.low, self.high = low, high

    def percentile(self, percentile: float) -> tuple[float, float]:
        """The range that holds 0, and ``percentile`` % of the values other than 0.

        As many values are cut off below as above, in whole bins.
        """
        if self.low == self.high:
            return self.low, self.high
        tail = self.counts.sum() * (100 - percentile) / 200
        up, down = np.cumsum(self.counts), np.cumsum(self.counts[::-1])[::-1]
        low = self.edges[int(np.argmax(up > tail))]
        high = self.edges[len(down) - int(np.argmax(down[::-1] > tail))]
        return self._within(low, high)

    def least_error(self, bits: int) -> tuple[float, float]:
        """The range with the least expected squared error of an asymmetric quantiser.

        The expectation is over the histogram, taken as constant within each bin (Banner et al.,
        "Post Training 4-Bit Quantization of Convolutional Networks for Rapid-Deployment", 2019,
        section 3, take it over a normal or Laplace density).  The search shrinks both ends
        together first: with few bits one end alone may gain nothing.

        Parameters
        ----------
        bits : of the quantiser, whose range holds 0
        """
        ends = np.array([self.low, self.high])
        if ends[0] == ends[1]:
            return self.low, self.high
        edges, density = self.edges, np.diff(self.counts, prepend=0, append=0)
        edges, density = edges[density != 0], density[density != 0].astype(np.float64)
        full = ends.copy()

        def error(low: np.ndarray, high: np.ndarray) -> np.ndarray:
            return _error(edges, density, *np.broadcast_arrays(low, high), bits)

        def best(end: int, tries: np.ndarray) -> float:
            """The best of some places for one end (as it is included), the other one fixed."""
            pair = [ends[:1], ends[1:]]
            pair[end] = np.append(np.clip(tries, *full), ends[end])
            return pair[end][np.argmin(error(*pair))]

        ends *= COARSE[np.argmin(error(full[0] * COARSE, full[1] * COARSE))]
        for _ in range(ROUNDS):
            before = ends.copy()
            for end in np.flatnonzero(full):
                ends[end] = best(end, full[end] * COARSE)
                ends[end] = best(end, ends[end] * FINE)
            if (ends == before).all():
                break
        return self._within(*ends)

    def _within(self, low: float, high: float) -> tuple[float, float]:
        return max(min(float(low), 0.0), self.low), min(max(float(high), 0.0), self.high)


def _error(
    edges: np.ndarray, density: np.ndarray, low: np.ndarray, high: np.ndarray, bits: int
) -> np.ndarray:
    """Squared error (summed, up to a common factor) of quantisers with ranges ``low .. high``.

    Parameters
    ----------
    edges : float array, shape ``(n,)``; where the density of the values changes
    density : float array, shape ``(n,)``; by how much
    low, high : float arrays, shape ``(k,)``; ``low <= 0 <= high``
    """
    # With u = x / step and r the code it becomes, the error's integral is r / 12 + (u - r)**3 / 3,
    # also beyond the last code: one evaluation per edge gives the exact expectation.
    steps = (1 << bits) - 1
    step = (high - low) / steps
    lowest = np.rint(low / step)[:, None]
    u = edges / step[:, None]
    r = np.clip(np.rint(u), lowest, lowest + steps)
    u -= r
    return step**3 * ((r / 12 + u**3 / 3) @ -density)
