"""Attention: values and times for any folding, over frames that wait for one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.attention import AttentionConfig
from hwgen.errors import HwgenError
from hwgen.ir import Attention, Quantisation, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, divisors
from tests.profiles import examples


def tensors(heads: int, kv_heads: int, queries: int, keys: int, d: int, e: int, bits: int = 8):
    return tuple(
        TensorType((n, h * c), Quantisation(scale, 0, bits)) for n, h, c, scale in (
            (queries, heads, d, 0.05), (keys, kv_heads, d, 0.04), (keys, kv_heads, e, 0.03)))


def config(
    heads=2, kv_heads=2, queries=5, keys=7, d=4, e=6, bits=8, causal=False, **folding
) -> AttentionConfig:
    types = tensors(heads, kv_heads, queries, keys, d, e, bits)
    op = Attention.from_types(heads, *types, Quantisation(0.02, 3), d**-0.5, kv_heads=kv_heads,
                              causal=causal)
    return AttentionConfig(op=op, tensors=types, **folding)


@st.composite
def configs(draw: st.DrawFn) -> AttentionConfig:
    kv_heads, sharing = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    heads = kv_heads * sharing
    d, e = draw(st.sampled_from([1, 2, 4, 6])), draw(st.sampled_from([1, 2, 4, 6]))
    causal = draw(st.booleans())
    queries = draw(st.integers(1, 12 if heads == 1 else 4))
    keys = draw(st.integers(queries if causal else 1, 13))
    pe, value_pe = draw(st.integers(1, keys)), draw(divisors(e))
    score_lanes = draw(divisors(pe))
    lanes = list(range(score_lanes, keys + 1, score_lanes))
    return config(
        heads, kv_heads, queries, keys, d, e, draw(st.sampled_from([4, 8])), causal,
        lanes=draw(divisors(value_pe)), channel_lanes=draw(divisors(d)), pe=pe,
        score_lanes=score_lanes, value_lanes=draw(st.sampled_from(lanes)), value_pe=value_pe,
        multiplier=draw(st.sampled_from(["dsp48e2", "mult18", "fabric"])))


@given(configs(), st.integers(0, 999))
@examples(30)
def test_values_and_times(config: AttentionConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999))
@examples(20)
def test_values_under_stalls(config: AttentionConfig, seed: int) -> None:
    check_under_stalls(config, seed)


@pytest.mark.parametrize("causal", [False, True])
def test_frames_one_after_the_other(causal):
    """At full speed: keys of a frame wait until those of the frame before last are read."""
    attends = config(lanes=2, channel_lanes=2, pe=4, score_lanes=2, value_lanes=4, value_pe=6,
                     causal=causal)
    random, count = np.random.default_rng(0), 5
    frames = [random.integers(-128, 128, (count, *t.shape)) for t in attends.tensors]
    arrivals = [np.arange(count * s.beats) for s in attends.inputs]
    schedule = attends.schedule(arrivals)
    run = simulate(attends.create(), *frames, arrivals=arrivals)
    for seen, wanted in zip(run.outputs.values(), attends.compute(*frames), strict=True):
        np.testing.assert_array_equal(seen, wanted)
    np.testing.assert_array_equal(next(iter(run.times.values())), schedule.outputs[0])
    ends = schedule.outputs[0].reshape(count, -1)[:, -1]
    assert set(np.diff(ends)) == {attends.interval}


def test_a_reciprocal_stays_until_it_is_used():
    """Rows become longer, and so do the times from their sums to their first results."""
    check_on_time(config(1, 1, 12, 12, 1, 1, causal=True, pe=8, score_lanes=2, value_lanes=2))


@pytest.mark.parametrize("folding,message", [
    ({"channel_lanes": 3}, "channel_lanes must divide the 4 channels"),
    ({"value_pe": 4}, "value_pe must divide the 6 channels"),
    ({"pe": 8}, "pe must be between 1 and the 7 keys"),
    ({"pe": 4, "score_lanes": 3}, "score_lanes must divide pe 4"),
    ({"pe": 2, "score_lanes": 2}, "score_lanes must divide value_lanes 1"),
    ({"lanes": 2}, "lanes must divide value_pe 1"),
])
def test_refusals(folding, message):
    with pytest.raises(HwgenError, match=message):
        config(**folding)
