"""OffChipRearrange: values, times and requests, for transpositions, depth to space, any order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.offchip_rearrange import OffChipRearrangeConfig
from hwgen.blocks.rearrange import RearrangeConfig
from hwgen.blocks.registry import block_config
from hwgen.design import OFF_CHIP, Folding, MemoryPorts
from hwgen.emit.verilog import emit_component
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, Rearrange, Resize, TensorType
from hwgen.offchip.bus import AxiConfig
from hwgen.offchip.memory_map import map_memory
from hwgen.parts.queue import queue_depth
from hwgen.parts.stream import StreamType, in_order
from hwgen.sim.verilator import lint
from tests.blocks.checks import STALLS, divisors
from tests.blocks.rings import Memory, kept, on_time, run, several
from tests.blocks.test_rearrange import depth_to_space, orders, transposed
from tests.profiles import examples


def ordered(
    op: Rearrange, shape: tuple[int, ...], lanes: int = 1, data_bits: int = 32, **options
) -> OffChipRearrangeConfig:
    """Frames in another order by way of a small memory."""
    bits = options.pop("bits", 8)
    options = {"burst": 4, "memory_latency": 20} | options
    return OffChipRearrangeConfig(
        op=op, tensor=TensorType(shape, Quantisation(0.1, 0, bits)), lanes=lanes,
        axi=AxiConfig(data_bits=data_bits, address_bits=20), **options,
    )


def across(height: int, width: int, channels: int, lanes: int, **options) -> OffChipRearrangeConfig:
    """Rows and columns exchanged."""
    op = transposed((height, width, channels), (1, 0, 2), (width, height, channels))
    return ordered(op, (height, width, channels), lanes, **options)


CASES = {
    "narrow beats": across(6, 5, 8, 2),
    "as wide as a word": across(5, 6, 8, 4),
    "wider than a word": across(4, 5, 12, 6),
    "rest of a slot": across(7, 3, 8, 4, burst=8),
    "rest of a word": across(6, 5, 6, 2, data_bits=64),
    "channels to pixels": ordered(transposed((4, 3, 7), (2, 0, 1), (7, 4, 3)), (4, 3, 7)),
    "depth to space": ordered(depth_to_space(4, 3, 4, 2), (4, 3, 16), 2),
    "reversed": ordered(Rearrange(np.arange(96).reshape(6, 4, 4)[::-1, ::-1]), (6, 4, 4), 4),
    "rows reversed": ordered(Rearrange(np.arange(96).reshape(6, 4, 4)[::-1]), (6, 4, 4), 2),
    "any": ordered(Rearrange(np.random.default_rng(1).permutation(30)[:, None]), (30, 1), bits=6),
}


@st.composite
def configs(draw: st.DrawFn) -> OffChipRearrangeConfig:
    """Any order and width, and any latency."""
    tensor, op = draw(orders())
    return OffChipRearrangeConfig(
        op=op, tensor=tensor, lanes=draw(divisors(op.run(tensor))),
        axi=AxiConfig(data_bits=draw(st.sampled_from([32, 32, 64])), address_bits=20),
        burst=1 << draw(st.integers(2, 4)), memory_latency=draw(st.integers(20, 60)),
        pace=draw(st.sampled_from([0, 0, 0, 30])),
    )


def check_values(config: OffChipRearrangeConfig, seed: int) -> Memory:
    """Whoever stalls: the source, the sink, the memory, some of them, or nobody."""
    frames = several(config, seed, 2 + 60 // config.inputs[0].beats)
    slow = (seed >> 2) % 3
    memory = Memory(config, 1 + seed % 23, (0, 5, 90)[slow], (0.0, 0.2, 0.7)[slow], seed=seed)
    seen = run(config, frames, memory, stall=(*STALLS, (0.0, 0.0))[seed % 5], seed=seed)
    np.testing.assert_array_equal(seen.frames, config.compute(frames)[0])
    assert memory.read == len(frames) * config.offchip.reads
    return memory


def check_times(config: OffChipRearrangeConfig, seed: int) -> None:
    """With a memory that has exactly its latency, and whose words come without a gap.

    Exact are: when beats are accepted, when requests are made, and when beats are visible, from
    when their words come.  The schedule is a bound, as it knows only of the last word of a request.
    """
    schedule, seen, memory = on_time(config, seed, 2)
    assert kept(seen, schedule)
    assert seen.waits == 0
    assert (seen.times <= schedule.outputs[0]).all()
    assert queue_depth(schedule.claims[0], schedule.outputs[0]) <= config.queue_depths[0]
    words, steps = config.words_per_beat, config.piece_beats * config.words_per_beat
    claims = schedule.claims[0][:: config.piece_beats]
    np.testing.assert_array_equal(memory.requests[1], claims + 1)
    come = claims[:, None] + 1 + config.memory_latency - np.arange(config.piece_words)[::-1]
    per_word = np.arange(steps) // config.beats_per_word
    visible = in_order((come[:, per_word] + 3 + config.unpack_latency).ravel())
    np.testing.assert_array_equal(seen.times, visible[words - 1 :: words])


@pytest.mark.parametrize("name", CASES)
def test_cases(name: str) -> None:
    check_values(CASES[name], 1)
    check_times(CASES[name], 0)
    check_times(CASES[name], 1)


@given(configs(), st.integers(0, 999), st.integers(0, 2), st.integers(1, 3))
@examples(25)
def test_values_under_stalls(
    config: OffChipRearrangeConfig, seed: int, more: int, pieces: int
) -> None:
    capacity = config.least_capacity + more * config.slot_beats
    check_values(replace(config, capacity=capacity, depths=(pieces * config.piece_beats,)), seed)


@given(configs(), st.integers(0, 999))
@examples(25)
def test_times(config: OffChipRearrangeConfig, seed: int) -> None:
    check_times(config, seed)


@given(configs(), st.integers(0, 999))
@examples(10)
def test_bound(config: OffChipRearrangeConfig, seed: int) -> None:
    """With a memory that is now quick, now slow, but keeps its latency."""
    schedule, seen, _ = on_time(config, seed, 2, config.memory_latency)
    assert kept(seen, schedule)
    assert (seen.times <= schedule.outputs[0]).all()


def test_bound_is_reached() -> None:
    """Pieces of one word: the schedule is what happens."""
    for config in (CASES["channels to pixels"], CASES["any"], across(5, 4, 3, 3)):
        schedule, seen, _ = on_time(config, 1, 4)
        np.testing.assert_array_equal(seen.times, schedule.outputs[0])


def test_a_frame_every_interval() -> None:
    """With input that comes evenly, and so much capacity as that takes."""
    config = across(8, 6, 8, 2)
    beats = config.inputs[0].beats
    arrivals = np.arange(8 * beats) * config.interval // beats
    schedule = config.schedule([arrivals])
    assert schedule.capacity is not None
    config = replace(config, capacity=schedule.capacity)
    assert config.slots == 42
    frames = several(config, 0, 8)
    memory = Memory(config, config.memory_latency)
    seen = run(config, frames, memory, arrivals=arrivals)
    assert kept(seen, schedule)
    assert (np.diff(seen.times[beats - 1 :: beats])[3:] == config.interval).all()
    assert min(memory.reuse.values()) > 3
    # A slot less, and requests to write wait, though the head has room meanwhile.
    config = replace(config, capacity=schedule.capacity - config.slot_beats)
    less = Memory(config, config.memory_latency)
    run(config, frames, less, arrivals=arrivals)
    late = np.subtract(less.requests[0], memory.requests[0])
    assert late.min() == 0 < late.max()


def test_shapes() -> None:
    """Pieces, slots, requests and bytes."""
    config = across(6, 5, 8, 2)
    assert (config.piece_beats, config.piece_words, config.slot_pieces) == (4, 2, 2)
    assert (config.order.period, config.order.counts) == (30, (5, 6))
    assert (config.words_per_frame, config.requests_per_frame) == (60, 15)
    assert config.request_cycles == 3
    assert config.interval == 30 * 4
    assert (config.offchip.reads, config.offchip.writes) == (240, 240)
    assert config.offchip.read_cycles == 30 * 3
    assert config.offchip.size == config.ring_bytes == config.slots * 16
    # Several beats in a word, the last of a piece not full; a slot that is no power of two.
    config = across(6, 5, 6, 2, data_bits=64, burst=16)
    assert (config.piece_beats, config.piece_words, config.slot_pieces) == (3, 1, 15)
    # The last slot of a frame is shorter where those that divide it would be too short.
    config = across(13, 3, 8, 4, burst=16)
    assert (config.piece_words, config.slot_pieces, config.request_words) == (2, 8, (16, 14))
    # A burst is not exceeded, though more is side by side.
    config = ordered(Rearrange(np.arange(96).reshape(6, 4, 4)[::-1]), (6, 4, 4), 4)
    assert (config.piece_beats, config.piece_words) == (4, 4)


def test_requests_have_their_price() -> None:
    """A port has eight bursts in flight, each for as long as the latency; and three cycles each."""
    config = across(64, 64, 4, 4, memory_latency=360)
    assert config.request_cycles == 45
    assert config.interval == 64 * 64 * 45
    assert replace(config, memory_latency=20).interval == 64 * 64 * 3
    memory = map_memory({"a": config, "b": config}, config.axi, 1)
    assert memory is not None
    assert memory.interval == 2 * config.interval
    memory = map_memory({"a": config, "b": config}, config.axi, 2)
    assert memory is not None
    assert memory.interval == config.interval
    assert replace(config, pace=100).interval == 64 * 64 * 100
    # Pieces of three words may cross a page.
    assert across(64, 64, 12, 4, memory_latency=360).request_cycles == 52


def test_little_is_on_the_chip() -> None:
    """A frame of 512 x 512 takes as much memory as a small one."""
    op = transposed((512, 512, 16), (1, 0, 2), (512, 512, 16))
    tensor = TensorType((512, 512, 16))
    config = OffChipRearrangeConfig(op=op, tensor=tensor, lanes=16, axi=AxiConfig())
    whole = RearrangeConfig(op=op, tensor=tensor, lanes=16)
    assert config.resources().bram18 <= 8
    assert whole.resources().bram18 > 1800
    assert config.offchip.size > 0.99 * tensor.size


def test_chosen_by_the_folding() -> None:
    """The style of the buffer says where it is; no other block has such a style."""
    op, tensor = transposed((4, 4, 8), (1, 0, 2), (4, 4, 8)), TensorType((4, 4, 8))
    stream, ports = StreamType(tensor, 2), MemoryPorts(data_bits=64, burst=8, memory_latency=99)
    folding = Folding(window_style=OFF_CHIP, capacity=400, pace=20)
    config = block_config(op, (stream,), folding, 4, ports=ports)
    assert isinstance(config, OffChipRearrangeConfig)
    assert (config.lanes, config.capacity, config.pace) == (4, 400, 20)
    assert (config.axi, config.burst, config.memory_latency) == (ports.axi, 8, 99)
    assert isinstance(block_config(op, (stream,), Folding(), 4), RearrangeConfig)
    with pytest.raises(HwgenError, match=r"^tile must be 0, not 2, for a OffChipRearrange does not "
                                         r"use it; .*: capacity, pace, window_style$"):
        block_config(op, (stream,), replace(folding, tile=2), 4, ports=ports)
    with pytest.raises(HwgenError, match=(
        r"^window_style must not be 'offchip', for the buffer of a NearestResize is on the chip$"
    )):
        block_config(Resize((2, 2)), (stream,), Folding(window_style=OFF_CHIP), 2)


@pytest.mark.parametrize("options, message", [
    ({"lanes": 3}, r"^Lanes must divide the 8 channels, not 3$"),
    ({"lanes": 8, "burst": 1}, r"^Burst must be at least the 2 words of a beat, not 1$"),
    ({"burst": 3}, r"^Burst must be a power of two from 1 to 1024 words, not 3$"),
    ({"memory_latency": 1},
     r"^Memory latency must be at least the 4 words of a request, not 1$"),
    ({"capacity": 7}, r"^Capacity must be at least 104 beats, not 7$"),
    ({"capacity": 1 << 20}, r"^Ring must be within 20 bits of address, not of \d+ bytes$"),
    ({"depths": (3,)},
     r"^Queue depth must be at least the 4 beats that are read at once, not 3$"),
    ({"styles": ("mud",)}, r"^Styles must be of \(.*\) or empty, not \('mud',\)$"),
])
def test_refuses(options: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        across(6, 5, 8, **{"lanes": 2, **options})


def test_refuses_orders() -> None:
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 1 channels that the order keeps "
                                         r"side by side, not 2$"):
        ordered(transposed((4, 4, 8), (2, 1, 0), (8, 4, 4)), (4, 4, 8), 2)
    with pytest.raises(HwgenError, match=r"^an order of 131072 words that is no nest of at most 6"):
        ordered(Rearrange(np.random.default_rng(0).permutation(1 << 17)[:, None]), (1 << 17, 1))


@pytest.mark.verilator
@pytest.mark.parametrize("name", ["narrow beats", "wider than a word", "any"])
def test_verilog_has_no_warnings(name: str, tmp_path: Path) -> None:
    rtl = emit_component(CASES[name].create())
    rtl.write(tmp_path)
    lint(rtl, tmp_path)
