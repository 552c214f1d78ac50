"""The table of a convolution: its foldings, with the memories of each, and ways to stream weights.

See :class:`hwgen.dse.design.table.Table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from hwgen.design import Folding
from hwgen.device.storage import BLOCK_BITS, STYLES
from hwgen.dse.design.amounts import BANDWIDTH, LOGIC, MEMORY, RESOURCES, Amounts
from hwgen.dse.design.foldings import (
    DENSE,
    Foldings,
    dense_foldings,
    sparse_foldings,
    sparse_ways_of,
)
from hwgen.dse.design.logic import requantisers
from hwgen.dse.design.streaming import (
    STREAM_STYLES,
    External,
    Streamed,
    TileSizes,
    streamed,
    tiles_of,
)
from hwgen.dse.design.table import Cheapest, Column
from hwgen.dse.design.workload import Workload
from hwgen.dse.sparse.layer import SparseLayer

__all__ = ["ConvTable"]

LARGE_WEIGHTS = 6 * BLOCK_BITS
"""Bits of weights from which on they may be streamed."""


class Kept(NamedTuple):
    """A way with all weights on the chip.

    Members
    -------
    folding : index among the foldings that were kept
    requantiser : index in :attr:`Workload.multipliers`
    weights, window : indices of the styles of these memories
    """

    folding: int
    requantiser: int
    weights: int
    window: int


class Streaming(NamedTuple):
    """A way that streams weights.

    Members
    -------
    stream : index among the ways to stream that were kept, with each style of their memories
    requantiser : index in :attr:`Workload.multipliers`
    """

    stream: int
    requantiser: int


class _Shares(NamedTuple):
    """What the foldings that were kept take.

    Members
    -------
    logic : columns :data:`hwgen.dse.design.amounts.LOGIC`, shape ``(3, foldings)``
    weights, window : columns :data:`hwgen.dse.design.amounts.MEMORY`, shape
        ``(4, styles * foldings)``
    """

    logic: np.ndarray
    weights: np.ndarray
    window: np.ndarray


class ConvTable:
    """All foldings of a convolution.

    Parameters
    ----------
    work : the convolution between its streams
    external : off-chip memory, if weights may be there
    known : sizes that some tiles need, by the rows of the tile
    layer : statistics of its zeros, if it may be sparse
    """

    def __init__(
        self, work: Workload, external: External | None = None,
        known: Mapping[int, TileSizes] = MappingProxyType({}), layer: SparseLayer | None = None,
    ) -> None:
        self.work = work
        self.styles = len(STYLES) if work.ultra else len(STYLES) - 1
        parts = dense_foldings(work)
        self._sparse = sparse_ways_of(work, layer) if layer is not None else ()
        if self._sparse:
            parts.append(sparse_foldings(work, self._sparse))
        self._foldings = Foldings.joined(parts)
        # Of equal ones, first the one with few copies of the buffer, and few, long columns.
        self._preferred = np.lexsort((self._foldings.pe, self._foldings.tap_lanes))
        self._ordered = self._foldings.cycles[self._preferred]
        self._requantisers = requantisers(work)
        self._streamed: Streamed | None = None
        if external is not None and work.op.weight.size * work.op.weight_bits > LARGE_WEIGHTS:
            tiles = tiles_of(work)
            if tiles is not None:
                self._streamed = streamed(
                    tiles, self._foldings.shapes, external, known, work.ultra, work.family)
        self._interval = self._slowest = 0

    def limit(self, interval: int) -> int:
        """See :meth:`hwgen.dse.design.table.Table.limit`.

        Ways that are far quicker than need be are dropped, too.
        """
        if interval == self._interval:
            return self._slowest
        cycles = self._ordered
        quick = cycles <= interval
        slowest = int(cycles.max(where=quick, initial=0))
        if not slowest:
            return 0
        self._interval, self._slowest = interval, slowest
        least = slowest // 4
        self._kept = self._preferred[quick & (cycles >= least)]
        weights, window = (
            memory[:, : self.styles, self._kept].reshape(len(memory), -1)
            for memory in (self._foldings.weights, self._foldings.window)
        )
        self._shares = _Shares(self._foldings.logic[:, self._kept], weights, window)
        if self._streamed is not None:
            # They are slowed down to the interval: much quicker ones would be for nothing.
            self._stream(self._streamed, interval, least * 2)
        return slowest

    def _stream(self, ways: Streamed, interval: int, least: int) -> None:
        """Take up the ways that stream the weights."""
        cycles = self._foldings.cycles[ways.folding]
        self._ways = ways = ways.take(np.flatnonzero(
            (cycles <= interval) & (cycles >= least) & (ways.cycles <= interval)
        ))
        takes = ways.takes.copy()
        takes[..., LOGIC] += self._foldings.logic[:, ways.folding].T[:, None, None, None]
        takes[..., BANDWIDTH] = ways.moved[:, None, None, None]
        self._streams = takes.reshape(-1, len(RESOURCES))

    def cheapest(self, prices: np.ndarray) -> Cheapest:
        """The cheapest folding, with the cheapest memories.

        See :meth:`hwgen.dse.design.table.Table.cheapest`.
        """
        shares, ways = self._shares, []
        each = prices[:, LOGIC] @ shares.logic
        weights, window = ((prices[:, MEMORY] @ memory).reshape(len(prices), self.styles, -1)
                           for memory in (shares.weights, shares.window))
        cost = each + weights.min(1) + window.min(1)
        if self._streamed is not None:
            cost = np.concatenate([cost, prices @ self._streams.T], axis=1)
        least = cost.min(1)
        most = least * (1 + 1e-9)
        requantising = prices @ self._requantisers.T
        chosen = (cost <= most[:, None]).argmax(1), requantising.argmin(1)
        for n, (k, requantiser) in enumerate(zip(*(a.tolist() for a in chosen), strict=True)):
            if k < each.shape[1]:
                styles = each[n, k] + weights[n, :, k, None] + window[n, :, k] <= most[n]
                ways.append(Kept(k, requantiser, *divmod(int(styles.argmax()), self.styles)))
            else:
                ways.append(Streaming(k - each.shape[1], requantiser))
        return Cheapest(ways, least + requantising.min(1))

    def takes(self, way: Kept | Streaming) -> np.ndarray:
        """See :meth:`hwgen.dse.design.table.Table.takes`."""
        if isinstance(way, Streaming):
            return self._streams[way.stream] + self._requantisers[way.requantiser]
        takes, count = np.zeros(len(RESOURCES)), len(self._kept)
        takes[LOGIC] = self._shares.logic[:, way.folding]
        takes[MEMORY] += self._shares.weights[:, way.weights * count + way.folding]
        takes[MEMORY] += self._shares.window[:, way.window * count + way.folding]
        return takes + self._requantisers[way.requantiser]

    def column(self, way: Kept | Streaming) -> Column:
        """See :meth:`hwgen.dse.design.table.Table.column`."""
        if isinstance(way, Streaming):
            # The style of the queue is decided once the design is planned.
            index, first, second, _ = np.unravel_index(way.stream, self._ways.takes.shape[:-1])
            tile, resident = int(self._ways.tile[index]), int(self._ways.resident[index])
            k = self._ways.folding[index]
            # As slow as it may be, so that the stream of weights is even.
            folds = -(-self.work.op.cout // int(self._foldings.pe[k]))
            pace = self._interval // (self.work.windows * folds)
            weights, window = STREAM_STYLES[first], STREAM_STYLES[second]
            buffer = Amounts(*self._ways.window[index, second].tolist())
        else:
            k = self._kept[way.folding]
            tile = resident = pace = 0
            weights, window = STYLES[way.weights], STYLES[way.window]
            memory = np.zeros(len(RESOURCES))
            memory[MEMORY] = self._foldings.window[:, way.window, k]
            buffer = Amounts(*memory.tolist())
        found = self._foldings
        multiplier = self.work.multipliers[found.multiplier[k]]
        requantiser = self.work.multipliers[way.requantiser]
        dense = found.sparse[k] == DENSE
        folding = Folding(
            channel_lanes=int(found.channel_lanes[k]), tap_lanes=int(found.tap_lanes[k]),
            group_lanes=int(found.group_lanes[k]), pe=int(found.pe[k]), multiplier=multiplier,
            requantiser_multiplier="" if requantiser == multiplier else requantiser,
            shared=self.work.shared(multiplier) if dense else "activation",
            weight_style=weights, window_style=window, tile=tile, resident=resident,
            fold_cycles=pace,
            sparse=None if dense else self._sparse[found.sparse[k]].sparse,
        )
        return Column(Amounts(*self.takes(way).tolist()), int(found.cycles[k]), folding, buffer)
