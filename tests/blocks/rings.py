"""A model of the memory that answers the ports of a block with a ring off chip, and a run with it.

The model keeps to the strictest order: words are written as soon as they are taken, and read as
late as they are delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from amaranth.sim import Simulator

from hwgen.blocks.base import Schedule
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.offchip_rearrange import OffChipRearrangeConfig
from tests.blocks.checks import random_arrivals, random_frames

BASE = 0x3000
"""Where rings begin."""
PATIENCE = 5000
"""Cycles without a beat after which a run counts as stuck."""

Ring = EvictionConfig | OffChipRearrangeConfig


@dataclass
class Memory:
    """A memory that answers a block's ports and watches what it does.

    Parameters
    ----------
    config : configuration of the block
    latency : cycles from a request to ``done``, or to the last word of its data
    jitter : most cycles that are added to that, for each request
    stall : probability that something is not ready, or a word of data late, each cycle
    pace : cycles from taking a word to being ready for the next

    Members
    -------
    requests : of writes and of reads, cycle in which each is seen first
    written, read : bytes
    reuse : how often each slot was written
    """

    config: Ring
    latency: int
    jitter: int = 0
    stall: float = 0.0
    pace: int = 1
    seed: int = 0
    requests: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    written: int = 0
    read: int = 0
    reuse: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng([self.seed, 5])
        self.bytes = bytearray(self.random.bytes(BASE + self.config.ring_bytes))
        self.state = ["free"] * (self.config.ring_bytes // self.config.axi.word_bytes)
        # Requests by their first word: those whose words are not all taken, with what is left; of
        # reads every word, when it is due.
        self.to_take: deque[list[int]] = deque()
        self.to_finish: deque[tuple[int, int, int]] = deque()
        self.to_send: deque[tuple[int, int, int]] = deque()
        self.expected = [self.writes(), self.reads()]

    def writes(self) -> Iterator[tuple[int, int]]:
        """First word and number of words of requests to write, frame after frame."""
        config, slot = self.config, 0
        while True:
            left = config.words_per_frame
            while left > 0:
                yield slot * config.slot_words, min(left, config.slot_words)
                left, slot = left - config.slot_words, (slot + 1) % config.slots

    def reads(self) -> Iterator[tuple[int, int]]:
        """First word and number of words of requests to read."""
        config = self.config
        if isinstance(config, EvictionConfig):
            yield from self.writes()
        frame = 0
        while isinstance(config, OffChipRearrangeConfig):
            # A frame begins with a slot.
            begin = frame * config.requests_per_frame * config.slot_pieces
            for piece in config.order.words.ravel():
                yield (begin + int(piece)) % config.depth * config.piece_words, config.piece_words
            frame += 1

    def due(self, cycle: int) -> int:
        return cycle + self.latency + (int(self.random.integers(self.jitter + 1)))

    def check(self, kind: int, address: int, size: int) -> tuple[int, int]:
        """First word and number of words of a request, which must be the next one."""
        first, words = next(self.expected[kind])
        unit = self.config.axi.word_bytes
        assert (address - BASE, size) == (first * unit, words * unit)
        return first, words

    def mark(self, first: int, words: int, state: str, *before: str) -> None:
        """The state of some words, which must have been another."""
        for word in range(first, first + words):
            assert not before or self.state[word] in before, (word, self.state[word], state)
            self.state[word] = state

    def answer(self, dut: Any):
        """The process that answers a block's ports."""
        async def process(ctx) -> None:
            await self.run(ctx, dut)

        return process

    async def run(self, ctx, dut: Any) -> None:
        size = self.config.axi.word_bytes
        write, read = dut.write, dut.read
        ticks = ctx.tick().sample(
            write.request.valid, write.request.ready, write.request.p.address,
            write.request.p.bytes, write.data.valid, write.data.ready, write.data.p,
            read.request.valid, read.request.ready, read.request.p.address, read.request.p.bytes,
        )
        ctx.set(dut.base, BASE)
        offers: list[tuple[int, int, int] | None] = [None, None]
        held = None
        cycle = taken = 0
        while True:
            stalls = self.random.random(4) < self.stall
            ctx.set(write.request.ready, not stalls[0])
            ctx.set(read.request.ready, not stalls[1])
            ctx.set(write.data.ready, bool(self.to_take) and not stalls[2]
                    and cycle >= taken + self.pace)
            done = bool(self.to_finish) and cycle >= self.to_finish[0][0]
            ctx.set(write.done, done)
            if done:
                _, first, words = self.to_finish.popleft()
                self.mark(first, words, "written")
            sent = bool(self.to_send) and cycle >= self.to_send[0][0] and not stalls[3]
            ctx.set(read.data.valid, sent)
            if sent:
                _, word, last = self.to_send.popleft()
                at = BASE + word * size
                ctx.set(read.data.p, int.from_bytes(self.bytes[at : at + size], "little"))
                self.read += size
                if last:
                    self.sent(word + 1 - last, last)
            _, _, *seen = await ticks
            for kind, values in enumerate((seen[:4], seen[7:])):
                valid, ready, address, length = values
                offer = offers[kind]
                if offer is not None:
                    assert valid
                    assert offer[1:] == (address, length), "a request changed while not ready"
                elif valid:
                    offers[kind] = offer = (cycle, address, length)
                if valid and ready:
                    assert offer is not None
                    offers[kind] = None
                    self.accept(kind, offer[0], *self.check(kind, address, length))
            valid, ready, word = seen[4:7]
            if held is not None:
                assert valid
                assert word == held, "a word changed while not ready"
            held = word if valid and not ready else None
            if self.to_take and ready:
                assert valid, "a word of a request is not there"
            if valid and ready:
                taken = cycle
                first, words, left, due = request = self.to_take[0]
                at = BASE + (first + words - left) * size
                self.bytes[at : at + size] = word.to_bytes(size, "little")
                self.written += size
                request[2] = left - 1
                if left == 1:
                    self.to_take.popleft()
                    self.to_finish.append((max(due, cycle + 1), first, words))
            cycle += 1

    def sent(self, first: int, words: int) -> None:
        """All words of a request have been sent."""
        # What is in another order may be read again, or never.
        self.mark(first, words, "free" if isinstance(self.config, EvictionConfig) else "written")

    def accept(self, kind: int, cycle: int, first: int, words: int) -> None:
        """A request that was offered first in this cycle."""
        self.requests[kind].append(cycle)
        again = isinstance(self.config, OffChipRearrangeConfig)
        if kind == 0:
            # What is never read may be under way still: writes are done one after the other.
            self.mark(first, words, "writing", "free", *["written", "writing"] * again)
            slot = first // self.config.slot_words
            self.reuse[slot] = self.reuse.get(slot, 0) + 1
            self.to_take.append([first, words, words, self.due(cycle)])
        else:
            self.mark(first, words, "reading", "written", *["reading"] * again)
            end = self.due(cycle)
            self.to_send.extend(
                (end - words + 1 + k, first + k, words if k == words - 1 else 0)
                for k in range(words)
            )


