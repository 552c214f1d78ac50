"""The whole road from Python: what the command line runs, without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest

from hwgen.errors import HwgenError
from hwgen.flow import Options, build
from tests.emit.projects.recorder import named, needs_tcl, recorded
from tests.models.onnx.test_reader import CASES


@pytest.fixture
def network(tmp_path: Path) -> str:
    """A small network with a residual, from a file."""
    path = tmp_path / "small.onnx"
    onnx.save(CASES["residual"], path)
    return str(path)


@pytest.mark.network
def test_a_build_from_python(network: str, tmp_path: Path) -> None:
    """It is the one of the command line: phases in order, and a design that can be given back."""
    phases = []

    @contextmanager
    def phase(name: str) -> Iterator:
        phases.append(name)
        yield lambda detail: None

    shown: list[object] = []
    built = build(Options(network, "zedboard", target_fps=20000, accuracy=True), phase=phase,
                  show=shown.append)
    assert phases == ["network", "accuracy", "search", "emit"]
    assert len(shown) == 1
    assert built.report["fps"] >= 20000
    assert built.report["interval_cycles"] == built.found.timing.interval
    assert built.report["worst_layer"]
    folder = tmp_path / "written"
    built.write(str(folder))
    assert {path.name for path in folder.iterdir()} >= {
        "rtl", "design.json", "graph.npz", "float.onnx", "pre.json", "report.json",
        "report.html", "manifest.json"}
    # Again, as the command does it: what the user put there stays.
    (folder / "notes.txt").write_text("mine")
    built.write(folder)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "report.json").write_text("mine")
    with pytest.raises(HwgenError, match=r"foreign holds files"):
        built.write(tmp_path / "foreign")
    assert json.loads((folder / "report.json").read_text()) == built.report
    again = build(Options(str(folder / "graph.npz"), "zedboard", report_only=True,
                          design=str(folder / "design.json")))  # type: ignore[arg-type]
    assert again.found.limit == "design"
    assert again.rtl is None
    assert again.found.design == built.found.design


@needs_tcl
@pytest.mark.network
def test_a_project(network: str, tmp_path: Path) -> None:
    """A kind that has to have a shell brings it, and what it lists is there."""
    with pytest.raises(HwgenError, match=r"^Project xrt does not fit board zedboard: "):
        build(Options(network, "zedboard", project="xrt"))
    out = tmp_path / "out"
    build(Options(network, "zedboard", target_fps=20000, project="vivado",
                  prefix="mine_")).write(out)
    assert (out / "accelerator.json").exists()
    assert "#define ACCELERATOR_PORTS" in (out / "accelerator.h").read_text()
    calls = recorded(out / "vivado" / "build.tcl")
    added = [Path(name) for name in named(calls, "add_files")[0][1].split()]
    assert {path.name for path in added} == {
        path.name for path in (out / "rtl").iterdir() if path.suffix in (".v", ".mem")}
    assert all(path.name.startswith("mine_") for path in added)
    assert ("top", "mine_top", "<current_fileset>") in named(calls, "set_property")


@pytest.mark.parametrize("wrong, message", [
    ({"outputs": "scores"}, "outputs must be a sequence of names, not the text 'scores'"),
    ({"mean": "0.5"}, "mean must be a sequence of numbers, not '0.5'"),
    ({"std": 0.5}, "std must be a sequence of numbers, not 0.5"),
    ({"size": "32"}, "size must be a whole number, 1 or more, not '32'"),
    ({"seed": -1}, "seed must be a whole number, 0 or more, not -1"),
    ({"prefix": "8_"}, "prefix must be a letter, then letters, digits and underscores, not '8_'"),
    ({"target_fps": "abc"}, "target_fps must be a number, 0 or more, not 'abc'"),
    ({"target_fps": -1}, "target_fps must be a number, 0 or more, not -1"),
])
def test_values_are_checked(wrong: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        Options("resnet8", "zedboard", **wrong)
    assert Options("resnet8", "zedboard", design="d.json").design == Path(  # type: ignore[arg-type]
        "d.json")


def test_what_does_not_go_together_is_refused(network: str) -> None:
    with pytest.raises(HwgenError, match=r"^simulate has no effect with report_only: "):
        build(Options(network, "zedboard", simulate=3, report_only=True))
    with pytest.raises(HwgenError, match=r"^clock must be "):
        build(Options(network, "zedboard", clock=99999))
