"""Off-chip memory for Amaranth's simulator: behind the ports of one block, or of a whole pipeline.

It has a latency and no bandwidth; the memory beside the Verilog (:mod:`hwgen.sim.verilator.memory`)
has both, and faults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Value

from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig

__all__ = ["AxiMemory", "serve_reads"]

BASE = 0x1234_5000
"""Where a pipeline finds its memory."""


def serve_reads(client: Any, memory: bytes, latency: int) -> Callable:
    """A process that answers a client's requests to read, a word a cycle.

    Parameters
    ----------
    client : its interface, of :attr:`hwgen.offchip.bus.AxiConfig.read_client`
    memory : what is in the memory, from address 0 on
    latency : cycles from a request to its first word
    """
    size = len(client.data.p) // 8

    async def process(ctx):
        words: deque[tuple[int, int]] = deque()
        cycle, request = 0, client.request
        ticks = ctx.tick().sample(request.valid, request.p.address, request.p.bytes)
        ctx.set(request.ready, 1)
        while True:
            due = bool(words) and words[0][0] <= cycle
            ctx.set(client.data.valid, due)
            if due:
                ctx.set(client.data.p, words.popleft()[1])
            _, _, valid, address, count = await ticks
            if valid:
                for begin in range(address, address + count, size):
                    word = int.from_bytes(memory[begin : begin + size], "little")
                    words.append((cycle + latency, word))
            cycle += 1

    return process


@dataclass
class _Burst:
    """A burst that was accepted.

    Members
    -------
    write : False: a read
    begin, end : its first byte, and the one behind its last
    id : its identifier
    place : the next byte that moves
    due : cycle from which on it may be answered
    """

    write: bool
    begin: int
    end: int
    id: int
    place: int
    due: int

    def overlaps(self, other: _Burst) -> bool:
        """Whether both have a byte in common."""
        return self.begin < other.end and other.begin < self.end


class AxiMemory:
    """Memory behind the AXI4 ports of a pipeline.

    Every port moves a word a cycle in each direction, and answers in order.

    Parameters
    ----------
    axi : :class:`hwgen.offchip.bus.AxiConfig`
    image : what it holds at the beginning
    size : bytes; beyond the image they are random
    latency : cycles from an address to its first word, and from the last word to the response
    back_pressure : probability that a channel pauses, each cycle
    seed : of what is random

    Raises
    ------
    :exc:`HwgenError`
        While it runs, if a burst is not inside the memory, if it overlaps one in the other
        direction that is not over (then what is read would depend on luck), or if the last word of
        a write is not marked as such.
    """

    def __init__(
        self, axi: AxiConfig, image: bytes, size: int, *, latency: int = 20,
        back_pressure: float = 0.0, seed: int = 0,
    ) -> None:
        self.axi = axi
        self.latency = latency
        self.back_pressure = back_pressure
        self.seed = seed
        self.bytes = bytearray(np.random.default_rng(seed).bytes(size))
        self.bytes[: len(image)] = image
        self._bursts: list[_Burst] = []

    def processes(self, ports: Sequence[Any], base: Value) -> list[Callable]:
        """A process for each port.

        Parameters
        ----------
        ports : interfaces of :attr:`hwgen.offchip.bus.AxiConfig.signature`, of the masters
        base : the masters' input that says where the memory begins
        """
        return [_Port(self, port, k).process(base) for k, port in enumerate(ports)]

    def accept(self, write: bool, address: Any, cycle: int) -> _Burst:
        """A burst that a master asks for, checked against all that are under way."""
        begin = address.addr - BASE
        end = begin + (address.len + 1) * self.axi.word_bytes
        burst = _Burst(write, begin, end, address.id, begin, cycle + self.latency)
        what = f"{'write' if write else 'read'} of {end - begin} bytes at {begin:#x}"
        if begin < 0 or end > len(self.bytes):
            raise HwgenError(f"A {what} is outside the {len(self.bytes)} bytes of the memory")
        if any(burst.overlaps(other) for other in self._bursts if other.write != write):
            raise HwgenError(f"A {what} overlaps one in the other direction that is not over")
        self._bursts.append(burst)
        return burst

    def over(self, bursts: deque[_Burst]) -> None:
        """Let go of the first of some bursts."""
        burst = bursts.popleft()
        self._bursts = [other for other in self._bursts if other is not burst]


class _Port:
    """One port of the memory: what it drives in a cycle, and what has moved at its end."""

    def __init__(self, memory: AxiMemory, port: Any, number: int) -> None:
        self.memory = memory
        self.port = port
        self.random = np.random.default_rng([memory.seed, number])
        # Reads; writes that have words to come; writes that are to be answered.
        self.reads, self.writes, self.written = deque[_Burst](), deque[_Burst](), deque[_Burst]()
        # Whether a response, and a word that was read, is offered and not taken yet.
        self.responds, self.gives = False, False

    def process(self, base: Value) -> Callable:
        """The process that serves the port."""
        aw, w, b, ar, r = (getattr(self.port, name) for name in ("aw", "w", "b", "ar", "r"))

        async def process(ctx):
            ticks = ctx.tick().sample(
                aw.valid & aw.ready, aw.p, w.valid & w.ready, w.p, b.valid & b.ready,
                ar.valid & ar.ready, ar.p, r.valid & r.ready,
            )
            ctx.set(base, BASE)
            cycle = 0
            while True:
                self.drive(ctx, cycle)
                _, _, aw_moved, write, w_moved, word, b_moved, ar_moved, read, r_moved = await ticks
                if w_moved:
                    self.store(word, cycle)
                if b_moved:
                    self.responds = False
                    self.memory.over(self.written)
                if r_moved:
                    self.gives = False
                    if self.reads[0].place == self.reads[0].end:
                        self.memory.over(self.reads)
                if aw_moved:
                    self.writes.append(self.memory.accept(True, write, cycle))
                if ar_moved:
                    self.reads.append(self.memory.accept(False, read, cycle))
                cycle += 1

        return process

    def drive(self, ctx, cycle: int) -> None:
        """Set all pins that the memory drives."""
        aw, w, b, ar, r = (getattr(self.port, name) for name in ("aw", "w", "b", "ar", "r"))
        moves = self.random.random(5) >= self.memory.back_pressure
        ctx.set(aw.ready, int(moves[0]))
        ctx.set(w.ready, int(moves[1] and bool(self.writes)))
        ctx.set(ar.ready, int(moves[2]))
        if not self.responds and self.written and self.written[0].due <= cycle and moves[3]:
            self.responds = True
            ctx.set(b.p.id, self.written[0].id)
        if not self.gives and self.reads and self.reads[0].due <= cycle and moves[4]:
            self.gives, burst = True, self.reads[0]
            word = self.memory.bytes[burst.place : burst.place + self.memory.axi.word_bytes]
            ctx.set(r.p.data, int.from_bytes(word, "little"))
            ctx.set(r.p.id, burst.id)
            burst.place += len(word)
            ctx.set(r.p.last, int(burst.place == burst.end))
        ctx.set(b.valid, int(self.responds))
        ctx.set(r.valid, int(self.gives))

    def store(self, word: Any, cycle: int) -> None:
        """A word of the first write."""
        size, burst = self.memory.axi.word_bytes, self.writes[0]
        for n, byte in enumerate(word.data.to_bytes(size, "little")):
            if word.strb >> n & 1:
                self.memory.bytes[burst.place + n] = byte
        burst.place += size
        if word.last != (burst.place == burst.end):
            raise HwgenError("The last word of a write is not marked, or another one")
        if word.last:
            burst.due = cycle + self.memory.latency
            self.written.append(self.writes.popleft())
