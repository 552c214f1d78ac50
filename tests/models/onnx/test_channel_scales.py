"""Activations with a scale for each channel."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwgen.errors import HwgenError
from hwgen.ir import Conv
from hwgen.models.load import read
from tests.models.host.test_model import check
from tests.models.onnx.test_quantisers import model

N = helper.make_node
RANDOM = np.random.default_rng(0)
SCALES = (2.0 ** np.array([-5, -6, -4, -5, -7, -5, -6, -4])).astype(np.float32)


def weights(*shape):
    return RANDOM.normal(0, 0.2, shape).astype(np.float32)


def file(tmp_path, nodes, **constants):
    """A convolution, ReLU and a quantiser by channel in front of some nodes."""
    made = model(
        [N("Conv", ["x", "w"], ["c"], pads=[1] * 4), N("Relu", ["c"], ["r"]),
         N("QuantizeLinear", ["r", "s", "z"], ["q"], axis=1),
         N("DequantizeLinear", ["q", "s", "z"], ["a"], axis=1), *nodes],
        {"w": weights(8, 3, 3, 3), "s": SCALES, "z": np.zeros(8, np.int8), **constants},
        opset=17)
    onnx.save(made, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.mark.parametrize("nodes, constants", [
    ([N("Conv", ["a", "v"], ["y"], pads=[1] * 4)], {"v": weights(4, 8, 3, 3)}),
    ([N("Conv", ["a", "v"], ["y"], group=2)], {"v": weights(6, 4, 3, 3)}),
    ([N("Conv", ["a", "v"], ["d"]), N("Conv", ["a", "u"], ["e"]), N("Add", ["d", "e"], ["y"])],
     {"v": weights(4, 8, 1, 1), "u": weights(4, 8, 1, 1)}),
    ([N("DequantizeLinear", ["k", "t"], ["v"], axis=0), N("Conv", ["a", "v"], ["y"], group=8)],
     {"k": RANDOM.integers(-127, 128, (16, 1, 3, 3)).astype(np.int8),
      "t": abs(weights(16)) / 50 + np.float32(1e-3)}),
])
def test_are_folded_into_the_weights_behind(nodes, constants, tmp_path):
    path = file(tmp_path, nodes, **constants)
    check(path)
    graph = read(str(path)).graph
    first = next(n for n in graph.nodes if isinstance(n.op, Conv))
    # The layer in front divides by the scales, and gives the file's codes at once.
    codes = graph.types[first.outputs[0]].quantisation
    assert (codes.scale, codes.bits, codes.zero_point) == (1, 8, 0)


def test_integers_of_weights_stay(tmp_path):
    k = RANDOM.integers(-127, 128, (8, 1, 3, 3)).astype(np.int8)
    path = file(tmp_path, [N("DequantizeLinear", ["k", "t"], ["v"]),
                           N("Conv", ["a", "v"], ["y"], group=8)], k=k, t=np.float32(0.01))
    (_, last) = [n.op for n in read(str(path)).graph.nodes if isinstance(n.op, Conv)]
    assert np.array_equal(last.weight, np.moveaxis(k, 1, -1))


def test_of_an_input_and_in_front_of_a_product(tmp_path):
    made = model([N("DequantizeLinear", ["x", "s", "z"], ["a"], axis=1),
                  N("Gemm", ["a", "m"], ["y"], transB=1)],
                 {"s": SCALES, "z": np.full(8, 3, np.int8), "m": weights(5, 8)}, (1, 8),
                 kind=TensorProto.INT8, opset=17, output=(1, 5))
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(made, tmp_path / "net.onnx")
    check(tmp_path / "net.onnx")


@pytest.mark.parametrize("nodes, constants, why", [
    ([N("Relu", ["a"], ["y"], name="late")], {}, r"node 'late' \(Relu\) reads it, which has no we"),
    ([N("Conv", ["a", "v"], ["y"])], {"v": weights(4, 8, 1, 1), "z": np.arange(8, dtype=np.int8)},
     "its zero point differs by channel, too"),
    ([N("DequantizeLinear", ["k", "t"], ["v"]), N("Conv", ["a", "v"], ["y"])],
     {"k": np.ones((4, 8, 1, 1), np.int8), "t": np.float32(0.1)},
     "the weights 'v', which are integers, would need several scales for an output"),
])
def test_refused(nodes, constants, why, tmp_path):
    with pytest.raises(HwgenError, match=f"tensor 'a' has a scale for each channel, but {why}.*: "
                                         f"quantise it with one scale and zero point for the ten"):
        read(str(file(tmp_path, nodes, **constants)))
