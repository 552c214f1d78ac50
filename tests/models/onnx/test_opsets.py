"""Operator sets 7 to 12, outputs of which the file says little, extents that it leaves open."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.load import read
from tests.models.host.test_model import check

N = helper.make_node
RANDOM = np.random.default_rng(0)


def weights(*shape):
    return RANDOM.normal(0, 0.25, shape).astype(np.float32)


def saved(tmp_path, nodes, constants, opset=17, shape=(1, 3, 16, 16), output=None, inputs=False):
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    constants = {k: np.asarray(v) for k, v in constants.items()}
    if inputs:
        # As versions of the format before 4 want them.
        info += [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                 for k, v in constants.items()]
    graph = helper.make_graph(
        nodes, "g", info, [output or helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 3 if inputs else 8
    path = tmp_path / "net.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def old_forms(opset):
    """Ops whose form changed, as an operator set has them, and their constants."""
    new = {"lo": np.float32(0), "hi": np.float32(6), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
           "from": np.array([0, 0]), "to": np.array([8, 8]), "axes": np.array([2, 3]),
           "scales": np.array([1, 1, 2, 2], np.float32), "roi": np.zeros(0, np.float32),
           "half": np.float32(0.5)}
    clip, pad = N("Clip", ["n", "lo", "hi"], ["r"]), N("Pad", ["r", "pads"], ["p"])
    slice, drop = N("Slice", ["m", "from", "to", "axes"], ["s"]), N("Dropout", ["o", "half"], ["d"])
    larger = N("Resize", ["s", "roi", "scales"], ["u"], mode="nearest", nearest_mode="floor",
               coordinate_transformation_mode="asymmetric")
    if opset < 12:
        drop = N("Dropout", ["o"], ["d"], ratio=0.5)
    if opset < 11:
        clip = N("Clip", ["n"], ["r"], min=0.0, max=6.0)
        pad = N("Pad", ["r"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1])
        larger = N("Resize", ["s", "scales"], ["u"], mode="nearest")
    if opset < 10:
        slice = N("Slice", ["m"], ["s"], starts=[0, 0], ends=[8, 8], axes=[2, 3])
        larger = N("Upsample", ["s", "scales"], ["u"], mode="nearest")
    if opset < 9:
        larger = N("Upsample", ["s"], ["u"], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")
    nodes = [
        N("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        N("BatchNormalization", ["c", "g", "b", "e", "v"], ["n"]), clip, pad,
        N("MaxPool", ["p"], ["m"], kernel_shape=[2, 2], strides=[2, 2]), slice, larger,
        N("Split", ["u"], ["i", "j"], axis=1, split=[4, 4]), N("Mul", ["i", "j"], ["o"]), drop,
        N("Flatten", ["d"], ["f"]), N("Gemm", ["f", "k", "l"], ["q"]),
        N("Unsqueeze", ["q"], ["t"], axes=[2]), N("Squeeze", ["t"], ["z"], axes=[2]),
        N("Softmax", ["z"], ["y"])]
    read = {i for node in nodes for i in node.input}
    return nodes, {"w": weights(8, 3, 3, 3), "g": np.ones(8, np.float32), "b": weights(8),
                   "e": weights(8), "v": np.ones(8, np.float32), "k": weights(1024, 5) / 4,
                   "l": weights(5), **{k: v for k, v in new.items() if k in read}}


@pytest.mark.parametrize("opset", range(7, 13))
def test_operator_sets(opset, tmp_path):
    nodes, constants = old_forms(opset)
    path = saved(tmp_path, nodes, constants, opset, inputs=opset < 9)
    assert check(path)[-1] == "Softmax"


def test_operator_sets_that_are_too_old(tmp_path):
    nodes, constants = old_forms(7)
    with pytest.raises(HwgenError, match=r"written in ONNX opset 6; opsets 7 to [0-9]+ are read"):
        read(str(saved(tmp_path, nodes, constants, 6, inputs=True)))
    with pytest.raises(HwgenError, match=r"opset 8, which cannot be converted to opset 9: "):
        # The converter does not know ops of QONNX.
        read(str(saved(tmp_path, [N("Quant", ["x"], ["y"])], {}, 8, inputs=True)))


@pytest.mark.parametrize("output", [
    onnx.ValueInfoProto(name="y"), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
@pytest.mark.parametrize("shape", [(1, 3, 16, 16), ("n", 3, "h", "w")])
def test_outputs_without_type_or_shape(output, shape, tmp_path):
    path = saved(tmp_path, [N("Conv", ["x", "w"], ["y"])], {"w": weights(8, 3, 3, 3)}, shape=shape,
                 output=output)
    source = read(str(path), size=16)
    assert source.network.shapes["y"] == (1, 8, 14, 14)
    if shape[0] == 1:
        check(path)


@pytest.mark.parametrize("shape, kernel, got", [
    (("n", 3, "samples"), (8, 3, 3), (20, 3)), (("n", 3, 8, "h", "w"), (8, 3, 3, 3, 3),
                                                (8, 20, 20, 3)),
])
def test_size_of_what_is_left_open(shape, kernel, got, tmp_path):
    path = saved(tmp_path, [N("Conv", ["x", "w"], ["y"])], {"w": weights(*kernel)}, shape=shape)
    assert check(path, size=20) == []
    assert read(str(path), size=20).graph.types["x"].shape == got
    with pytest.raises(HwgenError, match=r"no fixed extent in dimension [23]: give a size, or exp"):
        read(str(path))


def test_size_of_samples_without_channels(tmp_path):
    path = saved(tmp_path, [N("Unsqueeze", ["x", "one"], ["t"]), N("Conv", ["t", "w"], ["y"])],
                 {"w": weights(8, 1, 5), "one": np.array([1])}, shape=("n", "samples"))
    assert check(path, size=40) == []


def test_size_of_two_open_dimensions(tmp_path):
    path = saved(tmp_path, [N("Conv", ["x", "w"], ["y"])], {"w": weights(8, 3, 3)},
                 shape=("n", "c", "t"))
    with pytest.raises(HwgenError, match=r"leaves dimensions \[1, 2\] open, but a size is one ext"):
        read(str(path), size=20)
    fixed = saved(tmp_path, [N("Conv", ["x", "w"], ["y"])], {"w": weights(8, 3, 3)},
                  shape=(1, 3, 9))
    with pytest.raises(HwgenError, match="leaves no extent open, so no size can be given"):
        read(str(fixed), size=20)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="onnx has no opset 28")
@pytest.mark.parametrize("kind", ["ReduceLogSum", "ReduceLogSumExp"])
def test_newer_forms_that_onnxruntime_writes_out(kind, tmp_path):
    """They are read as the ops that they are: what is in between has more bits."""
    nodes = [N("Conv", ["x", "w"], ["c"]), N("Abs", ["c"], ["a"]), N("Mul", ["a", "k"], ["m"]),
             N(kind, ["m", "axes"], ["y"], keepdims=1)]
    constants = {"w": weights(8, 3, 1, 1), "k": np.float32(6), "axes": np.array([1])}
    path = saved(tmp_path, nodes, constants, 28)
    check(path)
    assert max(type.bits for type in read(str(path)).graph.types.values()) == 12


def test_functions_far_beyond_all_codes(tmp_path):
    """Values of 1e25 do not overflow what is tried of the function behind."""
    nodes = [N("Conv", ["x", "w"], ["c"]), N("Exp", ["c"], ["e"]),
             N("ReduceSum", ["e", "axes"], ["s"], keepdims=1), N("Log", ["s"], ["y"])]
    constants = {"w": 20 + abs(weights(8, 3, 1, 1)), "axes": np.array([1])}
    assert read(str(saved(tmp_path, nodes, constants, 18))).graph.outputs
