"""Off-chip memory for Amaranth's simulator: behind the ports of one block, or of a whole pipeline.

:mod:`hwgen.sim.verilator.memory` is about the memory of the Verilog, which also has a bandwidth and
faults.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig

__all__ = ["AxiMemory", "serve_reads"]

BASE = 0x1234_5000
"""Where a pipeline finds its memory."""


def serve_reads(client, memory: bytes, latency: int):
    """A process that answers a client's requests to read, a word a cycle.

    Parameters
    ----------
    client : see :attr:`hwgen.offchip.bus.AxiConfig.read_client`
    memory : from address 0
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
    """A burst that was accepted: its first byte, the words left, when the next answer is due."""

    write: bool
    begin: int
    end: int
    id: int
    place: int
    due: int

    def overlaps(self, other: _Burst) -> bool:
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
        While it runs: if a burst is not inside the memory, or overlaps one in the other direction
        that is not over: what is read would depend on luck.
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

    def processes(self, pipeline) -> list:
        """A process for each port of a :class:`hwgen.pipeline.Pipeline`."""
        return [self._serve(pipeline, k) for k in range(pipeline.netlist.offchip.ports)]

    def _accept(self, write: bool, address, cycle: int) -> _Burst:
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

    def _over(self, bursts: deque[_Burst]) -> None:
        burst = bursts.popleft()
        self._bursts = [other for other in self._bursts if other is not burst]

    def _serve(self, pipeline, k: int):
        port, size = getattr(pipeline, f"axi_{k}"), self.axi.word_bytes
        aw, w, b, ar, r = (getattr(port, name) for name in ("aw", "w", "b", "ar", "r"))

        async def process(ctx):
            random = np.random.default_rng([self.seed, k])
            # Reads; writes that have words to come; writes that are to be answered.
            reads, writes, written = deque[_Burst](), deque[_Burst](), deque[_Burst]()
            ticks = ctx.tick().sample(
                aw.valid, aw.ready, aw.p, w.valid, w.ready, w.p, b.valid, b.ready,
                ar.valid, ar.ready, ar.p, r.valid, r.ready,
            )
            ctx.set(pipeline.memory_base, BASE)
            cycle, responds, gives = 0, False, False
            while True:
                moves = random.random(5) >= self.back_pressure
                ctx.set(aw.ready, int(moves[0]))
                ctx.set(w.ready, int(moves[1] and bool(writes)))
                ctx.set(ar.ready, int(moves[2]))
                if not responds and written and written[0].due <= cycle and moves[3]:
                    responds = True
                    ctx.set(b.p.id, written[0].id)
                if not gives and reads and reads[0].due <= cycle and moves[4]:
                    gives, burst = True, reads[0]
                    word = self.bytes[burst.place : burst.place + size]
                    ctx.set(r.p.data, int.from_bytes(word, "little"))
                    ctx.set(r.p.id, burst.id)
                    burst.place += size
                    ctx.set(r.p.last, int(burst.place == burst.end))
                ctx.set(b.valid, int(responds))
                ctx.set(r.valid, int(gives))
                (_, _, aw_valid, aw_ready, write, w_valid, w_ready, word, b_valid, b_ready,
                 ar_valid, ar_ready, read, r_valid, r_ready) = await ticks
                if w_valid and w_ready:
                    burst = writes[0]
                    for n, byte in enumerate(word.data.to_bytes(size, "little")):
                        if word.strb >> n & 1:
                            self.bytes[burst.place + n] = byte
                    burst.place += size
                    if word.last != (burst.place == burst.end):
                        raise HwgenError("The last word of a write is not marked, or another one")
                    if word.last:
                        burst.due = cycle + self.latency
                        written.append(writes.popleft())
                if b_valid and b_ready:
                    responds = False
                    self._over(written)
                if r_valid and r_ready:
                    gives = False
                    if reads[0].place == reads[0].end:
                        self._over(reads)
                if aw_valid and aw_ready:
                    writes.append(self._accept(True, write, cycle))
                if ar_valid and ar_ready:
                    reads.append(self._accept(False, read, cycle))
                cycle += 1

        return process
