"""A build put to work: the file's outputs by reference and by Verilog, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.build import main as build
from hwgen.errors import HwgenError
from hwgen.models.host.inputs import load
from hwgen.run import Accelerator, main
from tests.models.float_networks import N


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build of a file that takes and gives channels last, with a Softmax left to the host."""
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    weights = (random.standard_normal((6, 3, 3, 3)) / 3).astype(np.float32)
    graph = helper.make_graph(
        [N("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]),
         N("Conv", ["t", "w"], ["c"], pads=[1] * 4), N("Relu", ["c"], ["r"]),
         N("Transpose", ["r"], ["u"], perm=[0, 2, 3, 1]), N("Softmax", ["u"], ["classes"])],
        "net", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ("n", 6, 8, 3))],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ("n", 6, 8, 6))],
        [numpy_helper.from_array(weights, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, folder / "net.onnx")
    assert build([str(folder / "net.onnx"), "--board", "zedboard", "--out", str(folder / "out"),
                  "--target-fps", "1000", "--report-only"]) == 0
    return folder


def test_frames_in_and_the_outputs_of_the_file_out(built: Path) -> None:
    accelerator = Accelerator.load(built / "out")
    (described,) = load(built / "out" / "pre.json")
    assert (described.name, described.shape, described.channel_axis) == ("image", (1, 6, 8, 3), 3)
    assert described.pixels
    frames = np.random.default_rng(1).random((3, 6, 8, 3), np.float32)
    (ours,) = accelerator.run({"image": frames}).values()
    found = onnxruntime.InferenceSession(built / "net.onnx").run(None, {"image": frames})
    wanted = np.asarray(found[0])
    assert ours.shape == wanted.shape
    assert abs(ours - wanted).max() < 0.02


@pytest.mark.verilator
def test_verilog_gives_the_same(built: Path) -> None:
    accelerator = Accelerator.load(built / "out")
    frames = {"image": np.random.default_rng(1).random((2, 6, 8, 3), np.float32)}
    by = [accelerator.run(frames, by=way)["classes"] for way in ("reference", "verilog")]
    np.testing.assert_array_equal(*by)


def test_pixels_are_codes(built: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 6, 8, 3))
    (codes,) = Accelerator.load(built / "out").codes({"image": pixels / 255}).values()
    np.testing.assert_array_equal(codes, pixels - 128)


def test_command_line(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = np.random.default_rng(2).random((2, 6, 8, 3), np.float32)
    np.save(tmp_path / "frames.npy", frames)
    out = tmp_path / "classes.npz"
    assert main([str(built / "out"), str(tmp_path / "frames.npy"), "--out", str(out)]) == 0
    assert "classes: float32 (2, 6, 8, 6)" in capsys.readouterr().out
    assert np.load(out)["classes"].shape == (2, 6, 8, 6)
    assert main([str(tmp_path / "nothing")]) == 2
    assert "is not a directory that a build wrote" in capsys.readouterr().err


@pytest.mark.parametrize("frames, message", [
    ({}, r"inputs are 'image', not none"),
    ({"picture": np.zeros((1, 6, 8, 3))}, r"inputs are 'image', not 'picture'"),
    ({"image": np.zeros((6, 8, 3))}, r"takes frames of shape \(6, 8, 3\) in an array"),
    ({"image": np.zeros((1, 3, 6, 8))}, r"not \(1, 3, 6, 8\)"),
    ({"image": np.zeros((1, 6, 8, 3), np.uint8)}, r"takes floats as the file does, .*pixels / 255"),
])
def test_refuses_frames(built: Path, frames: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        Accelerator.load(built / "out").run(frames)


def test_refuses_other_ways_and_files(built: Path, tmp_path: Path) -> None:
    accelerator = Accelerator.load(built / "out")
    with pytest.raises(HwgenError, match="by reference, verilog or float, not 'magic'"):
        accelerator.run({"image": np.zeros((1, 6, 8, 3))}, by="magic")
    for name in ("graph.npz", "design.json", "host.onnx"):
        (tmp_path / name).write_bytes((built / "out" / name).read_bytes())
    with pytest.raises(HwgenError, match=r"pre.json cannot be read"):
        Accelerator.load(tmp_path)
    body = json.loads((built / "out" / "pre.json").read_text())
    body["inputs"][0]["zero_point"] = 3
    (tmp_path / "pre.json").write_text(json.dumps(body))
    with pytest.raises(HwgenError, match=r"does not belong to graph.npz"):
        Accelerator.load(tmp_path)
    (tmp_path / "pre.json").write_text("{")
    with pytest.raises(HwgenError, match=r"does not describe inputs"):
        Accelerator.load(tmp_path)
