"""Compiling Verilog: the runtime once; a cache that cannot be written is no fault."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen import boards
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.sim.verilator import VerilatorModel, compile_verilog, lint
from hwgen.sim.verilator.compiler import RUNTIME
from hwgen.timing import sized
from tests.networks import Builder

pytestmark = pytest.mark.verilator

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


@pytest.mark.parametrize("preload", [False, True])
def test_several_pixels_a_beat_and_loaded_weights(preload: bool, tmp_path: Path) -> None:
    """A network whose input comes in several pixels, with pairs of pixels and UltraRAM."""
    b = Builder((16, 16, 3))
    x = b.act(b.conv("image", 8, 3, "c0", stride=2), "s0")
    y = b.act(b.conv(x, 8, 3, "depthwise", groups=8), "s1")
    b.graph.outputs = [b.conv(b.add(x, y, "sum"), 12, 1, "head")]
    board = replace(boards.load("zcu104"), lut=12_000, bram18=6)
    found = search(b.graph, board)
    design = replace(found.design, foldings={
        name: replace(f, weight_style="ultra") for name, f in found.design.foldings.items()
    })
    design, netlist, timing = sized(b.graph, design)
    assert max(design.pixels.values()) > 1
    assert design.foldings["depthwise"].shared == "weight"
    assert len(netlist.loading) == 3
    rtl = emit(netlist)
    assert len(rtl.weights) == 9 * len(netlist.load_words())
    model = VerilatorModel(rtl, netlist, tmp_path, optimise=False, preload=preload)
    lint(rtl, model.rtl_directory)
    inputs = b.frames(3)
    wanted = b.graph.evaluate(inputs)
    paced = model.run(inputs, interval=timing.interval)
    stalled = model.run(inputs, stall=0.3, seed=1)
    for run in (paced, stalled):
        for name, frames in wanted.items():
            np.testing.assert_array_equal(run.outputs[name], frames)
    assert (paced.interval, paced.latency) == (timing.interval, timing.latency)
