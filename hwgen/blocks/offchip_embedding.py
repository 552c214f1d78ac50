"""Embedding with its table in off-chip memory: a request for the row of each id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.blocks.base import OffChip, OpConfig, Schedule
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.blocks.ring import unpack
from hwgen.design import OFF_CHIP
from hwgen.device.arithmetic import counter, levels
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.ir import Embedding as EmbeddingOp
from hwgen.offchip.bus import MEMORY_LATENCY, REQUEST_LIMIT, AxiConfig
from hwgen.offchip.port import OUTSTANDING, REQUEST_CYCLES
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY, Queue, queue_area
from hwgen.parts.stream import StreamType, in_order, pack_rows

__all__ = ["OffChipEmbedding", "OffChipEmbeddingConfig"]

CLAIM_LATENCY = 2
"""Cycles from the claim of a row's places in the tail memory to the request that reads it."""


@dataclass(frozen=True, kw_only=True)
class OffChipEmbeddingConfig(OpConfig):
    """A table of rows in off-chip memory.

    A row begins at a multiple of the power of two that holds it, so an id is an address as it is,
    and no request crosses a page.  Its beats are packed into words, several to a word, or a beat
    takes several words.

    Parameters
    ----------
    op : :class:`hwgen.ir.Embedding`
    tensor : :class:`TensorType`
        Type of the ids, one channel.
    lanes : :class:`int`
        Elements of a row per beat at the output; an id is a beat at the input.
    axi : :class:`hwgen.offchip.bus.AxiConfig`
    memory_latency : :class:`int`
        Most cycles that the memory takes from the offer of a request to the last word of its data.
    depths : sequence of :class:`int`
        Depth of the tail memory in beats.

    Raises
    ------
    :exc:`HwgenError`
        If a row does not fit a request, the table does not fit the addresses, or the tail memory
        is smaller than a row.
    """

    kind: ClassVar[str] = "elementwise"
    evicts: ClassVar[bool] = True

    op: EmbeddingOp
    axi: AxiConfig
    memory_latency: int = MEMORY_LATENCY

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.row_bytes > REQUEST_LIMIT:
            raise HwgenError(f"A row in off-chip memory has at most {REQUEST_LIMIT} bytes, not "
                             f"{self.row_bytes!r}: more lanes need fewer")
        if self.offchip.size > 1 << self.axi.address_bits:
            raise HwgenError(f"Table must be within {self.axi.address_bits} bits of address, not "
                             f"of {self.offchip.size!r} bytes")
        if self.memory_latency < self.row_words:
            raise HwgenError(f"Memory latency must be at least the {self.row_words} words of a "
                             f"row, not {self.memory_latency!r}")
        if self.queue_depths[0] < self.beats:
            raise HwgenError(f"Queue depth must be at least the {self.beats} beats of a row, not "
                             f"{self.queue_depths[0]!r}")

    @property
    def folding_fields(self) -> tuple[str, ...]:
        # That its table is off chip is what the block is.
        return (*super().folding_fields, "weight_style")

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, 1),)

    # Rows in memory

    @property
    def beats(self) -> int:
        """Beats of a row."""
        return self.outputs[0].beats_per_site

    @property
    def packed_beats(self) -> int:
        """Beats after which a new word begins."""
        return self.beats

    @property
    def beats_per_word(self) -> int:
        """Number of beats that a word holds."""
        return max(self.axi.data_bits // self.outputs[0].width, 1)

    @property
    def words_per_beat(self) -> int:
        """Number of words that a beat takes."""
        return -(-self.outputs[0].width // self.axi.data_bits)

    @property
    def word_bits(self) -> int:
        """Number of bits of a word that are used."""
        return min(self.outputs[0].width * self.beats_per_word, self.axi.data_bits)

    @property
    def row_words(self) -> int:
        """Words of a row."""
        return -(-self.beats // self.beats_per_word) * self.words_per_beat

    @property
    def row_bytes(self) -> int:
        """Bytes of a row's words."""
        return self.row_words * self.axi.word_bytes

    @property
    def row_shift(self) -> int:
        """Bits of an address within a row."""
        return levels(self.row_bytes)

    @property
    def offchip(self) -> OffChip:
        rows = self.tensor.size
        return OffChip(len(self.op.rows) << self.row_shift, rows * self.row_bytes,
                       read_cycles=rows * self.request_cycles)

    def image(self) -> bytes:
        """The table as it lies in memory."""
        beats = pack_rows(self.op.rows.reshape(-1, self.lanes), self.op.output.bits)
        width, count = self.outputs[0].width, self.beats
        several, word_bytes = self.beats_per_word, self.axi.word_bytes
        image = bytearray()
        for row in range(len(self.op.rows)):
            mine = beats[row * count : (row + 1) * count]
            data = bytearray()
            for k in range(0, count, several):
                word = sum(beat << (j * width) for j, beat in enumerate(mine[k : k + several]))
                data += word.to_bytes(word_bytes * self.words_per_beat, "little")
            image += data.ljust(1 << self.row_shift, b"\0")
        return bytes(image)

    # Time

    @property
    def request_cycles(self) -> int:
        """Fewest cycles between requests, if each of them takes as long as any may."""
        return max(REQUEST_CYCLES, -(-self.memory_latency // OUTSTANDING))

    @property
    def row_cycles(self) -> int:
        """Cycles from the request of a row to that of the next."""
        return max(self.beats * self.words_per_beat, self.request_cycles)

    @property
    def interval(self) -> int:
        return self.tensor.size * self.row_cycles

    @property
    def _path(self) -> int:
        """Most cycles from the claim of a row's places until its first step is visible."""
        return (CLAIM_LATENCY + self.memory_latency + QUEUE_LATENCY
                + int(self.beats_per_word > 1))

    @property
    def least_depths(self) -> tuple[int, ...]:
        # Rows that are on their way, or taken beat by beat.
        claimed = self._path + self.beats * self.words_per_beat - 1
        return ((claimed // self.row_cycles + 1) * self.beats,)

    @property
    def tail_words(self) -> int:
        """Words of the tail memory: those of whole rows."""
        return -(-self.queue_depths[0] // self.beats) * self.row_words

    @property
    def signature(self) -> wiring.Signature:
        return wiring.Signature({
            **super().signature.members, "read": Out(self.axi.read_client),
            "base": In(self.axi.address_bits), "waits": Out(1), "loaded": Out(1),
        })

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        """Exact cycles in which ids are accepted, and latest cycles in which rows are visible.

        The memory must keep its latency.
        """
        claims = in_order(arrivals[0], self.row_cycles)
        words = self.words_per_beat
        visible = in_order(np.repeat(claims + self._path, self.beats * words))
        return Schedule((claims,), (visible[words - 1 :: words],),
                        (np.repeat(claims, self.beats),))

    def area(self) -> Area:
        beats, words = self.beats_per_word, self.words_per_beat
        out = queue_area(self.word_bits, self.tail_words, 1, self.queue_styles[0]) + logic(
            "embedding", one=1, valid=1, code=self.tensor.bits, counter=levels(self.row_cycles),
            lut_clamp=self.tensor.bits, address=self.axi.address_bits - self.row_shift)
        if beats > 1:
            beat = levels(beats) + 1
            out += logic("packed beats", one=1, lut_unpack=self.word_bits, lut_pack=0,
                         lut_beat=beat, ff_register=self.word_bits + beat)
        if words > 1:
            out += logic("split beats", one=1, lut_choice=0, lut_word=levels(words),
                         ff_register=(words - 1) * self.axi.data_bits + levels(words))
        return out

    def create(self) -> OffChipEmbedding:
        return OffChipEmbedding(self)


class OffChipEmbedding(Configured[OffChipEmbeddingConfig]):
    """Requests the row of each id, and sends it beat by beat.

    Parameters
    ----------
    config : :class:`OffChipEmbeddingConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(id bits), 1)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`
    read : :py:`Out(axi.read_client)`
    base : :py:`In(address_bits)`
        Address of the first row; a constant, and a multiple of ``1 << config.row_shift``.
    waits : :py:`Out(1)`
        In the previous cycle, an id was offered although its turn had come, and the request before
        it had not been taken: the memory is slower than it should be.
    loaded : :py:`Out(1)`
        Always 1: nothing is fetched ahead.

    Timing
    ------
    If an id is accepted in cycle t, its request is visible in t + 2, and the next id is accepted in
    t + ``config.row_cycles`` at the earliest.  A word that comes in cycle u is visible at ``o`` in
    u + 3, or a cycle later if it holds several beats.
    """

    def elaborate(self, platform):
        m = Module()
        config, request = self.config, self.read.request
        count, shift = len(config.op.rows), config.row_shift
        m.submodules.tail = tail = Queue(
            config.word_bits, config.tail_words, (config.row_words,), config.queue_styles[0])
        unpack(m, config, tail, self.o)
        code = self.i.p[0].as_unsigned() ^ (1 << (config.tensor.bits - 1))
        row, held = Signal(range(max(count, 2)), reset_less=True), Signal()
        rest = counter(config.row_cycles, name="rest")
        free, fire, due = Signal(), Signal(), Signal()
        m.d.comb += [
            self.loaded.eq(Const(1)), free.eq(~request.valid | request.ready),
            due.eq(tail.room & (rest == 0)), self.i.ready.eq(due & (~held | free)),
            fire.eq(self.i.valid & self.i.ready), tail.reserve.eq(fire),
            tail.i.valid.eq(self.read.data.valid), tail.i.p.eq(self.read.data.p),
        ]
        m.d.sync += [
            row.eq(Mux(held & ~free, row, Mux(code > count - 1, count - 1, code))),
            held.eq(fire | (held & ~free)), self.waits.eq(self.i.valid & due & held & ~free),
            rest.eq(Mux(fire, config.row_cycles - 1, Mux(rest == 0, 0, rest - 1))),
            request.p.bytes.eq(config.row_bytes),
        ]
        with m.If(free):
            m.d.sync += [
                request.valid.eq(held),
                request.p.address[shift:].eq(self.base[shift:] + row),
            ]
        return m


@carries_out(EmbeddingOp, own_lanes=True, when=lambda folding: folding.weight_style == OFF_CHIP)
def _offchip_embedding(request: BlockRequest) -> OffChipEmbeddingConfig:
    ports = request.ports
    return OffChipEmbeddingConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                                  axi=ports.axi, memory_latency=ports.memory_latency)
