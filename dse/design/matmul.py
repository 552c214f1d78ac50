"""The ways to build a product of two streams: for each number of cycles, the fewest multipliers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hwgen.boards import Board
from hwgen.design import Folding
from hwgen.device.multiplier import Packing
from hwgen.dse.design.extents import divisors, fold_choices, undominated
from hwgen.dse.design.table import FixedTable, way_to_build
from hwgen.ir import MatMul
from hwgen.parts.stream import StreamType

__all__ = ["matmul_table"]


def matmul_table(
    op: MatMul, streams: Sequence[StreamType], lanes: int, board: Board
) -> FixedTable:
    """The ways to build a product whose output has so many lanes."""
    return FixedTable([way_to_build(op, streams, folding, lanes, board)
                       for folding in _foldings(op, streams, lanes, board)])


def _foldings(
    op: MatMul, streams: Sequence[StreamType], lanes: int, board: Board
) -> Iterator[Folding]:
    """Foldings of which none takes both fewer cycles and fewer multipliers than another."""
    a, b = (stream.tensor for stream in streams)
    summed, results = op.head_channels(a, b)[0], op.head_results(a, b)
    products = Packing.densest(board.multiplier, a.bits, b.bits, 1 << (b.bits - 1)).products
    sides = [int(n) for n in fold_choices(results, lanes)]
    if op.form == "values":
        sides = [n for n in divisors(results) if n % lanes == 0]
    ways = []
    for channel_lanes, pe in itertools.product(divisors(summed), sides):
        cycles = -(-results // pe) * max(summed // channel_lanes, pe // lanes)
        ways.append((cycles, channel_lanes * -(-pe // products), channel_lanes, pe))
    for _, _, channel_lanes, pe in undominated(ways):
        for style in ("", "ultra") if board.uram else ("",):
            yield Folding(channel_lanes=channel_lanes, pe=pe, multiplier=board.multiplier,
                          window_style=style)
