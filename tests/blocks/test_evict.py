"""EvictionBuffer: values, times and requests, with a model of the memory that answers its ports.

The model keeps to the strictest order: words are written as soon as they are taken, and read as
late as they are delivered.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.base import Schedule
from hwgen.blocks.evict import EvictionConfig
from hwgen.emit.verilog import emit_component
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, TensorType
from hwgen.offchip.bus import MEMORY_LATENCY, AxiConfig
from hwgen.parts.queue import queue_depth
from hwgen.parts.stream import StreamType, in_order
from hwgen.sim.verilator import lint
from tests.blocks.checks import STALLS, random_arrivals, random_frames
from tests.profiles import examples

BASE = 0x3000
"""Where rings begin."""
PATIENCE = 5000
"""Cycles without a beat after which a run counts as stuck."""


def evict(
    beats: int = 24, bits: int = 8, lanes: int = 2, data_bits: int = 32, **options
) -> EvictionConfig:
    """A buffer for frames of so many beats."""
    tensor = TensorType((beats, lanes), Quantisation(0.1, 0, bits))
    options = {"burst": 4, "memory_latency": 20} | options
    return EvictionConfig(
        stream=StreamType(tensor, lanes), axi=AxiConfig(data_bits=data_bits, address_bits=20),
        **options,
    )


@dataclass
class Memory:
    """A memory that answers a buffer's ports and watches what it does.

    Parameters
    ----------
    config : configuration of the buffer
    latency : cycles from a request to ``done``, or to the last word of its data
    jitter : most cycles that are added to that, for each request
    stall : probability that something is not ready, or a word of data late, each cycle
    pace : cycles from taking a word to being ready for the next

    Members
    -------
    requests : of writes and of reads, cycle in which each is seen first
    written, read : bytes
    reuse : how often each slot was written
    """

    config: EvictionConfig
    latency: int
    jitter: int = 0
    stall: float = 0.0
    pace: int = 1
    seed: int = 0
    requests: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    written: int = 0
    read: int = 0
    reuse: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng([self.seed, 5])
        self.bytes = bytearray(self.random.bytes(BASE + self.config.ring_bytes))
        self.state: dict[int, str] = {}
        # Requests with the words that are left; of reads also when each word is due.
        self.to_take: deque[list[int]] = deque()
        self.to_finish: deque[tuple[int, int]] = deque()
        self.to_send: deque[tuple[int, int, int, int]] = deque()
        self.expected = [self.lengths() for _ in range(2)]

    def lengths(self):
        """Words of the requests of frame after frame."""
        while True:
            left = self.config.words_per_frame
            while left:
                yield min(left, self.config.burst)
                left -= min(left, self.config.burst)

    def due(self, cycle: int) -> int:
        return cycle + self.latency + (int(self.random.integers(self.jitter + 1)))

    def check(self, kind: int, address: int, size: int) -> tuple[int, int]:
        """Slot and words of a request, which must be the next one."""
        config = self.config
        assert size == next(self.expected[kind]) * config.axi.word_bytes
        assert address // 4096 == (address + size - 1) // 4096
        slot, rest = divmod(address - BASE, config.slot_bytes)
        assert rest == 0
        assert 0 <= slot < config.slots
        return slot, size // config.axi.word_bytes

    def answer(self, dut: Any):
        """The process that answers a buffer's ports."""
        async def process(ctx) -> None:
            await self.run(ctx, dut)

        return process

    async def run(self, ctx, dut: Any) -> None:
        size = self.config.axi.word_bytes
        write, read = dut.write, dut.read
        ticks = ctx.tick().sample(
            write.request.valid, write.request.ready, write.request.p.address,
            write.request.p.bytes, write.data.valid, write.data.ready, write.data.p,
            read.request.valid, read.request.ready, read.request.p.address, read.request.p.bytes,
        )
        ctx.set(dut.base, BASE)
        offers: list[tuple[int, int, int] | None] = [None, None]
        held = None
        cycle = taken = 0
        while True:
            stalls = self.random.random(4) < self.stall
            ctx.set(write.request.ready, not stalls[0])
            ctx.set(read.request.ready, not stalls[1])
            ctx.set(write.data.ready, bool(self.to_take) and not stalls[2]
                    and cycle >= taken + self.pace)
            done = bool(self.to_finish) and cycle >= self.to_finish[0][0]
            ctx.set(write.done, done)
            if done:
                self.state[self.to_finish.popleft()[1]] = "written"
            sent = bool(self.to_send) and cycle >= self.to_send[0][0] and not stalls[3]
            ctx.set(read.data.valid, sent)
            if sent:
                _, slot, offset, last = self.to_send.popleft()
                at = BASE + slot * self.config.slot_bytes + offset
                ctx.set(read.data.p, int.from_bytes(self.bytes[at : at + size], "little"))
                self.read += size
                if last:
                    self.state[slot] = "free"
            _, _, *seen = await ticks
            for kind, values in enumerate((seen[:4], seen[7:])):
                valid, ready, address, length = values
                offer = offers[kind]
                if offer is not None:
                    assert valid
                    assert offer[1:] == (address, length), "a request changed while not ready"
                elif valid:
                    offers[kind] = offer = (cycle, address, length)
                if valid and ready:
                    assert offer is not None
                    offers[kind] = None
                    self.accept(kind, offer[0], *self.check(kind, address, length))
            valid, ready, word = seen[4:7]
            if held is not None:
                assert valid
                assert word == held, "a word changed while not ready"
            held = word if valid and not ready else None
            if self.to_take and ready:
                assert valid, "a word of a request is not there"
            if valid and ready:
                taken = cycle
                slot, offset, left, due = request = self.to_take[0]
                at = BASE + slot * self.config.slot_bytes + offset
                self.bytes[at : at + size] = word.to_bytes(size, "little")
                self.written += size
                request[1:3] = offset + size, left - 1
                if left == 1:
                    self.to_take.popleft()
                    self.to_finish.append((max(due, cycle + 1), slot))
            cycle += 1

    def accept(self, kind: int, cycle: int, slot: int, words: int) -> None:
        """A request that was offered first in this cycle."""
        self.requests[kind].append(cycle)
        if kind == 0:
            assert self.state.get(slot, "free") == "free", "a slot that is not yet read"
            self.state[slot] = "writing"
            self.reuse[slot] = self.reuse.get(slot, 0) + 1
            self.to_take.append([slot, 0, words, self.due(cycle)])
        else:
            assert self.state[slot] == "written"
            self.state[slot] = "reading"
            end = self.due(cycle)
            self.to_send.extend(
                (end - words + 1 + k, slot, k * self.config.axi.word_bytes, k == words - 1)
                for k in range(words)
            )


