"""Where a design comes from: what ``report.json``, its page and every Verilog file say of it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwgen import __version__

__all__ = ["TOOL", "command_line", "comment", "provenance"]

TOOL = f"hwgen {__version__}"

OUT = "--out"


def command_line(program: str, arguments: Sequence[str]) -> str:
    """The command as it was given, but for ``--out``: where a design is put changes nothing of it.

    Parameters
    ----------
    program : how the program was called
    arguments : what came after it
    """
    kept, value = [], False
    for argument in arguments:
        # argparse takes beginnings of names too, as far as they are clear.
        name, equals, _ = argument.partition("=")
        out = len(name) > 3 and OUT.startswith(name)
        if not (value or out):
            kept.append(argument)
        value = out and not equals
    return f"{program} {shlex.join(kept)}"


def provenance(
    command: str, model: str, board: str, meta: Mapping, files: Mapping[str, Path | None]
) -> dict[str, str]:
    """What there is to say, by what it is about; texts, in the order in which they are shown.

    Parameters
    ----------
    command : of :func:`command_line`
    model : the network, as it was given
    board : its name and part
    meta : of the integer graph; ``weights``, ``precision`` and ``calibration`` are texts
    files : what each of the files is that were given, and its path as it was given (a directory
        has no hash, and is left out); None: it was not given
    """
    found = {"tool": TOOL, "command": command, "model": _named(model)}
    for key in ("weights", "precision", "calibration"):
        found[key] = str(meta.get(key, "as in the model's file"))
    for key, path in files.items():
        if path is not None and path.is_file():
            found[key] = _named(str(path))
    return {**found, "board": board}


def _named(name: str) -> str:
    """The name of a file with what it holds, or of what is no file."""
    path = Path(name)
    if not path.is_file():
        return name
    return f"{name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def comment(lines: Sequence[str]) -> str:
    """Lines as a comment of Verilog, each after ``// -``: what follows is no directive then."""
    return "".join(f"// - {_plain(line)}\n" for line in lines)


def _plain(text: str) -> str:
    """Printable ASCII on a line of its own: names are the network's."""
    whole = "".join(c if c.isprintable() else " " for c in text)
    return whole.encode("ascii", "backslashreplace").decode()
