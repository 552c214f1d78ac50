"""Any order of a frame that is too large for the chip: written to a ring off chip, read in another
order.

Beats that stay side by side, in the frame as in the order, are a *piece*, which is read with one
request.  Pieces are written one after the other, several to a slot of the ring
(:mod:`hwgen.blocks.ring`), and read as :class:`hwgen.parts.order.WordOrder` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Module, Mux, Signal, Value, signed

from hwgen import ir
from hwgen.blocks.base import OffChip, OpConfig, Schedule
from hwgen.blocks.rearrange import check_lanes, word_lanes, words_of
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.blocks.ring import WRITE_LATENCY, RingBuffer, RingConfig
from hwgen.design import OFF_CHIP
from hwgen.device.arithmetic import counter, levels
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.offchip.port import OUTSTANDING, REQUEST_CYCLES
from hwgen.parts.order import OrderWalk, WordOrder
from hwgen.parts.queue import QUEUE_LATENCY, Queue, queue_depth
from hwgen.parts.stream import in_order
from hwgen.parts.turns import last_of

__all__ = ["OffChipRearrange", "OffChipRearrangeConfig"]

CLAIM_LATENCY = 1
"""Cycles from the claim of a piece's place in the tail memory to the request that reads it."""

DONE_LATENCY = 2
"""Cycles from ``done`` until what was written then can be claimed."""

FREE_LATENCY = 2
"""Cycles from a piece's last word until its place in the ring can be claimed."""


