"""Any order of a frame: words are written as they come, and read in another order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring

from hwgen import ir
from hwgen.blocks.base import Buffer, OpConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import add_carry, counter, levels
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, buffer_area, buffer_registers
from hwgen.parts.order import OrderWalk, WordOrder
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.stream import in_order

__all__ = ["Rearrange", "RearrangeConfig", "check_lanes", "word_lanes", "words_of"]

READ_LATENCY = 2
"""Cycles from reading a word to its push."""


def check_lanes(op: ir.Rearrange, tensor: TensorType, lanes: int) -> None:
    """Raise :exc:`HwgenError` if an order takes beats of so many lanes apart."""
    run = op.run(tensor)
    if run % lanes:
        raise HwgenError(
            f"Lanes must divide the {run} channels that the order keeps side by side, "
            f"not {lanes!r}"
        )


def words_of(op: ir.Rearrange, lanes: int) -> np.ndarray:
    """Which word of the input each of the output is, in the output's shape: words of some lanes."""
    *spatial, channels = op.order.shape
    words = op.order.reshape(*spatial, channels // lanes, lanes)
    return words[..., 0] // lanes


def word_lanes(request: BlockRequest) -> int:
    """Lanes as many as the streams on either side want, if the order keeps them together."""
    run = request.op.run(request.tensor)
    wanted = max(request.lanes, request.streams[0].elements)
    return next(n for n in range(1, run + 1) if run % n == 0 and (n >= wanted or n == run))


@dataclass(frozen=True, kw_only=True)
class RearrangeConfig(OpConfig):
    """A frame in another order.

    Parameters
    ----------
    op : :class:`hwgen.ir.Rearrange`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels a beat at both ports: a word, which the order keeps together.
    capacity : :class:`int`
        Words of the buffer; 0: the fewest with which it works.
    window_style : :class:`str`
        Memory of the buffer.
    pace : :class:`int`
        Cycles of a pixel of the output, at most those of its beats when each takes a whole number
        of them; 0: a beat a cycle.  What waits in the buffer then does not come in a burst.

    Raises
    ------
    :exc:`HwgenError`
        If the order takes words apart, or is too long for its table; or the capacity is too small.
    """

    op: ir.Rearrange
    capacity: int = 0
    window_style: str = ""
    pace: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lanes(self.op, self.tensor, self.lanes)
        least = self.order.least_capacity
        if 0 < self.capacity < least:
            raise HwgenError(
                f"Capacity must be at least {least} words, not {self.capacity!r}"
            )

    @cached_property
    def order(self) -> WordOrder:
        """The order of words."""
        return WordOrder(words_of(self.op, self.lanes), self.inputs[0].beats)

    @property
    def depth(self) -> int:
        """Words of the buffer."""
        return max(self.capacity or self.order.least_capacity, 2)

    @property
    def buffer(self) -> Buffer:
        return Buffer(self.inputs[0].width, self.depth, 1, self.window_style)

    @property
    def beat_cycles(self) -> int:
        """Cycles of a beat of the output."""
        return max(self.pace // self.outputs[0].beats_per_site, 1)

    @property
    def interval(self) -> int:
        return max(self.inputs[0].beats, self.outputs[0].beats * self.beat_cycles)

    @property
    def least_depths(self) -> tuple[int, ...]:
        return ((READ_LATENCY + QUEUE_LATENCY) // self.beat_cycles + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accepts = in_order(arrivals[0])
        read, least = self.order.by_frames(len(accepts) // self.inputs[0].beats)
        reads = in_order(accepts[read] + 1, self.beat_cycles)
        # Once a word is read, all those are free that nothing behind it needs.
        first = int(self.order.least[0])
        freed = np.diff(least, prepend=first)
        places = np.repeat(np.append(-1, reads + 1), np.append(first, freed))
        capacity = max(queue_depth(accepts, places[: len(accepts)]), self.order.least_capacity)
        out = reads + READ_LATENCY + QUEUE_LATENCY
        return Schedule((accepts,), (out,), (reads,), capacity)

    @property
    def changes(self) -> dict[str, np.ndarray]:
        """Per word of a period, what changes when it is read.

        Members
        -------
        need : words by which those are fewer that are there of what is read next
        freed : words that are free then
        back, ahead : from its address to the next one, either way around the buffer
        """
        steps, freed = np.diff(self.order.read), np.diff(self.order.least)
        return {"need": -steps, "freed": freed, "back": steps % self.depth - self.depth,
                "ahead": steps % self.depth}

    @property
    def position_bits(self) -> int:
        """Bits of a signed distance between words."""
        order = self.order
        return (int(order.read.max()) + order.advance + self.depth + 1).bit_length() + 1

    def area(self) -> Area:
        width, bits, address = self.inputs[0].width, self.position_bits, levels(self.depth)
        changes = list(self.changes.values())
        rest = levels(self.beat_cycles)
        return (
            self.queues_area() + buffer_area(width, self.depth, self.window_style)
            + self.order.walk_area(*changes)
            + logic("rearrange", one=1, rest=rest, address=address, position=bits,
                    ff_register=buffer_registers(width, self.depth, self.window_style))
        )

    def create(self) -> Rearrange:
        return Rearrange(self)


class Rearrange(Configured[RearrangeConfig]):
    """Writes a frame to a circular buffer, and reads its words in another order.

    A word is read once it is there, and its place is free once neither it nor any in front of it
    is needed any more; so the buffer holds as much of a frame as the order needs, and no more.

    Parameters
    ----------
    config : :class:`RearrangeConfig`

    Members
    -------
    i, o : :py:`stream.Signature(ArrayLayout(signed(bits), lanes))`

    Timing
    ------
    A word is visible six cycles after the last of those that it waits for was accepted; one word a
    cycle, or every ``config.beat_cycles``.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        order, depth = config.order, config.depth
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        m.submodules.buffer = buffer = BufferMemory(
            config.inputs[0].width, depth, config.window_style)
        bits = config.position_bits
        # Places that are left after the next word; words that are there of what is read, less one.
        left = Signal(signed(bits), init=depth + int(order.least[0]) - 1)
        missing = Signal(signed(bits), init=-int(order.read[0]) - 1)
        take, read, rested = Signal(), Signal(), Signal(init=1)
        now = OrderWalk(m, order, read, config.changes).now
        freed = Signal(signed(len(now["freed"]) + 1), init=-1)
        write_address = counter(depth, name="write_address")
        address = counter(depth, name="address", init=int(order.read[0]) % depth)
        back = Signal(signed(len(address) + 1))
        if config.beat_cycles > 1:
            rest = counter(config.beat_cycles, name="rest")
            m.d.comb += rested.eq(rest == 0)
            m.d.sync += rest.eq(Mux(read, config.beat_cycles - 1, Mux(rested, 0, rest - 1)))
        m.d.comb += [
            self.i.ready.eq(~left[-1]),
            take.eq(self.i.valid & self.i.ready),
            read.eq(~missing[-1] & queue.room & rested),
            queue.reserve.eq(read),
            back.eq(address + now["back"]),
            buffer.write_en.eq(take), buffer.write_addr.eq(write_address),
            buffer.write_data.eq(Cat(self.i.p)),
            buffer.read_en.eq(1), buffer.read_addr.eq(address), buffer.load.eq(1),
            Cat(queue.i.p).eq(buffer.read_data),
        ]
        m.d.sync += [
            freed.eq(Mux(read, now["freed"] - 1, -1)),
            left.eq(add_carry(left, freed, ~take)),
            missing.eq(add_carry(missing, Mux(read, now["need"], 0), take)),
        ]
        with m.If(take):
            m.d.sync += write_address.eq(Mux(write_address == depth - 1, 0, write_address + 1))
        with m.If(read):
            m.d.sync += address.eq(Mux(back[-1], address + now["ahead"], back))
        pushed = Signal()
        m.d.sync += [pushed.eq(read), queue.i.valid.eq(pushed)]
        return m


@carries_out(ir.Rearrange, own_lanes=True)
def _rearrange(request: BlockRequest) -> RearrangeConfig:
    return RearrangeConfig(op=request.op, tensor=request.tensor, lanes=word_lanes(request),
                           **request.folded(RearrangeConfig))
