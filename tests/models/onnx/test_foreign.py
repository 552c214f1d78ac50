"""Ops of TensorFlow that tf2onnx leaves in a file."""

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from hwgen.errors import HwgenError
from hwgen.models.load import read
from hwgen.models.onnx.foreign import write_foreign_ops
from tests.models.float_networks import N
from tests.models.host.test_model import file
from tests.models.whole import weights

X = np.linspace(-3, 3, 61, dtype=np.float32)
ERF = np.vectorize(math.erf)
MEANINGS = {
    "Erfc": lambda x: 1 - ERF(x), "Expm1": np.expm1, "Log1p": np.log1p,
    "Rsqrt": lambda x: 1 / np.sqrt(x), "TFL_RELU_N1_TO_1": lambda x: np.clip(x, -1, 1),
    "TFL_GELU": lambda x: x * (1 + ERF(x / math.sqrt(2))) / 2,
}


def model(kind: str, **at) -> onnx.ModelProto:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, X.shape) for name in "xy"]
    graph = helper.make_graph([N(kind, ["x"], ["y"], name="node", **at)], "g", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("kind", MEANINGS)
def test_written_in_ops_of_onnx(kind):
    made = model(kind)
    write_foreign_ops(made, "net.onnx")
    onnx.checker.check_model(made, full_check=True)
    x = np.abs(X) + 0.1 if kind in ("Log1p", "Rsqrt") else X
    (y,) = ReferenceEvaluator(made).run(None, {"x": x.astype(np.float32)})
    np.testing.assert_allclose(y, MEANINGS[kind](x.astype(np.float64)), atol=1e-6)


def test_approximate_gelu():
    made = model("TFL_GELU", approximate=1)
    write_foreign_ops(made, "net.onnx")
    (y,) = ReferenceEvaluator(made).run(None, {"x": X})
    x = X.astype(np.float64)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    np.testing.assert_allclose(y, x * (1 + np.tanh(inner)) / 2, atol=1e-6)


def test_others_are_refused_by_name():
    match = r"^net\.onnx is not .* node 'node' has op 'XlaConv', which is none of ONNX's"
    with pytest.raises(HwgenError, match=match):
        write_foreign_ops(model("XlaConv"), "net.onnx")


def test_in_a_network(tmp_path):
    """Keras writes GELU with Erfc: one table in the end."""
    nodes = [N("Conv", ["x", "w"], ["c"]), N("Mul", ["c", "root"], ["a"]),
             N("Erfc", ["a"], ["b"]), N("Mul", ["b", "c"], ["d"]), N("Mul", ["d", "half"], ["e"]),
             N("Conv", ["e", "v"], ["y"])]
    path = file(tmp_path, nodes, {
        "w": weights(8, 3, 3, 3), "v": weights(4, 8, 1, 1), "half": np.float32(0.5),
        "root": np.float32(-math.sqrt(0.5))})
    source = read(str(path))
    assert [type(node.op).__name__ for node in source.graph.nodes] == ["Conv", "Table", "Conv"]
