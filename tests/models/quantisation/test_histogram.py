"""Histograms: exact counts however they grow; clipping ranges against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwgen.models.quantisation.histogram import BINS, Histogram

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def filled(*parts):
    histogram = Histogram()
    for part in parts:
        part = np.asarray(part, np.float32)
        histogram.add(part, float(part.min()), float(part.max()))
    return histogram


@given(st.lists(arrays(np.float32, st.integers(1, 40), elements=FLOATS), min_size=1, max_size=4))
def test_counts_are_exact(parts):
    histogram = filled(*parts)
    values = np.concatenate(parts).astype(np.float64)
    assert (histogram.low, histogram.high) == (min(values.min(), 0), max(values.max(), 0))
    assert 1 <= len(histogram.counts) <= BINS
    if histogram.low == histogram.high:
        return
    edges = histogram.edges
    # A value may fall into the bin beside its own, by the rounding of one float32 subtraction.
    places = np.searchsorted(edges, values[values != 0], "right") - 1
    want = np.bincount(places, minlength=len(edges))[:-1]
    assert histogram.counts.sum() == want.sum()
    assert abs(np.cumsum(histogram.counts) - np.cumsum(want)).max() <= len(values)
    if histogram.exponent > -100:
        assert len(histogram.counts) > BINS // 2


def test_order_does_not_matter():
    random = np.random.default_rng(0)
    parts = [random.normal(k, 2.0**k, 5000) for k in range(-4, 5)]
    a, b = filled(*parts), filled(*parts[::-1])
    assert (a.exponent, a.first) == (b.exponent, b.first)
    assert abs(np.cumsum(a.counts) - np.cumsum(b.counts)).max() <= 5
    assert len(a.counts) > BINS // 2


def test_percentile():
    values = np.arange(-1000, 100_001) / 1000
    low, high = filled(values).percentile(99)
    assert filled(values + 2).percentile(99)[0] == 0
    width = filled(values).edges[1] - filled(values).edges[0]
    assert low == pytest.approx(np.percentile(values, 0.5), abs=2 * width)
    assert high == pytest.approx(np.percentile(values, 99.5), abs=2 * width)
    assert filled(values).percentile(100) == (-1.0, 100.0)


def test_percentile_does_not_count_zeros():
    """A ReLU that is nearly always off keeps the range of what passes."""
    values = np.zeros(1_000_000)
    values[:100] = np.linspace(0.1, 5, 100)
    assert filled(values).percentile(99.9) == (0, 5)


def squared_error(values, low, high, bits):
    step = (high - low) / ((1 << bits) - 1)
    lowest = np.rint(low / step)
    codes = np.clip(np.rint(values / step), lowest, lowest + (1 << bits) - 1)
    return np.square(codes * step - values).mean()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "silu", "outliers", "negative"])
def test_least_error_is_the_least(kind, bits):
    random = np.random.default_rng(1)
    x = random.normal(size=20_000)
    values = {
        "normal": x,
        "laplace": random.laplace(0.5, 1, 20_000),
        "relu": np.maximum(x, 0),
        "silu": 3 * x / (1 + np.exp(-3 * x)),
        "outliers": np.append(x, [100.0, -40.0]),
        "negative": -np.abs(x) - 0.5,
    }[kind]
    low, high = filled(values).least_error(bits)
    full = min(values.min(), 0), max(values.max(), 0)
    assert full[0] - 1e-6 <= low <= 0 <= high <= full[1] + 1e-6
    shares = np.geomspace(1 / 32, 1, 48)
    best = min(
        squared_error(values, full[0] * a, full[1] * b, bits)
        for a in (shares if full[0] else [0]) for b in (shares if full[1] else [0])
    )
    assert squared_error(values, low, high, bits) <= best * 1.03


def test_nothing_to_clip():
    assert filled([0.0, 0.0]).least_error(8) == (0, 0)
    assert filled([0.0]).percentile(99) == (0, 0)
    assert filled([3.0, 3.0]).least_error(8) == pytest.approx((0, 3))
    low, high = filled(np.random.default_rng(0).uniform(-1, 1, 10_000)).least_error(16)
    assert (low, high) == pytest.approx((-1, 1), abs=2e-3)
    assert filled([1e-40, -1e-39]).least_error(8)[0] == pytest.approx(-1e-39, rel=1e-3)
