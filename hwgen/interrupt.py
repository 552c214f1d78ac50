"""One clear end for an interrupted command: nothing of it goes on, and nothing is left.

Signals become exceptions, which some code swallows: callbacks from C, for one.  So each signal
also starts a clock; if the command has not ended by itself soon, it is ended.  Only command lines
use this: a library leaves signals to its user.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hwgen import children
from hwgen.output import COMMITTING, IN_COMMIT

__all__ = ["Interrupted", "end_at_once", "ending_with_signals", "private_temporary"]

GRACE = 1.0
"""Seconds in which a command may end by itself."""
PREFIX = "hwgen-"
OWNER = "owner"


class Interrupted(KeyboardInterrupt):
    """A signal came; ``status`` is the exit status that says so."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def status(self) -> int:
        """128 and the number of the signal."""
        return 128 + self.number

    @property
    def word(self) -> str:
        """What happened, in a word."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"


def end_at_once() -> None:
    """From now on SIGINT and SIGTERM end the process with a line and the status that says so.

    For a command that has not begun: nothing is cleaned up.
    """
    def end(number: int, _frame) -> None:
        os.write(2, f"hwgen: {Interrupted(number).word}\n".encode())
        os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)


@contextmanager
def ending_with_signals() -> Iterator[list[Callable[[], None]]]:
    """SIGINT and SIGTERM raise :exc:`Interrupted`, and end the process if that is swallowed.

    Yields a list, to which functions may be appended that take away what is left: they are called
    if the process has to be ended.
    """
    cleaners: list[Callable[[], None]] = []
    if threading.current_thread() is not threading.main_thread():
        yield cleaners
        return
    late: list[int] = []
    ended = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        # Woken by the signal itself, so also while the main thread is in a library.
        with suppress(OSError):
            number = next(iter(os.read(reader, 1)), 0)
            if number not in (signal.SIGINT, signal.SIGTERM) or ended.wait(GRACE):
                return
            with COMMITTING:
                if ended.is_set():
                    return
                children.end_all()
                for clean in cleaners:
                    clean()
                print(f"hwgen: {Interrupted(number).word}", file=sys.stderr, flush=True)
                os._exit(128 + number)

    def handle(number: int, _frame) -> None:
        if IN_COMMIT.is_set():
            # In a moment the output is there.
            late.append(number)
            return
        children.end_all()
        raise Interrupted(number)

    def swallowed(unraisable) -> None:
        # A destructor or a callback was interrupted: the clock runs.
        if not isinstance(unraisable.exc_value, Interrupted):
            hook(unraisable)

    hook, sys.unraisablehook = sys.unraisablehook, swallowed
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, handle) for number in numbers}
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield cleaners
        if late:
            raise Interrupted(late[0])
    finally:
        # What is cleaned up now is not to be interrupted again.
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        ended.set()
        sys.unraisablehook = hook
        signal.set_wakeup_fd(woken)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)
        for number, handler in before.items():
            signal.signal(number, handler)


def _started(process: int) -> str:
    """When a process began, in words that no later one of its number has; nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@contextmanager
def private_temporary() -> Iterator[Path]:
    """A folder for all temporary files of this process; sweeps those of dead ones."""
    _sweep(Path(tempfile.gettempdir()))
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    (folder / OWNER).write_text(f"{os.getpid()} {_started(os.getpid())}")
    # What libraries and other programs write goes there too.
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        if variable is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = variable
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(place: Path) -> None:
    """Take away the folders of processes that are no more, and what still runs in them."""
    for folder in place.glob(f"{PREFIX}*"):
        try:
            number, _, started = (folder / OWNER).read_text().partition(" ")
            if folder.stat().st_uid != os.getuid() or _started(int(number)) == started:
                continue
        except (OSError, ValueError):
            continue
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if folder in (process / "cwd").readlink().parents:
                    os.kill(int(process.name), signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
