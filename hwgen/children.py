"""Programs that a build runs: none outlives it.

Each runs in a process group of its own, so that it ends as a whole (a compiler's driver, make and
the compilers behind it), and on Linux with its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

__all__ = ["end_all", "run"]

_running: set[int] = set()
PARENT_DEATH = 1
"""``PR_SET_PDEATHSIG`` of ``prctl(2)``."""
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _with_parent() -> None:
    """In the child: end when the parent does."""
    if _libc is not None:
        _libc.prctl(PARENT_DEATH, signal.SIGKILL)


def run(
    command: Sequence[Any], text: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, as :func:`subprocess.run` with its output captured as text.

    Parameters
    ----------
    command : program and arguments
    text : what it reads; None: nothing
    options : of :class:`subprocess.Popen`

    If this is interrupted, the program and all that it started are killed.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True, preexec_fn=_with_parent, **options,
    ) as child:
        _running.add(child.pid)
        try:
            out, errors = child.communicate(text)
        except BaseException:
            _end(child.pid)
            raise
        finally:
            _running.discard(child.pid)
    return subprocess.CompletedProcess(command, child.returncode, out, errors)


def _end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def end_all() -> None:
    """Kill all programs that run, and what they started."""
    for group in list(_running):
        _end(group)
