"""Networks in torch: they compute what onnxruntime does, and learn to copy their teacher."""

import numpy as np
import pytest
import torch

from hwgen.errors import HwgenError
from hwgen.ir import Conv
from hwgen.models.compression.decomposition import Decomposition
from hwgen.models.compression.rewrite import decompose
from hwgen.models.load import read
from hwgen.models.lowering import lower
from hwgen.models.quantisation.calibrate import probe, statistics
from hwgen.models.quantisation.precision import Precision
from hwgen.models.training.network import TorchNetwork
from hwgen.models.training.tuning import distil, tune
from tests.models.float_networks import N, constants_of, network, noise

pytestmark = pytest.mark.network

POOLS = {
    "ceil": {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "pads": {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
}


def small(seed=0):
    """Two convolutions and a matrix, with a residual."""
    return network(
        [N("Conv", ["x", "w", "b"], ["c"], name="one", pads=[1, 1, 1, 1], strides=[2, 2]),
         N("Relu", ["c"], ["r"]),
         N("Conv", ["r", "v"], ["d"], name="two", pads=[1, 1, 1, 1]), N("Add", ["d", "r"], ["s"]),
         N("GlobalAveragePool", ["s"], ["g"]), N("Flatten", ["g"], ["f"]),
         N("Gemm", ["f", "m", "n"], ["y"], name="three", transB=1)],
        constants_of(seed, w=(16, 3, 3, 3), b=(16,), v=(16, 16, 3, 3), m=(10, 16), n=(10,)))


def outputs(net, feeds):
    """Float outputs by onnxruntime, and by torch in one batch."""
    run = probe(net, net.outputs)
    wanted = {n: np.concatenate([run(feed)[n] for feed in feeds]) for n in net.outputs}
    batch = {n: torch.from_numpy(np.concatenate([feed[n] for feed in feeds])) for n in net.inputs}
    return wanted, {n: v.detach().numpy() for n, v in TorchNetwork(net)(batch).items()}


@pytest.mark.parametrize("name", ["mobilenetv3-small", "resnet8", "squeezenet"])
def test_zoo(name):
    net = read(name, size=32).network
    wanted, found = outputs(net, noise(net, 3))
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4 * np.abs(value).max())


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("at", list(POOLS))
@pytest.mark.parametrize("pads", [0, 1])
def test_pools(kind, at, pads):
    given = dict(POOLS[at])
    if kind == "AveragePool":
        given["count_include_pad"] = pads
    net = network([N("Conv", ["x", "w"], ["c"]), N(kind, ["c"], ["y"], **given)],
                  constants_of(w=(4, 3, 2, 2)))
    wanted, found = outputs(net, noise(net, 2))
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-4, atol=1e-5)


def test_other_ops():
    """Matrices over rows, functions, and rearrangements."""
    net = network(
        [N("MatMul", ["x", "m"], ["a"], name="a"), N("Add", ["a", "b"], ["c"]),
         N("Erf", ["c"], ["e"]), N("Sigmoid", ["e"], ["s"]), N("Mul", ["s", "c"], ["p"]),
         N("Clip", ["p", "", "high"], ["k"]), N("Transpose", ["k"], ["t"], perm=[0, 2, 1]),
         N("Reshape", ["t", "shape"], ["r"]), N("Conv", ["r", "w", "b2"], ["y"], group=2)],
        {**constants_of(m=(6, 8), b=(8,), w=(8, 4, 1, 2), b2=(8,)),
         "high": np.float32(0.5), "shape": np.array([1, 8, 1, 5])},
        {"x": (1, 5, 6)})
    wanted, found = outputs(net, noise(net, 3))
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-4, atol=1e-5)


