"""What memories take of a device: block memories, UltraRAMs and LUTs, by width and depth.

Block memories and UltraRAMs are counted exactly, for :mod:`hwgen.parts.memory` cuts memories into
parts so that synthesis has no choice.  Functions that count take integers or integer arrays.

LUTs are what Yosys takes on UltraScale+: RAMs of 64 words by 7 bits, or 32 by 14, in eight LUTs,
and tables of 64 bits in one; those of 7-series take a tenth more for RAMs.  On an ECP5, a RAM of 16
words by 4 bits (a DPR16X4) takes six, and a table of 16 bits one; its blocks have the same shapes.
What a memory is made of, and how it is cut, does not depend on the family.
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
"""The device family that is meant where none is given."""

FOUR_INPUTS = ("ecp5",)
"""Families whose LUTs have four inputs, and not six."""

STYLES = ("distributed", "block", "ultra")
"""Kinds of memory: LUTs, 18 Kb blocks, UltraRAMs."""

BLOCK_SHAPES = ((1, 16384), (2, 8192), (4, 4096), (9, 2048), (18, 1024), (36, 512))
"""Widths and depths that an 18 Kb block can have."""

TABLE_SHAPES = BLOCK_SHAPES[3:]
"""Those of tables: the deeper ones leave an eighth of the block unused."""

ULTRA_SHAPE = (72, 4096)
"""Width and depth of an UltraRAM."""

BLOCK_WIDTH, BLOCK_DEPTH = BLOCK_SHAPES[-1]
"""The widest shape of a block: what it can read in a cycle."""

BLOCK_BITS = BLOCK_WIDTH * BLOCK_DEPTH
"""Bits of an 18 Kb block."""

TABLE_DEPTH = TABLE_SHAPES[0][1]
"""Most words of a table in one block."""

ULTRA_WIDTH, ULTRA_DEPTH = ULTRA_SHAPE

ULTRA_BITS = ULTRA_WIDTH * ULTRA_DEPTH
"""Bits of an UltraRAM."""

LUT_BITS = 64
"""Bits of a LUT of six inputs that is a memory."""

BLOCK_LUTS = 96
"""LUTs that are worth a block."""

SIDE_BY_SIDE_BITS = 1024
"""Most bits of several words of a table side by side; more would save little."""


_WIDTHS, _DEPTHS = np.array(BLOCK_SHAPES[::-1]).T


def block_width(depth):
    """Bits of a word in a block at least this deep, up to 16384 words."""
    return _WIDTHS[np.minimum(np.searchsorted(_DEPTHS, depth), len(_WIDTHS) - 1)]


def _blocks(width, depth, bits, words) -> np.ndarray:
    """Blocks of a memory in parts of ``words`` words; the last has a shape of its own."""
    full, rest = np.divmod(depth, words)
    return full * -(-width // bits) + np.where(rest > 0, -(-width // block_width(rest)), 0)


@cache
def block_shape(width: int, depth: int) -> tuple[int, int]:
    """Shape of the parts that hold a memory in the fewest blocks; of several such, the deepest."""
    return min(BLOCK_SHAPES, key=lambda shape: int(_blocks(width, depth, *shape)))


def block_count(width, depth) -> np.ndarray:
    """18 Kb blocks of a memory of ``depth`` words of ``width`` bits in block memory."""
    width, depth = np.broadcast_arrays(width, depth)
    return _blocks(width[None], depth[None], *(
        shape.reshape(-1, *(1,) * width.ndim) for shape in (_WIDTHS, _DEPTHS)
    )).min(0)


def block_ram(width, depth) -> np.ndarray:
    """:func:`block_count`, but 0 where LUTs are cheaper."""
    return _unless_small(width, depth, block_count(width, depth))


def _unless_small(width, depth, blocks) -> np.ndarray:
    """The blocks, but 0 where LUTs are cheaper."""
    width, depth = np.asarray(width), np.asarray(depth)
    return np.where((depth <= 64) | (width * -(-depth // 64) <= BLOCK_LUTS * blocks), 0, blocks)


def _table_cuts(width, depth) -> tuple[np.ndarray, np.ndarray]:
    """Blocks and costs in LUTs of the ways to cut a table in block memory.

    For each of :data:`TABLE_SHAPES`: parts that are memories of their own, and parts side by side
    as one wide memory, whose words need not fill blocks.
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
    """18 Kb blocks of a table of ``depth`` words of ``width`` bits in block memory."""
    blocks, costs = _table_cuts(width, depth)
    return np.take_along_axis(blocks, costs.argmin(0)[None], 0)[0]


