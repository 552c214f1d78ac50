"""Runs Tcl scripts for Vivado where there is none, by ``recorder.tcl``, and tells what they did."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen import boards
from hwgen.emit.projects import Project, contents, write
from hwgen.emit.verilog import Rtl
from hwgen.netlist import Netlist
from hwgen.offchip.bus import AxiConfig
from hwgen.offchip.memory_map import MemoryMap, OffChip
from hwgen.shell.shell import ShellConfig
from hwgen.timing import sized
from tests.networks import every_op

RECORDER = Path(__file__).with_name("recorder.tcl")
TCLINT = Path(sys.executable).with_name("tclint")
Call = tuple[str, ...]

needs_tcl = pytest.mark.skipif(shutil.which("tclsh") is None, reason="there is no tclsh")


def netlist(ports: int = 0, data_bits: int = 128) -> Netlist:
    """Some netlist, as if it used off-chip memory through some ports."""
    builder, design = every_op()
    found = sized(builder.graph, design)[1]
    if not ports:
        return found
    names = [f"block_{k}" for k in range(ports)]
    return replace(found, offchip=MemoryMap(
        AxiConfig(data_bits=data_bits), tuple((name,) for name in names),
        {name: 4096 * k for k, name in enumerate(names)},
        dict.fromkeys(names, OffChip(4096, 64)), 4096 * ports))


def project(board: str, ports: int = 0, *, data_bits: int = 128, shell: bool = True,
            clock_mhz: float = 0.0, top: str = "top", model: str = "some-net") -> Project:
    """A project whose Verilog is two empty modules and an image."""
    found, where = netlist(ports, data_bits), boards.load(board)
    rtl = Rtl(top, {
        f"{top}.v": f"module {top}; endmodule\n", "a_0.mem": "00\n",
        "a.v": 'module a; rom #(.INIT("a_0.mem")) rom(); endmodule\n'})
    return Project(model=model, board=where, clock_mhz=clock_mhz or where.clock_mhz,
                   netlist=found, rtl=rtl,
                   shell=ShellConfig(netlist=found) if shell else None)


def written(kind: str, what: Project, folder: Path) -> Path:
    """The directory of a project, written below ``folder``; its Tcl has been looked through."""
    write(contents(kind, what), folder)
    what.rtl.write(folder / "rtl")
    scripts = [str(path) for path in (folder / kind).rglob("*.tcl")]
    if scripts:
        found = subprocess.run([TCLINT, "--style-line-length", "120", *scripts],
                               capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout
    return folder / kind


def recorded(script: Path, *arguments: str, answers: Mapping[str, str] = {},
             message: str = "") -> list[Call]:
    """The calls of a script, in order, words as text.

    Parameters
    ----------
    script : what to run, in the directory where it is
    arguments : of the script
    answers : what commands answer, by pattern
    message : an error that the script ends with
    """
    log = script.parent / "calls.log"
    words = " ".join(f"{{{key}}} {{{value}}}" for key, value in answers.items())
    ran = subprocess.run(
        ["tclsh", str(RECORDER), str(log), words, str(script), *arguments],
        capture_output=True, text=True, check=False, cwd=script.parent)
    assert (ran.returncode != 0) == bool(message), ran.stderr
    assert message in ran.stderr
    return [tuple(line.split("\t")) for line in log.read_text().splitlines()]


def named(calls: list[Call], name: str) -> list[Call]:
    """The arguments of all calls of a command."""
    return [call[1:] for call in calls if call[0] == name]


def properties(calls: list[Call]) -> dict[str, str]:
    """All properties that were set with ``-dict``, by name."""
    found: dict[str, str] = {}
    for _, pairs, *_ in (call for call in named(calls, "set_property") if call[0] == "-dict"):
        words = pairs.split()
        found |= dict(zip(words[::2], words[1::2], strict=True))
    return found
