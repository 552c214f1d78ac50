"""The examples run and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from amaranth.back import verilog

from benchmarks.synthesis import run_yosys
from hwgen.emit.verilog import Rtl, emit_component

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_conv_in_your_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = EXAMPLES / "conv_in_your_design.py"
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    text = capsys.readouterr().out
    assert text.count("40 peaks as in numpy") == 2
    assert "edge detector: 2560 cycles a frame" in text
    assert "module row_peaks(" in (tmp_path / "out" / "row_peaks.v").read_text()


@pytest.mark.parametrize("script, multiplier, cell", [
    ("synth_xilinx -family xcup -flatten", "dsp48e2", "DSP48E2"),
    ("synth_ecp5", "mult18", "MULT18X18D"),
])
@pytest.mark.parametrize("way", ["emit_component", "verilog.convert"])
def test_yosys_maps_a_design_with_a_block_in_it(
    way: str, script: str, multiplier: str, cell: str
) -> None:
    """No cell is left that the device does not have, and products are in its multipliers."""
    top = "row_peaks"
    design = runpy.run_path(str(EXAMPLES / "conv_in_your_design.py"))["RowPeaks"](multiplier)
    if way == "emit_component":
        rtl = emit_component(design, top=top)
    else:
        rtl = Rtl(top, {f"{top}.v": verilog.convert(design, name=top)})
    found = run_yosys(rtl, f"{script} -top {top}", "-DSYNTHESIS")
    cells = found["design"]["num_cells_by_type"]
    assert not [name for name in cells if name.startswith("$") and name != "$scopeinfo"]
    assert cells[cell] > 0


def test_detect_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = EXAMPLES / "detect_photograph.py"
    arguments = [str(script), str(tmp_path), "--size", "32", "--fps", "2000"]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(script), run_name="__main__")
    text = capsys.readouterr().out
    assert "boxes, equal in Verilog and reference" in text
    assert (tmp_path / "detections.png").stat().st_size > 0
