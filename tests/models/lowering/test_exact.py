"""Requantisation that meets every threshold, against fractions at every sum there can be."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.ir import Quantisation
from hwgen.models.lowering.exact import LARGEST_BIAS, exact_requantise, sign_requantise
from tests.profiles import examples


def codes(ratio, shift, low, high, output):
    """By Python's own rule for fractions."""
    ratio, shift = Fraction(float(ratio)), Fraction(float(shift))
    return [min(max(round(ratio * k + shift) + output.zero_point, output.low), output.high)
            for k in range(low, high + 1)]


@given(st.integers(2, 8), st.integers(0, 9999), st.floats(-9, 3), st.integers(1, 3000))
@examples(150)
def test_every_sum(bits, seed, exponent, reach):
    random = np.random.default_rng(seed)
    output = Quantisation(1.0, int(random.integers(-(1 << bits - 1), 1 << bits - 1)), bits)
    ratio = 2.0**exponent * random.uniform(1, 2, 4)
    shift = random.normal(0, 1 << bits, 4)
    low, high = -random.integers(0, reach, 4), random.integers(0, reach, 4)
    found = exact_requantise(ratio, shift, low, high, output, 12)
    assert found.exact
    for c in range(4):
        sums = np.arange(low[c], high[c] + 1)[:, None]
        got = found.requantise.apply(sums + found.bias, output)[:, c]
        assert got.tolist() == codes(ratio[c], shift[c], low[c], high[c], output)


@pytest.mark.parametrize("power", range(-8, 1))
def test_ties_of_powers_of_two(power):
    """Sums that lie between two codes exactly go to the even one; no bits are wasted on them."""
    output = Quantisation(1.0, 0, 6)
    low, high = np.array([-9000]), np.array([9000])
    found = exact_requantise(np.array([2.0**power]), np.array([0.5]), low, high, output, 12)
    assert found.exact
    assert found.requantise.multiplier_bits == 12
    got = found.requantise.apply(np.arange(-9000, 9001)[:, None] + found.bias, output)[:, 0]
    assert got.tolist() == codes(2.0**power, 0.5, -9000, 9000, output)


def test_large_sums_of_eight_bits():
    """As a layer of 8-bit weights has them: every code's first and last sum."""
    random = np.random.default_rng(0)
    output = Quantisation(1.0, -128, 8)
    channels = 64
    ratio, shift = random.uniform(1e-4, 1e-2, channels), random.normal(0, 60, channels)
    high = np.full(channels, 1_500_000)
    found = exact_requantise(ratio, shift, -high, high, output, 17)
    assert found.exact
    for c in range(channels):
        for level in range(-127, 128):
            first = (Fraction(level) - Fraction(1, 2) + 128 - Fraction(shift[c])) / Fraction(
                ratio[c])
            around = int(first) + np.arange(-2, 3)
            around = around[abs(around) <= high[0]]
            got = found.requantise.apply(np.tile(around[:, None], channels) + found.bias, output)
            want = [min(max(round(Fraction(ratio[c]) * int(k) + Fraction(shift[c])) - 128, -128),
                        127) for k in around]
            assert got[:, c].tolist() == want


def test_whole_biases_need_no_offset():
    output = Quantisation(1.0, 0, 4)
    ratio = np.array([0.25, 0.125])
    found = exact_requantise(ratio, ratio * [3, -20], np.full(2, -100), np.full(2, 100), output, 13)
    assert found.exact
    assert found.requantise.offset is None
    assert found.bias.tolist() == [3, -20]


def test_biases_far_beyond_the_sums():
    """A dead channel: all that is left of it is its bias."""
    output = Quantisation(1.0, 0, 8)
    ratio, shift = np.array([1e-12, 1e-12, 1e-15]), np.array([50.2, -3.7, 126.0])
    found = exact_requantise(ratio, shift, np.full(3, -10_000), np.full(3, 10_000), output, 17)
    assert found.exact
    assert abs(found.bias).max() <= LARGEST_BIAS
    got = found.requantise.apply(np.array([[-10_000], [0], [10_000]]) + found.bias, output)
    assert got.tolist() == [[50, -4, 126]] * 3


@pytest.mark.parametrize("zero", [-1, 0, 1])
@given(st.lists(st.floats(-40, 40).map(lambda v: round(v, 1)), min_size=1, max_size=5))
def test_signs(zero, shifts):
    low, high = np.full(len(shifts), -30), np.full(len(shifts), 30)
    bias, rule = sign_requantise(np.array(shifts), low, high, zero)
    sums = np.arange(-30, 31)[:, None]
    got = rule.apply(sums + bias, Quantisation(1.0, 0, 2)).astype(int)
    real = sums + np.array(shifts)
    if zero > 0:
        assert ((got >= 0) == (real >= 0)).all()
    elif zero < 0:
        assert ((got > 0) == (real > 0)).all()
    else:
        assert (np.sign(got) == np.sign(real)).all()
