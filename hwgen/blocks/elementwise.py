"""Blocks that work beat by beat: table lookup and addition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory

from hwgen.blocks.arithmetic import signed_width
from hwgen.blocks.base import BlockConfig, Resources, Schedule, StreamType, in_order
from hwgen.blocks.queue import QUEUE_LATENCY, Queue, Skid, queue_resources
from hwgen.blocks.requantise import RoundShift
from hwgen.errors import HwgenError
from hwgen.ir.ops import Add, Table
from hwgen.ir.types import TensorType

__all__ = ["Adder", "AdderConfig", "TableLookup", "TableLookupConfig"]

TABLE_BITS = 12
"""Widest input that is looked up in a table."""


def _check_table(tensor: TensorType) -> None:
    if tensor.bits > TABLE_BITS:
        raise HwgenError(
            f"Tables are built for inputs of up to {TABLE_BITS} bits, not {tensor.bits}"
        )


def _lookup(m: Module, name: str, index, values: np.ndarray, shape):
    """Entry of a table, indexed by a signed code, one cycle later."""
    half = len(values) // 2
    m.submodules[name] = memory = Memory(
        # The code's two's complement, taken as unsigned, counts 0..max, then min..-1.
        shape=shape, depth=len(values), init=[int(v) for v in np.roll(values, -half)],
        attrs={"rom_style": "distributed"},
    )
    read = memory.read_port()
    m.d.comb += read.addr.eq(index)
    return read.data


def _table_resources(bits: int, width: int) -> Resources:
    return Resources(lut=width * max(1, (1 << bits) // 64), ff=width)


@dataclass(frozen=True, kw_only=True)
class _ElementwiseConfig(BlockConfig):
    """What beat-by-beat blocks share: a fixed number of cycles from beat to push."""

    lanes: int = 1

    @property
    def push_latency(self) -> int:
        """Cycles from accepting a beat to pushing its result."""
        raise NotImplementedError

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (self.push_latency + QUEUE_LATENCY + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accept = in_order(arrivals[0])
        out = accept + self.push_latency + QUEUE_LATENCY
        return Schedule((accept,), (out,), (accept,))


@dataclass(frozen=True, kw_only=True)
class TableLookupConfig(_ElementwiseConfig):
    """A table lookup of every element.

    Parameters
    ----------
    op : :class:`hwgen.ir.Table`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Elements a beat, each with a table of its own.
    """

    op: Table
    tensor: TensorType

    def __post_init__(self) -> None:
        _check_table(self.tensor)
        _ = self.inputs, self.outputs

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(self.tensor)[0], self.lanes),)

    @property
    def push_latency(self) -> int:
        return 1

    def resources(self) -> Resources:
        total = queue_resources(self.outputs[0].width, self.queue_depths[0])
        for _ in range(self.lanes):
            total += _table_resources(self.tensor.bits, self.op.output.bits)
        return total

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, (self.tensor,))

    def create(self) -> TableLookup:
        return TableLookup(self)


class TableLookup(wiring.Component):
    """Looks up every element of a stream.

    Parameters
    ----------
    config : :class:`TableLookupConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(input bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 4; one beat a cycle.
    """

    def __init__(self, config: TableLookupConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = Queue(config.outputs[0].payload, config.queue_depths[0])
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire = Signal()
        m.d.comb += [
            self.i.ready.eq(queue.room),
            fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(fire),
        ]
        m.d.sync += queue.i.valid.eq(fire)
        for lane in range(config.lanes):
            m.d.comb += queue.i.p[lane].eq(_lookup(
                m, f"table_{lane}", self.i.p[lane], config.op.values, signed(config.op.output.bits)
            ))
        return m


@dataclass(frozen=True, kw_only=True)
class AdderConfig(_ElementwiseConfig):
    """A sum of two tensors, each with its own scale.

    The products with the constant multipliers are tables, so no DSP is spent.

    Parameters
    ----------
    op : :class:`hwgen.ir.Add`
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements a beat.
    """

    op: Add
    tensors: tuple[TensorType, TensorType]

    def __post_init__(self) -> None:
        for tensor in self.tensors:
            _check_table(tensor)
        _ = self.inputs, self.outputs

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return tuple(StreamType(tensor, self.lanes) for tensor in self.tensors)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(*self.tensors)[0], self.lanes),)

    @cached_property
    def products(self) -> tuple[np.ndarray, np.ndarray]:
        """Per input, the scaled value of every code."""
        a, b = (
            m * (np.arange(t.quantisation.low, t.quantisation.high + 1) - t.zero_point)
            for m, t in zip(self.op.multipliers, self.tensors, strict=True)
        )
        return a, b

    @property
    def product_bits(self) -> int:
        """Bits of a scaled value."""
        low = min(int(p.min()) for p in self.products)
        return signed_width(low, max(int(p.max()) for p in self.products))

    @property
    def push_latency(self) -> int:
        return 2 + RoundShift.latency

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        arrivals = [in_order(times) for times in arrivals]
        join = in_order(np.maximum.reduce(arrivals) + 1)
        # A skid buffer has two places.
        free = np.append(np.full(2, -1), join[:-2]) + 1
        accepts = tuple(np.maximum(times, free[: len(times)]) for times in arrivals)
        return Schedule(accepts, (join + self.push_latency + QUEUE_LATENCY,), (join,))

    def resources(self) -> Resources:
        total = queue_resources(self.outputs[0].width, self.queue_depths[0])
        for _ in range(self.lanes):
            for tensor in self.tensors:
                total += _table_resources(tensor.bits, self.product_bits)
            total += Resources(lut=3 * self.product_bits + 20, ff=5 * self.product_bits)
        for stream in self.inputs:
            total += Resources(lut=stream.width + 4, ff=2 * stream.width + 2)
        return total

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, self.tensors)

    def create(self) -> Adder:
        return Adder(self)


class Adder(wiring.Component):
    """Adds two streams, element by element.

    Parameters
    ----------
    config : :class:`AdderConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A pair whose second was accepted in cycle t is visible in t + 11; one pair a cycle.
    """

    def __init__(self, config: AdderConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = Queue(config.outputs[0].payload, config.queue_depths[0])
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        # Behind buffers, so that no path leads from the one input to the other.
        inputs = []
        for k, port in enumerate((self.i_0, self.i_1)):
            m.submodules[f"skid_{k}"] = skid = Skid(config.inputs[k].payload)
            wiring.connect(m, wiring.flipped(port), skid.i)
            inputs.append(skid.o)
        fire = Signal()
        m.d.comb += [
            fire.eq(inputs[0].valid & inputs[1].valid & queue.room),
            queue.reserve.eq(fire),
            *(i.ready.eq(fire) for i in inputs),
        ]
        valid = fire
        for k in range(config.push_latency):
            delayed = Signal(name=f"valid_{k}")
            m.d.sync += delayed.eq(valid)
            valid = delayed
        m.d.comb += queue.i.valid.eq(valid)
        bits, shift = config.product_bits, config.op.shift
        for lane in range(config.lanes):
            a, b = (
                _lookup(m, f"product_{lane}_{k}", i.p[lane], config.products[k], signed(bits))
                for k, i in enumerate(inputs)
            )
            total = Signal(signed(bits + 1), name=f"total_{lane}", reset_less=True)
            m.d.sync += total.eq(a + b)
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                bits + 1, (shift, shift), config.op.output
            )
            m.d.comb += [rounder.i.eq(total), queue.i.p[lane].eq(rounder.o)]
        return m
