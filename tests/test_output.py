"""The output directory: the old one or the new one, whole, and nothing of the user's lost."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from benchmarks import kill
from hwgen.errors import HwgenError, named_reason
from hwgen.output import MANIFEST, Output


def build(path, files=None):
    """Write files as a build does."""
    out = Output(path)
    with out.replaced() as folder:
        for name, text in (files or {"report.json": "{}", "rtl/top.v": "module top;"}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return out


def contents(path):
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*")
            if p.is_file() and p.name != MANIFEST}


@pytest.fixture(params=[True, False], ids=["exchanged", "renamed"])
def place(tmp_path, request, monkeypatch):
    """An output; with and without a system that lets directories change places."""
    if not request.param:
        monkeypatch.setattr("hwgen.output._exchange", lambda one, other: False)
    yield tmp_path / "out"
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_new_and_again(place):
    build(place)
    assert contents(place) == {"report.json": "{}", "rtl/top.v": "module top;"}
    out = build(place, {"report.json": "{1}", "design.json": "d"})
    # What the earlier build wrote is gone, for it was as it had been written.
    assert contents(place) == {"report.json": "{1}", "design.json": "d"}
    assert out.kept == out.beside == []
    assert place.stat().st_mode & 0o777 == 0o755


def test_what_is_the_users_stays(place):
    build(place)
    (place / "notes.txt").write_text("mine")
    (place / "vivado" / "run").mkdir(parents=True)
    (place / "vivado" / "run" / "top.bit").write_text("bits")
    (place / "rtl" / "wrapper.v").write_text("module wrapper;")
    (place / "link").symlink_to("notes.txt")
    out = build(place, {"report.json": "{1}", "rtl/top.v": "module top2;"})
    assert out.kept == ["link", "notes.txt", "rtl/wrapper.v", "vivado/run/top.bit"]
    assert out.beside == []
    assert contents(place) == {
        "report.json": "{1}", "rtl/top.v": "module top2;", "notes.txt": "mine", "link": "mine",
        "vivado/run/top.bit": "bits", "rtl/wrapper.v": "module wrapper;"}
    assert (place / "link").readlink().name == "notes.txt"
    # A build without anything of theirs keeps them as well.
    assert build(place, {"report.json": "{2}"}).kept == out.kept


def test_edited_files_stay_and_the_new_ones_are_beside(place):
    build(place, {"design.json": "found", "report.json": "{}"})
    (place / "design.json").write_text("edited")
    for text in ("found", "another"):
        out = build(place, {"design.json": text, "report.json": "{}"})
        assert out.kept == out.beside == ["design.json"]
        assert contents(place) == {
            "design.json": "edited", "design.json.new": text, "report.json": "{}"}
    # The same as the new one: nothing of the user's any more.
    out = build(place, {"design.json": "edited", "report.json": "{}"})
    assert out.kept == []
    assert contents(place) == {"design.json": "edited", "report.json": "{}"}


def test_a_failed_build_leaves_the_old_one(place):
    build(place)
    before = contents(place)

    def fail(folder):
        (folder / "report.json").write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError), Output(place).replaced() as folder:
        fail(folder)
    assert contents(place) == before


def test_faults_of_others_go_on_as_they_are(place):
    """Only what is wrong with the output itself is said of it."""
    build(place)
    before = contents(place)
    other = place.parent / "picture.png"
    with pytest.raises(FileNotFoundError) as raised, Output(place).replaced():
        other.read_bytes()
    assert named_reason(raised.value) == f"{other}: No such file or directory"
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space left") as raised, Output(place).replaced():
        raise full
    assert raised.value is full
    assert named_reason(full) == "No space left on device"
    assert contents(place) == before


def test_faults_of_the_output(place):
    with (
        pytest.raises(HwgenError, match=r"^Output \S*/out cannot be written: No such file or "
                                        r"directory; give another directory$"),
        Output(place).replaced() as folder,
    ):
        (folder / "rtl" / "top.v").write_text("")
    # Nothing can be written there any more, as when its disk is full.
    def fill(folder):
        folder.rmdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(HwgenError, match="cannot be written: No space left on device"),
        Output(place).replaced() as folder,
    ):
        fill(folder)
    assert not place.exists()


def test_what_comes_while_it_is_built_stays(place):
    build(place)
    out = Output(place)
    with out.replaced() as folder:
        (folder / "report.json").write_text("new")
        (place / "late.txt").write_text("mine")
    assert contents(place) == {"report.json": "new", "late.txt": "mine"}


def test_only_one_build_at_a_time(place):
    first = Output(place)
    with first.replaced() as folder:
        (folder / "report.json").write_text("1")
        with pytest.raises(HwgenError, match=r"is being written by another build"):
            build(place)
    assert contents(place) == {"report.json": "1"}


def test_what_a_dead_build_left_is_swept(place):
    build(place)
    side = place.parent / f".{place.name}.hwgen"
    (side / "new" / "rtl").mkdir(parents=True)
    (side / "new" / "rtl" / "top.v").write_text("half")
    # The lock of a process that is no more.
    (side / "lock").write_text("")
    build(place, {"report.json": "{1}"})
    assert contents(place) == {"report.json": "{1}"}


def test_a_build_that_died_between_two_renamings_is_taken_back(place):
    build(place)
    side = place.parent / f".{place.name}.hwgen"
    side.mkdir()
    place.rename(side / "old")
    out = Output(place)
    with pytest.raises(RuntimeError), out.replaced():
        raise RuntimeError
    assert contents(place) == {"report.json": "{}", "rtl/top.v": "module top;"}


@pytest.mark.parametrize("files, message", [
    ({"report.json": "{}", "thesis.tex": "x"}, f"holds files, and no {MANIFEST} that says"),
    ({MANIFEST: "{}"}, f"holds files, and no {MANIFEST} that says"),
    ({MANIFEST: "[1]"}, f"holds files, and no {MANIFEST} that says"),
    ({MANIFEST: '{"format": "hwgen-output-1", "files": []}'}, "holds files, and no"),
])
def test_foreign_directories_are_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    with pytest.raises(HwgenError, match=message):
        Output(tmp_path)
    assert contents(tmp_path) == before


def test_odd_paths_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(HwgenError, match=r"is a file: give a directory"):
        Output(tmp_path / "file")
    build(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    for name in (".", "..", str(tmp_path / "out")):
        with pytest.raises(HwgenError, match="is the directory that this runs in, or around it"):
            Output(type(tmp_path)(name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HwgenError, match="cannot be written"):
        Output(tmp_path / "loop")
    for name in ("out", "a/b"):
        with pytest.raises(HwgenError, match=r"^Output \S* cannot be written: \S*/file is a file; "
                                             r"give another directory$"):
            Output(tmp_path / "file" / name)
    (tmp_path / "out" / "rtl" / "top.v").unlink()
    (tmp_path / "out" / "rtl").rmdir()
    (tmp_path / "out" / "rtl").write_text("x")
    with pytest.raises(HwgenError, match=r"rtl in it is not a directory"):
        Output(tmp_path / "out")


def test_a_link_to_a_directory_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    build(tmp_path / "link")
    build(tmp_path / "link", {"report.json": "{1}"})
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"report.json": "{1}"}


def test_the_manifest_names_all_files(tmp_path):
    build(tmp_path / "out")
    data = json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert list(data["files"]) == ["report.json", "rtl/top.v"]
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in data["files"].values())


def test_locks_end_with_their_process(tmp_path):
    side = tmp_path / ".out.hwgen"
    side.mkdir()
    child = os.fork()
    if not child:
        file = (side / "lock").open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
        os._exit(0)
    os.waitpid(child, 0)
    build(tmp_path / "out")


@pytest.mark.slow
def test_killed_builds():
    """One moment for each signal; ``benchmarks.kill`` has more."""
    shown = []
    assert kill.trial(1, 7, shown.append) == 0, shown


def test_ends_at_once_while_it_is_imported():
    """A signal that comes before the command has begun: a line, and the status that says so."""
    for number, word in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")):
        code = ("import os, signal, hwgen.interrupt as i; i.end_at_once(); "
                f"os.kill(os.getpid(), {int(number)})")
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                               check=False)
        assert (ended.returncode, ended.stderr) == (128 + number, f"hwgen: {word}\n")


def test_nobody_listens():
    """A closed pipe is no fault."""
    command = f"{sys.executable} -m hwgen.build --list boards"
    ended = subprocess.run(f"{command} | true; exit ${{PIPESTATUS[0]}}", shell=True,
                           executable="/bin/bash", capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
