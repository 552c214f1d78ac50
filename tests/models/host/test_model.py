"""What is left to the host: accelerator and host.onnx together compute what the file computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import (
    onnxruntime_pybind11_state as ort_errors,  # pyright: ignore[reportAttributeAccessIssue]
)

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.models.host.model import input_name
from hwgen.models.load import read
from hwgen.models.onnx.session import session
from tests.models.float_networks import N, constants_of

C = constants_of(w=(8, 3, 3, 3), v=(6, 8, 1, 1), m=(8, 8), d=(5, 8 * 64), k=(8, 4))


def file(tmp_path, nodes, constants, outputs=("y",), shape=(1, 3, 8, 8), opset=17):
    """An ONNX file with one input ``x``."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    inferred = onnx.shape_inference.infer_shapes(model)
    if all(value.type.tensor_type.HasField("shape") for value in inferred.graph.output):
        model = inferred
    else:
        # Inference does not know all ops; files state their outputs then.
        for value in model.graph.output:
            value.CopyFrom(helper.make_tensor_value_info(
                value.name, TensorProto.FLOAT, [None] * len(shape)))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def test_graph_takes_its_host_along(tmp_path):
    path = file(tmp_path, [N("Conv", ["x", "w"], ["c"], pads=[1] * 4),
                           N("Flatten", ["c"], ["y"])], C)
    source = read(str(path))
    source.graph.save(tmp_path / "graph.npz")
    assert read(str(tmp_path / "graph.npz")).host is None
    onnx.save(source.host, tmp_path / "host.onnx")
    again = read(str(tmp_path / "graph.npz"))
    assert again.left_to_host == source.left_to_host == [{"op": "Flatten", "name": "y"}]
    other = read(str(file(tmp_path, [N("Conv", ["x", "v2"], ["y"])],
                          constants_of(v2=(4, 3, 1, 1)))))
    onnx.save(other.host, tmp_path / "host.onnx")
    with pytest.warns(HwgenWarning, match="does not take the outputs of this graph"):
        assert read(str(tmp_path / "graph.npz")).host is None


@pytest.mark.parametrize("nodes", [
    [N("Conv", ["x", "w"], ["c"], pads=[1] * 4), N("Det", ["c"], ["y"])],
    [N("Conv", ["x", "w"], ["c"], pads=[1] * 4), N("Mod", ["c", "each"], ["y"], fmod=1)],
])
def test_refusal_names_outputs_that_work(tmp_path, nodes):
    each = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    path = file(tmp_path, nodes, {**C, "each": each})
    with pytest.raises(HwgenError, match=r"left to the host: choose the outputs c$"):
        read(str(path))
    assert read(str(path), outputs=["c"]).graph.outputs == ["c"]


def as_given(source, name, value, kind):
    """A frame as the file takes it, of the element type that onnxruntime names."""
    if name in source.network.integer_inputs:
        value = source.network.integer_inputs[name].integers(value)
    names = {"float": "float32", "double": "float64"}
    kind = kind.removeprefix("tensor(").removesuffix(")")
    return value.astype(names.get(kind, kind))


def as_onnx_says(path, source, feeds):
    """The file's outputs for some frames, computed as ONNX says.

    Kernels of onnxruntime saturate sums of 8-bit products at 16 bits on processors without VNNI,
    if they are not told to be precise; some ops have no precise ones, and need none.
    """
    for precise in "10":
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.x64quantprecision", precise)
        try:
            whole = onnxruntime.InferenceSession(str(path), settings)
            made = [whole.run(None, {
                i.name: as_given(source, i.name, feed[i.name], i.type)
                for i in whole.get_inputs()}) for feed in feeds]
        except (ort_errors.Fail, ort_errors.NotImplemented):
            if precise == "0":
                raise
            continue
        return [o.name for o in whole.get_outputs()], [[np.asarray(v) for v in row] for row in made]
    raise AssertionError


def run(path, **options):
    """Source of a file; its outputs by onnxruntime, and by integer graph and host, a frame each."""
    source = read(str(path), **options)
    assert source.host is not None
    onnx.checker.check_model(source.host, full_check=True)
    host = session(source.host)
    frames = source.calibration(3)
    codes = source.graph.evaluate(frames)
    names, wanted = as_onnx_says(path, source, [feed for _, feed in zip(range(3), source.feeds)])
    got = [[np.asarray(v) for v in host.run(None, {
        input_name(name): codes[name][k : k + 1] for name in source.graph.outputs})]
        for k in range(len(wanted))]
    assert [o.name for o in host.get_outputs()] == names
    return source, names, wanted, got


