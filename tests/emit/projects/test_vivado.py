"""The project for Vivado, as far as it can be told without Vivado."""

import json
import re
from pathlib import Path

import pytest

from hwgen import boards
from hwgen.emit.projects import contents
from hwgen.emit.projects.vivado import PROCESSORS, VIVADO
from hwgen.errors import HwgenError
from tests.emit.projects.recorder import (
    Call,
    named,
    needs_tcl,
    project,
    properties,
    recorded,
    written,
)

BOARDS = [name for name in boards.names() if VIVADO.fits(boards.load(name))]


def edges(calls: list[Call], command: str) -> list[set[str]]:
    """What is connected with what, by the names of pins."""
    return [{re.sub(r"^<get_bd_(intf_)?pins,(.*)>$", r"\2", pin) for pin in pins}
            for pins in named(calls, command)]


def test_boards() -> None:
    assert BOARDS == ["kv260", "pynq-z2", "zc706", "zcu102", "zcu104", "zcu106", "zcu111",
                      "zedboard"]


@needs_tcl
@pytest.mark.parametrize("board", BOARDS)
def test_every_board(board: str, tmp_path: Path) -> None:
    folder = written("vivado", project(board, clock_mhz=123.5), tmp_path)
    calls = recorded(folder / "build.tcl")
    what, rtl = boards.load(board), str(tmp_path / "rtl")
    processor = PROCESSORS[what.processor]
    assert [call[-1] for call in named(calls, "create_project")] == [what.part] * 2
    # The images go with the Verilog, and a missing one is an error wherever synthesis may run.
    assert named(calls, "add_files")[0] == ("-norecurse", f"{rtl}/a.v {rtl}/top.v {rtl}/a_0.mem")
    assert named(calls, "set_msg_config") == [
        ("-id", "Synth 8-4445", "-new_severity", "ERROR")] * 2
    (asked,) = named(calls, "get_board_parts")
    assert asked[-1] == f"*:{what.board_part.split(':')[1]}:*"

    found = properties(calls)
    assert found[f"CONFIG.{processor.clock}"] == "123.5"
    cells = {call[-1]: call[call.index("-vlnv") + 1] for call in named(calls, "create_bd_cell")}
    assert set(cells) == {"ps", "accelerator", "reset", "control", "memory_0"}
    assert f":{processor.ip}:" in cells["ps"]
    assert cells["accelerator"] == "hwgen:hwgen:top:1.0"

    buses = edges(calls, "connect_bd_intf_net")
    assert {"accelerator/m_axi_frames", "memory_0/S00_AXI"} in buses
    assert {"memory_0/M00_AXI", f"ps/{processor.ports.format(0)}"} in buses
    assert {"control/M00_AXI", "accelerator/s_axi_control"} in buses
    clock, *nets = edges(calls, "connect_bd_net")
    assert clock >= {f"ps/{processor.clock_pin}", "accelerator/aclk", "reset/slowest_sync_clk"}
    assert {"reset/peripheral_aresetn", "accelerator/aresetn"} in nets
    assert {"accelerator/interrupt", f"ps/{processor.interrupt_pin}"} in nets
    (given, *rest) = named(calls, "assign_bd_address")
    assert (given[1], given[3], rest) == (f"0x{processor.base:08X}", "4K", [()])

    order = [call[0] for call in calls]
    steps = ["ipx::save_core", "create_bd_design", "assign_bd_address", "validate_bd_design",
             "make_wrapper", "launch_runs", "open_run", "write_hw_platform"]
    assert [order.index(step) for step in steps] == sorted(order.index(step) for step in steps)
    assert {"some_net.bit", "some_net.hwh"} < {path.name for path in folder.iterdir()}


