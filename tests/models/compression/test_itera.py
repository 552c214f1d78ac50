"""Integer factors: always nearer than those of an SVD that are rounded afterwards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.models.compression import lowrank
from hwgen.models.compression.itera import decompose_then_quantise, iterate
from hwgen.models.compression.layers import layers
from hwgen.models.onnx import reader as onnx_import
from tests.profiles import examples

BALANCES = (0.0, 0.5, 1.0)
"""Who gets the singular values; no way to share them out shall be better."""


def matrix_of(rows, columns, decay, seed=0):
    """Normal singular vectors; singular values fall as ``k ** -decay``."""
    random = np.random.default_rng(seed)
    left = np.linalg.qr(random.standard_normal((rows, min(rows, columns))))[0]
    right = np.linalg.qr(random.standard_normal((columns, min(rows, columns))))[0]
    values = np.arange(1, min(rows, columns) + 1) ** -decay
    return (left * values) @ right.T


def quantised_again(real, bits):
    """As the lowering does it, for one row per output channel: symmetric, by its largest weight."""
    limit = (1 << (bits - 1)) - 1
    scale = np.float32(np.abs(real).max(1) / limit).astype(np.float64)
    scale[scale == 0] = 1.0
    return np.rint(real / scale[:, None])


def check_grid(pair, taps=1):
    """Integers within their bits, and found again from the real factors as float32 has them."""
    limit = (1 << (pair.bits - 1)) - 1
    second = pair.second.reshape(len(pair.second_scale), -1)
    for integers, scale in ((pair.first, pair.first_scale), (second, pair.second_scale)):
        assert np.abs(integers).max() <= limit
        assert set(np.abs(integers).max(1)) <= {0, limit}
        np.testing.assert_array_equal(scale.astype(np.float32), scale)
        real = (integers * scale[:, None]).astype(np.float32).astype(np.float64)
        np.testing.assert_array_equal(quantised_again(real, pair.bits), integers)
    assert len(pair.second) == taps * len(pair.second_scale)


def check_better(matrix, rank, bits, taps=1, groups=1):
    """Nearer than every rounded SVD, already without refinement; and never nearer than an SVD."""
    usual = min(decompose_then_quantise(matrix, rank, bits, taps, groups, b).error(matrix)
                for b in BALANCES)
    greedy = iterate(matrix, rank, bits, taps, groups, sweeps=0)
    refined = iterate(matrix, rank, bits, taps, groups)
    check_grid(greedy, taps)
    check_grid(refined, taps)
    cut = matrix.reshape(len(matrix), groups, -1).swapaxes(0, 1)
    values = np.square(np.linalg.svd(cut, compute_uv=False))
    least = np.sqrt(values[:, rank:].sum() / values.sum())
    assert least * (1 - 1e-6) <= refined.error(matrix)
    assert refined.error(matrix) <= greedy.error(matrix) * (1 + 1e-9)
    assert greedy.error(matrix) < usual


SHAPES = {
    "3x3, 16 to 32": (32, 144, 0.5, 1, 1),
    "1x1, 48 to 48": (48, 48, 1.5, 1, 1),
    "3x1 and 1x3, 12 to 24": (72, 36, 0.7, 3, 1),
    "3x3, 4 groups, 16 to 12": (12, 144, 0.5, 1, 4),
    "dense, 64 to 40": (40, 64, 1.0, 1, 1),
}


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("kind", SHAPES)
def test_better_than_rounding_afterwards(kind, bits):
    rows, columns, decay, taps, groups = SHAPES[kind]
    matrix = matrix_of(rows, columns, decay)
    full = min(rows, columns // groups)
    for rank in (max(1, full // 8), full // 4, full // 2, full):
        check_better(matrix, rank, bits, taps, groups)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Layers of the digits CNN, trained briefly."""
    from examples.digits import digits, export, train

    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    training, test = digits()
    network = train(training, epochs=2)
    assert test.accuracy(network.classify(test.pixels)) > 90
    export(network, 8, path)
    return layers(onnx_import.read(path, None))


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("scheme, groups", [
    ("svd_spatial", 1), ("svd_last", 1), ("svd_last", 4), ("svd_first", 1), ("svd_first", 2)])
