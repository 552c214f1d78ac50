"""Every pair of options, and every option with every kind of model: obeyed or refused."""

from __future__ import annotations

from itertools import combinations

import pytest

from hwgen.build import _parser
from hwgen.errors import HwgenError
from hwgen.options import check

NAMES = [action.dest for action in _parser()._actions if action.option_strings]

PAIRS = {
    frozenset(pair) for pair in (
        ("design", "clock"), ("design", "target_fps"), ("design", "objective"),
        ("design", "offchip"), ("design", "sparse"), ("report_only", "simulate"),
    )
}
"""Pairs of which one overrides the other."""

FLOATS = {"size", "weights", "calibration", "calibrate", "equalise", "correct_bias", "precision",
          "decomposition", "outputs", "accuracy"}
"""Options of float networks."""


def refused(given: list[str], model: str) -> str:
    """The message, if there is one."""
    try:
        check(given, model)
    except HwgenError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("model", ["yolov5n", "net.onnx", "graph.npz"])
def test_every_option_with_every_model(model: str) -> None:
    wrong = {"yolov5n": set(), "net.onnx": {"weights"}, "graph.npz": FLOATS | {"seed"}}[model]
    for name in NAMES:
        message = refused([name], model)
        assert bool(message) == (name in wrong), (name, message)
        if message:
            assert message.startswith(f"--{name.replace('_', '-')} has no effect on {model}")


def test_every_pair() -> None:
    for pair in combinations(NAMES, 2):
        message = refused(list(pair), "yolov5n")
        assert bool(message) == (frozenset(pair) in PAIRS), (pair, message)
        if message:
            assert all(f"--{name.replace('_', '-')}" in message for name in pair)
    assert {name for pair in PAIRS for name in pair} <= set(NAMES)


def test_a_seed_of_frames() -> None:
    """An integer network has neither weights nor ranges to be drawn, but frames to be shown."""
    for other in ("simulate", "sparse"):
        assert not refused(["seed", other], "graph.npz")
    assert "without --simulate or --sparse" in refused(["seed", "clock"], "graph.npz")