def check(path, least=30, **options):
    """They are alike, in shape and type too; returns what is left to the host."""
    source, _, wanted, got = run(path, **options)
    signal = noise = 0.0
    for a, b in zip(wanted, got, strict=True):
        for want, value in zip(a, b, strict=True):
            assert want.shape == value.shape
            assert want.dtype == value.dtype
            if want.dtype.kind == "f":
                signal += np.square(want.astype(np.float64)).sum()
                noise += np.square(want.astype(np.float64) - value).sum()
    assert 10 * np.log10(signal / max(noise, 1e-30)) > least
    return [node["op"] for node in source.left_to_host]


CONV = N("Conv", ["x", "w"], ["c"], pads=[1] * 4)

MOVED = {
    "nothing": ([N("Conv", ["x", "w"], ["y"])], {}, []),
    "reshape": ([CONV, N("Reshape", ["c", "s"], ["y"])], {"s": np.array([1, 8, 64])}, ["Reshape"]),
    "transpose": ([CONV, N("Transpose", ["c"], ["y"], perm=[0, 3, 1, 2])], {}, ["Transpose"]),
    "softmax": ([CONV, N("Softmax", ["c"], ["y"], axis=1)], {}, ["Softmax"]),
    "head": ([CONV, N("Reshape", ["c", "s"], ["r"]), N("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
              N("Conv", ["x", "w"], ["e"], strides=[2, 2], pads=[1] * 4),
              N("Reshape", ["e", "s"], ["q"]), N("Transpose", ["q"], ["u"], perm=[0, 2, 1]),
              N("Concat", ["t", "u"], ["y"], axis=1)], {"s": np.array([1, 8, -1])},
             ["Reshape", "Transpose", "Concat"]),
    "pixel shuffle": ([CONV, N("DepthToSpace", ["c"], ["y"], blocksize=2)], {}, ["Gather"]),
    "distributed boxes": (
        [CONV, N("Reshape", ["c", "s1"], ["r"]), N("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
         N("Softmax", ["t"], ["p"], axis=1), N("Conv", ["p", "bins"], ["e"]),
         N("Reshape", ["e", "s2"], ["b"]), N("Sub", ["anchors", "b"], ["u"]),
         N("Mul", ["u", "stride"], ["g"]), N("Sigmoid", ["r"], ["f"]),
         N("Reshape", ["f", "s1"], ["h"]), N("ReduceMax", ["h"], ["j"], axes=[2], keepdims=0),
         N("Concat", ["g", "j"], ["y"], axis=1)],
        {"s1": np.array([1, 2, 4, 64]), "s2": np.array([1, 2, 64]),
         "bins": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1),
         "anchors": np.ones((2, 64), np.float32), "stride": np.float32(8)},
        ["Reshape", "Transpose", "Softmax", "Conv", "Reshape", "Sub", "Mul", "Sigmoid", "Reshape",
         "ReduceMax", "Concat"]),
    "crop of channels last": (
        [CONV, N("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
         N("Slice", ["t", "a", "b", "e"], ["y"])],
        {"a": np.array([2]), "b": np.array([5]), "e": np.array([1])}, ["Transpose", "Slice"]),
}
COMPUTED = {
    "Mul and Relu behind a Reshape": (
        [CONV, N("Reshape", ["c", "s"], ["r"]), N("Mul", ["r", "k"], ["p"]),
         N("Relu", ["p"], ["y"])],
        {"s": np.array([1, 8, 64]), "k": np.float32(3)}),
    "residual Add behind a Transpose": (
        [CONV, N("Conv", ["c", "j"], ["e"]), N("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
         N("Transpose", ["e"], ["u"], perm=[0, 2, 3, 1]), N("Add", ["t", "u"], ["y"])],
        {"j": C["m"].reshape(8, 8, 1, 1)}),
    "gate of a squeeze-and-excite": (
        [CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["f"]),
         N("Gemm", ["f", "m"], ["e"]), N("Sigmoid", ["e"], ["s"]), N("Reshape", ["s", "r"], ["t"]),
         N("Mul", ["c", "t"], ["y"])],
        {"r": np.array([1, 8, 1, 1])}),
    "activation behind a Flatten": (
        [CONV, N("Flatten", ["c"], ["f"]), N("Tanh", ["f"], ["y"])], {}),
}


@pytest.mark.parametrize("name", MOVED)
def test_what_moves_or_ranks_is_left_to_the_host(name, tmp_path):
    nodes, constants, left = MOVED[name]
    assert set(check(file(tmp_path, nodes, {**C, **constants}))) == set(left)


@pytest.mark.parametrize("name", COMPUTED)
def test_what_computes_is_not(name, tmp_path):
    nodes, constants = COMPUTED[name]
    assert not set(check(file(tmp_path, nodes, {**C, **constants}))) & {
        "Mul", "Add", "Relu", "Tanh", "Sigmoid"}


def test_several_outputs_keep_names_types_and_order(tmp_path):
    path = file(tmp_path, [
        CONV, N("ArgMax", ["c"], ["label"], axis=1), N("Softmax", ["c"], ["score"], axis=1),
        N("Flatten", ["c"], ["f"]), N("TopK", ["f", "n"], ["best", "which"], axis=1),
    ], {**C, "n": np.array([5])}, ("score", "which", "label", "best"))
    source, names, wanted, got = run(path)
    assert names == ["score", "which", "label", "best"]
    for a, b in zip(wanted, got, strict=True):
        assert [(v.shape, v.dtype) for v in a] == [(v.shape, v.dtype) for v in b]
        assert (a[2] == b[2]).mean() > 0.9
        np.testing.assert_allclose(a[0], b[0], atol=0.05)
    assert [n["op"] for n in source.left_to_host] == ["Softmax", "Flatten", "TopK"]


def test_integer_outputs_stay_integers(tmp_path):
    """A quantised file that ends with a QuantizeLinear."""
    path = file(tmp_path, [
        N("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        N("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        N("DequantizeLinear", ["i", "s", "o"], ["wd"]), N("Conv", ["xd", "wd"], ["c"]),
        N("QuantizeLinear", ["c", "t", "z"], ["y"]),
    ], {"s": np.float32(0.02), "t": np.float32(0.05), "z": np.uint8(100), "o": np.int8(0),
        "i": np.random.default_rng(0).integers(-99, 99, (8, 3, 3, 3)).astype(np.int8)})
    source, _, wanted, got = run(path)
    for (want,), (value,) in zip(wanted, got, strict=True):
        assert value.dtype == want.dtype == np.uint8
        assert abs(want.astype(int) - value).max() <= 1
    assert [n["op"] for n in source.left_to_host] == ["QuantizeLinear"]


GROUP_NORM = [
    CONV, N("Reshape", ["c", "s"], ["r"]), N("InstanceNormalization", ["r", "one", "zero"], ["i"]),
    N("Reshape", ["i", "t"], ["n"]), N("Relu", ["n"], ["y"]),
]
NORM = {**C, "s": np.array([1, 2, 256]), "t": np.array([1, 8, 8, 8]),
        "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}


def test_work_that_cannot_be_computed_is_refused_with_the_way_out(tmp_path):
    path = file(tmp_path, [CONV, N("Det", ["c"], ["g"]), N("Relu", ["g"], ["y"])], C)
    with pytest.raises(HwgenError, match=r"'Det' .* behind the last weights, so it can be left to "
                                         "the host: choose the outputs c$"):
        read(str(path))
    assert check(path, 10, outputs=["c"]) == ["Det", "Relu"]


def test_what_the_host_computes_stays_as_it_is(tmp_path):
    """Only what the accelerator computes is written out."""
    path = file(tmp_path, GROUP_NORM, NORM)
    assert check(path, outputs=["r"]) == ["InstanceNormalization", "Reshape", "Relu"]


def test_chosen_outputs(tmp_path):
    path = file(tmp_path, GROUP_NORM, NORM)
    left = check(path, outputs=["c"])
    assert left == ["Reshape", "InstanceNormalization", "Reshape", "Relu"]


def test_chosen_output_in_the_middle_leaves_weights_to_the_host(tmp_path):
    nodes = [CONV, N("Relu", ["c"], ["r"]), N("Conv", ["r", "v"], ["y"])]
    assert check(file(tmp_path, nodes, C), outputs=["r"]) == ["Conv"]
    source = read(str(tmp_path / "net.onnx"), outputs=["r"])
    assert source.graph.outputs == ["r"]


@pytest.mark.parametrize("outputs, message", [
    (["cc"], r"has no tensor 'cc' that could be an output; those with names like it are 'c'$"),
    (["x"], r"has no tensor 'x' that could be an output; its last ones are 'c', 'r', 'y'$"),
    (["c", "r", "c"], r"^Output 'c' is named twice$"),
    (["r"], r"^Outputs r: the file's outputs also depend on its input 'x' by another way"),
])
def test_outputs_that_cannot_be_chosen(outputs, message, tmp_path):
    nodes = [CONV, N("Conv", ["x", "u"], ["r"], pads=[1] * 4), N("Add", ["c", "r"], ["y"])]
    with pytest.raises(HwgenError, match=message):
        read(str(file(tmp_path, nodes, {**C, "u": -C["w"]})), outputs=outputs)
