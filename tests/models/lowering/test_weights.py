"""Integer weights and biases: no bias is ever clipped, and codes that a file states are met."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.ir import Conv
from hwgen.models.lowering import lower
from hwgen.models.onnx import reader as onnx_import
from hwgen.models.quantisation.calibrate import probe, statistics
from hwgen.models.quantisation.precision import Precision
from tests.models.float_networks import N, constants_of, exact_values, network, noise
from tests.typed import of_kind

QONNX = "qonnx.custom_op.general"


def dead(weights, bias, axis=0):
    """One channel whose weights are next to nothing, one without any; both have real biases."""
    weights = np.moveaxis(weights.copy(), axis, 0)
    weights[1] *= 1e-7
    weights[2] = 0
    bias = bias.copy()
    bias[1:3] = 5.0, -2.3
    return np.moveaxis(weights, 0, axis), bias


def layers():
    """Networks of one layer, each with two dead channels."""
    c = constants_of(w=(8, 3, 3, 3), b=(8,), g=(8, 48), d=(3, 1, 3, 3), t=(3, 8, 2, 2), m=(3, 8))
    w, b = dead(c["w"], c["b"])
    yield "Conv", network([N("Conv", ["x", "w", "b"], ["y"], pads=[1] * 4)], {"w": w, "b": b})
    d, e = dead(c["d"], c["b"][:3])
    yield "depthwise", network([N("Conv", ["x", "d", "e"], ["y"], group=3)], {"d": d, "e": e})
    t, b = dead(c["t"], c["b"], 1)
    yield "ConvTranspose", network([N("ConvTranspose", ["x", "t", "b"], ["y"], strides=[2, 2])],
                                   {"t": t, "b": b}, {"x": (1, 3, 5, 5)})
    g, b = dead(c["g"], c["b"])
    yield "Gemm", network([N("Gemm", ["x", "g", "b"], ["y"], transB=1)], {"g": g, "b": b},
                          {"x": (1, 48)})
    m, b = dead(c["m"], c["b"], 1)
    yield "MatMul", network([N("MatMul", ["x", "m"], ["p"]), N("Add", ["p", "b"], ["y"])],
                            {"m": m, "b": b}, {"x": (1, 9, 3)})
    gain, b = dead(1 + c["b"][:3], c["b"][:3])
    yield "BatchNormalization", network(
        [N("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])],
        {"g": gain, "b": b, "m": c["b"][3:6], "v": np.ones(3, np.float32)})
    gain, b = dead(1 + c["b"], c["b"])
    yield "behind a Conv", network(
        [N("Conv", ["x", "w"], ["c"]), N("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"])],
        {"w": c["w"], "g": gain, "b": b, "m": c["b"] / 2, "v": np.ones(8, np.float32)})


LAYERS = dict(layers())


@pytest.mark.parametrize("precision", ["w8a8", "w4a8", "w8a16"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_bias_is_clipped(name, precision):
    """Two dead channels cost the others nothing, and have their biases themselves."""
    net = LAYERS[name]
    feeds = noise(net)
    graph = lower(net, statistics(net, feeds).ranges, Precision.parse(precision))
    (source,), (tensor,) = graph.inputs, graph.outputs
    given, type = graph.inputs[source], graph.types[tensor]

    def last(value):
        return value if name == "MatMul" or value.ndim < 3 else np.moveaxis(value, 1, -1)

    def first(value):
        return value if name == "MatMul" or value.ndim < 3 else np.moveaxis(value, -1, 1)

    signal = noisy = 0.0
    for feed in feeds:
        codes = given.quantisation.quantise(last(feed["x"]))
        want = last(probe(net, ["y"])({"x": first(given.quantisation.dequantise(codes))})["y"])
        got = type.quantisation.dequantise(graph.evaluate({source: codes})[tensor])
        assert abs(got[..., 1] - 5.0).max() <= type.scale + 1e-4
        assert abs(got[..., 2] + 2.3).max() <= type.scale + 1e-4
        others = [c for c in range(want.shape[-1]) if c not in (1, 2)]
        signal += np.square(want[..., others]).sum()
        noisy += np.square(got - want)[..., others].sum()
    assert 10 * np.log10(signal / noisy) > (14 if precision == "w4a8" else 29)


@pytest.mark.parametrize("ratio", [1e3, 1e5, 1e7, 1e9, 1e12])
def test_the_scale_is_raised_as_little_as_the_bias_needs(ratio):
    c = constants_of(w=(4, 3, 3, 3))
    bias = np.array([0.3, ratio * abs(c["w"][1]).max(), 0.1, 0], np.float32)
    net = network([N("Conv", ["x", "w", "b"], ["y"])], {**c, "b": bias})
    graph = lower(net, {"x": (-1.0, 1.0), "y": (-1.0, float(bias[1]) + 1)})
    (node,) = graph.nodes
    conv = of_kind(node.op, Conv)
    peaks = abs(conv.weight.reshape(4, -1)).max(1)
    assert (peaks[[0, 2, 3]] == 127).all()
    # The zero points of the input are part of it.
    assert abs(conv.bias).max() <= (1 << 30) + 27 * 127 * 128
    # Of 127 steps are left what 30 bits hold beside the bias.
    assert peaks[1] == min(127, round(127 * min(1, 2**30 / (ratio * 127 * 127.5))))


def test_float_bias_of_a_file_with_integers():
    """A QDQ file whose bias is a float, far beyond its own weights."""
    random = np.random.default_rng(0)
    scale = np.full(8, 0.01, np.float32)
    scale[3] = 1e-9
    bias = random.normal(0, 0.3, 8).astype(np.float32)
    bias[3] = 4.0
    net = network([
        N("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        N("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        N("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        N("Conv", ["xd", "wd", "b"], ["c"]), N("QuantizeLinear", ["c", "o", "z"], ["cq"]),
        N("DequantizeLinear", ["cq", "o", "z"], ["y"]),
    ], {"s": np.float32(0.02), "z": np.int8(0), "o": np.float32(0.04), "ws": scale,
        "wz": np.zeros(8, np.int8), "b": bias,
        "w": random.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)}, opset=21)
    assert mismatches(net) == 0


def quantised(bits, weight_bits, seed, transposed=False, dense=False, one=False, bias=False):
    """A layer between quantisers of a file, with a normalisation of either sign behind it."""
    random = np.random.default_rng(seed)
    nodes, constants = [], {"z": np.float32(0)}

    def quantise(source, out, scale, width, **options):
        if width == 1:
            constants[f"{out}.s"] = np.float32(scale)
            nodes.append(N("BipolarQuant", [source, f"{out}.s"], [out], domain=QONNX))
            return
        constants.update({f"{out}.s": np.float32(scale), f"{out}.b": np.float32(width)})
        nodes.append(N("Quant", [source, f"{out}.s", "z", f"{out}.b"], [out], domain=QONNX,
                       signed=1, narrow=0, rounding_mode="ROUND", **options))

    def span(width):
        return max(1 << width - 1, 1)

    quantise("x", "a", 2 / span(bits), bits)
    shape = (12, 8) if dense else (8, 12, 3, 3) if transposed else (12, 8, 3, 3)
    weights = random.normal(0, 1, shape)
    constants["w"] = weights.astype(np.float32)
    source = "a"
    if not one:
        quantise("w", "q", 2 / span(weight_bits), weight_bits)
        kind = "Gemm" if dense else "ConvTranspose" if transposed else "Conv"
        options = {"transB": 1} if dense else {}
        inputs = ["a", "q"]
        if bias:
            constants["bias"] = random.normal(0, 1, 12).astype(np.float32)
            inputs.append("bias")
        nodes.append(N(kind, inputs, ["c"], **options))
        source = "c"
    count = 8 if one else 12
    spread = 1 if one else np.sqrt(8 if dense else 72)
    constants.update(
        g=random.normal(0, 1, count), h=random.normal(0, 0.5, count),
        m=random.normal(0, spread / 3, count), v=random.uniform(0.5, 2, count) * spread**2)
    for key in "ghmv":
        constants[key] = constants[key].astype(np.float32)
    nodes.append(N("BatchNormalization", [source, "g", "h", "m", "v"], ["n"]))
    quantise("n", "y", 2.5 / span(bits), bits)
    shape = [1, 8] if dense else [1, 8, 12, 12]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"][: len(shape)])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13), helper.make_opsetid(QONNX, 1)])
    model.ir_version = 8
    return onnx_import.normalise(model.SerializeToString(), "net", None)


def mismatches(net):
    """Codes of the output that differ from those of the file, run in float64."""
    feeds = noise(net, 3)
    graph = lower(net, statistics(net, feeds).ranges)
    (source,), (tensor,), (name,) = graph.inputs, graph.outputs, net.outputs
    given, type = graph.inputs[source], graph.types[tensor]
    different = 0
    for feed in feeds:
        # What is between the input's codes is the input's business.
        codes = given.quantisation.quantise(np.moveaxis(feed[net.inputs[0]], 1, -1))
        real = np.moveaxis(given.quantisation.dequantise(codes), -1, 1)
        want = exact_values(net, {net.inputs[0]: real}, [name])[name]
        want = type.quantisation.quantise(np.moveaxis(want, 1, -1))
        different += int((want != graph.evaluate({source: codes})[tensor]).sum())
    return different


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("form", [
    {}, {"transposed": True}, {"dense": True}, {"one": True}, {"bias": True}], ids=str)
def test_normalisation_between_quantisers(bits, form):
    """Every code is the file's, whatever the sign of gamma."""
    for seed in range(3):
        assert mismatches(quantised(bits, max(bits, 1), seed, **form)) == 0


