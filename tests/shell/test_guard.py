"""FrameGuard: whole frames come out, whatever comes in, and each end is one."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.shell.guard import FrameGuardConfig
from tests.profiles import examples
from tests.typed import ports


def expected(frames: list[list[int]], beats: int) -> list[int]:
    """What comes out of frames of any length."""
    return [value for frame in frames for value in (frame + [0] * beats)[:beats]]


@given(st.integers(1, 6), st.lists(st.integers(1, 12), min_size=1, max_size=6), st.floats(0.2, 1),
       st.floats(0.2, 1), st.integers(0, 999))
@examples(60)
def test_frames_of_any_length(
    beats: int, lengths: list[int], offered: float, ready: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    frames = [random.integers(1, 256, length).tolist() for length in lengths]
    want = expected(frames, beats)
    dut = ports(FrameGuardConfig(beat_bytes=1, beats=beats).create())
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    got: list[int] = []
    flags = {}

    async def source(ctx) -> None:
        for frame in frames:
            for k, value in enumerate(frame):
                while random.random() >= offered:
                    await ctx.tick()
                ctx.set(dut.i.p.data, value)
                ctx.set(dut.i.p.last, k == len(frame) - 1)
                ctx.set(dut.i.valid, 1)
                await ctx.tick().until(dut.i.ready)
                ctx.set(dut.i.valid, 0)

    async def sink(ctx) -> None:
        held = None
        for _ in range(60 * len(want) + 200):
            take = random.random() < ready
            ctx.set(dut.o.ready, take)
            _, _, valid, value = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            # Valid stays, with the same payload, until it is taken.
            assert held is None or (valid and value == held)
            held = value if valid and not take else None
            if valid and take:
                got.append(value)
        flags.update(early=ctx.get(dut.early), late=ctx.get(dut.late))

    simulator.add_testbench(sink)
    simulator.add_testbench(source, background=True)
    simulator.run()
    assert got == want
    assert flags == {"early": min(lengths) < beats, "late": max(lengths) > beats}


def test_numbers_must_be_positive() -> None:
    with pytest.raises(HwgenError, match="beats must be positive, not 0"):
        FrameGuardConfig(beat_bytes=1, beats=0)
