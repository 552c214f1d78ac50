"""ChannelMax: values and times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.channelmax import ChannelMaxConfig
from hwgen.errors import HwgenError
from hwgen.ir import ChannelMax, TensorType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.blocks.places import check_least_places
from tests.profiles import examples


@st.composite
def maxima(draw: st.DrawFn) -> ChannelMaxConfig:
    """Any maximum of channels; with few bits many are equal."""
    quantisation = draw(quantisations(st.sampled_from([2, 3, 8, 16])))
    spatial = draw(st.lists(st.integers(1, 4), max_size=3))
    tensor = TensorType((*spatial, draw(st.sampled_from([1, 2, 5, 6, 12, 35]))), quantisation)
    return ChannelMaxConfig(op=ChannelMax(), tensor=tensor, lanes=draw(divisors(tensor.channels)))


@given(maxima(), st.integers(0, 999))
@examples(30)
def test_values_and_times(config: ChannelMaxConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(maxima(), st.integers(0, 999))
@examples(15)
def test_least_places(config: ChannelMaxConfig, seed: int) -> None:
    check_least_places(config, seed)


@given(maxima(), st.integers(0, 999), st.integers(1, 8))
@examples(20)
def test_values_under_stalls(config: ChannelMaxConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize("lanes, latency", [(1, 11 + 5), (3, 3 + 7), (4, 2 + 7), (12, 9)])
def test_latencies(lanes: int, latency: int) -> None:
    config = ChannelMaxConfig(op=ChannelMax(), tensor=TensorType((5, 12)), lanes=lanes)
    assert config.latency == latency
    assert config.resources().dsp == 0


def test_refuses_lanes() -> None:
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 12 channels, not 5$"):
        ChannelMaxConfig(op=ChannelMax(), tensor=TensorType((5, 12)), lanes=5)
