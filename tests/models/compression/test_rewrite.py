"""Rewritten networks: they compute what they would with the layer's weights replaced."""

import copy

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm
from hwgen.models.compression.decomposition import Decomposition, cost
from hwgen.models.compression.layers import layers
from hwgen.models.compression.rewrite import decompose, factorise, reconstruct
from hwgen.models.lowering import lower
from hwgen.models.onnx import reader as onnx_import
from hwgen.models.quantisation.calibrate import probe, statistics
from hwgen.models.quantisation.equalise import equalise
from hwgen.models.quantisation.precision import Precision
from tests.models.float_networks import N, constants_of, network, noise
from tests.profiles import examples

SPARSE = Decomposition("sparse", density=0.1)
CHOICES = {
    "spatial": Decomposition("svd_spatial", 5),
    "spatial groups": Decomposition("svd_spatial", 2, 3),
    "last": Decomposition("svd_last", 4),
    "last groups": Decomposition("svd_last", 2, 3),
    "depthwise first": Decomposition("svd_last", 1, 6),
    "first": Decomposition("svd_first", 3),
    "first groups": Decomposition("svd_first", 2, 4),
    "cpd": Decomposition("cpd", 4),
    "two branches": Decomposition("svd_first", 2, residual=Decomposition("svd_spatial", 3)),
    "cpd and more": Decomposition("cpd", 2, residual=Decomposition("svd_last", 2, 2)),
    "sparse": Decomposition("svd_spatial", 3, residual=SPARSE),
    "integers": Decomposition("svd_spatial", 5, bits=4),
    "integers in groups": Decomposition("svd_last", 2, 3, bits=5),
    "integers in groups first": Decomposition("svd_first", 2, 4, bits=3),
    "integers twice": Decomposition("svd_first", 3, bits=3,
                                    residual=Decomposition("svd_spatial", 2, bits=6)),
}
GEOMETRIES = {
    "plain": {},
    "same": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same lower": {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    "uneven": {"strides": [2, 1], "pads": [0, 1, 2, 3], "dilations": [1, 2]},
}


def convolution(kernel, shape, **at):
    rank = len(kernel)
    return network(
        [N("Conv", ["x", "w", "b"], ["c"], name="conv", **at), N("Relu", ["c"], ["y"])],
        constants_of(w=(8, 6, *kernel), b=(8,)), {"x": (1, 6, *shape[:rank])})


def outputs(net, feed):
    run = probe(net, net.outputs)(feed)
    return [run[name] for name in net.outputs]


def with_weights(net, name, weight):
    """The network with other values for a constant."""
    model = onnx.ModelProto()
    model.CopyFrom(net.model)
    for value in model.graph.initializer:
        if value.name == name:
            value.CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float32), name))
    other = copy.copy(net)
    other.model = model
    return other


def check(net, choices, allow_growth=True):
    """The outputs are those of the network with its weights replaced; returns the new one."""
    other = decompose(net, choices, allow_growth)
    expected = net
    for name, choice in choices.items():
        layer = layers(net)[name]
        weight = reconstruct(factorise(layer.weight, choice))
        (node,) = [n for n in net.nodes if name in (n.name, n.output[0])]
        constant = net.constants[node.input[1]]
        if weight.shape != constant.shape or not np.array_equal(layer.weight, constant):
            weight = weight.T
        expected = with_weights(expected, node.input[1], weight)
    for feed in noise(net):
        for got, want in zip(outputs(other, feed), outputs(expected, feed), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6 * np.abs(want).max() + 1e-6)
    onnx.checker.check_model(other.model)
    every = [out for node in other.nodes for out in node.output]
    for name, value in probe(other, every)(noise(net)[0]).items():
        assert other.shapes[name] == value.shape
    for node in other.nodes:
        for name in node.input:
            assert not name or name in other.shapes or name in other.constants
            assert not name or node in other.users[name]
    stored = {v.name: onnx.numpy_helper.to_array(v) for v in other.model.graph.initializer}
    assert stored.keys() == {n for n in other.constants if n in stored}
    for name, value in stored.items():
        np.testing.assert_array_equal(other.constants[name], value)
    return other


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", CHOICES)
def test_convolutions(kind, geometry):
    net = convolution((3, 2), (9, 11), **GEOMETRIES[geometry])
    choice = CHOICES[kind]
    other = check(net, {"conv": choice})
    weights = [n for n in other.nodes if n.op_type == "Conv"]
    extents = [np.prod(other.shapes[n.output[0]][2:]) for n in weights]
    found = [np.count_nonzero(other.constants[n.input[1]]) for n in weights]
    predicted = cost(layers(net)["conv"], choice)
    if choice.bits is None:
        assert sum(found) == predicted.parameters
        assert sum(f * e for f, e in zip(found, extents, strict=True)) == predicted.macs
    else:
        # Some integers are 0.
        assert sum(found) <= predicted.parameters


