"""Selection of channels in any order: slices, shuffles, repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring

from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.beat import most_claims, valid_chain
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, Resources, logic, total
from hwgen.ir import GatherChannels
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, ReadOnlyMemory, buffer_area, buffer_registers
from hwgen.parts.queue import QUEUE_LATENCY, Queue
from hwgen.parts.stream import in_order
from hwgen.parts.turns import last_of

__all__ = ["Gather", "GatherConfig"]


@dataclass(frozen=True, kw_only=True)
class GatherConfig(OpConfig):
    """A selection of channels.

    Parameters
    ----------
    op : :class:`hwgen.ir.GatherChannels`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat, at both ports.
    """

    op: GatherChannels

    @property
    def beats_in(self) -> int:
        """Beats per pixel at the input."""
        return self.inputs[0].beats_per_site

    @property
    def beats_out(self) -> int:
        """Beats per pixel at the output."""
        return self.outputs[0].beats_per_site

    @cached_property
    def sources(self) -> np.ndarray:
        """Per output beat and lane, the beat and the lane of the input: ``(beats, lanes, 2)``."""
        order = np.array(self.op.order).reshape(self.beats_out, self.lanes)
        return np.stack(np.divmod(order, self.lanes), axis=-1)

    @cached_property
    def way(self) -> str:
        """How the block is built.

        ``"filter"``: input beats pass or are dropped.  This is possible if every output beat is an
        input beat, with the same permutation of lanes in all beats, and if beats stay in order.
        Otherwise a pixel is collected while the one before it leaves, in ``"registers"`` or in a
        ``"memory"`` for each lane, whichever is cheaper (memories for many channels and few lanes).
        """
        beats, lanes = self.sources[..., 0], self.sources[..., 1]
        if (beats == beats[:, :1]).all() and (lanes == lanes[0]).all() and (
            np.diff(beats[:, 0]) > 0
        ).all():
            return "filter"
        # A block memory costs as many LUTs as in `block_ram`, and a flip-flop half a LUT.
        costs = {
            way: r.lut + r.ff / 2 + 96 * r.bram18
            for way, r in (("registers", self._registers), ("memory", self._memories))
        }
        return min(costs, key=costs.__getitem__)

    @cached_property
    def lanes_read(self) -> list[list[int]]:
        """Per output lane, the input lanes from which it takes channels."""
        return [np.unique(self.sources[:, lane, 1]).tolist() for lane in range(self.lanes)]

    @property
    def memory_depth(self) -> int:
        """Number of words in a lane's memory: two pixels, each padded to a power of two."""
        return 2 << levels(self.beats_in)

    @cached_property
    def order_memory(self) -> ReadOnlyMemory:
        """Memory of the order: for each output beat and lane, the word to read, and its channel."""
        widths = (levels(self.beats_in) + levels(len(read)) for read in self.lanes_read)
        return ReadOnlyMemory(max(sum(widths), 1), self.beats_out)

    @property
    def push_latency(self) -> int:
        """Cycles from claiming a place to pushing its beat."""
        if self.way == "filter":
            return 0
        return 1 if self.way == "registers" else self.order_memory.latency + 3

    @property
    def least_depths(self) -> tuple[int, ...]:
        cycles = self.push_latency + QUEUE_LATENCY + 1
        if self.way == "filter":
            return (cycles,)
        return (most_claims(cycles, self.beats_out, max(self.beats_in, self.beats_out)),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        by_pixel = in_order(arrivals[0]).reshape(-1, self.beats_in)
        if self.way == "filter":
            claims = by_pixel[:, self.sources[:, 0, 0]].ravel()
            accepts = by_pixel.ravel()
        else:
            # The last beat of a pixel waits until the pixel before it has left.
            complete = in_order(by_pixel[:, -1], max(self.beats_in, self.beats_out))
            by_pixel[:, -1] = complete
            accepts = in_order(by_pixel.ravel())
            claims = (complete[:, None] + np.arange(1, self.beats_out + 1)).ravel()
        return Schedule((accepts,), (claims + self.push_latency + QUEUE_LATENCY,), (claims,))

    @property
    def _registers(self) -> Resources:
        """Resources for collecting a pixel in registers."""
        bits = self.tensor.bits
        return Resources(lut=bits * len(self.op.order),
                         ff=bits * (self.tensor.channels + len(self.op.order)))

    @property
    def _memories(self) -> Resources:
        """Resources for collecting a pixel in memories."""
        bits, counters = self.tensor.bits, 2 * (levels(self.beats_in) + levels(self.beats_out))
        total = self.order_memory.resources() + Resources(
            lut=counters + 10, ff=counters + 20 + self.order_memory.latency * self.inputs[0].width
        )
        for read in self.lanes_read:
            total += Resources.memory(len(read) * bits, self.memory_depth)
            total += Resources(lut=bits * (len(read) // 2),
                               ff=2 * bits * len(read) + bits + 3 * levels(len(read)))
        return total

    def area(self) -> Area:
        out = self.queues_area()
        width = self.inputs[0].width
        if self.way == "filter":
            wanted = len(np.unique(self.sources[:, 0, 0]))
            some = wanted < self.beats_in
            return out + logic("filter", one=1, counter=levels(self.beats_in) * some)
        counters = levels(self.beats_in) + 2 * levels(self.beats_out)
        common: dict[str, float] = {"one": 1, "counters": counters, "valid": self.push_latency}
        if self.way == "registers":
            return out + logic(
                "gather registers", **common, held=width * (self.beats_in - 1), taken=width,
                leaving=self.tensor.bits * len(self.op.order),
            )
        bits = self.tensor.bits
        reads = [len(read) for read in self.lanes_read]
        memories = total(buffer_area(count * bits, self.memory_depth) for count in reads)
        held = shifted = 0
        for count in reads:
            register = buffer_registers(count * bits, self.memory_depth)
            if count == 1 and register == 2 * bits:
                # The memory's two registers and the one behind them, without a multiplexer between.
                shifted += bits
            else:
                held += register + bits
        return out + memories + self.order_memory.area() + logic(
            "gather memories", **common, ff_register=held, lut_shift=shifted,
            ff4_shift=3 * shifted, late=self.order_memory.latency * width,
            lut_choose=sum(bits * (n // 2) for n in reads), choice=sum(map(levels, reads)),
        )

    def create(self) -> Gather:
        return Gather(self)


class Gather(Configured[GatherConfig]):
    """Selects channels of each pixel.

    Parameters
    ----------
    config : :class:`GatherConfig`

    Members
    -------
    i, o : :py:`stream.Signature(ArrayLayout(signed(bits), lanes))`

    Timing
    ------
    Filter: a beat that is accepted in cycle t and not dropped is visible in t + 3; one beat per
    cycle.  Otherwise, the last beat of a pixel is accepted at least ``beats_out`` cycles after that
    of the pixel before.  If that is in cycle t, the place of output beat k is claimed in t + 1 + k
    (if there is room), and the beat is visible ``config.push_latency`` + 3 cycles later: in
    t + 5 + k from registers, in t + 8 + k from memories (t + 9 + k if the order is in block
    memory).  So a pixel takes as many cycles as it has beats at the input or at the output,
    whichever are more.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire = Signal()
        m.d.comb += fire.eq(self.i.valid & self.i.ready)
        if config.way == "filter":
            self._filter(m, queue, fire)
            return m
        # Number of places that the leaving pixel has yet to claim, minus one.
        left = Signal(range(-1, config.beats_out), init=-1)
        last = last_of(m, config.beats_in, fire, "beats_left")
        complete = Signal()
        move = Signal()
        m.d.comb += [
            self.i.ready.eq(~last | left[-1] | ((left == 0) & queue.room)),
            complete.eq(fire & last),
            move.eq(~left[-1] & queue.room),
            queue.reserve.eq(move),
        ]
        with m.If(complete):
            m.d.sync += left.eq(config.beats_out - 1)
        with m.Elif(move):
            m.d.sync += left.eq(left - 1)
        push = valid_chain(m, move, config.push_latency)
        m.d.comb += queue.i.valid.eq(push[-1])
        if config.way == "registers":
            self._registers(m, queue, fire, complete, push[-1])
        else:
            self._memories(m, queue, fire, complete, move)
        return m

    def _filter(self, m: Module, queue: Queue, fire: Signal) -> None:
        """Pass or drop beats; which of the two is decided a beat ahead."""
        config = self.config
        wanted, count = set(config.sources[:, 0, 0].tolist()), config.beats_in
        take: Value = Const(1)
        if len(wanted) < count:
            mask = Const(sum(1 << beat for beat in wanted), count)
            take = Signal(init=0 in wanted)
            ahead = counter(count, init=1, name="ahead")
            with m.If(fire):
                m.d.sync += [
                    take.eq(mask.bit_select(ahead, 1)),
                    ahead.eq(Mux(ahead == count - 1, 0, ahead + 1)),
                ]
        m.d.comb += [
            self.i.ready.eq(queue.room | ~take),
            queue.reserve.eq(fire & take),
            queue.i.valid.eq(fire & take),
            *(p.eq(self.i.p[lane])
              for p, lane in zip(queue.i.p, config.sources[0, :, 1].tolist(), strict=True)),
        ]

    def _registers(
        self, m: Module, queue: Queue, fire: Signal, complete: Signal, push: Value
    ) -> None:
        """Two shift registers: beats enter at the top of one and leave at the bottom of the other.

        The last beat of a pixel goes straight to the second register.
        """
        config = self.config
        bits, width = config.tensor.bits, config.inputs[0].width
        beat = delayed(m, Cat(self.i.p.as_value()), 1, "taken")
        collect = Signal()
        load = Signal()
        m.d.sync += [collect.eq(fire), load.eq(complete)]
        pixel = beat
        if config.beats_in > 1:
            held = Signal(width * (config.beats_in - 1), reset_less=True)
            pixel = Cat(held, beat)
            with m.If(collect):
                m.d.sync += held.eq(pixel[width:])
        leaving = Signal(width * config.beats_out, reset_less=True)
        with m.If(load):
            m.d.sync += leaving.eq(Cat(pixel.word_select(k, bits) for k in config.op.order))
        with m.Elif(push):
            m.d.sync += leaving.eq(leaving >> width)
        m.d.comb += queue.i.p.as_value().eq(leaving[:width])

    def _memories(
        self, m: Module, queue: Queue, fire: Signal, complete: Signal, move: Signal
    ) -> None:
        """For each output lane, a memory of the input lanes that it reads, for two pixels.

        Writes are delayed as much as reads, whose addresses come from a memory.  Therefore no word
        is overwritten before it has been read.
        """
        config = self.config
        bits, word_bits = config.tensor.bits, levels(config.beats_in)
        late = config.order_memory.latency
        beat = counter(config.beats_in, name="beat")
        half = Signal()
        with m.If(fire):
            m.d.sync += beat.eq(Mux(complete, 0, beat + 1))
        with m.If(complete):
            m.d.sync += half.eq(~half)
        beat_out = counter(config.beats_out, name="turn")
        half_out = Signal()
        with m.If(move):
            m.d.sync += beat_out.eq(Mux(beat_out == config.beats_out - 1, 0, beat_out + 1))
            with m.If(beat_out == config.beats_out - 1):
                m.d.sync += half_out.eq(~half_out)
        write = delayed(m, Cat(self.i.p.as_value()), late, "write")
        write_en = delayed(m, fire, late, "write_en")
        write_addr = delayed(m, Cat(beat[:word_bits], half), late, "write_addr")
        read_half = delayed(m, half_out, late, "read_half")
        row = config.order_memory.read(m, "walk", beat_out, self._order_rows())
        for lane, read in enumerate(config.lanes_read):
            m.submodules[f"pixels_{lane}"] = memory = BufferMemory(
                len(read) * bits, config.memory_depth
            )
            word, row = row[:word_bits], row[word_bits:]
            choice, row = row[: levels(len(read))], row[levels(len(read)) :]
            if len(read) > 1:
                choice = delayed(m, choice, 2, f"choice_{lane}")
            m.d.comb += [
                memory.write_en.eq(write_en), memory.write_addr.eq(write_addr),
                memory.write_data.eq(Cat(write.word_select(k, bits) for k in read)),
                memory.read_en.eq(1), memory.read_addr.eq(Cat(word, read_half)),
                memory.load.eq(1),
            ]
            out = Signal(bits, name=f"out_{lane}", reset_less=True)
            m.d.sync += out.eq(memory.read_data.word_select(choice, bits))
            m.d.comb += queue.i.p[lane].eq(out)

    def _order_rows(self) -> list[int]:
        """Contents of the memory of the order."""
        config, rows = self.config, []
        for sources in config.sources.tolist():
            row, shift = 0, 0
            for (word, lane), read in zip(sources, config.lanes_read, strict=True):
                row |= word << shift
                shift += levels(config.beats_in)
                row |= read.index(lane) << shift
                shift += levels(len(read))
            rows.append(row)
        return rows


def _by_pixel(op: GatherChannels, pixels: int) -> GatherChannels:
    return replace(op, order=tuple(n * pixels + k for n in op.order for k in range(pixels)))


@carries_out(GatherChannels, pixels=_by_pixel)
def _gather(request: BlockRequest) -> GatherConfig:
    return GatherConfig(op=request.op, tensor=request.tensor, lanes=request.lanes)
