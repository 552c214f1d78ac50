"""Rearrange: values, times and capacity for transpositions, space to depth, and any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.rearrange import RearrangeConfig
from hwgen.errors import HwgenError
from hwgen.ir import Rearrange, TensorType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


def transposed(shape: tuple[int, ...], axes: tuple[int, ...], out: tuple[int, ...]) -> Rearrange:
    """A frame, seen with a shape, its axes exchanged."""
    return Rearrange(np.arange(np.prod(shape)).reshape(shape).transpose(axes).reshape(out))


def depth_to_space(height: int, width: int, channels: int, size: int) -> Rearrange:
    return transposed((height, width, size, size, channels), (0, 2, 1, 3, 4),
                      (height * size, width * size, channels))


@st.composite
def orders(draw: st.DrawFn) -> tuple[TensorType, Rearrange]:
    """Frames and orders of them: nests of loops, reversed or cut, and any others."""
    spatial = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    channels = draw(st.integers(1, 6))
    tensor = TensorType((*spatial, channels), draw(quantisations()))
    frame = np.arange(tensor.size).reshape(tensor.shape)
    kind = draw(st.sampled_from(
        ["axes", "reverse", "crop", "repeat", "any", "roll", "pixels", "reflect"]))
    axis = draw(st.integers(0, frame.ndim - 1))
    if kind == "axes":
        order = frame.transpose(draw(st.permutations(range(frame.ndim))))
    elif kind == "reverse":
        order = np.flip(frame, axis)
    elif kind == "crop":
        order = frame.take(range(draw(st.integers(0, frame.shape[axis] - 1)), frame.shape[axis]),
                           axis)
    elif kind == "repeat":
        order = np.repeat(frame, draw(st.integers(1, 3)), axis)
    elif kind == "roll":
        order = np.roll(frame, draw(st.integers(0, 3)), axis)
    elif kind == "reflect":
        pads = [(min(n - 1, draw(st.integers(0, 2))),) * 2 for n in frame.shape[:-1]]
        order = np.pad(frame, [*pads, (0, 0)], mode="reflect")
    elif kind == "pixels":
        pixels = draw(st.permutations(range(tensor.pixels)))
        order = frame.reshape(-1, channels)[pixels]
    else:
        count = draw(st.integers(1, 40))
        order = np.array(draw(st.lists(st.integers(0, tensor.size - 1), min_size=count,
                                       max_size=count))).reshape(-1, 1)
    return tensor, Rearrange(order)


@st.composite
def configs(draw: st.DrawFn) -> RearrangeConfig:
    tensor, op = draw(orders())
    return RearrangeConfig(op=op, tensor=tensor, lanes=draw(divisors(op.run(tensor))),
                           pace=draw(st.sampled_from([0, 0, 0, 7])))


@given(configs(), st.integers(0, 999))
@examples(80)
def test_values_and_times(config: RearrangeConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999), st.integers(1, 5), st.integers(0, 3))
@examples(60)
def test_values_under_stalls(config: RearrangeConfig, seed: int, depth: int, more: int) -> None:
    least = config.order.least_capacity
    check_under_stalls(replace(config, capacity=least + more), seed, depths=(depth,))


def test_as_little_memory_as_the_order_needs() -> None:
    """Depth to space keeps a row, heads a token, a transposition a frame, and nothing a word."""
    space = RearrangeConfig(op=depth_to_space(8, 5, 3, 2), tensor=TensorType((8, 5, 12)), lanes=3)
    assert (space.order.period, space.order.counts) == (20, (2, 5, 2))
    assert 10 < space.order.least_capacity <= 20
    assert space.at_full_speed().capacity < 2 * 20
    heads = RearrangeConfig(op=transposed((7, 4, 6), (0, 2, 1), (7, 24)),
                            tensor=TensorType((7, 24)))
    assert heads.order.period == 24
    whole = RearrangeConfig(op=transposed((7, 24), (1, 0), (24, 7)), tensor=TensorType((7, 24)))
    assert whole.order.period == 7 * 24
    assert whole.at_full_speed().capacity <= 2 * 7 * 24
    same = RearrangeConfig(op=Rearrange(np.arange(24).reshape(2, 3, 4)),
                           tensor=TensorType((2, 3, 4)), lanes=4)
    assert (same.order.period, same.order.least_capacity) == (1, 1)


def test_reflected_edges_keep_rows() -> None:
    """Rows and columns in any order are loops of uneven strides."""
    frame = np.arange(9 * 8 * 2).reshape(9, 8, 2)
    order = np.pad(frame, ((2, 2), (1, 1), (0, 0)), mode="reflect")
    config = RearrangeConfig(op=Rearrange(order), tensor=TensorType((9, 8, 2)), lanes=2)
    assert config.order.counts == (13, 10)
    assert config.order.least_capacity <= 4 * 8
    check_on_time(config)
    check_under_stalls(config)


def test_interval() -> None:
    config = RearrangeConfig(op=depth_to_space(4, 4, 2, 2), tensor=TensorType((4, 4, 8)), lanes=2)
    assert config.interval == 64
    assert replace(config, pace=3).interval == 192
    assert config.resources().dsp == 0
    assert config.buffer == (16, config.order.least_capacity, 1, "")


@pytest.mark.parametrize("wrong, message", [
    ({"op": transposed((4, 4, 8), (2, 1, 0), (8, 4, 4))},
     r"^Lanes must divide the 1 channels that the order keeps side by side, not 2$"),
    ({"op": Rearrange(np.array([[200]]))}, r"^There is no element 200 among 128$"),
    ({"capacity": 3}, r"^Capacity must be at least \d+ words, not 3$"),
    ({"op": Rearrange(np.random.default_rng(0).permutation(1 << 17)[:, None]),
      "tensor": TensorType((1 << 17, 1)), "lanes": 1},
     r"^an order of 131072 words that is no nest of at most 6 loops is too long"),
])
def test_refuses(wrong: dict, message: str) -> None:
    good = {"op": depth_to_space(4, 4, 2, 2), "tensor": TensorType((4, 4, 8)), "lanes": 2}
    with pytest.raises(HwgenError, match=message):
        RearrangeConfig(**{**good, **wrong})
