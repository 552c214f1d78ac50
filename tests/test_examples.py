"""The examples run and do what they say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

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
