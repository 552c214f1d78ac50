"""In how many parts an extent may be taken, and which ways are worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

__all__ = ["divisors", "fold_choices", "undominated"]


def fold_choices(extent: int, step: int = 1) -> np.ndarray:
    """The smallest multiple of ``step`` for each number of folds that an extent can have."""
    lanes = np.arange(step, extent + 1, step)
    folds = -(-extent // lanes)
    return lanes[np.r_[True, folds[1:] < folds[:-1]]]


def divisors(extent: int) -> list[int]:
    """Numbers that divide an extent."""
    return [n for n in range(1, extent + 1) if extent % n == 0]


def undominated(ways: Iterable[tuple]) -> Iterator[tuple]:
    """Ways ``(cycles, cost, …)``, fastest first, each of which costs less than all faster ones."""
    least = None
    for way in sorted(ways):
        if least is None or way[1] < least:
            least = way[1]
            yield way
