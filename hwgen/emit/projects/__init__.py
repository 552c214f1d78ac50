"""Projects of vendors' tools around emitted Verilog: a directory of scripts of each kind.

No vendor's tool has run what is written here; tests check the scripts against a recorder that
knows each command and its options.
"""

from __future__ import annotations

from pathlib import Path

import hwgen.boards as boards
from hwgen.boards import Board
from hwgen.emit.projects.fusesoc import FUSESOC
from hwgen.emit.projects.project import Kind, Project
from hwgen.emit.projects.synthesis import SYNTHESIS
from hwgen.emit.projects.vivado import VIVADO
from hwgen.emit.projects.xrt import XRT
from hwgen.errors import HwgenError

__all__ = ["KINDS", "Kind", "Project", "contents", "kind", "write"]

KINDS: dict[str, Kind] = {each.name: each for each in (VIVADO, XRT, SYNTHESIS, FUSESOC)}
"""Kinds of projects by name."""


def kind(name: str, board: Board) -> Kind:
    """The kind of project that is called ``name``.

    Raises
    ------
    :exc:`HwgenError`
        If there is none, or if it does not fit the board; the message names those that do, and
        the boards that it fits.
    """
    if name not in KINDS:
        raise HwgenError(f"Project {name!r} is unknown: give one of {', '.join(KINDS)}")
    found = KINDS[name]
    if found.fits(board):
        return found
    others = [each.name for each in KINDS.values() if each.fits(board)]
    known = [each for each in boards.names() if found.fits(boards.load(each))]
    raise HwgenError(f"Project {name} does not fit board {board.name}: it wants {found.wants} "
                     f"({', '.join(known)}); give one of {', '.join(others)}, or leave it out")


def contents(name: str, project: Project) -> dict[str, str]:
    """The files of a project, by path from the output directory.

    Raises
    ------
    :exc:`HwgenError`
        As :func:`kind`; or if the kind does not fit the design.
    """
    return dict(kind(name, project.board).files(project))


def write(files: dict[str, str], folder: Path) -> None:
    """Write the files of a project below the output directory."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
