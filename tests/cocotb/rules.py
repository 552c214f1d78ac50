"""What AXI4 demands of a master, checked cycle by cycle; for any simulator."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

PAGE = 4096


class Seen(NamedTuple):
    """A channel in a cycle; ``payload`` only counts while it is valid."""

    valid: int
    ready: int
    payload: tuple[int, ...] = ()

    @property
    def moves(self) -> bool:
        return bool(self.valid and self.ready)


class Rules:
    """Follows the channels of a master, from reset on.

    Payloads are ``(addr, len, id)`` of AW and AR, ``(data, strb, last)`` of W; of B and R the id is
    the first and, of R, last the last.

    Members
    -------
    reads, writes : bursts that were taken, as (address, beats, id)
    in_flight : most bursts in flight, of reads and of writes
    """

    def __init__(self, word_bytes: int) -> None:
        self.word_bytes = word_bytes
        self.reads: list[tuple[int, int, int]] = []
        self.writes: list[tuple[int, int, int]] = []
        self.in_flight = [0, 0]
        self.beats = 0
        self._held: dict[str, tuple[int, ...]] = {}
        self._flight = [0, 0]
        # Beats of bursts whose address or whose words only were seen so far.
        self._addressed: deque[int] = deque()
        self._written: deque[int] = deque()
        self._beat = 0

    def step(self, aw: Seen, w: Seen, b: Seen, ar: Seen, r: Seen) -> None:
        """A cycle."""
        for name, seen in (("aw", aw), ("w", w), ("ar", ar)):
            if name in self._held:
                assert seen.valid, f"{name}: valid fell before ready"
                assert seen.payload == self._held[name], f"{name}: payload changed before ready"
            self._held.pop(name, None)
            if seen.valid and not seen.ready:
                self._held[name] = seen.payload
        if aw.moves:
            self.writes.append(self._burst(aw))
            self._addressed.append(aw.payload[1] + 1)
        if ar.moves:
            self.reads.append(self._burst(ar))
        if w.moves:
            self.beats += 1
            self._beat += 1
            if w.payload[2]:
                self._written.append(self._beat)
                self._beat = 0
            assert self._beat < 256, "w: no last beat"
        while self._addressed and self._written:
            asked, came = self._addressed.popleft(), self._written.popleft()
            assert asked == came, f"w: a burst of {asked} beats had {came}"
        self._flight[0] += ar.moves - bool(r.moves and r.payload[-1])
        self._flight[1] += aw.moves - b.moves
        self.in_flight = [*map(max, self.in_flight, self._flight)]

    @property
    def complete(self) -> bool:
        """Whether nothing is under way."""
        return not (self._held or self._beat or self._addressed or self._written
                    or any(self._flight))

    def _burst(self, seen: Seen) -> tuple[int, int, int]:
        address, length, index = seen.payload
        size = (length + 1) * self.word_bytes
        assert address % self.word_bytes == 0, f"a burst at {address:#x} is not aligned"
        assert length < 256
        assert address // PAGE == (address + size - 1) // PAGE, (
            f"a burst of {size} bytes at {address:#x} crosses a page"
        )
        return address, length + 1, index