@pytest.mark.parametrize("kernel", [(5,), (1,), (3, 1), (1, 3), (1, 1), (3, 2, 2)])
@pytest.mark.parametrize("kind", ["spatial", "last", "last groups", "first", "first groups", "cpd",
                                  "sparse", "integers", "integers in groups"])
def test_kernels(kind, kernel):
    """One to three dimensions, and single taps with a stride over them."""
    choice = CHOICES[kind]
    if choice.scheme == "svd_spatial" and len(kernel) != 2:
        with pytest.raises(HwgenError, match=r"^Layer 'conv': svd_spatial needs a kernel of 2"):
            decompose(convolution(kernel, (7, 8, 6)), {"conv": choice}, True)
        return
    stride = [2, 3, 2][: len(kernel)]
    choice = Decomposition(choice.scheme, min(choice.rank, 6 // choice.groups), choice.groups,
                           bits=choice.bits, residual=choice.residual)
    check(convolution(kernel, (7, 8, 6), strides=stride, pads=[1] * (2 * len(kernel))),
          {"conv": choice})


@examples(25)
@given(st.data())
def test_any_geometry(data):
    kernel = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    rank = len(kernel)
    numbers = {
        name: data.draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
        for name, low, high, count in (("strides", 1, 3, rank), ("dilations", 1, 2, rank),
                                       ("pads", 0, 3, 2 * rank))
    }
    scheme = data.draw(st.sampled_from(["svd_last", "svd_first", "cpd", "svd_spatial"][: 2 + rank]))
    groups = 1 if scheme == "cpd" else data.draw(st.sampled_from([1, 2]))
    check(convolution(tuple(kernel), (10, 9), **numbers),
          {"conv": Decomposition(scheme, data.draw(st.integers(1, 3)), groups)})


LINEAR = {
    "gemm": (N("Gemm", ["x", "w", "b"], ["y"], name="fc"), (12, 9), (1, 12)),
    "gemm turned": (N("Gemm", ["x", "w", "b"], ["y"], name="fc", transB=1), (9, 12), (1, 12)),
    "gemm scaled": (N("Gemm", ["x", "w", "b"], ["y"], name="fc", alpha=0.5, beta=3.0), (12, 9),
                    (1, 12)),
    "gemm bare": (N("Gemm", ["x", "w"], ["y"], name="fc", transB=1), (9, 12), (1, 12)),
    "matmul": (N("MatMul", ["x", "w"], ["y"], name="fc"), (12, 9), (1, 12)),
    "rows": (N("MatMul", ["x", "w"], ["y"], name="fc"), (12, 9), (1, 5, 12)),
    "square": (N("MatMul", ["x", "w"], ["y"], name="fc"), (12, 12), (1, 5, 12)),
}


@pytest.mark.parametrize("kind", LINEAR)
@pytest.mark.parametrize("choice", [
    Decomposition("svd_last", 3), Decomposition("svd_first", 3), Decomposition("cpd", 3),
    Decomposition("svd_last", 3, bits=4), Decomposition("svd_first", 2, residual=SPARSE),
    Decomposition("svd_first", 2, bits=3, residual=Decomposition("svd_last", 2, bits=8)),
], ids=lambda c: f"{c.scheme}{c.bits or ''}{'+' if c.residual else ''}")
def test_matrices(kind, choice):
    node, shape, extent = LINEAR[kind]
    net = network([node], constants_of(w=shape, b=(shape[-1] if "turned" not in kind else 9,)),
                  {"x": extent})
    other = check(net, {"fc": choice})
    rows = int(np.prod(extent[1:-1]))
    before, after = cost(layers(net)["fc"]), cost(layers(net)["fc"], choice)
    assert before.macs == before.parameters * rows
    assert after.macs == after.parameters * rows
    if choice.bits is None:
        kept = sum(np.count_nonzero(other.constants[n.input[1]]) for n in other.nodes
                   if n.op_type in ("Gemm", "MatMul"))
        assert kept == after.parameters


def chain(**more):
    nodes = [
        N("Conv", ["x", "w"], ["a"], name="first", pads=[1, 1, 1, 1]), N("Relu", ["a"], ["p"]),
        N("Conv", ["p", "v", "b"], ["c"], name="second", pads=[1, 1, 1, 1]),
        N("Relu", ["c"], ["q"]), N("Conv", ["q", "d"], ["e"], name="depthwise", group=12),
        N("GlobalAveragePool", ["e"], ["g"]), N("Flatten", ["g"], ["f"]),
        N("Gemm", ["f", "m", "n"], ["y"], name="head", transB=1),
    ]
    constants = constants_of(w=(12, 3, 3, 3), v=(12, 12, 3, 3), b=(12,), d=(12, 1, 3, 3),
                             m=(10, 12), n=(10,))
    return network(nodes, constants, outputs=more.pop("outputs", ("y",)), **more)


def test_several_layers_at_once():
    net = chain()
    before = net.model.SerializeToString()
    other = check(net, {"first": Decomposition("svd_first", 2),
                        "second": Decomposition("svd_spatial", 6),
                        "head": Decomposition("svd_last", 3)}, allow_growth=False)
    assert net.model.SerializeToString() == before
    names = [n.name for n in other.nodes if n.op_type in ("Conv", "Gemm")]
    assert names == ["first/1", "first/2", "second/1", "second/2", "depthwise", "head/1", "head/2"]
    assert other.outputs == net.outputs
    assert [n.output[0] for n in other.nodes if n.name in ("first/2", "second/2", "head/2")] == [
        n.output[0] for n in net.nodes if n.name in ("first", "second", "head")]
    assert not {"w", "v", "m"} & other.constants.keys()
    assert {"d", "b"} <= other.constants.keys()


def test_nothing_chosen_changes_nothing():
    net = chain()
    other = decompose(net, {})
    assert other.model.SerializeToString() == net.model.SerializeToString()
    assert [n.name for n in other.nodes] == [n.name for n in net.nodes]


def test_again():
    """Layers of a decomposition can be decomposed in turn."""
    net = decompose(chain(), {"second": Decomposition("svd_first", 6)}, True)
    other = check(net, {"second/2": Decomposition("svd_spatial", 4)})
    assert [n.name for n in other.nodes if n.op_type == "Conv"] == [
        "first", "second/1", "second/2/1", "second/2/2", "depthwise"]


def test_by_the_name_of_the_output():
    net = network([N("Conv", ["x", "w"], ["c"]), N("Relu", ["c"], ["y"])],
                  constants_of(w=(8, 3, 3, 3)))
    (name,) = layers(net)
    other = decompose(net, {name: Decomposition("svd_first", 1)})
    assert [n.op_type for n in other.nodes] == ["Conv", "Conv", "Relu"]


def test_shared_weights_stay_with_the_others():
    net = network(
        [N("Conv", ["x", "w"], ["a"], name="one"), N("Sigmoid", ["x"], ["s"]),
         N("Conv", ["s", "w"], ["b"], name="two"), N("Add", ["a", "b"], ["y"])],
        constants_of(w=(8, 3, 3, 3)))
    other = decompose(net, {"one": Decomposition("svd_first", 1)})
    assert "w" in other.constants
    feed = noise(net)[0]
    want = probe(with_weights(net, "w", reconstruct(factorise(
        net.constants["w"], Decomposition("svd_first", 1)))), ["a"])(feed)["a"]
    np.testing.assert_allclose(probe(other, ["a"])(feed)["a"], want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(probe(other, ["b"])(feed)["b"], probe(net, ["b"])(feed)["b"],
                               rtol=1e-5, atol=1e-6)


def test_taken_names_are_left():
    net = network(
        [N("Conv", ["x", "w"], ["conv/1"], name="conv"), N("Relu", ["conv/1"], ["y"],
                                                           name="conv/2")],
        constants_of(w=(8, 3, 3, 3)))
    other = decompose(net, {"conv": Decomposition("svd_first", 1)})
    names = [n.name for n in other.nodes] + [out for n in other.nodes for out in n.output]
    assert len(set(names)) == len(names)


def test_network_outputs_stay():
    """A layer whose output is the network's, and is read besides."""
    net = chain(outputs=("y", "c"))
    other = check(net, {"second": Decomposition("svd_last", 5, residual=SPARSE)})
    assert "c" in other.outputs


@pytest.mark.parametrize("choices, message", [
    ({"third": Decomposition("cpd", 1)},
     r"^Layer 'third' is unknown: the network has 'first', 'second', 'depthwise', 'head'"),
    ({"depthwise": Decomposition("cpd", 1)},
     r"^Layer 'depthwise': a convolution of 12 groups cannot be unfolded: only those of 1 group"),
    ({"second": Decomposition("svd_first", 13)},
     r"^Layer 'second': rank of svd_first must be 1 to 12 .*, not 13"),
    ({"second": Decomposition("svd_last", 1, 5)},
     r"^Layer 'second': groups must divide 12 input channels, not 5"),
    ({"second": Decomposition("svd_first", 12)},
     r"^Layer 'second': svd_first of rank 12 takes 1,440 parameters, the layer itself 1,296: "),
    ({"head": Decomposition("svd_first", 6)}, r"^Layer 'head': .* takes 132 parameters, .* 120"),
    ({"head": Decomposition("svd_spatial", 6)}, r"^Layer 'head': svd_spatial needs a kernel"),
    ({"second": Decomposition("cpd", 1, residual=Decomposition("svd_first", 13))},
     r"^Layer 'second': residual: rank of svd_first must be 1 to 12"),
    ({"second": Decomposition("cpd", 1), "c": Decomposition("cpd", 2)},
     r"^Layer 'c' is decomposed twice"),
])
def test_refused(choices, message):
    with pytest.raises(HwgenError, match=message):
        decompose(chain(), choices)


def test_growth_may_be_allowed():
    check(chain(), {"second": Decomposition("svd_first", 12)}, allow_growth=True)


def test_more_macs_are_growth_too():
    """Fewer weights, but the first layer works at four times the pixels."""
    net = network([N("Conv", ["x", "w"], ["y"], name="conv", strides=[2, 2])],
                  constants_of(w=(4, 8, 2, 2)), {"x": (1, 8, 16, 16)})
    layer, choice = layers(net)["conv"], Decomposition("svd_first", 4)
    assert cost(layer, choice).parameters < cost(layer).parameters
    with pytest.raises(HwgenError, match=r"^Layer 'conv': .* takes 12,288 macs, .* itself 8,192"):
        decompose(net, {"conv": choice})


@pytest.mark.parametrize("op, inputs", [("ConvTranspose", ["x", "t"]), ("Relu", ["x"])])
def test_other_ops(op, inputs):
    net = network([N(op, inputs, ["a"], name="other"), N("Conv", ["a", "w"], ["y"], name="conv")],
                  constants_of(t=(3, 3, 2, 2), w=(4, 3, 1, 1)))
    assert list(layers(net)) == ["conv"]
    with pytest.raises(HwgenError, match=rf"^Layer 'other': op '{op}' cannot be decomposed: only "
                                         rf"Conv, Gemm, MatMul can"):
        decompose(net, {"other": Decomposition("cpd", 1)})


def test_weights_that_are_computed():
    net = network([N("MatMul", ["x", "z"], ["a"], name="two"),
                   N("MatMul", ["a", "w"], ["y"], name="one")], constants_of(w=(5, 6)),
                  {"x": (1, 3, 4), "z": (1, 4, 5)})
    assert list(layers(net)) == ["one"]
    with pytest.raises(HwgenError, match=r"^Layer 'two': weights 'z' must be constant"):
        decompose(net, {"two": Decomposition("cpd", 1)})


def test_a_matrix_for_each_of_several():
    net = network([N("MatMul", ["x", "w"], ["y"], name="fc")], constants_of(w=(2, 4, 5)),
                  {"x": (1, 2, 3, 4)})
    with pytest.raises(HwgenError, match=r"^Layer 'fc': weights must be a matrix, not .*2, 4, 5"):
        decompose(net, {"fc": Decomposition("cpd", 1)})


def test_turned_inputs():
    net = network([N("Gemm", ["x", "w"], ["y"], name="fc", transA=1)], constants_of(w=(1, 5)),
                  {"x": (1, 4)})
    with pytest.raises(HwgenError, match=r"^Layer 'fc': transA = 1 is not supported"):
        decompose(net, {"fc": Decomposition("cpd", 1)})


def test_names_of_several_nodes():
    net = network([N("Conv", ["x", "w"], ["c"]), N("Relu", ["c"], ["r"]),
                   N("Conv", ["r", "v"], ["y"])], constants_of(w=(8, 3, 3, 3), v=(8, 8, 3, 3)))
    for node in net.nodes:
        node.name = "same" if node.op_type == "Conv" else ""
    first, last = (node.output[0] for node in net.nodes if node.name)
    with pytest.raises(HwgenError, match=rf"^Layer 'same' is the name of 2 nodes: use the names of "
                                         rf"their outputs, '{first}', '{last}'$"):
        decompose(net, {"same": Decomposition("cpd", 1)})
    other = decompose(net, {last: Decomposition("svd_first", 1)})
    assert [n.op_type for n in other.nodes] == ["Conv", "Relu", "Conv", "Conv"]


def test_integers_of_a_file_stay():
    net = decompose(chain(), {"second": Decomposition("svd_first", 4, bits=4)})
    with pytest.raises(HwgenError, match=r"^Layer 'second/1': weights .* are integers of the file"):
        decompose(net, {"second/1": Decomposition("svd_last", 1)})


# What becomes of integer factors

INTEGERS = {
    "second": Decomposition("svd_spatial", 5, 2, bits=4),
    "head": Decomposition("svd_last", 3, bits=4),
}


def integer_graph(net, precision, feeds=None):
    ranges = statistics(net, noise(net) if feeds is None else feeds).ranges
    return lower(net, ranges, Precision.parse(precision), None)


def weights_of(graph):
    """Integers ``(Cout, ...)`` and bits of each op, in order."""
    return [(n.op.weight, n.op.weight_bits) for n in graph.nodes if isinstance(n.op, Conv | Gemm)]


def expected(net, choices):
    found = []
    for name, choice in choices.items():
        ((first, second),) = factorise(layers(net)[name].weight, choice)
        for factor in (first, second):
            assert factor.coded is not None
            found.append(np.moveaxis(factor.coded.integers, 1, -1))
    return found


def of_factors(graph):
    """Weights of the layers that took the place of ``second`` and ``head``."""
    every = weights_of(graph)
    return [*every[1:3], *every[-2:]]


@pytest.mark.parametrize("precision", ["w8a8", "w4a8", "w2a4"])
def test_integers_are_used_as_they_are(precision):
    net = chain()
    other = decompose(net, INTEGERS, True)
    graph = integer_graph(other, precision)
    for (got, bits), want in zip(of_factors(graph), expected(net, INTEGERS), strict=True):
        np.testing.assert_array_equal(got.reshape(want.shape), want)
        assert bits == 4
    # Others keep to the precision.
    assert weights_of(graph)[0][1] == int(precision[1])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("way", ["in memory", "through a file"])
def test_integers_are_found_again(bits, way):
    """Without the mark, the quantiser of weights comes to the same integers from the real ones."""
    net = chain()
    choices = {name: Decomposition(c.scheme, c.rank, c.groups, bits=bits)
               for name, c in INTEGERS.items()}
    other = decompose(net, choices, True)
    if way == "in memory":
        other.weights.clear()
    else:
        other = onnx_import.normalise(other.model.SerializeToString(), "again", None)
        assert not other.weights
    for (got, found), want in zip(of_factors(integer_graph(other, f"w{bits}a8")),
                                  expected(net, choices), strict=True):
        np.testing.assert_array_equal(got.reshape(want.shape), want)
        assert found == bits


def test_equalisation_leaves_integers_alone():
    net = decompose(chain(), INTEGERS, True)
    other = equalise(net)
    for name in net.weights:
        np.testing.assert_array_equal(other.constants[name], net.constants[name])
    # Real factors are a pair like any other.
    real = decompose(chain(), {"second": Decomposition("svd_last", 5)}, True)
    changed = equalise(real)
    assert any(not np.array_equal(changed.constants[n], real.constants[n]) for n in real.constants)


@pytest.mark.parametrize("kind", CHOICES)
def test_the_integer_network_is_near(kind):
    """Lowered and evaluated in integers, it stays near the float network that was rewritten."""
    choice = CHOICES[kind]
    net = decompose(convolution((3, 2), (9, 11)), {"conv": choice}, True)
    feeds = noise(net)
    graph = integer_graph(net, "w8a8", feeds)
    (name,), (result,) = graph.inputs, graph.outputs
    for feed in feeds:
        frame = graph.types[name].quantisation.quantise(
            np.moveaxis(feed["x"][0], 0, -1))
        values = graph.evaluate({name: frame[None]})[result]
        got = np.moveaxis(graph.types[result].quantisation.dequantise(values), -1, 1)
        (want,) = outputs(net, feed)
        assert np.square(got - want).sum() < 1e-3 * np.square(want).sum()
