"""What a layer may become, with what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.models.compression.decomposition import SCHEMES, Cost, Decomposition, cost
from hwgen.models.compression.layers import FloatLayer

__all__ = ["LayerChoice", "rich_ranks", "ways"]


@dataclass(frozen=True)
class LayerChoice:
    """What a layer may become.

    Members
    -------
    decomposition : what it becomes; None: it stays
    cost : of the layer then
    """

    decomposition: Decomposition | None
    cost: Cost

    @classmethod
    def of(cls, layer: FloatLayer, decomposition: Decomposition | None = None) -> LayerChoice:
        """That way, with its cost for a layer."""
        return cls(decomposition, cost(layer, decomposition))


def ways(
    layer: FloatLayer, *, schemes: Sequence[str] = ("svd_spatial", "svd_last", "svd_first", "cpd"),
    groups: Sequence[int] = (1,), ranks: int = 8, bits: Sequence[int | None] = (None,),
    budget: str = "macs",
) -> list[LayerChoice]:
    """All that makes a layer smaller, the cheapest first; last, the layer itself.

    Parameters
    ----------
    layer : what is to be decomposed
    schemes, groups : tried with each other; what the layer's shape does not allow gives nothing
    ranks : most ranks of each; they are evenly spaced and rich in factors (:func:`rich_ranks`), for
        those can be folded in many ways
    bits : bits of integer factors, for SVD schemes; None: factors are real
    budget : the cost by which ways are in order, ``macs`` or ``parameters``

    Raises
    ------
    :exc:`HwgenError`
        If a scheme is unknown, or there is nothing to choose from.
    """
    if unknown := [scheme for scheme in schemes if scheme not in SCHEMES[:-1]]:
        raise HwgenError(f"Schemes must be of {', '.join(SCHEMES[:-1])}, not {unknown[0]!r}")
    if ranks < 1:
        raise HwgenError(f"There must be 1 or more ranks to choose from, not {ranks!r}")
    found = [LayerChoice.of(layer)]
    for scheme in schemes:
        for count in groups if scheme != "cpd" else (1,):
            most = _most(layer, scheme, count, found[0].cost)
            for rank in rich_ranks(most, ranks):
                for width in bits if scheme != "cpd" else (None,):
                    found.append(
                        LayerChoice.of(layer, Decomposition(scheme, rank, count, bits=width)))
    return sorted(found, key=lambda way: (way.decomposition is None, getattr(way.cost, budget)))


def rich_ranks(most: int, count: int) -> list[int]:
    """Up to ``count`` ranks of at most ``most``, evenly spaced.

    Each is the one nearby that has the most divisors, because it can be folded in the most ways.
    """
    if most < 1:
        return []
    wanted = np.unique(np.rint(np.linspace(0, most, count + 1)[1:]).astype(int))
    reach = max(most // (3 * count), 0)
    found = set()
    for rank in wanted[wanted > 0]:
        near = range(max(rank - reach, 1), min(rank + reach, most) + 1)
        found.add(max(near, key=lambda r: (_divisors(r), -abs(r - rank))))
    return sorted(found)


def _divisors(number: int) -> int:
    return sum(number % k == 0 for k in range(1, number + 1))


def _most(layer: FloatLayer, scheme: str, groups: int, whole: Cost) -> int:
    """The largest rank with which a layer becomes smaller; 0: none."""
    low, high = 0, int(np.prod(layer.shape))
    while low < high:
        rank = (low + high + 1) // 2
        try:
            smaller = cost(layer, Decomposition(scheme, rank, groups)).below(whole)
        except HwgenError:
            smaller = False
        low, high = (rank, high) if smaller else (low, rank - 1)
    return low