@cache
def table_cut(width: int, depth: int) -> tuple[int, bool]:
    """How a table is cut: words of a part, and whether the parts lie side by side."""
    _, costs = _table_cuts(width, depth)
    shape, side_by_side = divmod(int(costs.argmin()), 2)
    return TABLE_SHAPES[shape][1], bool(side_by_side)


def table_ram(width, depth) -> np.ndarray:
    """:func:`table_count`, but 0 where LUTs are cheaper."""
    return _unless_small(width, depth, table_count(width, depth))


@cache
def table_style(width: int, depth: int) -> str:
    """``"distributed"`` where LUTs are the cheaper table, else ``"block"``."""
    return "block" if table_ram(width, depth) else "distributed"


def ultra_count(width, depth) -> np.ndarray:
    """UltraRAMs of a memory with one port to write and one to read."""
    bits, words = ULTRA_SHAPE
    return -(-np.asarray(width) // bits) * -(-np.asarray(depth) // words)


def ultra_weights(width, depth) -> np.ndarray:
    """UltraRAMs of a memory that is only read; of at most half the words, two share one."""
    bits, words = ULTRA_SHAPE
    columns = -(-np.asarray(width) // bits)
    full, rest = np.divmod(depth, words)
    last = np.where(2 * rest <= words, -(-columns // 2), columns)
    return full * columns + np.where(rest > 0, last, 0)


def choice_luts(width, parts, family: str = FAMILY) -> np.ndarray:
    """LUTs to choose among the words of several memories, one after the other."""
    others = np.asarray(parts) - 1
    # A LUT of six inputs chooses among four, one of four among two.
    return np.asarray(width) * (others if family in FOUR_INPUTS else -(-others // 3))


def ram_luts(width, depth, family: str = FAMILY) -> np.ndarray:
    """LUTs of a memory with one port to write and one to read, in LUTs."""
    width, depth = np.asarray(width), np.asarray(depth)
    if family in FOUR_INPUTS:
        parts = -(-depth // 16)
        # The register behind the choice does some of it.
        luts = 6 * -(-width // 4) * parts + width * ((4 * parts - 2) // 5)
    else:
        parts = -(-depth // 64)
        cells = np.minimum(-(-width // 7) * parts, -(-width // 14) * -(-depth // 32))
        luts = 8 * cells + choice_luts(width, parts)
    # Each part has a write enable of its own.
    return luts + np.where(parts > 1, parts, 0)


def rom_luts(width, depth, family: str = FAMILY) -> np.ndarray:
    """LUTs of a table in LUTs; with six inputs, up to 256 words are chosen by the multiplexers
    behind them."""
    width, depth = np.asarray(width), np.asarray(depth)
    if family in FOUR_INPUTS:
        return width * -(-depth // 16) + choice_luts(width, -(-depth // 16), family)
    return width * -(-depth // 64) + choice_luts(width, -(-depth // 256))


@cache
def memory_style(width: int, depth: int, style: str = "") -> str:
    """The style, or if it is empty ``"distributed"`` where LUTs are cheaper, else ``"block"``."""
    return style or ("block" if block_ram(width, depth) else "distributed")


def memory_part(width: int, depth: int, style: str) -> tuple[int, int]:
    """Width and depth of the parts that a memory of a style is cut into."""
    if style == "distributed":
        return width, depth
    return ULTRA_SHAPE if style == "ultra" else block_shape(width, depth)
