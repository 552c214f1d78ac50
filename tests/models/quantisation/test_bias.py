"""Bias correction against convolutions run by onnxruntime."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.models.quantisation.bias import corrected_bias
from hwgen.models.quantisation.calibrate import probe
from tests.models.float_networks import N, constants_of, network
from tests.profiles import examples


def rounded(weight, bits):
    scale = np.abs(weight.reshape(len(weight), -1)).max(1) / ((1 << (bits - 1)) - 1)
    scale = scale.reshape(-1, *(1,) * (weight.ndim - 1))
    return (np.rint(weight / scale) * scale).astype(np.float32)


@examples(8)
@given(st.sampled_from([1, 2, 6]), st.booleans(), st.integers(2, 4), st.integers(0, 99))
def test_mean_of_the_output_is_kept(groups, with_bias, bits, seed):
    """Exact where the mean is the same at every tap: over a frame that is periodic."""
    constants = constants_of(seed, w=(12, 6 // groups, 3, 3), b=(12,))
    names = ["x", "w", "b"] if with_bias else ["x", "w"]
    net = network([N("Conv", names, ["y"], group=groups)], constants, {"x": (1, 6, 10, 10)})
    random = np.random.default_rng(seed)
    tile = random.uniform(0, 1, (1, 6, 8, 8)).astype(np.float32)
    feed = {"x": np.pad(tile, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap")}
    quantised = rounded(constants["w"], bits)
    corrected = corrected_bias(
        np.moveaxis(constants["w"], 1, -1), np.moveaxis(quantised, 1, -1),
        constants["b"] if with_bias else None, tile.mean((0, 2, 3)),
    )
    other = network([N("Conv", ["x", "w", "b"], ["y"], group=groups)],
                    {"w": quantised, "b": corrected.astype(np.float32)}, {"x": (1, 6, 10, 10)})
    want, got = (probe(n, n.outputs)(feed)["y"].mean((0, 2, 3)) for n in (net, other))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_matrix():
    random = np.random.default_rng(0)
    weight, x = random.normal(size=(5, 7)), random.uniform(size=(100, 7))
    quantised = rounded(weight, 3)
    bias = corrected_bias(weight, quantised, np.ones(5), x.mean(0))
    np.testing.assert_allclose((x @ quantised.T + bias).mean(0), (x @ weight.T + 1).mean(0),
                               atol=1e-6)
    np.testing.assert_array_equal(corrected_bias(weight, weight, None, x.mean(0)), np.zeros(5))


@pytest.mark.parametrize("arguments, message", [
    ((np.ones((2, 3)), np.ones((3, 2)), None, np.ones(3)), r"^Weights must be two arrays"),
    ((np.ones(2), np.ones(2), None, np.ones(3)), r"^Weights must be two arrays"),
    ((np.ones((2, 3)), np.ones((2, 3)), None, np.ones(4)), r"^Means must be one for each input"),
    ((np.ones((2, 3)), np.ones((2, 3)), None, np.ones(9)), r"^Means must be one for each input"),
    ((np.ones((2, 3)), np.ones((2, 3)), None, np.ones(0)), r"^Means must be one for each input"),
    ((np.ones((2, 3)), np.ones((2, 3)), np.ones(3), np.ones(3)), r"^Biases must be 2, not of"),
])
def test_errors(arguments, message):
    with pytest.raises(HwgenError, match=message):
        corrected_bias(*arguments)
