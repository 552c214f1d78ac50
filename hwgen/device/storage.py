"""Block memories, UltraRAMs and LUTs that memories take, by width and depth.

Block memories and UltraRAMs are counted exactly, because :mod:`hwgen.parts.memory` cuts memories
into parts in such a way that synthesis has no choice.  Functions that count take integers or
integer arrays.

LUTs are those that Yosys takes on UltraScale+: eight for a RAM of 64 words by 7 bits or 32 by 14,
and one for a table of 64 bits.  On the 7-series, RAMs take a tenth more.  On an ECP5, a RAM of 16
words by 4 bits (a DPR16X4) takes six LUTs, and a table of 16 bits one; its blocks have the same
shapes.  The style of a memory, and how it is cut, do not depend on the family.
"""

from __future__ import annotations

from functools import cache

import numpy as np

__all__ = [
    "FAMILY", "FOUR_INPUTS", "STYLES", "ULTRA_SHAPE", "block_count", "block_ram", "block_shape",
    "block_width",
    "choice_luts", "memory_part", "memory_style", "ram_luts", "rom_luts", "table_count",
    "table_cut", "table_ram", "table_style", "ultra_count", "ultra_weights",
]

FAMILY = "ultrascale+"
"""The default device family."""

FOUR_INPUTS = ("ecp5",)
"""Families whose LUTs have four inputs instead of six."""

STYLES = ("distributed", "block", "ultra")
"""Styles of memories: LUTs, 18 Kb blocks, UltraRAMs."""

BLOCK_SHAPES = ((1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024), (36, 512))
"""Possible widths and depths of an 18 Kb block."""

TABLE_SHAPES = BLOCK_SHAPES[3:]
"""Shapes that are used for tables, because deeper ones leave a ninth of the block unused."""

ULTRA_SHAPE = (72, 4096)
"""Width and depth of an UltraRAM."""

BLOCK_WIDTH, BLOCK_DEPTH = BLOCK_SHAPES[-1]
"""The widest shape of a block, which has the most bits that it can read in a cycle."""

BLOCK_BITS = BLOCK_WIDTH * BLOCK_DEPTH
"""Bits of an 18 Kb block."""

TABLE_DEPTH = TABLE_SHAPES[0][1]
"""Most words of a table in a single block."""

ULTRA_WIDTH, ULTRA_DEPTH = ULTRA_SHAPE

ULTRA_BITS = ULTRA_WIDTH * ULTRA_DEPTH
"""Bits of an UltraRAM."""

LUT_BITS = 64
"""Bits of a six-input LUT that is used as memory."""

BLOCK_LUTS = 96
"""Number of LUTs that are as costly as a block."""

SIDE_BY_SIDE_BITS = 1024
"""Most bits of several words of a table that lie side by side; more would save little."""


_WIDTHS, _DEPTHS = np.array(BLOCK_SHAPES[::-1]).T


def block_width(depth):
    """Bits per word of a block with at least ``depth`` words, at most 16384."""
    return _WIDTHS[np.minimum(np.searchsorted(_DEPTHS, depth), len(_WIDTHS) - 1)]


