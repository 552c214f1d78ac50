"""Dividing a device among the parts of a design: one way to build each, so that all of them fit.

A multiple-choice knapsack with several resources.  Its linear relaxation is solved by column
generation (Gilmore and Gomory, "A linear programming approach to the cutting-stock problem", 1961):
under prices for the resources every part names its cheapest way, a small linear program over the
ways named so far sets new prices, and the prices prove how good a solution can be at all.  As there
are few resources, few parts are divided in its optimum, so a mixed-integer program over the same
ways is close to it.  HiGHS solves both; it is loaded when first used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hwgen.dse.design.amounts import RESOURCES, Amounts
from hwgen.dse.design.table import Column, Consumer

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["WEIGHTS", "Allocation", "Share", "allocate", "fits"]

ROUNDS = 30
"""Linear programs that are solved, at most, to find ways."""
NODE_LIMIT = 500
"""Nodes of the tree of a mixed-integer program.  Not seconds: results would depend on the machine.
"""
GAP = 2e-3
"""How far from the optimum a mixed-integer program may end, as a share."""
NEAR = np.array([0.7, 0.85, 1.2, 1.5])
"""Times the price of a resource at the optimum, where ways near it are looked for."""
WEIGHTS = np.array(Amounts(dsp=1, ff=0, lut=2, bram18=1, uram=0.5, bandwidth=0.5), float)
"""What a share of each resource counts where there is a choice: LUTs are left free for routing, and
flip-flops come with them."""
MISSING = 100.0
"""What a share of a resource counts that a board does not have."""


@dataclass(frozen=True)
class Allocation:
    """A way for every part.

    Members
    -------
    columns : the ways, by the names of the parts
    takes : amounts that they take together, shape ``(resources,)``
    """

    columns: dict[str, Column]
    takes: np.ndarray


class Share(NamedTuple):
    """How scarce resources are.

    Members
    -------
    share : of the scarcest resource, what parts need of it against what there is, were they
        divisible; infinite: some part is never as fast
    prices : of each resource, the prices that prove it, shape ``(resources,)``
    """

    share: float
    prices: np.ndarray


class _Named(NamedTuple):
    """A way that was named: the index of its part, what the table calls it, what it takes."""

    part: int
    way: Any
    takes: np.ndarray


class _Master:
    """The ways named so far, and the programs over them."""

    def __init__(self, parts: Sequence[Consumer], have: np.ndarray) -> None:
        self.parts = parts
        self.have = np.maximum(have, 1e-3)
        self.ways: list[_Named] = []
        self._named: set[tuple[int, Any]] = set()
        self._known: set[tuple[int, bytes]] = set()

    def name(self, *prices: np.ndarray) -> tuple[np.ndarray, bool]:
        """Let every part name its cheapest way, for each of some prices.

        Returns
        -------
        costs, new
            What these ways cost together, for each of the prices; and whether one is new.
        """
        tables = dict.fromkeys(part.table for part in self.parts)
        cheapest = {table: table.cheapest(np.stack(prices)) for table in tables}
        named = [cheapest[part.table] for part in self.parts]
        known = len(self.ways)
        for n in range(len(prices)):
            for k, found in enumerate(named):
                way = found.ways[n]
                if (k, way) in self._named:
                    continue
                self._named.add((k, way))
                takes = self.parts[k].table.takes(way)
                if (k, takes.tobytes()) not in self._known:
                    self._known.add((k, takes.tobytes()))
                    self.ways.append(_Named(k, way, takes))
        return self.counts @ [found.costs for found in named], len(self.ways) > known

    def takes(self) -> np.ndarray:
        """The amounts that ways take, shape ``(resources, ways)``."""
        return np.array([named.takes for named in self.ways]).T

    def column(self, n: int) -> Column:
        """All about a way."""
        named = self.ways[n]
        return self.parts[named.part].table.column(named.way)

    def members(self, more: int = 0) -> csr_array:
        """Which part each way belongs to, shape ``(parts, ways + more)``; the last ``more`` columns
        belong to none."""
        from scipy.sparse import csr_array

        owner = [named.part for named in self.ways]
        count = len(owner)
        return csr_array(
            (np.ones(count), (owner, np.arange(count))), (len(self.parts), count + more)
        )

    @property
    def counts(self) -> np.ndarray:
        """How often each part is built."""
        return np.array([len(part.names) for part in self.parts], float)


def _share(master: _Master) -> Share:
    """The share of the scarcest resource with the ways named so far."""
    from scipy.optimize import linprog

    takes = master.takes() / master.have[:, None]
    count = takes.shape[1]
    result = linprog(
        np.r_[np.zeros(count), 1],
        A_ub=np.c_[takes, -np.ones(len(takes))], b_ub=np.zeros(len(takes)),
        A_eq=master.members(1),
        b_eq=master.counts, method="highs",
    )
    prices = np.maximum(-result.ineqlin.marginals, 0)
    return Share(float(result.fun), prices / max(prices.sum(), 1e-12) / master.have)


def fits(
    parts: Sequence[Consumer], have: np.ndarray, interval: int, exact: bool = False,
    prices: np.ndarray | None = None,
) -> Share:
    """How scarce resources are for some parts.

    Stops as soon as it is known whether the share is at most 1, unless ``exact``.

    Parameters
    ----------
    parts : what is to be built
    have : amounts that there are, shape ``(resources,)``
    interval : cycles a frame, at most
    exact : find the share, however large or small
    prices : a guess, in any unit
    """
    master = _Master(parts, have)
    prices = 1 / master.have if prices is None else prices
    prices = prices / (prices @ master.have)
    if not parts:
        return Share(0.0, prices)
    if not all(part.table.limit(interval) for part in parts):
        return Share(np.inf, prices)
    share = np.inf
    for _ in range(ROUNDS):
        (least,), new = master.name(prices)
        if not exact and least > 1 + 1e-9:
            return Share(float(least), prices)
        if not new:
            break
        share, prices = _share(master)
        if not exact and share <= 1:
            break
    return Share(share, prices)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what HiGHS prints past Python, now and then, though it is told not to."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def allocate(
    parts: Sequence[Consumer], have: np.ndarray, interval: int, latency: bool = False,
    weights: np.ndarray = WEIGHTS,
) -> Allocation | None:
    """A way to build every part with as little as possible; None: there is none.

    Parameters
    ----------
    parts, have, interval : see :func:`fits`
    latency : rather with as few cycles as possible, whatever it takes
    weights : what a share of each resource counts, shape ``(resources,)``
    """
    if not parts:
        return Allocation({}, np.zeros(len(RESOURCES)))
    master = _Master(parts, have)
    if not all(part.table.limit(interval) for part in parts):
        return None
    weights = weights / master.have
    prices = _name_all(master, weights)
    # Ways near the optimum, for the mixed-integer program to choose from.
    near = np.tile(prices, (len(NEAR), len(prices), 1))
    for k in range(len(prices)):
        near[:, k, k] *= NEAR
    master.name(*near.reshape(-1, len(prices)))
    takes = master.takes()
    cost = weights @ takes
    if latency:
        cycles = np.array([master.column(n).cycles for n in range(len(cost))])
        cost = cycles / interval + 1e-3 * cost
    counts = _whole(master, takes, cost)
    if counts is None:
        return None
    chosen: dict[str, Column] = {}
    left = [list(part.names) for part in parts]
    for n in np.flatnonzero(counts):
        names, column = left[master.ways[n].part], master.column(n)
        for _ in range(int(counts[n])):
            chosen[names.pop(0)] = column
    return Allocation(chosen, takes @ counts)


def _name_all(master: _Master, weights: np.ndarray) -> np.ndarray:
    """Name ways until none is missing in the optimum; returns its prices.

    ``weights`` are what resources count, and so the prices at first.
    """
    from scipy.optimize import linprog

    prices, size = weights, len(RESOURCES)
    for _ in range(ROUNDS):
        _, new = master.name(prices)
        if not new:
            break
        takes = master.takes()
        # What is missing may be bought, so that there always is a solution.
        result = linprog(
            np.r_[weights @ takes, np.full(size, MISSING)],
            A_ub=np.c_[takes / master.have[:, None], -np.eye(size)], b_ub=np.ones(size),
            A_eq=master.members(size),
            b_eq=master.counts, method="highs",
        )
        prices = weights - result.ineqlin.marginals / master.have
    return prices


def _whole(master: _Master, takes: np.ndarray, cost: np.ndarray) -> np.ndarray | None:
    """How often each way is built, in whole numbers, with the least cost; None: nothing fits.

    Parameters
    ----------
    takes : amounts that the ways take, shape ``(resources, ways)``
    cost : of each way, shape ``(ways,)``
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    with _silent():
        result = milp(
            cost / max(cost.max(), 1e-12), integrality=np.ones(takes.shape[1]),
            bounds=Bounds(0, np.inf),
            constraints=[
                # As shares, for the solver's tolerances.
                LinearConstraint(takes / master.have[:, None], -np.inf, np.ones(len(RESOURCES))),
                LinearConstraint(master.members(), master.counts, master.counts),
            ],
            options={"node_limit": NODE_LIMIT, "mip_rel_gap": GAP},
        )
    return None if result.x is None else np.rint(result.x)
