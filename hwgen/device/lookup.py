"""LUTs of tables whose contents are known: synthesis minimises them."""

from __future__ import annotations

import numpy as np

__all__ = ["choice_effort", "table_luts", "table_luts4"]


def table_luts(columns: np.ndarray) -> tuple[int, int]:
    """A table of known contents ``(rows, bits)``: functions of six bits, and choices among them."""
    count = -(-len(columns) // 64)
    padded = np.pad(columns, ((0, count * 64 - len(columns)), (0, 0)), mode="edge")
    blocks = padded.reshape(count, 64, -1).transpose(2, 0, 1).astype(bool)
    # What is always the same takes none, and an inverter is free.
    words, whole = (np.ascontiguousarray(np.packbits(bits, axis=2)).view(np.uint64)[..., 0]
                    for bits in (blocks ^ blocks[:, :, :1], blocks))
    return (len(set(words.ravel().tolist()) - {0}),
            sum(choice_effort(len(set(column))) for column in whole.tolist()))


def table_luts4(columns: np.ndarray) -> tuple[int, int]:
    """A table of known contents ``(rows, bits)``: functions of four bits, and choices."""
    count = -(-len(columns) // 16)
    padded = np.pad(columns, ((0, count * 16 - len(columns)), (0, 0)), mode="edge")
    values = padded.reshape(count, 16, -1).transpose(2, 0, 1) @ (1 << np.arange(16))
    # Of a function and its inverse one is enough.
    functions = np.minimum(values, 0xFFFF - values)
    return (len(set(functions.ravel().tolist()) - {0}),
            sum(len(set(column)) - 1 for column in values.tolist()))


def choice_effort(blocks: int) -> int:
    """How hard it is to choose one of some functions: synthesis finds it the harder the more."""
    return (blocks - 1) * min(blocks - 1, 4)
