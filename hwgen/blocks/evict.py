"""A FIFO whose body is in off-chip memory, for skip connections that are too long for the chip.

Beats are packed into words, written to memory in bursts, read back in the same order, and unpacked
(SMOF; Toupas, Yu, Bouganis and Tzovaras, "SMOF: Streaming Modern CNNs on FPGAs with Smart Off-Chip
Eviction", FCCM 2024).  How the ring is written, and what stays on the chip, is that of
:mod:`hwgen.blocks.ring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value

from hwgen.blocks.base import OffChip, Schedule
from hwgen.blocks.ring import WRITE_LATENCY, RingBuffer, RingConfig, ends_of, nonzero_count
from hwgen.device.cost import Area
from hwgen.parts.queue import QUEUE_LATENCY, Queue
from hwgen.parts.stream import StreamType, in_order

__all__ = ["EvictionBuffer", "EvictionConfig"]

READ_LATENCY = 2
"""Cycles from ``done`` to the request that reads what was written."""

CLAIM_LATENCY = 1 + QUEUE_LATENCY + 1
"""Cycles for which a place of the tail memory is claimed, not counting the memory's latency: from
the claim to the request, from the word until it is visible, and until its place is free."""


@dataclass(frozen=True, kw_only=True)
class EvictionConfig(RingConfig):
    """A FIFO of any depth in a ring of off-chip memory.

    Parameters
    ----------
    stream : :class:`StreamType`
    burst : :class:`int`
        Words in a request, and in a slot of the ring; a power of two, at most 4096 bytes.
    depths : sequence of :class:`int`
        Depth of the whole FIFO in beats, from which the number of slots follows.
    """

    kind: ClassVar[str] = "queue"

    stream: StreamType

    @property
    def inputs(self) -> tuple[StreamType, ...]:
        return (self.stream,)

    @property
    def outputs(self) -> tuple[StreamType, ...]:
        return (self.stream,)

    @property
    def packed_beats(self) -> int:
        return self.stream.beats

    @property
    def slot_words(self) -> int:
        return self.burst

    @property
    def bytes_per_frame(self) -> int:
        """Bytes written and read per frame, including those that fill up words."""
        return 2 * self.words_per_frame * self.axi.word_bytes

    @property
    def offchip(self) -> OffChip:
        return OffChip(self.ring_bytes, self.bytes_per_frame // 2, self.bytes_per_frame // 2)

    @property
    def interval(self) -> int:
        return self.frame_steps

    @property
    def request_steps(self) -> int:
        return min(self.burst * self.beats_per_word, self.frame_steps)

    @cached_property
    def slots(self) -> int:
        """Number of slots of the ring: most requests to which the beats in the FIFO can belong.

        These are most if the oldest beat is the last of its request.
        """
        last = self.request_ends + self.queue_depths[0] * self.words_per_beat - 1
        frames, step = np.divmod(last, self.frame_steps)
        requests = frames * self.requests_per_frame + step // self.request_steps + 1
        return int((requests - np.arange(self.requests_per_frame)).max())

    @property
    def tail_claims(self) -> tuple[int, ...]:
        return self.request_words

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
    def _path(self) -> int:
        """Most cycles from the last step of a request until its first step is visible."""
        return (self.pack_latency + WRITE_LATENCY + self.memory_latency
                + READ_LATENCY + self.memory_latency + QUEUE_LATENCY + self.unpack_latency)

    @property
    def least_depths(self) -> tuple[int, ...]:
        # All that arrives while a request is collected, is under way, waits until the request ahead
        # of it is unpacked, and is unpacked itself.
        steps = self._path + 2 * self.request_steps + 1
        return (-(-steps // self.words_per_beat) + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        """Exact cycles in which beats are accepted, and latest cycles in which they are visible.

        The memory must keep its latency and take words as fast as they come, and the depth must
        suffice.
        """
        words = self.words_per_beat
        begin, closed = self.closed(arrivals[0])
        counts = np.diff(self.request_ends, prepend=-1)
        visible = in_order(np.repeat(closed + self._path, counts, axis=1).ravel())
        return Schedule((begin + words - 1,), (visible[words - 1 :: words],), (begin,))

    def area(self) -> Area:
        return self.ring_area()

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return (frames[0],)

    def create(self) -> EvictionBuffer:
        return EvictionBuffer(self)


class EvictionBuffer(RingBuffer[EvictionConfig]):
    """Drop-in replacement for a FIFO, with two ports to memory.

    Parameters
    ----------
    config : :class:`EvictionConfig`

    Members
    -------
    i, o, read, write, base, waits : those of :class:`hwgen.blocks.ring.RingBuffer`

    Timing
    ------
    One beat per cycle, or one word of a beat.  A beat of several words is accepted with its last
    word.  If the last beat of a request is accepted in cycle t, the write request is visible in
    t + 3, or a cycle later if words are packed.  The read request is visible two cycles after
    ``done``.  A word that comes in cycle u is visible at ``o`` in u + 3, or a cycle later if it
    holds several beats.
    """

    def free_slot(self, m: Module, made: Value, tail: Queue) -> Value:
        config = self.config
        # Slots whose words are all in the tail.
        freed = Signal()
        ends = ends_of(m, config.slot_words, config.words_per_frame, tail.i.valid, "freeing")
        m.d.sync += freed.eq(tail.i.valid & ends)
        return nonzero_count(m, "free", config.slots, freed, made, init=config.slots)

    def read_back(self, m: Module, tail: Queue) -> None:
        config = self.config
        due, made, short = self.requests(m, "read", self.read.request)
        written = nonzero_count(m, "written", config.slots, self.write.done, made)
        m.d.comb += due.eq(written & Mux(short, tail.room[-1], tail.room[0]))
        claims = (made & ~short, made & short)
        m.d.comb += tail.reserve.eq(Cat(claims[: len(config.tail_claims)]))
