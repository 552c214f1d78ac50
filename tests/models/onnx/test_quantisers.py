"""Networks that others quantised: their integers are kept, and every tensor is theirs within 1."""

import logging
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm, Table
from hwgen.models.load import read
from hwgen.models.lowering import lower
from hwgen.models.onnx.reader import normalise
from hwgen.models.quantisation.calibrate import probe, statistics
from tests.typed import of_kind

N = helper.make_node
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def seeded():
    """Each test has the same numbers, whatever ran before it."""
    RANDOM.bit_generator.state = np.random.default_rng(0).bit_generator.state


def weights(*shape):
    return RANDOM.normal(0, 0.2, shape).astype(np.float32)


def model(nodes, constants=(), shape=(1, 3, 12, 12), opset=21, kind=TensorProto.FLOAT, domain=(),
          output=("n", "c", "h", "w")):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, output)],
        [v if isinstance(v, TensorProto) else numpy_helper.from_array(np.asarray(v), k)
         for k, v in dict(constants).items()],
    )
    made = helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domain)])
    made.ir_version = 10
    return made


def lowered(made):
    """Float network, integer graph and two frames of a model."""
    network = normalise(made.SerializeToString(), "net.onnx", None)
    feeds = [{n: RANDOM.random(network.shapes[n], dtype=np.float32) for n in network.inputs}
             for _ in range(2)]
    return network, lower(network, statistics(network, feeds).ranges), feeds


def within_one_step(network, graph, feeds):
    """Op by op, fed with onnxruntime's own values; returns the share of elements that differ."""
    floats = graph.meta["floats"]
    run = probe(network, sorted(set(floats.values())))
    different, elements = 0, 0
    for feed in feeds:
        values = run(feed)

        def codes(tensor, values=values):
            type, value = graph.types[tensor], values[floats[tensor]]
            last = np.moveaxis(value, 1, -1) if value.ndim > 2 else value
            return type.quantisation.quantise(last.reshape(1, *type.shape))

        compared = 0
        for node in graph.nodes:
            if not all(t in floats for t in (*node.inputs, *node.outputs)):
                continue
            compared += 1
            got = node.op.evaluate([codes(t) for t in node.inputs],
                                   [graph.types[t] for t in node.inputs])
            for tensor, value in zip(node.outputs, got, strict=True):
                error = abs(value.astype(int) - codes(tensor).astype(int))
                assert error.max() <= 1, (tensor, error.max())
                different += int((error > 0).sum())
                elements += error.size
        ours = sum(n.outputs[0].endswith("_rescaled") for n in graph.nodes)
        assert compared >= len(graph.nodes) - ours - 2
    return different / elements


