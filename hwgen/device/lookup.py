"""LUTs of tables with known contents, which synthesis minimises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["choice_effort", "table_features"]


def _luts(columns: np.ndarray) -> tuple[int, int]:
    """Functions of six bits in a table ``(rows, bits)``, and the effort of choosing among them."""
    count = -(-len(columns) // 64)
    padded = np.pad(columns, ((0, count * 64 - len(columns)), (0, 0)), mode="edge")
    blocks = padded.reshape(count, 64, -1).transpose(2, 0, 1).astype(bool)
    # A constant function takes no LUT, and an inverter is free.
    words, whole = (np.ascontiguousarray(np.packbits(bits, axis=2)).view(np.uint64)[..., 0]
                    for bits in (blocks ^ blocks[:, :, :1], blocks))
    return (len(set(words.ravel().tolist()) - {0}),
            sum(choice_effort(len(set(column))) for column in whole.tolist()))


def _luts4(columns: np.ndarray) -> tuple[int, int]:
    """Functions of four bits in a table ``(rows, bits)``, and choices among them."""
    count = -(-len(columns) // 16)
    padded = np.pad(columns, ((0, count * 16 - len(columns)), (0, 0)), mode="edge")
    values = padded.reshape(count, 16, -1).transpose(2, 0, 1) @ (1 << np.arange(16))
    # A function and its inverse count as one.
    functions = np.minimum(values, 0xFFFF - values)
    return (len(set(functions.ravel().tolist()) - {0}),
            sum(len(set(column)) - 1 for column in values.tolist()))


def choice_effort(blocks: int) -> int:
    """Relative cost of choosing one of ``blocks`` functions; it grows faster than their number."""
    return (blocks - 1) * min(blocks - 1, 4)


def table_features(tables: Sequence[np.ndarray], copies: int) -> dict[str, int]:
    """Features of the logic of some tables, for :func:`hwgen.device.cost.logic`.

    Parameters
    ----------
    tables : contents of each table: zeros and ones, ``(rows, bits)``
    copies : number of copies of each table
    """
    counts = (sum(n) for n in zip(*(_luts(t) + _luts4(t) for t in tables), strict=True))
    words, choices, words4, choices4 = (copies * n for n in counts)
    varying = sum(int((t != t[:1]).any(0).sum()) for t in tables)
    return {"lut_words": words, "lut_choices": choices, "ff_words": copies * varying,
            "lut4_words": words4, "lut4_choices": choices4}
