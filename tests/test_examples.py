"""The examples run and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from amaranth.back import verilog

from benchmarks.synthesis import run_yosys
from hwgen.emit.verilog import Rtl, emit_component

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_conv_in_your_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = EXAMPLES / "conv_in_your_design.py"
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    text = capsys.readouterr().out
    assert text.count("40 peaks as in numpy") == 2
    assert "edge detector: 2560 cycles a frame" in text
    text = (tmp_path / "out" / "row_peaks.v").read_text()
    assert "module row_peaks(" in text
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".v", ".mem", ".f"}


@pytest.mark.synthesis
@pytest.mark.parametrize("way", ["emit_component", "verilog.convert"])
@pytest.mark.parametrize("multiplier, script, primitive", [
    ("dsp48e2", "synth_xilinx -family xcup -flatten", "DSP48E2"),
    ("mult18", "synth_ecp5", "MULT18X18D"),
])
def test_yosys_maps_a_design_with_a_block_in_it(
    multiplier: str, script: str, primitive: str, way: str
) -> None:
    top = "row_peaks"
    example = runpy.run_path(str(EXAMPLES / "conv_in_your_design.py"))
    design = example["RowPeaks"](multiplier)
    if way == "emit_component":
        rtl = emit_component(design, top=top)
    else:
        rtl = Rtl(top, {f"{top}.v": verilog.convert(design, name=top)})
        if script == "synth_ecp5":
            script += " -noabc9"  # ABC9 of this Yosys stops without a word on it
    cells = run_yosys(rtl, f"{script} -top {top}", "-DSYNTHESIS")["design"]["num_cells_by_type"]
    assert not [cell for cell in cells if cell.startswith("$") and cell != "$scopeinfo"]
    if way == "emit_component":
        assert cells[primitive] == example["edge_detector"](multiplier).resources().dsp


@pytest.mark.verilator
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
