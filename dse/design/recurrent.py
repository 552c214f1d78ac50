"""The ways to build a recurrent cell: for each number of cycles a step, the fewest multipliers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hwgen.boards import Board
from hwgen.design import Folding
from hwgen.device.multiplier import Packing
from hwgen.dse.design.extents import fold_choices, undominated
from hwgen.dse.design.table import FixedTable, way_to_build
from hwgen.ir import Recurrent
from hwgen.parts.stream import StreamType

__all__ = ["recurrent_table"]


def recurrent_table(
    op: Recurrent, streams: Sequence[StreamType], lanes: int, board: Board
) -> FixedTable:
    """The ways to build a cell whose output has so many lanes."""
    return FixedTable([way_to_build(op, streams, folding, lanes, board)
                       for folding in _foldings(op, lanes, board)])


def _foldings(op: Recurrent, lanes: int, board: Board) -> Iterator[Folding]:
    """Foldings of which none takes both fewer cycles and fewer multipliers than another."""
    units = op.units
    # Per matrix, its gates and the products that share a multiplier.
    matrices = [(len(conv.weight) // units, Packing.densest(
        board.multiplier, op.output.bits, conv.weight_bits, conv.weight_limit).products)
        for conv in op.matrices]
    sides = [int(n) for n in fold_choices(units, lanes)]
    ways = []
    for channel_lanes, pe in itertools.product(sides, sides):
        words, beats, folds = -(-units // channel_lanes), pe // lanes, -(-units // pe)
        cycles = (folds - 1) * max(words, beats) + words + beats
        columns = sum(-(-gates * pe // products) for gates, products in matrices)
        ways.append((cycles, channel_lanes * columns, channel_lanes, pe))
    for _, _, channel_lanes, pe in undominated(ways):
        for style in ("", "ultra") if board.uram else ("",):
            yield Folding(channel_lanes=channel_lanes, pe=pe, multiplier=board.multiplier,
                          weight_style=style)
