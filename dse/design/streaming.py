"""Convolutions whose weights are in off-chip memory: what tiles and residents cost and save."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hwgen.boards import Board
from hwgen.design import MemoryPorts
from hwgen.device.storage import block_ram, ram_luts, ultra_count
from hwgen.offchip.layout import PORT_SHARE

__all__ = ["External", "Foldings", "Streamed", "memory_takes", "streamed", "tiles_of"]

READ_AHEAD = 32
"""Cycles that a fold of weights takes beside those of the memory, more or less."""

LEAST_FOLDS = 3
"""Folds below which nothing is gained."""

RESIDENT = (0.0, 0.35, 0.7)
"""Shares of the folds that stay on chip, at least; they fill the memory that is there anyway."""


@dataclass(frozen=True)
class External:
    """Off-chip memory as the search sees it.

    Members
    -------
    ports : how it is reached
    bytes_per_cycle : what it moves in practice
    """

    ports: MemoryPorts
    bytes_per_cycle: float

    @classmethod
    def of_board(cls, board: Board, clock_mhz: float) -> External | None:
        """That of a board, if it has any."""
        if not board.memory:
            return None
        main = max(board.memory, key=lambda memory: memory.total_gbps)
        # A narrower bus than that of our ports is adapted outside.
        ports = MemoryPorts(count=main.count * main.ports)
        return cls(ports, main.practical_gbps * 125 / clock_mhz)._with_bits(max(main.axi_bits, 32))

    def _with_bits(self, bits: int) -> External:
        rate = min(self.bytes_per_cycle, self.ports.count * bits / 8 * 0.95)
        return External(replace(self.ports, data_bits=bits, burst=min(64, 4096 * 8 // bits),
                                rate=round(rate, 3)), rate)

    @property
    def narrower(self) -> External | None:
        """With half as wide ports, which are slower, but what is behind them has smaller memories;
        None: there are none."""
        bits = self.ports.data_bits // 2
        return self._with_bits(bits) if bits >= 32 else None


@dataclass(frozen=True)
class Foldings:
    """What of foldings matters here; arrays, one entry each.

    Members
    -------
    steps : rows of weights for a window, all phases
    folds : runs of output channels
    cycles : of a fold
    row_bits : bits of a row
    word_bits, words, copies : of the window's buffer: bits of a word, words a site, copies
    """

    steps: np.ndarray
    folds: np.ndarray
    cycles: np.ndarray
    row_bits: np.ndarray
    word_bits: np.ndarray
    words: np.ndarray
    copies: np.ndarray

    def take(self, keep: np.ndarray) -> Foldings:
        """Some of them."""
        return Foldings(**{name: value[keep] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Streamed:
    """Ways to stream weights.

    Members
    -------
    folding : index among the foldings
    tile, resident : see :class:`hwgen.blocks.conv.FoldedConvConfig`
    moved : bytes a frame
    cycles : fewest in which a port moves them
    window : of LUTs, blocks and UltraRAMs, what the window's memory takes, ``(ways, styles, 3)``
    takes : all memories, ``(ways, styles, styles, styles, 3)``, for each style
        (block memory or LUTs, UltraRAM) of weights, window and queue
    """

    folding: np.ndarray
    tile: np.ndarray
    resident: np.ndarray
    moved: np.ndarray
    cycles: np.ndarray
    window: np.ndarray
    takes: np.ndarray

    def take(self, keep: np.ndarray) -> Streamed:
        """Some of them."""
        return Streamed(**{name: value[keep] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Tiles:
    """A convolution that may be tiled.

    Members
    -------
    places : rows of windows
    stride, extent : of windows, in rows
    rows, row_sites : rows of the input, and sites of a row
    sites : sites of the output a frame
    site_bits, beat_bits : bits of an output site, and of a beat
    """

    places: int
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
        return [n for n in range(1, self.places + 1) if self.places % n == 0]


def streamed(
    tiles: Tiles, foldings: Foldings, external: External, known: Mapping[int, tuple[int, int]],
    ultra: bool, family: str,
) -> Streamed:
    """All ways to stream the weights of a convolution.

    Parameters
    ----------
    tiles, foldings : the convolution
    external : off-chip memory
    known : for some tiles, the sites of the window and the depth of the queue that they need
    ultra : whether there is UltraRAM
    family : the device's
    """
    choices, shares = np.array(tiles.choices), np.array(RESIDENT)
    which, share, index = (a.ravel() for a in np.meshgrid(
        np.arange(len(choices)), shares, np.arange(len(foldings.folds)), indexing="ij"
    ))
    f, bus = foldings.take(index), external.ports.data_bits
    # Of a tile, the sites and how often it comes.
    count = tiles.places // choices[which]
    per_tile = tiles.sites // count
    rows_per_word = 1 << np.log2(np.maximum(bus // f.row_bits, 1)).astype(int)
    columns = -(-f.row_bits * rows_per_word // bus)
    depth = -(-f.steps // rows_per_word)
    turn = per_tile * f.cycles
    late = external.ports.memory_latency + READ_AHEAD
    slots = 1 + np.ceil(late / turn + np.maximum(depth * columns / turn, PORT_SHARE)).astype(int)
    resident = np.ceil(share * f.folds).astype(int)
    # As many more as there is memory for anyway.
    blocks = 512 * -(-(resident + slots) * depth // 512)
    resident = np.maximum(blocks // depth - slots, 0)
    good = np.flatnonzero((f.folds >= LEAST_FOLDS) & (slots + resident < f.folds))
    f, which, depth, columns, slots, resident, rows_per_word, count, per_tile = (
        f.take(good), *(a[good] for a in (
            which, depth, columns, slots, resident, rows_per_word, count, per_tile))
    )
    tile = choices[which]
    whole = (slots + resident) * depth
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
    takes[..., 0] += (200 + f.row_bits * (rows_per_word // 3))[:, None, None, None]
    moved = (f.folds - resident) * depth * columns * (bus // 8) * count
    cycles = np.ceil(moved / (bus / 8 * PORT_SHARE))
    return Streamed(index[good], tile, resident, moved, cycles, window, takes)


def memory_takes(width, depth: np.ndarray, copies, ultra: bool, family: str) -> np.ndarray:
    """What memories take in each style, LUTs, blocks and UltraRAMs: ``(ways, styles, 3)``."""
    width, depth, copies = np.broadcast_arrays(width, np.maximum(depth, 2), copies)
    zero = np.zeros(len(depth))
    blocks = copies * block_ram(np.maximum(width, 1), depth)
    luts = np.where(blocks > 0, 0, copies * ram_luts(np.maximum(width, 1), depth, family))
    styles = [np.stack([luts, blocks, zero], axis=-1)]
    if ultra:
        rams = copies * ultra_count(width, depth)
        styles.append(np.stack([zero, zero, rams], axis=-1))
    return np.stack(styles, axis=1)


def tiles_of(op, tensor, banks: int, pixels_out: int, lanes_out: int) -> Tiles | None:
    """The tiles of a convolution, if it can be tiled."""
    spatial = tensor.spatial or (1,)
    if op.groups > 1 or (op.crop and any(op.crop[0])) or (banks > 1 and len(spatial) < 2):
        return None
    window, (out,) = op.window, op.infer(tensor)
    places = window.output(tensor.spatial)[0] if tensor.spatial else 1
    return Tiles(
        places=places, stride=window.stride[0] if tensor.spatial else 1,
        extent=window.extent[0] if tensor.spatial else 1, rows=spatial[0],
        row_sites=math.prod(spatial[1:]) // banks, sites=out.pixels // pixels_out,
        site_bits=out.channels * out.bits * pixels_out, beat_bits=lanes_out * out.bits * pixels_out,
    )