@dataclass(frozen=True)
class Seen:
    """What a run saw: frames, cycles of beats in and out, and cycles in which ``waits`` was up."""

    frames: np.ndarray
    accepts: np.ndarray
    times: np.ndarray
    waits: int


def run(
    config: EvictionConfig, frames: np.ndarray, memory: Memory, *,
    stall: tuple[float, float] = (0.0, 0.0), seed: int = 0,
    arrivals: np.ndarray | None = None, pops: np.ndarray | None = None,
) -> Seen:
    """Frames through a buffer; ``pops``: earliest cycle in which each beat is taken."""
    dut: Any = config.create()
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    values = config.stream.pack(frames)
    count = len(values)
    accepts: list[int] = []
    times: list[int] = []
    beats: list[int] = []
    waits = 0

    async def source(ctx) -> None:
        random = np.random.default_rng([seed, 0])
        ticks = ctx.tick().sample(dut.i.ready)
        cycle = index = 0
        offered = False
        while True:
            if not offered and index < count and (arrivals is None or cycle >= arrivals[index]):
                offered = random.random() >= stall[0]
                ctx.set(dut.i.p.as_value(), values[index])
            ctx.set(dut.i.valid, offered)
            _, _, ready = await ticks
            if offered and ready:
                accepts.append(cycle)
                index, offered = index + 1, False
            cycle += 1

    async def sink(ctx) -> None:
        nonlocal waits
        random = np.random.default_rng([seed, 1])
        ticks = ctx.tick().sample(dut.o.valid, dut.o.p.as_value(), dut.waits)
        cycle = last = 0
        held = None
        while len(beats) < count:
            ready = random.random() >= stall[1] and (pops is None or cycle >= pops[len(beats)])
            ctx.set(dut.o.ready, bool(ready))
            _, _, valid, value, waiting = await ticks
            waits += waiting
            if held is not None:
                assert valid
                assert value == held, "the output changed while not ready"
            held = value if valid and not ready else None
            if valid and ready:
                times.append(cycle)
                beats.append(value)
                last = cycle
            assert cycle - last < PATIENCE, f"stuck after {len(beats)} of {count} beats"
            cycle += 1

    simulator.add_testbench(memory.answer(dut), background=True)
    simulator.add_testbench(source, background=True)
    simulator.add_testbench(sink)
    simulator.run()
    return Seen(config.stream.unpack(beats), np.array(accepts), np.array(times), waits)


