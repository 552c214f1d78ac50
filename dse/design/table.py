"""Tables of the ways to build something, from which a device is divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from hwgen.blocks.registry import block_config
from hwgen.boards import Board
from hwgen.design import Folding
from hwgen.dse.design.amounts import Amounts, vector
from hwgen.ir import Op
from hwgen.parts.stream import StreamType

__all__ = ["Cheapest", "Column", "Consumer", "FixedTable", "Table", "way_to_build"]


@dataclass(frozen=True)
class Column:
    """One way to build something.

    Members
    -------
    takes : what it takes
    cycles : cycles a frame
    choice : what it is, for whoever made the table
    window : the part of ``takes`` that is the window's memory, whose size is a guess until the
        design is planned; None: it has no window
    """

    takes: Amounts
    cycles: int
    choice: object
    window: Amounts | None = None


def way_to_build(
    op: Op, streams: Sequence[StreamType], folding: Folding, lanes: int, board: Board
) -> Column:
    """The column of a folding of an op whose output has so many lanes.

    Raises
    ------
    :exc:`HwgenError`
        If the folding does not fit.
    """
    config = block_config(op, tuple(streams), folding, lanes)
    return Column(Amounts(*vector(config.resources(board.family))), config.interval, folding)


class Cheapest(NamedTuple):
    """The cheapest way for each of some prices, and what it costs."""

    ways: list[Any]
    costs: np.ndarray


class Table(Protocol):
    """The ways to build something.

    A *way* is whatever the table knows a way by; it can be hashed.
    """

    def limit(self, interval: int) -> int:
        """Drop the ways that take more cycles than an interval.

        Returns
        -------
        cycles
            The most that a way takes of those that are left; they are the same ones for all
            intervals from that on.  0: none is left.
        """
        ...

    def cheapest(self, prices: np.ndarray) -> Cheapest:
        """The cheapest way for each row of prices, which have the shape ``(rows, resources)``."""
        ...

    def takes(self, way: Any) -> np.ndarray:
        """The amounts that a way takes, shape ``(resources,)``."""
        ...

    def column(self, way: Any) -> Column:
        """All about a way; of most ways no more than :meth:`takes` is looked at."""
        ...


@dataclass(frozen=True)
class Consumer:
    """Something to be built, perhaps several times.

    Members
    -------
    names : of those that are to be built
    table : the ways to build each
    """

    names: tuple[str, ...]
    table: Table


class FixedTable:
    """A few ways to build something.

    Parameters
    ----------
    columns : sequence of :class:`Column`
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self.columns = columns
        self._takes = np.array([column.takes for column in columns])
        self._cycles = np.array([column.cycles for column in columns])
        self._quick = np.arange(len(columns))

    def limit(self, interval: int) -> int:
        """See :meth:`Table.limit`."""
        self._quick = np.flatnonzero(self._cycles <= interval)
        return max(int(self._cycles[self._quick].max()), 1) if len(self._quick) else 0

    def cheapest(self, prices: np.ndarray) -> Cheapest:
        """See :meth:`Table.cheapest`; a way is its index."""
        cost = prices @ self._takes[self._quick].T
        return Cheapest(self._quick[cost.argmin(1)].tolist(), cost.min(1))

    def takes(self, way: int) -> np.ndarray:
        """See :meth:`Table.takes`."""
        return self._takes[way]

    def column(self, way: int) -> Column:
        """See :meth:`Table.column`."""
        return self.columns[way]
