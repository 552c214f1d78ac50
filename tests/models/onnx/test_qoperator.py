"""Files of ops on integers: QOperator files, sums of integers, weights quantised by themselves."""

import logging
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm
from hwgen.models.load import read
from hwgen.models.onnx.session import session
from tests.models.host.test_model import check, run
from tests.models.onnx.test_quantisers import model, residual_network, within_one_step

N = helper.make_node
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded():
    """Each test has the same numbers, whatever ran before it."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def weights(*shape):
    return RANDOM.normal(0, 0.2, shape).astype(np.float32)


class Reader(CalibrationDataReader):
    """Frames of noise to calibrate on."""

    def __init__(self, shape):
        self.frames = [{"x": RANDOM.random(shape, np.float32)} for _ in range(4)]

    def get_next(self):
        return self.frames.pop() if self.frames else None


def statically(made, tmp_path, **options):
    """The file that onnxruntime makes of a float network, QOperator if nothing else is said."""
    source, path = tmp_path / "float.onnx", tmp_path / "q.onnx"
    onnx.save(made, source)
    shape = [d.dim_value for d in made.graph.input[0].type.tensor_type.shape.dim]
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(source, path, Reader(shape), **{
            "quant_format": QuantFormat.QOperator, "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8, **options})
    logging.disable(logging.NOTSET)
    return path


def kinds(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def test_old_operator_set(tmp_path):
    made = residual_network()
    made.opset_import[0].version = 11
    path = statically(made, tmp_path, per_channel=True)
    assert onnx.load(path).opset_import[0].version == 11
    check(path)


@pytest.mark.parametrize("options", [
    {}, {"per_channel": True}, {"activation_type": QuantType.QInt8, "per_channel": True},
    {"weight_type": QuantType.QUInt8},
])
def test_onnxruntime_qoperator(options, tmp_path):
    path = statically(residual_network(), tmp_path, **options)
    assert kinds(path) >= {"QLinearConv", "QLinearSigmoid", "QLinearMul", "QLinearAdd", "QGemm",
                           "QLinearConcat", "QLinearGlobalAveragePool", "MaxPool"}
    assert check(path) == []
    source = read(str(path))
    assert not source.calibrated
    assert len(source.network.weights) >= 6
    assert within_one_step(source.network, source.graph, list(source.feeds)[:2]) < 1e-3


def test_other_ops_of_integers(tmp_path):
    """Pools by windows, a leaky ReLU, products, and what moves integers between quantisers."""
    made = model(
        [N("Conv", ["x", "w"], ["c"], pads=[1] * 4), N("LeakyRelu", ["c"], ["l"], alpha=0.1),
         N("Pad", ["l", "pads", "zero"], ["p"]),
         N("AveragePool", ["p"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
         N("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1]), N("Reshape", ["t", "rows"], ["r"]),
         N("MatMul", ["r", "m"], ["y"])],
        {"w": weights(8, 3, 3, 3), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
         "zero": np.float32(0), "rows": np.array([1, 49, 8]), "m": weights(8, 6)},
        opset=17, output=(1, 49, 6))
    path = statically(made, tmp_path, per_channel=True)
    assert kinds(path) >= {"QLinearLeakyRelu", "QLinearAveragePool", "QLinearMatMul", "Pad"}
    check(path)
    assert not read(str(path)).calibrated


@pytest.mark.parametrize("opset", [11, 13])
def test_integer_inputs_that_are_moved_first(opset, tmp_path):
    """As a file of integers is cut out of a longer one; with a per-channel layer of old opsets."""
    made = model(
        [N("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
         N("QLinearConv", ["p", "s", "z", "w", "g", "o", "t", "z", "b"], ["y"])],
        {"s": np.float32(2**-7), "z": np.uint8(9), "t": np.float32(2**-3),
         "o": np.zeros(4, np.int8),
         "w": RANDOM.integers(-99, 99, (4, 3, 3, 3)).astype(np.int8),
         "g": np.array([2**-6, 2**-7, 2**-8, 2**-6], np.float32),
         "b": RANDOM.integers(-9999, 9999, 4).astype(np.int32)},
        kind=TensorProto.UINT8, opset=opset)
    if opset < 12:
        # An older MaxPool takes no integers, so they are transposed there.
        made.graph.node[0].CopyFrom(N("Transpose", ["x"], ["p"], perm=[0, 1, 3, 2]))
    onnx.save(made, tmp_path / "net.onnx")
    source, _, wanted, got = run(tmp_path / "net.onnx")
    for want, have in zip(wanted, got, strict=True):
        assert want[0].dtype == have[0].dtype == np.uint8
        assert np.array_equal(want, have)
    assert not source.calibrated
    assert source.graph.types["x"].zero_point == 9 - 128


@pytest.mark.parametrize("last, left", [
    (N("ArgMax", ["g"], ["y"], axis=1), []),
    (N("Softmax", ["g"], ["y"]), ["Softmax", "QuantizeLinear", "DequantizeLinear"]),
])
def test_last_nodes_of_integers(last, left, tmp_path):
    made = model(
        [N("Conv", ["x", "w"], ["c"]), N("GlobalAveragePool", ["c"], ["p"]),
         N("Flatten", ["p"], ["f"]), N("Gemm", ["f", "m"], ["g"]), last],
        {"w": weights(8, 3, 3, 3), "m": weights(8, 6) * 9}, opset=17, output=(1, "n"))
    if last.op_type == "ArgMax":
        made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, (1, 1)))
    path = statically(made, tmp_path)
    if last.op_type == "Softmax":
        assert check(path) == left
        return
    source, _, wanted, got = run(path)
    assert wanted == got
    assert not source.left_to_host


@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"weight_type": QuantType.QUInt8}])
def test_onnxruntime_dynamic(options, tmp_path):
    """Activations are float in the file, weights integers."""
    source, path = tmp_path / "float.onnx", tmp_path / "q.onnx"
    onnx.save(residual_network(), source)
    logging.disable(logging.WARNING)
    quantize_dynamic(source, path, **{
        "weight_type": QuantType.QInt8, "op_types_to_quantize": ["Conv", "MatMul", "Gemm"],
        **options})
    logging.disable(logging.NOTSET)
    assert kinds(path) >= {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
    check(path)
    found = read(str(path))
    layers = [n.op for n in found.graph.nodes if isinstance(n.op, Conv | Gemm)]
    assert len(layers) == len(found.network.weights) == 4
    assert max(layer.weight_bits for layer in layers) <= 9
    held = [onnx.numpy_helper.to_array(c) for c in onnx.load(path).graph.initializer]
    if not options:
        assert all(any(w.size == layer.weight.size and np.array_equal(
            np.sort(w, None), np.sort(layer.weight, None)) for w in held) for layer in layers)


def test_sums_of_integers_are_exact(tmp_path):
    """A network of integers: an input of uint8 pixels, int8 weights, and a bias added to sums."""
    made = model(
        [N("ConvInteger", ["x", "w", "z"], ["c"], pads=[1] * 4), N("Add", ["c", "b"], ["s"]),
         N("Cast", ["s"], ["f"], to=TensorProto.FLOAT), N("Mul", ["f", "k"], ["g"]),
         N("QuantizeLinear", ["g", "t", "v"], ["y"])],
        {"w": RANDOM.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8), "z": np.uint8(128),
         "b": RANDOM.integers(-999, 999, (1, 4, 1, 1)).astype(np.int32), "k": np.float32(2**-9),
         "t": np.float32(1), "v": np.int8(3)}, kind=TensorProto.UINT8, opset=17)
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    source = read(str(path))
    pixels = RANDOM.integers(0, 256, (1, 3, 12, 12)).astype(np.uint8)
    (want,) = session(made).run(None, {"x": pixels})
    codes = np.moveaxis(pixels.astype(np.int16) - 128, 1, -1).astype(np.int8)
    (got,) = source.graph.evaluate({"x": codes}).values()
    assert source.graph.types["x"].zero_point == 0
    assert np.array_equal(np.moveaxis(got, -1, 1), want)


def test_a_product_that_quantises_by_itself(tmp_path):
    made = model(
        [N("GlobalAveragePool", ["x"], ["g"]), N("Flatten", ["g"], ["f"]),
         N("DynamicQuantizeMatMul", ["f", "w", "s", "z", "b"], ["y"], domain="com.microsoft")],
        {"w": RANDOM.integers(-99, 99, (3, 5)).astype(np.int8), "b": weights(5),
         "s": np.full(5, 0.01, np.float32), "z": np.zeros(5, np.int8)},
        domain=["com.microsoft"], opset=17, output=(1, 5))
    onnx.save(made, tmp_path / "net.onnx")
    check(tmp_path / "net.onnx")
    assert len(read(str(tmp_path / "net.onnx")).network.weights) == 1


@pytest.mark.parametrize("nodes, message", [
    ([N("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dq"),
      N("DequantizeLinear", ["q", "s", "z"], ["y"], name="back")],
     "Node 'back' .DequantizeLinear.: it reads 'q', which is quantised while running"),
    ([N("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), N("ConvInteger", ["q", "w", "z"], ["c"]),
      N("Abs", ["c"], ["a"]), N("Cast", ["a"], ["y"], to=TensorProto.FLOAT)],
     "Node 'a' .Abs.: it reads integer sums, which only Cast to float, Add"),
    ([N("QuantizeLinear", ["x", "k"], ["q"]),
      N("QLinearReduceMean", ["q", "k", "o", "k", "o"], ["r"], domain="com.microsoft", name="mean"),
      N("DequantizeLinear", ["r", "k"], ["y"])],
     "Node 'mean' .QLinearReduceMean.: this op on integers is not supported: quantise in QDQ"),
    ([N("QuantizeLinear", ["x", "k", "o"], ["q"]),
      N("QLinearGlobalAveragePool", ["q", "k", "o", "k", "o"], ["r"], domain="com.microsoft",
        channels_last=1), N("DequantizeLinear", ["r", "k", "o"], ["y"])],
     "Node 'r' .QLinearGlobalAveragePool.: channels_last = 1 is not supported"),
])
def test_refused(nodes, message, tmp_path):
    made = model(nodes, {"w": np.ones((4, 3, 1, 1), np.int8), "k": np.float32(0.1),
                         "o": np.uint8(0)}, domain=["com.microsoft"], opset=17)
    onnx.save(made, tmp_path / "net.onnx")
    with pytest.raises(HwgenError, match=message):
        read(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize("options", [
    {"weight_type": QuantType.QInt4}, {"weight_type": QuantType.QUInt4, "per_channel": True},
    {"activation_type": QuantType.QInt16, "extra_options": {"UseQDQContribOps": True}},
    {"extra_options": {"UseQDQContribOps": True}},
])
def test_quantisers_of_onnxruntimes_domain(options, tmp_path):
    """It writes them for integers of 4 bits in a file of an older operator set."""
    path = statically(residual_network(), tmp_path, quant_format=QuantFormat.QDQ, **options)
    made = onnx.load(path)
    assert {n.domain for n in made.graph.node if n.op_type == "QuantizeLinear"} == {"com.microsoft"}
    source = read(str(path))
    assert not source.calibrated
    share = 2e-2 if "activation_type" in options else 1e-3
    assert within_one_step(source.network, source.graph, list(source.feeds)[:2]) < share


def test_a_vector_has_one_axis(tmp_path):
    """Some tools write scales by channel for a bias, and no axis."""
    made = model(
        [N("Conv", ["x", "w"], ["c"]), N("DequantizeLinear", ["b", "s"], ["d"]),
         N("Reshape", ["d", "shape"], ["e"]), N("Add", ["c", "e"], ["y"])],
        {"w": weights(4, 3, 3, 3), "b": np.array([9, -7, 40, 2], np.int8),
         "s": np.array([0.01, 0.02, 0.015, 0.1], np.float32), "shape": np.array([1, 4, 1, 1])})
    onnx.save(made, tmp_path / "net.onnx")
    (bias,) = read(str(tmp_path / "net.onnx")).network.weights.values()
    assert np.array_equal(bias.integers.ravel(), [9, -7, 40, 2])
