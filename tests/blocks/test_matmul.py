"""Products of two streams: values and times for any folding, over frames that wait for one another.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.matmul import MatMulConfig
from hwgen.errors import HwgenError
from hwgen.ir import MatMul, Quantisation, Requantise, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, divisors
from tests.profiles import examples


def config(
    form="scores", heads=2, tokens=5, others=6, d=4, windows=1, bits=(8, 8), out_bits=8,
    by_channel=False, **folding
) -> MatMulConfig:
    """A product of so many tokens in each window, with ``d`` channels a head of the second one."""
    summed = d if form == "scores" else others
    types = (TensorType((windows * tokens, heads * summed), Quantisation(0.05, 0, bits[0])),
             TensorType((windows * others, heads * d), Quantisation(0.04, 0, bits[1])))
    results = heads * (others if form == "scores" else d)
    ratio = 2.0 ** (out_bits + 1 - sum(bits)) / np.sqrt(summed)
    scales = np.linspace(0.4, 1.2, results) * ratio if by_channel else [ratio]
    op = MatMul(heads, form, Requantise.from_scale(scales), Quantisation(0.1, 3, out_bits), windows)
    return MatMulConfig(op=op, tensors=types, **folding)


@st.composite
def configs(draw: st.DrawFn) -> MatMulConfig:
    form, heads = draw(st.sampled_from(["scores", "values"])), draw(st.integers(1, 3))
    windows = draw(st.sampled_from([1, 1, 2, 3]))
    tokens = draw(st.integers(1, 8 if heads * windows == 1 else 3))
    others, d = draw(st.integers(1, 9)), draw(st.sampled_from([1, 2, 4, 6]))
    summed, results = (d, others) if form == "scores" else (others, d)
    lanes = draw(divisors(results))
    sides = [n for n in range(lanes, results + 1, lanes)
             if form == "scores" or results % n == 0]
    return config(
        form, heads, tokens, others, d, windows,
        (draw(st.sampled_from([4, 8, 12])), draw(st.sampled_from([4, 8, 8, 16]))),
        draw(st.sampled_from([8, 8, 12])), draw(st.booleans()),
        lanes=lanes, channel_lanes=draw(divisors(summed)), pe=draw(st.sampled_from(sides)),
        multiplier=draw(st.sampled_from(["dsp48e2", "dsp48e1", "mult18", "fabric"])))


@given(configs(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: MatMulConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999))
@examples(30)
def test_values_under_stalls(config: MatMulConfig, seed: int) -> None:
    check_under_stalls(config, seed)


@pytest.mark.parametrize("folding", [
    {"lanes": 2, "channel_lanes": 2, "pe": 4}, {"pe": 6, "lanes": 3},
    {"form": "values", "lanes": 2, "channel_lanes": 3, "pe": 2},
    {"form": "values", "others": 2, "channel_lanes": 2, "pe": 4, "lanes": 4},
    {"windows": 3, "tokens": 2, "channel_lanes": 4, "pe": 6, "lanes": 6},
])
def test_frames_one_after_the_other(folding):
    """At full speed: tokens of a window wait until those of the window before last are read."""
    product = config(**folding)
    random, count = np.random.default_rng(0), 5
    frames = [random.integers(-128, 128, (count, *t.shape)) for t in product.tensors]
    arrivals = [np.arange(count * s.beats) for s in product.inputs]
    schedule = product.schedule(arrivals)
    run = simulate(product.create(), *frames, arrivals=arrivals)
    for seen, wanted in zip(run.outputs.values(), product.compute(*frames), strict=True):
        np.testing.assert_array_equal(seen, wanted)
    np.testing.assert_array_equal(next(iter(run.times.values())), schedule.outputs[0])
    ends = schedule.outputs[0].reshape(count, -1)[:, -1]
    assert np.diff(ends)[-1] == product.interval


def test_two_products_share_a_multiplier():
    product = config(others=8, d=8, channel_lanes=4, pe=8)
    dense = product.resources().dsp - product.requantiser.resources().dsp
    assert dense == 16


@pytest.mark.parametrize("folding,message", [
    ({"channel_lanes": 3}, "channel_lanes must divide the 4 channels"),
    ({"pe": 7}, "pe must be between 1 and the 6 results"),
    ({"form": "values", "pe": 3}, "pe must divide the 4 channels"),
    ({"pe": 4, "lanes": 3}, "lanes must divide pe 4"),
    ({"pe": 4, "lanes": 4}, "lanes must divide results of a head 6"),
])
def test_refusals(folding, message):
    with pytest.raises(HwgenError, match=message):
        config(**folding)