@pytest.mark.parametrize("weight_bits, bits", [(1, 8), (8, 1), (2, 4), (8, 2)])
def test_normalisation_between_mixed_widths(weight_bits, bits):
    assert mismatches(quantised(bits, weight_bits, 7)) == 0


@pytest.mark.parametrize("kind", ["Sign", "Greater", "GreaterOrEqual"])
def test_signs_of_a_float_layer(kind):
    """Whatever binarises, and whatever it makes of 0, the layer gives the sum's exact sign."""
    random = np.random.default_rng(0)
    constants = {"w": random.integers(-1, 2, (6, 3, 3, 3)).astype(np.float32),
                 "b": np.array([0, 0.5, -1, 2, -0.5, 0], np.float32), "zero": np.float32(0)}
    tail = [N("Sign", ["c"], ["y"])] if kind == "Sign" else [
        N(kind, ["c", "zero"], ["g"]), N("Cast", ["g"], ["y"], to=TensorProto.FLOAT)]
    net = network([N("Conv", ["x", "w", "b"], ["c"]), *tail], constants)
    graph = lower(net, {"x": (0.0, 1.0), "y": (-1.0, 1.0), "c": (-9.0, 9.0)},
                  Precision.parse("w2a8"))
    feed = {"x": random.choice([0, 1], (1, 3, 16, 16)).astype(np.float32)}
    (given,) = graph.inputs.values()
    codes = given.quantisation.quantise(np.moveaxis(feed["x"], 1, -1))
    real = np.moveaxis((codes.astype(float) - given.zero_point) * given.scale, -1, 1)
    want = exact_values(net, {"x": real}, ["y"])["y"]
    (tensor,) = graph.outputs
    got = graph.types[tensor].quantisation.dequantise(graph.evaluate({"x": codes})[tensor])
    np.testing.assert_allclose(np.moveaxis(got, -1, 1), want, atol=0.01)


@pytest.mark.parametrize("precision", ["w8a8", "w2a8", "w8a16"])
def test_biases_finer_than_a_step_of_the_sum(precision):
    """An input that is always 0 leaves nothing but biases, whatever its scale."""
    c = constants_of(w=(4, 3, 3, 3))
    bias = np.array([0.0103, -0.0042, 0.0077, 0.0], np.float32)
    net = network([N("Conv", ["x", "w", "b"], ["y"])], {"w": 1000 * c["w"], "b": bias})
    graph = lower(net, {"x": (-9.0, 9.0), "y": (-0.02, 0.02)}, Precision.parse(precision))
    type = graph.types["y"]
    zero = np.full((1, 16, 16, 3), graph.inputs["x"].zero_point)
    got = type.quantisation.dequantise(graph.evaluate({"x": zero})["y"])
    assert abs(got - bias).max() <= 0.51 * type.scale
