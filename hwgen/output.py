"""The directory that a build writes: whole or not at all, and nothing that is the user's is lost.

A build writes into a directory of its own beside the output.  When all is there, the two change
places in one step, so that at any moment the output is the old one or the new one.  A *manifest* in
the output lists the files that builds wrote, with the hash of each: only those that are still as
they were written are replaced.  All others stay; where a new file has the name of one of them, it
is written beside it, with ``.new`` behind its name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, RLock
from typing import TextIO

from hwgen.errors import HwgenError, reason

__all__ = ["COMMITTING", "IN_COMMIT", "MANIFEST", "Output"]

MANIFEST = "manifest.json"
FORMAT = "hwgen-output-1"
EXCHANGE = 2
"""``RENAME_EXCHANGE`` of ``renameat2(2)``."""
HERE = -100
"""``AT_FDCWD``: paths are relative to the working directory."""
BLOCK = 1 << 16
"""Bytes that can be written where a disk is not full."""
COMMITTING = RLock()
"""Held while an output changes places; whoever ends the process waits for it."""
IN_COMMIT = Event()
"""Set while an output changes places; a signal that comes then lets it go on."""


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[str]:
    """Paths of all files and links below a directory, relative to it, in order."""
    found = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [os.path.relpath(Path(place) / name, folder) for name in [*names, *links]]
    return sorted(found)


class Output:
    """A directory to write into.

    Parameters
    ----------
    path : :class:`Path`
        It need not exist; a link to a directory is followed.

    Members
    -------
    path : where it is, with links followed
    given : the path as it was given, for messages
    kept : files of the user's that stayed, known after :meth:`replaced`
    beside : those of them beside which a new file was written, with ``.new`` behind its name

    Raises
    ------
    :exc:`HwgenError`
        If it is not a directory, if it holds what no earlier build wrote, or if it is the working
        directory or around it.
    """

    def __init__(self, path: Path) -> None:
        self.given = path
        self._replaceable: list[str] = []
        self.kept: list[str] = []
        self.beside: list[str] = []
        try:
            self.path = path.resolve()
            self._check()
        except OSError as error:
            raise self._unwritable(reason(error)) from None
        except RuntimeError as error:
            # A loop of links.
            raise self._unwritable(str(error)) from None
        self._side = self.path.parent / f".{self.path.name}.hwgen"
        """What is there while a build is at work."""

    def _check(self) -> None:
        here = Path.cwd()
        if self.path == here or self.path in here.parents:
            raise HwgenError(
                f"Output {self.given} is the directory that this runs in, or around it, and would "
                f"be replaced under it: give another directory, or run from elsewhere"
            )
        above = next(folder for folder in self.path.parents if folder.exists())
        if not above.is_dir():
            raise self._unwritable(f"{above} is a file")
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise HwgenError(f"Output {self.given} is a file: give a directory")
        if not self.known() and any(self.path.iterdir()):
            raise HwgenError(
                f"Output {self.given} holds files, and no {MANIFEST} that says which of them an "
                f"earlier build of this version wrote: give another directory, or empty it"
            )
        rtl = self.path / "rtl"
        if rtl.is_symlink() or (rtl.exists() and not rtl.is_dir()):
            raise HwgenError(f"Output {self.given}: {rtl.name} in it is not a directory: move it")

    def known(self) -> dict[str, str]:
        """Hashes of the files that the manifest lists; none if there is no manifest of a build."""
        try:
            data = json.loads((self.path / MANIFEST).read_text())
            if data["format"] == FORMAT:
                return {str(k): str(v) for k, v in data["files"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return {}

    def _unwritable(self, why: str) -> HwgenError:
        return HwgenError(
            f"Output {self.given} cannot be written: {why}; give another directory")

    @contextmanager
    def replaced(self) -> Iterator[Path]:
        """A new directory that takes the place of the output once all went well.

        Raises
        ------
        :exc:`HwgenError`
            If another build is writing the same output, or if it cannot be written.
        :exc:`OSError`
            Any that the body of the ``with`` statement raises about something else than a file of
            the output.
        """
        new = self._side / "new"
        with self._reported():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._lock()
        try:
            with self._reported():
                # What an interrupted build left.
                self._recover()
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
            try:
                yield new
            except OSError as error:
                if self._is_ours(error, new):
                    raise self._unwritable(reason(error)) from None
                raise
            with self._reported(), COMMITTING:
                IN_COMMIT.set()
                try:
                    self._commit(new)
                finally:
                    IN_COMMIT.clear()
        finally:
            self.discard()
            lock.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn faults of the system into one that names the output."""
        try:
            yield
        except OSError as error:
            raise self._unwritable(reason(error)) from None

    @staticmethod
    def _is_ours(error: OSError, new: Path) -> bool:
        """Whether a fault is one of writing the new directory.

        An error of a file that is open already, such as of a full disk, does not say of which one:
        then it is the directory's if nothing more can be written there.
        """
        if isinstance(error.filename, str | bytes | os.PathLike):
            return Path(os.fsdecode(error.filename)).is_relative_to(new)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return False
        try:
            (new / "space").write_bytes(bytes(BLOCK))
        except OSError:
            return True
        return False

    def discard(self) -> None:
        """Take away what an unfinished build has written."""
        shutil.rmtree(self._side, ignore_errors=True)

    def _lock(self) -> TextIO:
        """Lock the output; returns the file that holds the lock, which ends with the process."""
        while True:
            self._side.mkdir(exist_ok=True)
            try:
                file = (self._side / "lock").open("w")
            except FileNotFoundError:
                # Another build has just ended.
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.close()
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                raise HwgenError(f"Output {self.given} is being written by another build: wait "
                                 f"for it, or give another directory") from None
            with suppress(FileNotFoundError):
                if (self._side / "lock").stat().st_ino == os.fstat(file.fileno()).st_ino:
                    return file
            file.close()

    def _recover(self) -> None:
        """Bring back the old output, if a build ended after it took it away and before the new one
        was in its place."""
        old = self._side / "old"
        if old.exists() and not self.path.exists():
            old.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def _commit(self, new: Path) -> None:
        """Take over what is the user's, write the manifest, and let both directories change places.
        """
        ours = {name: _hash(new / name) for name in _files(new)}
        if self.path.exists():
            ours = self._take_over(new, ours)
        text = json.dumps({"format": FORMAT, "files": dict(sorted(ours.items()))}, indent=1)
        (new / MANIFEST).write_text(f"{text}\n")
        new.chmod(0o755)
        if not self.path.exists():
            new.rename(self.path)
        elif not _exchange(new, self.path):
            old = self._side / "old"
            self.path.rename(old)
            new.rename(self.path)
            old.rename(new)
        # ``new`` is the old output now: what came into it since is the user's as well.
        if new.exists():
            for name in set(_files(new)) - set(self.kept) - set(self._replaceable):
                self._keep(new / name, self.path / name)

    def _take_over(self, new: Path, ours: dict[str, str]) -> dict[str, str]:
        """Link what is the user's into the new directory.

        Parameters
        ----------
        new : the new directory
        ours : hashes of the files that the build wrote there, by their path in it

        Returns
        -------
        dict
            The same with the names that they have now: some have ``.new`` behind them.
        """
        known = self.known()
        self._replaceable = [MANIFEST]
        for name in _files(self.path):
            old = self.path / name
            if name == MANIFEST:
                continue
            if name in known and not old.is_symlink() and _hash(old) == known[name]:
                self._replaceable.append(name)
                continue
            if name in ours and not old.is_symlink() and _hash(old) == ours[name]:
                self._replaceable.append(name)
                continue
            self.kept.append(name)
            if name in ours:
                self.beside.append(name)
                (new / name).rename(new / f"{name}.new")
                ours[f"{name}.new"] = ours.pop(name)
            self._keep(old, new / name)
        return ours

    @staticmethod
    def _keep(old: Path, new: Path) -> None:
        """Make a file appear in another directory too, unless it has one of that name."""
        if os.path.lexists(new):
            return
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old, new, follow_symlinks=False)
        except OSError:
            shutil.copy2(old, new, follow_symlinks=False)


def _exchange(one: Path, other: Path) -> bool:
    """Let two directories change places in one step; returns whether the system can do that."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    return rename(HERE, os.fsencode(one), HERE, os.fsencode(other), EXCHANGE) == 0
