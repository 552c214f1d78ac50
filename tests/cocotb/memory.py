"""An AXI4 memory in Python that answers out of turn and fails on demand; for any simulator."""

from __future__ import annotations

from collections import deque

import numpy as np

from hwgen.offchip.bus import AxiConfig
from tests.cocotb.rules import Seen

BASE = 0x12_3456_0000
SIZE = 1 << 16
NEVER = 1 << 60
SLVERR, DECERR = 2, 3


class Memory:
    """An AXI4 slave: answers of one identifier are in order, those of several are mixed.

    ``ready``: how often a channel is; ``latency``: cycles from a burst to its answer, at least;
    ``gap``: how often no answer comes.  ``faults``: the response of the n-th R beat or B.
    ``silent``: from this cycle on, nothing is taken and nothing comes.
    """

    def __init__(
        self, config: AxiConfig, random: np.random.Generator, *, ready: float = 1.0,
        latency: int = 1, gap: float = 0.0, base: int = BASE,
    ) -> None:
        self.config, self.random, self.base = config, random, base
        self.ready, self.latency, self.gap = ready, latency, gap
        self.bytes = bytearray(random.bytes(SIZE))
        self.read_faults: dict[int, int] = {}
        self.write_faults: dict[int, int] = {}
        self.silent = NEVER
        self.beats = self.responses = 0
        self.strobes: list[int] = []
        self.reset()

    def reset(self) -> None:
        self.reads: dict[int, deque[tuple[int, int, int]]] = {}
        self.writes: dict[int, deque[tuple[int]]] = {}
        self.addresses: deque[tuple[int, int, int]] = deque()
        self.words: deque[tuple[int, int, int]] = deque()

    def _word(self, address: int) -> int:
        place, size = address - self.base, self.config.word_bytes
        assert 0 <= place <= SIZE - size, f"address {address:#x} is outside"
        return int.from_bytes(self.bytes[place : place + size], "little")

    def offer(self, cycle: int) -> dict[str, tuple[int, ...]]:
        """What the channels show in a cycle: AW, W and AR whether ready, B and R what comes."""
        if cycle >= self.silent:
            return {"aw": (0,), "w": (0,), "ar": (0,), "b": (), "r": ()}
        out: dict[str, tuple[int, ...]] = {
            name: (int(self.random.random() < self.ready),) for name in ("aw", "w", "ar")
        }
        out["b"] = out["r"] = ()
        for name, pending in (("r", self.reads), ("b", self.writes)):
            due = [index for index, queue in pending.items()
                   if queue and queue[0][0] <= cycle]
            if not due or self.random.random() < self.gap:
                continue
            index = int(self.random.choice(due))
            if name == "b":
                pending[index].popleft()
                out["b"] = (index, self.write_faults.get(self.responses, 0))
                self.responses += 1
            else:
                _, address, last = self.reads[index].popleft()
                resp = self.read_faults.get(self.beats, 0)
                out["r"] = (index, self._word(address), resp, last)
                self.beats += 1
        return out

    def step(self, cycle: int, aw: Seen, w: Seen, ar: Seen) -> None:
        """What was taken in a cycle."""
        size = self.config.word_bytes
        if ar.moves:
            address, length, index = ar.payload
            queue = self.reads.setdefault(index, deque())
            for k in range(length + 1):
                queue.append((cycle + self.latency, address + k * size, int(k == length)))
        if aw.moves:
            self.addresses.append(aw.payload)
        if w.moves:
            self.words.append(w.payload)
            self.strobes.append(w.payload[1])
        if self.addresses and len(self.words) > self.addresses[0][1]:
            address, length, index = self.addresses.popleft()
            for k in range(length + 1):
                data, strobe, _ = self.words.popleft()
                for j, byte in enumerate(data.to_bytes(size, "little")):
                    if strobe >> j & 1:
                        self.bytes[address - self.base + k * size + j] = byte
            self.writes.setdefault(index, deque()).append((cycle + self.latency,))