WIDTHS = [
    # Bits, lanes, bits of a word: the beats narrower than a word, as wide, wider.
    (8, 1, 32), (8, 1, 64), (8, 3, 64), (7, 1, 32), (5, 2, 32), (8, 4, 32), (7, 3, 32),
    (8, 8, 32), (8, 12, 32), (8, 5, 32), (7, 9, 32),
]


@st.composite
def buffers(draw: st.DrawFn) -> EvictionConfig:
    """Any widths, frames of any length, and few slots."""
    bits, lanes, data_bits = draw(st.sampled_from(WIDTHS))
    config = evict(
        draw(st.integers(1, 70)), bits, lanes, data_bits, burst=1 << draw(st.integers(0, 4)),
        memory_latency=draw(st.integers(20, 60)),
    )
    return replace(config, depths=(draw(st.integers(1, 80)),)) if draw(st.booleans()) else config


def several(config: EvictionConfig, seed: int, count: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random_frames(config, random)[0] for _ in range(-(-count // 2))])[:count]


@given(buffers(), st.integers(0, 999))
@examples(20)
def test_values_under_stalls(config: EvictionConfig, seed: int) -> None:
    """Whoever stalls: the source, the sink, the memory, some of them, or nobody."""
    frames = several(config, seed, 2 + 150 // config.stream.beats)
    slow = (seed >> 2) % 3
    memory = Memory(config, 1 + seed % 23, (0, 5, 90)[slow], (0.0, 0.2, 0.7)[slow], seed=seed)
    seen = run(config, frames, memory, stall=(*STALLS, (0.0, 0.0))[seed % 5], seed=seed)
    np.testing.assert_array_equal(seen.frames, frames)
    assert memory.written == memory.read == len(frames) * config.bytes_per_frame // 2


@pytest.mark.slow
@pytest.mark.parametrize("bits, lanes, data_bits", WIDTHS)
def test_ring_wraps(bits: int, lanes: int, data_bits: int) -> None:
    config = evict(90, bits, lanes, data_bits, burst=2, depths=(1,))
    config = replace(config, depths=(3 * config.beats_per_word,))
    assert 2 <= config.slots <= 8
    frames = several(config, 3, 3)
    memory = Memory(config, 3, 20, 0.3)
    seen = run(config, frames, memory, stall=(0.1, 0.4))
    np.testing.assert_array_equal(seen.frames, frames)
    assert set(memory.reuse) == set(range(config.slots))
    assert min(memory.reuse.values()) >= 3 * config.requests_per_frame // config.slots
    assert min(memory.reuse.values()) > 3


def on_time(
    config: EvictionConfig, seed: int, count: int, jitter: int = 0
) -> tuple[Schedule, Seen, Memory]:
    """A run with irregular arrivals or, for even seeds, without pauses.

    The memory takes its latency, or at random less by up to ``jitter``.
    """
    frames = several(config, seed, count)
    beats = len(frames) * config.stream.beats
    arrivals = np.arange(beats)
    if seed % 2:
        random = np.random.default_rng(seed)
        each = [random_arrivals(config, random)[0] for _ in range(-(-count // 2))]
        arrivals = np.concatenate([k * each[0][-1] + a for k, a in enumerate(each)])[:beats]
    memory = Memory(config, config.memory_latency - jitter, jitter, seed=seed)
    seen = run(config, frames, memory, arrivals=arrivals)
    np.testing.assert_array_equal(seen.frames, frames)
    return config.schedule([arrivals]), seen, memory


def kept(seen: Seen, schedule: Schedule) -> bool:
    """Whether beats were accepted on time; those after the last output are not awaited."""
    return np.array_equal(seen.accepts, schedule.accepts[0][: len(seen.accepts)])


@given(buffers(), st.integers(0, 999))
@examples(15)
def test_times(config: EvictionConfig, seed: int) -> None:
    """With a memory that has exactly its latency, and whose words come without a gap.

    Exact are: when beats are accepted, when requests are made, and when beats are visible, from
    when their words come.  The schedule is a bound, as it knows only of the last word of a request.
    """
    config = replace(config, depths=())
    schedule, seen, memory = on_time(config, seed, 2 + (300 // config.interval))
    assert kept(seen, schedule)
    assert seen.waits == 0
    assert (seen.times <= schedule.outputs[0]).all()
    assert queue_depth(schedule.claims[0], schedule.outputs[0]) <= config.queue_depths[0]
    # By hand, from steps: beats, or words of beats.
    words, beats = config.words_per_beat, config.beats_per_word
    frames = len(seen.frames)
    steps = (schedule.claims[0][:, None] + np.arange(words)).reshape(frames, -1)
    made, visible = [], []
    for frame in steps:
        for first in range(0, len(frame), config.burst * beats):
            request = frame[first : first + config.burst * beats]
            size = -(-len(request) // beats)
            write = request[-1] + 3 + (beats * words > 1)
            read = write + config.memory_latency + 2
            made.append((write, read))
            come = read + config.memory_latency - size + 1 + np.arange(size)
            visible.extend(np.repeat(come + 3 + (beats > 1), beats)[: len(request)])
    writes, reads = np.array(made).T
    np.testing.assert_array_equal(memory.requests[0], writes)
    np.testing.assert_array_equal(memory.requests[1], reads)
    np.testing.assert_array_equal(seen.times, in_order(np.array(visible))[words - 1 :: words])


@given(buffers(), st.integers(0, 999))
@examples(10)
def test_bound(config: EvictionConfig, seed: int) -> None:
    """With a memory that is now quick, now slow, but keeps its latency."""
    config = replace(config, depths=())
    schedule, seen, _ = on_time(config, seed, 2 + (300 // config.interval), config.memory_latency)
    assert kept(seen, schedule)
    assert (seen.times <= schedule.outputs[0]).all()


def test_bound_is_reached() -> None:
    """Requests of one word: the schedule is what happens."""
    for beats in (1, 4, 7):
        config = evict(beats, data_bits=64, burst=1)
        schedule, seen, _ = on_time(config, 1, 40)
        np.testing.assert_array_equal(seen.times, schedule.outputs[0])


@pytest.mark.parametrize("bits, lanes, data_bits", WIDTHS)
def test_full_speed(bits: int, lanes: int, data_bits: int) -> None:
    """No gap between beats once they come, and a frame every interval."""
    config = evict(64, bits, lanes, data_bits, burst=8, memory_latency=50)
    _, seen, _ = on_time(config, 0, 6)
    steady = seen.times[2 * config.stream.beats :]
    assert (np.diff(steady) == config.words_per_beat).all()
    assert config.interval == 64 * config.words_per_beat


@given(buffers(), st.integers(0, 999))
@examples(10)
def test_depth_for_a_late_consumer(config: EvictionConfig, seed: int) -> None:
    """With the depth that its schedule asks for, the producer is never held up."""
    config = replace(config, depths=())
    frames = several(config, seed, 2 + 300 // config.interval)
    random = np.random.default_rng(seed)
    pauses = random.integers(0, 60, len(frames) * config.stream.beats)
    arrivals = np.cumsum(1 + pauses * (random.random(len(pauses)) < 0.02)) - 1
    schedule = config.schedule([arrivals])
    pauses = random.integers(0, 300, len(pauses)) * (random.random(len(pauses)) < 0.02)
    late = int(random.integers(0, 500))
    pops = in_order(schedule.outputs[0] + late + np.cumsum(pauses), config.words_per_beat)
    config = replace(config, depths=(queue_depth(schedule.claims[0], pops),))
    seen = run(config, frames, Memory(config, config.memory_latency), arrivals=arrivals, pops=pops)
    np.testing.assert_array_equal(seen.frames, frames)
    assert kept(seen, schedule)
    np.testing.assert_array_equal(seen.times, pops)


@pytest.mark.slow
def test_waits_tells_of_a_slow_memory() -> None:
    config = evict(256, 8, 4, burst=8)
    frames = several(config, 0, 3)
    waits = [run(config, frames, Memory(config, 20, pace=pace)).waits for pace in (1, 2, 6)]
    assert waits[0] == 0
    assert 0 < waits[1] < waits[2]
    # A consumer that does not take the beats is no fault of the memory.
    seen = run(config, frames, Memory(config, 20), stall=(0.0, 0.8))
    assert seen.accepts[-1] > seen.accepts[0] + 2 * len(seen.accepts)
    assert seen.waits == 0


def test_shapes() -> None:
    """Words, requests and bytes, and memories only as wide as what words hold."""
    narrow = evict(beats=50, bits=7, lanes=3, data_bits=64, burst=8, depths=(100,))
    assert (narrow.beats_per_word, narrow.words_per_beat, narrow.word_bits) == (3, 1, 63)
    assert (narrow.words_per_frame, narrow.requests_per_frame) == (17, 3)
    assert (narrow.request_words, narrow.bytes_per_frame) == ((8, 1), 2 * 17 * 8)
    # 24, 24 and 2 beats a request: two frames, of which the first begins within a request.
    assert (narrow.slots, narrow.slot_bytes, narrow.ring_bytes) == (7, 64, 7 * 64)
    wide = evict(beats=10, bits=8, lanes=5, data_bits=32, burst=64, depths=(25,))
    assert (wide.beats_per_word, wide.words_per_beat, wide.word_bits) == (1, 2, 32)
    assert (wide.words_per_frame, wide.request_words, wide.interval) == (20, (20,), 20)
    assert wide.slots == 4
    assert wide.output_ports == ("o",)
    assert hash(wide) == hash(replace(wide))


@pytest.mark.parametrize("depth", [1, 2, 23, 24, 25, 100, 1000])
def test_slots_are_the_requests_that_beats_belong_to(depth: int) -> None:
    for beats in (1, 7, 24, 50):
        config = evict(beats, data_bits=64, burst=2, depths=(depth,))
        request = [(frame, beat // (2 * 4)) for frame in range(depth + 2) for beat in range(beats)]
        number = np.cumsum([0, *(a != b for a, b in zip(request, request[1:]))])
        spans = number[depth - 1 :] - number[: len(number) - depth + 1] + 1
        assert config.slots == spans[:beats].max()


@pytest.mark.parametrize("options, message", [
    ({"burst": 3}, r"^Burst must be a power of two from 1 to 1024 words, not 3$"),
    ({"burst": 0}, r"^Burst must be a power of two from 1 to 1024 words, not 0$"),
    ({"burst": 2048}, r"^Burst must be a power of two from 1 to 1024 words, not 2048$"),
    ({"memory_latency": 3},
     r"^Memory latency must be at least the 4 words of a request, not 3$"),
    ({"depths": (0,)}, r"^Queue depth must be positive, not 0$"),
    ({"depths": (1, 2)}, r"^Depths must have 1 entries, not \(1, 2\)$"),
    ({"depths": (1 << 20,)}, r"^Ring must be within 20 bits of address, not of \d+ bytes$"),
    ({"styles": ("mud",)}, r"^Styles must be of \(.*\) or empty, not \('mud',\)$"),
])
def test_refuses(options: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        evict(**options)


def test_resources_count_the_memories() -> None:
    config = EvictionConfig(
        stream=StreamType(TensorType((64, 64, 32)), 16), axi=AxiConfig(), depths=(20000,)
    )
    assert (config.tail_words, config.word_bits) == (64 + MEMORY_LATENCY + 5 + 1, 128)
    assert config.resources().bram18 == 4
    assert replace(config, styles=("ultra",)).resources().uram == 2
    # What is far off the chip costs nothing but longer counters.
    deep = replace(config, depths=(2_000_000,)).resources()
    assert deep.bram18 == config.resources().bram18
    assert deep.lut - config.resources().lut < 60


@pytest.mark.verilator
@pytest.mark.parametrize("bits, lanes, data_bits", WIDTHS[2::4])
def test_verilog_has_no_warnings(bits: int, lanes: int, data_bits: int, tmp_path: Path) -> None:
    rtl = emit_component(evict(23, bits, lanes, data_bits).create())
    rtl.write(tmp_path)
    lint(rtl, tmp_path)
