"""Compiling Verilog: the runtime once; a cache that cannot be written is no fault."""

import subprocess
from pathlib import Path

import pytest

from sim.verilator import RUNTIME, compile_verilog

TOP = "module top(input wire clk, output reg [3:0] n = 0); always @(posedge clk) n <= n + 1;"
MAIN = """
#include <cstdio>
#include "Vtop.h"
int main() {
    Vtop top;
    for (int k = 0; k < 5; k++) { top.clk = 0; top.eval(); top.clk = 1; top.eval(); }
    printf("%d", top.n);
}
"""


def build(folder: Path) -> Path:
    folder.mkdir()
    (folder / "top.v").write_text(f"{TOP}\nendmodule\n")
    (folder / "main.cpp").write_text(MAIN)
    program = compile_verilog(["top.v"], "top", [folder / "main.cpp"], folder, optimise=False)
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"5"
    return program.parent


def test_runtime_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    first, second = build(tmp_path / "a"), build(tmp_path / "b")
    # Compilation leaves the list of headers beside an object.
    assert (first / "verilated.d").exists()
    assert not (second / "verilated.d").exists()
    (kept,) = (cache / "hwgen").iterdir()
    assert sorted(file.name for file in kept.iterdir()) == sorted(RUNTIME)


def test_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert (build(tmp_path / "a") / "verilated.d").exists()
