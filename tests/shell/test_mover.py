"""Movers behind an AxiPort and a memory in Python: frames are what they were, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig
from hwgen.offchip.port import AxiPortConfig
from hwgen.shell.mover import FrameReaderConfig, FrameWriterConfig
from tests.cocotb.memory import BASE, SLVERR, Memory
from tests.cocotb.rules import Rules, Seen
from tests.profiles import examples
from tests.typed import ports

LIMIT = 30_000
"""Cycles of a transfer."""
READ, WRITE = 0x100, 0x8010
"""Where frames are read and written."""


class Movers(wiring.Component):
    """A reader and a writer at a port."""

    def __init__(self, reader: FrameReaderConfig, writer: FrameWriterConfig) -> None:
        self.axi = reader.axi
        self.reader, self.writer = ports(reader.create()), ports(writer.create())
        self.port = ports(AxiPortConfig(axi=self.axi, readers=1, writers=1, timeout=500).create())
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader, m.submodules.writer = self.reader, self.writer
        m.submodules.port = self.port
        wiring.connect(m, self.reader.read, self.port.read_0)
        wiring.connect(m, self.writer.write, self.port.write_0)
        m.d.comb += self.port.base.eq(BASE)
        return m


@dataclass
class Stream:
    """A source or a sink of beats that pauses."""

    pins: Any
    stall: float
    beats: list[int]
    moved: int = 0
    shows: bool = False


class Bench:
    """Moves frames in both directions at once."""

    def __init__(self, reader: FrameReaderConfig, writer: FrameWriterConfig, seed: int = 0,
                 **memory: Any) -> None:
        self.random = np.random.default_rng(seed)
        self.dut = Movers(reader, writer)
        self.memory = Memory(reader.axi, self.random, **memory)
        self.rules = Rules(reader.axi.word_bytes)
        self.cycle = 0
        self.error = 0

    def start(self, ctx, mover: Any, address: int, words: int, runs: int, stride: int) -> None:
        for name, value in (("address", address), ("words", words), ("runs", runs),
                            ("stride", stride), ("start", 1)):
            ctx.set(getattr(mover, name), value)

    async def step(self, ctx, source: Stream, sink: Stream) -> None:
        """A cycle."""
        axi = self.dut.port.axi
        offer = self.memory.offer(self.cycle)
        seen = {}
        for name, fields in (("aw", ("addr", "len", "id")), ("w", ("data", "strb", "last")),
                             ("ar", ("addr", "len", "id"))):
            channel = getattr(axi, name)
            ctx.set(channel.ready, offer[name][0])
            valid = ctx.get(channel.valid)
            values = tuple(ctx.get(getattr(channel.p, f)) for f in fields) if valid else ()
            seen[name] = Seen(valid, offer[name][0], values)
        for name, fields in (("b", ("id", "resp")), ("r", ("id", "data", "resp", "last"))):
            channel = getattr(axi, name)
            ctx.set(channel.valid, bool(offer[name]))
            for field, value in zip(fields, offer[name]):
                ctx.set(getattr(channel.p, field), value)
        if not source.shows and source.moved < len(source.beats):
            source.shows = self.random.random() >= source.stall
            ctx.set(source.pins.p, source.beats[source.moved])
        ctx.set(source.pins.valid, source.shows)
        ready = self.random.random() >= sink.stall
        ctx.set(sink.pins.ready, ready)
        if ready and ctx.get(sink.pins.valid):
            sink.beats.append(ctx.get(sink.pins.p))
        if source.shows and ctx.get(source.pins.ready):
            source.moved += 1
            source.shows = False
        self.rules.step(**seen, b=Seen(bool(offer["b"]), 1, offer["b"]),
                        r=Seen(bool(offer["r"]), 1, offer["r"]))
        self.memory.step(self.cycle, **seen)
        self.error = ctx.get(self.dut.port.error)
        await ctx.tick()
        self.cycle += 1
        ctx.set(self.dut.reader.start, 0)
        ctx.set(self.dut.writer.start, 0)

    def busy(self, ctx) -> bool:
        return bool(ctx.get(self.dut.reader.busy) or ctx.get(self.dut.writer.busy))


def beats_of(frames: np.ndarray, size: int) -> list[int]:
    """Beats of frames ``(N, bytes)``."""
    return [int.from_bytes(each.tobytes(), "little") for each in frames.reshape(-1, size)]


def simulate(bench: Bench, drive) -> None:
    simulator = Simulator(bench.dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()


def configs(
    bits: int, into: tuple[int, int], out: tuple[int, int]
) -> tuple[FrameReaderConfig, FrameWriterConfig]:
    """A reader and a writer, of beats of so many bytes and frames of so many beats."""
    axi = AxiConfig(data_bits=bits)
    return (FrameReaderConfig(axi=axi, beat_bytes=into[0], frame_bytes=into[0] * into[1]),
            FrameWriterConfig(axi=axi, beat_bytes=out[0], frame_bytes=out[0] * out[1]))


BEATS = st.tuples(st.integers(1, 40), st.integers(1, 6))


@given(st.sampled_from([32, 64, 128, 256]), BEATS, BEATS, st.integers(0, 3), st.integers(0, 3),
       st.booleans(), st.sampled_from([0.0, 0.3, 0.8]), st.sampled_from([0.0, 0.3, 0.8]),
       st.integers(1, 40), st.integers(0, 999))
@examples(10)
def test_frames_from_and_to_memory(
    bits: int, into: tuple[int, int], out: tuple[int, int], frames: int, gap: int, dense: bool,
    stall: float, wait: float, latency: int, seed: int
) -> None:
    """Two transfers one after the other, at any distance of frames; all other bytes stay."""
    reader, writer = configs(bits, into, out)
    size = reader.axi.word_bytes
    bench = Bench(reader, writer, seed, ready=1 - wait, latency=latency, gap=wait)
    strides = [size * (each.frame_words + (0 if dense else gap)) for each in (reader, writer)]
    contents = bytes(bench.memory.bytes)

    def place(begin: int, stride: int, k: int, config: Any) -> slice:
        begin = begin // size * size + k * stride
        return slice(begin, begin + config.frame_words * size)

    async def drive(ctx) -> None:
        after = bytearray(contents)
        for count in (frames, frames + 1):
            made = bench.random.integers(0, 256, (count, writer.frame_bytes), np.uint8)
            source = Stream(bench.dut.writer.i, stall, beats_of(made, writer.beat_bytes))
            sink = Stream(bench.dut.reader.o, stall, [])
            wanted = b""
            for k in range(count):
                wanted += contents[place(READ, strides[0], k, reader)][: reader.frame_bytes]
                after[place(WRITE, strides[1], k, writer)] = made[k].tobytes().ljust(
                    writer.frame_words * size, b"\0")
            for mover, config, begin, stride in (
                    (bench.dut.reader, reader, READ, strides[0]),
                    (bench.dut.writer, writer, WRITE, strides[1])):
                words = config.frame_words
                bench.start(ctx, mover, begin // size * size,
                            words * count if dense else words, int(count > 0) if dense else count,
                            stride)
            await bench.step(ctx, source, sink)
            await bench.step(ctx, source, sink)
            total = count * reader.frame_bytes // reader.beat_bytes
            while bench.busy(ctx) or len(sink.beats) < total:
                await bench.step(ctx, source, sink)
                assert bench.cycle < LIMIT
            assert bench.rules.complete, "not busy: all is in memory"
            assert bench.memory.bytes == after
            for _ in range(10):
                await bench.step(ctx, source, sink)
            assert b"".join(each.to_bytes(reader.beat_bytes, "little") for each in sink.beats) \
                == wanted
            assert source.moved == len(source.beats)
            assert bench.error == 0

    simulate(bench, drive)


@pytest.mark.parametrize("bits, beat", [(128, 16), (128, 3), (128, 40)])
def test_a_beat_a_cycle(bits: int, beat: int) -> None:
    """Both directions at once, from and to a quick memory: the side with more beats sets the pace.

    A burst of a new page, and the end of a run, take a few cycles more.
    """
    count, frame = 5, 60
    reader, writer = configs(bits, (beat, frame), (beat, frame))
    bench = Bench(reader, writer)
    more = count * max(frame, reader.frame_words)

    async def drive(ctx) -> None:
        made = bench.random.integers(0, 256, (count, writer.frame_bytes), np.uint8)
        source = Stream(bench.dut.writer.i, 0, beats_of(made, beat))
        sink = Stream(bench.dut.reader.o, 0, [])
        bench.start(ctx, bench.dut.reader, 0, reader.frame_words * count, 1, 0)
        bench.start(ctx, bench.dut.writer, 0x8000, writer.frame_words * count, 1, 0)
        await bench.step(ctx, source, sink)
        while len(sink.beats) < count * frame or source.moved < len(source.beats):
            await bench.step(ctx, source, sink)
            assert bench.cycle < LIMIT
        assert more <= bench.cycle <= more + 60

    simulate(bench, drive)


def test_a_bad_response_ends_all() -> None:
    """Whole words only are delivered, and the movers stay busy: nobody takes that for an end."""
    reader, writer = configs(128, (4, 100), (4, 100))
    bench = Bench(reader, writer, latency=5)
    bench.memory.read_faults[20] = SLVERR
    before = bytes(bench.memory.bytes)

    async def drive(ctx) -> None:
        source = Stream(bench.dut.writer.i, 0, list(range(100)))
        sink = Stream(bench.dut.reader.o, 0, [])
        bench.start(ctx, bench.dut.reader, 0, reader.frame_words, 1, 0)
        bench.start(ctx, bench.dut.writer, 0x8000, writer.frame_words * 2, 1, 0)
        for _ in range(600):
            await bench.step(ctx, source, sink)
        assert bench.error == 1
        assert ctx.get(bench.dut.writer.busy)
        assert b"".join(each.to_bytes(4, "little") for each in sink.beats) == before[: 20 * 16]

    simulate(bench, drive)


def test_places_hold_two_requests() -> None:
    with pytest.raises(HwgenError, match=r"^Places must be 128 or more, not 127$"):
        FrameReaderConfig(axi=AxiConfig(), beat_bytes=1, frame_bytes=1, places=127)
    with pytest.raises(HwgenError, match=r"^in_bytes must be positive, not 0$"):
        FrameWriterConfig(axi=AxiConfig(), beat_bytes=0, frame_bytes=1)


def test_area() -> None:
    """Queues take memories."""
    for each in configs(128, (3, 100), (3, 100)):
        total = each.area().resources()
        assert total.lut > 0
        assert total.ff > 0
        assert total.bram18 + total.lut > 0
