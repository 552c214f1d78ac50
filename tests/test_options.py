"""Every pair of options, and every option with every kind of model: obeyed or refused."""

from __future__ import annotations

from dataclasses import MISSING, fields
from itertools import combinations

import pytest

from hwgen.build import _dashed, _parser
from hwgen.errors import HwgenError
from hwgen.options import Options, check, check_frames

NAMES = [action.dest for action in _parser()._actions if action.option_strings]

PAIRS = {
    frozenset(pair) for pair in (
        ("design", "clock"), ("design", "target_fps"), ("design", "objective"),
        ("design", "offchip"), ("design", "sparse"), ("report_only", "simulate"),
        ("report_only", "shell"), ("report_only", "project"), ("report_only", "prefix"),
    )
}
"""Pairs of which one overrides the other."""

FLOATS = {"size", "layers", "weights", "calibration", "calibrate", "equalise", "correct_bias",
          "precision", "decomposition", "outputs", "fix", "keep_state", "mean", "std", "accuracy"}
"""Options of float networks."""


def refused(given: list[str], model: str) -> str:
    """The message, if there is one."""
    try:
        check(given, model, _dashed)
    except HwgenError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("model", ["yolov5n", "net.onnx", "graph.npz"])
def test_every_option_with_every_model(model: str) -> None:
    wrong = {"yolov5n": set(), "net.onnx": {"weights", "layers"},
             "graph.npz": FLOATS | {"seed"}}[model]
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


def refused_frames(given: list[str], **known: bool) -> str:
    """The message of what is known after reading, if there is one."""
    try:
        check_frames(given, "net.onnx", **known, spelled=_dashed)
    except HwgenError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("drawn", [False, True])
def test_frames_that_decided_nothing(drawn: bool) -> None:
    """Where a file states all codes, only what shows its frames once more has a use for them."""
    known = {"calibrated": False, "seeded": False, "drawn": drawn}
    assert not refused_frames([], **known)
    for other in ("accuracy", "sparse"):
        assert not refused_frames(["calibration", other], **known)
        assert bool(refused_frames(["seed", other], **known)) != drawn
    assert not refused_frames(["seed", "simulate"], **known)
    assert refused_frames(["calibration", "simulate"], **known).startswith(
        "--calibration has no effect on net.onnx without --accuracy or --sparse: it states")
    ways = "--simulate, --accuracy or --sparse" if drawn else "--simulate"
    assert refused_frames(["seed"], **known) == (
        f"--seed has no effect on net.onnx without {ways}: nothing is drawn")


def test_frames_that_decided_codes() -> None:
    given = ["calibration", "seed"]
    assert not refused_frames(given, calibrated=True, seeded=True, drawn=True)
    # Frames of files are the same whatever the seed.
    message = refused_frames(given, calibrated=True, seeded=False, drawn=False)
    assert message == "--seed has no effect on net.onnx without --simulate: nothing is drawn"


def test_the_command_line_has_the_options_of_python() -> None:
    """The same names and the same defaults."""
    here = {each.name: each.default for each in fields(Options)}
    there = {action.dest: action.default for action in _parser()._actions
             if action.dest not in ("help", "version", "list", "out")}
    assert there == {name: None if default is MISSING else default
                     for name, default in here.items()}


def test_messages_for_python() -> None:
    """Options are spelled as Python has them unless the caller says otherwise."""
    asked = Options("graph.npz", "zedboard", target_fps=5.0, equalise=True)
    assert asked.given == ["equalise", "target_fps"]
    with pytest.raises(HwgenError, match=r"^equalise has no effect on graph\.npz: "):
        check(asked.given, asked.model)
