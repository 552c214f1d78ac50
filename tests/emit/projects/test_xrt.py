"""The project for accelerator cards, as far as it can be told without Vitis."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hwgen import boards
from hwgen.emit.projects import contents
from hwgen.emit.projects.xrt import XRT, arguments
from hwgen.errors import HwgenError
from hwgen.shell.registers import ARGUMENTS
from hwgen.shell.shell import ShellConfig
from tests.emit.projects.recorder import named, needs_tcl, netlist, project, recorded, written

BOARDS = [name for name in boards.names() if XRT.fits(boards.load(name))]


def test_boards() -> None:
    assert BOARDS == ["u200", "u250", "u50"]
    with pytest.raises(HwgenError, match=r"^Project xrt does not fit board zcu104: it wants an "
                                         r"accelerator card with a Vitis platform \(u200, u250, "
                                         r"u50\); give one of vivado, .*$"):
        contents("xrt", project("zcu104"))


@needs_tcl
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("ports", [0, 1, 3])
def test_kernel(board: str, ports: int, tmp_path: Path) -> None:
    what = project(board, ports, top="mine_top")
    assert what.shell is not None
    calls = recorded(written("xrt", what, tmp_path) / "package.tcl")
    masters = ["m_axi_frames", *(f"m_axi_{k}" for k in range(ports))]
    packaged = [call[1] for call in named(calls, "ipx::associate_bus_interfaces")
                if call[0] == "-busif"]
    assert packaged == ["s_axi_control", *masters]
    set_to = {(call[0], call[1]) for call in named(calls, "set_property")}
    assert set_to >= {("sdx_kernel", "true"), ("sdx_kernel_type", "rtl"),
                      ("vitis_drc", "ctrl_protocol user_managed")}
    (packed,) = named(calls, "package_xo")
    assert packed[packed.index("-kernel_name") + 1] == "mine_top"
    assert packed[packed.index("-ctrl_protocol") + 1] == "user_managed"
    assert packed[packed.index("-xo_path") + 1] == str(tmp_path / "xrt" / "mine_top.xo")

    # Every argument is where the shell has it, and every port goes with one.
    registers = [call[0] for call in named(calls, "ipx::add_register")]
    offsets = [int(call[1], 16) for call in named(calls, "set_property")
               if call[0] == "address_offset"]
    sizes = [int(call[1]) for call in named(calls, "set_property") if call[0] == "size"]
    has = [(each.name, each.offset, each.bits) for each in what.shell.arguments]
    found = list(zip(registers, offsets, sizes, strict=True))
    assert found[:len(has)] == has
    assert found[0][:2] == ("frames", ARGUMENTS)
    assert len({offset for _, offset, _ in found}) == len(found)
    assert "CTRL" not in registers
    reached = {call[1] for call in named(calls, "set_property") if call[0] == "value"}
    assert reached == set(masters)


@pytest.mark.parametrize("board, bank", [
    ("u50", "HBM[0:31]"), ("u200", "DDR[0]"), ("u250", "DDR[0]")])
def test_links(board: str, bank: str) -> None:
    lines = contents("xrt", project(board, 2, clock_mhz=250.7))["xrt/link.cfg"].splitlines()
    assert {"kernel_frequency=250", "[connectivity]", "nk=top:1:top_1",
            f"sp=top_1.m_axi_frames:{bank}", f"sp=top_1.m_axi_0:{bank}",
            f"sp=top_1.m_axi_1:{bank}", "slr=top_1:SLR0"} <= set(lines)
    assert any("bandwidth" in line for line in lines)


def test_too_large_for_a_die() -> None:
    small = project("u250")
    board = replace(small.board, lut=4 * small.predicted.lut)
    text = contents("xrt", replace(small, board=board))["xrt/link.cfg"]
    assert "slr=" not in text
    assert "4 dies" in text
    assert "bandwidth" not in text


def test_names_that_c_has() -> None:
    what = project("u50")
    assert what.shell is not None
    (name,) = what.netlist.inputs
    odd = replace(what.netlist, inputs={
        "a/b:0": what.netlist.inputs[name], "a_b_0": what.netlist.inputs[name]})
    found = arguments(replace(what, netlist=odd, shell=ShellConfig(netlist=odd)))
    assert [each.name for each, _ in found][1:3] == ["address_a_b_0", "address_a_b_0_"]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_makefile(tmp_path: Path) -> None:
    folder = written("xrt", project("u50"), tmp_path)
    said = subprocess.run(["make", "-n", "PLATFORM=other"], cwd=folder, capture_output=True,
                          text=True, check=True).stdout
    assert "vivado -mode batch -source package.tcl" in said
    assert "v++ --link --target hw --platform other --config link.cfg" in said
    assert "-o some_net.xclbin top.xo" in said


def test_addresses_of_64_bits() -> None:
    """XRT wants them of all ports."""
    shell = ShellConfig(netlist=netlist(2), address_bits=64)
    bits = {name: member.shape for name, member in shell.pins().items()
            if name.endswith("addr") and name.startswith("m_axi")}
    assert len(bits) == 6
    assert set(bits.values()) == {64}
    assert ShellConfig(netlist=netlist(2)).pins()["m_axi_0_araddr"].shape == 40
