"""Integer inputs that ops choose among: exact, and refused where a sum would wrap around."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.host.model import input_name
from hwgen.models.load import read
from hwgen.models.onnx.session import session


def _file(folder, nodes, outputs, constants=(), kind=TensorProto.UINT8, inputs=("x",)):
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info(i, kind, [1, 3, 6, 6]) for i in inputs],
        [helper.make_tensor_value_info(o, k, None) for o, k in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    path = folder / "net.onnx"
    onnx.save(model, path)
    return str(path)


def _compare(path, feed):
    """Outputs of accelerator and host, and of the file, for the same integers."""
    source = read(path)
    network = source.network
    codes = {}
    for tensor, stream in zip(network.inputs, source.graph.inputs, strict=True):
        type = source.graph.types[stream]
        real = network.integer_inputs[tensor].real(feed[tensor])
        codes[stream] = type.quantisation.quantise(np.moveaxis(real, 1, -1))
    made = source.graph.evaluate(codes)
    got = session(source.host).run(None, {input_name(n): v for n, v in made.items()})
    wanted = session(onnx.load(path)).run(None, feed)
    return [np.asarray(v) for v in got], [np.asarray(v) for v in wanted]


def _frame(seed=0, low=0, high=256, kind=np.uint8):
    return np.random.default_rng(seed).integers(low, high, (1, 3, 6, 6)).astype(kind)


def test_a_crop_and_a_border_in_front_of_the_cast(tmp_path):
    weights = np.random.default_rng(1).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    path = _file(tmp_path, [
        helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["cropped"]),
        helper.make_node("Pad", ["cropped", "pads", "grey"], ["bordered"]),
        helper.make_node("Cast", ["bordered"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["real", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w"], ["y"]),
    ], {"y": TensorProto.FLOAT}, [
        ("starts", np.array([1, 1])), ("ends", np.array([5, 5])), ("axes", np.array([2, 3])),
        ("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1])), ("grey", np.uint8(114)),
        ("scale", np.float32(255)), ("w", weights)])
    got, wanted = _compare(path, {"x": _frame(0, 60, 200)})
    assert 10 * np.log10(np.square(wanted[0]).sum() / np.square(got[0] - wanted[0]).sum()) > 30


@pytest.mark.parametrize("kind,dtype,low,high", [
    (TensorProto.UINT8, np.uint8, 0, 256), (TensorProto.INT8, np.int8, -128, 128)])
def test_choices_are_exact_and_stay_integers(tmp_path, kind, dtype, low, high):
    path = _file(tmp_path, [
        helper.make_node("Max", ["x", "z"], ["larger"]),
        helper.make_node("Clip", ["larger", "", "most"], ["clipped"]),
        helper.make_node("MaxPool", ["clipped"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ], {"y": kind}, [("most", np.array(100, dtype))], kind, ("x", "z"))
    feed = {"x": _frame(1, low, high, dtype), "z": _frame(2, low, high, dtype)}
    got, wanted = _compare(path, feed)
    assert got[0].dtype == wanted[0].dtype == dtype
    np.testing.assert_array_equal(got[0], wanted[0])


def test_sums_that_wrap_around_are_refused(tmp_path):
    path = _file(tmp_path, [
        helper.make_node("Add", ["x", "z"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ], {"y": TensorProto.FLOAT}, (), TensorProto.UINT8, ("x", "z"))
    with pytest.raises(HwgenError, match="input 'x' is UINT8"):
        read(path)
