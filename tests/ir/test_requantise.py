from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, Requantise, requantise


def exact(acc, multiplier, shift, output, offset=0):
    """Round half to even by Python's own rule for fractions."""
    value = output.zero_point + round(Fraction(acc * multiplier + offset, 1 << shift))
    return min(max(value, output.low), output.high)


@given(
    st.lists(st.integers(-(2**26), 2**26), min_size=1, max_size=20),
    st.integers(0, 2**17 - 1), st.integers(1, 47), st.integers(-128, 127),
)
def test_against_fractions(accs, multiplier, shift, zero):
    output = Quantisation(1.0, zero)
    got = requantise(np.array(accs), multiplier, shift, output)
    assert got.tolist() == [exact(a, multiplier, shift, output) for a in accs]


@given(
    st.lists(st.integers(-(2**26), 2**26), min_size=1, max_size=20),
    st.integers(0, 2**17 - 1), st.integers(1, 47), st.integers(-(2**51), 2**51),
)
def test_offsets_against_fractions(accs, multiplier, shift, offset):
    output = Quantisation(1.0, -3)
    rule = Requantise([multiplier], [shift], offset=[offset])
    got = rule.apply(np.array(accs)[:, None], output)[:, 0]
    assert got.tolist() == [exact(a, multiplier, shift, output, offset) for a in accs]


def test_no_offset_where_all_are_zero():
    assert Requantise([3], [1], offset=[0]).offset is None
    kept = Requantise([3, 3], [1, 1], offset=[0, 1]).offset
    assert kept is not None
    assert kept.tolist() == [0, 1]


def test_ties_go_to_even():
    output = Quantisation(1.0, 0)
    got = requantise(np.array([-5, -3, -1, 1, 3, 5, 7]), 1, 1, output)
    assert got.tolist() == [-2, -2, 0, 0, 2, 2, 4]


@given(st.integers(-(2**20), 2**20), st.integers(0, 16))
def test_ties_of_any_multiplier(half_steps, power):
    output = Quantisation(1.0, 0, 16)
    got = requantise(np.array([half_steps]), 1 << power, power + 1, output)
    assert got.tolist() == [exact(half_steps, 1, 1, output)]


def test_saturates():
    output = Quantisation(1.0, 5, 4)
    assert requantise(np.array([-1000, 1000]), 2, 1, output).tolist() == [-8, 7]


@given(st.floats(1e-9, 1000.0), st.integers(12, 24))
def test_from_scale_is_nearest(ratio, bits):
    found = Requantise.from_scale(ratio, bits)
    value = Fraction(int(found.multiplier[0]), 1 << int(found.shift[0]))
    step = Fraction(1, 1 << int(found.shift[0]))
    assert abs(value - Fraction(ratio)) <= step / 2
    if found.shift[0] < 47:
        assert found.multiplier[0] >= 1 << (bits - 1)


@pytest.mark.parametrize("ratio, message", [
    (-1.0, "finite and not negative"),
    (float("nan"), "finite and not negative"),
    (2.0**30, "too large for a right shift"),
    (1e300, "too large for a right shift"),
])
def test_from_scale_refuses(ratio, message):
    with pytest.raises(HwgenError, match=message):
        Requantise.from_scale(ratio)


@pytest.mark.parametrize("arguments, message", [
    (([1], [0]), "Shifts must be between 1 and 47"),
    (([1 << 17], [3]), r"Multipliers must be below 2\*\*17"),
    (([1, 2], [3]), "vectors of one length"),
    (([1], [3], 33), "12 to 32 bits"),
    (([1], [3], 17, [1, 2]), "Offsets must be a vector like the multipliers"),
    (([1], [3], 17, [1 << 52]), r"Offsets must be below 2\*\*52"),
])
def test_requantise_refuses(arguments, message):
    with pytest.raises(HwgenError, match=message):
        Requantise(*arguments)
