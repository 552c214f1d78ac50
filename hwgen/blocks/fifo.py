"""A plain FIFO, and a fork with a FIFO on each branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring

from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY, Queue
from hwgen.parts.stream import StreamType, in_order

__all__ = ["Fifo", "FifoConfig"]


@dataclass(frozen=True, kw_only=True)
class FifoConfig(BlockConfig):
    """A plain FIFO; with several outputs, a fork with a FIFO on each branch.

    Parameters
    ----------
    stream : :class:`StreamType`
    branches : :class:`int`
        Number of outputs; every beat goes to all of them.
    """

    kind: ClassVar[str] = "queue"

    stream: StreamType
    branches: int = 1

    def __post_init__(self) -> None:
        if self.branches < 1:
            raise HwgenError(f"Branches must be positive, not {self.branches!r}")

    @property
    def inputs(self) -> tuple[StreamType, ...]:
        return (self.stream,)

    @property
    def outputs(self) -> tuple[StreamType, ...]:
        return (self.stream,) * self.branches

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (QUEUE_LATENCY + 1,) * self.branches

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accept = in_order(arrivals[0])
        return Schedule(
            (accept,), (accept + QUEUE_LATENCY,) * self.branches, (accept,) * self.branches
        )

    def area(self) -> Area:
        return self.queues_area() + logic("fork", branch=len(self.outputs))

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return (frames[0],) * self.branches

    def create(self) -> Fifo:
        return Fifo(self)


class Fifo(Configured[FifoConfig]):
    """FIFO, or fork into several FIFOs, which takes a beat when every branch has a place for it.

    Parameters
    ----------
    config : :class:`FifoConfig`

    Members
    -------
    i : :py:`In(stream.Signature(payload))`
    o, or o_0, o_1, … : :py:`Out(stream.Signature(payload))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 3; one beat per cycle.
    """

    def elaborate(self, platform):
        m = Module()
        queues = []
        config = self.config
        for port, depth, style in zip(
            config.output_ports, config.queue_depths, config.queue_styles, strict=True
        ):
            m.submodules[f"queue_{port}"] = queue = Queue(
                config.stream.payload, depth, style=style
            )
            wiring.connect(m, queue.o, wiring.flipped(getattr(self, port)))
            queues.append(queue)
        fire = self.i.valid & self.i.ready
        m.d.comb += self.i.ready.eq(Cat(queue.room for queue in queues).all())
        for queue in queues:
            m.d.comb += [
                queue.i.p.eq(self.i.p), queue.i.valid.eq(fire), queue.reserve.eq(fire)
            ]
        return m
