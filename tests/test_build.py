"""The command line, as a user calls it: results, reports, and one line for every wrong input."""

import errno
import hashlib
import html
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest

import hwgen
from hwgen.build import _parser, main
from hwgen.design import DesignPoint
from hwgen.ir import Graph
from hwgen.models import zoo
from hwgen.models.frames.images import photographs, to_stream
from hwgen.models.load import read
from hwgen.models.quantisation import calibrate
from tests.models.float_networks import N, constants_of
from tests.models.float_networks import network as float_network
from tests.models.onnx.test_quantisers import all_coded
from tests.models.onnx.test_reader import CASES

pytestmark = pytest.mark.network

KEYS = {
    "model", "board", "clock_mhz", "macs", "interval_cycles", "latency_cycles", "fps", "dsp", "lut",
    "ff", "bram18", "uram", "offchip", "offchip_bytes_per_frame", "mac_per_dsp_cycle", "layers",
    "host", "seconds", "board_resources", "usable", "search", "first_output_cycles",
    "dsp_mac_share", "seeded", "provenance",
}


@pytest.fixture
def network(tmp_path):
    """A small network with a residual, from a file."""
    path = tmp_path / "small.onnx"
    onnx.save(CASES["residual"], path)
    return str(path)


def test_onnx_file_to_proven_verilog(network, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [network, "--board", "zedboard", "--out", str(out), "--target-fps", "20000"]
    assert main([*arguments, "--simulate", "3"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert set(report) == KEYS | {"simulated"}
    assert report["fps"] >= 20000
    assert report["mac_per_dsp_cycle"] == pytest.approx(
        report["macs"] / report["interval_cycles"] / report["dsp"])
    run = report["simulated"]
    assert run["mismatches"] == 0
    assert run["interval_cycles"] == report["interval_cycles"]
    assert run["latency_cycles"] == report["latency_cycles"]
    assert run["first_output_cycles"] == report["first_output_cycles"] < run["latency_cycles"]
    assert {"frames", "cycles_per_second"} < set(run)
    assert [r["mode"] for r in run["runs"]] == ["paced", "back to back", "random stalls"]
    assert sum(layer["dsp"] for layer in report["layers"]) == report["dsp"]
    assert list(report["seconds"]) == ["network", "search", "emit", "simulate"]
    assert (out / "rtl" / "top.v").exists()
    page = (out / "report.html").read_text()
    assert "<h1>small on zedboard</h1>" in page
    assert "0 mismatches in 3 frames" in page
    assert Graph.load(out / "graph.npz").macs == report["macs"]
    shown = capsys.readouterr().out
    assert "small on zedboard" in shown
    assert "MAC per DSP per cycle" in shown

    # Where it comes from is said everywhere.
    digest = hashlib.sha256(Path(network).read_bytes()).hexdigest()
    assert report["seeded"] is False
    assert report["provenance"] == {
        "tool": f"hwgen {hwgen.__version__}",
        "command": f"hwgen {network} --board zedboard --target-fps 20000 "
                   f"--simulate 3",
        "model": f"{network}, sha256 {digest}", "weights": "of the model's file",
        "precision": "w8a8",
        "calibration": "4 crops of photographs, seeded with 0, ranges by minmax",
        "board": "zedboard, xc7z020clg484-1",
    }
    shown = html.unescape(page)
    assert all(text in shown for text in report["provenance"].values())
    named = set()
    for file in (out / "rtl").glob("*.v"):
        head, _ = file.read_text().split("\n\n", 1)
        lines = [line.removeprefix("// - ") for line in head.splitlines()]
        assert lines[:7] == [f"{key}: {text}" for key, text in report["provenance"].items()]
        assert all(line.startswith("layer: ") for line in lines[7:])
        named |= {line.removeprefix("layer: ") for line in lines[7:]}
    whole = {name for names in named for name in names.split(" and ")}
    assert whole >= {layer["name"] for layer in report["layers"]}

    # The design can be given back, and an earlier build is replaced.
    design = out / "design.json"
    kept = tmp_path / "design.json"
    kept.write_text(design.read_text())
    assert main([*arguments[:-2], "--design", str(kept), "--report-only"]) == 0
    assert not (out / "rtl").exists()
    assert DesignPoint.load(design) == DesignPoint.load(kept)


def test_list(capsys):
    for arguments in (["--list"], ["nope", "--list"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        shown = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in shown[1:]] == zoo.names()
        assert all(zoo.find(line.split()[0]).heads in line for line in shown[1:])


def test_calibration_and_accuracy(tmp_path, capsys):
    """Each option reaches the network, and the report says what it did."""
    (way,) = [a for a in _parser()._actions if a.dest == "calibrate"]
    assert tuple(way.choices) == calibrate.METHODS
    # A large and a small channel between two layers, where equalising helps.
    constants = constants_of(w=(8, 3, 3, 3), v=(8, 8, 1, 1))
    constants["w"][0] *= 50
    constants["v"][:, 0] /= 50
    net = float_network([N("Conv", ["x", "w"], ["c"]), N("Relu", ["c"], ["r"], name="between"),
                         N("Conv", ["r", "v"], ["y"], name="last")], constants,
                        {"x": (1, 3, 64, 64)})
    path = tmp_path / "net.onnx"
    onnx.save(net.model, path)
    out = tmp_path / "out"

    def build(*options):
        assert main([str(path), "--board", "zcu102", "--out", str(out), "--report-only",
                     "--accuracy", "--precision", "w4a4", *options]) == 0
        report = json.loads((out / "report.json").read_text())
        rows = {row["name"]: row for row in report["accuracy"]}
        assert set(report) == KEYS | {"accuracy", "worst_layer"}
        assert list(report["seconds"]) == ["network", "accuracy", "search"]
        worst = report["worst_layer"]
        assert worst["own_db"] == min(r["own_db"] for r in rows.values() if r["op"] != "Input")
        shown = " ".join(capsys.readouterr().out.split())
        assert "accuracy over 4 frames, in dB" in shown
        assert worst["hint"] in shown
        return rows[Graph.load(out / "graph.npz").outputs[0]]["snr_db"]

    plain = build()
    figures = [build("--calibrate", "percentile"), build("--calibrate", "mse"),
               build("--equalise"), build("--correct-bias")]
    assert len({plain, *figures}) == 5
    assert figures[2] > plain + 3


def test_sparse(network, tmp_path, capsys):
    """Statistics are measured, kept, read again, and refused for another network."""
    out, again = tmp_path / "out", tmp_path / "again"
    arguments = ["resnet8", "--board", "zedboard", "--report-only", "--sparse"]
    assert main([*arguments, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert set(report) == KEYS | {"sparsity"}
    sparsity = report["sparsity"]
    assert sparsity["layers"]
    assert all(0 < layer["density"] < 0.9 for layer in sparsity["layers"].values())
    assert any("seeded" in text for text in sparsity["assumptions"])
    assert report["seeded"] is True
    assert report["provenance"]["weights"] == "seeded with 0, not trained"
    page = (out / "report.html").read_text()
    assert "Weights are seeded, not trained" in page
    assert "all times are means" in page
    assert "to the cycle" not in page
    shown = " ".join(capsys.readouterr().out.split())
    assert "not trained" in shown
    # What was made of it still knows.
    graph = str(out / "graph.npz")
    assert main([graph, "--board", "zedboard", "--report-only", "--target-fps", "1000",
                 "--out", str(tmp_path / "npz")]) == 0
    made = json.loads((tmp_path / "npz" / "report.json").read_text())
    assert made["seeded"] is True
    assert made["provenance"]["weights"] == report["provenance"]["weights"]
    assert made["provenance"]["model"].startswith(f"{graph}, sha256 ")
    rows = {layer["name"]: layer for layer in report["layers"]}
    for name in sparsity["layers"]:
        assert rows[name]["block"] == "SparseConv"
        assert rows[name]["products_per_dsp"] == 2
        assert rows[name]["folding"]["sparse"]["cycles"] > 0
        # A pair that is zero takes no cycle.
        assert rows[name]["interval_cycles"] < 0.95 * rows[name]["dense_cycles"]
    statistics = str(out / "sparsity.npz")
    assert main([*arguments, statistics, "--out", str(again)]) == 0
    assert (again / "design.json").read_bytes() == (out / "design.json").read_bytes()
    assert "sparse layers" in capsys.readouterr().out
    other = [network, "--board", "zedboard", "--sparse", statistics, "--out", str(tmp_path / "no")]
    assert main(other) == 2
    assert "statistics" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_images_are_photographs(network):
    source = read(network)
    wanted = to_stream(photographs(3, (16, 16), 6), source.graph)
    got = source.frames(3, 5)
    assert list(got) == list(wanted)
    assert all(np.array_equal(got[n], wanted[n]) for n in wanted)


def test_inputs_that_are_no_images(tmp_path, capsys):
    """Film, sound and a vector, all at once."""
    net = float_network(
        [N("Conv", ["film", "a"], ["moving"], pads=[1] * 6),
         N("Conv", ["sound", "b"], ["heard"], strides=[2]),
         N("Gemm", ["vector", "c"], ["felt"], transB=1)],
        constants_of(a=(4, 3, 3, 3, 3), b=(4, 2, 5), c=(6, 9)),
        {"film": (1, 3, 4, 8, 8), "sound": (1, 2, 50), "vector": (1, 9)},
        ("moving", "heard", "felt"),
    )
    path, out = tmp_path / "net.onnx", tmp_path / "out"
    onnx.save(net.model, path)
    assert main([str(path), "--board", "zcu102", "--target-fps", "20000", "--out", str(out),
                 "--simulate", "2"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["simulated"]["mismatches"] == 0
    assert report["simulated"]["frames"] == 2
    assert "mismatches in 2 frames" in capsys.readouterr().out


def test_edited_design(network, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [network, "--board", "zcu102", "--out", str(out), "--report-only"]
    assert main(arguments) == 0
    body = json.loads((out / "design.json").read_text())
    edited = tmp_path / "edited.json"

    def attempt():
        edited.write_text(json.dumps(body))
        status = main([*arguments, "--design", str(edited)])
        return status, capsys.readouterr().err

    capsys.readouterr()
    edge = max(body["edges"], key=lambda name: body["edges"][name]["depth"])
    depth = body["edges"][edge]["depth"]
    body["edges"][edge]["depth"] = depth - 1
    status, err = attempt()
    assert status == 2
    assert f"edge '{edge}' needs a depth of {depth}, not {depth - 1}" in err
    assert "deadlocks" in err
    body["edges"][edge]["depth"] = 0
    assert attempt() == (0, "")
    body["edges"][edge]["depth"] = depth + 10
    assert attempt() == (0, "")
    body["board"] = "u50"
    assert "is a design for board 'u50', not 'zcu102'" in attempt()[1]


@pytest.mark.parametrize("table, field, value, message", [
    ("ops", "channel_lanes", 999, r"{name}.*hannel lanes must be between 1 and \d+, not 999"),
    ("ops", "pe", 0, r"op '{name}': pe must be a positive integer, not 0"),
    ("ops", "pe", "8", r"op '{name}': pe must be a positive integer, not '8'"),
    ("ops", "multiplier", "abacus", r"op '{name}': multiplier must be one of 'dsp48e2', .*abacus"),
    ("ops", "weight_style", "tape", r"op '{name}': weight_style must be one of '', .*'tape'"),
    ("ops", "lane", 1, r"op '{name}': lane is not one of channel_lanes, tap_lanes, "),
    ("tensors", "lanes", 7, r"[Ll]anes must (divide|be)"),
    ("tensors", "pixels", 5, r"Pixels a beat must divide the extent \d+, not 5"),
    ("tensors", "pixels", 0, r"tensor '{name}': pixels must be a positive integer, not 0"),
    ("edges", "memory", "tape", r"edge '{name}': memory must be one of 'distributed', .*'tape'"),
    ("edges", "depth", -1, r"edge '{name}': depth must be a positive integer, not -1"),
    ("edges", "depth", 10**8, r"needs \d+ \w+, \d+ of them for the queue '{name}'; board zcu102"),
])
def test_illegal_design(network, tmp_path, capsys, table, field, value, message):
    """An illegal value is refused with what it is of, the field, and what is legal."""
    out = tmp_path / "out"
    arguments = [network, "--board", "zcu102", "--out", str(out), "--report-only"]
    assert main(arguments) == 0
    body = json.loads((out / "design.json").read_text())
    name = next(iter(body[table]))
    body[table][name][field] = value
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(body))
    capsys.readouterr()
    assert main([*arguments, "--design", str(edited)]) == 2
    assert re.search(message.replace("{name}", re.escape(name)), capsys.readouterr().err)


def test_same_input_same_bytes(network, tmp_path):
    for name in ("a", "b"):
        assert main([network, "--board", "zedboard", "--out", str(tmp_path / name),
                     "--target-fps", "2000"]) == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 10
    for file in files:
        if file.name not in ("report.json", "manifest.json"):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("arguments, message", [
    (["nope", "--board", "zcu102"], "Model 'nope' is unknown: give one of yolov5n"),
    (["yolov5n", "--board", "nope"], "Board 'nope' is unknown: give one of kv260"),
    (["yolov5n"], "required: --board"),
    (["yolov5n", "--board", "zcu102", "--size", "100"], "not 100: try 96 or 128"),
    (["yolov5n", "--board", "zcu102", "--size", "0"], "must be between 1 and 1000000"),
    (["yolov5n", "--board", "zcu102", "--simulate", "x"], "invalid count value"),
    (["yolov5n", "--board", "zcu102", "--precision", "int8"], "Precision must look like 'w8a8'"),
    (["yolov5n", "--board", "zcu102", "--weights", "none.pt"], "none.pt is not a state dict"),
    (["yolov5n", "--board", "zcu102", "--calibration", "none"], "none does not exist: give a"),
    (["missing.onnx", "--board", "zcu102"], "missing.onnx cannot be read"),
    (["NET", "--board", "zcu102", "--target-fps", "1e8"], "out of reach on zcu102"),
    (["NET", "--board", "zcu102", "--design", "none.json"], "none.json cannot be read: No such"),
    (["GEMM", "--board", "zcu102", "--size", "8"], "cannot be run"),
    (["BAD", "--board", "zcu102"], "is not a valid ONNX file"),
    (["ODD", "--board", "zcu102"], "op 'Det' is not supported here; docs/conformance"),
    (["NET", "--board", "zcu102", "--calibrate", "max"], "--calibrate: invalid choice: 'max'"),
    (["NET", "--board", "zcu102", "--precision", "none.toml"], "none.toml cannot be read"),
    (["NET", "--board", "zcu102", "--decomposition", "none.json"],
     "Decomposition file none.json cannot be read: No such file or directory"),
    (["NET", "--board", "zcu102", "--clock", "999999"],
     "--clock must be from 1 to 891 MHz on board zcu102, the most of ultrascale+ devices"),
    (["NET", "--board", "zcu102", "--target-fps", "1e-4"], "must be between 0.001 and 1e9"),
    (["NET", "--board", "zcu102", "--target-fps", "9e8"], "a frame takes a cycle at least"),
    (["NET", "--board", "zcu102", "--seed", "-1"], "must be between 0 and 2147483647"),
    (["NET", "--board", "zcu102", "--weights", "w.pt"], "--weights has no effect on"),
    (["NET", "--board", "zcu102", "--design", "d.json", "--objective", "throughput"],
     "--objective has no effect with --design: the design says it already"),
    (["NET", "--board", "zcu102", "--report-only", "--simulate", "2"],
     "--simulate has no effect with --report-only: there is no Verilog then"),
    (["graph.npz", "--board", "zcu102", "--precision", "w8a8"],
     "--precision has no effect on graph.npz: it is integer already"),
])
def test_one_line_for_wrong_input(arguments, message, network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"\x08garbage")
    odd = onnx.load(network)
    odd.graph.node.append(N("Det", ["y"], ["z"], name="top"))
    odd.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="z"))
    onnx.save(odd, tmp_path / "odd.onnx")
    onnx.save(CASES["gemm"], tmp_path / "gemm.onnx")
    names = {"GEMM": "gemm.onnx", "NET": network, "BAD": "bad.onnx", "ODD": "odd.onnx"}
    before = sorted(tmp_path.iterdir())
    status = main([names.get(a, a) for a in arguments])
    err = capsys.readouterr().err
    assert status == 2
    assert np.char.count(err, "\n") == 1
    assert any(part in err for part in message.split("|")), err
    assert [p for p in sorted(tmp_path.iterdir()) if p not in before and any(p.iterdir())] == []


@pytest.mark.parametrize("given, message", [
    (["--seed", "5"], "--seed has no effect on coded.onnx without --simulate, --accuracy or --spa"),
    (["--calibration", "frames.npy"], "--calibration has no effect on coded.onnx without --accu"),
    (["--calibration", "frames.npy", "--seed", "5", "--accuracy"],
     "--seed has no effect on coded.onnx without --simulate: nothing is drawn"),
    (["--seed", "5", "--accuracy"], ""),
    (["--calibration", "frames.npy", "--accuracy"], ""),
])
def test_frames_of_a_file_that_states_all_codes(given, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(all_coded(), "coded.onnx")
    np.save("frames.npy", np.random.default_rng(0).random((2, 3, 12, 12)))
    arguments = ["coded.onnx", "--board", "zcu104", "--report-only", "--out", "out", *given]
    assert main(arguments) == (2 if message else 0)
    assert message in capsys.readouterr().err
    assert Path("out").exists() == (not message)


def test_output_directory(network, tmp_path, capsys):
    arguments = [network, "--board", "zcu102", "--report-only", "--out"]
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("")
    assert main([*arguments, str(foreign)]) == 2
    assert "holds files, and no manifest.json that says" in capsys.readouterr().err
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    assert main([*arguments, str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_fault_of_the_system_names_its_file(network, tmp_path, capsys, monkeypatch):
    def fails(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "c++")

    monkeypatch.setattr(import_module("hwgen.models.load"), "read", fails)
    out = tmp_path / "out"
    assert main([network, "--board", "zcu102", "--out", str(out)]) == 2
    assert capsys.readouterr().err == "hwgen: c++: No such file or directory\n"
    assert not out.exists()


@pytest.mark.parametrize("wrong", [
    ["--clock", "99999"], ["--design", "none.json"], ["--simulate", "2", "--report-only"],
])
def test_wrong_options_touch_nothing(wrong, network, tmp_path, monkeypatch, capsys):
    """Not even the directory around the output is made."""
    place = tmp_path / "empty"
    place.mkdir()
    monkeypatch.chdir(place)
    assert main([network, "--board", "zedboard", *wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert list(place.iterdir()) == []
