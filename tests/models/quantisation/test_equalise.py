"""Equalisation: the function stays, the ranges meet, and nothing shared is touched."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.ir import Quantisation
from hwgen.models.quantisation.calibrate import probe, statistics
from hwgen.models.quantisation.equalise import equalise
from tests.models.float_networks import N, constants_of, network, noise
from tests.profiles import examples

FIRST = N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])
SECOND = N("Conv", ["r", "v", "a"], ["y"], pads=[1, 1, 1, 1])
SHAPES = {"w": (8, 3, 3, 3), "b": (8,), "v": (6, 8, 3, 3), "a": (6,)}


def uneven(seed=0, **shapes):
    """Weights whose output channels differ by factors of up to 100."""
    random = np.random.default_rng(seed + 1)
    constants = constants_of(seed, **shapes)
    for value in constants.values():
        value *= np.float32(10) ** random.uniform(-1, 1, (len(value), *(1,) * (value.ndim - 1)))
    return constants


def outputs(net, feeds):
    run = probe(net, net.outputs)
    return [np.concatenate([run(f)[o].ravel() for o in net.outputs]) for f in feeds]


def check_same(net, other):
    feeds = noise(net)
    for a, b in zip(outputs(net, feeds), outputs(other, feeds), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4 * np.abs(a).max())


def changed(net, other):
    stored = {v.name: onnx.numpy_helper.to_array(v) for v in other.model.graph.initializer}
    for name, value in other.constants.items():
        if name in stored:
            np.testing.assert_array_equal(stored[name], value)
    return {n for n in net.constants if not np.array_equal(net.constants[n], other.constants[n])}


def peaks(weight, axis):
    return np.abs(np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)).max(1)


BETWEEN = {
    "relu": ([N("Relu", ["c"], ["r"])], {}),
    "leaky": ([N("LeakyRelu", ["c"], ["r"], alpha=0.2)], {}),
    "prelu": ([N("PRelu", ["c", "s"], ["r"])], {"s": np.linspace(-1, 1, 8, dtype=np.float32)
                                                .reshape(8, 1, 1)}),
    "clip": ([N("Clip", ["c", "lo", "hi"], ["r"])],
             {"lo": np.float32(0), "hi": np.finfo(np.float32).max}),
    "clip_below": ([N("Clip", ["c", "lo"], ["r"])], {"lo": np.float32(0)}),
    "pool": ([N("Relu", ["c"], ["q"]), N("MaxPool", ["q"], ["r"], kernel_shape=[3, 3],
                                         pads=[1, 1, 1, 1])], {}),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_function_stays_and_ranges_meet(kind):
    nodes, extra = BETWEEN[kind]
    net = network([FIRST, *nodes, SECOND], uneven(**SHAPES) | extra)
    before = {name: value.copy() for name, value in net.constants.items()}
    other = equalise(net)
    check_same(net, other)
    assert changed(net, other) == {"w", "b", "v"}
    np.testing.assert_allclose(peaks(other.constants["w"], 0), peaks(other.constants["v"], 1),
                               rtol=2e-3)
    assert all((net.constants[n] == before[n]).all() for n in before)
    assert {n: len(u) for n, u in other.users.items()} == {n: len(u) for n, u in net.users.items()}


def test_nothing_between():
    net = network([N("Conv", ["x", "w"], ["r"]), SECOND], uneven(**SHAPES))
    other = equalise(net)
    check_same(net, other)
    # onnxruntime gives every convolution a bias or none: only the weights' names are sure.
    assert {"w", "v"} <= changed(net, other)


@examples(10)
@given(st.integers(0, 1000), st.sampled_from([1, 2]))
def test_depthwise_between(seed, groups):
    """All three ranges meet: Nagel et al. write it as one rule, pairs converge to it."""
    net = network(
        [FIRST, N("Relu", ["c"], ["r"]),
         N("Conv", ["r", "d", "e"], ["f"], group=8, pads=[1, 1, 1, 1]), N("Relu", ["f"], ["g"]),
         N("Conv", ["g", "v", "a"], ["y"], group=groups)],
        uneven(seed, **SHAPES | {"d": (8, 1, 3, 3), "e": (8,), "v": (6, 8 // groups, 1, 1)}),
    )
    other = equalise(net)
    check_same(net, other)
    middle = peaks(other.constants["d"], 0)
    np.testing.assert_allclose(peaks(other.constants["w"], 0), middle, rtol=5e-3)
    grouped = other.constants["v"].reshape(groups, 6 // groups, 8 // groups)
    np.testing.assert_allclose(np.abs(grouped).max(1).ravel(), middle, rtol=5e-3)


def test_long_chains_converge():
    nodes, constants, tensor = [], {}, "x"
    for k in range(6):
        cin = 3 if k == 0 else 8
        constants |= uneven(k, **{f"w{k}": (8, cin, 3, 3), f"b{k}": (8,)})
        nodes += [N("Conv", [tensor, f"w{k}", f"b{k}"], [f"c{k}"], pads=[1, 1, 1, 1]),
                  N("Relu", [f"c{k}"], [f"r{k}"])]
        tensor = f"r{k}"
    net = network(nodes, constants, outputs=(tensor,))
    other = equalise(net)
    check_same(net, other)
    for k in range(5):
        np.testing.assert_allclose(peaks(other.constants[f"w{k}"], 0),
                                   peaks(other.constants[f"w{k + 1}"], 1), rtol=5e-3)
    assert changed(net, equalise(net, iterations=0)) == set()


UNTOUCHED = {
    "relu6": ([N("Clip", ["c", "lo", "hi"], ["r"])],
              {"lo": np.float32(0), "hi": np.float32(6)}, ()),
    "lifted": ([N("Clip", ["c", "lo"], ["r"])], {"lo": np.float32(0.1)}, ()),
    "computed bound": ([N("ReduceMax", ["c"], ["m"], keepdims=0),
                        N("Clip", ["c", "", "m"], ["r"])], {}, ()),
    "sigmoid": ([N("Sigmoid", ["c"], ["r"])], {}, ()),
    "two readers": ([N("Relu", ["c"], ["r"]), N("MaxPool", ["r"], ["z"], kernel_shape=[2, 2])], {},
                    ("z",)),
    "an output": ([N("Relu", ["c"], ["r"])], {}, ("r",)),
    "an output inside": ([N("Relu", ["c"], ["r"])], {}, ("c",)),
    "shared weights": ([N("Relu", ["c"], ["r"]), N("Conv", ["x", "w"], ["z"])], {}, ("z",)),
    "shared bias": ([N("Relu", ["c"], ["r"]),
                     N("Conv", ["x", "u", "b"], ["z"])], constants_of(u=(8, 3, 1, 1)), ("z",)),
    "weights shared behind": ([N("Relu", ["c"], ["r"]), N("Sigmoid", ["c"], ["s"]),
                               N("Conv", ["s", "v"], ["z"])], {}, ("z",)),
}


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_untouched(kind):
    nodes, extra, more = UNTOUCHED[kind]
    net = network([FIRST, *nodes, SECOND], uneven(**SHAPES) | extra, outputs=("y", *more))
    assert changed(net, equalise(net)) == set()


def test_what_the_file_quantised_is_untouched():
    net = network([FIRST, N("Relu", ["c"], ["r"]), SECOND], uneven(**SHAPES))
    net.codes["r"] = Quantisation(0.1)
    assert changed(net, equalise(net)) == set()


def test_dead_channels_stay():
    """Batch normalisation that all but switches a channel off leaves weights near 0 and a bias."""
    constants = uneven(**SHAPES)
    constants["w"][2] = 0
    constants["w"][3] *= 1e-9
    constants["v"][:, 4] = 0
    net = network([FIRST, N("Relu", ["c"], ["r"]), SECOND], constants)
    other = equalise(net)
    check_same(net, other)
    for channel in (2, 3, 4):
        for name in ("w", "b"):
            np.testing.assert_array_equal(other.constants[name][channel], constants[name][channel])


def test_measured_peaks():
    net = network([FIRST, N("Relu", ["c"], ["r"]), SECOND], uneven(**SHAPES))
    feeds = noise(net, 4)
    other = equalise(net, statistics(net, feeds).peaks)
    check_same(net, other)
    measured = statistics(other, feeds).peaks["r"]
    live = measured > 0
    assert live.sum() > 4
    np.testing.assert_allclose(measured[live], peaks(other.constants["v"], 1)[live], rtol=5e-3)


def test_errors():
    net = network([FIRST, N("Relu", ["c"], ["r"]), SECOND], uneven(**SHAPES))
    with pytest.raises(HwgenError, match=r"^Equalisation needs 0 or more iterations, not -1"):
        equalise(net, iterations=-1)
    with pytest.raises(HwgenError, match=r"^Peaks of 'r' must be 8, not \(7,\)"):
        equalise(net, {"r": np.ones(7)})


def test_less_is_lost_by_rounding():
    """The second's weights, rounded to 4 bits with a scale for each output channel."""
    constants = constants_of(**SHAPES)
    scale = np.float32(10) ** np.linspace(-0.7, 0.7, 8, dtype=np.float32)
    constants["w"] *= scale[:, None, None, None]
    constants["b"] *= scale
    constants["v"] /= scale[:, None, None]
    net = network([FIRST, N("Relu", ["c"], ["r"]), SECOND], constants)
    feeds = noise(net)
    (want, *_) = outputs(net, feeds)

    def loss(other):
        weight = other.constants["v"]
        step = np.abs(weight).max((1, 2, 3), keepdims=True) / 7
        rounded = {**other.constants, "v": np.rint(weight / step) * step}
        again = network([FIRST, N("Relu", ["c"], ["r"]), SECOND], rounded)
        return np.square(outputs(again, feeds)[0] - want).mean()

    assert loss(equalise(net)) < loss(net) / 4
    assert loss(equalise(net, statistics(net, feeds).peaks)) < loss(net) / 4
