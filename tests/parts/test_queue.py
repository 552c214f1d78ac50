"""Queue and Fifo: order, latency, claims, depths."""

from __future__ import annotations

import gc
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
from amaranth.hdl import signed
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.fifo import FifoConfig
from hwgen.device.cost import Resources
from hwgen.device.storage import STYLES
from hwgen.errors import HwgenError
from hwgen.ir import TensorType
from hwgen.parts.queue import QUEUE_LATENCY, Queue, queue_area, queue_depth
from hwgen.parts.stream import StreamType, in_order
from tests.blocks.checks import check_on_time, check_under_stalls, divisors
from tests.profiles import examples
from tests.typed import ports


@given(st.integers(1, 9), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1),
       st.sampled_from(["", *STYLES]), st.integers(0, 999))
@examples(40)
def test_queue_against_a_model(
    depth: int, group: int, busy: float, ready: float, style: str, seed: int
) -> None:
    """Claims where there is room, fills them later in order; a model follows cycle by cycle."""
    random = np.random.default_rng(seed)
    claims = (min(group, depth), 1)
    dut = ports(Queue(signed(8), depth, claims, style))
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def drive(ctx) -> None:
        free, claimed, sent, taken = depth, 0, 0, 0
        stored: deque[tuple[int, int]] = deque()
        for cycle in range(300):
            room = sum((free >= claim) << k for k, claim in enumerate(claims))
            assert ctx.get(dut.room) == room
            # Visible three cycles after the push, and until it is taken.
            visible = bool(stored) and stored[0][0] + QUEUE_LATENCY <= cycle
            assert ctx.get(dut.o.valid) == visible
            if visible:
                assert ctx.get(dut.o.payload) == stored[0][1]
            kind = int(random.integers(2))
            reserve = (1 << kind) & room if random.random() < busy else 0
            claim = claims[kind] if reserve else 0
            push = claimed > 0 and random.random() < 0.8
            pop = random.random() < ready
            value = int(random.integers(-128, 128))
            ctx.set(dut.reserve, reserve)
            ctx.set(dut.i.valid, push)
            ctx.set(dut.i.payload, value)
            ctx.set(dut.o.ready, pop)
            assert ctx.get(dut.room) == room, "room is a register"
            if push:
                stored.append((cycle, value))
                claimed -= 1
                sent += 1
            if visible and pop:
                stored.popleft()
                taken += 1
                free += 1
            free -= claim
            claimed += claim
            await ctx.tick()
        assert sent == taken + len(stored)

    simulator.add_testbench(drive)
    simulator.run()


@pytest.mark.parametrize("depth, claims, message", [
    (0, (1,), r"^Queue depth must be positive, not 0$"),
    (2, (3,), r"^Queue claims must be between 1 and the depth 2, not \(3,\)$"),
    (2, (1, 0), r"^Queue claims must be between 1 and the depth 2, not \(1, 0\)$"),
])
@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_queue_refuses(depth: int, claims: tuple[int, ...], message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        Queue(signed(8), depth, claims)
    gc.collect()  # Amaranth complains of the half-made queue when it goes: here, not later.


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 20)), min_size=1, max_size=40))
def test_queue_depth_is_the_least_with_which_no_claim_waits(
    steps: list[tuple[int, int]],
) -> None:
    gaps, waits = np.array(steps).T
    claims = np.cumsum(gaps)
    pops = in_order(claims + 1 + waits)

    def suffices(depth: int) -> bool:
        # A place is free again in the cycle after its pop.
        return all((pops[: k + 1] >= claims[k]).sum() <= depth for k in range(len(claims)))

    depth = queue_depth(claims, pops)
    assert suffices(depth)
    assert not suffices(depth - 1)


def fifo(lanes: int = 2, branches: int = 1, shape: tuple[int, ...] = (4, 3, 4)) -> FifoConfig:
    return FifoConfig(stream=StreamType(TensorType(shape), lanes), branches=branches)


@given(divisors(6), st.integers(1, 3), st.integers(0, 999))
@examples(8)
def test_fifo(lanes: int, branches: int, seed: int) -> None:
    check_on_time(fifo(lanes, branches, (3, 4, 6)), seed)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(0, 999))
@examples(12)
def test_fifo_of_any_depth_under_stalls(depths: list[int], seed: int) -> None:
    check_under_stalls(fifo(branches=len(depths)), seed, depths=tuple(depths))


def test_styles_of_a_fifo() -> None:
    config = replace(fifo(branches=2), depths=(5000, 9), styles=("ultra", ""))
    assert config.queue_styles == ("ultra", "")
    assert (config.resources().uram, config.resources().bram18) == (2, 0)
    ultra = queue_area(73, 10, style="ultra").resources()
    assert ultra.uram == Resources.memory(73, 10, "ultra").uram == 2
    assert queue_area(73, 10, style="block").resources().bram18 == 3
    assert fifo(branches=2).queue_styles == ("", "")
    wrong = replace(fifo(), styles=("", ""))
    with pytest.raises(HwgenError, match=r"^Styles must have 1 entries, not \('', ''\)$"):
        _ = wrong.queue_styles
    wrong = replace(fifo(), styles=("mud",))
    with pytest.raises(HwgenError, match=r"^Styles must be of \(.*\) or empty, not \('mud',\)$"):
        _ = wrong.queue_styles


def test_fifo_has_a_branch() -> None:
    with pytest.raises(HwgenError, match=r"^Branches must be positive, not 0$"):
        fifo(branches=0)


def test_fifo_ports() -> None:
    assert fifo().output_ports == ("o",)
    assert fifo(branches=2).output_ports == ("o_0", "o_1")
    assert fifo().latency == QUEUE_LATENCY
    assert fifo().interval == 24
