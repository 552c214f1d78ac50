"""Files of half, bfloat16 and double: computed as float32, with outputs of the file's own type."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.load import read
from tests.models.host.test_model import check

N = helper.make_node
RANDOM = np.random.default_rng(0)


def file(tmp_path, dtype, kind, nodes=(), constants=(), outer=None, opset=17):
    """Conv, BatchNormalization, ReLU, a product with a constant of a node, a sum, a pool."""
    values = {"w": RANDOM.normal(0, 0.2, (8, 3, 3, 3)), "g": np.ones(8), "b": np.zeros(8),
              "m": RANDOM.normal(0, 1, 8), "v": np.full(8, 2.0), **dict(constants)}
    half = N("Constant", [], ["h"], value=numpy_helper.from_array(np.asarray(0.5, dtype)))
    body = [*nodes, half, N("Conv", ["a", "w"], ["c"]),
            N("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]), N("Relu", ["n"], ["r"]),
            N("Mul", ["r", "h"], ["k"]), N("GlobalAveragePool", ["k"], ["p"])]
    outer = outer or kind
    graph = helper.make_graph(
        [*body, N("Cast", ["p"], ["y"], to=outer)], "g",
        [helper.make_tensor_value_info("x", outer, (1, 3, 12, 12))],
        [helper.make_tensor_value_info("y", outer, (1, 8, 1, 1))],
        [numpy_helper.from_array(np.asarray(v).astype(dtype), k) for k, v in values.items()],
        value_info=[helper.make_tensor_value_info("c", kind, (1, 8, 10, 10))])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("dtype, kind, outer", [
    (np.float16, TensorProto.FLOAT16, None),
    (np.float16, TensorProto.FLOAT16, TensorProto.FLOAT),
])
def test_half(dtype, kind, outer, tmp_path):
    path = file(tmp_path, dtype, kind, [N("Cast", ["x"], ["a"], to=kind)], outer=outer)
    assert check(path) == []


@pytest.mark.parametrize("outer", [TensorProto.DOUBLE, TensorProto.FLOAT])
def test_double(outer, tmp_path):
    """A classifier as scikit-learn has them."""
    weights = {"w": RANDOM.normal(0, 0.3, (12, 9)), "b": RANDOM.normal(0, 0.3, 9),
               "v": RANDOM.normal(0, 0.3, (9, 4))}
    graph = helper.make_graph(
        [N("Cast", ["x"], ["a"], to=TensorProto.DOUBLE), N("MatMul", ["a", "w"], ["m"]),
         N("Add", ["m", "b"], ["n"]), N("Relu", ["n"], ["r"]), N("Gemm", ["r", "v"], ["g"]),
         N("Cast", ["g"], ["y"], to=outer)], "g",
        [helper.make_tensor_value_info("x", outer, ("n", 12))],
        [helper.make_tensor_value_info("y", outer, ("n", 4))],
        [numpy_helper.from_array(v, k) for k, v in weights.items()])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)],
                                ir_version=9), path)
    assert check(path) == []


@pytest.mark.parametrize("dtype, kind", [
    (ml_dtypes.bfloat16, TensorProto.BFLOAT16), (np.float64, TensorProto.DOUBLE)])
def test_what_onnxruntime_cannot_run(dtype, kind, tmp_path):
    """It has no such convolutions: the same file in float gives the same integers."""
    path = file(tmp_path, dtype, kind, [N("Cast", ["x"], ["a"], to=kind)],
                outer=TensorProto.FLOAT, opset=22)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(
            numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to":
                attribute.i = TensorProto.FLOAT
            if attribute.name == "value":
                attribute.t.CopyFrom(numpy_helper.from_array(np.asarray(0.5, np.float32)))
    model.graph.value_info[0].type.tensor_type.elem_type = TensorProto.FLOAT
    onnx.save(model, tmp_path / "float.onnx")
    check(tmp_path / "float.onnx")
    ours, theirs = (read(str(p)).graph for p in (path, tmp_path / "float.onnx"))
    frame = {"x": RANDOM.integers(-128, 128, (2, 12, 12, 3)).astype(np.int8)}
    for a, b in zip(ours.evaluate(frame).values(), theirs.evaluate(frame).values(), strict=True):
        assert np.array_equal(a, b)


def test_what_float32_does_not_hold(tmp_path):
    path = file(tmp_path, np.float64, TensorProto.DOUBLE,
                [N("Clip", ["x", "low", "high"], ["l"]), N("Mul", ["l", "huge"], ["a"])],
                {"low": np.float64(-1e300), "high": np.float64(1e300), "huge": np.float64(1e39)})
    with pytest.raises(HwgenError, match="constant 'huge' is infinite: mend the weights"):
        read(str(path))
