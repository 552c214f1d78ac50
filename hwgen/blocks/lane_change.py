"""Change of the number of lanes of a stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring

from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.device.arithmetic import counter, levels, wrapped_bits
from hwgen.device.cost import Area, logic
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.stream import StreamType, in_order

__all__ = ["LaneChange", "LaneChangeConfig"]


@dataclass(frozen=True, kw_only=True)
class LaneChangeConfig(BlockConfig):
    """Change of the number of lanes with which a tensor is streamed.

    Beats are divided into units of ``gcd(lanes_in, lanes_out)`` channels, which are moved one per
    cycle and assembled into new beats.

    Parameters
    ----------
    tensor : :class:`TensorType`
    lanes_in, lanes_out : :class:`int`
    """

    tensor: TensorType
    lanes_in: int
    lanes_out: int

    def __post_init__(self) -> None:
        _ = self.inputs, self.outputs

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes_in),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes_out),)

    @property
    def unit(self) -> int:
        """Number of channels that are moved per cycle."""
        return math.gcd(self.lanes_in, self.lanes_out)

    @property
    def interval(self) -> int:
        return self.tensor.size // self.unit

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (QUEUE_LATENCY + 2,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        units = self.lanes_in // self.unit
        accept = in_order(arrivals[0], units)
        moved = (accept[:, None] + np.arange(1, units + 1)).ravel()
        last = moved[self.lanes_out // self.unit - 1 :: self.lanes_out // self.unit]
        return Schedule((accept,), (last + 1 + QUEUE_LATENCY,), (last,))

    def area(self) -> Area:
        units_in, units_out = self.lanes_in // self.unit, self.lanes_out // self.unit
        return self.queues_area() + logic(
            "lane change", one=1, held=self.inputs[0].width, word=self.outputs[0].width,
            shift=self.inputs[0].width * (units_in > 1), units_out=units_out,
            left=units_in.bit_length(), slot=levels(units_out), wrap=wrapped_bits(units_out),
        )

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return (frames[0],)

    def create(self) -> LaneChange:
        return LaneChange(self)


class LaneChange(Configured[LaneChangeConfig]):
    """Changes the number of channels per beat.

    Parameters
    ----------
    config : :class:`LaneChangeConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out)))`

    Timing
    ------
    One unit of ``gcd(lanes_in, lanes_out)`` channels per cycle.  If the last unit of a beat is
    accepted in cycle t and waits for no other unit, the beat is visible in t + 5.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        size = config.unit * config.tensor.bits
        units_in, units_out = config.lanes_in // config.unit, config.lanes_out // config.unit
        held = Signal(config.inputs[0].width, reset_less=True)
        left = Signal(range(units_in + 1))
        in_beat = counter(units_out)
        word = Signal(config.outputs[0].width, reset_less=True)
        complete, move, fire = Signal(), Signal(), Signal()
        m.d.comb += [
            complete.eq(in_beat == units_out - 1),
            move.eq((left != 0) & (~complete | queue.room)),
            self.i.ready.eq((left == 0) | ((left == 1) & move)),
            fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(move & complete),
            queue.i.p.eq(word),
        ]
        m.d.sync += queue.i.valid.eq(move & complete)
        with m.If(move):
            m.d.sync += [
                held.eq(held >> size), left.eq(left - 1), in_beat.eq(Mux(complete, 0, in_beat + 1))
            ]
            for k in range(units_out):
                with m.If(in_beat == k):
                    m.d.sync += word[k * size : (k + 1) * size].eq(held[:size])
        with m.If(fire):
            m.d.sync += [held.eq(Cat(self.i.p.as_value())), left.eq(units_in)]
        return m
