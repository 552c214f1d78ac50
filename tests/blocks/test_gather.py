"""Gather: values and times, in each of the ways it is built."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.gather import GatherConfig
from hwgen.errors import HwgenError
from hwgen.ir import GatherChannels, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, quantisations
from tests.blocks.places import check_least_places
from tests.profiles import examples


def shuffle(channels: int, groups: int) -> GatherChannels:
    """ShuffleNet's: a channel of each group in turn."""
    return GatherChannels(tuple(np.arange(channels).reshape(groups, -1).T.ravel()))


@st.composite
def gathers(draw: st.DrawFn) -> GatherConfig:
    """Any choice of channels: whole beats, or any order."""
    quantisation = draw(quantisations(st.sampled_from([2, 4, 8, 8, 16])))
    spatial = draw(st.lists(st.integers(1, 4), max_size=3))
    lanes, beats = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3, 4, 5, 12, 20]))
    channels = lanes * beats
    if draw(st.booleans()):
        kept = draw(st.lists(st.integers(0, beats - 1), min_size=1, unique=True))
        crossed = draw(st.permutations(range(lanes)))
        order = [beat * lanes + lane for beat in sorted(kept) for lane in crossed]
    else:
        random = np.random.default_rng(draw(st.integers(0, 999)))
        order = random.integers(0, channels, lanes * draw(st.integers(1, 6)))
    return GatherConfig(op=GatherChannels(tuple(order)),
                        tensor=TensorType((*spatial, channels), quantisation), lanes=lanes)


@given(gathers(), st.integers(0, 999))
@examples(70)
def test_values_and_times(config: GatherConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(gathers(), st.integers(0, 999))
@examples(30)
def test_least_places(config: GatherConfig, seed: int) -> None:
    check_least_places(config, seed)


@given(gathers(), st.integers(0, 999), st.integers(1, 8))
@examples(40)
def test_values_under_stalls(config: GatherConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


CASES = [
    # channels, lanes, order, how it is built, cycles a pixel, latency
    (8, 2, range(8), "filter", 4, 3),
    (8, 2, (2, 3, 6, 7), "filter", 4, 1 + 3),
    (8, 8, (3, 1, 0, 2, 7, 7, 7, 7), "filter", 1, 3),
    (8, 2, shuffle(8, 2).order, "registers", 4, 3 + 5),
    (8, 4, (0, 1, 2, 3, 5, 4, 6, 7), "registers", 2, 1 + 5),
    (4, 2, shuffle(4, 2).order, "registers", 2, 1 + 5),
    (4, 4, (0, 1, 2, 3) * 2, "registers", 2, 0 + 5),
    (16, 2, (0, 0, 0, 0), "memory", 8, 7 + 8),
    (4, 2, (0, 2) * 9, "memory", 9, 1 + 8),
    (464, 4, shuffle(464, 2).order, "memory", 116, 115 + 8),
    (150, 1, (*range(149, -1, -1),), "memory", 150, 149 + 8),
]


@pytest.mark.parametrize("channels, lanes, order, way, cycles, latency", CASES)
def test_a_pixel_after_the_other(
    channels: int, lanes: int, order: tuple[int, ...], way: str, cycles: int, latency: int
) -> None:
    """Pixels without a pause, with the depth that is built by default."""
    op = GatherChannels(tuple(order))
    config = GatherConfig(op=op, tensor=TensorType((3, channels)), lanes=lanes)
    assert (config.way, config.interval, config.latency) == (way, 3 * cycles, latency)
    check_on_time(config)
    frames = np.random.default_rng(0).integers(-128, 128, (2, 3, channels))
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])
    last = run.times["o"].reshape(6, -1)[:, -1]
    np.testing.assert_array_equal(np.diff(last), cycles)


def test_the_order_in_block_memory() -> None:
    """What is read of a long pixel takes a block memory of three parts, and so two more cycles."""
    order = np.random.default_rng(0).permutation(1536)
    config = GatherConfig(op=GatherChannels(tuple(order)), tensor=TensorType((1, 1536)))
    assert (config.way, config.order_memory.kind, config.latency) == ("memory", "block", 1535 + 10)
    frames = np.random.default_rng(0).integers(-128, 128, (3, 1, 1536))
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])
    np.testing.assert_array_equal(run.times["o"], 1535 + 10 + np.arange(3 * 1536))


@pytest.mark.slow
@pytest.mark.parametrize("stall", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5)])
def test_a_memory_is_not_overwritten_too_early(stall: tuple[float, float]) -> None:
    """The first beat of a pixel comes as soon as the last of the one before last is read."""
    op = GatherChannels((*range(99, 0, -1), 0))
    config = GatherConfig(op=op, tensor=TensorType((4, 100)))
    assert config.way == "memory"
    check_under_stalls(config, stall=stall, depths=(1,))


def test_refuses() -> None:
    tensor = TensorType((3, 4))
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 4 channels, not 3$"):
        GatherConfig(op=GatherChannels((0, 1, 2)), tensor=tensor, lanes=3)
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 3 channels, not 2$"):
        GatherConfig(op=GatherChannels((0, 1, 2)), tensor=tensor, lanes=2)
    with pytest.raises(HwgenError, match=r"^There is no channel 4 among 4$"):
        GatherConfig(op=GatherChannels((4,)), tensor=tensor)
