"""Inputs of integers that the file casts to float: pixels, whose codes are themselves."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.host.inputs import described, load, save
from hwgen.models.load import read
from tests.models.host.test_model import check

N = helper.make_node
RANDOM = np.random.default_rng(0)
CAST = N("Cast", ["x"], ["f"], to=TensorProto.FLOAT)
TURN = {"perm": [0, 3, 1, 2]}


def file(tmp_path, nodes, shape=(1, 3, 10, 10), kind=TensorProto.UINT8, last=(), **constants):
    """A network of one convolution of ``t`` behind some nodes."""
    values = {"k255": np.float32(255), "k128": np.float32(128), "k127": np.float32(127.5),
              "inv": np.float32(1 / 255), "one": np.float32(1),
              "mean": np.array([0.4, 0.5, 0.6], np.float32).reshape(3, 1, 1),
              "w": RANDOM.normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32), **constants}
    graph = helper.make_graph(
        [*nodes, N("Conv", ["t", "w"], ["y"], pads=[1] * 4), *last], "g",
        [helper.make_tensor_value_info("x", kind, shape)], [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(made), path)
    return path


@pytest.mark.parametrize("nodes, scale, zero", [
    ([CAST, N("Div", ["f", "k255"], ["t"])], 1 / 255, 0),
    ([CAST, N("Mul", ["f", "inv"], ["t"])], 1 / 255, 0),
    ([CAST, N("Sub", ["f", "k128"], ["g"]), N("Div", ["g", "k128"], ["t"])], 1 / 128, 128),
    ([CAST, N("Div", ["f", "k128"], ["g"]), N("Sub", ["g", "one"], ["t"])], 1 / 128, 128),
    ([N("Cast", ["x"], ["t"], to=TensorProto.FLOAT)], 1, 0),
])
def test_codes_are_the_pixels(nodes, scale, zero, tmp_path):
    path = file(tmp_path, nodes)
    check(path)
    source = read(str(path))
    codes = source.graph.types["x"].quantisation
    assert [type(n.op).__name__ for n in source.graph.nodes] == ["Conv"]
    assert (codes.bits, codes.zero_point) == (8, zero - 128)
    assert codes.scale == pytest.approx(scale, rel=1e-6)
    pixels = source.calibration(4)["x"].astype(int) + 128
    assert pixels.max() - pixels.min() > 100


@pytest.mark.parametrize("nodes, ops", [
    # No whole number stands for 0: the pixels go through a table.
    ([CAST, N("Div", ["f", "k127"], ["g"]), N("Sub", ["g", "one"], ["t"])], ["Table", "Conv"]),
    ([CAST, N("Div", ["f", "k255"], ["g"]), N("Sub", ["g", "mean"], ["t"])], ["Conv", "Conv"]),
])
def test_what_is_more_than_codes_is_computed(nodes, ops, tmp_path):
    path = file(tmp_path, nodes)
    check(path)
    source = read(str(path))
    assert [type(n.op).__name__ for n in source.graph.nodes] == ops
    assert source.graph.types["x"].zero_point == -128


@pytest.mark.parametrize("nodes", [
    [CAST, N("Div", ["f", "k255"], ["g"]), N("Transpose", ["g"], ["t"], **TURN)],
    [CAST, N("Transpose", ["f"], ["g"], **TURN), N("Div", ["g", "k255"], ["t"])],
    [N("Transpose", ["x"], ["g"], **TURN), N("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
     N("Div", ["f", "k255"], ["t"])],
])
def test_channels_last(nodes, tmp_path):
    path = file(tmp_path, nodes, (1, 10, 10, 3))
    check(path)
    source = read(str(path))
    assert [type(n.op).__name__ for n in source.graph.nodes] == ["Conv"]
    assert source.graph.types["x"].shape == (10, 10, 3)
    assert source.network.shapes["x"] == (1, 10, 10, 3)
    (given,) = described(source.graph, source.network)
    pixels = RANDOM.integers(0, 256, (2, 10, 10, 3))
    save([given], tmp_path / "pre.json")
    for each in (given, *load(tmp_path / "pre.json")):
        assert np.array_equal(each.codes(pixels.astype(np.uint8)), pixels - 128)
    with pytest.raises(HwgenError, match="Input 'x' takes integers 0 to 255, not 1 to 300"):
        given.codes(np.array([1, 300] * 150).reshape(1, 10, 10, 3))


def test_arrays_may_be_the_files_integers(tmp_path):
    path = file(tmp_path, [CAST, N("Div", ["f", "k255"], ["t"])])
    pixels = RANDOM.integers(0, 256, (2, 3, 10, 10))
    for name, array in (("a", pixels.astype(np.uint8)), ("b", pixels.astype(np.float32) / 255)):
        np.save(tmp_path / f"{name}.npy", array)
    ours = [read(str(path), calibration=tmp_path / f"{n}.npy").calibration()["x"] for n in "ab"]
    assert np.array_equal(*ours)
    assert np.array_equal(ours[0], np.moveaxis(pixels, 1, -1) - 128)
    np.save(tmp_path / "c.npy", pixels + 1)
    with pytest.raises(HwgenError, match="input 'x' takes integers 0 to 255, not 1 to 256"):
        read(str(path), calibration=tmp_path / "c.npy")


@pytest.mark.parametrize("kind, nodes", [
    (TensorProto.INT64, [CAST, N("Identity", ["f"], ["t"])]),
    (TensorProto.UINT8, [CAST, N("Cast", ["x"], ["i"], to=TensorProto.INT32),
                         N("Cast", ["i"], ["j"], to=TensorProto.FLOAT),
                         N("Add", ["f", "j"], ["t"])]),
])
def test_refused(kind, nodes, tmp_path):
    with pytest.raises(HwgenError, match=r"input 'x' is U?INT.*: only inputs of floats are read, "
                                         r"and integers of 8 or 16 bits that"):
        read(str(file(tmp_path, nodes, kind=kind)))
