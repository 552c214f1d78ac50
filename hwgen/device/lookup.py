"""LUTs of tables whose contents are known: synthesis minimises them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["choice_effort", "table_features"]


def _luts(columns: np.ndarray) -> tuple[int, int]:
    """A table of known contents ``(rows, bits)``: functions of six bits, and choices among them."""
    count = -(-len(columns) // 64)
    padded = np.pad(columns, ((0, count * 64 - len(columns)), (0, 0)), mode="edge")
    blocks = padded.reshape(count, 64, -1).transpose(2, 0, 1).astype(bool)
    # What is always the same takes none, and an inverter is free.
    words, whole = (np.ascontiguousarray(np.packbits(bits, axis=2)).view(np.uint64)[..., 0]
                    for bits in (blocks ^ blocks[:, :, :1], blocks))
    return (len(set(words.ravel().tolist()) - {0}),
            sum(choice_effort(len(set(column))) for column in whole.tolist()))


def _luts4(columns: np.ndarray) -> tuple[int, int]:
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


def table_features(tables: Sequence[np.ndarray], copies: int) -> dict[str, int]:
    """Features of the logic of some tables, for :func:`hwgen.device.cost.logic`.

    Parameters
    ----------
    tables : contents of each, ``(rows, bits)``, of 0 and 1
    copies : how often each is built
    """
    counts = (sum(n) for n in zip(*(_luts(t) + _luts4(t) for t in tables), strict=True))
    words, choices, words4, choices4 = (copies * n for n in counts)
    varying = sum(int((t != t[:1]).any(0).sum()) for t in tables)
    return {"lut_words": words, "lut_choices": choices, "ff_words": copies * varying,
            "lut4_words": words4, "lut4_choices": choices4}
