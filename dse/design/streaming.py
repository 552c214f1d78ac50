"""Convolutions whose weights are in off-chip memory: what it takes to stream the weights.

A *tile* of output rows is computed fold by fold, so that weights are fetched once a tile; some of
the folds may be *resident*, which is to stay on the chip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from hwgen.boards import Board
from hwgen.design import MemoryPorts
from hwgen.device.storage import BLOCK_DEPTH, block_ram, ram_luts, ultra_count
from hwgen.dse.design.amounts import BRAM18, LUT, RESOURCES, URAM
from hwgen.dse.design.streams import divisors
from hwgen.dse.design.workload import Workload
from hwgen.offchip.bus import BURST, REQUEST_LIMIT
from hwgen.offchip.memory_map import PORT_SHARE

__all__ = [
    "STREAM_STYLES", "External", "Shapes", "Streamed", "TileSizes", "Tiles", "memory_takes",
    "streamed", "tiles_of",
]

STREAM_STYLES = ("", "ultra")
"""What a memory of a streamed convolution is made of: LUTs or blocks, whichever are cheaper; or
UltraRAMs."""

READ_AHEAD = 32
"""Cycles from the request of a fold of weights to its use beside those of the memory, about."""

LEAST_FOLDS = 3
"""Folds below which nothing is gained."""

RESIDENT = (0.0, 0.35, 0.7)
"""Least shares of the folds that stay on chip; as many more do as the memory has room for."""


@dataclass(frozen=True)
class External:
    """Off-chip memory as the search sees it.

    Members
    -------
    ports : ports through which it is reached
    bytes_per_cycle : bytes that it moves in practice
    """

    ports: MemoryPorts
    bytes_per_cycle: float

    @classmethod
    def of_board(cls, board: Board, clock_mhz: float) -> External | None:
        """The fastest memory of a board; None: it has none."""
        if not board.memory:
            return None
        main = max(board.memory, key=lambda memory: memory.total_gbps)
        # A narrower bus than that of our ports is adapted outside.
        ports = MemoryPorts(count=main.count * main.ports)
        return cls(ports, main.practical_gbps * 125 / clock_mhz)._with_bits(max(main.axi_bits, 32))

    def _with_bits(self, bits: int) -> External:
        rate = min(self.bytes_per_cycle, self.ports.count * bits / 8 * 0.95)
        burst = min(BURST, REQUEST_LIMIT * 8 // bits)
        return External(
            replace(self.ports, data_bits=bits, burst=burst, rate=round(rate, 3)), rate)

    @property
    def narrower(self) -> External | None:
        """The same memory with ports half as wide; None: there are none.

        They are slower, but what is behind them takes fewer memories.
        """
        bits = self.ports.data_bits // 2
        return self._with_bits(bits) if bits >= 32 else None


@dataclass(frozen=True)
class Shapes:
    """What of foldings matters where weights are streamed; arrays with one entry a folding.

    Members
    -------
    steps : rows of weights for a window, all phases
    folds : runs of output channels; 0: the weights cannot be streamed
    cycles : cycles of a fold
    row_bits : bits of a row of weights
    word_bits, words, copies : bits of a word of the window's buffer, words a site, and copies
    """

    steps: np.ndarray
    folds: np.ndarray
    cycles: np.ndarray
    row_bits: np.ndarray
    word_bits: np.ndarray
    words: np.ndarray
    copies: np.ndarray

    def take(self, keep: np.ndarray) -> Shapes:
        """Some of the foldings."""
        return Shapes(**{name: value[keep] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Streamed:
    """Ways to stream weights; arrays with one entry a way.

    Members
    -------
    folding : index among the foldings
    tile, resident : see :class:`hwgen.blocks.conv.FoldedConvConfig`
    moved : bytes a frame
    cycles : the fewest in which a port moves them
    window : amounts of the window's memory in each of :data:`STREAM_STYLES`, shape
        ``(ways, styles, resources)``
    takes : amounts of all memories, for each style of weights, window and queue, shape
        ``(ways, styles, styles, styles, resources)``
    """

    folding: np.ndarray
    tile: np.ndarray
    resident: np.ndarray
    moved: np.ndarray
    cycles: np.ndarray
    window: np.ndarray
    takes: np.ndarray

    def take(self, keep: np.ndarray) -> Streamed:
        """Some of the ways."""
        return Streamed(**{name: value[keep] for name, value in vars(self).items()})


class TileSizes(NamedTuple):
    """What the rows of a tile need.

    Members
    -------
    sites : pixels in the window's buffer
    queue : beats in the queue behind
    """

    sites: int
    queue: int


@dataclass(frozen=True)
class Tiles:
    """A convolution that may be tiled.

    Members
    -------
    window_rows : rows of windows
    stride, extent : of windows, in rows
    rows, row_sites : rows of the input, and sites of a row
    sites : sites of the output a frame
    site_bits, beat_bits : bits of an output site, and of a beat
    """

    window_rows: int
    stride: int
    extent: int
    rows: int
    row_sites: int
    sites: int
    site_bits: int
    beat_bits: int

    @property
    def choices(self) -> list[int]:
        """Rows that a tile can have."""
        return divisors(self.window_rows)


def streamed(
    tiles: Tiles, shapes: Shapes, external: External, known: Mapping[int, TileSizes],
    ultra: bool, family: str,
) -> Streamed:
    """All ways to stream the weights of a convolution.

    Parameters
    ----------
    tiles, shapes : the convolution
    external : off-chip memory
    known : sizes that some tiles need, by the rows of the tile
    ultra : whether there is UltraRAM
    family : the device's
    """
    choices, shares = np.array(tiles.choices), np.array(RESIDENT)
    which, share, index = (a.ravel() for a in np.meshgrid(
        np.arange(len(choices)), shares, np.arange(len(shapes.folds)), indexing="ij"
    ))
    f, bus = shapes.take(index), external.ports.data_bits
    # Of a tile, the sites and how often it comes.
    count = tiles.window_rows // choices[which]
    per_tile = tiles.sites // count
    rows_per_word = 1 << np.log2(np.maximum(bus // f.row_bits, 1)).astype(int)
    columns = -(-f.row_bits * rows_per_word // bus)
    depth = -(-f.steps // rows_per_word)
    fold_cycles = per_tile * f.cycles
    late = external.ports.memory_latency + READ_AHEAD
    share_of_port = np.maximum(depth * columns / fold_cycles, PORT_SHARE)
    ring = 1 + np.ceil(late / fold_cycles + share_of_port).astype(int)
    resident = np.ceil(share * f.folds).astype(int)
    # As many more as there is memory for anyway.
    blocks = BLOCK_DEPTH * -(-(resident + ring) * depth // BLOCK_DEPTH)
    resident = np.maximum(blocks // depth - ring, 0)
    good = np.flatnonzero((f.folds >= LEAST_FOLDS) & (ring + resident < f.folds))
    f, which, depth, columns, ring, resident, rows_per_word, count, per_tile = (
        f.take(good), *(a[good] for a in (
            which, depth, columns, ring, resident, rows_per_word, count, per_tile))
    )
    tile = choices[which]
    whole = (ring + resident) * depth
    last = f.row_bits * rows_per_word - (columns - 1) * bus
    weights = (memory_takes(bus, whole, columns - 1, ultra, family)
               + memory_takes(last, whole, 1, ultra, family))
    rows = np.minimum(tiles.extent - tiles.stride + tile * tiles.stride * (2 - 1 / f.folds),
                      tiles.rows * (2 - 1 / f.folds))
    sites = np.ceil(rows * tiles.row_sites).astype(int)
    queue = 2 * per_tile * tiles.site_bits // tiles.beat_bits
    for n, choice in enumerate(tiles.choices):
        if choice in known:
            sites[which == n], queue[which == n] = known[choice]
    window = memory_takes(f.word_bits, sites * f.words, f.copies, ultra, family)
    queues = memory_takes(tiles.beat_bits, queue, 1, ultra, family)
    takes = weights[:, :, None, None] + window[:, None, :, None] + queues[:, None, None]
    takes[..., LUT] += (200 + f.row_bits * (rows_per_word // 3))[:, None, None, None]
    moved = (f.folds - resident) * depth * columns * (bus // 8) * count
    cycles = np.ceil(moved / (bus / 8 * PORT_SHARE))
    return Streamed(index[good], tile, resident, moved, cycles, window, takes)


def memory_takes(width, depth: np.ndarray, copies, ultra: bool, family: str) -> np.ndarray:
    """Amounts of memories in each of :data:`STREAM_STYLES`.

    Parameters
    ----------
    width, depth : bits and number of words, one entry a memory
    copies : of each
    ultra : whether there is UltraRAM; otherwise the first style is the only one
    family : the device's

    Returns
    -------
    takes
        Shape ``(memories, styles, resources)``.
    """
    width, depth, copies = np.broadcast_arrays(width, np.maximum(depth, 2), copies)
    takes = np.zeros((len(depth), 2 if ultra else 1, len(RESOURCES)))
    blocks = copies * block_ram(np.maximum(width, 1), depth)
    takes[:, 0, BRAM18] = blocks
    takes[:, 0, LUT] = np.where(
        blocks > 0, 0, copies * ram_luts(np.maximum(width, 1), depth, family))
    if ultra:
        takes[:, 1, URAM] = copies * ultra_count(width, depth)
    return takes


def tiles_of(work: Workload) -> Tiles | None:
    """The tiles of a convolution; None: it cannot be tiled."""
    op, tensor = work.op, work.tensor
    spatial = tensor.spatial or (1,)
    if op.groups > 1 or (op.crop and any(op.crop[0])) or (work.banks > 1 and len(spatial) < 2):
        return None
    window, (out,) = op.window, op.infer(tensor)
    window_rows = window.output(tensor.spatial)[0] if tensor.spatial else 1
    return Tiles(
        window_rows=window_rows, stride=window.stride[0] if tensor.spatial else 1,
        extent=window.extent[0] if tensor.spatial else 1, rows=spatial[0],
        row_sites=math.prod(spatial[1:]) // work.banks, sites=out.pixels // work.pixels_out,
        site_bits=out.channels * out.bits * work.pixels_out,
        beat_bits=work.lanes_out * out.bits * work.pixels_out,
    )
