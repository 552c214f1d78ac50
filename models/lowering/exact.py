"""Requantisation that equals real arithmetic at every sum that a layer can have.

Where a file states integers on both sides of a layer, its scales, biases and normalisations only
decide at which sum the result becomes the next code.  These *thresholds* are whole numbers, so a
multiplier and an offset of finitely many bits can meet all of them (FINN compares with thresholds
in hardware: Umuroglu et al., "FINN: A Framework for Fast, Scalable Binarized Neural Network
Inference", 2017; a line through them takes one multiplier whatever their number).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hwgen.ir import Quantisation, Requantise
from hwgen.ir.requantise import MAX_BITS, MAX_SHIFT

__all__ = ["LARGEST_BIAS", "Exact", "exact_requantise", "sign_requantise"]

LARGEST_BIAS = 1 << 30
"""Largest bias: with the sum of products it still fits 32 bits, which ONNX has for both."""
PRODUCT_BITS = 53
"""Bits of a product that a double holds: integer ONNX requantises in those."""
NEAR = 8
"""Multipliers on each side of the nearest one that are tried."""
SNAP = 1e-13
"""A value nearer to a tie than this is one: the difference is rounding of the file's own scales."""


@dataclass(frozen=True)
class Exact:
    """Integer biases, added to sums, and what makes codes of them.

    Members
    -------
    bias : int64 array, shape ``(C,)``
    requantise : :class:`Requantise`
    exact : whether every possible sum gets its right code
    """

    bias: np.ndarray
    requantise: Requantise
    exact: bool


def _snapped(values: np.ndarray) -> np.ndarray:
    """Round the values that all but are whole or half numbers."""
    halves = np.rint(2 * values)
    return np.where(abs(2 * values - halves) <= SNAP * np.maximum(1, abs(halves)), halves / 2,
                    values)


def _thresholds(
    ratio: np.ndarray, shift: np.ndarray, low: np.ndarray, high: np.ndarray, levels: np.ndarray
) -> np.ndarray:
    """The first sum of ``low..high`` that reaches each level, ``high + 1`` if none does."""
    low, high, ratio, shift = (a[:, None] for a in (low, high, ratio, shift))
    near = np.clip((levels - 0.5 - shift) / ratio, low - 2.0, high + 2.0)
    first = np.floor(near).astype(np.int64) - 1
    found = np.full(near.shape, np.iinfo(np.int64).max)
    for k in (3, 2, 1, 0):
        reached = np.rint(_snapped((first + k) * ratio + shift)) >= levels
        found = np.where(reached, first + k, found)
    return np.clip(found, low, high + 1)


def _offsets(
    multiplier: np.ndarray, power: np.ndarray, first: np.ndarray, low: np.ndarray,
    high: np.ndarray, levels: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest offset with which all thresholds are met; if crossed, there is none.

    A tie goes to the even one of two codes.
    """
    odd = levels & 1
    at = (2 * levels - 1) << (power - 1)[:, None]
    reach = at + odd - multiplier[:, None] * first
    stay = at + odd - 1 - multiplier[:, None] * (first - 1)
    most = np.int64(1) << 60
    return (np.where(first <= high[:, None], reach, -most).max(1, initial=-most),
            np.where(first > low[:, None], stay, most).min(1, initial=most))


def exact_requantise(
    ratio: np.ndarray, shift: np.ndarray, low: np.ndarray, high: np.ndarray,
    output: Quantisation, bits: int,
) -> Exact:
    """Biases and requantisation with the codes ``clamp(zp + round(ratio * sum + shift))``.

    Parameters
    ----------
    ratio : float array, shape ``(C,)``
        Steps of the output for a step of the sum; positive.
    shift : float array, shape ``(C,)``
        In steps of the output.
    low, high : int64 arrays, shape ``(C,)``
        Smallest and largest sum of products that the channel can have.
    output : its codes
    bits : fewest of a multiplier

    Returns
    -------
    :class:`Exact`
        The multipliers have the fewest bits that meet all thresholds, and an offset only if they
        need one.
    """
    levels = np.arange(output.low + 1, output.high + 1, dtype=np.int64) - output.zero_point
    first = _thresholds(ratio, shift, low, high, levels)
    largest = int(max(abs(low).max(), abs(high).max(), 1)).bit_length()
    most = min(MAX_BITS, PRODUCT_BITS - 1 - largest)
    widths = sorted({min(w, most) for w in (bits, 17, 24, 26, most) if w >= bits})
    best = None
    for width in widths:
        best = _fitted(ratio, shift, first, low, high, levels, max(width, 12), output)
        if best.exact:
            break
    assert best is not None
    return best


def _fitted(
    ratio: np.ndarray, shift: np.ndarray, first: np.ndarray, low: np.ndarray, high: np.ndarray,
    levels: np.ndarray, width: int, output: Quantisation,
) -> Exact:
    """The best that multipliers of so many bits can do."""
    _, exponent = np.frexp(ratio)
    power = np.clip(width - exponent, 1, min(MAX_SHIFT, PRODUCT_BITS - 1 - output.bits))
    top = (1 << width) - 1
    nearest = np.clip(np.rint(np.ldexp(np.minimum(ratio, 2.0**width), power)), 1, top)
    nearest = nearest.astype(np.int64)
    multiplier = nearest.copy()
    least, most = _offsets(multiplier, power, first, low, high, levels)
    for k in range(1, NEAR + 1):
        for step in (k, -k):
            todo = np.flatnonzero(least > most)
            if not len(todo):
                break
            other = np.clip(nearest[todo] + step, 1, top)
            a, b = _offsets(other, power[todo], first[todo], low[todo], high[todo], levels)
            good = a <= b
            multiplier[todo[good]] = other[good]
            least[todo[good]], most[todo[good]] = a[good], b[good]
    met = least <= most
    wanted = np.rint(np.clip(np.ldexp(shift, power), -(2.0**58), 2.0**58)).astype(np.int64)
    offset = np.where(met, np.clip(wanted, least, np.maximum(least, most)), wanted)
    # Whole steps of the sum need no offset; nor does a channel that some of them suit.
    whole = most // multiplier
    offset = np.where(met & (whole * multiplier >= least) & (abs(whole) <= LARGEST_BIAS),
                      whole * multiplier, offset)
    bias = np.clip(offset // multiplier, -LARGEST_BIAS, LARGEST_BIAS)
    return Exact(bias, Requantise(multiplier, power, width, offset - bias * multiplier),
                 bool(met.all()))


def sign_requantise(
    shift: np.ndarray, low: np.ndarray, high: np.ndarray, zero: int
) -> tuple[np.ndarray, Requantise]:
    """Biases and requantisation that keep the sign of ``sum + shift`` alone, in two bits.

    Parameters
    ----------
    shift : float array, shape ``(C,)``
        In steps of the sum.
    low, high : see :func:`exact_requantise`
    zero : what 0 counts as: 1 for a positive number, -1 for a negative one, 0 for neither
    """
    shift = _snapped(np.clip(shift, -high - 2.0, -low + 2.0))
    if zero:
        bias = np.floor(shift) if zero > 0 else np.ceil(shift)
        return bias.astype(np.int64), Requantise.from_scale(np.ones(len(shift)), 12)
    bias = np.floor(shift)
    ones = np.ones(len(shift), np.int64)
    # Twice the sum, and one more if it lies between two whole numbers.
    return bias.astype(np.int64), Requantise(4 * ones, ones, 12, 2 * (shift > bias))
