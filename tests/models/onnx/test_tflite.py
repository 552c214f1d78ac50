"""TFLite files, by tf2onnx where it is installed."""

import sys
from types import ModuleType

import onnx
import pytest

from hwgen.build import main
from hwgen.errors import HwgenError
from hwgen.models.load import read
from tests.models.float_networks import N
from tests.models.host.test_model import file
from tests.models.whole import weights


@pytest.fixture
def path(tmp_path):
    """The first bytes of a TFLite file."""
    path = tmp_path / "net.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    return path


def installed(monkeypatch, function):
    """Let tf2onnx be a module that converts with a function."""
    convert = ModuleType("tf2onnx.convert")
    monkeypatch.setattr(convert, "from_tflite", function, raising=False)
    monkeypatch.setitem(sys.modules, "tf2onnx", ModuleType("tf2onnx"))
    monkeypatch.setitem(sys.modules, "tf2onnx.convert", convert)


def test_without_tf2onnx(path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    monkeypatch.setitem(sys.modules, "tf2onnx.convert", None)
    assert main([str(path), "--board", "zcu102"]) == 2
    (line,) = " ".join(capsys.readouterr().err.split()).split("\n")
    assert "pip install tf2onnx" in line
    assert "python -m tf2onnx.convert --tflite" in line


def test_with_tf2onnx(path, monkeypatch, tmp_path):
    made = onnx.load(file(tmp_path, [N("Conv", ["x", "w"], ["y"])], {"w": weights(4, 3, 3, 3)}))
    asked = []

    def convert(name, opset):
        asked.append((name, opset))
        return made, None

    installed(monkeypatch, convert)
    source = read(str(path))
    assert asked == [(str(path), 17)]
    assert source.graph.meta["model"] == "net"
    with pytest.raises(HwgenError, match="has its own"):
        read(str(path), weights=path)


def test_what_tf2onnx_does_not_know(path, monkeypatch):
    def convert(name, opset):
        raise ValueError("no such op\nand more")

    installed(monkeypatch, convert)
    with pytest.raises(HwgenError, match=r"net\.tflite cannot be converted .*: no such op$"):
        read(str(path))


def test_files_that_are_none(tmp_path):
    with pytest.raises(HwgenError, match="cannot be read: No such file"):
        read(str(tmp_path / "net.tflite"))
    (tmp_path / "net.tflite").write_bytes(b"PK")
    with pytest.raises(HwgenError, match="is not a TFLite file"):
        read(str(tmp_path / "net.tflite"))
