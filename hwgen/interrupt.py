"""One clear end for an interrupted command: nothing of it goes on, and nothing of it is left.

Signals become exceptions, which some code swallows, such as callbacks from C.  So each signal also
starts a clock: if the command has not ended by itself when it runs out, it is ended.  Only command
lines use this, because a library leaves signals to its user.
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

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that end a command."""
GRACE = 1.0
"""Seconds in which a command may end by itself."""
PREFIX = "hwgen-"
"""What names of temporary folders begin with."""
OWNER = "owner"
"""File in such a folder that says whose it is: number of the process, and when it began."""


class Interrupted(KeyboardInterrupt):
    """A signal came.

    Parameters
    ----------
    number : of the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def status(self) -> int:
        """The exit status: 128 and the number of the signal."""
        return 128 + self.number

    @property
    def word(self) -> str:
        """What happened, in a word."""
        return "interrupted" if self.number == signal.SIGINT else "terminated"


def end_at_once() -> None:
    """From now on SIGINT and SIGTERM end the process with a line and the status that says so.

    This is for a command that has not begun, because nothing is cleaned up.
    """
    def end(number: int, _frame) -> None:
        os.write(2, f"hwgen: {Interrupted(number).word}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, end)


@contextmanager
def ending_with_signals() -> Iterator[list[Callable[[], None]]]:
    """SIGINT and SIGTERM raise :exc:`Interrupted`, and end the process if that is swallowed.

    Yields a list, to which functions may be appended that take away what is left: they are called
    if the process has to be ended.  Outside the main thread, which alone can handle signals,
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield []
        return
    ending = _Ending()
    before = {number: signal.signal(number, ending.handle) for number in SIGNALS}
    woken = signal.set_wakeup_fd(ending.writer, warn_on_full_buffer=False)
    hook = sys.unraisablehook
    sys.unraisablehook = _without_interruptions(hook)
    thread = threading.Thread(target=ending.watch, daemon=True)
    thread.start()
    try:
        yield ending.cleaners
        if ending.late:
            raise Interrupted(ending.late[0])
    finally:
        # What is cleaned up now is not to be interrupted again.
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        ending.ended.set()
        sys.unraisablehook = hook
        signal.set_wakeup_fd(woken)
        os.write(ending.writer, b"\0")
        thread.join()
        os.close(ending.reader)
        os.close(ending.writer)
        for number, handler in before.items():
            signal.signal(number, handler)


class _Ending:
    """What a signal does: it raises an exception, and starts the clock.

    Members
    -------
    cleaners : functions that are called if the process has to be ended
    late : signals that came while the output changed places
    ended : set once the command has ended by itself
    reader, writer : a pipe into which Python writes the number of each signal that comes
    """

    def __init__(self) -> None:
        self.cleaners: list[Callable[[], None]] = []
        self.late: list[int] = []
        self.ended = threading.Event()
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)

    def handle(self, number: int, _frame: object) -> None:
        """Handle a signal in the main thread."""
        if IN_COMMIT.is_set():
            # In a moment the output is there.
            self.late.append(number)
            return
        children.end_all()
        raise Interrupted(number)

    def watch(self) -> None:
        """Wait for a signal, and end the process if it has not ended by itself soon after."""
        # The signal itself wakes this thread, even while the main thread is in a library.
        with suppress(OSError):
            number = next(iter(os.read(self.reader, 1)), 0)
            if number not in SIGNALS or self.ended.wait(GRACE):
                return
            with COMMITTING:
                if self.ended.is_set():
                    return
                children.end_all()
                for clean in self.cleaners:
                    clean()
                print(f"hwgen: {Interrupted(number).word}", file=sys.stderr, flush=True)
                os._exit(128 + number)


def _without_interruptions(hook: Callable) -> Callable:
    """A hook for exceptions that nobody can handle, to which a signal is none."""
    def shown(unraisable) -> None:
        # A destructor or a callback was interrupted: the clock runs.
        if not isinstance(unraisable.exc_value, Interrupted):
            hook(unraisable)

    return shown


def _started(process: int) -> str:
    """When a process began, which no later one of its number has in common; empty if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


@contextmanager
def private_temporary() -> Iterator[Path]:
    """Yield a folder for all temporary files of this process; remove those of dead processes."""
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
    """Remove the folders of processes that have ended, and kill what still runs in them."""
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
