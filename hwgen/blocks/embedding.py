"""Embedding: rows of a table by their numbers, a part of a row per beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring

from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.beat import valid_chain
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, levels, wrapped_bits
from hwgen.device.cost import Area, logic
from hwgen.ir import Embedding as EmbeddingOp
from hwgen.parts.component import Configured
from hwgen.parts.memory import ReadOnlyMemory, check_style
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.stream import StreamType, in_order, pack_rows
from hwgen.parts.turns import last_of
from hwgen.parts.weights import WeightMemory, WeightMemoryConfig

__all__ = ["Embedding", "EmbeddingConfig"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(OpConfig):
    """A table of rows in memory on the chip.

    Parameters
    ----------
    op : :class:`hwgen.ir.Embedding`
    tensor : :class:`TensorType`
        Type of the ids, one channel.
    lanes : :class:`int`
        Elements of a row per beat at the output; an id is a beat at the input.
    weight_style : :class:`str`
        Memory of the table: one of :data:`hwgen.device.storage.STYLES`; ``""``: LUTs or block
        memory, whichever is cheaper.  UltraRAM is loaded after reset.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such style, or if the ids are not the only channel of their tensor.
    """

    kind: ClassVar[str] = "elementwise"

    op: EmbeddingOp
    weight_style: str = ""

    def __post_init__(self) -> None:
        check_style(self.weight_style)
        super().__post_init__()

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, 1),)

    @property
    def beats(self) -> int:
        """Beats of a row."""
        return self.outputs[0].beats_per_site

    @property
    def clamped(self) -> bool:
        """Whether there are codes beyond the last row."""
        return len(self.op.rows) < 1 << self.tensor.bits

    @property
    def memory(self) -> ReadOnlyMemory | WeightMemoryConfig:
        """The memory: the first beat of every row, then the second of every row, and so on."""
        width, depth = self.outputs[0].width, self.op.rows.shape[0] * self.beats
        if self.weight_style == "ultra":
            return WeightMemoryConfig(width, depth, self.weight_style)
        return ReadOnlyMemory(width, depth, self.weight_style)

    @cached_property
    def memory_rows(self) -> list[int]:
        """Contents of the memory."""
        count = len(self.op.rows)
        by_beat = self.op.rows.reshape(count, self.beats, self.lanes).swapaxes(0, 1)
        return pack_rows(by_beat.reshape(-1, self.lanes), self.op.output.bits)

    @property
    def loads(self) -> int:
        return self.memory.loads if isinstance(self.memory, WeightMemoryConfig) else 0

    def load_words(self) -> list[int]:
        memory = self.memory
        return (memory.load_words(self.memory_rows) if isinstance(memory, WeightMemoryConfig)
                else [])

    @property
    def push_latency(self) -> int:
        """Cycles from claiming a place to pushing its beat."""
        return 1 + int(self.beats > 1) + self.memory.latency

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (self.push_latency + QUEUE_LATENCY + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        begin = in_order(arrivals[0], self.beats)
        claims = (begin[:, None] + np.arange(self.beats)).ravel()
        return Schedule((begin + self.beats - 1,), (claims + self.push_latency + QUEUE_LATENCY,),
                        (claims,))

    def parts(self) -> dict[str, Area]:
        return {**super().parts(), "weights": self._memory_area()}

    def area(self) -> Area:
        several, address = self.beats > 1, levels(self.op.rows.shape[0] * self.beats)
        return self.queues_area() + self._memory_area() + logic(
            "embedding", one=1, valid=self.push_latency, code=self.tensor.bits,
            lut_clamp=self.tensor.bits * self.clamped, address=address * several,
            counter=levels(self.beats), wrap=wrapped_bits(self.beats) if several else 0,
        )

    def _memory_area(self) -> Area:
        """Area of the memory."""
        memory = self.memory
        if isinstance(memory, ReadOnlyMemory) and memory.kind == "distributed":
            return WeightMemoryConfig(memory.width, memory.depth, memory.kind).area()
        return memory.area()

    def create(self) -> Embedding:
        return Embedding(self)


class Embedding(Configured[EmbeddingConfig]):
    """Sends the row of each id, beat by beat.

    Parameters
    ----------
    config : :class:`EmbeddingConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(id bits), 1)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`
    load, next : see :class:`hwgen.parts.weights.WeightMemory`, if the table is loaded

    Timing
    ------
    One beat of the output per cycle; the first of an id that comes in cycle t is visible in
    t + 3 + ``config.push_latency``.  An id is accepted with the last beat of its row.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        beats, count = config.beats, config.op.rows.shape[0]
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        loaded: Value = Const(1)
        push = Signal()
        last = last_of(m, beats, push, "left") if beats > 1 else Const(1)
        # From the smallest code on, ids are counted up from 0: only the sign is the other way.
        code = self.i.p[0].as_unsigned() ^ (1 << (config.tensor.bits - 1))
        row = Signal(range(max(count, 2)), reset_less=True)
        m.d.sync += row.eq(Mux(code > count - 1, count - 1, code) if config.clamped else code)
        address: Value = row
        if beats > 1:
            address = Signal(range(count * beats), reset_less=True)
            m.d.sync += address.eq(row + self._first(m, push))
        if isinstance(config.memory, WeightMemoryConfig):
            m.submodules.table = table = WeightMemory(config.memory, config.memory_rows)
            m.d.comb += table.address.eq(address)
            word: Value = table.data
            loaded = table.loaded
            wiring.connect(m, wiring.flipped(self.load), table.load)
            wiring.connect(m, table.next, wiring.flipped(self.next))
        else:
            word = config.memory.read(m, "table", address, config.memory_rows)
        m.d.comb += [
            push.eq(self.i.valid & queue.room & loaded),
            self.i.ready.eq(queue.room & loaded & last),
            queue.reserve.eq(push),
            queue.i.valid.eq(valid_chain(m, push, config.push_latency)[-1]),
            Cat(queue.i.p.as_value()).eq(word),
        ]
        return m

    def _first(self, m: Module, push: Value) -> Value:
        """Address of the first row's beat, a cycle after the beat's place was claimed."""
        config = self.config
        count, beat = config.op.rows.shape[0], counter(config.beats, name="beat")
        first = Signal(range(config.op.rows.shape[0] * config.beats))
        over = beat == config.beats - 1
        with m.If(push):
            m.d.sync += [beat.eq(Mux(over, 0, beat + 1)), first.eq(Mux(over, 0, first + count))]
        late = Signal.like(first, name="late", reset_less=True)
        m.d.sync += late.eq(first)
        return late


@carries_out(EmbeddingOp, own_lanes=True)
def _embedding(request: BlockRequest) -> EmbeddingConfig:
    return EmbeddingConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                           **request.folded(EmbeddingConfig))
