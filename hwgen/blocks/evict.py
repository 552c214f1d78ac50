"""A FIFO whose body is in off-chip memory, for skip connections that are too long for the chip.

Beats are packed into words, written to memory in bursts, read back in the same order, and unpacked.
Only two short FIFOs are on the chip.  Bursts are collected in the *head*; the *tail* has room for
the words that are on their way from the memory (SMOF; Toupas, Yu, Bouganis and Tzovaras, "SMOF:
Streaming Modern CNNs on FPGAs with Smart Off-Chip Eviction", FCCM 2024).

Places are claimed before they are filled here, too: a slot of the ring before a burst is written,
and places of the tail before a burst is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.blocks.base import BlockConfig, OffChip, Schedule
from hwgen.device.arithmetic import add_carry, counter, levels
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.offchip.bus import BURST, MEMORY_LATENCY, REQUEST_LIMIT, AxiConfig
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY, Queue, queue_area
from hwgen.parts.stream import StreamType, in_order
from hwgen.parts.turns import last_of

__all__ = ["EvictionBuffer", "EvictionConfig"]

LEAST_HEAD = 32
"""Least number of words in the head memory; so many cost no more than one."""

WRITE_LATENCY = QUEUE_LATENCY
"""Cycles from the push of a request's last word into the head memory to the request.

