"""Journals: what is kept, what a later program reads, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hwgen.dse.tradeoff.journal import Journal
from hwgen.errors import HwgenError

ABOUT = {"network": "n", "board": "zcu102"}


def test_without_file() -> None:
    journal = Journal(None, {})
    journal.note("a", [1])
    assert journal.once("a", list) == [1]
    assert journal.once("b", lambda: 2) == 2
    assert journal.entries == {"a": [1], "b": 2}


def test_goes_on(tmp_path: Path) -> None:
    """A last line that was cut off is dropped; the file is whole again."""
    path = tmp_path / "journal"
    journal = Journal(path, ABOUT)
    journal.note("a", 1)
    journal.note("b", 2)
    text = path.read_text()
    path.write_text(text[:-4])
    again = Journal(path, ABOUT)
    assert again.entries == {"a": 1}
    again.note("b", 2)
    assert path.read_text() == text


def test_older_file(tmp_path: Path) -> None:
    """It is read, though it states less of what it is about; but what it states must be so."""
    path = tmp_path / "journal"
    head = {"format": "hwgen-low-rank-1", "about": ABOUT}
    path.write_text(f"{json.dumps(head)}\n{json.dumps(['a', 1])}\n")
    assert Journal(path, {**ABOUT, "floor": 0.1}).entries == {"a": 1}
    for change, message in (({"network": "m"}, "another network"),
                            ({"board": "u50"}, "board 'zcu102', not 'u50'")):
        with pytest.raises(HwgenError, match=rf"journal of a search over {message}: give another"):
            Journal(path, {**ABOUT, **change})


@pytest.mark.parametrize("content, message", [
    (b"{}\n", "not the journal of a search: 'about'; give another file"),
    (b"no journal\n", "not the journal of a search: "),
    (b"no journal", "not the journal of a search: no line is whole"),
    (b"\xff\n", "not the journal of a search: "),
    (b'{"format": "other", "about": {}}\n', "not the journal of a search: its format is 'other'"),
    (b"SQLite format 3\x00", "a study of Optuna's, which no search goes on with: give another"),
    (b'{"op_code": 0, "worker_id": "x"}\n', "a study of Optuna's"),
])
def test_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(content)
    with pytest.raises(HwgenError, match=f"journal is {message}"):
        Journal(path, ABOUT)
    assert path.read_bytes() == content


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match="cannot be opened: No such file"):
        Journal(tmp_path / "none" / "journal", ABOUT)
