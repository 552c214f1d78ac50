"""How fast recurrent cells can be, whatever they cost: a step waits for the one before."""

from __future__ import annotations

from hwgen.blocks.registry import block_config
from hwgen.design import Folding
from hwgen.dse.design.extents import divisors
from hwgen.ir import Recurrent
from hwgen.parts.stream import StreamType

__all__ = ["fewest_lanes", "least_interval"]

SPARE = 0.9
"""Share of the cycles that a cell should need with all products at once: the last few cycles cost
many multipliers."""


def fewest_lanes(op: Recurrent, stream: StreamType, interval: int) -> int | None:
    """Fewest lanes of a cell's output with which it can keep an interval; None: none are enough.

    Parameters
    ----------
    op : the cell
    stream : of its input
    interval : cycles a frame
    """
    enough = None
    for lanes in divisors(op.units):
        cycles = least_interval(op, stream, lanes)
        if cycles <= SPARE * interval:
            return lanes
        if cycles <= interval and enough is None:
            enough = lanes
    return enough


def least_interval(op: Recurrent, stream: StreamType, lanes: int = 0) -> int:
    """Cycles a frame of a cell with all products at once.

    Parameters
    ----------
    op, stream : see :func:`fewest_lanes`
    lanes : of its output; 0: all
    """
    folding = Folding(channel_lanes=op.units, pe=op.units)
    return block_config(op, (stream,), folding, lanes or op.units).interval
