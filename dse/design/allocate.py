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
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hwgen.dse.design.foldings import RESOURCES, Column

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Allocation", "Part", "Table", "allocate", "fits"]

ROUNDS = 30
NODE_LIMIT = 500
"""Nodes of the tree of a mixed-integer program.  Not seconds: results would depend on the machine.
"""
GAP = 2e-3
NEAR = np.array([0.7, 0.85, 1.2, 1.5])
"""Times the price of a resource at the optimum, where ways near it are looked for."""
WEIGHTS = np.array([1.0, 0.0, 2.0, 1.0, 0.5, 0.5])
"""What a share of each resource counts where there is a choice: LUTs are left free for routing, and
flip-flops come with them."""


class Table(Protocol):
    """The ways to build something."""

    def limit(self, interval: int) -> int:
        """Drop those that take more than an interval; the most cycles that any other takes.

        They are the same ones for all intervals from that on; 0: none is left.
        """
        ...

    def cheapest(self, prices: np.ndarray) -> tuple[list[Any], np.ndarray]:
        """For each row of prices, the cheapest way, and its cost.

        Prices are those of :data:`hwgen.dse.design.foldings.RESOURCES`.
        """
        ...

    def takes(self, way: Any) -> np.ndarray:
        """What a way takes of each of them."""
        ...

    def column(self, way: Any) -> Column:
        """All of a way, which is more than is looked at for most."""
        ...


@dataclass(frozen=True)
class Part:
    """Something to be built, perhaps several times.

    Members
    -------
    names : of those that are to be built
    table : the ways to build each
    """

    names: tuple[str, ...]
    table: Table


@dataclass(frozen=True)
class Allocation:
    """A way for every part, by name, and what they take together."""

    columns: dict[str, Column]
    takes: np.ndarray


class _Master:
    """The ways named so far, and the programs over them."""

    def __init__(self, parts: Sequence[Part], have: np.ndarray) -> None:
        self.parts = parts
        self.have = np.maximum(have, 1e-3)
        self.ways: list[tuple[int, Any, np.ndarray]] = []
        """The part, its way, and what that takes."""
        self._named: set[tuple[int, Any]] = set()
        self._known: set[tuple[int, bytes]] = set()

    def name(self, *prices: np.ndarray) -> tuple[np.ndarray, bool]:
        """Let every part name its cheapest way, for each of some prices.

        What these cost together, for each of the prices; and whether there is a new one.
        """
        tables = dict.fromkeys(part.table for part in self.parts)
        cheapest = {table: table.cheapest(np.stack(prices)) for table in tables}
        named = [cheapest[part.table] for part in self.parts]
        known = len(self.ways)
        for n in range(len(prices)):
            for k, (ways, _) in enumerate(named):
                if (k, ways[n]) in self._named:
                    continue
                self._named.add((k, ways[n]))
                takes = self.parts[k].table.takes(ways[n])
                if (k, takes.tobytes()) not in self._known:
                    self._known.add((k, takes.tobytes()))
                    self.ways.append((k, ways[n], takes))
        return self.counts @ [costs for _, costs in named], len(self.ways) > known

    def takes(self) -> np.ndarray:
        """Of each resource, each way."""
        return np.array([takes for _, _, takes in self.ways]).T

    def column(self, n: int) -> Column:
        """All of a way."""
        k, way, _ = self.ways[n]
        return self.parts[k].table.column(way)

    def members(self, more: int = 0) -> csr_array:
        """Which part each way belongs to; and ``more`` columns that belong to none."""
        from scipy.sparse import csr_array

        owner = [k for k, _, _ in self.ways]
        count = len(owner)
        return csr_array(
            (np.ones(count), (owner, np.arange(count))), (len(self.parts), count + more)
        )

    @property
    def counts(self) -> np.ndarray:
        """How often each part is built."""
        return np.array([len(part.names) for part in self.parts], float)


def _share(master: _Master) -> tuple[float, np.ndarray]:
    """Smallest largest share of any resource, and the prices that prove it."""
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
    return float(result.fun), prices / max(prices.sum(), 1e-12) / master.have


def fits(
    parts: Sequence[Part], have: np.ndarray, interval: int, exact: bool = False,
    prices: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """The share of the scarcest resource that parts need, were they divisible; and the prices.

    Stops as soon as it is known to be at most 1 or more than that, unless ``exact``.

    Parameters
    ----------
    parts : what is to be built
    have : of each of :data:`hwgen.dse.design.foldings.RESOURCES`
    interval : cycles a frame, at most
    prices : a guess, in any unit

    Returns
    -------
    share, prices
        The share is infinite if some part is never as fast.
    """
    master = _Master(parts, have)
    prices = 1 / master.have if prices is None else prices
    prices = prices / (prices @ master.have)
    if not parts:
        return 0.0, prices
    if not all(part.table.limit(interval) for part in parts):
        return np.inf, prices
    share = np.inf
    for _ in range(ROUNDS):
        (least,), new = master.name(prices)
        if not exact and least > 1 + 1e-9:
            return float(least), prices
        if not new:
            break
        share, prices = _share(master)
        if not exact and share <= 1:
            break
    return share, prices


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
    parts: Sequence[Part], have: np.ndarray, interval: int, latency: bool = False,
    weights: np.ndarray = WEIGHTS,
) -> Allocation | None:
    """A way to build every part with as little as possible; None: there is none.

    Parameters
    ----------
    parts, have, interval : see :func:`fits`
    latency : rather with as few cycles as possible, whatever it takes
    weights : what a share of each resource counts
    """
    from scipy.optimize import Bounds, LinearConstraint, linprog, milp

    if not parts:
        return Allocation({}, np.zeros(len(RESOURCES)))
    master = _Master(parts, have)
    if not all(part.table.limit(interval) for part in parts):
        return None
    weights = weights / master.have
    prices = weights
    for _ in range(ROUNDS):
        _, new = master.name(prices)
        if not new:
            break
        takes = master.takes()
        # What is missing may be bought, so that there always is a solution.
        size = len(RESOURCES)
        result = linprog(
            np.r_[weights @ takes, np.full(size, 100.0)],
            A_ub=np.c_[takes / master.have[:, None], -np.eye(size)], b_ub=np.ones(size),
            A_eq=master.members(size),
            b_eq=master.counts, method="highs",
        )
        prices = weights - result.ineqlin.marginals / master.have
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
    # In whole numbers of parts; resources as shares, for the solver's tolerances.
    with _silent():
        result = milp(
            cost / max(cost.max(), 1e-12), integrality=np.ones(takes.shape[1]),
            bounds=Bounds(0, np.inf),
            constraints=[
                LinearConstraint(takes / master.have[:, None], -np.inf, np.ones(len(RESOURCES))),
                LinearConstraint(master.members(), master.counts, master.counts),
            ],
            options={"node_limit": NODE_LIMIT, "mip_rel_gap": GAP},
        )
    if result.x is None:
        return None
    chosen: dict[str, Column] = {}
    left = [list(part.names) for part in parts]
    counts = np.rint(result.x)
    for n in np.flatnonzero(counts):
        names, column = left[master.ways[n][0]], master.column(n)
        for _ in range(int(counts[n])):
            chosen[names.pop(0)] = column
    return Allocation(chosen, takes @ counts)
