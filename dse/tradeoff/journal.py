"""A file that keeps what a search found out, so that it can go on after it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hwgen.errors import HwgenError, reason

__all__ = ["Journal"]

FORMATS = "hwgen-journal-1", "hwgen-low-rank-1"
"""Formats that can be read; the first one is written."""
WHAT = {"network": "another network", "frames": "other frames", "space": "other layers or shares"}
"""How it is called if a fingerprint differs, by its name."""
STUDIES = b"SQLite format 3", b'{"op_code"'
"""How files of Optuna's begin."""


class Journal:
    """Lines of JSON: the first says what they are about, each other one is a key and its value.

    A search that is run again with the same arguments asks for the same things in the same order,
    and is told at once what the file knows.  A last line that was cut off is dropped.

    Parameters
    ----------
    path : of the file; None: nothing is kept
    about : what is searched, as plain data

    Members
    -------
    entries : value by key

    Raises
    ------
    :exc:`HwgenError`
        If the file cannot be read or written, is damaged, or says something else of what it is
        about.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: dict[str, Any] = {}
        if path is None:
            return
        try:
            whole = path.exists() and self._read(path, about)
            if not whole:
                path.write_text(json.dumps({"format": FORMATS[0], "about": dict(about)}) + "\n")
                for key, value in self.entries.items():
                    self._append(key, value)
        except OSError as error:
            raise HwgenError(f"{path}, where the search is to be kept, cannot be opened: "
                             f"{reason(error)}") from None

    def note(self, key: str, value: Any) -> None:
        """Keep a value, which is plain data."""
        self.entries[key] = value
        self._append(key, value)

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of a key; if it has none, one is made and kept."""
        if key not in self.entries:
            self.note(key, make())
        return self.entries[key]

    def _append(self, key: str, value: Any) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps([key, value]) + "\n")

    def _read(self, path: Path, about: Mapping[str, Any]) -> bool:
        """Take over a file's entries; returns whether it ended with a whole line."""
        content = path.read_bytes()
        if content.startswith(STUDIES):
            raise HwgenError(f"{path} is a study of Optuna's, which no search goes on with: give "
                             f"another file, or remove it")
        try:
            text = content.decode()
            lines = text.split("\n")[:-1]
            if not lines:
                if text:
                    raise ValueError("no line is whole")
                return False
            header = json.loads(lines[0])
            have = dict(header["about"])
            if header["format"] not in FORMATS:
                raise ValueError(f"its format is {header['format']!r}")
            self.entries = dict(map(json.loads, lines[1:]))
        except (ValueError, KeyError, TypeError) as error:
            raise HwgenError(f"{path} is not the journal of a search: {error}; give another file, "
                             f"or remove it") from None
        for name, value in json.loads(json.dumps(dict(about))).items():
            # What a file does not state, it does not contradict.
            if have.get(name, value) != value:
                other = WHAT.get(name) or f"{name} {have[name]!r}, not {value!r}"
                raise HwgenError(f"{path} is the journal of a search over {other}: give another "
                                 f"file, or remove it")
        return text.endswith("\n")
