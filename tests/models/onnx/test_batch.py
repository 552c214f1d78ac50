"""Files with a fixed batch of several frames: one frame at a time, or refused by the node."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.models.host.model import input_name
from hwgen.models.load import read

N = helper.make_node
RANDOM = np.random.default_rng(0)
CONV = N("Conv", ["x", "w"], ["c"], pads=[1] * 4)
CONSTANTS = {
    "w": (8, 3, 3, 3), "m": (512, 5), "j": (8, 8, 1, 1), "n": (64, 5), "a": (4, 8, 1, 1),
    "b": (1, 8, 1, 1), "o": (8, 5), "each": (4, 5),
}
INTEGERS = {
    "rows": [4, 512], "open": [-1, 512], "tokens": [4, 8, 64], "merged": [32, 64], "first": [0],
    "second": [2], "sizes": [4, 8, 16, 16], "wide": [4, 8, 8, 8], "k": 0, "feature": [512],
    "last": [-1], "before": [-9], "back": [-1], "zeros": [0, 0, 1], "ends": [4, 8, 7],
    "corners": [2, 3],
}
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
           "nearest_mode": "floor"}


def file(tmp_path, nodes):
    used = {i for node in nodes for i in node.input}
    constants = {k: RANDOM.normal(0, 0.2, s).astype(np.float32) for k, s in CONSTANTS.items()}
    constants |= {k: np.array(v, np.int64) for k, v in INTEGERS.items()}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items() if k in used])
    path = tmp_path / "net.onnx"
    path.write_bytes(helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("nodes", [
    [N("Reshape", ["c", "rows"], ["r"]), N("Gemm", ["r", "m"], ["y"])],
    [N("Reshape", ["c", "open"], ["r"]), N("Gemm", ["r", "m"], ["y"])],
    [N("Flatten", ["c"], ["r"]), N("MatMul", ["r", "m"], ["y"])],
    [N("Resize", ["c", "", "", "sizes"], ["r"], **NEAREST), N("Conv", ["r", "j"], ["y"])],
    [N("GlobalAveragePool", ["c"], ["g"]), N("Expand", ["g", "wide"], ["r"]),
     N("Add", ["c", "r"], ["y"])],
    [N("Shape", ["c"], ["s"]), N("Gather", ["s", "k"], ["t"]),
     N("Unsqueeze", ["t", "first"], ["u"]), N("Concat", ["u", "feature"], ["f"], axis=0),
     N("Reshape", ["c", "f"], ["r"]), N("Gemm", ["r", "m"], ["y"])],
    [N("Reshape", ["c", "tokens"], ["r"]), N("Transpose", ["r"], ["y"], perm=[0, 2, 1])],
    [N("Add", ["c", "b"], ["y"])], [N("Slice", ["c", "zeros", "ends"], ["y"])],
    [N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["f"]),
     N("Unsqueeze", ["f", "corners"], ["r"]), N("Add", ["c", "r"], ["y"])],
    [N("Einsum", ["c", "o"], ["y"], equation="bchw,co->bohw")],
    [N("Einsum", ["c"], ["e"], equation="bchw->bc"), N("MatMul", ["e", "o"], ["y"])],
])
def test_frames_one_by_one(nodes, tmp_path):
    path = file(tmp_path, [CONV, *nodes])
    with pytest.warns(HwgenWarning, match="input 'x' has a batch of 4: frames go through one by"):
        source = read(str(path))
    frames = source.calibration(4)
    x = np.concatenate([feed["x"] for feed in source.feeds])
    want = np.asarray(onnxruntime.InferenceSession(str(path)).run(None, {"x": x})[0])
    codes = source.graph.evaluate(frames)
    assert source.host is not None
    host = onnxruntime.InferenceSession(source.host.SerializeToString())
    got = np.concatenate([host.run(None, {
        input_name(name): codes[name][k : k + 1] for name in source.graph.outputs})[0]
        for k in range(4)])
    assert got.shape == want.shape
    assert 10 * np.log10(np.square(want).sum() / np.square(want - got).sum()) > 30


@pytest.mark.parametrize("node, why", [
    (N("Reshape", ["c", "merged"], ["y"]), r"it makes \[32, 64\] of them"),
    (N("Transpose", ["c"], ["y"], perm=[1, 0, 2, 3]), r"it makes \[8, 4, 8, 8\] of them"),
    (N("Transpose", ["c"], ["y"], perm=[3, 0, 1, 2]), r"it makes \[8, 4, 8, 8\] of them"),
    (N("Add", ["c", "a"], ["y"]), "its constant 'a' differs by frame"),
    (N("Concat", ["c", "c"], ["y"], axis=0), r"it makes \[8, 8, 8, 8\] of them"),
    (N("ReduceMean", ["c"], ["y"], axes=[0, 2, 3]), r"it makes \[1, 8, 1, 1\] of them"),
    (N("Slice", ["c", "first", "second"], ["y"]), r"it makes \[2, 8, 8, 8\] of them"),
    (N("Slice", ["c", "last", "before", "first", "back"], ["y"]), "it may work along the batch"),
    (N("Softmax", ["c"], ["y"], axis=0), "it may work along the batch"),
    (N("CumSum", ["c", "k"], ["y"]), "it may work along the batch"),
    (N("MeanVarianceNormalization", ["c"], ["y"]), "it may work along the batch"),
    (N("Einsum", ["c"], ["y"], equation="bchw->hcbw"), r"it makes \[8, 8, 4, 8\] of them"),
    (N("Einsum", ["c", "each"], ["y"], equation="bchw,bd->bchd"), "it may work along the batch"),
])
def test_what_joins_frames_is_refused(node, why, tmp_path):
    node.name = "joins"
    with pytest.raises(
            HwgenError, match=f"net.onnx: Node 'joins' .{node.op_type}.: the file takes 4 frames "
                              f"at once, but {why}: export with a batch of 1"):
        read(str(file(tmp_path, [CONV, node])))


def test_batches_of_several_sizes(tmp_path):
    path = file(tmp_path, [CONV, N("Add", ["c", "z"], ["y"])])
    made = onnx.load(path)
    made.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, (1, 8, 8, 8)))
    path.write_bytes(made.SerializeToString())
    with pytest.raises(HwgenError, match=r"batches of several sizes \('x' of 4, 'z' of 1\)"):
        read(str(path))


def test_group_normalization(tmp_path):
    path = file(tmp_path, [CONV, N("GroupNormalization", ["c", "s", "s"], ["y"], num_groups=2)])
    made = onnx.load(path)
    made.opset_import[0].version = 21
    made.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "s"))
    path.write_bytes(made.SerializeToString())
    with pytest.warns(HwgenWarning, match="input 'x' has a batch of 4"):
        assert read(str(path)).graph.outputs