@dataclass(frozen=True, kw_only=True)
class OffChipRearrangeConfig(RingConfig, OpConfig):
    """A frame in another order, by way of off-chip memory.

    Parameters
    ----------
    op : :class:`hwgen.ir.Rearrange`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels a beat at both ports, which the order keeps together.
    capacity : :class:`int`
        Beats of the ring; 0: the fewest with which it works.
    pace : :class:`int`
        Cycles of a pixel of the output, at most those of its beats when each takes a whole number
        of them; 0: as few as there can be.  Pieces then come evenly.
    depths : sequence of :class:`int`
        Depth of the tail memory in beats.

    Raises
    ------
    :exc:`HwgenError`
        If the order takes beats apart, or is too long for its table; or if the burst, the capacity
        or the depth is too small.
    """

    op: ir.Rearrange
    capacity: int = 0
    pace: int = 0

    def __post_init__(self) -> None:
        OpConfig.__post_init__(self)
        check_lanes(self.op, self.tensor, self.lanes)
        if self.burst < self.words_per_beat:
            raise HwgenError(
                f"Burst must be at least the {self.words_per_beat} words of a beat, "
                f"not {self.burst!r}"
            )
        if 0 < self.capacity < self.least_capacity:
            raise HwgenError(
                f"Capacity must be at least {self.least_capacity} beats, not {self.capacity!r}"
            )
        RingConfig.__post_init__(self)
        if self.queue_depths[0] < self.piece_beats:
            raise HwgenError(
                f"Queue depth must be at least the {self.piece_beats} beats that are read at once, "
                f"not {self.queue_depths[0]!r}"
            )

    @property
    def folding_fields(self) -> tuple[str, ...]:
        # That its buffer is off chip is what the block is.
        return (*super().folding_fields, "window_style")

    # Pieces

    @cached_property
    def _beats(self) -> np.ndarray:
        """Which beat of the input each of the output is, in the shape of the output."""
        return words_of(self.op, self.lanes)

    @cached_property
    def piece_beats(self) -> int:
        """Beats of a piece: most that are side by side wherever they are, and fit a request."""
        order = self._beats.ravel()
        common = math.gcd(self.inputs[0].beats, len(order))
        for count in range(self.burst // self.words_per_beat * self.beats_per_word, 1, -1):
            if common % count == 0 and (order[:count] == order[0] + np.arange(count)).all():
                pieces = order.reshape(-1, count)
                if not (pieces[:, 0] % count).any() and (np.diff(pieces, axis=1) == 1).all():
                    return count
        return 1

    def _words_of(self, beats: int) -> int:
        """Words that beats of a piece take."""
        return -(-beats // self.beats_per_word) * self.words_per_beat

    @property
    def packed_beats(self) -> int:
        return self.piece_beats

    @property
    def piece_words(self) -> int:
        """Words of a piece."""
        return self._words_of(self.piece_beats)

    @cached_property
    def slot_pieces(self) -> int:
        """Pieces of a slot, which are written with one request.

        Rather so many that slots hold whole frames, for then the order may come again sooner.
        """
        pieces = self.inputs[0].beats // self.piece_beats
        most = min(max(self.burst // self.piece_words, 1), pieces)
        whole = next(n for n in range(most, 0, -1) if pieces % n == 0)
        return whole if 2 * whole >= most else most

    @property
    def slot_words(self) -> int:
        return self.slot_pieces * self.piece_words

    @property
    def request_steps(self) -> int:
        return self.slot_pieces * self.piece_beats * self.words_per_beat

    @cached_property
    def order(self) -> WordOrder:
        """The order of pieces, which are counted by their places in the ring."""
        shape, count = list(self._beats.shape), self.piece_beats
        while shape and count % shape[-1] == 0:
            count //= shape.pop()
        if shape and shape[-1] % count == 0:
            shape[-1] //= count
        else:
            shape = [-1]
        pieces = self._beats.ravel()[:: self.piece_beats] // self.piece_beats
        return WordOrder(pieces.reshape(shape or [1]), self.requests_per_frame * self.slot_pieces)

    # The ring

    @property
    def slot_beats(self) -> int:
        """Beats of a slot."""
        return self.slot_pieces * self.piece_beats

    @property
    def least_capacity(self) -> int:
        """Fewest beats of a ring with which everything can be read."""
        # A piece can be read when its whole slot is written.
        before = -(-(self.order.least_capacity - 1) // self.slot_pieces)
        return (before + 1) * self.slot_beats

    @property
    def slots(self) -> int:
        return -(-max(self.capacity, self.least_capacity) // self.slot_beats)

    @property
    def depth(self) -> int:
        """Places of the ring, each of a piece."""
        return self.slots * self.slot_pieces

    @property
    def offchip(self) -> OffChip:
        words, pieces = self.axi.word_bytes, self.order.words.size
        return OffChip(
            self.ring_bytes, pieces * self.piece_words * words, self.words_per_frame * words,
            read_cycles=pieces * self.request_cycles,
        )

    # Time

    @property
    def request_cycles(self) -> int:
        """Fewest cycles between requests, if each of them takes as long as any may.

        A port has so many bursts in flight; where pieces may cross pages, one of them has two.
        """
        crosses = self.piece_words & (self.piece_words - 1) > 0
        return max(REQUEST_CYCLES, -(-self.memory_latency // (OUTSTANDING - crosses)))

    @property
    def piece_cycles(self) -> int:
        """Cycles from the request of a piece to that of the next."""
        paced = self.pace // self.outputs[0].beats_per_site * self.piece_beats
        steps = self.piece_beats * self.words_per_beat
        return max(paced, steps, self.request_cycles)

    @property
    def interval(self) -> int:
        return max(self.frame_steps, self.order.words.size * self.piece_cycles,
                   self.requests_per_frame * self.request_cycles)

    @property
    def _path(self) -> int:
        """Most cycles from the claim of a piece's place until its first step is visible."""
        return CLAIM_LATENCY + self.memory_latency + QUEUE_LATENCY + self.unpack_latency

    @property
    def least_depths(self) -> tuple[int, ...]:
        # Pieces that are on their way, or taken beat by beat.
        claimed = self._path + self.piece_beats * self.words_per_beat - 1
        return ((claimed // self.piece_cycles + 1) * self.piece_beats,)

    @property
    def tail_claims(self) -> tuple[int, ...]:
        return (self.piece_words,)

    @property
    def tail_words(self) -> int:
        pieces, rest = divmod(self.queue_depths[0], self.piece_beats)
        return pieces * self.piece_words + self._words_of(rest)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        """Exact cycles in which beats are accepted, and latest cycles in which they are visible.

        The memory must keep its latency and take words as fast as they come.
        """
        words = self.words_per_beat
        begin, closed = self.closed(arrivals[0])
        # A slot is claimed in the cycle before its request.
        slots = (closed + self.pack_latency + WRITE_LATENCY - 1).ravel()
        done = slots + 1 + self.memory_latency
        read, least = self.order.by_frames(len(closed))
        claims = in_order(done[read // self.slot_pieces] + DONE_LATENCY, self.piece_cycles)
        # Once a piece has come, all those are free that nothing behind it needs.
        first = int(self.order.least[0])
        came = claims + CLAIM_LATENCY + self.memory_latency
        places = np.repeat(np.append(-1, came + FREE_LATENCY - 1),
                           np.append(first, np.diff(least, prepend=first)))
        free = places[self.slot_pieces - 1 :: self.slot_pieces]
        capacity = max(queue_depth(slots, free) * self.slot_beats, self.least_capacity)
        steps = self.piece_beats * words
        visible = in_order(np.repeat(claims + self._path, steps))
        return Schedule((begin + words - 1,), (visible[words - 1 :: words],),
                        (np.repeat(claims, self.piece_beats),), capacity)

    # What it is made of

    @property
    def changes(self) -> dict[str, np.ndarray]:
        """Per piece of a period, what changes when it is requested.

        Members
        -------
        need : pieces by which those are fewer that are there of what is read next
        back, ahead : words from its address to the next one, either way around the ring
        """
        steps = np.diff(self.order.read)
        ahead = steps % self.depth
        return {"need": -steps, "back": (ahead - self.depth) * self.piece_words,
                "ahead": ahead * self.piece_words}

    @property
    def freed(self) -> np.ndarray:
        """Per piece of a period, how many places are free once it has come."""
        return np.diff(self.order.least)

    @property
    def position_bits(self) -> int:
        """Bits of a signed distance between pieces."""
        order = self.order
        return (int(order.read.max()) + order.advance + self.depth + 1).bit_length() + 1

    def area(self) -> Area:
        return (
            self.ring_area() + self.order.walk_area(*self.changes.values())
            + self.order.walk_area(self.freed)
            + logic("rearrange", one=1, rest=levels(self.piece_cycles),
                    address=levels(self.depth * self.piece_words), position=self.position_bits)
        )

    def create(self) -> OffChipRearrange:
        return OffChipRearrange(self)


class OffChipRearrange(RingBuffer[OffChipRearrangeConfig]):
    """Writes a frame to a ring off chip, and reads its pieces in another order.

    A piece is read once its slot is written, and a slot is free once none of its pieces, nor any in
    front of them, is needed any more; so the ring holds as much of a frame as the order needs.

    Parameters
    ----------
    config : :class:`OffChipRearrangeConfig`

    Members
    -------
    i, o, read, write, base, waits : those of :class:`hwgen.blocks.ring.RingBuffer`

    Timing
    ------
    One beat per cycle, or one word of a beat.  If the last beat of a slot is accepted in cycle t,
    its write request is visible in t + 3, or a cycle later if words are packed.  The read request
    of a piece is visible three cycles after ``done`` of its slot, and ``config.piece_cycles`` after
    that of the piece before it.  A word that comes in cycle u is visible at ``o`` in u + 3, or a
    cycle later if it holds several beats.
    """

    def free_slot(self, m: Module, made: Value, tail: Queue) -> Value:
        config = self.config
        order, pieces = config.order, config.slot_pieces
        came = Signal()
        m.d.comb += came.eq(
            tail.i.valid & last_of(m, config.piece_words, tail.i.valid, "coming"))
        walk = OrderWalk(m, order, came, {"freed": config.freed}, "freeing").now["freed"]
        bits = config.position_bits
        # Places that are left after the next slot; what is free now, without and with a claim.
        left = Signal(signed(bits), init=config.depth + int(order.least[0]) - pieces)
        freed, claimed = Signal(signed(bits)), Signal(signed(bits), init=-pieces)
        m.d.sync += [
            freed.eq(Mux(came, walk, 0)), claimed.eq(Mux(came, walk - pieces, -pieces)),
            left.eq(left + Mux(made, claimed, freed)),
        ]
        return ~left[-1]

    def late(self, m: Module, blocked: Value, head: Queue) -> Value:
        # A piece may free many slots at once.
        late = Signal(name="late")
        with m.If(blocked):
            m.d.sync += late.eq(1)
        with m.Elif(~head.o.valid):
            m.d.sync += late.eq(0)
        return late

    def read_back(self, m: Module, tail: Queue) -> None:
        config, request = self.config, self.read.request
        order, shift = config.order, config.axi.word_shift
        words = config.depth * config.piece_words
        bits = config.position_bits
        made, free = Signal(name="read_made"), Signal(name="read_free")
        now = OrderWalk(m, order, made, config.changes, "reading").now
        # Pieces that are there of what is read next, less one.  Requests are three cycles apart, so
        # the change has a register of its own.
        missing = Signal(signed(bits), init=-int(order.read[0]) - 1)
        change = Signal(signed(bits))
        address = counter(words, name="address",
                          init=int(order.read[0]) % config.depth * config.piece_words)
        back = Signal(signed(len(address) + 1))
        rest = counter(config.piece_cycles, name="rest")
        m.d.comb += [
            free.eq(~request.valid | request.ready), back.eq(address + now["back"]),
            made.eq(~missing[-1] & tail.room & (rest == 0) & free), tail.reserve.eq(made),
        ]
        m.d.sync += [
            change.eq(Mux(made, now["need"], 0) + Mux(self.write.done, config.slot_pieces, 0)),
            missing.eq(missing + change),
            rest.eq(Mux(made, config.piece_cycles - 1, Mux(rest == 0, 0, rest - 1))),
            request.p.bytes.eq(config.piece_words * config.axi.word_bytes),
        ]
        with m.If(free):
            m.d.sync += [
                request.valid.eq(made),
                request.p.address[shift:].eq(self.base[shift:] + address),
            ]
        with m.If(made):
            m.d.sync += address.eq(Mux(back[-1], address + now["ahead"], back))


@carries_out(ir.Rearrange, own_lanes=True, when=lambda folding: folding.window_style == OFF_CHIP)
def _offchip_rearrange(request: BlockRequest) -> OffChipRearrangeConfig:
    """As on chip, with the ports of the design."""
    ports = request.ports
    return OffChipRearrangeConfig(
        op=request.op, tensor=request.tensor, lanes=word_lanes(request), axi=ports.axi,
        burst=ports.burst, memory_latency=ports.memory_latency,
        **request.folded(OffChipRearrangeConfig))
