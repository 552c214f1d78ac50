"""A single channel, repeated: what is one number a pixel meets all channels of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring

from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import levels
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.ir import GatherChannels, TensorType
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.stream import StreamType, in_order
from hwgen.parts.turns import last_of

__all__ = ["Repeat", "RepeatConfig"]


@dataclass(frozen=True, kw_only=True)
class RepeatConfig(OpConfig):
    """A channel that is repeated, as means are in a normalisation.

    Parameters
    ----------
    op : :class:`hwgen.ir.GatherChannels`
        One channel again and again.
    tensor : :class:`TensorType`
        Type of the input, which has one channel.
    lanes : :class:`int`
        Channels per beat at the output; the input has one.

    Raises
    ------
    :exc:`HwgenError`
        If the input has more channels.
    """

    op: GatherChannels

    def __post_init__(self) -> None:
        if not _repeats(self.op, self.tensor):
            raise HwgenError(f"A channel that is repeated must be the only one of its tensor, not "
                             f"one of {self.tensor.channels}")
        super().__post_init__()

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, 1),)

    @property
    def beats(self) -> int:
        """Beats of a pixel of the output."""
        return self.outputs[0].beats_per_site

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (QUEUE_LATENCY + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        begin = in_order(arrivals[0], self.beats)
        pushes = (begin[:, None] + np.arange(self.beats)).ravel()
        return Schedule((begin + self.beats - 1,), (pushes + QUEUE_LATENCY,), (pushes,))

    def area(self) -> Area:
        return self.queues_area() + logic("repeat", one=1, counter=levels(self.beats))

    def create(self) -> Repeat:
        return Repeat(self)


class Repeat(Configured[RepeatConfig]):
    """Repeats the only channel of each pixel.

    Parameters
    ----------
    config : :class:`RepeatConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), 1)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes)))`

    Timing
    ------
    One beat of the output per cycle, visible three cycles later; an input is accepted with the last
    beat that it makes.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        push = Signal()
        last = last_of(m, config.beats, push, "left") if config.beats > 1 else 1
        m.d.comb += [
            push.eq(self.i.valid & queue.room), self.i.ready.eq(Mux(last, queue.room, 0)),
            queue.reserve.eq(push), queue.i.valid.eq(push),
        ]
        m.d.comb += [lane.eq(self.i.p[0]) for lane in queue.i.p]
        return m


def _repeats(op: GatherChannels, tensor: TensorType) -> bool:
    return tensor.channels == 1 and len(op.order) > 1


@carries_out(GatherChannels, of=_repeats, own_lanes=True)
def _repeat(request: BlockRequest) -> RepeatConfig:
    return RepeatConfig(op=request.op, tensor=request.tensor, lanes=request.lanes)
