"""Pool: maxima and averages, values and times, over windows and foldings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.pool import PoolConfig
from hwgen.errors import HwgenError
from hwgen.ir import AveragePool, MaxPool, Quantisation, Requantise, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import (
    affordable_taps,
    check_on_time,
    check_under_stalls,
    divisors,
    quantisations,
    windows,
)
from tests.profiles import examples


@st.composite
def pools(draw: st.DrawFn) -> PoolConfig:
    """Any pooling layer and folding that is small enough to simulate."""
    dims = draw(st.integers(0, 3))
    largest, pixels = {0: (1, 1), 1: (6, 24), 2: (5, 36), 3: (3, 30)}[dims]
    window, spatial = draw(windows(dims, largest, 25, pixels))
    channels = draw(st.integers(1, 6))
    tensor = TensorType((*spatial, channels), draw(quantisations(st.sampled_from([4, 7, 8, 16]))))
    kind = draw(st.sampled_from(["largest", "mean", "mean of the frame"]))
    if kind == "largest":
        op = MaxPool(window.kernel, window.stride, window.pads, window.dilation)
    else:
        output, counted = draw(quantisations()), kind == "mean"
        # From half to twice the range of the output.
        counts = np.array([window.taps]) if counted else np.arange(window.taps) + 1
        ratio = draw(st.floats(0.5, 2)) * 2.0 ** (output.bits - tensor.bits) / counts
        op = AveragePool(
            window.kernel, Requantise.from_scale(ratio), output, window.stride, window.pads, counted
        )
    lanes = draw(divisors(channels))
    parallel = PoolConfig(op=op, tensor=tensor, lanes=lanes, tap_lanes=window.taps)
    return replace(parallel, tap_lanes=draw(affordable_taps(parallel, window.taps)))


@given(pools(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: PoolConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(pools(), st.integers(0, 999), st.data())
@examples(30)
def test_values_under_stalls(config: PoolConfig, seed: int, data: st.DataObject) -> None:
    depth = data.draw(st.integers(1, config.least_depths[0] + 2))
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize("zero_point", [-128, 0, 127])
def test_average_of_extremes(zero_point: int) -> None:
    """Sums reach their bounds, padding and unused tap lanes included."""
    tensor = TensorType((4, 4, 1), Quantisation(0.1, zero_point))
    op = AveragePool((3, 3), Requantise.from_scale(1 / 9), Quantisation(0.1, zero_point),
                     (1, 1), ((1, 1), (1, 1)))
    config = PoolConfig(op=op, tensor=tensor, tap_lanes=4)
    frames = np.repeat([-128, 127], 16).reshape(2, 4, 4, 1)
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])


@pytest.mark.parametrize("tap_lanes", [1, 4, 9])
def test_padding_leaves_no_trace_in_a_mean_of_the_frame(tap_lanes: int) -> None:
    """Each count has its divisor; a window wholly in the padding gives the zero point."""
    tensor = TensorType((4, 5, 2), Quantisation(0.1, 11))
    op = AveragePool((3, 3), Requantise.from_scale(1 / (np.arange(9) + 1)), Quantisation(0.1, 11),
                     (1, 2), ((1, 1), (4, 2)), False)
    config = PoolConfig(op=op, tensor=tensor, lanes=2, tap_lanes=tap_lanes)
    frames = np.full((1, 4, 5, 2), -77)
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"][:, :, 1:], -77)
    np.testing.assert_array_equal(run.outputs["o"][:, :, 0], 11)


def test_padding_never_wins_a_maximum() -> None:
    tensor = TensorType((3, 3, 1), Quantisation(0.1, 127))
    op = MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)))
    config = PoolConfig(op=op, tensor=tensor, tap_lanes=2)
    frames = np.full((1, 3, 3, 1), -127)
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], frames)


def test_interval() -> None:
    tensor = TensorType((8, 8, 6))
    config = PoolConfig(op=MaxPool((2, 2), (2, 2)), tensor=tensor, lanes=2, tap_lanes=1)
    assert config.interval == 16 * 3 * 4
    assert replace(config, tap_lanes=4).interval == 64 * 3
    assert config.resources().dsp == 0


@pytest.mark.parametrize("wrong, message", [
    ({"lanes": 3}, r"^Lanes must divide the 4 channels, not 3$"),
    ({"tap_lanes": 5}, r"^Tap lanes must be between 1 and 4, not 5$"),
    ({"capacity": 2}, r"^Capacity must be at least 7 sites, not 2$"),
    ({"tensor": TensorType((1, 5, 4))}, r"^Window \(2, 2\) does not fit into \(1, 5\)$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    good = {"op": MaxPool((2, 2), (2, 2)), "tensor": TensorType((5, 5, 4))}
    with pytest.raises(HwgenError, match=message):
        PoolConfig(**{**good, **wrong})