@dataclass(frozen=True)
class Seen:
    """What a run saw: frames, cycles of beats in and out, and cycles in which ``waits`` was up."""

    frames: np.ndarray
    accepts: np.ndarray
    times: np.ndarray
    waits: int


def run(
    config: Ring, frames: np.ndarray, memory: Memory, *,
    stall: tuple[float, float] = (0.0, 0.0), seed: int = 0,
    arrivals: np.ndarray | None = None, pops: np.ndarray | None = None,
) -> Seen:
    """Frames through a block; ``pops``: earliest cycle in which each beat is taken."""
    dut: Any = config.create()
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    values = config.inputs[0].pack(frames)
    count = len(frames) * config.outputs[0].beats
    accepts: list[int] = []
    times: list[int] = []
    beats: list[int] = []
    waits = 0

    async def source(ctx) -> None:
        random = np.random.default_rng([seed, 0])
        ticks = ctx.tick().sample(dut.i.ready)
        cycle = index = 0
        offered = False
        while True:
            more = not offered and index < len(values)
            if more and (arrivals is None or cycle >= arrivals[index]):
                offered = random.random() >= stall[0]
                ctx.set(dut.i.p.as_value(), values[index])
            ctx.set(dut.i.valid, offered)
            _, _, ready = await ticks
            if offered and ready:
                accepts.append(cycle)
                index, offered = index + 1, False
            cycle += 1

    async def sink(ctx) -> None:
        nonlocal waits
        random = np.random.default_rng([seed, 1])
        ticks = ctx.tick().sample(dut.o.valid, dut.o.p.as_value(), dut.waits)
        cycle = last = 0
        held = None
        while len(beats) < count:
            ready = random.random() >= stall[1] and (pops is None or cycle >= pops[len(beats)])
            ctx.set(dut.o.ready, bool(ready))
            _, _, valid, value, waiting = await ticks
            waits += waiting
            if held is not None:
                assert valid
                assert value == held, "the output changed while not ready"
            held = value if valid and not ready else None
            if valid and ready:
                times.append(cycle)
                beats.append(value)
                last = cycle
            assert cycle - last < PATIENCE, f"stuck after {len(beats)} of {count} beats"
            cycle += 1

    simulator.add_testbench(memory.answer(dut), background=True)
    simulator.add_testbench(source, background=True)
    simulator.add_testbench(sink)
    simulator.run()
    return Seen(config.outputs[0].unpack(beats), np.array(accepts), np.array(times), waits)


def several(config: Ring, seed: int, count: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.concatenate([random_frames(config, random)[0] for _ in range(-(-count // 2))])[:count]


def on_time(
    config: Ring, seed: int, count: int, jitter: int = 0
) -> tuple[Schedule, Seen, Memory]:
    """A run with irregular arrivals or, for even seeds, without pauses.

    The memory takes its latency, or at random less by up to ``jitter``.
    """
    frames = several(config, seed, count)
    beats = len(frames) * config.inputs[0].beats
    arrivals = np.arange(beats)
    if seed % 2:
        random = np.random.default_rng(seed)
        each = [random_arrivals(config, random)[0] for _ in range(-(-count // 2))]
        arrivals = np.concatenate([k * each[0][-1] + a for k, a in enumerate(each)])[:beats]
    schedule = config.schedule([arrivals])
    if schedule.capacity is not None:
        config = replace(config, capacity=schedule.capacity)
    memory = Memory(config, config.memory_latency - jitter, jitter, seed=seed)
    seen = run(config, frames, memory, arrivals=arrivals)
    np.testing.assert_array_equal(seen.frames, config.compute(frames)[0])
    return schedule, seen, memory


def kept(seen: Seen, schedule: Schedule) -> bool:
    """Whether beats were accepted on time; those after the last output are not awaited."""
    return np.array_equal(seen.accepts, schedule.accepts[0][: len(seen.accepts)])
