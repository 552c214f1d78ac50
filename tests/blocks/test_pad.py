"""Pad: values and times over dimensions, pads, crops, strides and fill values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.pad import PadConfig
from hwgen.errors import HwgenError
from hwgen.ir import Pad, TensorType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


@st.composite
def paddings(draw: st.DrawFn) -> PadConfig:
    """Any padding, cropping or strided slice of a small frame."""
    pads, stride, spatial = [], [], []
    dims = draw(st.integers(0, 3))
    for _ in range(dims):
        n = draw(st.integers(1, {1: 9, 2: 5, 3: 3}[dims]))
        most = {1: 5, 2: 3, 3: 2}[dims]
        # Crops may leave nothing but padding.
        before = draw(st.integers(-most, most))
        least = 1 - n - before
        after = draw(st.integers(max(least, -most), max(least, most)))
        pads.append((before, after))
        stride.append(draw(st.sampled_from([1, 1, 1, 2, 3])))
        spatial.append(n)
    channels = draw(st.integers(1, 4))
    tensor = TensorType((*spatial, channels), draw(quantisations()))
    fill = draw(st.none() | st.integers(tensor.quantisation.low, tensor.quantisation.high))
    op = Pad(tuple(pads), fill, tuple(stride))
    return PadConfig(op=op, tensor=tensor, lanes=draw(divisors(channels)),
                     pace=draw(st.sampled_from([0, 0, 2, 5])))


@given(paddings(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: PadConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(paddings(), st.integers(0, 999), st.integers(1, 5))
@examples(30)
def test_values_under_stalls(config: PadConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(max(depth, config.claim),))


@pytest.mark.parametrize("op, least", [
    (Pad(((0, 1), (2, 2)), 0), 1),
    (Pad(((0, 0), (2, 2)), None), 1),
    # A row of padding in front of the frame comes with the frame's first row.
    (Pad(((1, 0), (0, 0)), 0), 6),
    # An edge row is sent again, so it is kept as a whole.
    (Pad(((1, 0), (0, 0)), None), 6),
    (Pad(((-1, -2), (-1, -1)), 0, (1, 2)), 1),
    (Pad(((-5, 2), (0, 0)), 0), 1),
])
def test_least_capacity(op: Pad, least: int) -> None:
    config = PadConfig(op=op, tensor=TensorType((4, 6, 2)))
    assert config.window.least_capacity == least


def test_interval() -> None:
    """Pixels that are added take their cycles, and nothing else does."""
    config = PadConfig(op=Pad(((1, 2), (0, 3)), 0), tensor=TensorType((4, 5, 6)), lanes=2)
    assert config.interval == 7 * 8 * 3
    assert replace(config, op=Pad(((-1, -2), (0, 0)), 0)).interval == 4 * 5 * 3
    assert config.latency == config.schedule([np.arange(60)]).outputs[0][0]
    assert config.resources().dsp == 0


@pytest.mark.parametrize("wrong, message", [
    ({"lanes": 4}, r"^Lanes must divide the 6 channels, not 4$"),
    ({"op": Pad(((1, 1),))}, r"^A 1-dimensional window needs as many spatial .* not \(4, 5\)$"),
    ({"op": Pad(((-5, 1), (0, 0)))}, r"^Window \(1, 1\) does not fit into \(4, 5\)$"),
    ({"op": Pad(((1, 1), (0, 0)), 128)}, r"^Fill must be within -128\.\.127, not 128$"),
    ({"capacity": 4}, r"^Capacity must be at least 5 sites, not 4$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    good = {"op": Pad(((1, 1), (1, 1))), "tensor": TensorType((4, 5, 6))}
    with pytest.raises(HwgenError, match=message):
        PadConfig(**{**good, **wrong})
