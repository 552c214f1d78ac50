"""The ONNX importer, op by op, against onnxruntime on the float network; and what it refuses."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from hwgen import models
from hwgen.errors import HwgenError, HwgenWarning
from hwgen.ir import Conv
from hwgen.models.export import from_onnx_layout
from hwgen.models.frames import images
from hwgen.models.load import read
from hwgen.models.onnx.reader import normalise
from hwgen.models.onnx.session import session
from tests.typed import of_kind

RANDOM = np.random.default_rng(0)


def model(nodes, constants=(), shape=(1, 3, 16, 16), outputs=("y",), opset=17):
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=o) for o in outputs], weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 9
    return shape_inference.infer_shapes(made)


def weights(*shape):
    return RANDOM.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


N = helper.make_node
CONV = N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])
W = {"w": weights(8, 3, 3, 3), "b": weights(8)}
CASES = {
    "conv": model([N("Conv", ["x", "w", "b"], ["y"], pads=[0, 1, 2, 1], strides=[2, 1])], W),
    "conv_same": model([N("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])], W),
    "depthwise": model([CONV, N("Conv", ["c", "v"], ["y"], group=8)],
                       {**W, "v": weights(8, 1, 3, 3)}),
    "batch_norm": model(
        [CONV, N("BatchNormalization", ["c", "s", "t", "m", "v"], ["y"])],
        {**W, "s": weights(8), "t": weights(8), "m": weights(8), "v": np.abs(weights(8)) + 0.5}),
    "relu": model([CONV, N("Relu", ["c"], ["y"])], W),
    "relu6": model([CONV, N("Clip", ["c", "lo", "hi"], ["y"])],
                   {**W, "lo": np.float32(0), "hi": np.float32(0.5)}),
    "hard_swish": model(
        [CONV, N("Add", ["c", "three"], ["a"]), N("Clip", ["a", "lo", "hi"], ["d"]),
         N("Mul", ["c", "d"], ["e"]), N("Div", ["e", "six"], ["y"])],
        {**W, "three": np.float32(3), "lo": np.float32(0), "hi": np.float32(6),
         "six": np.float32(6)}),
    "silu": model([CONV, N("Sigmoid", ["c"], ["s"]), N("Mul", ["c", "s"], ["y"])], W),
    "max_pool": model([CONV, N("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2],
                               pads=[1, 1, 1, 1])], W),
    "max_pool_ceil": model([CONV, N("MaxPool", ["c"], ["y"], kernel_shape=[3, 3], strides=[2, 2],
                                    ceil_mode=1)], W),
    "average_pool": model([CONV, N("AveragePool", ["c"], ["y"], kernel_shape=[2, 2],
                                   strides=[2, 2])], W),
    "global_pool": model([CONV, N("GlobalAveragePool", ["c"], ["y"])], W),
    "reduce_mean": model([CONV, N("ReduceMean", ["c"], ["y"], axes=[2, 3])], W),
    "residual": model([CONV, N("Sigmoid", ["c"], ["s"]),
                       N("Conv", ["s", "v"], ["d"], pads=[1, 1, 1, 1]),
                       N("Add", ["s", "d"], ["y"])], {**W, "v": weights(8, 8, 3, 3)}),
    "concat_resize": model(
        [CONV, N("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
         N("Resize", ["p", "", "f"], ["r"], mode="nearest", nearest_mode="floor",
           coordinate_transformation_mode="asymmetric"),
         N("Concat", ["c", "r", "x"], ["y"], axis=1)],
        {**W, "f": np.array([1, 1, 2, 2], np.float32)}),
    "split": model([CONV, N("Split", ["c", "n"], ["a", "d"], axis=1), N("Tanh", ["a"], ["e"]),
                    N("Concat", ["d", "e"], ["y"], axis=1)], {**W, "n": np.array([3, 5])}),
    "gemm": model([CONV, N("Flatten", ["c"], ["f"]), N("Gemm", ["f", "m", "n"], ["y"], transB=1)],
                  {**W, "m": weights(10, 2048), "n": weights(10)}),
    "matmul": model([CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["f"]),
                     N("MatMul", ["f", "m"], ["h"]), N("Add", ["h", "n"], ["y"])],
                    {**W, "m": weights(8, 10), "n": weights(10)}),
    "heads_cut": model([CONV, N("Reshape", ["c", "shape"], ["r"]), N("Sigmoid", ["r"], ["y"])],
                       {**W, "shape": np.array([1, 2, 4, 256])}),
}


@pytest.mark.parametrize("name", [n for n in CASES if n != "heads_cut"])
def test_near_the_float_network(name, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(CASES[name], path)
    graph = models.load(str(path))
    photos = images.photographs(2, (16, 16), 0)
    ours = graph.evaluate(images.to_stream(photos, graph))
    runner = session(CASES[name])
    (out,) = graph.outputs
    for k, photo in enumerate(photos):
        x = photo.astype(np.float32).transpose(2, 0, 1)[None] / 255
        real = np.asarray(runner.run(["y"], {"x": x})[0])
        q = graph.types[out].quantisation
        want = from_onnx_layout(real)[0] if real.ndim > 2 else real[0]
        got = q.dequantise(ours[out][k])
        assert got.shape == want.shape
        noise, signal = ((got - want) ** 2).mean(), (want**2).mean()
        assert 10 * np.log10(signal / max(noise, 1e-12)) > 25, name


def test_relu_is_saturation_not_a_table(tmp_path):
    onnx.save(CASES["relu"], tmp_path / "net.onnx")
    graph = models.load(str(tmp_path / "net.onnx"))
    assert [type(n.op).__name__ for n in graph.nodes] == ["Conv"]
    assert graph.types[graph.outputs[0]].zero_point == -128


def test_heads_are_cut(tmp_path):
    onnx.save(CASES["heads_cut"], tmp_path / "net.onnx")
    graph = models.load(str(tmp_path / "net.onnx"))
    assert [graph.types[o].shape for o in graph.outputs] == [(16, 16, 8)]


def test_channels_last_as_tensorflow_has_them(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model([N("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
                     N("Conv", ["t", "w", "b"], ["c"]),
                     N("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1])], W, ("n", "h", "w", 3)), path)
    graph = models.load(str(path), size=12)
    assert graph.types["x"].shape == (12, 12, 3)
    assert [type(n.op).__name__ for n in graph.nodes] == ["Conv"]
    assert graph.types[graph.outputs[0]].shape == (10, 10, 8)


def test_dynamic_shape_takes_size(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model([N("Conv", ["x", "w"], ["y"])], W, ("n", 3, "h", "w")), path)
    assert models.load(str(path), size=10).types["x"].shape == (10, 10, 3)
    with pytest.raises(HwgenError, match="no fixed extent in dimension 2: give a size, or export"):
        models.load(str(path))


def test_precision(tmp_path):
    onnx.save(CASES["relu"], tmp_path / "net.onnx")
    graph = models.load(str(tmp_path / "net.onnx"), precision="w4a6")
    assert graph.types[graph.outputs[0]].bits == 6
    assert abs(of_kind(graph.nodes[0].op, Conv).weight).max() == 7
    with pytest.raises(HwgenError, match="Precision must look like 'w8a8'"):
        models.load(str(tmp_path / "net.onnx"), precision="w9a8")


@pytest.mark.parametrize("nodes, constants, message", [
    ([N("Conv", ["c", "v"], ["y"])], {"v": weights(8, 5, 1, 1)}, "is not a valid|cannot be run"),
    ([N("LogSoftmax", ["c"], ["s"], name="top"), N("Conv", ["s", "v"], ["y"])],
     {"v": weights(8, 8, 1, 1)}, "'top': a LogSoftmax in front of other layers"),
    ([N("Resize", ["c", "r", "f"], ["y"], mode="linear", name="bent",
        coordinate_transformation_mode="tf_crop_and_resize")],
     {"r": np.array([0, 0, 0.1, 0.1, 1, 1, 0.9, 0.9], np.float32),
      "f": np.array([1, 1, 2, 2], np.float32)},
     r"'bent' \(Resize\): cropping in a Resize"),
    ([N("Log", ["c"], ["y"])], {}, "infinite or NaN on the calibration frames"),
    ([N("Conv", ["c", "v"], ["y"])], {"v": np.full((8, 8, 1, 1), np.nan, np.float32)},
     "'v' holds NaN: mend the weights"),
])
def test_unsupported(nodes, constants, message, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(model([CONV, *nodes], {**W, **constants}), path)
    with pytest.raises(HwgenError, match=message):
        models.load(str(path))


def test_nodes_in_any_order(tmp_path):
    made = CASES["silu"]
    path = tmp_path / "net.onnx"
    turned = onnx.ModelProto.FromString(made.SerializeToString())
    del turned.graph.node[:]
    turned.graph.node.extend(reversed(made.graph.node))
    path.write_bytes(turned.SerializeToString())
    assert [type(n.op).__name__ for n in models.load(str(path)).nodes] == ["Conv", "Table"]
    turned.graph.node[-1].input[0] = "y"
    path.write_bytes(turned.SerializeToString())
    with pytest.raises(HwgenError, match="not a valid ONNX file: Nodes in a graph must be topolog"):
        models.load(str(path))


def test_corrupt_files(tmp_path):
    path = tmp_path / "net.onnx"
    data = CASES["silu"].SerializeToString()
    for broken in (b"", b"not an onnx file", data[: len(data) // 2], data[:-7]):
        path.write_bytes(broken)
        with pytest.raises(HwgenError, match=r"net\.onnx (is not a valid ONNX file|cannot be run)"):
            models.load(str(path))
    with pytest.raises(HwgenError, match=r"none\.onnx cannot be read"):
        models.load("none.onnx")
    with pytest.raises(HwgenError, match="'yolov9z' is unknown: give one of yolov5n"):
        models.load("yolov9z")


def test_calibration_directory(tmp_path):
    from PIL import Image

    onnx.save(CASES["relu"], tmp_path / "net.onnx")
    folder = tmp_path / "images"
    with pytest.raises(HwgenError, match="images does not exist: give a directory of images"):
        models.load(str(tmp_path / "net.onnx"), calibration=folder)
    folder.mkdir()
    with pytest.raises(HwgenError, match="holds no image"):
        models.load(str(tmp_path / "net.onnx"), calibration=folder)
    Image.fromarray(images.photographs(1, (40, 60))[0]).save(folder / "a.png")
    graph = models.load(str(tmp_path / "net.onnx"), calibration=folder)
    assert len(graph.outputs) == 1
    (folder / "b.jpg").write_bytes(b"nothing")
    with pytest.raises(HwgenError, match=r"b\.jpg cannot be read as an image"):
        models.load(str(tmp_path / "net.onnx"), calibration=folder)


def given(made, tmp_path, **options):
    path = tmp_path / "net.onnx"
    onnx.save(made, path)
    return read(str(path), **options)


def test_input_that_nothing_depends_on(tmp_path):
    made = model([CONV, N("Relu", ["c"], ["y"]), N("Neg", ["q"], ["dead"])], W)
    for name in ("z", "q"):
        made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]))
    with pytest.warns(HwgenWarning, match="no output depends on input '[qz]'"):
        source = given(made, tmp_path)
    assert list(source.graph.inputs) == ["x"]


def test_batch_of_a_file(tmp_path):
    with pytest.warns(HwgenWarning, match="input 'x' has a batch of 4: frames go through one by"):
        source = given(model([CONV, N("Relu", ["c"], ["y"])], W, (4, 3, 8, 8)), tmp_path)
    assert source.network.shapes["y"] == (1, 8, 8, 8)


def test_sizes_that_do_not_fit(tmp_path):
    dense = model([N("Gemm", ["x", "d"], ["y"])], {"d": weights(20, 4)}, (1, 20))
    with pytest.raises(HwgenError, match=r"has no image as input .*, so no size can be given"):
        given(dense, tmp_path, size=32)
    fixed = model([CONV, N("Flatten", ["c"], ["f"]), N("Gemm", ["f", "d"], ["y"])],
                  {**W, "d": weights(8 * 256, 4)})
    # Earlier releases of ONNX find it when the network is run.
    with pytest.raises(HwgenError, match=r"extents of 8, the size that was given|cannot be run"):
        given(fixed, tmp_path, size=8)


@pytest.mark.parametrize("node, message", [
    (N("ArgMax", ["c"], ["y"], axis=0, keepdims=1), "along the batch it is not supported"),
    (N("Pad", ["c", "f"], ["y"]), "cannot be run|is not a valid"),
])
def test_what_is_refused_is_named(node, message, tmp_path):
    made = model([CONV, node], {**W, "f": np.array([1, 1, 2, 2], np.float32)})
    with pytest.raises(HwgenError, match=message):
        given(made, tmp_path)


def test_what_only_a_subgraph_reads_stays():
    def branch(kind, out):
        info = helper.make_tensor_value_info(out, TensorProto.FLOAT, [1, 8, 16, 16])
        return helper.make_graph([N(kind, ["t"], [out])], out, [], [info])

    made = model([CONV, N("Tanh", ["c"], ["t"]), N("ReduceMax", ["c"], ["m"], keepdims=0),
                  N("Cast", ["m"], ["f"], to=TensorProto.BOOL),
                  N("If", ["f"], ["y"], then_branch=branch("Identity", "kept"),
                    else_branch=branch("Neg", "turned"))], W)
    network = normalise(made.SerializeToString(), "net", None)
    assert "Tanh" in [node.op_type for node in network.model.graph.node]
