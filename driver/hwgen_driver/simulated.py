"""A board in Verilator: the program that ``hwgen.sim.verilator.board`` compiles."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np

from .errors import DriverError
from .places import Places
from .transport import Memory

__all__ = ["Simulated"]

BASE, SIZE = 0x1000_0000, 1 << 26
CYCLES = 20_000
"""Cycles that a wait goes on for at most."""


class Simulated:
    """The simulated board as a transport.

    Parameters
    ----------
    program : the program
    settings : file of what memory does; None: it is quick and without faults
    base, size : where the memory of the board begins, and its bytes

    Members
    -------
    cycles : cycles that waits have taken
    """

    def __init__(self, program: str | Path, settings: str | Path | None = None, *,
                 base: int = BASE, size: int = SIZE) -> None:
        program = Path(program).resolve()
        arguments = [str(program)] if settings is None else [str(program), str(settings)]
        # Images of memories are found beside the Verilog.
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=program.parent.parent)
        self._places = Places(base, size)
        self._lock = threading.Lock()
        self.cycles = 0

    def _gone(self) -> DriverError:
        self._process.wait()
        assert self._process.stderr is not None
        text = self._process.stderr.read().decode(errors="replace").strip()
        return DriverError(f"The simulated board has ended: {text or self._process.returncode}")

    def _send(self, line: str, data: bytes = b"") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n" + data)
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def ask(self, line: str, data: bytes = b"") -> list[str]:
        """Send a command, and return the words of the answer."""
        with self._lock:
            self._send(line, data)
            assert self._process.stdout is not None
            answer = self._process.stdout.readline()
            if not answer:
                raise self._gone()
        return answer.decode().split()

    def read32(self, offset: int) -> int:
        return int(self.ask(f"r {offset:x}")[0], 16)

    def write32(self, offset: int, value: int) -> None:
        self.ask(f"w {offset:x} {value:x}")

    def allocate(self, size: int) -> Memory:
        return Memory(self._places.take(size), np.zeros(size, np.uint8))

    def free(self, buffer: Memory) -> None:
        self._places.give(buffer.address, buffer.array.size)

    def flush(self, buffer: Memory) -> None:
        self.ask(f"p {buffer.address:x} {buffer.array.size:x}", buffer.array.tobytes())

    def invalidate(self, buffer: Memory) -> None:
        with self._lock:
            self._send(f"g {buffer.address:x} {buffer.array.size:x}")
            assert self._process.stdout is not None
            raw = self._process.stdout.read(buffer.array.size)
        if len(raw) != buffer.array.size:
            raise self._gone()
        buffer.array[:] = np.frombuffer(raw, np.uint8)

    def wait(self, seconds: float) -> None:
        _, cycles = self.ask(f"i {CYCLES:x}")
        self.cycles += int(cycles, 16)

    def reset(self, cycles: int = 4) -> None:
        """What the reset button of a board does."""
        self.ask(f"z {cycles:x}")

    def clock_mhz(self) -> float | None:
        return None

    def close(self) -> None:
        if self._process.stdin is not None:
            # What could not be sent any more is lost with the board.
            with suppress(OSError):
                self._process.stdin.close()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
