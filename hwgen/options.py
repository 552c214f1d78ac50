"""Which options of the command line go together: none is overridden in silence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hwgen.errors import HwgenError

__all__ = ["check", "check_frames"]

OVERRIDDEN = {
    "design": (
        ("clock", "target_fps", "objective", "offchip", "sparse"),
        "the design says it already, and nothing is searched",
    ),
    "report_only": (("simulate",), "there is no Verilog then"),
}
"""Options (by their names in Python), those that would have no effect beside them, and why."""

OF_FLOATS = (
    "size", "weights", "calibration", "calibrate", "equalise", "correct_bias", "precision",
    "decomposition", "outputs", "accuracy",
)
"""Options of what is done with a float network."""

MODELS = {
    ".npz": (OF_FLOATS, "it is integer already"),
    ".onnx": (("weights",), "it has weights of its own"),
}
"""Endings of models, the options that have no effect on such a one, and why."""

SEEDED = ("simulate", "sparse")
"""Options with which a seed has an effect on an integer network: both show it frames."""

SHOWN = ("accuracy", "sparse")
"""Options that show a network its calibration frames once more."""


def check(given: Collection[str], model: str) -> None:
    """Refuse options that would have no effect.

    Parameters
    ----------
    given : names of the options on the command line, as Python has them
    model : the network, as it was given

    Raises
    ------
    :exc:`HwgenError`
        If an option would have none: it names the option, and what it does not go with.
    """
    for one, (others, why) in OVERRIDDEN.items():
        for other in others:
            if one in given and other in given:
                raise HwgenError(f"{_dashed(other)} has no effect with {_dashed(one)}: {why}; "
                                 f"leave out one of them")
    for ending, (others, why) in MODELS.items():
        for other in others:
            if model.endswith(ending) and other in given:
                raise HwgenError(f"{_dashed(other)} has no effect on {model}: {why}")
    if model.endswith(".npz") and "seed" in given and not set(SEEDED) & set(given):
        raise HwgenError(f"--seed has no effect on {model} without {_either(SEEDED)}: nothing is "
                         f"drawn")


def check_frames(
    given: Collection[str], model: str, *, calibrated: bool, seeded: bool, drawn: bool
) -> None:
    """Refuse calibration frames and a seed that had no effect on a network, now that it is read.

    Parameters
    ----------
    given : names of the options on the command line, as Python has them
    model : the network, as it was given
    calibrated : whether the calibration frames decided any codes
    seeded : whether the seed decided weights or codes
    drawn : whether the calibration frames depend on the seed

    Raises
    ------
    :exc:`HwgenError`
        If an option had none: it names the option, and those beside which it would have one.
    """
    shown = set(SHOWN) & set(given)
    if "calibration" in given and not calibrated and not shown:
        raise HwgenError(f"--calibration has no effect on {model} without {_either(SHOWN)}: it "
                         f"states the codes of all its weights and tensors")
    if "seed" in given and not seeded and "simulate" not in given and not (drawn and shown):
        ways = ("simulate", *SHOWN) if drawn else ("simulate",)
        raise HwgenError(f"--seed has no effect on {model} without {_either(ways)}: nothing is "
                         f"drawn")


def _either(names: Sequence[str]) -> str:
    """Options as a choice: ``--a, --b or --c``."""
    *others, last = map(_dashed, names)
    return f"{', '.join(others)} or {last}" if others else last


def _dashed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