def residual_network():
    """Convolutions, ReLU, SiLU, a residual, pools, a classifier; float."""
    return model(
        [N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), N("Relu", ["c"], ["r"]),
         N("Conv", ["r", "v"], ["d"], pads=[1, 1, 1, 1]), N("Sigmoid", ["d"], ["s"]),
         N("Mul", ["d", "s"], ["e"]), N("Add", ["e", "r"], ["f"]),
         N("Concat", ["f", "r"], ["h"], axis=1),
         N("MaxPool", ["h"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
         N("Conv", ["p", "k"], ["o"], group=16), N("GlobalAveragePool", ["o"], ["g"]),
         N("Flatten", ["g"], ["l"]), N("Gemm", ["l", "m", "n"], ["y"], transB=1)],
        {"w": weights(8, 3, 3, 3), "b": weights(8), "v": weights(8, 8, 3, 3),
         "k": weights(16, 1, 3, 3), "m": weights(10, 16), "n": weights(10)},
        opset=17, output=(1, 10),
    )


@pytest.mark.parametrize("activations, kernel, options", [
    ("QUInt8", "QInt8", {"per_channel": True}),
    ("QInt8", "QInt8", {"per_channel": True, "extra_options": {"ActivationSymmetric": True}}),
    ("QUInt8", "QUInt8", {}),
    ("QUInt8", "QInt8", {"extra_options": {"WeightSymmetric": False}}),
    ("QInt16", "QInt8", {"extra_options": {"UseQDQContribOps": False}}),
    ("QUInt8", "QInt4", {}),
    ("QUInt8", "QInt4", {"per_channel": True}),
    ("QUInt8", "QUInt4", {}),
])
def test_onnxruntime_qdq(activations, kernel, options, tmp_path):
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        left = 3

        def get_next(self):
            self.left -= 1
            return {"x": RANDOM.random((1, 3, 12, 12), np.float32)} if self.left >= 0 else None

    float_path, path = tmp_path / "float.onnx", tmp_path / "qdq.onnx"
    onnx.save(helper.make_model(residual_network().graph, ir_version=10, opset_imports=[
        helper.make_opsetid("", 21)]), float_path)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(
            float_path, path, Reader(), activation_type=QuantType[activations],
            weight_type=QuantType[kernel], **options,
        )
    logging.disable(logging.NOTSET)
    network, graph, feeds = lowered(onnx.load(path))
    assert len(network.weights) >= 4
    share = within_one_step(network, graph, feeds)
    # The two multipliers of a sum have 17 bits, which is coarse for 16-bit codes.
    assert share < (2e-2 if activations == "QInt16" else 3e-4)
    bits = {n.op.weight_bits for n in graph.nodes if isinstance(n.op, Conv | Gemm)}
    asymmetric = kernel == "QUInt8" or "WeightSymmetric" in options.get("extra_options", {})
    assert max(bits) <= {"QInt4": 4, "QUInt4": 5}.get(kernel, 9 if asymmetric else 8)
    assert {t.bits for t in graph.types.values()} == {16 if activations == "QInt16" else 8}


def qonnx_nodes(domain="qonnx.custom_op.general"):
    def quant(x, out, scale, zero, bits, **attributes):
        return N("Quant", [x, scale, zero, bits], [out], domain=domain,
                 **{"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **attributes})

    return quant


def test_qonnx_by_hand_as_qonnx_executes_it():
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    quant, domain = qonnx_nodes(), "qonnx.custom_op.general"
    made = model(
        [quant("x", "q", "s0", "zero", "b8", signed=0),
         quant("w", "wq", "s1", "zero", "b3", narrow=1),
         N("Conv", ["q", "wq"], ["c"]), N("BatchNormalization", ["c", "g", "t", "m", "v"], ["n"]),
         N("Relu", ["n"], ["r"]), quant("r", "a", "s2", "zero", "b4", signed=0),
         N("BipolarQuant", ["u", "s3"], ["uq"], domain=domain),
         N("Conv", ["a", "uq"], ["d"], pads=[1, 1, 1, 1]),
         quant("d", "e", "s4", "zero", "b5"),
         N("AveragePool", ["e"], ["f"], kernel_shape=[2, 2], strides=[2, 2]),
         N("Mul", ["f", "four"], ["h"]),
         N("Trunc", ["h", "s4", "zero", "b7", "b5"], ["i"], domain=domain,
           rounding_mode="FLOOR"),
         N("Flatten", ["i"], ["j"]), quant("k", "kq", "s5", "zero", "b2", narrow=1),
         N("Gemm", ["j", "kq"], ["l"]), quant("l", "y", "s6", "zero", "b8")],
        {"w": weights(6, 3, 3, 3), "u": weights(4, 6, 3, 3), "k": weights(100, 5),
         "g": weights(6), "t": weights(6), "m": weights(6), "v": abs(weights(6)) + 0.1,
         "s0": np.float32(1 / 255), "s1": abs(weights(6, 1, 1, 1)) + 0.05,
         "s2": np.float32(0.0719), "s3": np.float32(0.3), "s4": np.float32(0.2137),
         "s5": np.float32(0.2), "s6": np.float32(0.0613), "zero": np.float32(0),
         "four": np.float32(4), **{f"b{n}": np.float32(n) for n in (2, 3, 4, 5, 7, 8)}},
        opset=13, domain=[domain], output=(1, 5),
    )
    network, graph, feeds = lowered(made)
    assert within_one_step(network, graph, feeds) < 1e-3
    # The float network that was made of it is what QONNX itself computes.
    theirs = ModelWrapper(made).transform(InferShapes())
    for feed in feeds:
        context = execute_onnx(theirs, feed, return_full_exec_context=True)
        ours = probe(network, list(network.codes))(feed)
        for tensor, codes in network.codes.items():
            if tensor in context:
                error = abs(ours[tensor] - context[tensor]).max() / codes.scale
                assert error < 1e-3, tensor
    bits = [n.op.weight_bits for n in graph.nodes if isinstance(n.op, Conv | Gemm)]
    assert bits == [3, 2, 2]


def test_a_sign_is_exact():
    quant = qonnx_nodes()
    made = model(
        [quant("x", "q", "s0", "zero", "b8", signed=0),
         N("Conv", ["q", "w"], ["c"]),
         N("BipolarQuant", ["c", "s1"], ["y"], domain="qonnx.custom_op.general")],
        {"w": weights(6, 3, 3, 3), "s0": np.float32(1 / 255), "s1": np.float32(0.5),
         "zero": np.float32(0), "b8": np.float32(8)},
        opset=13, domain=["qonnx.custom_op.general"],
    )
    network, graph, feeds = lowered(made)
    (out,) = graph.outputs
    codes, real = graph.types["x"].quantisation, probe(network, ["y"])
    for feed in feeds:
        got = graph.evaluate({"x": codes.quantise(np.moveaxis(feed["x"], 1, -1))})[out]
        want = np.moveaxis(real(feed)["y"], 1, -1)
        # 8-bit weights turn the sign of sums near zero only.
        assert (np.sign(got) != np.sign(want)).mean() < 0.01
        assert set(np.unique(got)) == {-1, 1}


@pytest.mark.slow
def test_brevitas(tmp_path):
    pytest.importorskip("brevitas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from brevitas import nn as qnn
        from brevitas.export import export_onnx_qcdq, export_qonnx
        from brevitas.quant import Int8WeightPerChannelFloat

        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.q = qnn.QuantIdentity(bit_width=8)
                self.c1 = qnn.QuantConv2d(3, 8, 3, padding=1, weight_bit_width=4,
                                          weight_quant=Int8WeightPerChannelFloat)
                self.bn = torch.nn.BatchNorm2d(8)
                self.r1 = qnn.QuantReLU(bit_width=4)
                self.c2 = qnn.QuantConv2d(8, 8, 3, padding=1, groups=8, bias=False,
                                          weight_bit_width=3)
                self.r2 = qnn.QuantReLU(bit_width=5)
                self.fc = qnn.QuantLinear(8 * 6 * 6, 10, bias=True, weight_bit_width=6)
                self.out = qnn.QuantIdentity(bit_width=8)

            def forward(self, x):
                x = self.r1(self.bn(self.c1(self.q(x))))
                x = torch.nn.functional.max_pool2d(self.r2(self.c2(x)), 2)
                return self.out(self.fc(torch.flatten(x, 1)))

        torch.manual_seed(0)
        network = Network()
        for _ in range(10):
            network(torch.rand(4, 3, 12, 12))
        network.eval()
        for export in (export_qonnx, export_onnx_qcdq):
            export(network, torch.rand(1, 3, 12, 12), str(tmp_path / "net.onnx"), dynamo=False)
            float_network, graph, feeds = lowered(onnx.load(tmp_path / "net.onnx"))
            assert within_one_step(float_network, graph, feeds) < 3e-4
            bits = [n.op.weight_bits for n in graph.nodes if isinstance(n.op, Conv | Gemm)]
            assert bits == [4, 3, 6]
            assert [t.bits for t in graph.types.values()] == [8, 4, 5, 5, 8]
            assert not any(isinstance(n.op, Table) for n in graph.nodes)
            # What torch itself gives.
            codes = next(iter(graph.inputs.values())).quantisation
            for feed in feeds:
                (x,) = feed.values()
                want = network(torch.from_numpy(x)).detach().numpy()
                got = graph.evaluate({n: codes.quantise(np.moveaxis(x, 1, -1))
                                      for n in graph.inputs})
                (out,) = graph.outputs
                step = graph.types[out].scale
                assert abs(graph.types[out].quantisation.dequantise(got[out]) - want).max() <= (
                    2.01 * step)


def test_pytorch_fake_quantisation(tmp_path):
    """Scales of weights are computed in the file, from the weights."""
    import torch
    from torch import nn

    class Fake(nn.Module):
        def __init__(self, scale, zero, low=0, high=255):
            super().__init__()
            self.codes = scale, zero, low, high

        def forward(self, x):
            return torch.fake_quantize_per_tensor_affine(x, *self.codes)

    class FakeConv(nn.Conv2d):
        def forward(self, x):
            scale = self.weight.abs().amax((1, 2, 3)) / 127
            zero = torch.zeros(len(scale), dtype=torch.int32)
            weight = torch.fake_quantize_per_channel_affine(self.weight, scale, zero, 0, -128, 127)
            return self._conv_forward(x, weight, self.bias)

    torch.manual_seed(0)
    network = nn.Sequential(
        Fake(1 / 255, 0), FakeConv(3, 8, 3, padding=1), nn.ReLU(), Fake(0.0103, 0),
        FakeConv(8, 8, 3, padding=1, groups=8), Fake(0.0131, -5, -128, 127), nn.SiLU(),
        Fake(0.0107, 30),
    ).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.rand(1, 3, 12, 12),), tmp_path / "net.onnx",
                          dynamo=False, opset_version=17)
    float_network, graph, feeds = lowered(onnx.load(tmp_path / "net.onnx"))
    assert len(float_network.weights) == 2
    assert [type(n.op).__name__ for n in graph.nodes] == ["Conv", "Conv", "Table"]
    assert within_one_step(float_network, graph, feeds) < 3e-4


def test_integer_input_and_output():
    made = model(
        [N("DequantizeLinear", ["x", "a", "z"], ["d"]), N("Conv", ["d", "w"], ["c"]),
         N("QuantizeLinear", ["c", "b", "z"], ["y"])],
        {"a": np.float32(0.02), "b": np.float32(0.05), "z": np.uint8(100),
         "w": weights(4, 3, 3, 3)}, kind=TensorProto.UINT8,
    )
    network, graph, _ = lowered(made)
    assert graph.types["x"].zero_point == 100 - 128
    assert graph.types[graph.outputs[0]].zero_point == 100 - 128
    assert network.shapes[network.outputs[0]] == (1, 4, 10, 10)


def all_coded():
    """A file that states the codes of all its weights and tensors."""
    return model(
        [N("DequantizeLinear", ["x", "a", "z"], ["d"]), N("DequantizeLinear", ["k", "a"], ["w"]),
         N("Conv", ["d", "w"], ["c"]), N("QuantizeLinear", ["c", "b", "z"], ["y"])],
        {"a": np.float32(0.02), "b": np.float32(0.05), "z": np.uint8(100),
         "k": RANDOM.integers(-100, 100, (4, 3, 3, 3)).astype(np.int8)}, kind=TensorProto.UINT8,
    )


@pytest.mark.parametrize("given, message", [
    ({"precision": "w4a4"}, "Precision"), ({"calibrate": "mse"}, "Calibration method"),
    ({"equalise": True}, "Equalisation"), ({"correct_bias": True}, "Bias correction"),
])
def test_options_that_reach_nothing(given, message, tmp_path):
    """Where a file states all codes, what would choose others is refused."""
    made = all_coded()
    path = tmp_path / "coded.onnx"
    onnx.save(made, path)
    source = read(str(path))
    assert source.graph.types["x"].bits == 8
    assert not source.calibrated
    assert not source.seeded
    with pytest.raises(HwgenError, match=f"^{message} would have no effect on .*coded.onnx"):
        read(str(path), **given)
    # Weights that are float still have bits to be chosen.
    half = tmp_path / "half.onnx"
    del made.graph.node[1]
    made.graph.initializer[-1].CopyFrom(numpy_helper.from_array(weights(4, 3, 3, 3), "w"))
    onnx.save(made, half)
    source = read(str(half), precision="w4a8")
    assert of_kind(source.graph.nodes[0].op, Conv).weight_bits == 4
    assert source.calibrated
    assert source.seeded


def coded_layer(bias_nodes, constants, **options):
    """Codes of 8 bits, weights of 8, and a bias that nodes make; all scales powers of two."""
    return model(
        [N("QuantizeLinear", ["x", "s", "z"], ["q"]), N("DequantizeLinear", ["q", "s", "z"], ["a"]),
         N("DequantizeLinear", ["k", "s"], ["w"]), *bias_nodes,
         N("Conv", ["a", "w", "b"], ["c"]), N("QuantizeLinear", ["c", "t", "z"], ["p"]),
         N("DequantizeLinear", ["p", "t", "z"], ["y"])],
        {"s": np.float32(2**-7), "t": np.float32(2**-3), "z": np.int8(0),
         "k": RANDOM.integers(-127, 128, (8, 3, 3, 3)).astype(np.int8), **constants}, **options)


# More bits than float32 holds: sums of 2^-14, to the last.
BIASES = np.array([1, -3, 70_001, -65_537, 2**25 + 1, -(2**25) - 3, 0, 8])


@pytest.mark.parametrize("nodes, constants, domain", [
    ([N("DequantizeLinear", ["i", "e"], ["b"])],
     {"i": BIASES.astype(np.int32), "e": np.float32(2**-14)}, ()),
    ([N("Quant", ["f", "e", "o", "n"], ["b"], domain="qonnx.custom_op.general", signed=1, narrow=0,
        rounding_mode="ROUND")],
     {"f": (BIASES * 2.0**-14).astype(np.float32), "e": np.float32(2**-14), "o": np.float32(0),
      "n": np.float32(32)}, ["qonnx.custom_op.general"]),
])
def test_biases_of_32_bits(nodes, constants, domain):
    made = coded_layer(nodes, constants, domain=domain)
    network, graph, _ = lowered(made)
    (layer,) = [of_kind(n.op, Conv) for n in graph.nodes]
    want = BIASES if "i" in constants else np.rint(constants["f"] * 2.0**14).astype(np.int64)
    assert np.array_equal(layer.bias, want - graph.types["x"].zero_point
                          * layer.weight.reshape(8, -1).sum(1))
    assert len(network.weights) == 2


def test_clips_between_the_quantisers_of_weights_and_activations():
    """As Brevitas writes weights and activations of four bits; Transpose may stand there too."""
    narrow = {"lo": np.int8(-7), "hi": np.int8(7)}
    made = model(
        [N("QuantizeLinear", ["x", "s", "z"], ["q"]), N("Clip", ["q", "lo", "hi"], ["l"]),
         N("DequantizeLinear", ["l", "s", "z"], ["a"]),
         N("QuantizeLinear", ["w", "g", "zs"], ["wq"], axis=3),
         N("Clip", ["wq", "lo", "hi"], ["wl"]),
         N("Transpose", ["wl"], ["wt"], perm=[3, 2, 0, 1]),
         N("DequantizeLinear", ["wt", "g", "zs"], ["wd"], axis=0),
         N("Conv", ["a", "wd"], ["c"]), N("QuantizeLinear", ["c", "t", "z"], ["p"]),
         N("DequantizeLinear", ["p", "t", "z"], ["y"])],
        {"s": np.float32(1 / 8), "t": np.float32(1 / 16), "z": np.int8(0),
         "zs": np.zeros(8, np.int8), "g": abs(weights(8)) / 4 + np.float32(0.01),
         "w": weights(3, 3, 3, 8), **narrow}, opset=13)
    network, graph, feeds = lowered(made)
    layer = of_kind(graph.nodes[-1].op, Conv)
    assert graph.types[graph.nodes[-1].inputs[0]].bits == layer.weight_bits == 4
    assert abs(layer.weight).max() == 7
    # The table that makes four bits of the image's eight meets frames that are no pixels.
    assert within_one_step(network, graph, feeds) < 1e-2


@pytest.mark.parametrize("nodes, constants, message", [
    ([N("Quant", ["x", "s", "z", "b"], ["y"], domain="qonnx.custom_op.general")],
     {"s": np.float32(0.1), "z": np.float32(0), "b": np.float32(20)},
     "Node 'y': bit width must be a whole number from 1 to 16, not 20: quantise 'x' to fewer"),
    ([N("Quant", ["w", "s", "z", "b"], ["v"], domain="qonnx.custom_op.general"),
      N("Conv", ["x", "v"], ["y"])],
     {"s": np.float32(0.1), "z": np.float32(0), "b": np.float32(33), "w": weights(4, 3, 1, 1)},
     "Node 'v': bit width must be a whole number from 1 to 32, not 33"),
    ([N("Quant", ["w", "s", "z", "b"], ["v"], domain="qonnx.custom_op.general"),
      N("Conv", ["x", "v"], ["y"])],
     {"s": np.float32(1e-4), "z": np.float32(0), "b": np.float32(17), "w": weights(4, 3, 1, 1)},
     "Node 'y' .Conv.: weights 'v' need 1[0-9] bits; up to 8 are supported: quantise them to 8"),
    ([N("Quant", ["x", "s", "z", "b"], ["y"], domain="qonnx.custom_op.general",
        rounding_mode="DITHER")],
     {"s": np.float32(0.1), "z": np.float32(0), "b": np.float32(8)}, "'DITHER' is not supported"),
    ([N("Quant", ["x", "x", "z", "b"], ["y"], domain="qonnx.custom_op.general")],
     {"z": np.float32(0), "b": np.float32(8)}, "'x' must be constant"),
    ([N("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
      N("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1)],
     {"s": np.full(3, 0.1, np.float32) * [1, 2, 3], "z": np.zeros(3, np.uint8)},
     "one scale and zero point for the tensor"),
    ([N("FloatQuant", ["x", "s"], ["y"], domain="qonnx.custom_op.general")],
     {"s": np.float32(0.1)}, "QONNX op 'FloatQuant' is not supported"),
])
def test_refused(nodes, constants, message):
    constants = {k: np.asarray(v, np.float32) if np.asarray(v).dtype == float else v
                 for k, v in constants.items()}
    with pytest.raises(HwgenError, match=message):
        lowered(model(nodes, constants, domain=["qonnx.custom_op.general"]))


def test_rows_of_tokens_between_quantisers():
    """A layer of tokens as a Gemm of rows, as PyTorch writes it, with codes before and behind."""
    made = model(
        [N("MatMul", ["x", "u"], ["a"]), N("Reshape", ["a", "rows"], ["b"]),
         N("QuantizeLinear", ["b", "s", "z"], ["bq"]),
         N("DequantizeLinear", ["bq", "s", "z"], ["bd"]),
         N("DequantizeLinear", ["w", "t", "z"], ["wd"]),
         N("Gemm", ["bd", "wd", "k"], ["c"], transB=1),
         N("QuantizeLinear", ["c", "r", "z"], ["cq"]),
         N("DequantizeLinear", ["cq", "r", "z"], ["cd"]), N("Reshape", ["cd", "tokens"], ["y"])],
        {"u": weights(12, 16), "w": RANDOM.integers(-127, 128, (8, 16)).astype(np.int8),
         "k": weights(8), "rows": np.array([36, 16]), "tokens": np.array([1, 36, 8]),
         "s": np.float32(0.02), "t": np.float32(0.004), "r": np.float32(0.03), "z": np.int8(0)},
        shape=(1, 36, 12), output=(1, 36, 8))
    integers = onnx.numpy_helper.to_array(made.graph.initializer[1])
    _, graph, _ = lowered(made)
    layer = graph.nodes[-1].op
    assert isinstance(layer, Conv)
    np.testing.assert_array_equal(layer.weight.reshape(8, 16), integers)
    assert [t.scale for t in graph.types.values()][-2:] == pytest.approx([0.02, 0.03])
