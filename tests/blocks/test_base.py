"""Stream types, packing, schedules' recurrence, memories, and what a configuration offers."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Fragment, Module
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hwgen.blocks.concatenate import ConcatenateConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.device.arithmetic import counter
from hwgen.device.cost import Resources
from hwgen.device.platform import add_shared
from hwgen.device.storage import block_ram, memory_style
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, TensorType
from hwgen.parts.stream import StreamType, in_order, pack_rows, unpack_rows


@given(st.integers(2, 16), st.integers(1, 6), st.integers(1, 9), st.data())
def test_rows_survive_packing(bits: int, rows: int, count: int, data: st.DataObject) -> None:
    codes = st.integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    values = data.draw(arrays.arrays(np.int64, (rows, count), elements=codes))
    packed = pack_rows(values, bits)
    assert packed == [
        sum((int(v) & ((1 << bits) - 1)) << (bits * k) for k, v in enumerate(row))
        for row in values
    ]
    np.testing.assert_array_equal(unpack_rows(packed, bits, count), values)


def test_stream_type() -> None:
    stream = StreamType(TensorType((2, 3, 4), Quantisation(bits=5)), 2)
    assert (stream.width, stream.beats_per_site, stream.beats) == (10, 2, 12)
    assert stream.payload.size == 10
    frames = np.arange(48).reshape(2, 2, 3, 4) % 32 - 16
    beats = stream.pack(frames)
    assert len(beats) == 24
    assert beats[0] == (-16 & 31) | (-15 & 31) << 5
    np.testing.assert_array_equal(stream.unpack(beats), frames)


@pytest.mark.parametrize("wrong, message", [
    ({"lanes": 3}, r"^Lanes must divide the 4 channels, not 3$"),
    ({"lanes": 8}, r"^Lanes must divide the 4 channels, not 8$"),
    ({"lanes": 0}, r"^Lanes must divide the 4 channels, not 0$"),
    ({"pixels": 2}, r"^Pixels a beat must divide the extent 3, not 2$"),
])
def test_stream_type_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        StreamType(TensorType((2, 3, 4)), **wrong)


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 7))
def test_in_order_is_the_recurrence(times: list[int], spacing: int) -> None:
    expected: list[int] = []
    for time in times:
        expected.append(max(time, expected[-1] + spacing) if expected else time)
    np.testing.assert_array_equal(in_order(np.array(times), spacing), expected)


@pytest.mark.parametrize("width, depth, blocks", [
    (8, 64, 0), (72, 64, 0), (8, 512, 0), (18, 1024, 1), (9, 2048, 1), (36, 512, 1),
    (37, 512, 2), (8, 4096, 2), (1, 16384, 1), (256, 4096, 58),
])
def test_block_ram(width: int, depth: int, blocks: int) -> None:
    assert block_ram(width, depth) == blocks
    assert memory_style(width, depth) == ("block" if blocks else "distributed")
    memory = Resources.memory(width, depth)
    assert memory.bram18 == blocks
    assert bool(blocks) or memory.lut > 0


def test_block_ram_of_arrays() -> None:
    np.testing.assert_array_equal(block_ram(np.array([8, 18]), np.array([64, 1024])), [0, 1])


def test_resources_add_up() -> None:
    total = Resources(1, 2, 3, 4, 5) + Resources(dsp=10, uram=1)
    assert total == Resources(dsp=11, lut=2, ff=3, bram18=4, uram=6)


@pytest.mark.parametrize("count, bits", [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_counter_is_never_empty(count: int, bits: int) -> None:
    assert len(counter(count)) == bits


def test_ports() -> None:
    tensor = TensorType((2, 4))
    config = ConcatenateConfig(tensors=(tensor, tensor), lanes=2)
    assert config.input_ports == ("i_0", "i_1")
    assert config.output_ports == ("o",)
    assert list(config.signature.members) == ["i_0", "i_1", "o"]
    assert (config.interval, config.latency) == (8, 3)


def test_queue_depths() -> None:
    stream = StreamType(TensorType((2, 4)))
    assert FifoConfig(stream=stream, branches=2).queue_depths == (4, 4)
    assert FifoConfig(stream=stream, branches=2, depths=(1, 9)).queue_depths == (1, 9)
    with pytest.raises(HwgenError, match=r"^Depths must have 2 entries, not \(4,\)$"):
        _ = FifoConfig(stream=stream, branches=2, depths=(4,)).queue_depths


def test_shared_asks_an_emission_platform_for_an_instance() -> None:
    config = FifoConfig(stream=StreamType(TensorType((2, 4))))
    asked = []

    class Platform:
        def instance_of(self, config: FifoConfig, ports) -> Module:
            asked.append((config, ports))
            return Module()

    m = Module()
    ports = add_shared(m, "fifo", config, Platform())
    assert asked == [(config, ports)]
    assert ports.signature == config.signature
    assert list(Fragment.get(m, None).subfragments)


def test_shared_adds_the_component_in_simulation() -> None:
    m = Module()
    config = FifoConfig(stream=StreamType(TensorType((2, 4))))
    assert add_shared(m, "fifo", config, None) is m.submodules.fifo
    assert list(Fragment.get(m, None).subfragments)
