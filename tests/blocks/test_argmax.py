"""ArgMax: values and times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.argmax import ArgMaxConfig
from hwgen.errors import HwgenError
from hwgen.ir import ArgMax, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.blocks.places import check_least_places
from tests.profiles import examples


@st.composite
def choices(draw: st.DrawFn) -> ArgMaxConfig:
    """Any choice of a channel; with few bits many are equal."""
    quantisation = draw(quantisations(st.sampled_from([2, 3, 8, 16])))
    spatial = draw(st.lists(st.integers(1, 4), max_size=3))
    tensor = TensorType((*spatial, draw(st.sampled_from([1, 2, 5, 6, 12, 35]))), quantisation)
    return ArgMaxConfig(op=ArgMax(), tensor=tensor, lanes=draw(divisors(tensor.channels)))


@given(choices(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: ArgMaxConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(choices(), st.integers(0, 999))
@examples(20)
def test_least_places(config: ArgMaxConfig, seed: int) -> None:
    check_least_places(config, seed)


@given(choices(), st.integers(0, 999), st.integers(1, 8))
@examples(30)
def test_values_under_stalls(config: ArgMaxConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize("lanes", [1, 3, 4, 12])
def test_the_first_of_equals(lanes: int) -> None:
    """All pairs of places of the largest value, one a pixel."""
    codes = np.full((1, 144, 12), -8)
    first, second = np.divmod(np.arange(144), 12)
    codes[0, np.arange(144), first] = codes[0, np.arange(144), second] = 7
    config = ArgMaxConfig(op=ArgMax(), tensor=TensorType((144, 12)), lanes=lanes)
    run = simulate(config.create(), codes)
    np.testing.assert_array_equal(run.outputs["o"].ravel(), np.minimum(first, second))


@pytest.mark.parametrize("lanes, latency", [(1, 11 + 6), (3, 3 + 8), (4, 2 + 8), (12, 10)])
def test_latencies(lanes: int, latency: int) -> None:
    config = ArgMaxConfig(op=ArgMax(), tensor=TensorType((5, 12)), lanes=lanes)
    assert config.latency == latency
    assert config.interval == 5 * 12 // lanes
    assert config.outputs[0].lanes == config.outputs[0].tensor.channels == 1
    assert config.resources().dsp == 0


def test_refuses() -> None:
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 4 channels, not 3$"):
        ArgMaxConfig(op=ArgMax(), tensor=TensorType((3, 4)), lanes=3)