@needs_tcl
@pytest.mark.parametrize("board, first", [("zcu102", 2), ("zedboard", 0)])
@pytest.mark.parametrize("ports", [1, 3, 4])
def test_every_master_has_a_port(board: str, first: int, ports: int, tmp_path: Path) -> None:
    what = project(board, ports, data_bits=64)
    calls = recorded(written("vivado", what, tmp_path) / "build.tcl")
    masters = ["m_axi_frames", *(f"m_axi_{k}" for k in range(ports))]
    buses = edges(calls, "connect_bd_intf_net")
    used = min(4, ports + 1)
    for k, master in enumerate(masters):
        # The fifth shares the port of the frames.
        assert {f"accelerator/{master}", f"memory_{k % 4}/S0{k // 4}_AXI"} in buses
    processor = PROCESSORS[boards.load(board).processor]
    for k in range(used):
        assert {f"memory_{k}/M00_AXI", f"ps/{processor.ports.format(k)}"} in buses
    assert processor.first == first
    given = properties(calls)
    for name, value in zip(processor.port, ("1", str(processor.port_bits)), strict=True):
        found = {key for key in given if re.fullmatch(name.format(r"\d"), key[7:])}
        assert found == {f"CONFIG.{name.format(first + k)}" for k in range(used)}
        assert {given[key] for key in found} == {value}
    packaged = [call[1] for call in named(calls, "ipx::associate_bus_interfaces")
                if call[0] == "-busif"]
    assert packaged == ["s_axi_control", *masters]


@needs_tcl
def test_results(tmp_path: Path) -> None:
    what = project("zcu104")
    folder = written("vivado", what, tmp_path)
    recorded(folder / "build.tcl", "7")
    data = json.loads((folder / "results.json").read_text())
    assert data["clock_mhz"] == {"asked": 250, "set": 249.997498}
    assert data["slack_ns"] == {"setup": 0.125, "hold": 0.125}
    assert data["accelerator"] == {"dsp": 77, "lut": 12345, "ff": 23456, "bram18": 21,
                                   "uram": None}
    assert data["predicted"] == vars(what.predicted)
    assert what.shell is not None
    assert what.predicted == what.netlist.resources() + what.shell.area().resources()


@needs_tcl
@pytest.mark.parametrize("answers, message", [
    ({"get_property STATS.WNS *": "-0.01"},
     "the slack (setup) is -0.01 ns: the design is too slow for 249.99"),
    ({"get_property STATS.WHS *": "-0.2"}, "the slack (hold) is -0.2 ns"),
    ({"get_board_parts *": ""}, "Vivado has no board file xilinx.com:zcu104:part0"),
    ({"get_ipdefs *smartconnect*": ""}, "this Vivado has no IP smartconnect"),
    ({"get_property PROGRESS *": "40%"}, "the build has ended before its bitstream"),
])
def test_what_goes_wrong(answers: dict[str, str], message: str, tmp_path: Path) -> None:
    folder = written("vivado", project("zcu104"), tmp_path)
    recorded(folder / "build.tcl", answers=answers, message=message)
    assert not (folder / "some_net.bit").exists()


@needs_tcl
def test_a_missing_image(tmp_path: Path) -> None:
    folder = written("vivado", project("zcu104"), tmp_path)
    (tmp_path / "rtl" / "a_0.mem").unlink()
    recorded(folder / "build.tcl", message="a.v wants the image a_0.mem, which is not there")


@needs_tcl
def test_the_recorder_refuses(tmp_path: Path) -> None:
    """Or all of the above would say little."""
    script = tmp_path / "wrong.tcl"
    for line, message in (
            ("create_projekt x", "create_projekt is no command of Tcl"),
            ("create_project -parts y", "create_project has no option -parts"),
            ("create_project -part", "create_project: -part wants a value")):
        script.write_text(line)
        recorded(script, message=message)


def test_memory_that_is_not_the_processor_s() -> None:
    with pytest.raises(HwgenError, match=r"^Project vivado reaches off-chip memory through ports "
                                         r"of the processor, which have 64 bits, and those of "
                                         r"this design for board zc706 have 512: .*$"):
        contents("vivado", project("zc706", 1, data_bits=512))


def test_boards_without_a_processor() -> None:
    with pytest.raises(HwgenError, match=r"^Project vivado does not fit board u50: it wants a "
                                         r"processor .* \(kv260, .*, zedboard\); .*$"):
        contents("vivado", project("u50"))
    with pytest.raises(HwgenError, match=r"^Project 'ise' is unknown: give one of vivado"):
        contents("ise", project("zcu104"))
