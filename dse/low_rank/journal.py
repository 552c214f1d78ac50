"""A file that keeps what a search found out, so that it can go on after it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwgen.errors import HwgenError, reason

__all__ = ["Journal"]

FORMAT = "hwgen-low-rank-1"
WHAT = {"network": "another network", "frames": "other frames"}


class Journal:
    """Lines of JSON: the first says what they are about, each other one is a key and its value.

    A search that is run again with the same arguments asks for the same things in the same order;
    what the file knows it is told at once.  A last line that was cut off is dropped.

    Parameters
    ----------
    path : of the file; None: nothing is kept
    about : plain data; a file about something else is refused

    Members
    -------
    entries : value by key

    Raises
    ------
    :exc:`HwgenError`
        If the file cannot be read or written, is damaged, or about something else.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path = path
        self.entries: dict[str, Any] = {}
        if path is None:
            return
        try:
            whole = path.exists() and self._read(path, about)
            if not whole:
                path.write_text(json.dumps({"format": FORMAT, "about": dict(about)}) + "\n")
                for key, value in self.entries.items():
                    self._append(key, value)
        except OSError as error:
            raise HwgenError(f"{path}, where the search is to be kept, cannot be opened: "
                             f"{reason(error)}") from None

    def note(self, key: str, value: Any) -> None:
        """Keep a value, which is plain data."""
        self.entries[key] = value
        self._append(key, value)

    def _append(self, key: str, value: Any) -> None:
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps([key, value]) + "\n")

    def _read(self, path: Path, about: Mapping[str, Any]) -> bool:
        """Take over a file's entries; returns whether it ended with a whole line."""
        text = path.read_text()
        whole = text.endswith("\n")
        lines = text.split("\n")[:-1]
        try:
            if not lines:
                if text:
                    raise ValueError("no line is whole")
                return False
            header = json.loads(lines[0])
            have = dict(header["about"])
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']!r}")
            self.entries = dict(map(json.loads, lines[1:]))
        except (ValueError, KeyError, TypeError) as error:
            raise HwgenError(f"{path} is not the journal of a search: {error}; give another file, "
                             f"or remove it") from None
        for name, value in json.loads(json.dumps(dict(about))).items():
            if have.get(name) != value:
                other = WHAT.get(name) or f"{name} {have.get(name)!r}, not {value!r}"
                raise HwgenError(f"{path} is the journal of a search over {other}: give another "
                                 f"file, or remove it")
        return whole
