"""The register bank, over AXI4-Lite in any order, against a model of what software sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.shell.control import COUNTERS, ControlConfig
from hwgen.shell.registers import ARGUMENTS, VERSION, arguments, status
from tests.profiles import examples
from tests.typed import ports

CONTROL, GLOBAL, ENABLE, STATUS = 0, 4, 8, 12
START, DONE, IDLE, READY = 1, 2, 4, 8
IDENTIFICATION = 0x0123_4567_89AB_CDEF
ARGS = tuple(arguments(["x", "y"], memory=True, weights=True))
PATIENCE = 100
"""Cycles of an access."""


def config() -> ControlConfig:
    return ControlConfig(arguments=ARGS, identification=IDENTIFICATION)


class Lite:
    """A master that takes its time, at each channel by itself."""

    def __init__(self, ctx, dut, seed: int = 0, pause: float = 0.0) -> None:
        self.ctx, self.dut, self.pause = ctx, dut, pause
        self.random = np.random.default_rng(seed)

    async def _move(self, offered: dict[str, dict[str, int]], answer: str, take: tuple[str, ...]):
        """Offer channels until each is taken, and take the answer; returns what it says."""
        ctx, dut = self.ctx, self.dut
        left, shown, taken = dict(offered), set(), None
        for _ in range(PATIENCE * 10):
            for name, pins in left.items():
                if name not in shown and self.random.random() >= self.pause:
                    shown.add(name)
                    for pin, value in pins.items():
                        ctx.set(getattr(dut, f"lite_{name}{pin}"), value)
                ctx.set(getattr(dut, f"lite_{name}valid"), name in shown)
            ready = self.random.random() >= self.pause
            ctx.set(getattr(dut, f"lite_{answer}ready"), ready)
            moved = [n for n in shown if n in left and ctx.get(getattr(dut, f"lite_{n}ready"))]
            if ctx.get(getattr(dut, f"lite_{answer}valid")):
                assert not left, "an answer comes behind what it answers"
                if ready:
                    taken = tuple(ctx.get(getattr(dut, f"lite_{answer}{pin}")) for pin in take)
            await ctx.tick()
            for name in moved:
                del left[name]
                ctx.set(getattr(dut, f"lite_{name}valid"), 0)
            if taken is not None:
                ctx.set(getattr(dut, f"lite_{answer}ready"), 0)
                return taken
        raise AssertionError("no answer")

    async def write(self, address: int, data: int, strobes: int = 15) -> None:
        (resp,) = await self._move({"aw": {"addr": address}, "w": {"data": data, "strb": strobes}},
                                   "b", ("resp",))
        assert resp == 0

    async def read(self, address: int) -> int:
        data, resp = await self._move({"ar": {"addr": address}}, "r", ("data", "resp"))
        assert resp == 0
        return data


def simulate(*benches) -> None:
    """Simulate coroutines ``bench(ctx, dut)``; the first says when all is over."""
    dut = ports(config().create())
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for k, bench in enumerate(benches):
        async def drive(ctx, bench=bench) -> None:
            await bench(ctx, dut)

        simulator.add_testbench(drive, background=k > 0)
    simulator.run()


@dataclass
class Model:
    """What registers hold, if no run begins."""

    words: dict[int, int] = field(default_factory=dict)

    def write(self, address: int, data: int, strobes: int) -> None:
        mask = sum(0xFF << 8 * k for k in range(4) if strobes >> k & 1)
        places = {each.offset + 4 * k for each in ARGS for k in range(each.bits // 32)}
        old = self.words.get(address, 0)
        if address in places:
            self.words[address] = old & ~mask | data & mask
        elif address == GLOBAL and strobes & 1:
            self.words[address] = data & 1
        elif address == ENABLE and strobes & 1:
            self.words[address] = data & 7
        elif address == STATUS and strobes & 1:
            self.words[address] = old ^ data & 7

    def read(self, address: int) -> int:
        where = status()
        fixed = {CONTROL: 0, where["id_low"]: IDENTIFICATION & 0xFFFFFFFF,
                 where["id_high"]: IDENTIFICATION >> 32, where["version"]: VERSION}
        return fixed.get(address, self.words.get(address, 0))


KNOWN = [CONTROL, GLOBAL, ENABLE, STATUS, *range(ARGUMENTS, ARGUMENTS + 8 * len(ARGS) + 8, 4),
         *status().values(), 0x3FC, 0x440, 0xFFC]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(KNOWN), st.integers(0, 2**32 - 1),
                          st.integers(0, 15)), min_size=1, max_size=30),
       st.sampled_from([0.0, 0.5, 0.9]), st.integers(0, 999))
@examples(30)
def test_registers_against_a_model(
    accesses: list[tuple[bool, int, int, int]], pause: float, seed: int
) -> None:
    """Address and data in any order, any bytes of a word, addresses that nothing has."""
    async def bench(ctx, dut) -> None:
        lite, model = Lite(ctx, dut, seed, pause), Model()
        for writes, address, data, strobes in accesses:
            if writes:
                await lite.write(address, data, strobes)
                model.write(address, data, strobes)
            else:
                assert await lite.read(address) == model.read(address)
        for address in KNOWN:
            assert await lite.read(address) == model.read(address)
        for each in ARGS:
            value = sum(model.read(each.offset + 4 * k) << 32 * k for k in range(each.bits // 32))
            assert ctx.get(getattr(dut, f"arg_{each.name}")) == value

    simulate(bench)


@pytest.mark.parametrize("write_pause", [0.0, 0.7])
def test_reads_and_writes_at_once(write_pause: float) -> None:
    """Neither waits for the other."""
    async def writes(ctx, dut) -> None:
        lite = Lite(ctx, dut, 1, write_pause)
        for k in range(50):
            await lite.write(ARGUMENTS, k)

    async def reads(ctx, dut) -> None:
        lite, last = Lite(ctx, dut, 2, 0.3), 0
        while True:
            now = await lite.read(ARGUMENTS)
            assert now >= last
            last = now

    simulate(writes, reads)


def test_a_run() -> None:
    """Start reads 1 until the run ends; done and ready clear when they are read; interrupts."""
    async def bench(ctx, dut) -> None:
        lite = Lite(ctx, dut)
        await lite.write(CONTROL, START)
        assert not await lite.read(CONTROL), "not idle: it does not begin"
        ctx.set(dut.idle, 1)
        assert await lite.read(CONTROL) == IDLE
        await lite.write(CONTROL, START, 14)
        assert await lite.read(CONTROL) == IDLE, "the byte was not written"
        await lite.write(GLOBAL, 1)
        await lite.write(ENABLE, 1)
        await lite.write(CONTROL, START)
        assert await lite.read(CONTROL) == START
        assert not ctx.get(dut.interrupt)
        ctx.set(dut.finished, 1)
        await ctx.tick()
        ctx.set(dut.finished, 0)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.interrupt)
        assert await lite.read(STATUS) == 1, "what is not enabled does not show"
        assert await lite.read(CONTROL) == DONE | IDLE | READY
        assert await lite.read(CONTROL) == IDLE
        await lite.write(STATUS, 1)
        assert not await lite.read(STATUS)
        assert not ctx.get(dut.interrupt)

    async def starts(ctx, dut) -> None:
        count = 0
        async for _, _, start in ctx.tick().sample(dut.start):
            count += start
            assert count <= 1

    simulate(bench, starts)


def test_an_error_interrupts_once() -> None:
    async def bench(ctx, dut) -> None:
        lite = Lite(ctx, dut)
        await lite.write(GLOBAL, 1)
        await lite.write(ENABLE, 4)
        ctx.set(dut.errors, 0b10010)
        await ctx.tick().repeat(5)
        assert ctx.get(dut.interrupt)
        assert await lite.read(status()["errors"]) == 0b10010
        await lite.write(STATUS, 4)
        await ctx.tick().repeat(3)
        assert not ctx.get(dut.interrupt)

    simulate(bench)


def test_soft_reset_and_counters() -> None:
    """A run is over with it; arguments stay; while it goes on, its register says so."""
    async def bench(ctx, dut) -> None:
        lite, where = Lite(ctx, dut), status()
        ctx.set(dut.idle, 1)
        await lite.write(ARGUMENTS, 77)
        await lite.write(CONTROL, START)
        for k, name in enumerate(sorted(COUNTERS)):
            ctx.set(getattr(dut, name), 1000 + k)
            assert await lite.read(where[name]) == 1000 + k
        await lite.write(where["reset"], 0)
        await lite.write(where["reset"], 1, 14)
        assert await lite.read(CONTROL) == START
        await lite.write(where["reset"], 1)
        ctx.set(dut.clearing, 1)
        assert await lite.read(where["reset"]) == 1
        assert await lite.read(CONTROL) == IDLE
        ctx.set(dut.clearing, 0)
        assert await lite.read(where["reset"]) == 0
        assert await lite.read(ARGUMENTS) == 77

    async def clears(ctx, dut) -> None:
        count = 0
        async for _, _, clear in ctx.tick().sample(dut.clear):
            count += clear
            assert count <= 1

    simulate(bench, clears)


def test_addresses() -> None:
    """Arguments follow each other, eight bytes apart, below what the shell says of itself."""
    assert [each.offset for each in ARGS] == [0x10 + 8 * k for k in range(len(ARGS))]
    assert [each.name for each in ARGS] == [
        "frames", "address_x", "address_y", "stride_x", "stride_y", "memory", "weights"]
    assert min(status().values()) == 0x400
