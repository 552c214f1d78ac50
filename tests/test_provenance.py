"""What is said of where a design comes from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import hwgen
from hwgen.provenance import command_line, comment, provenance


@pytest.mark.parametrize("given, wanted", [
    ("yolov5n --board zcu102", "yolov5n --board zcu102"),
    ("yolov5n --out x --board zcu102", "yolov5n --board zcu102"),
    ("yolov5n --board zcu102 --out=x", "yolov5n --board zcu102"),
    ("yolov5n --ou x --offchip never", "yolov5n --offchip never"),
    ("yolov5n --outputs a,b", "yolov5n --outputs a,b"),
])
def test_command_line(given: str, wanted: str) -> None:
    """Where a design is put is left out."""
    assert command_line("hwgen", given.split()) == f"hwgen {wanted}"


def test_command_line_can_be_pasted() -> None:
    assert command_line("hwgen", ["my net.onnx", "--board", "x"]) == "hwgen 'my net.onnx' --board x"


def test_files_have_hashes(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(b"network")
    digest = hashlib.sha256(b"network").hexdigest()
    meta = {"weights": "of the model's file", "precision": "w4a8", "calibration": "4 frames"}
    found = provenance("hwgen net.onnx", str(model), "zcu102, xczu9eg", meta,
                       {"design": None, "calibration file": tmp_path})
    assert found == {
        "tool": f"hwgen {hwgen.__version__}", "command": "hwgen net.onnx",
        "model": f"{model}, sha256 {digest}", "weights": "of the model's file",
        "precision": "w4a8", "calibration": "4 frames", "board": "zcu102, xczu9eg",
    }
    assert provenance("", "resnet8", "", meta, {"design": model})["design"].endswith(digest)
    assert provenance("", "resnet8", "", {}, {})["model"] == "resnet8"


def test_comments_hold_any_name() -> None:
    """Names are the network's: no name ends a comment, or makes a directive of it."""
    text = comment(["verilator lint_off", "a\nendmodule", "卷积", "*/"])
    assert text.isascii()
    assert text.splitlines() == [
        "// - verilator lint_off", "// - a endmodule", r"// - \u5377\u79ef", "// - */",
    ]
