"""Concatenate, Splitter, LaneChange: values and times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.base import BlockConfig
from hwgen.blocks.concatenate import ConcatenateConfig
from hwgen.blocks.lane_change import LaneChangeConfig
from hwgen.blocks.splitter import SplitterConfig
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, Split, TensorType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


@st.composite
def routes(draw: st.DrawFn) -> BlockConfig:
    """Any block that only moves data."""
    spatial = draw(st.lists(st.integers(1, 4), max_size=2))
    quantisation = draw(quantisations(st.sampled_from([4, 5, 8, 16])))
    kind = draw(st.sampled_from(["concatenate", "split", "lanes"]))
    if kind == "lanes":
        channels = draw(st.sampled_from([1, 5, 6, 12, 24]))
        return LaneChangeConfig(
            tensor=TensorType((*spatial, channels), quantisation),
            lanes_in=draw(divisors(channels)), lanes_out=draw(divisors(channels)),
        )
    lanes = draw(st.integers(1, 3))
    sizes = [lanes * n for n in draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))]
    if kind == "split":
        tensor = TensorType((*spatial, sum(sizes)), quantisation)
        return SplitterConfig(op=Split(tuple(sizes)), tensor=tensor, lanes=lanes)
    tensors = tuple(TensorType((*spatial, n), quantisation) for n in sizes)
    return ConcatenateConfig(tensors=tensors, lanes=lanes)


@given(routes(), st.integers(0, 999))
@examples(55)
def test_values_and_times(config: BlockConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(routes(), st.integers(0, 999), st.data())
@examples(35)
def test_values_under_stalls(config: BlockConfig, seed: int, data: st.DataObject) -> None:
    depths = [data.draw(st.integers(1, 6)) for _ in config.outputs]
    check_under_stalls(config, seed, depths=tuple(depths))


@pytest.mark.parametrize("lanes_in, lanes_out, interval", [
    (4, 4, 36), (4, 12, 36), (12, 4, 36), (4, 6, 72), (12, 1, 144),
])
def test_a_lane_change_moves_the_common_part_each_cycle(
    lanes_in: int, lanes_out: int, interval: int
) -> None:
    config = LaneChangeConfig(
        tensor=TensorType((4, 3, 12)), lanes_in=lanes_in, lanes_out=lanes_out
    )
    assert config.interval == interval
    arrivals = np.arange(3 * config.inputs[0].beats)
    (times,) = config.schedule([arrivals]).outputs
    # The second frame ends one interval after the first.
    beats = config.outputs[0].beats
    assert times[2 * beats - 1] - times[beats - 1] == interval


def test_nothing_is_computed() -> None:
    q = Quantisation()
    tensor = TensorType((2, 4), q)
    for config in (
        ConcatenateConfig(tensors=(tensor, tensor)),
        SplitterConfig(op=Split((1, 3)), tensor=tensor),
        LaneChangeConfig(tensor=tensor, lanes_in=1, lanes_out=2),
    ):
        assert config.resources().dsp == 0


def test_refuses() -> None:
    a, b = TensorType((2, 4)), TensorType((3, 4))
    with pytest.raises(HwgenError, match=r"^Concat needs inputs of equal spatial extents and "):
        ConcatenateConfig(tensors=(a, b))
    with pytest.raises(HwgenError, match=r"^Concat needs at least one input$"):
        ConcatenateConfig(tensors=())
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 3 channels, not 2$"):
        ConcatenateConfig(tensors=(a, TensorType((2, 3))), lanes=2)
    with pytest.raises(HwgenError, match=r"^Split \(1, 2\) does not add up to 4 channels$"):
        SplitterConfig(op=Split((1, 2)), tensor=a)
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 1 channels, not 2$"):
        SplitterConfig(op=Split((1, 3)), tensor=a, lanes=2)
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 4 channels, not 3$"):
        LaneChangeConfig(tensor=a, lanes_in=1, lanes_out=3)
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 4 channels, not 3$"):
        LaneChangeConfig(tensor=a, lanes_in=3, lanes_out=1)
