"""Division of the channels of a stream among several streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring

from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.cost import Area, logic
from hwgen.ir import Split
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.stream import in_order
from hwgen.parts.turns import turn_features, turns

__all__ = ["Splitter", "SplitterConfig"]


@dataclass(frozen=True, kw_only=True)
class SplitterConfig(OpConfig):
    """Division of the channels into consecutive runs, one for each output.

    Parameters
    ----------
    op : :class:`hwgen.ir.Split`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat, at all ports.
    """

    op: Split

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (QUEUE_LATENCY + 1,) * len(self.outputs)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accept = in_order(arrivals[0])
        counts = [t.beats_per_site for t in self.outputs]
        by_pixel = accept.reshape(-1, sum(counts))
        parts = [p.ravel() for p in np.split(by_pixel, np.cumsum(counts)[:-1], axis=1)]
        return Schedule((accept,), tuple(p + QUEUE_LATENCY for p in parts), tuple(parts))

    def area(self) -> Area:
        return self.queues_area() + logic(
            "splitter", one=1, **turn_features([t.beats_per_site for t in self.outputs])
        )

    def create(self) -> Splitter:
        return Splitter(self)


class Splitter(Configured[SplitterConfig]):
    """Sends the channels of each pixel to one output after the other.

    Parameters
    ----------
    config : :class:`SplitterConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o, or o_0, o_1, … : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes)))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 3; one beat per cycle.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        fire = Signal()
        _, mine = turns(m, [t.beats_per_site for t in config.outputs], fire)
        place = Signal()
        m.d.comb += [self.i.ready.eq(place), fire.eq(self.i.valid & place)]
        for k, (name, it) in enumerate(zip(config.output_ports, mine, strict=True)):
            m.submodules[f"queue_{k}"] = queue = output_queue(config, k)
            wiring.connect(m, queue.o, wiring.flipped(getattr(self, name)))
            with m.If(it):
                m.d.comb += [
                    place.eq(queue.room), queue.reserve.eq(fire), queue.i.valid.eq(fire)
                ]
            m.d.comb += queue.i.p.eq(self.i.p)
        return m


def _by_pixel(op: Split, pixels: int) -> Split:
    return replace(op, sizes=tuple(n * pixels for n in op.sizes))


@carries_out(Split, pixels=_by_pixel)
def _splitter(request: BlockRequest) -> SplitterConfig:
    return SplitterConfig(op=request.op, tensor=request.tensor, lanes=request.lanes)
