"""Softmax: values and times, over rows that wait for one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.softmax import SoftmaxConfig
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, Softmax, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, divisors
from tests.profiles import examples


def config(pixels=3, groups=2, channels=6, bits=8, out_bits=8, scale=0.03, **folding):
    """A softmax of so many groups, each of so many channels."""
    tensor = TensorType((pixels, groups * channels), Quantisation(scale, 3 % (1 << bits - 1), bits))
    out = Quantisation(1 / ((1 << out_bits) - 1), -(1 << (out_bits - 1)), out_bits)
    return SoftmaxConfig(op=Softmax.from_types(groups, tensor, out), tensor=tensor, **folding)


@st.composite
def configs(draw: st.DrawFn) -> SoftmaxConfig:
    channels = draw(st.integers(1, 48))
    return config(
        draw(st.integers(1, 4)), draw(st.integers(1, 3)), channels,
        draw(st.sampled_from([4, 8, 12])), draw(st.sampled_from([6, 8, 12])),
        draw(st.sampled_from([0.003, 0.03, 0.2])), lanes=draw(divisors(channels)),
        multiplier=draw(st.sampled_from(["dsp48e2", "dsp48e1", "mult18", "fabric"])))


@given(configs(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: SoftmaxConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999))
@examples(30)
def test_values_under_stalls(config: SoftmaxConfig, seed: int) -> None:
    check_under_stalls(config, seed)


@pytest.mark.parametrize("channels,lanes", [(60, 1), (60, 4), (8, 8), (1, 1), (30, 1)])
def test_rows_one_after_the_other(channels, lanes):
    """At full speed: no gap but where a sum is divided for longer than its row takes."""
    softmax = config(channels=channels, lanes=lanes)
    count = 4
    frames = np.random.default_rng(0).integers(-128, 128, (count, *softmax.tensor.shape))
    arrivals = [np.arange(count * softmax.inputs[0].beats)]
    schedule = softmax.schedule(arrivals)
    run = simulate(softmax.create(), frames, arrivals=arrivals)
    np.testing.assert_array_equal(run.outputs["o"], softmax.compute(frames)[0])
    np.testing.assert_array_equal(run.times["o"], schedule.outputs[0])
    ends = schedule.outputs[0].reshape(count, -1)[:, -1]
    assert np.diff(ends)[-1] == softmax.interval
    assert softmax.interval == softmax.rows * max(softmax.words, softmax.op.reciprocal_bits + 2)


def test_refusals():
    with pytest.raises(HwgenError, match="Lanes must divide the 6 channels of a group, not 4"):
        config(lanes=4)
