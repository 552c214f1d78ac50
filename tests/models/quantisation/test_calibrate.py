"""Calibration: ranges, means and peaks against numpy on the activations themselves."""

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.models.frames import samples
from hwgen.models.frames.images import photographs
from hwgen.models.quantisation.calibrate import METHODS, probe, statistics
from tests.models.float_networks import N, constants_of, network, noise

CONV = N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])


@pytest.fixture(scope="module")
def net():
    """Convolutions, ordinary and transposed, and both kinds of fully connected layers."""
    constants = constants_of(w=(8, 3, 3, 3), b=(8,), t=(8, 4, 2, 2), g=(5, 4), m=(5, 6))
    return network(
        [CONV, N("Relu", ["c"], ["r"]), N("ConvTranspose", ["r", "t"], ["u"], strides=[2, 2]),
         N("GlobalAveragePool", ["u"], ["p"]), N("Flatten", ["p"], ["f"]),
         N("Gemm", ["f", "g"], ["h"], transB=1), N("MatMul", ["h", "m"], ["y"])], constants,
    )


def test_minmax_means_and_peaks(net):
    feeds = noise(net, 3)
    found = statistics(net, feeds)
    run = probe(net, [out for node in net.nodes for out in node.output])
    values = [run(feed) for feed in feeds]
    for name in ("x", "c", "r", "u", "p", "h", "y"):
        stacked = np.concatenate([v[name] for v in values])
        assert found.ranges[name] == (stacked.min(), stacked.max())
    assert set(found.means) == set(found.peaks) == {"x", "r", "f", "h"}
    for name, mean in found.means.items():
        stacked = np.concatenate([v[name] for v in values])
        axes = tuple(a for a in range(stacked.ndim) if a != 1)
        np.testing.assert_allclose(mean, stacked.mean(axes), atol=1e-6)
        np.testing.assert_allclose(found.peaks[name], np.abs(stacked).max(axes))


def test_methods_clip_outliers(net):
    feeds = noise(net, 2)
    feeds[0]["x"][0, 0, 3, 3] = 30.0
    ranges = {method: statistics(net, iter(feeds), method, 4, 99).ranges for method in METHODS}
    for method in ("percentile", "mse"):
        for name, (low, high) in ranges[method].items():
            full = ranges["minmax"][name]
            assert min(full[0], 0) - 1e-6 <= low <= 0 <= high <= max(full[1], 0) + 1e-6
        assert ranges[method]["c"][1] < 0.9 * ranges["minmax"]["c"][1]
    wide = statistics(net, feeds, "mse", lambda name: 8 if name == "c" else 4).ranges
    assert wide["c"][1] > ranges["mse"]["c"][1]
    assert wide["r"] == ranges["mse"]["r"]


@pytest.mark.parametrize("method", METHODS)
def test_images_keep_their_range(net, method):
    feeds = list(samples.feeds(net, photographs(2, (16, 16))))
    feeds[0]["x"][0, 0, 0, 0] = 1.0
    exact = statistics(net, feeds).ranges["x"]
    assert statistics(net, feeds, method, 2, 60).ranges["x"] == exact


def test_text_sums_over_the_last_dimension():
    net = network([N("MatMul", ["x", "m"], ["y"])], constants_of(m=(6, 4)), {"x": (1, 5, 6)})
    (feed,) = noise(net, 1)
    np.testing.assert_allclose(statistics(net, [feed]).means["x"], feed["x"].mean((0, 1)),
                               atol=1e-6)


def test_errors(net):
    with pytest.raises(HwgenError, match=r"^Calibration method must be one of minmax, percentile"):
        statistics(net, noise(net), "entropy")
    with pytest.raises(HwgenError, match=r"^Percentile must be above 50 and at most 100, not 0"):
        statistics(net, noise(net), "percentile", percentile=0)
    with pytest.raises(HwgenError, match=r"^Calibration needs at least one frame"):
        statistics(net, [])
    with pytest.raises(HwgenError, match=r"^The network cannot be run"):
        statistics(net, [{"x": np.zeros((1, 3, 5), np.float32)}])
    feeds = noise(net)
    feeds[1]["x"][0, 0, 0, 0] = np.inf
    with pytest.raises(HwgenError, match=r"^Tensor 'x' becomes infinite or NaN"):
        statistics(net, feeds, "mse")
    log = network([CONV, N("Log", ["c"], ["y"])], constants_of(w=(8, 3, 3, 3), b=(8,)))
    with pytest.raises(HwgenError, match=r"^Tensor 'y' becomes infinite or NaN"):
        statistics(log, noise(log))


def test_guards_do_not_take_the_range_of_reciprocals():
    """Where a norm of zeros is guarded, its reciprocal is large, but multiplies zeros alone."""
    net = network([N("Clip", ["x", "least"], ["c"]), N("Reciprocal", ["c"], ["r"]),
                   N("Mul", ["r", "x"], ["y"])],
                  {"least": np.array(1e-12, np.float32)}, {"x": (1, 8)})
    values = np.array([[0.0, 0.5, 2.0, 0.25, 0.0, 1.0, 4.0, 0.5]], np.float32)
    assert statistics(net, [{"x": values}]).ranges["r"] == (0.25, 4.0)
    with pytest.raises(HwgenError, match="infinite or NaN"):
        statistics(net, [{"x": np.full((1, 8), np.nan, np.float32)}])
