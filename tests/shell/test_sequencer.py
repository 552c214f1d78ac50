"""The order of a run, and of a soft reset."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.shell import sequencer
from hwgen.shell.sequencer import CLEAR_CYCLES, SETTLE, Sequencer
from tests.profiles import examples
from tests.typed import ports

LIMIT = 2000


def simulate(drive: Callable, sizes: tuple[int, ...] = (5,), weights: bool = False) -> None:
    dut = ports(Sequencer(sizes, weights))
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def run(ctx) -> None:
        await drive(ctx, dut)

    simulator.add_testbench(run)
    simulator.run()


async def pulse(ctx, signal) -> None:
    ctx.set(signal, 1)
    await ctx.tick()
    ctx.set(signal, 0)


async def until(ctx, signal, value: int = 1) -> int:
    """Wait until a signal has a value; returns the cycles."""
    for cycle in range(LIMIT):
        if ctx.get(signal) == value:
            return cycle
        await ctx.tick()
    raise AssertionError("it does not come")


@given(st.lists(st.integers(1, 2**20), min_size=1, max_size=3), st.integers(0, 2**20))
@examples(10)
def test_words_of_a_run(sizes: list[int], frames: int) -> None:
    """They are there with the beginning, 36 cycles after the start."""
    async def drive(ctx, dut) -> None:
        assert ctx.get(dut.reset), "as long as arguments say nothing"
        for _ in range(2):
            ctx.set(dut.frames, frames)
            assert ctx.get(dut.idle)
            await pulse(ctx, dut.start)
            ctx.set(dut.frames, 7)
            assert await until(ctx, dut.begin) + 1 == 34
            assert not ctx.get(dut.reset)
            assert [ctx.get(getattr(dut, f"words_{k}")) for k in range(len(sizes))] == [
                frames * size for size in sizes]
            await ctx.tick()
            assert not ctx.get(dut.begin)
            ctx.set(dut.busy, 1)
            await ctx.tick().repeat(20)
            assert not ctx.get(dut.finished)
            assert not ctx.get(dut.idle)
            ctx.set(dut.busy, 0)
            await until(ctx, dut.finished)
            await ctx.tick()
            assert not ctx.get(dut.finished)

    simulate(drive, tuple(sizes))


def test_weights_come_once_before_the_first_run() -> None:
    async def run(ctx, dut, loads: bool) -> None:
        seen = [0, 0]
        ctx.set(dut.frames, 1)
        ctx.set(dut.loaded, 1)
        await pulse(ctx, dut.start)
        for _ in range(LIMIT):
            if ctx.get(dut.load):
                assert not seen[1]
                seen[0] += 1
                # The loader is busy from two cycles on.
                await ctx.tick()
                ctx.set(dut.loaded, 0)
                for _ in range(30):
                    await ctx.tick()
                    assert not ctx.get(dut.begin)
                ctx.set(dut.loaded, 1)
            seen[1] += ctx.get(dut.begin)
            if ctx.get(dut.finished):
                break
            await ctx.tick()
        assert seen == [int(loads), 1]
        await ctx.tick().repeat(3)

    async def drive(ctx, dut) -> None:
        ctx.set(dut.memory_idle, 1)
        await run(ctx, dut, True)
        await run(ctx, dut, False)
        await pulse(ctx, dut.clear)
        await until(ctx, dut.clearing, 0)
        await run(ctx, dut, True)

    simulate(drive, weights=True)


def test_after_an_error_a_run_does_not_end() -> None:
    async def drive(ctx, dut) -> None:
        ctx.set(dut.frames, 1)
        ctx.set(dut.failed, 1)
        await pulse(ctx, dut.start)
        for _ in range(200):
            await ctx.tick()
            assert not ctx.get(dut.finished)
            assert not ctx.get(dut.idle)

    simulate(drive)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("after", [0, 2, 10, 33, 34, 35, 40, 60])
def test_soft_reset_at_any_time(after: int, weights: bool) -> None:
    """It waits for the memories, then holds the reset, and then a run is as the first one."""
    async def drive(ctx, dut) -> None:
        ctx.set(dut.frames, 1)
        ctx.set(dut.busy, 1)
        if after:
            await pulse(ctx, dut.start)
            await ctx.tick().repeat(after - 1)
        await pulse(ctx, dut.clear)
        await ctx.tick()
        for _ in range(100):
            assert ctx.get(dut.clearing)
            assert not ctx.get(dut.idle)
            await ctx.tick()
        assert ctx.get(dut.stop)
        ctx.set(dut.memory_idle, 1)
        assert await until(ctx, dut.idle) <= SETTLE + CLEAR_CYCLES + 3
        assert ctx.get(dut.reset)
        ctx.set(dut.busy, 0)
        ctx.set(dut.loaded, 1)
        await pulse(ctx, dut.start)
        await until(ctx, dut.finished)

    simulate(drive, weights=weights)


def test_reset_is_long_enough_and_does_not_begin_early() -> None:
    async def drive(ctx, dut) -> None:
        ctx.set(dut.frames, 1)
        ctx.set(dut.busy, 1)
        await pulse(ctx, dut.start)
        await until(ctx, dut.begin)
        await pulse(ctx, dut.clear)
        for k in range(40):
            # Idle for less than it takes to be sure.
            ctx.set(dut.memory_idle, k % SETTLE != 0)
            await ctx.tick()
            assert not ctx.get(dut.reset)
        ctx.set(dut.memory_idle, 1)
        await until(ctx, dut.reset)
        cycles = 0
        while not ctx.get(dut.idle):
            assert ctx.get(dut.reset)
            cycles += 1
            await ctx.tick()
        assert cycles >= CLEAR_CYCLES

    simulate(drive)


def test_a_dead_memory_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequencer, "PATIENCE", 300)

    async def drive(ctx, dut) -> None:
        await pulse(ctx, dut.clear)
        assert 300 <= await until(ctx, dut.idle) <= 300 + CLEAR_CYCLES + 5

    simulate(drive)
