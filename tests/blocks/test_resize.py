"""NearestResize: values and times over dimensions and factors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.resize import NearestResizeConfig
from hwgen.errors import HwgenError
from hwgen.ir import Resize, TensorType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


@st.composite
def resizes(draw: st.DrawFn) -> NearestResizeConfig:
    """Any enlargement of a small frame."""
    dims = draw(st.integers(1, 3))
    spatial = [draw(st.integers(1, {1: 9, 2: 5, 3: 3}[dims])) for _ in range(dims)]
    factors = tuple(draw(st.integers(1, {1: 4, 2: 3, 3: 2}[dims])) for _ in range(dims))
    channels = draw(st.integers(1, 4))
    tensor = TensorType((*spatial, channels), draw(quantisations()))
    return NearestResizeConfig(op=Resize(factors), tensor=tensor, lanes=draw(divisors(channels)),
                               pace=draw(st.sampled_from([0, 0, 3])))


@given(resizes(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: NearestResizeConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(resizes(), st.integers(0, 999), st.integers(1, 5))
@examples(25)
def test_values_under_stalls(config: NearestResizeConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(max(depth, config.claim),))


def test_a_row_is_kept_until_it_was_sent_for_the_last_time() -> None:
    tensor = TensorType((4, 6, 2))
    assert NearestResizeConfig(op=Resize((2, 2)), tensor=tensor).window.least_capacity == 6
    assert NearestResizeConfig(op=Resize((1, 2)), tensor=tensor).window.least_capacity == 1


def test_interval() -> None:
    config = NearestResizeConfig(op=Resize((2, 3)), tensor=TensorType((4, 5, 6)), lanes=2)
    assert config.interval == 4 * 5 * 6 * 3
    assert config.latency == config.schedule([np.arange(60)]).outputs[0][0]
    assert config.resources().dsp == 0


@pytest.mark.parametrize("wrong, message", [
    ({"lanes": 4}, r"^Lanes must divide the 6 channels, not 4$"),
    ({"op": Resize((2,))}, r"^Resize \(2,\) does not fit spatial extents \(4, 5\)$"),
    ({"capacity": 4}, r"^Capacity must be at least 5 sites, not 4$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    good = {"op": Resize((2, 2)), "tensor": TensorType((4, 5, 6))}
    with pytest.raises(HwgenError, match=message):
        NearestResizeConfig(**{**good, **wrong})
