"""Extremum: values and times, for the larger and the smaller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.extremum import ExtremumConfig
from hwgen.errors import HwgenError
from hwgen.ir import Extremum, Quantisation, TensorType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


@st.composite
def extrema(draw: st.DrawFn) -> ExtremumConfig:
    """Any two tensors of one type."""
    codes = draw(quantisations(st.sampled_from([2, 4, 8, 8, 16])))
    shape = (*draw(st.lists(st.integers(1, 3), max_size=3)), draw(st.integers(1, 6)))
    tensor = TensorType(shape, codes)
    return ExtremumConfig(op=Extremum(draw(st.booleans())), tensors=(tensor, tensor),
                          lanes=draw(divisors(shape[-1])), pace=draw(st.sampled_from([0, 0, 7])))


@given(extrema(), st.integers(0, 999))
@examples(25)
def test_values_and_times(config: ExtremumConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(extrema(), st.integers(0, 999), st.integers(1, 8))
@examples(20)
def test_values_under_stalls(config: ExtremumConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


def test_takes_no_multiplier() -> None:
    tensor = TensorType((4, 4, 8))
    config = ExtremumConfig(op=Extremum(), tensors=(tensor, tensor), lanes=2)
    assert config.resources().dsp == 0
    assert config.interval == 64


def test_refuses_other_codes() -> None:
    with pytest.raises(HwgenError, match="Extremum needs two tensors of one type"):
        ExtremumConfig(op=Extremum(), tensors=(
            TensorType((4, 2), Quantisation(0.1)), TensorType((4, 2), Quantisation(0.2))))
