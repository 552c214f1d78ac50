"""Concatenation of the channels of several streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring

from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out, unchanged
from hwgen.device.cost import Area, logic
from hwgen.ir import Concat
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.stream import StreamType, in_order
from hwgen.parts.turns import turn_features, turns

__all__ = ["Concatenate", "ConcatenateConfig"]


@dataclass(frozen=True, kw_only=True)
class ConcatenateConfig(BlockConfig):
    """Concatenation of several streams: for each pixel, the channels of one after the other.

    Parameters
    ----------
    tensors : sequence of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Channels per beat, at all ports.
    """

    tensors: tuple[TensorType, ...]
    lanes: int = 1

    def __post_init__(self) -> None:
        _ = self.inputs, self.outputs

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return tuple(StreamType(tensor, self.lanes) for tensor in self.tensors)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(Concat().infer(*self.tensors)[0], self.lanes),)

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (QUEUE_LATENCY + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        counts = [t.beats_per_site for t in self.inputs]
        by_input = [a.reshape(-1, n) for a, n in zip(arrivals, counts, strict=True)]
        accept = in_order(np.concatenate(by_input, axis=1).ravel())
        by_pixel = accept.reshape(-1, sum(counts))
        parts = np.split(by_pixel, np.cumsum(counts)[:-1], axis=1)
        return Schedule(
            tuple(p.ravel() for p in parts), (accept + QUEUE_LATENCY,), (accept,)
        )

    def area(self) -> Area:
        inputs = len(self.inputs)
        return self.queues_area() + logic(
            "concatenate", one=1, width=self.outputs[0].width,
            choices=self.outputs[0].width * ((inputs - 1) // 2 + (inputs > 4)),
            **turn_features([t.beats_per_site for t in self.inputs]),
        )

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return Concat().evaluate(frames, self.tensors)

    def create(self) -> Concatenate:
        return Concatenate(self)


class Concatenate(Configured[ConcatenateConfig]):
    """Takes the channels of each pixel from one input after the other.

    Parameters
    ----------
    config : :class:`ConcatenateConfig`

    Members
    -------
    i_0, i_1, … : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes)))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 3; one beat per cycle.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        ports = [getattr(self, name) for name in config.input_ports]
        fire = Signal()
        turn, mine = turns(m, [t.beats_per_site for t in config.inputs], fire)
        room = queue.room
        m.d.comb += [
            queue.reserve.eq(fire), queue.i.valid.eq(fire),
            *(port.ready.eq(room & it) for port, it in zip(ports, mine, strict=True)),
        ]
        with m.Switch(turn):
            for k, port in enumerate(ports):
                with m.Case(k) if k < len(ports) - 1 else m.Default():
                    m.d.comb += [fire.eq(port.valid & room), queue.i.p.eq(port.p)]
        return m


@carries_out(Concat, pixels=unchanged)
def _concatenate(request: BlockRequest) -> ConcatenateConfig:
    return ConcatenateConfig(tensors=request.tensors, lanes=request.lanes)