def test_part_of_a_network():
    """From any tensors to any others, with other weights."""
    net = small()
    run = probe(net, ["r", "g"])(noise(net, 1)[0])
    model = TorchNetwork(net)
    found = model({"r": torch.from_numpy(run["r"])}, ["g"])
    np.testing.assert_allclose(found["g"].numpy(), run["g"], rtol=1e-4, atol=1e-5)
    zero = {"v": torch.zeros(16, 16, 3, 3)}
    found = model({"r": torch.from_numpy(run["r"])}, ["s"], zero)
    np.testing.assert_array_equal(found["s"].numpy(), run["r"])


def lost(student, teacher, feeds):
    (wanted, _), (_, found) = outputs(teacher, feeds), outputs(student, feeds)
    return float(np.square(found["y"] - wanted["y"]).mean() / np.square(wanted["y"]).mean())


def test_distil():
    """A decomposed network comes nearer its teacher, also on frames that it has not seen."""
    teacher = small()
    student = decompose(teacher, {"two": Decomposition("svd_spatial", 8)})
    tuned = distil(student, teacher, noise(teacher, 48, seed=1), steps=150, batch=16)
    unseen = noise(teacher, 16, seed=2)
    assert lost(tuned, teacher, unseen) < 0.5 * lost(student, teacher, unseen)
    again = distil(student, teacher, noise(teacher, 48, seed=1), steps=150, batch=16)
    for name, value in tuned.constants.items():
        np.testing.assert_array_equal(value, again.constants[name])
    # The student is as it was.
    assert lost(student, teacher, unseen) == lost(
        decompose(teacher, {"two": Decomposition("svd_spatial", 8)}), teacher, unseen)


@pytest.mark.parametrize("choice, bits", [
    (Decomposition("svd_spatial", 8, bits=4), None),
    (Decomposition("svd_last", 8), lambda name: 3 if name == "two/1" else 5),
])
def test_distilled_integers(choice, bits):
    """What is learned are the integers that the hardware has."""
    teacher = small()
    student = decompose(teacher, {"two": choice})
    feeds = noise(teacher, 32, seed=1)
    start = distil(student, teacher, feeds, steps=0, bits=bits)
    tuned = distil(student, teacher, feeds, steps=100, batch=16, bits=bits)
    unseen = noise(teacher, 16, seed=2)
    assert lost(tuned, teacher, unseen) < lost(start, teacher, unseen)
    ranges = statistics(tuned, feeds).ranges
    graph = lower(tuned, ranges, Precision.parse("w8a8"), None)
    convs = {node.name: node.op for node in graph.nodes if isinstance(node.op, Conv)}
    widths = {op.weight_bits for op in convs.values()}
    assert widths <= ({8, 4} if bits is None else {3, 5})
    for name, coded in tuned.weights.items():
        np.testing.assert_allclose(coded.integers * coded.scale, tuned.constants[name], rtol=1e-5)


def test_tune_to_any_loss():
    net = small()
    feeds = {n: torch.from_numpy(v) for n, v in noise(net, 1)[0].items()}
    tuned = tune(net, lambda run, step: run(feeds)["y"].square().sum(), steps=60, rate=0.02)
    before, after = (probe(n, ["y"])(noise(net, 1)[0])["y"] for n in (net, tuned))
    assert np.square(after).sum() < 0.1 * np.square(before).sum()


def test_errors():
    net = small()
    with pytest.raises(HwgenError, match="at least one frame"):
        distil(net, net, [], steps=1)
    with pytest.raises(HwgenError, match="0 or more steps"):
        distil(net, net, noise(net), steps=-1)
    with pytest.raises(HwgenError, match=r"'one'.*2 to 8 bits, not 9"):
        distil(net, net, noise(net), steps=1, bits=lambda _: 9)
    odd = network([N("Conv", ["x", "w"], ["c"]), N("Softplus", ["c"], ["y"], name="soft")],
                  constants_of(w=(4, 3, 2, 2)))
    with pytest.raises(HwgenError, match="'soft': op 'Softplus' cannot be tuned: Add"):
        TorchNetwork(odd)
