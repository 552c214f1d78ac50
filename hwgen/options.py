"""What can be asked for, and which of it goes together: nothing is overridden in silence."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hwgen.errors import HwgenError

__all__ = ["MEASURE", "Options", "check", "check_frames"]

MEASURE = ""
"""Statistics of zeros that are measured, not read."""


@dataclass(frozen=True)
class Options:
    """What to build; the options of the command line have the same names.

    Parameters
    ----------
    model : zoo name, path of an ``.onnx`` file, or of a ``graph.npz`` of an earlier build
    board : board name, or path of a ``.toml`` file
    size, layers, weights, calibration, calibrate, equalise, correct_bias, precision, \
    decomposition, outputs, fix, keep_state, mean, std, seed : see :func:`hwgen.models.load.read`
        The seed is also that of frames and stalls.
    accuracy : compare with the float network, tensor by tensor
    clock : MHz; 0: the board's
    target_fps, objective, offchip : see :func:`hwgen.dse.design.search.search`
    sparse : file of statistics of zeros, by which they are passed over; :data:`MEASURE`: those of
        the calibration frames; None: nothing is
    design : file of a design point that is used instead of a search
    shell : put a shell around the accelerator, with frames in ``memory`` or in ``streams``: see
        :class:`hwgen.shell.shell.Shell`; empty: none
    project : kind of project that is written around the Verilog, one of
        :data:`hwgen.emit.projects.KINDS`; "": none.  A kind that has to have a shell gets one.
    prefix : what the names of all modules and files of the Verilog begin with
    simulate : frames that run through the Verilog
    report_only : no Verilog
    """

    model: str
    board: str
    size: int | tuple[int, int] | None = None
    layers: int | None = None
    weights: Path | None = None
    calibration: Path | None = None
    calibrate: str = "minmax"
    equalise: bool = False
    correct_bias: bool = False
    precision: str = "w8a8"
    decomposition: Path | None = None
    outputs: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()
    keep_state: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    accuracy: bool = False
    clock: float = 0.0
    target_fps: float = 0.0
    objective: str = "throughput"
    offchip: str = "auto"
    sparse: str | None = None
    design: Path | None = None
    shell: str = ""
    project: str = ""
    prefix: str = ""
    simulate: int = 0
    report_only: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if "Path" in str(each.type) and isinstance(value, str):
                object.__setattr__(self, each.name, Path(value))
            elif each.name in ("model", "sparse") and isinstance(value, Path):
                object.__setattr__(self, each.name, str(value))
        for name, what in (("outputs", "names"), ("fix", "texts name=value")):
            values = getattr(self, name)
            if isinstance(values, str):
                raise HwgenError(f"{name} must be a sequence of {what}, not the text {values!r}")
            object.__setattr__(self, name, tuple(values))
        if self.shell not in ("", *SHELLS):
            raise HwgenError(f"shell must be one of {', '.join(SHELLS)}, not {self.shell!r}")
        if not re.fullmatch(r"([A-Za-z]\w*)?", self.prefix, re.A):
            raise HwgenError(f"prefix must be a letter, then letters, digits and underscores, not "
                             f"{self.prefix!r}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if isinstance(values, str) or not isinstance(values, Iterable):
                raise HwgenError(f"{name} must be a sequence of numbers, not {values!r}")
            object.__setattr__(self, name, tuple(map(float, values)))
        if isinstance(self.size, tuple | list):
            object.__setattr__(self, "size", tuple(self.size))
            if len(self.size) != 2 or any(type(n) is not int or n < 1 for n in self.size):
                raise HwgenError(f"size must be one whole number, 1 or more, or height and width, "
                                 f"not {self.size!r}")
        for name, least in (
                ("size", 1), ("layers", 1), ("simulate", 0), ("seed", 0)):
            value = getattr(self, name)
            if not (type(value) is int and value >= least) and value is not None and (
                    type(value) is not tuple):
                raise HwgenError(f"{name} must be a whole number, {least} or more, not {value!r}")
        for name in ("clock", "target_fps"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < 1e12:
                raise HwgenError(f"{name} must be a number, 0 or more, not {value!r}")

    @property
    def given(self) -> list[str]:
        """Names of the options that are not at their defaults."""
        return [each.name for each in fields(self)
                if getattr(self, each.name) != each.default and each.name not in ("model", "board")]

    @property
    def name(self) -> str:
        """What the network is called."""
        known = not self.model.endswith(tuple(MODELS))
        return self.model if known else Path(self.model).stem

    @property
    def files(self) -> dict[str, Path | None]:
        """The files that were given beside the network, by what they are."""
        return {
            "weights": self.weights, "decomposition": self.decomposition,
            "precision file": Path(self.precision) if "." in self.precision else None,
            "calibration file": self.calibration,
            "sparsity": Path(self.sparse) if self.sparse else None, "design": self.design,
        }


SHELLS = ("memory", "streams")
"""Where frames may be that go through a shell."""

OVERRIDDEN = {
    "design": (
        ("clock", "target_fps", "objective", "offchip", "sparse"),
        "the design says it already, and nothing is searched",
    ),
    "report_only": (("simulate", "shell", "project", "prefix"), "there is no Verilog then"),
}
"""Options (by their names in Python), those that would have no effect beside them, and why."""

OF_FLOATS = (
    "size", "layers", "weights", "calibration", "calibrate", "equalise", "correct_bias",
    "precision", "decomposition", "outputs", "fix", "keep_state", "mean", "std",
    "accuracy",
)
"""Options of what is done with a float network."""

MODELS = {
    ".npz": (OF_FLOATS, "it is integer already"),
    ".onnx": (("weights", "layers"), "it has weights of its own, for all its layers"),
    ".tflite": (("weights", "layers"), "it has weights of its own, for all its layers"),
}
"""Endings of models, the options that have no effect on such a one, and why."""

SEEDED = ("simulate", "sparse")
"""Options with which a seed has an effect on an integer network: both show it frames."""

SHOWN = ("accuracy", "sparse")
"""Options that show a network its calibration frames once more."""


def check(
    given: Collection[str], model: str, spelled: Callable[[str], str] = str
) -> None:
    """Refuse options that would have no effect.

    Parameters
    ----------
    given : names of the options that were given, as :class:`Options` has them
    model : the network, as it was given
    spelled : how messages spell an option

    Raises
    ------
    :exc:`HwgenError`
        If an option would have none: it names the option, and what it does not go with.
    """
    for one, (others, why) in OVERRIDDEN.items():
        for other in others:
            if one in given and other in given:
                raise HwgenError(f"{spelled(other)} has no effect with {spelled(one)}: {why}; "
                                 f"leave out one of them")
    for ending, (others, why) in MODELS.items():
        for other in others:
            if model.endswith(ending) and other in given:
                raise HwgenError(f"{spelled(other)} has no effect on {model}: {why}")
    if model.endswith(".npz") and "seed" in given and not set(SEEDED) & set(given):
        raise HwgenError(f"{spelled('seed')} has no effect on {model} without "
                         f"{_either(SEEDED, spelled)}: nothing is drawn")


def check_frames(
    given: Collection[str], model: str, *, calibrated: bool, seeded: bool, drawn: bool,
    spelled: Callable[[str], str] = str,
) -> None:
    """Refuse calibration frames and a seed that had no effect on a network, now that it is read.

    Parameters
    ----------
    given : names of the options that were given, as :class:`Options` has them
    model : the network, as it was given
    calibrated : whether the calibration frames decided any codes
    seeded : whether the seed decided weights or codes
    drawn : whether the calibration frames depend on the seed
    spelled : how messages spell an option

    Raises
    ------
    :exc:`HwgenError`
        If an option had none: it names the option, and those beside which it would have one.
    """
    shown = set(SHOWN) & set(given)
    if "calibration" in given and not calibrated and not shown:
        raise HwgenError(f"{spelled('calibration')} has no effect on {model} without "
                         f"{_either(SHOWN, spelled)}: it states the codes of all its weights and "
                         f"tensors")
    if "seed" in given and not seeded and "simulate" not in given and not (drawn and shown):
        ways = ("simulate", *SHOWN) if drawn else ("simulate",)
        raise HwgenError(f"{spelled('seed')} has no effect on {model} without "
                         f"{_either(ways, spelled)}: nothing is drawn")


def _either(names: Sequence[str], spelled: Callable[[str], str]) -> str:
    """Options as a choice: ``a, b or c``."""
    *others, last = map(spelled, names)
    return f"{', '.join(others)} or {last}" if others else last
