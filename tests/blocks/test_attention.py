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
    heads=2, kv_heads=2, queries=5, keys=7, d=4, e=6, bits=8, causal=False, windows=1, bias=None,
    hides=False, scale=None, **folding
) -> AttentionConfig:
    """An attention of so many queries and keys in each window.

    Parameters
    ----------
    bias : extents of windows and heads of a random bias
    hides : whether it hides keys
    scale : shape ``(windows, heads)``; what scores are multiplied by
    """
    types = tensors(heads, kv_heads, windows * queries, windows * keys, d, e, bits)
    if bias is not None:
        random = np.random.default_rng(queries)
        bias = random.normal(0, 3, (*bias, queries, keys))
        if hides:
            bias[random.random(bias.shape) < 0.4] = -np.inf
            bias[..., 0] = 0.0
        # Some windows alike.
        bias = bias[np.arange(len(bias)) % 2]
    op = Attention.from_types(
        heads, *types, Quantisation(0.02, 3), d**-0.5 if scale is None else scale,
        kv_heads=kv_heads, causal=causal, windows=windows, bias=bias)
    return AttentionConfig(op=op, tensors=types, **folding)


@st.composite
def configs(draw: st.DrawFn) -> AttentionConfig:
    kv_heads, sharing = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    heads = kv_heads * sharing
    windows = draw(st.sampled_from([1, 1, 2, 3]))
    d, e = draw(st.sampled_from([1, 2, 4, 6])), draw(st.sampled_from([1, 2, 4, 6]))
    causal = draw(st.booleans())
    queries = draw(st.integers(1, 12 if heads == windows == 1 else 4 if windows == 1 else 2))
    keys = draw(st.integers(queries if causal else 1, 13))
    pe, value_pe = draw(st.integers(1, keys)), draw(divisors(e))
    score_lanes = draw(divisors(pe))
    lanes = list(range(score_lanes, keys + 1, score_lanes))
    return config(
        heads, kv_heads, queries, keys, d, e, draw(st.sampled_from([4, 8])), causal, windows,
        draw(st.none() | st.tuples(st.sampled_from([1, windows]), st.sampled_from([1, heads]))),
        draw(st.booleans()), draw(st.none() | st.just(np.linspace(
            0.2, 0.9, windows * heads).reshape(windows, heads))),
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


@pytest.mark.parametrize("bias,hides", [
    ((1, 1), False), ((1, 2), True), ((4, 1), True), ((4, 2), False), (None, False)])
def test_windows_at_full_speed(bias, hides):
    """A window is what a frame is without them: memories of two, rows without a gap."""
    attends = config(queries=4, keys=6, windows=4, bias=bias, hides=hides, lanes=2, channel_lanes=2,
                     pe=4, score_lanes=2, value_lanes=4, value_pe=6)
    one = config(queries=4, keys=6, lanes=2, channel_lanes=2, pe=4, score_lanes=2, value_lanes=4,
                 value_pe=6)
    assert (attends.keys, attends.values) == (one.keys, one.values)
    assert attends.interval == 4 * one.interval
    schedule = check_on_time(attends)
    assert len(schedule.outputs[0]) == 2 * attends.outputs[0].beats


def test_what_is_alike_is_kept_once():
    """Five windows with two different biases, of which heads share those."""
    attends = config(queries=3, keys=6, windows=5, bias=(5, 1), hides=True, pe=4, score_lanes=2,
                     value_lanes=2)
    assert set(attends.score_tables) == {"bias", "hidden"}
    words = 3 * 2 * 2
    for table in attends.score_tables.values():
        assert table.memory.depth == len(table.rows()) == 2 * words
    assert attends.score_tables["hidden"].memory.width == 2
    check_on_time(attends)
    plain = config(queries=3, keys=6, windows=5, pe=4, score_lanes=2, value_lanes=2)
    assert attends.interval == plain.interval
    assert attends.resources().lut > plain.resources().lut


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
