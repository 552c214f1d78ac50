"""Weights as external data: files of their own beside the model."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from hwgen.errors import HwgenError
from hwgen.models.load import read
from hwgen.models.onnx.reader import normalise
from tests.models.host.test_model import check

N = helper.make_node
RANDOM = np.random.default_rng(0)


def weights(*shape):
    return RANDOM.normal(0, 0.2, shape).astype(np.float32)


def outside(folder, **change):
    """A model whose three constants lie in two files; one of them is a node's."""
    values = {"w": weights(8, 3, 3, 3), "b": weights(8), "k": weights(1, 8, 1, 1)}
    tensors = {}
    for name, value in values.items():
        tensor = tensors[name] = numpy_helper.from_array(value, name)
        file = folder / ("second.bin" if name == "b" else "net.onnx.data")
        with open(file, "ab") as stream:
            stream.write(b"x" * 5)
            at = {"offset": stream.tell(), "length": value.nbytes, **change}
            stream.write(value.tobytes())
        if name == "b":
            del at["length"]
        set_external_data(tensor, **{"location": file.name, **at})
        tensor.ClearField("raw_data")
    graph = helper.make_graph(
        [N("Constant", [], ["k"], value=tensors.pop("k")), N("Conv", ["x", "w", "b"], ["c"]),
         N("Mul", ["c", "k"], ["m"]), N("Relu", ["m"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 6, 6))], tensors.values())
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (folder / "net.onnx").write_bytes(made.SerializeToString())
    return folder / "net.onnx"


def test_goes_in_as_if_it_were_inside(tmp_path):
    path = outside(tmp_path)
    assert check(path) == []
    inside = tmp_path / "inside.onnx"
    onnx.save(onnx.load(path), inside)
    a, b = (read(str(p)).graph for p in (path, inside))
    a.meta["model"] = b.meta["model"] = ""
    a.save(tmp_path / "a.npz")
    b.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_is_found_from_anywhere(tmp_path, monkeypatch):
    store, elsewhere, links = (tmp_path / n for n in ("store", "elsewhere", "links"))
    for folder in (store, elsewhere, links):
        folder.mkdir()
    path = outside(store)
    monkeypatch.chdir(elsewhere)
    want = read(str(path)).graph.nodes
    (links / "net.onnx").symlink_to(path)
    (elsewhere / "other.onnx").symlink_to("../links/net.onnx")
    # A store of blobs, into which links lead from beside the model.
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for k, file in enumerate(("net.onnx", "net.onnx.data", "second.bin")):
        (blobs / str(k)).write_bytes((store / file).read_bytes())
    (blobs / "0.onnx").hardlink_to(blobs / "0")
    for name, k in (("a.onnx", "0"), ("net.onnx.data", "1"), ("second.bin", "2")):
        (elsewhere / name).symlink_to(blobs / k)
    for given in ("../store/net.onnx", "../links/net.onnx", "other.onnx", "a.onnx"):
        got = read(given).graph.nodes
        assert [n.outputs for n in got] == [n.outputs for n in want]


def test_what_is_missing_is_named(tmp_path):
    path = outside(tmp_path)
    with pytest.raises(HwgenError, match=r"constant 'w' lies in the file 'net.onnx.data': give"):
        normalise(path.read_bytes(), "net", None)
    data = tmp_path / "second.bin"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1])
    with pytest.raises(HwgenError, match=r"constant 'b' lies in .*second.bin, which ends before"):
        read(str(path))
    data.unlink()
    with pytest.raises(HwgenError, match=r"'b' lies in .*second.bin, which is missing: put"):
        read(str(path))
    data.mkdir()
    with pytest.raises(HwgenError, match=r"second.bin, which cannot be read: "):
        read(str(path))


@pytest.mark.parametrize("change, message", [
    ({"location": "../net.data"}, "lies in '../net.data', which is no file in the model's folder"),
    ({"location": "/etc/passwd"}, "lies in '/etc/passwd', which is no file in the model's folder"),
    ({"length": 7}, "takes 864 bytes, but the file says '7'"),
    ({"offset": -4}, "but the file says '864' from '-4' on"),
])
def test_refused(change, message, tmp_path):
    with pytest.raises(HwgenError, match=message):
        read(str(outside(tmp_path, **change)))
