"""The ways to build an attention: for each number of cycles a row, the fewest multipliers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hwgen.boards import Board
from hwgen.design import Folding
from hwgen.dse.design.extents import divisors, fold_choices
from hwgen.dse.design.table import FixedTable, way_to_build
from hwgen.errors import HwgenError
from hwgen.ir import Attention
from hwgen.parts.stream import StreamType

__all__ = ["attention_table"]

FINEST = 1.02
"""Numbers of cycles closer than this are alike."""
SHORTEST = 28
"""Cycles of a row below which nothing is tried: its reciprocal takes about as many."""


def attention_table(
    op: Attention, streams: Sequence[StreamType], lanes: int, board: Board
) -> FixedTable:
    """The ways to build an attention whose output has so many lanes.

    Scores and weighted sums are folded apart, so that neither takes more cycles than the other
    leaves: each with as few multipliers as that needs.
    """
    columns = []
    for folding in _foldings(op, streams, lanes, board):
        try:
            columns.append(way_to_build(op, streams, folding, lanes, board))
        except HwgenError:
            continue
    return FixedTable(columns)


def _foldings(
    op: Attention, streams: Sequence[StreamType], lanes: int, board: Board
) -> Iterator[Folding]:
    q, k, v = (stream.tensor for stream in streams)
    d, e = op.head_channels(q, k, v)
    keys = op.window_tokens(q, k)[1]
    channels, sums = divisors(d), [n for n in divisors(e) if n % lanes == 0]
    styles = ("", "ultra") if board.uram else ("",)
    done: set[tuple] = set()
    for cycles in _row_cycles(d, e, keys):
        score_lanes = -(-keys // max(cycles - 6, 1))
        if score_lanes > keys:
            continue
        sides = fold_choices(max(keys - keys % score_lanes, score_lanes), score_lanes)
        sides = [int(n) for n in sides if n <= keys]
        scores = [(c * -(-n // 2), c, n) for c, n in itertools.product(channels, sides)
                  if -(-keys // n) * max(d // c, n // score_lanes) <= cycles]
        values = [(n * -(-c // 2), c, n) for c, n in itertools.product(sums, sides)
                  if e // c * max(-(-keys // n), c // lanes) <= cycles]
        if not scores or not values:
            continue
        (_, channel_lanes, pe), (_, value_pe, value_lanes) = min(scores), min(values)
        way = channel_lanes, pe, score_lanes, value_lanes, value_pe
        if way in done:
            continue
        done.add(way)
        for style in styles:
            yield Folding(
                channel_lanes=channel_lanes, pe=pe, score_lanes=score_lanes,
                value_lanes=value_lanes, value_pe=value_pe, multiplier=board.multiplier,
                window_style=style)


def _row_cycles(d: int, e: int, keys: int) -> list[int]:
    """Numbers of cycles of a row that are worth a try."""
    folds = sorted({-(-keys // n) for n in range(1, keys + 1)})
    every = {f * n for f in folds for n in (*divisors(d), *divisors(e))}
    found = [SHORTEST]
    for cycles in sorted(every):
        if cycles > found[-1] * FINEST:
            found.append(cycles)
    return found
