"""The ways to build a recurrent cell: for each number of cycles a step, the fewest multipliers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from hwgen.blocks.registry import block_config
from hwgen.boards import Board
from hwgen.design import Folding
from hwgen.device.multiplier import Packing
from hwgen.dse.design.amounts import Amounts, vector
from hwgen.dse.design.extents import fold_choices
from hwgen.dse.design.table import Column, FixedTable
from hwgen.ir import Recurrent
from hwgen.parts.stream import StreamType

__all__ = ["recurrent_table"]

def recurrent_table(
    op: Recurrent, streams: Sequence[StreamType], lanes: int, board: Board
) -> FixedTable:
    """The ways to build a cell whose output has so many lanes."""
    columns = []
    for folding in _foldings(op, lanes, board):
        config = block_config(op, tuple(streams), folding, lanes)
        takes = vector(config.resources(board.family))
        columns.append(Column(Amounts(*takes), config.interval, folding))
    return FixedTable(columns)


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
    least = None
    for _, count, channel_lanes, pe in sorted(ways):
        if least is not None and count >= least:
            continue
        least = count
        for style in ("", "ultra") if board.uram else ("",):
            yield Folding(channel_lanes=channel_lanes, pe=pe, multiplier=board.multiplier,
                          weight_style=style)
