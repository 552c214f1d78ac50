"""The core file, as FuseSoC reads it."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hwgen import boards
from hwgen.emit.projects import KINDS
from tests.emit.projects.recorder import project, written

FUSESOC = Path(sys.executable).with_name("fusesoc")


def fusesoc(folder: Path, *arguments: str) -> None:
    """Run the tool in the output directory."""
    environment = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"),
                   "XDG_CACHE_HOME": str(folder / "cache"), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run([FUSESOC, "--cores-root", ".", *arguments], cwd=folder, text=True,
                         capture_output=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("board, target", [
    ("zcu104", "synth"), ("zcu104", "lint"), ("ulx3s-85f", "lint")])
def test_targets(board: str, target: str, tmp_path: Path) -> None:
    what = project(board, shell=False, model="8-net v1.2")
    written("fusesoc", what, tmp_path)
    assert [path.name for path in tmp_path.glob("*.core")] == ["n_8_net_v1_2.core"]
    fusesoc(tmp_path, "run", "--setup", "--target", target, "--work-root", "work",
            "hwgen:accelerators:n_8_net_v1_2")
    (path,) = (tmp_path / "work").glob("*.eda.yml")
    found = yaml.safe_load(path.read_text())
    assert found["toplevel"] == "top"
    names = [(Path(each["name"]).name, each["file_type"]) for each in found["files"]]
    assert names == [("a.v", "verilogSource"), ("top.v", "verilogSource"), ("a_0.mem", "mem")]
    # The image is where a tool runs, under the name by which the Verilog asks for it.
    assert (tmp_path / "work" / "a_0.mem").read_text() == "00\n"
    scripts = "".join(path.read_text() for path in (tmp_path / "work").glob("*.tcl"))
    assert ("read_mem {a_0.mem}" in scripts) == (target == "synth")
    assert (what.board.part in scripts) == (target == "synth")


def test_every_kind_and_board() -> None:
    fits = {name: [kind for kind in KINDS if KINDS[kind].fits(boards.load(name))]
            for name in boards.names()}
    assert fits["ulx3s-85f"] == ["fusesoc"]
    assert fits["vcu118"] == ["synthesis", "fusesoc"]
    assert fits["u50"] == ["xrt", "synthesis", "fusesoc"]
    assert fits["zedboard"] == ["vivado", "synthesis", "fusesoc"]
