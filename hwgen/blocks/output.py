"""Queues at the outputs of blocks, including blocks whose results come in folds."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value

from hwgen.blocks.base import BlockConfig
from hwgen.device.arithmetic import counter
from hwgen.parts.queue import Queue

__all__ = ["fold_beats", "fold_queue", "output_queue"]


def output_queue(config: BlockConfig, k: int = 0, claims: tuple[int, ...] = (1,)) -> Queue:
    """The queue at output ``k`` of a block."""
    return Queue(
        config.outputs[k].payload, config.queue_depths[k], claims, config.queue_styles[k]
    )


def fold_queue(
    m: Module, config: BlockConfig, counts: list[int], start: Value
) -> tuple[Queue, Value]:
    """Add the output queue of a block whose results come fold by fold.

    Parameters
    ----------
    counts : number of beats of each fold; the folds repeat for ever
    start : whether a fold starts; it then claims the places of its beats

    Returns
    -------
    queue : the queue
    room : whether the queue has room for the beats of the next fold
    """
    claims = tuple(sorted(set(counts), reverse=True))
    m.submodules.queue = queue = output_queue(config, 0, claims)
    claim = _which_fold(m, "starting", counts, start)
    m.d.comb += queue.reserve.eq(Mux(start, 1 << claim, 0))
    return queue, queue.room.bit_select(claim, 1)


def fold_beats(m: Module, name: str, counts: list[int], advance: Value) -> Value:
    """Number of beats in the current fold.

    Parameters
    ----------
    counts : number of beats of each fold; the folds repeat for ever
    advance : whether the next fold begins in the next cycle
    """
    return Mux(_which_fold(m, name, counts, advance), min(counts), max(counts))


def _which_fold(m: Module, name: str, counts: list[int], advance: Value) -> Signal:
    """Whether the current fold has fewer results than the others; see :func:`fold_beats`."""
    fewer = [int(n < max(counts)) for n in counts]
    which = Signal(name=f"{name}_fewer", init=fewer[0])
    if any(fewer):
        fold = counter(len(counts), name=f"{name}_fold")
        with m.If(advance):
            m.d.sync += fold.eq(Mux(fold == len(counts) - 1, 0, fold + 1))
            with m.Switch(fold):
                for k, after in enumerate([*fewer[1:], fewer[0]]):
                    with m.Case(k):
                        m.d.sync += which.eq(after)
    return which
