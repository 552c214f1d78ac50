"""A build put to work: the file's outputs by reference and by Verilog, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hwgen.build import main as build
from hwgen.errors import HwgenError
from hwgen.models.frames.images import fit
from hwgen.models.frames.images import photographs as crops
from hwgen.models.host.inputs import load
from hwgen.run import Accelerator, main
from tests.models.float_networks import N
from tests.models.onnx.test_pixels import CAST
from tests.models.onnx.test_pixels import file as of_pixels


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


def test_float_is_the_file_itself(built: Path) -> None:
    frames = {"image": np.random.default_rng(1).random((3, 6, 8, 3), np.float32)}
    (ours,) = Accelerator.load(built / "out").run(frames, by="float").values()
    (wanted,) = onnxruntime.InferenceSession(built / "net.onnx").run(None, frames)
    np.testing.assert_allclose(ours, np.asarray(wanted), rtol=1e-5)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes, none of them the network's."""
    folder = tmp_path_factory.mktemp("photographs")
    for k, size in enumerate([(40, 60), (50, 20), (3, 3)]):
        Image.fromarray(crops(3, size)[k]).save(folder / f"{k}.{'png' if k else 'JPG'}")
    return folder


def test_photographs_of_any_size(
    built: Path, photographs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "classes.npz"
    assert main([str(built / "out"), str(photographs), "--compare", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"images of {photographs}, scaled into 6 x 8: 3\n" in shown.out
    assert float(re.findall(r"classes: .*; ([\d.]+) dB to those by float", shown.out)[0]) > 30
    assert not shown.err
    images = np.stack([fit(path, (6, 8)) for path in sorted(photographs.iterdir())])
    (wanted,) = Accelerator.load(built / "out").run({"image": images / 255}).values()
    np.testing.assert_array_equal(np.load(out)["classes"], wanted)
    one = sorted(photographs.iterdir())[1]
    assert main([str(built / "out"), str(one), "--by", "float"]) == 0
    assert f"images of {one}, scaled into 6 x 8: 1\n" in capsys.readouterr().out


def test_all_frames_are_run(built: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "frames.npy", np.random.default_rng(2).random((70, 6, 8, 3)))
    assert main([str(built / "out"), str(tmp_path / "frames.npy"), "--out",
                 str(tmp_path / "out.npz")]) == 0
    assert len(np.load(tmp_path / "out.npz")["classes"]) == 70


def test_normalised_photographs(
    built: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are normalised as was said to the build; arrays are as the file takes them."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = str(built / "normalised")
    assert build([str(built / "net.onnx"), "--board", "zedboard", "--out", out, "--report-only",
                  "--target-fps", "1000", "--mean", ",".join(map(str, mean)),
                  "--std", ",".join(map(str, std)), "--calibration", str(photographs)]) == 0
    report = json.loads((Path(out) / "report.json").read_text())
    assert (f"3 images of {photographs}, scaled into 6 x 8, normalised by mean 0.485,0.456,0.406 "
            "and std 0.229,0.224,0.225" in report["provenance"]["calibration"])
    (given,) = load(Path(out) / "pre.json")
    assert (given.mean, given.std, given.pixels) == (mean, std, False)
    capsys.readouterr()
    images = np.stack([fit(path, (6, 8)) for path in sorted(photographs.iterdir())])
    frames = ((images / 255 - mean) / std).astype(np.float32)
    (wanted,) = Accelerator.load(out).run({"image": frames}).values()
    saved = built / "normalised.npz"
    assert main([out, str(photographs), "--out", str(saved), "--compare"]) == 0
    np.testing.assert_array_equal(np.load(saved)["classes"], wanted)
    shown = capsys.readouterr()
    assert float(re.findall(r"; ([\d.]+) dB", shown.out)[0]) > 30
    assert not shown.err
    # The same from the integer graph alone.
    assert build([f"{out}/graph.npz", "--board", "zedboard", "--out", str(built / "again"),
                  "--target-fps", "1000", "--report-only"]) == 0
    for name in ("pre.json", "float.onnx", "host.onnx"):
        assert (built / "again" / name).read_bytes() == (Path(out) / name).read_bytes()


def test_photographs_where_arrays_were_shown(
    built: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(built / "frames.npy", np.random.default_rng(2).normal(size=(4, 6, 8, 3)))
    out = str(built / "arrays")
    assert build([str(built / "net.onnx"), "--board", "zedboard", "--out", out, "--report-only",
                  "--target-fps", "1000", "--calibration", str(built / "frames.npy")]) == 0
    capsys.readouterr()
    assert main([out, str(photographs)]) == 0
    assert ("hwgen: warning: Input 'image' is shown images as pixel / 255, but was calibrated on -"
            in capsys.readouterr().err)
    np.save(built / "pixels.npy", np.random.default_rng(2).integers(0, 256, (20, 6, 8, 3)) / 1)
    assert main([out, str(built / "pixels.npy")]) == 0
    # Two batches of frames, one warning.
    warned = capsys.readouterr().err.splitlines()
    assert 1 <= len(warned) <= 3
    assert all("of the values are clipped, because they go from 0 to 255" in line
               for line in warned)


def test_integers_that_the_file_takes(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = of_pixels(tmp_path, [CAST, N("Div", ["f", "k255"], ["t"])])
    out = str(tmp_path / "out")
    assert build([str(net), "--board", "zedboard", "--out", out, "--report-only",
                  "--target-fps", "1000"]) == 0
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 10, 10), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    capsys.readouterr()
    for frames in (tmp_path / "pixels.npy", photographs):
        assert main([out, str(frames), "--compare"]) == 0
        shown = capsys.readouterr()
        # Noise goes beyond what photographs did in the calibration.
        assert float(re.findall(r"; ([\d.]+) dB", shown.out)[0]) > 20
        assert not shown.err
    (wanted,) = onnxruntime.InferenceSession(net).run(None, {"x": pixels[:1]})
    (ours,) = Accelerator.load(out).run({"x": pixels[:1]}, by="float").values()
    np.testing.assert_allclose(ours, np.asarray(wanted), rtol=1e-4, atol=1e-5)


def test_frames_that_cannot_be_shown(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, which names the thing and the way out."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "a.jpg").write_text("mine")
    np.save(tmp_path / "bytes.npy", np.zeros((1, 6, 8, 3), np.uint8))
    np.save(tmp_path / "turned.npy", np.zeros((1, 3, 6, 8), np.float32))
    np.savez(tmp_path / "several.npz", a=np.zeros(3), b=np.zeros(3))
    for name, message in {
        "none": "none does not exist: give a directory of images or arrays, an image, or",
        "none.npy": "none.npy cannot be read: No such file",
        "empty": "empty holds no image (.bmp, .jpeg, .jpg, .png, .webp) and no .npy file",
        "notes.txt": "notes.txt is not a directory of images or arrays, nor an image (.bmp",
        "a.jpg": "a.jpg cannot be read as an image",
        "bytes.npy": "input 'image' takes floats, not uint8: save the values as the network takes",
        "turned.npy": "input 'image' needs shape (1, 6, 8, 3) (or that of a batch), not (1, 3,",
        "several.npz": "holds 'a', 'b', but the network's inputs are 'image': give an .npz file",
    }.items():
        assert main([str(built / "out"), str(tmp_path / name)]) == 2
        shown = capsys.readouterr()
        assert message in shown.err
        assert shown.err.count("\n") == 1
    assert main([str(built / "out"), "--by", "float", "--compare"]) == 2
    assert "--compare has no effect with --by float" in capsys.readouterr().err


def test_a_build_without_its_float_network(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("graph.npz", "design.json", "host.onnx", "pre.json"):
        (tmp_path / name).write_bytes((built / "out" / name).read_bytes())
    assert main([str(tmp_path), "--by", "float"]) == 2
    assert "float.onnx is missing: build from the network's own file" in capsys.readouterr().err
    (tmp_path / "host.onnx").unlink()
    assert main([str(tmp_path), "--compare"]) == 2
    assert "has no host.onnx that fits" in capsys.readouterr().err


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
    ({"image": np.zeros((0, 6, 8, 3))}, r"^There must be at least one frame$"),
    ({"image": np.zeros((6, 8, 3))}, r"takes frames of shape \(6, 8, 3\) in an array"),
    ({"image": np.zeros((1, 3, 6, 8))}, r"not \(1, 3, 6, 8\)"),
    ({"image": np.zeros((1, 6, 8, 3), np.uint8)}, r"takes floats as the file does, .*pixels / 255"),
])
def test_refuses_frames(built: Path, frames: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        Accelerator.load(built / "out").run(frames)
    with pytest.raises(HwgenError, match=message):
        Accelerator.load(built / "out").run(frames, by="float")


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