def test_better_on_trained_layers(digits, scheme, groups, bits):
    second = digits["/second/conv/Conv"].weight.astype(np.float64)
    matrices = lowrank.unfold(second, scheme, groups)
    taps = {"svd_spatial": 3, "svd_last": 1, "svd_first": 9}[scheme]
    if scheme == "svd_first":
        parts, cut = list(matrices), 1
    else:
        parts, cut = [np.hstack(list(matrices))], groups
    full = min(len(parts[0]), parts[0].shape[1] // cut)
    for part in parts:
        for rank in (max(1, full // 4), full // 2):
            check_better(part, rank, bits, taps, cut)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_better_on_the_trained_head(digits, bits):
    for rank in (1, 3, 5, 10):
        check_better(digits["/head/Gemm"].weight.astype(np.float64), rank, bits)


def test_four_bits_are_worth_much():
    """All ranks of a matrix at 4 bits: the error is less than half."""
    matrix = matrix_of(64, 96, 1.0)
    usual = min(decompose_then_quantise(matrix, 64, 4, balance=b).error(matrix) for b in BALANCES)
    assert iterate(matrix, 64, 4).error(matrix) < usual / 2


@examples(25)
@given(st.data())
def test_any_shape(data):
    taps, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    rows, width = taps * data.draw(st.integers(1, 6)), data.draw(st.integers(1, 8))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    matrix = random.standard_normal((rows, groups * width))
    # Whole rows and columns that are 0, and ranks that are not there.
    matrix[random.random(rows) < data.draw(st.sampled_from([0, 0.3, 1]))] = 0
    matrix[:, random.random(groups * width) < data.draw(st.sampled_from([0, 0.3]))] = 0
    rank, bits = data.draw(st.integers(1, min(rows, width))), data.draw(st.integers(2, 8))
    pair = iterate(matrix, rank, bits, taps, groups)
    check_grid(pair, taps)
    assert pair.second.shape == (rows, groups * rank)
    assert pair.first.shape == (groups * rank, width)
    usual = decompose_then_quantise(matrix, rank, bits, taps, groups)
    check_grid(usual, taps)
    assert pair.error(matrix) <= usual.error(matrix) + 1e-6
    again = iterate(matrix, rank, bits, taps, groups)
    np.testing.assert_array_equal(again.product(), pair.product())


@examples(12)
@given(st.integers(0, 50), st.sampled_from([1e-20, 1e-3, 1e6]))
def test_scale_does_not_matter(seed, scale):
    matrix = np.random.default_rng(seed).standard_normal((6, 9))
    one, other = iterate(matrix, 3, 4), iterate(matrix * scale, 3, 4)
    assert other.error(matrix * scale) == pytest.approx(one.error(matrix), rel=0.05)


def test_what_fits_is_exact():
    """A product of integers within the bits, found from its values alone."""
    random = np.random.default_rng(0)
    left, right = random.integers(-3, 4, (12, 1)), random.integers(-3, 4, (1, 9))
    left[0], right[0, 0] = 3, -3
    pair = iterate(left @ right * 0.1, 1, 3)
    assert pair.error(left @ right * 0.1) < 1e-6


def test_product_by_the_definition():
    pair = iterate(np.random.default_rng(1).standard_normal((6, 8)), 2, 4, taps=2, groups=2)
    product = np.zeros((6, 8))
    for k in range(4):
        columns = slice(0, 4) if k < 2 else slice(4, 8)
        for row in range(6):
            product[row, columns] += (pair.second_scale[row // 2] * pair.second[row, k]
                                      * pair.first_scale[k] * pair.first[k])
    np.testing.assert_allclose(pair.product(), product)


@pytest.mark.parametrize("options, message", [
    ({"bits": 1}, r"^Bits must be 2 to 8, not 1"), ({"bits": 9}, r"^Bits must be 2 to 8, not 9"),
    ({"bits": 4.0}, r"^Bits must be 2 to 8, not 4.0"),
    ({"rank": 0}, r"^Rank must be 1 to 6, not 0"), ({"rank": 7}, r"^Rank must be 1 to 6, not 7"),
    ({"rank": 5, "groups": 2}, r"^Rank must be 1 to 4, not 5"),
    ({"groups": 3}, r"^Groups must divide 8 columns and taps 6 rows, not 3 and 1"),
    ({"taps": 4}, r"^Groups must divide 8 columns and taps 6 rows, not 1 and 4"),
    ({"sweeps": -1}, r"^Sweeps must be an integer of 0 or more, not -1"),
])
def test_refused(options, message):
    arguments = {"rank": 2, "bits": 4} | options
    with pytest.raises(HwgenError, match=message):
        iterate(np.ones((6, 8)), **arguments)
    if "sweeps" not in options:
        with pytest.raises(HwgenError, match=message):
            decompose_then_quantise(np.ones((6, 8)), **arguments)


def test_infinite_weights():
    with pytest.raises(HwgenError, match=r"^Weights must be finite"):
        iterate(np.full((3, 3), np.inf), 1, 4)
