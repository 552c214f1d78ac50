"""What blocks share that keep their beats in a ring of off-chip memory.

Beats are packed into words, which are written to the ring slot by slot, a request each; what is
read back is unpacked.  Only two short FIFOs are on the chip.  Requests are collected in the *head*;
the *tail* has room for the words that are on their way from the memory.

Places are claimed before they are filled here, too: a slot of the ring before it is written, and
places of the tail before something is read.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol, TypeVar

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.blocks.base import BlockConfig
from hwgen.device.arithmetic import add_carry, counter, levels
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.offchip.bus import BURST, MEMORY_LATENCY, REQUEST_LIMIT, AxiConfig
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY, Queue, queue_area
from hwgen.parts.stream import in_order
from hwgen.parts.turns import last_of

__all__ = ["WRITE_LATENCY", "RingBuffer", "RingConfig", "ends_of", "nonzero_count",
           "unpack"]

LEAST_HEAD = 32
"""Least number of words in the head memory; so many cost no more than one."""

WRITE_LATENCY = QUEUE_LATENCY
"""Cycles from the push of a request's last word into the head memory to the request.

By then the word is visible, so all words of a request can be taken when it is made.
"""


@dataclass(frozen=True, kw_only=True)
class RingConfig(BlockConfig):
    """A block that keeps its beats in a ring of off-chip memory.

    A word holds as many whole beats as fit, or a beat takes several words.  Every frame begins with
    a new word and a new request, so that no frame waits for the next one; its last word and its
    last request may be shorter.  The address of the ring is not part of the configuration but an
    input of the component, so that blocks that differ only in their address share a module.

    Parameters
    ----------
    axi : :class:`hwgen.offchip.bus.AxiConfig`
    burst : :class:`int`
        Most words in a request; a power of two, at most 4096 bytes.
    memory_latency : :class:`int`
        Most cycles that the memory takes from the offer of a request to ``done`` or to the last
        word of its data.  It determines the schedule and the size of the tail memory; with a
        slower memory the block works, but more slowly.
    styles : sequence of :class:`str`
        Style of the tail memory, the largest on the chip.  If it is ``"block"``, so is that of the
        head memory.

    Raises
    ------
    :exc:`HwgenError`
        If a number is out of range, or if the ring exceeds what addresses can reach.
    """

    evicts: ClassVar[bool] = True

    axi: AxiConfig
    burst: int = BURST
    memory_latency: int = MEMORY_LATENCY

    def __post_init__(self) -> None:
        most = REQUEST_LIMIT // self.axi.word_bytes
        if not 1 <= self.burst <= most or self.burst & (self.burst - 1):
            raise HwgenError(
                f"Burst must be a power of two from 1 to {most} words, not {self.burst!r}"
            )
        least = self.request_words[0]
        if self.memory_latency < least:
            raise HwgenError(
                f"Memory latency must be at least the {least} words of a request, "
                f"not {self.memory_latency!r}"
            )
        _ = self.queue_styles
        if self.queue_depths[0] < 1:
            raise HwgenError(f"Queue depth must be positive, not {self.queue_depths[0]!r}")
        if self.ring_bytes > 1 << self.axi.address_bits:
            raise HwgenError(
                f"Ring must be within {self.axi.address_bits} bits of address, "
                f"not of {self.ring_bytes!r} bytes"
            )

    # What is written, and where

    @property
    @abstractmethod
    def packed_beats(self) -> int:
        """Beats after which a new word begins."""

    @property
    @abstractmethod
    def slot_words(self) -> int:
        """Words of a slot of the ring, which are written with one request."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Number of slots of the ring."""

    @property
    @abstractmethod
    def tail_words(self) -> int:
        """Words of the tail memory."""

    @property
    @abstractmethod
    def tail_claims(self) -> tuple[int, ...]:
        """Numbers of words that are read with a request."""

    @property
    def signature(self) -> wiring.Signature:
        return wiring.Signature({
            **super().signature.members,
            "read": Out(self.axi.read_client), "write": Out(self.axi.write_client),
            "base": In(self.axi.address_bits), "waits": Out(1),
        })

    @property
    def beats_per_word(self) -> int:
        """Number of beats that a word holds."""
        return max(self.axi.data_bits // self.inputs[0].width, 1)

    @property
    def words_per_beat(self) -> int:
        """Number of words that a beat takes."""
        return -(-self.inputs[0].width // self.axi.data_bits)

    @property
    def word_bits(self) -> int:
        """Number of bits of a word that are used; the others need no memory on the chip."""
        return min(self.inputs[0].width * self.beats_per_word, self.axi.data_bits)

    @property
    def words_per_frame(self) -> int:
        """Number of words that are written of a frame."""
        groups, rest = divmod(self.inputs[0].beats, self.packed_beats)
        return (groups * -(-self.packed_beats // self.beats_per_word)
                + -(-rest // self.beats_per_word)) * self.words_per_beat

    @property
    def requests_per_frame(self) -> int:
        """Number of requests per frame to write."""
        return -(-self.words_per_frame // self.slot_words)

    @property
    def request_words(self) -> tuple[int, ...]:
        """Number of words in a request, and in the last one of a frame if that is shorter."""
        whole, rest = divmod(self.words_per_frame, self.slot_words)
        return tuple(n for n in (self.slot_words * (whole > 0), rest) if n)

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot of the ring."""
        return self.slot_words * self.axi.word_bytes

    @property
    def ring_bytes(self) -> int:
        """Bytes of the ring."""
        return self.slots * self.slot_bytes

    @property
    def address_shift(self) -> int:
        """Low bits of an address that are those of the base, which is a multiple of two to this."""
        return (self.slot_bytes & -self.slot_bytes).bit_length() - 1

    # When

    @property
    def frame_steps(self) -> int:
        """Steps of a frame at the input: beats, or words if a beat takes several; one per cycle."""
        return self.inputs[0].beats * self.words_per_beat

    @property
    @abstractmethod
    def request_steps(self) -> int:
        """Steps of a request, but for the last of a frame."""

    @cached_property
    def request_ends(self) -> np.ndarray:
        """The last step of each request of a frame."""
        ends = np.arange(1, self.requests_per_frame + 1) * self.request_steps
        return np.minimum(ends, self.frame_steps) - 1

    @property
    def pack_latency(self) -> int:
        """Cycles from the last beat of a word to its push into the head memory."""
        return int(self.beats_per_word * self.words_per_beat > 1)

    @property
    def unpack_latency(self) -> int:
        """Cycles from when a word of the tail memory is visible to its first beat."""
        return int(self.beats_per_word > 1)

    def closed(self, arrivals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """When beats are taken.

        Returns
        -------
        begin : per beat, when its first step is taken
        closed : per frame and request, when its last step is taken, shape ``(frames, requests)``
        """
        words = self.words_per_beat
        begin = in_order(arrivals, words)
        steps = (begin[:, None] + np.arange(words)).reshape(-1, self.frame_steps)
        return begin, steps[:, self.request_ends]

    # What is on the chip

    @property
    def head_words(self) -> int:
        """Words of the head memory: those of a request that waits to be made, and of the next."""
        return max(2 * self.request_words[0], LEAST_HEAD)

    @property
    def head_style(self) -> str:
        """Style of the head memory."""
        return "block" if self.queue_styles[0] == "block" else ""

    def parts(self) -> dict[str, Area]:
        # The rest of the queue is not on the chip.
        return {"queue": self._ends_area}

    @property
    def _ends_area(self) -> Area:
        """Area of head and tail memory."""
        return queue_area(self.word_bits, self.head_words, 1, self.head_style) + queue_area(
            self.word_bits, self.tail_words, len(self.tail_claims), self.queue_styles[0])

    def ring_area(self) -> Area:
        """Area of head and tail, of packing and unpacking, and of requests for slot after slot."""
        beats, words = self.beats_per_word, self.words_per_beat
        out = self._ends_area
        # Addresses and sizes of requests, slots, counters of requests, words and beats.
        address = self.axi.address_bits - self.address_shift
        slot, frame = levels(self.slots), levels(self.requests_per_frame)
        word = _end_bits(self.slot_words, self.words_per_frame)
        requests = 2 * (address + slot + frame + word)
        pending = 2 * slot + levels(self.head_words)
        out += logic("eviction", one=1, lut_address=address, lut_slot=slot, lut_word=word,
                     ff_register=requests + pending)
        if beats > 1:
            beat = 2 * _end_bits(beats, self.packed_beats) + levels(beats)
            # Packing takes a LUT per bit, unless beats are so few or so many that synthesis uses
            # the enables of flip-flops.  Unpacking always takes a LUT per bit.
            out += logic("packed beats", one=1, lut_unpack=self.word_bits,
                         lut_pack=self.word_bits * (4 < beats <= 16), lut_beat=beat,
                         ff_register=2 * self.word_bits + beat)
        if words > 1:
            chosen = self.axi.data_bits * -(-(words - 1) // 3)
            out += logic("split beats", one=1, lut_choice=chosen, lut_word=levels(words),
                         ff_register=words * self.axi.data_bits + 3 * levels(words))
        return out


def _end_bits(group: int, total: int) -> int:
    """Bits of the counters of :func:`ends_of`."""
    if total % group == 0 or total < group:
        return levels(min(group, total)) + 1
    return levels(group) + levels(total) + 2


def ends_of(m: Module, group: int, total: int, step: Value, name: str) -> Value:
    """Whether the next step is the last of a group of ``group`` steps.

    A new group begins after every ``total`` steps, so the last of them may be shorter.
    """
    if total % group == 0 or total < group:
        return last_of(m, min(group, total), step, name)
    left = Signal(signed(levels(group) + 1), init=group - 2, name=name)
    last = left[-1] | last_of(m, total, step, f"{name}_frame")
    with m.If(step):
        m.d.sync += left.eq(Mux(last, group - 2, left - 1))
    return last


def nonzero_count(
    m: Module, name: str, most: int, more: Value, less: Value, init: int = 0
) -> Value:
    """Whether a counter with values 0..most is not 0, from the sign bit of a register."""
    left = Signal(signed(most.bit_length() + 1), init=init - 1, name=name)
    m.d.sync += left.eq(add_carry(left, less.replicate(2).as_signed(), more))
    return ~left[-1]


class Packed(Protocol):
    """How beats are packed into words: several to a word, or a beat takes several."""

    @property
    def beats_per_word(self) -> int:
        """Number of beats that a word holds."""
        ...

    @property
    def words_per_beat(self) -> int:
        """Number of words that a beat takes."""
        ...

    @property
    def word_bits(self) -> int:
        """Number of bits of a word that are used."""
        ...

    @property
    def packed_beats(self) -> int:
        """Beats after which a new word begins."""
        ...


def unpack(m: Module, config: Packed, tail: Queue, o) -> None:
    """Unpack words of the tail memory into beats."""
    beats, words = config.beats_per_word, config.words_per_beat
    beat = o.p.as_value()
    if beats > 1:
        word = Signal(config.word_bits, name="unpacked", reset_less=True)
        step = o.valid & o.ready
        last = ends_of(m, beats, config.packed_beats, step, "unpacking")
        m.d.comb += [
            beat.eq(word[: len(beat)]),
            tail.o.ready.eq(~o.valid | (o.ready & last)),
        ]
        with m.If(tail.o.ready):
            m.d.sync += [o.valid.eq(tail.o.valid), word.eq(tail.o.p)]
        with m.Elif(o.ready):
            m.d.sync += word.eq(word >> len(beat))
        return
    if words == 1:
        m.d.comb += [
            beat.eq(tail.o.p), o.valid.eq(tail.o.valid), tail.o.ready.eq(o.ready)
        ]
        return
    # All words of a beat but the last, which stays in the tail memory.
    held = Signal((words - 1) * config.word_bits, name="unpacked", reset_less=True)
    step = tail.o.valid & tail.o.ready
    last = last_of(m, words, step, "unpacking")
    m.d.comb += [
        beat.eq(Cat(held, tail.o.p)), o.valid.eq(tail.o.valid & last),
        tail.o.ready.eq(~last | o.ready),
    ]
    with m.If(step):
        m.d.sync += held.eq(Cat(held, tail.o.p) >> config.word_bits)


C = TypeVar("C", bound=RingConfig)


class RingBuffer(Configured[C]):
    """Base of blocks that keep their beats in a ring of off-chip memory.

    Parameters
    ----------
    config : a :class:`RingConfig`

    Members
    -------
    i : :py:`In(stream.Signature(payload))`
    o : :py:`Out(stream.Signature(payload))`
    read : :py:`Out(axi.read_client)`
    write : :py:`Out(axi.write_client)`
        All words of a request are available when it is made, and come one per cycle.
    base : :py:`In(address_bits)`
        First address of the ring; a constant, and a multiple of ``1 << config.address_shift``.
    waits : :py:`Out(1)`
        In the previous cycle, a beat was offered that did not fit the head memory although a slot
        was free: the memory does not take words as fast as they come.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.head = head = Queue(
            config.word_bits, config.head_words, style=config.head_style
        )
        m.submodules.tail = tail = Queue(
            config.word_bits, config.tail_words, config.tail_claims, config.queue_styles[0]
        )
        self._pack(m, head)
        unpack(m, config, tail, self.o)
        m.d.comb += [
            self.write.data.valid.eq(head.o.valid), self.write.data.p.eq(head.o.p),
            head.o.ready.eq(self.write.data.ready),
            tail.i.valid.eq(self.read.data.valid), tail.i.p.eq(self.read.data.p),
        ]
        # Requests whose words are all in the head.
        closed = Signal()
        ends = ends_of(m, config.slot_words, config.words_per_frame, head.i.valid, "closing")
        m.d.sync += closed.eq(head.i.valid & ends)
        due, made, _ = self.requests(m, "write", self.write.request)
        free = self.free_slot(m, made, tail)
        full = nonzero_count(m, "full", config.head_words, closed, made)
        m.d.comb += due.eq(free & full)
        # Not in the cycle in which a slot becomes free for which the head had to wait.
        late = self.late(m, full & ~free, head)
        m.d.sync += self.waits.eq(self.i.valid & ~head.room & free & ~made & ~late)
        self.read_back(m, tail)
        return m

    def free_slot(self, m: Module, made: Value, tail: Queue) -> Value:
        """Whether the next slot of the ring is free; ``made``: it is claimed in this cycle."""
        raise NotImplementedError

    def late(self, m: Module, blocked: Value, head: Queue) -> Value:
        """Whether the head is full because it had to wait for slots, of which many are free now.

        ``blocked``: a request waits for a slot in this cycle.
        """
        return Const(0, 1)

    def read_back(self, m: Module, tail: Queue) -> None:
        """Make requests to read."""
        raise NotImplementedError

    def requests(self, m: Module, name: str, request) -> tuple[Signal, Signal, Value]:
        """Make requests for one slot after the other.

        Returns
        -------
        due : whether the next request may be made; the caller drives it
        made : whether it is made in this cycle
        short : whether it is the shorter one at the end of a frame
        """
        config = self.config
        due, made = Signal(name=f"{name}_due"), Signal(name=f"{name}_made")
        low = config.address_shift
        step = config.slot_bytes >> low
        last = (config.slots - 1) * step
        slot = counter(last + 1, name=f"{name}_slot")
        whole, *rest = config.request_words
        short = last_of(m, config.requests_per_frame, made, f"{name}_left") if rest else Const(0)
        free = ~request.valid | request.ready
        m.d.comb += made.eq(due & free)
        with m.If(free):
            m.d.sync += [
                request.valid.eq(due),
                request.p.address[low:].eq(self.base[low:] + slot),
                request.p.bytes.eq(
                    Mux(short, rest[0] if rest else 0, whole) * config.axi.word_bytes
                ),
            ]
        with m.If(made):
            m.d.sync += slot.eq(Mux(slot == last, 0, slot + step))
        return due, made, short

    def _pack(self, m: Module, head: Queue) -> None:
        """Pack beats into words of the head memory."""
        config = self.config
        beats, words = config.beats_per_word, config.words_per_beat
        beat = self.i.p.as_value()
        move = Signal(name="pack_move")
        m.d.comb += move.eq(self.i.valid & head.room)
        if beats == words == 1:
            m.d.comb += [
                self.i.ready.eq(head.room), head.i.p.eq(beat), head.i.valid.eq(move),
                head.reserve.eq(move),
            ]
            return
        word = Signal(config.word_bits, name="packed", reset_less=True)
        index = counter(max(beats, words), name="pack_place")
        if beats > 1:
            last = ends_of(m, beats, config.packed_beats, move, "packing")
            push = move & last
            m.d.comb += self.i.ready.eq(head.room)
            # What is written before the beat is offered is overwritten when it is.
            for k in range(beats):
                with m.If(index == k):
                    m.d.sync += word.word_select(k, len(beat)).eq(beat)
        else:
            last = last_of(m, words, move, "packing")
            push = move
            m.d.comb += self.i.ready.eq(head.room & last)
            with m.Switch(index):
                for k in range(words):
                    with m.Case(k) if k < words - 1 else m.Default():
                        m.d.sync += word.eq(beat[k * len(word) : (k + 1) * len(word)])
        m.d.comb += [head.reserve.eq(push), head.i.p.eq(word)]
        m.d.sync += head.i.valid.eq(push)
        with m.If(move):
            m.d.sync += index.eq(Mux(last, 0, index + 1))
