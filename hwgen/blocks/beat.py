"""Base classes of beat-by-beat blocks, which push the result of a beat a fixed time later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring

from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.device.arithmetic import counter
from hwgen.device.cost import Area, logic, total
from hwgen.errors import HwgenError
from hwgen.ir import Op
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY, Skid, skid_area
from hwgen.parts.stream import StreamType, in_order

__all__ = ["BeatConfig", "Pair", "PairConfig", "most_claims", "valid_chain"]


def most_claims(cycles: int, burst: int, period: int) -> int:
    """Most claims in ``cycles`` cycles if the first ``burst`` of each ``period`` cycles claim."""
    return cycles // period * burst + min(cycles % period, burst)


def valid_chain(m: Module, valid: Value, cycles: int) -> list[Value]:
    """A list of a flag and its delayed versions, 1, 2, … ``cycles`` cycles later."""
    chain = [valid]
    for k in range(cycles):
        later = Signal(name=f"valid_{k}")
        m.d.sync += later.eq(chain[-1])
        chain.append(later)
    return chain


@dataclass(frozen=True, kw_only=True)
class BeatConfig(BlockConfig):
    """Base of configurations with a fixed time from a beat to the push of its result."""

    @property
    def push_latency(self) -> int:
        """Cycles from accepting a beat to pushing its result."""
        raise NotImplementedError

    @property
    def claim_cycles(self) -> int:
        """Cycles for which a place is claimed, if its beat is taken as soon as it is visible."""
        return self.push_latency + QUEUE_LATENCY + 1

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (self.claim_cycles,)

    def claiming(self, beats: np.ndarray) -> np.ndarray:
        """Select the input beats (of whole frames) that push an output beat; by default all."""
        return beats

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accept = in_order(arrivals[0])
        claims = self.claiming(accept)
        return Schedule((accept,), (claims + self.push_latency + QUEUE_LATENCY,), (claims,))


@dataclass(frozen=True, kw_only=True)
class PairConfig(BeatConfig):
    """Base of configurations of blocks that combine two streams of the same shape beat by beat.

    Parameters
    ----------
    op : the op
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements per beat.
    pace : :class:`int`
        Least number of cycles per site; 0: its number of beats.  If one input had to wait long for
        the other, the pace keeps results from coming faster than they are needed, so later blocks
        buffer less.

    Raises
    ------
    :exc:`HwgenError`
        If the pace is negative.
    """

    kind: ClassVar[str] = "elementwise"

    op: Op
    tensors: tuple[TensorType, TensorType]
    lanes: int = 1
    pace: int = 0

    def __post_init__(self) -> None:
        if self.pace < 0:
            raise HwgenError(f"Pace must not be negative, not {self.pace!r}")
        _ = self.inputs, self.outputs

    @property
    def site_cycles(self) -> int:
        """Cycles per site."""
        return max(self.pace, self.inputs[0].beats_per_site)

    @property
    def interval(self) -> int:
        stream = self.inputs[0]
        return stream.beats // stream.beats_per_site * self.site_cycles

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return tuple(StreamType(tensor, self.lanes) for tensor in self.tensors)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(*self.tensors)[0], self.lanes),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        arrivals = [in_order(times) for times in arrivals]
        ready = np.maximum.reduce(arrivals) + 1
        beats = self.inputs[0].beats_per_site
        if self.site_cycles > beats:
            # A site begins at least a pace after the one before, and after its end.
            by_site = ready.reshape(-1, beats)
            over = (by_site - np.arange(beats)).max(1) + beats
            begin = np.maximum(by_site[:, 0], np.append(0, over[:-1]))
            by_site[:, 0] = in_order(begin, self.site_cycles)
        join = in_order(ready)
        # A skid buffer holds two beats.
        free = np.append(np.full(2, -1), join[:-2]) + 1
        accepts = tuple(np.maximum(times, free[: len(times)]) for times in arrivals)
        return Schedule(accepts, (join + self.push_latency + QUEUE_LATENCY,), (join,))

    def area(self) -> Area:
        skids = total(skid_area(stream.width) for stream in self.inputs)
        return self.queues_area() + skids + logic("pair", one=1, valid=self.push_latency)

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, self.tensors)


class Pair(Configured[PairConfig]):
    """Takes two streams beat by beat; a subclass computes the result of each pair of beats.

    Parameters
    ----------
    config : :class:`PairConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    If the second beat of a pair is accepted in cycle t, the result is visible in
    t + 4 + ``config.push_latency``.  One pair per cycle, one site every ``config.site_cycles``.
    """

    def results(
        self, m: Module, valid: list[Value], a: list[Value], b: list[Value]
    ) -> list[Value]:
        """The result of each lane, ``config.push_latency`` cycles after the operands.

        ``valid[k]`` tells whether there were operands ``k`` cycles ago.
        """
        raise NotImplementedError

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        # Inputs go through skid buffers, so that no path leads from one input to the other.
        inputs = []
        for k, port in enumerate((self.i_0, self.i_1)):
            m.submodules[f"skid_{k}"] = skid = Skid(config.inputs[k].payload)
            wiring.connect(m, wiring.flipped(port), skid.i)
            inputs.append(skid.o)
        fire, rested = Signal(), Signal(init=1)
        beats = config.inputs[0].beats_per_site
        if config.site_cycles > beats:
            beat, rest = counter(beats, name="beat"), counter(config.site_cycles, name="rest")
            first, over = beat == 0, rest == 0
            m.d.comb += rested.eq(over | ~first)
            m.d.sync += rest.eq(Mux(fire & first, config.site_cycles - 1, Mux(over, 0, rest - 1)))
            with m.If(fire):
                m.d.sync += beat.eq(Mux(beat == beats - 1, 0, beat + 1))
        m.d.comb += [
            fire.eq(inputs[0].valid & inputs[1].valid & queue.room & rested),
            queue.reserve.eq(fire),
            *(i.ready.eq(fire) for i in inputs),
        ]
        valid = valid_chain(m, fire, config.push_latency)
        lanes = range(config.lanes)
        results = self.results(m, valid, *([i.p[lane] for lane in lanes] for i in inputs))
        m.d.comb += queue.i.valid.eq(valid[-1])
        m.d.comb += [p.eq(result) for p, result in zip(queue.i.p, results, strict=True)]
        return m