def _blocks(width, depth, bits, words) -> np.ndarray:
    """Blocks of a memory in parts of ``words`` words; the last part may have another shape."""
    full, rest = np.divmod(depth, words)
    return full * -(-width // bits) + np.where(rest > 0, -(-width // block_width(rest)), 0)


@cache
def block_shape(width: int, depth: int) -> tuple[int, int]:
    """Shape of block with which a memory takes the fewest blocks; among equals, the deepest."""
    return min(BLOCK_SHAPES, key=lambda shape: int(_blocks(width, depth, *shape)))


def block_count(width, depth) -> np.ndarray:
    """Number of 18 Kb blocks of a memory of ``depth`` words of ``width`` bits."""
    width, depth = np.broadcast_arrays(width, depth)
    return _blocks(width[None], depth[None], *(
        shape.reshape(-1, *(1,) * width.ndim) for shape in (_WIDTHS, _DEPTHS)
    )).min(0)


def block_ram(width, depth) -> np.ndarray:
    """:func:`block_count`, but 0 if LUTs are cheaper."""
    return _unless_small(width, depth, block_count(width, depth))


def _unless_small(width, depth, blocks) -> np.ndarray:
    """The number of blocks, but 0 if LUTs are cheaper."""
    width, depth = np.asarray(width), np.asarray(depth)
    return np.where((depth <= 64) | (width * -(-depth // 64) <= BLOCK_LUTS * blocks), 0, blocks)


def _table_cuts(width, depth) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of each way to cut a table in block memory, and its cost in LUTs.

    There are two ways for each of :data:`TABLE_SHAPES`: every part is a separate memory, or the
    parts lie side by side in one wide memory, so that their words need not fill whole blocks.
    """
    width, depth = np.asarray(width), np.asarray(depth)
    blocks, costs = [], []
    for bits, words in TABLE_SHAPES:
        parts = -(-depth // words)
        side_by_side = -(-width * parts // bits)
        for count, fits in ((_blocks(width, depth, bits, words), True),
                            (side_by_side, width * parts <= SIDE_BY_SIDE_BITS)):
            blocks.append(count)
            costs.append(np.where(
                fits, BLOCK_LUTS * count + choice_luts(width, parts), np.iinfo(np.int64).max
            ))
    return np.stack(blocks), np.stack(costs)


def table_count(width, depth) -> np.ndarray:
    """Number of 18 Kb blocks of a table of ``depth`` words of ``width`` bits."""
    blocks, costs = _table_cuts(width, depth)
    return np.take_along_axis(blocks, costs.argmin(0)[None], 0)[0]


@cache
def table_cut(width: int, depth: int) -> tuple[int, bool]:
    """How a table is cut: words per part, and whether the parts lie side by side."""
    _, costs = _table_cuts(width, depth)
    shape, side_by_side = divmod(int(costs.argmin()), 2)
    return TABLE_SHAPES[shape][1], bool(side_by_side)


def table_ram(width, depth) -> np.ndarray:
    """:func:`table_count`, but 0 if LUTs are cheaper."""
    return _unless_small(width, depth, table_count(width, depth))


@cache
def table_style(width: int, depth: int) -> str:
    """``"distributed"`` if a table in LUTs is cheaper, else ``"block"``."""
    return "block" if table_ram(width, depth) else "distributed"


def ultra_count(width, depth) -> np.ndarray:
    """Number of UltraRAMs of a memory with a write port and a read port."""
    bits, words = ULTRA_SHAPE
    return -(-np.asarray(width) // bits) * -(-np.asarray(depth) // words)


def ultra_weights(width, depth) -> np.ndarray:
    """Number of UltraRAMs of a memory that is only read.

    Two columns share an UltraRAM if they have at most half of its words.
    """
    bits, words = ULTRA_SHAPE
    columns = -(-np.asarray(width) // bits)
    full, rest = np.divmod(depth, words)
    last = np.where(2 * rest <= words, -(-columns // 2), columns)
    return full * columns + np.where(rest > 0, last, 0)


def choice_luts(width, parts, family: str = FAMILY) -> np.ndarray:
    """LUTs to choose among the words of memories that lie one after the other."""
    others = np.asarray(parts) - 1
    # A LUT with six inputs chooses among four words, one with four inputs among two.
    return np.asarray(width) * (others if family in FOUR_INPUTS else -(-others // 3))


def ram_luts(width, depth, family: str = FAMILY) -> np.ndarray:
    """LUTs of a distributed memory with a write port and a read port."""
    width, depth = np.asarray(width), np.asarray(depth)
    if family in FOUR_INPUTS:
        parts = -(-depth // 16)
        # The register after the multiplexer does part of the choice.
        luts = 6 * -(-width // 4) * parts + width * ((4 * parts - 2) // 5)
    else:
        parts = -(-depth // 64)
        cells = np.minimum(-(-width // 7) * parts, -(-width // 14) * -(-depth // 32))
        luts = 8 * cells + choice_luts(width, parts)
    # Each part has a write enable of its own.
    return luts + np.where(parts > 1, parts, 0)


def rom_luts(width, depth, family: str = FAMILY) -> np.ndarray:
    """LUTs of a distributed table.

    LUTs with six inputs have multiplexers behind them, which choose among up to 256 words.
    """
    width, depth = np.asarray(width), np.asarray(depth)
    if family in FOUR_INPUTS:
        return width * -(-depth // 16) + choice_luts(width, -(-depth // 16), family)
    return width * -(-depth // 64) + choice_luts(width, -(-depth // 256))


@cache
def memory_style(width: int, depth: int, style: str = "") -> str:
    """The given style; if it is empty, ``"distributed"`` or ``"block"``, whichever is cheaper."""
    return style or ("block" if block_ram(width, depth) else "distributed")


def memory_part(width: int, depth: int, style: str) -> tuple[int, int]:
    """Width and depth of the parts into which a memory of a style is cut."""
    if style == "distributed":
        return width, depth
    return ULTRA_SHAPE if style == "ultra" else block_shape(width, depth)
