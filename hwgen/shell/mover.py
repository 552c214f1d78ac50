"""Frames from memory as a stream of beats, and beats as frames in memory.

In memory a frame begins at a bus word, and its beats follow each other without gaps, as
:func:`hwgen.top.to_axi` makes them.  Frames follow each other at the next bus word, or at any
distance that is a multiple of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.cost import Area, Part, logic
from hwgen.device.platform import add_shared
from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig
from hwgen.parts.component import Configured
from hwgen.parts.queue import Queue, queue_area
from hwgen.shell.repack import RepackConfig
from hwgen.shell.runs import COUNT_BITS, STRIDE_BITS, WORD_BITS, Runs, claims

__all__ = ["FrameReader", "FrameReaderConfig", "FrameWriter", "FrameWriterConfig"]


@dataclass(frozen=True, kw_only=True)
class MoverConfig(Part):
    """A stream of beats whose frames are in memory.

    Parameters
    ----------
    axi : :class:`AxiConfig`
    beat_bytes : :class:`int`
        Bytes of a beat of the stream.
    frame_bytes : :class:`int`
        Bytes of a frame.
    places : :class:`int`
        Bus words that the mover holds; room for two of its largest requests at least.

    Raises
    ------
    :exc:`HwgenError`
        If a size is not positive, or there are too few places.
    """

    axi: AxiConfig
    beat_bytes: int
    frame_bytes: int
    places: int = 256

    def __post_init__(self) -> None:
        if self.places < 2 * claims(self.axi)[0]:
            raise HwgenError(f"Places must be {2 * claims(self.axi)[0]} or more, "
                             f"not {self.places!r}")
        _ = self.repack

    @property
    def repack(self) -> RepackConfig:
        """Between bus words and beats."""
        raise NotImplementedError

    @cached_property
    def frame_words(self) -> int:
        """Bus words of a frame."""
        return self.axi.words(self.frame_bytes)

    @property
    def _control(self) -> dict[str, wiring.Member]:
        return {
            "start": In(1), "address": In(self.axi.address_bits), "words": In(WORD_BITS),
            "runs": In(COUNT_BITS), "stride": In(STRIDE_BITS), "busy": Out(1),
        }

    def area(self) -> Area:
        """What it takes."""
        bits = self.axi.address_bits
        return self.repack.area() + queue_area(
            self.axi.data_bits, self.places, len(claims(self.axi))
        ) + logic("frame mover", one=1, lut_address=bits, lut_words=WORD_BITS,
                  ff_register=2 * bits + WORD_BITS + COUNT_BITS)


@dataclass(frozen=True, kw_only=True)
class FrameReaderConfig(MoverConfig):
    """Frames of memory as a stream; see :class:`MoverConfig`."""

    @property
    def repack(self) -> RepackConfig:
        return RepackConfig(in_bytes=self.axi.word_bytes, out_bytes=self.beat_bytes,
                            frame_bytes=self.frame_bytes)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            **self._control, "read": Out(self.axi.read_client),
            "o": Out(stream.Signature(8 * self.beat_bytes)),
        })

    def create(self) -> FrameReader:
        """The hardware."""
        return FrameReader(self)


@dataclass(frozen=True, kw_only=True)
class FrameWriterConfig(MoverConfig):
    """A stream as frames in memory; see :class:`MoverConfig`."""

    @property
    def repack(self) -> RepackConfig:
        return RepackConfig(in_bytes=self.beat_bytes, out_bytes=self.axi.word_bytes,
                            frame_bytes=self.frame_bytes)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            **self._control, "write": Out(self.axi.write_client),
            "i": In(stream.Signature(8 * self.beat_bytes)),
        })

    def create(self) -> FrameWriter:
        """The hardware."""
        return FrameWriter(self)


def _runs(m: Module, mover: Any, axi: AxiConfig) -> Any:
    """Add what makes the requests of a mover, with its controls."""
    m.submodules.runs = runs = Runs(axi, claims(axi))
    m.d.comb += [getattr(runs, name).eq(getattr(mover, name))
                 for name in ("start", "address", "words", "runs", "stride")]
    return runs


class FrameReader(Configured[FrameReaderConfig]):
    """Reads frames from memory.

    Parameters
    ----------
    config : :class:`FrameReaderConfig`

    Members
    -------
    start, address, words, runs, stride : see :class:`hwgen.shell.runs.Runs`
    busy : :py:`Out(1)`
        Not everything has been asked for yet.
    read : :py:`Out(axi.read_client)`
    o : :py:`Out(stream.Signature(8 * beat_bytes))`

    Timing
    ------
    A beat a cycle, as far as the memory has the words; requests are made as long as there are
    places for their words.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        runs = _runs(m, self, config.axi)
        m.submodules.queue = queue = Queue(config.axi.data_bits, config.places, claims(config.axi))
        repack: Any = add_shared(m, "repack", config.repack, platform)
        wiring.connect(m, runs.request, wiring.flipped(self.read.request))
        wiring.connect(m, queue.o, repack.i)
        wiring.connect(m, repack.o, wiring.flipped(self.o))
        m.d.comb += [
            queue.i.valid.eq(self.read.data.valid), queue.i.p.eq(self.read.data.p),
            runs.room.eq(queue.room), queue.reserve.eq(runs.reserve), self.busy.eq(runs.busy),
        ]
        return m


class FrameWriter(Configured[FrameWriterConfig]):
    """Writes frames into memory.

    Parameters
    ----------
    config : :class:`FrameWriterConfig`

    Members
    -------
    start, address, words, runs, stride : see :class:`hwgen.shell.runs.Runs`
    busy : :py:`Out(1)`
        Not everything is in memory yet.
    write : :py:`Out(axi.write_client)`
    i : :py:`In(stream.Signature(8 * beat_bytes))`

    Timing
    ------
    A beat a cycle, as far as the memory takes the words.  A request is made once all its words
    are there.
    """

    def elaborate(self, platform):
        m = Module()
        config, sizes = self.config, claims(self.config.axi)
        runs = _runs(m, self, config.axi)
        m.submodules.queue = queue = Queue(config.axi.data_bits, config.places)
        repack: Any = add_shared(m, "repack", config.repack, platform)
        wiring.connect(m, wiring.flipped(self.i), repack.i)
        wiring.connect(m, runs.request, wiring.flipped(self.write.request))
        wiring.connect(m, queue.o, wiring.flipped(self.write.data))
        push, made = Signal(), Signal()
        # Words that no request has been made for; requests that are not in memory yet.
        words, under_way = Signal(range(config.places + 1)), Signal(range(config.places + 1))
        claimed = Signal(range(sizes[0] + 1))
        for k, size in enumerate(sizes):
            with m.If(runs.reserve[k]):
                m.d.comb += claimed.eq(size)
        m.d.comb += [
            push.eq(repack.o.valid & queue.room), repack.o.ready.eq(queue.room),
            queue.reserve.eq(push), queue.i.valid.eq(push), queue.i.p.eq(repack.o.p),
            runs.room.eq(Cat(words >= size for size in sizes)),
            made.eq(runs.reserve.any()),
            self.busy.eq(runs.busy | (under_way != 0)),
        ]
        m.d.sync += [
            words.eq(words + push - claimed), under_way.eq(under_way + made - self.write.done)]
        return m
