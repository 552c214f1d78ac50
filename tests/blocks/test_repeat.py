"""Repeat: one channel for many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.registry import block_config
from hwgen.blocks.repeat import RepeatConfig
from hwgen.design import Folding
from hwgen.errors import HwgenError
from hwgen.ir import GatherChannels, TensorType
from hwgen.parts.stream import StreamType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


@st.composite
def configs(draw: st.DrawFn) -> RepeatConfig:
    channels = draw(st.integers(2, 12))
    tensor = TensorType((draw(st.integers(1, 9)), 1), draw(quantisations()))
    return RepeatConfig(op=GatherChannels((0,) * channels), tensor=tensor,
                        lanes=draw(divisors(channels)))


@given(configs(), st.integers(0, 999))
@examples(20)
def test_values_and_times(config: RepeatConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999), st.integers(1, 5))
@examples(20)
def test_values_under_stalls(config: RepeatConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


def test_is_chosen_for_the_only_channel():
    one, two = (StreamType(TensorType((5, n))) for n in (1, 2))
    op = GatherChannels((0,) * 6)
    assert isinstance(block_config(op, (one,), Folding(), 3), RepeatConfig)
    assert not isinstance(block_config(op, (two,), Folding(), 2), RepeatConfig)
    with pytest.raises(HwgenError, match="must be the only one of its tensor, not one of 2"):
        RepeatConfig(op=op, tensor=two.tensor)
