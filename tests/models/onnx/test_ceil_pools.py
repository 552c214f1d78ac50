"""Pools with ceil_mode have the extents and values that onnxruntime gives them."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.accuracy import measure
from hwgen.models.lowering import lower
from hwgen.models.onnx.reader import normalise
from hwgen.models.quantisation.calibrate import statistics
from tests.profiles import examples

N = helper.make_node


def model(kind, extents, **attributes):
    """A convolution, the pool, and another pool that sees its extents."""
    weights = np.random.default_rng(0).normal(0, 0.5, (3, 2, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [N("Conv", ["x", "w"], ["c"]), N(kind, ["c"], ["p"], ceil_mode=1, **attributes),
         N("MaxPool", ["p"], ["y"], kernel_shape=[1, 2], strides=[1, 2], ceil_mode=1)],
        "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, *extents])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(weights, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    made.ir_version = 9
    return made


def original(made, x):
    """What onnxruntime makes of the file as it is; None if it refuses it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(made.SerializeToString(), options)
        return np.asarray(session.run(None, {"x": x})[0])
    except Exception:
        return None


def ours(made, x):
    network = normalise(made.SerializeToString(), "net", None)
    graph = lower(network, statistics(network, [{"x": x}]).ranges)
    (name,) = graph.outputs
    codes = graph.inputs["x"].quantisation.quantise(np.moveaxis(x, 1, -1))
    value = graph.types[name].quantisation.dequantise(graph.evaluate({"x": codes})[name])
    return np.moveaxis(value, -1, 1), graph.types[name].scale


def pairs(low, high):
    return st.lists(st.integers(low, high), min_size=2, max_size=2)


@given(st.sampled_from(["MaxPool", "AveragePool"]), pairs(1, 4), pairs(1, 4), pairs(4, 11),
       st.data())
@examples(120)
def test_against_onnxruntime(kind, kernel, stride, extents, data):
    pads = [data.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    more = {}
    if kind == "AveragePool":
        more["count_include_pad"] = data.draw(st.integers(0, 1))
    elif data.draw(st.booleans()):
        more["dilations"] = [data.draw(st.integers(1, 2)) for _ in kernel]
    made = model(kind, extents, kernel_shape=kernel, strides=stride, pads=pads, **more)
    x = np.random.default_rng(0).random((1, 2, *extents), np.float32)
    want = original(made, x)
    if want is None:
        reject()
    if more.get("count_include_pad") or "dilations" in more:
        # Windows may reach beyond the padding.
        try:
            got, step = ours(made, x)
        except HwgenError as error:
            assume("ceil_mode" not in str(error))
            raise
    else:
        got, step = ours(made, x)
    assert got.shape == want.shape
    assert abs(got - want).max() < 4 * step


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_window_that_would_begin_in_the_padding(kind):
    made = model(kind, (9, 9), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    x = np.random.default_rng(0).random((1, 2, 9, 9), np.float32)
    (got, _), want = ours(made, x), original(made, x)
    assert want is not None
    assert got.shape == want.shape == (1, 3, 5, 3)


def test_accuracy_refuses_tensors_of_another_extent():
    made = model("MaxPool", (9, 9), kernel_shape=[2, 2], strides=[2, 2], pads=[1, 1, 1, 1])
    network = normalise(made.SerializeToString(), "net", None)
    feeds = [{"x": np.random.default_rng(0).random((1, 2, 9, 9), np.float32)}]
    graph = lower(network, statistics(network, feeds).ranges)
    other = model("MaxPool", (9, 9), kernel_shape=[3, 3], strides=[1, 1])
    with pytest.raises(HwgenError, match=r"^Tensor 'p' is .* network has shape \[1, 3, 7, 7\]"):
        measure(normalise(other.SerializeToString(), "net", None), graph, feeds)
