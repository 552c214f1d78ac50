"""Fronts: what none beats, the best within a loss, files and plots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.dse.tradeoff.front import Front, Point, best, pareto
from hwgen.errors import HwgenError


def point(accuracy: float, interval: float, dsp: int) -> Point:
    return Point({"n": interval}, accuracy, interval, dsp)


FRONT = Front.of(
    [point(0.9, 100, 10), point(0.9, 100, 10), point(0.895, 50, 10), point(0.7, 10, 10),
     point(0.89, 60, 10), point(0.9, 200, 4)],
    point(0.9, 100, 10), {"network": "n"},
)


def test_pareto() -> None:
    assert FRONT.points == (point(0.7, 10, 10), point(0.895, 50, 10), point(0.9, 100, 10),
                            point(0.9, 200, 4))
    assert len(FRONT.others) == 2
    assert pareto([]) == ()


def test_best_for_a_loss() -> None:
    assert best(FRONT) == point(0.895, 50, 10)
    assert best(FRONT, 0.0) == point(0.9, 200, 4)
    assert best(FRONT, 0.5) == point(0.7, 10, 10)
    assert best(FRONT, 0.0).efficiency == 1250
    for loss in (-0.1, float("nan")):
        with pytest.raises(HwgenError, match=r"^Loss must be 0 or more, not "):
            best(FRONT, loss)


def test_saved_and_drawn(tmp_path: Path) -> None:
    FRONT.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json") == FRONT
    png, svg = FRONT.plot(tmp_path / "front", "A network", 250.0)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text()
    for text in ("{}", "[", json.dumps({"format": "other"}), "3"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(HwgenError, match=r"bad\.json is not the front of a search"):
            Front.load(tmp_path / "bad.json")
    with pytest.raises(HwgenError, match=r"none\.json cannot be read"):
        Front.load(tmp_path / "none.json")
