"""Blocks that only move data: concatenation, split, change of lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring

from hwgen.blocks import area
from hwgen.blocks.base import (
    Area,
    BlockConfig,
    OpConfig,
    Schedule,
    StreamType,
    counter,
    in_order,
)
from hwgen.blocks.queue import QUEUE_LATENCY, output_queue
from hwgen.ir import Concat, Split
from hwgen.ir.types import TensorType

__all__ = [
    "Concatenate",
    "ConcatenateConfig",
    "LaneChange",
    "LaneChangeConfig",
    "Splitter",
    "SplitterConfig",
    "last_of",
]


def last_of(m: Module, count: int, step, name: str) -> Value:
    """Whether the next step is the last of each ``count``: the sign of a register."""
    left = Signal(signed(max(count - 1, 1).bit_length() + 1), init=count - 2, name=name)
    with m.If(step):
        m.d.sync += left.eq(Mux(left[-1], count - 2, left - 1))
    return left[-1]


def _turns(m: Module, counts: Sequence[int], step) -> tuple[Signal, list]:
    """Whose turn it is: ``counts[k]`` beats for k = 0, 1, …, and again; per k whether it is."""
    turn, beat = counter(len(counts), name="turn"), counter(max(counts), name="beat")
    with m.Switch(turn):
        for k, count in enumerate(counts):
            with m.Case(k) if k < len(counts) - 1 else m.Default():
                with m.If(step):
                    m.d.sync += beat.eq(Mux(beat == count - 1, 0, beat + 1))
                    with m.If(beat == count - 1):
                        m.d.sync += turn.eq((k + 1) % len(counts))
    return turn, [turn == k for k in range(len(counts))]


@dataclass(frozen=True, kw_only=True)
class ConcatenateConfig(BlockConfig):
    """Channels of several streams, one after the other, pixel by pixel.

    Parameters
    ----------
    tensors : sequence of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Channels a beat, at all ports.
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
        turns = [a.reshape(-1, n) for a, n in zip(arrivals, counts, strict=True)]
        accept = in_order(np.concatenate(turns, axis=1).ravel())
        by_pixel = accept.reshape(-1, sum(counts))
        parts = np.split(by_pixel, np.cumsum(counts)[:-1], axis=1)
        return Schedule(
            tuple(p.ravel() for p in parts), (accept + QUEUE_LATENCY,), (accept,)
        )

    def area(self) -> Area:
        return area.concatenate(self)

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return Concat().evaluate(frames, self.tensors)

    def create(self) -> Concatenate:
        return Concatenate(self)


class Concatenate(wiring.Component):
    """Takes the channels of a pixel from each input in turn.

    Parameters
    ----------
    config : :class:`ConcatenateConfig`

    Members
    -------
    i_0, i_1, … : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes)))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 3; one beat a cycle.
    """

    def __init__(self, config: ConcatenateConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        ports = [getattr(self, name) for name in config.input_ports]
        fire = Signal()
        turn, mine = _turns(m, [t.beats_per_site for t in config.inputs], fire)
        place = queue.room
        m.d.comb += [
            queue.reserve.eq(fire), queue.i.valid.eq(fire),
            *(port.ready.eq(place & it) for port, it in zip(ports, mine, strict=True)),
        ]
        with m.Switch(turn):
            for k, port in enumerate(ports):
                with m.Case(k) if k < len(ports) - 1 else m.Default():
                    m.d.comb += [fire.eq(port.valid & place), queue.i.p.eq(port.p)]
        return m


@dataclass(frozen=True, kw_only=True)
class SplitterConfig(OpConfig):
    """Consecutive runs of channels, each to an output.

    Parameters
    ----------
    op : :class:`hwgen.ir.Split`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels a beat, at all ports.
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
        return area.splitter(self)

    def create(self) -> Splitter:
        return Splitter(self)


class Splitter(wiring.Component):
    """Sends the channels of a pixel to each output in turn.

    Parameters
    ----------
    config : :class:`SplitterConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o, or o_0, o_1, … : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes)))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 3; one beat a cycle.
    """

    def __init__(self, config: SplitterConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        fire = Signal()
        _, mine = _turns(m, [t.beats_per_site for t in config.outputs], fire)
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


@dataclass(frozen=True, kw_only=True)
class LaneChangeConfig(BlockConfig):
    """Another number of lanes for the same tensor.

    Beats are taken apart into units of ``gcd(lanes_in, lanes_out)`` channels, one a cycle, and
    put together again.

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
        """Channels moved a cycle."""
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
        return area.lane_change(self)

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return (frames[0],)

    def create(self) -> LaneChange:
        return LaneChange(self)


class LaneChange(wiring.Component):
    """Changes the number of channels a beat.

    Parameters
    ----------
    config : :class:`LaneChangeConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out)))`

    Timing
    ------
    One unit of ``gcd(lanes_in, lanes_out)`` channels a cycle; a beat whose last unit was accepted
    in cycle t and waits for no other is visible in t + 5.
    """

    def __init__(self, config: LaneChangeConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        size = config.unit * config.tensor.bits
        units_in, units_out = config.lanes_in // config.unit, config.lanes_out // config.unit
        held = Signal(config.inputs[0].width, reset_less=True)
        left = Signal(range(units_in + 1))
        slot = counter(units_out)
        word = Signal(config.outputs[0].width, reset_less=True)
        complete, move, fire = Signal(), Signal(), Signal()
        m.d.comb += [
            complete.eq(slot == units_out - 1),
            move.eq((left != 0) & (~complete | queue.room)),
            self.i.ready.eq((left == 0) | ((left == 1) & move)),
            fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(move & complete),
            queue.i.p.eq(word),
        ]
        m.d.sync += queue.i.valid.eq(move & complete)
        with m.If(move):
            m.d.sync += [
                held.eq(held >> size), left.eq(left - 1), slot.eq(Mux(complete, 0, slot + 1))
            ]
            for k in range(units_out):
                with m.If(slot == k):
                    m.d.sync += word[k * size : (k + 1) * size].eq(held[:size])
        with m.If(fire):
            m.d.sync += [held.eq(Cat(self.i.p.as_value())), left.eq(units_in)]
        return m
