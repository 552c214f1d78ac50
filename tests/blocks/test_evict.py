"""EvictionBuffer: values, times and requests, with a model of the memory that answers its ports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.evict import EvictionConfig
from hwgen.emit.verilog import emit_component
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, TensorType
from hwgen.offchip.bus import MEMORY_LATENCY, AxiConfig
from hwgen.parts.queue import queue_depth
from hwgen.parts.stream import StreamType, in_order
from hwgen.sim.verilator import lint
from tests.blocks.checks import STALLS
from tests.blocks.rings import Memory, kept, on_time, run, several
from tests.profiles import examples


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


def test_parts_are_what_is_on_the_chip() -> None:
    config = replace(evict(), depths=(1 << 18,))
    (part,) = config.parts().values()
    assert part.resources("ultrascale+").bram18 <= config.resources("ultrascale+").bram18 < 20