By then the word is visible, so all words of a request can be taken when it is made.
"""

READ_LATENCY = 2
"""Cycles from ``done`` to the request that reads what was written."""

CLAIM_LATENCY = 1 + QUEUE_LATENCY + 1
"""Cycles for which a place of the tail memory is claimed, not counting the memory's latency: from
the claim to the request, from the word until it is visible, and until its place is free."""


@dataclass(frozen=True, kw_only=True)
class EvictionConfig(BlockConfig):
    """A FIFO of any depth in a ring of off-chip memory.

    A word holds as many whole beats as fit, or a beat takes several words.  Every frame begins with
    a new word and a new request, so that no frame waits for the next one; its last word and its
    last request may be shorter.  The address of the ring is not part of the configuration but an
    input of the component, so that buffers that differ only in their address share a module.

    Parameters
    ----------
    stream : :class:`StreamType`
    axi : :class:`hwgen.offchip.bus.AxiConfig`
    burst : :class:`int`
        Words in a request, and in a slot of the ring; a power of two, at most 4096 bytes.
    memory_latency : :class:`int`
        Most cycles that the memory takes from the offer of a request to ``done`` or to the last
        word of its data.  It determines the schedule and the size of the tail memory; with a
        slower memory the block works, but more slowly.
    depths : sequence of :class:`int`
        Depth of the whole FIFO in beats, from which the number of slots follows.
    styles : sequence of :class:`str`
        Style of the tail memory, the largest on the chip.  If it is ``"block"``, so is that of the
        head memory.

    Raises
    ------
    :exc:`HwgenError`
        If a number is out of range, or if the ring exceeds what addresses can reach.
    """

    kind: ClassVar[str] = "queue"
    evicts: ClassVar[bool] = True

    stream: StreamType
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

    @property
    def inputs(self) -> tuple[StreamType, ...]:
        return (self.stream,)

    @property
    def outputs(self) -> tuple[StreamType, ...]:
        return (self.stream,)

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
        return max(self.axi.data_bits // self.stream.width, 1)

    @property
    def words_per_beat(self) -> int:
        """Number of words that a beat takes."""
        return -(-self.stream.width // self.axi.data_bits)

    @property
    def word_bits(self) -> int:
        """Number of bits of a word that are used; the others need no memory on the chip."""
        return min(self.stream.width * self.beats_per_word, self.axi.data_bits)

    @property
    def words_per_frame(self) -> int:
        """Number of words in a frame."""
        return -(-self.stream.beats // self.beats_per_word) * self.words_per_beat

    @property
    def requests_per_frame(self) -> int:
        """Number of requests per frame in each direction."""
        return -(-self.words_per_frame // self.burst)

    @property
    def request_words(self) -> tuple[int, ...]:
        """Number of words in a request, and in the last one of a frame if that is shorter."""
        whole, rest = divmod(self.words_per_frame, self.burst)
        return tuple(n for n in (self.burst * (whole > 0), rest) if n)

    @property
    def bytes_per_frame(self) -> int:
        """Bytes written and read per frame, including those that fill up words."""
        return 2 * self.words_per_frame * self.axi.word_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes of a slot of the ring, whose base must be a multiple of this number."""
        return self.burst * self.axi.word_bytes

    @property
    def ring_bytes(self) -> int:
        """Bytes of the ring."""
        return self.slots * self.slot_bytes

    @property
    def offchip(self) -> OffChip:
        return OffChip(self.ring_bytes, self.bytes_per_frame // 2, self.bytes_per_frame // 2)

    @property
    def interval(self) -> int:
        return max(self.stream.beats, self.words_per_frame)

    @property
    def _request_steps(self) -> int:
        """Number of steps in a request: beats, or words if a beat takes several; one per cycle."""
        return min(self.burst * self.beats_per_word, self.interval)

    @cached_property
    def _request_ends(self) -> np.ndarray:
        """The last step of each request of a frame."""
        ends = np.arange(1, self.requests_per_frame + 1) * self._request_steps
        return np.minimum(ends, self.interval) - 1

    @cached_property
    def slots(self) -> int:
        """Number of slots of the ring: most requests to which the beats in the FIFO can belong.

        These are most if the oldest beat is the last of its request.
        """
        last = self._request_ends + self.queue_depths[0] * self.words_per_beat - 1
        frames, step = np.divmod(last, self.interval)
        requests = frames * self.requests_per_frame + step // self._request_steps + 1
        return int((requests - np.arange(self.requests_per_frame)).max())

    @property
    def head_words(self) -> int:
        """Words of the head memory: those of a request that waits to be made, and of the next."""
        return max(2 * self.request_words[0], LEAST_HEAD)

    @property
    def head_style(self) -> str:
        """Style of the head memory."""
        return "block" if self.queue_styles[0] == "block" else ""

    @property
    def tail_words(self) -> int:
        """Words of the tail memory: so many that reads never wait unless the consumer does.

        These are the words that are requested while a request is under way, and those of the next
        request.  If the last request of a frame is shorter, it comes before the request ahead of
        it is unpacked, so there must be room for one more.
        """
        frames, steps = divmod(self.memory_latency + CLAIM_LATENCY, self.interval)
        under_way = frames * self.words_per_frame + -(-steps // self.beats_per_word) + 1
        return under_way + len(self.request_words) * self.request_words[0]

    @property
    def _pack_latency(self) -> int:
        """Cycles from the last beat of a word to its push into the head memory."""
        return int(self.beats_per_word * self.words_per_beat > 1)

    @property
    def _path(self) -> int:
        """Most cycles from the last step of a request until its first step is visible."""
        unpack = int(self.beats_per_word > 1)
        return (self._pack_latency + WRITE_LATENCY + self.memory_latency
                + READ_LATENCY + self.memory_latency + QUEUE_LATENCY + unpack)

    @property
    def least_depths(self) -> tuple[int, ...]:
        # All that arrives while a request is collected, is under way, waits until the request ahead
        # of it is unpacked, and is unpacked itself.
        steps = self._path + 2 * self._request_steps + 1
        return (-(-steps // self.words_per_beat) + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        """Exact cycles in which beats are accepted, and latest cycles in which they are visible.

        The memory must keep its latency and take words as fast as they come, and the depth must
        suffice.
        """
        words = self.words_per_beat
        begin = in_order(arrivals[0], words)
        steps = (begin[:, None] + np.arange(words)).reshape(-1, self.interval)
        closed = steps[:, self._request_ends]
        counts = np.diff(self._request_ends, prepend=-1)
        visible = in_order(np.repeat(closed + self._path, counts, axis=1).ravel())
        return Schedule((begin + words - 1,), (visible[words - 1 :: words],), (begin,))

    def area(self) -> Area:
        claims = len(self.request_words)
        beats, words = self.beats_per_word, self.words_per_beat
        out = queue_area(self.word_bits, self.head_words, 1, self.head_style)
        out += queue_area(self.word_bits, self.tail_words, claims, self.queue_styles[0])
        # Addresses and sizes of requests, slots, counters of requests, words and beats.
        address = self.axi.address_bits - levels(self.slot_bytes)
        slot, frame = levels(self.slots), levels(self.requests_per_frame)
        word = _end_bits(self.burst, self.words_per_frame)
        requests = 2 * (address + slot + frame + word)
        pending = 2 * slot + levels(self.head_words)
        out += logic("eviction", one=1, lut_address=address, lut_slot=slot, lut_word=word,
                     ff_register=requests + pending)
        if beats > 1:
            beat = 2 * _end_bits(beats, self.stream.beats) + levels(beats)
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

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return (frames[0],)

    def create(self) -> EvictionBuffer:
        return EvictionBuffer(self)


def _end_bits(group: int, total: int) -> int:
    """Bits of the counters of :func:`_ends`."""
    if total % group == 0 or total < group:
        return levels(min(group, total)) + 1
    return levels(group) + levels(total) + 2


def _ends(m: Module, group: int, total: int, step: Value, name: str) -> Value:
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


def _nonzero_count(
    m: Module, name: str, most: int, more: Value, less: Value, init: int = 0
) -> Value:
    """Whether a counter with values 0..most is not 0, from the sign bit of a register."""
    left = Signal(signed(most.bit_length() + 1), init=init - 1, name=name)
    m.d.sync += left.eq(add_carry(left, less.replicate(2).as_signed(), more))
    return ~left[-1]


class EvictionBuffer(Configured[EvictionConfig]):
    """Drop-in replacement for a FIFO, with two ports to memory.

    Parameters
    ----------
    config : :class:`EvictionConfig`

    Members
    -------
    i : :py:`In(stream.Signature(payload))`
    o : :py:`Out(stream.Signature(payload))`
    read : :py:`Out(axi.read_client)`
    write : :py:`Out(axi.write_client)`
        All words of a request are available when it is made, and come one per cycle.
    base : :py:`In(address_bits)`
        First address of the ring; a constant, and a multiple of ``slot_bytes``.
    waits : :py:`Out(1)`
        In the previous cycle, a beat was offered that did not fit the head memory although a slot
        was free: the memory does not take words as fast as they come.

    Timing
    ------
    One beat per cycle, or one word of a beat.  A beat of several words is accepted with its last
    word.  If the last beat of a request is accepted in cycle t, the write request is visible in
    t + 3, or a cycle later if words are packed.  The read request is visible two cycles after
    ``done``.  A word that comes in cycle u is visible at ``o`` in u + 3, or a cycle later if it
    holds several beats.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.head = head = Queue(
            config.word_bits, config.head_words, style=config.head_style
        )
        m.submodules.tail = tail = Queue(
            config.word_bits, config.tail_words, config.request_words, config.queue_styles[0]
        )
        self._pack(m, head)
        self._unpack(m, tail)
        m.d.comb += [
            self.write.data.valid.eq(head.o.valid), self.write.data.p.eq(head.o.p),
            head.o.ready.eq(self.write.data.ready),
            tail.i.valid.eq(self.read.data.valid), tail.i.p.eq(self.read.data.p),
        ]
        # Requests whose words are all in the head, and slots whose words are all in the tail.
        words = config.burst, config.words_per_frame
        closed, freed = Signal(), Signal()
        m.d.sync += [
            closed.eq(head.i.valid & _ends(m, *words, head.i.valid, "closing")),
            freed.eq(tail.i.valid & _ends(m, *words, tail.i.valid, "freeing")),
        ]
        due, made, _ = self._requests(m, "write", self.write.request)
        free = _nonzero_count(m, "free", config.slots, freed, made, init=config.slots)
        m.d.comb += due.eq(free & _nonzero_count(m, "full", config.head_words, closed, made))
        # Not in the cycle in which a slot becomes free for which the head had to wait.
        m.d.sync += self.waits.eq(self.i.valid & ~head.room & free & ~made)

        due, made, short = self._requests(m, "read", self.read.request)
        written = _nonzero_count(m, "written", config.slots, self.write.done, made)
        m.d.comb += due.eq(written & Mux(short, tail.room[-1], tail.room[0]))
        claims = (made & ~short, made & short)
        m.d.comb += tail.reserve.eq(Cat(claims[: len(config.request_words)]))
        return m

    def _requests(self, m: Module, name: str, request) -> tuple[Signal, Signal, Value]:
        """Make requests for one slot after the other.

        Returns
        -------
        due : whether the next request may be made; the caller drives it
        made : whether it is made in this cycle
        short : whether it is the shorter one at the end of a frame
        """
        config = self.config
        due, made = Signal(name=f"{name}_due"), Signal(name=f"{name}_made")
        slot = counter(config.slots, name=f"{name}_slot")
        whole, *rest = config.request_words
        short = last_of(m, config.requests_per_frame, made, f"{name}_left") if rest else Const(0)
        low = levels(config.slot_bytes)
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
            m.d.sync += slot.eq(Mux(slot == config.slots - 1, 0, slot + 1))
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
            last = _ends(m, beats, config.stream.beats, move, "packing")
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

    def _unpack(self, m: Module, tail: Queue) -> None:
        """Unpack words of the tail memory into beats."""
        config = self.config
        beats, words = config.beats_per_word, config.words_per_beat
        beat = self.o.p.as_value()
        if beats > 1:
            word = Signal(config.word_bits, name="unpacked", reset_less=True)
            step = self.o.valid & self.o.ready
            last = _ends(m, beats, config.stream.beats, step, "unpacking")
            m.d.comb += [
                beat.eq(word[: len(beat)]),
                tail.o.ready.eq(~self.o.valid | (self.o.ready & last)),
            ]
            with m.If(tail.o.ready):
                m.d.sync += [self.o.valid.eq(tail.o.valid), word.eq(tail.o.p)]
            with m.Elif(self.o.ready):
                m.d.sync += word.eq(word >> len(beat))
            return
        if words == 1:
            m.d.comb += [
                beat.eq(tail.o.p), self.o.valid.eq(tail.o.valid), tail.o.ready.eq(self.o.ready)
            ]
            return
        # All words of a beat but the last, which stays in the tail memory.
        held = Signal((words - 1) * config.word_bits, name="unpacked", reset_less=True)
        step = tail.o.valid & tail.o.ready
        last = last_of(m, words, step, "unpacking")
        m.d.comb += [
            beat.eq(Cat(held, tail.o.p)), self.o.valid.eq(tail.o.valid & last),
            tail.o.ready.eq(~last | self.o.ready),
        ]
        with m.If(step):
            m.d.sync += held.eq(Cat(held, tail.o.p) >> config.word_bits)
