"""Synthesis alone by Vivado, as far as it can be told without Vivado."""

import json
from pathlib import Path

import pytest

from hwgen import boards
from hwgen.emit.projects.synthesis import SYNTHESIS
from tests.emit.projects.recorder import named, needs_tcl, project, recorded, written

BOARDS = [name for name in boards.names() if SYNTHESIS.fits(boards.load(name))]


def test_boards() -> None:
    assert set(boards.names()) - set(BOARDS) == {"ulx3s-85f"}


@needs_tcl
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("route", [False, True])
def test_every_board(board: str, route: bool, tmp_path: Path) -> None:
    what = project(board, shell=False, clock_mhz=300)
    folder = written("synthesis", what, tmp_path)
    calls = recorded(folder / "synthesis.tcl", *["route"] * route)
    rtl = tmp_path / "rtl"
    assert named(calls, "read_verilog") == [(f"{rtl}/a.v {rtl}/top.v",)]
    assert named(calls, "read_mem") == [(f"{rtl}/a_0.mem",)]
    assert named(calls, "read_xdc") == [("-mode", "out_of_context", str(folder / "clock.xdc"))]
    assert (folder / "clock.xdc").read_text() == (
        "create_clock -name aclk -period 3.3333 [get_ports aclk]\n")
    assert named(calls, "synth_design") == [
        ("-top", "top", "-part", what.board.part, "-mode", "out_of_context")]
    assert bool(named(calls, "route_design")) == route
    order = [call[0] for call in calls]
    assert order.index("set_msg_config") < order.index("synth_design")
    data = json.loads((folder / "results.json").read_text())
    assert data["slack_ns"] == {"setup": 0.125, "hold": 0.125 if route else None}
    assert data["predicted"] == vars(what.netlist.resources())
    assert data["whole"]["lut"] == 12345


@needs_tcl
def test_too_slow(tmp_path: Path) -> None:
    folder = written("synthesis", project("zcu104"), tmp_path)
    answers = {"get_timing_paths -hold": "hold", "get_property SLACK hold": "-1",
               "get_property SLACK *": "0.5"}
    recorded(folder / "synthesis.tcl", answers=answers)
    recorded(folder / "synthesis.tcl", "route", answers=answers,
             message="the slack (hold) is -1 ns: the design is too slow for 250 MHz")
    recorded(folder / "synthesis.tcl", answers={"get_property SLACK *": "-0.5"},
             message="the slack (setup) is -0.5 ns")
    assert (folder / "results.json").exists()
