"""TileOrder and ReorderQueue: order, claims, times, with a model that follows cycle by cycle."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import unsigned
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.device.storage import STYLES
from hwgen.errors import HwgenError
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.reorder import ReorderQueue, TileOrder
from hwgen.parts.stream import in_order
from tests.profiles import examples

TILES = 4


@st.composite
def orders(draw: st.DrawFn) -> TileOrder:
    """Tiles of up to 7 sites, each of up to 4 parts of up to 4 beats."""
    most = draw(st.integers(1, 4))
    parts = (most,) * draw(st.integers(0, 3))
    return TileOrder(draw(st.integers(1, 7)), (*parts, draw(st.integers(1, most))))


@dataclass
class Run:
    """A queue that is filled and emptied, and a model of it.

    Parameters
    ----------
    order, depth, style : of the queue
    starts : earliest cycle of each part of a site, in the order in which they come
    claims : earliest cycle in which each site is claimed
    ready : probability that the sink is ready, each cycle

    Members
    -------
    began : cycle in which each part of a site begins
    claimed : cycle in which each site is claimed
    taken : cycle in which each beat is taken
    waited : cycles in which a claim was due and had no room
    most : most sites that were claimed, and had beats that were not taken
    """

    order: TileOrder
    depth: int
    starts: Sequence[int]
    claims: Sequence[int]
    ready: float = 1.0
    style: str = ""
    seed: int = 0
    began: list[int] = field(default_factory=list)
    claimed: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    waited: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        dut = ReorderQueue(unsigned(16), self.depth, self.order, self.style)
        simulator = Simulator(dut)
        simulator.add_clock(1e-6)

        async def drive(ctx) -> None:
            await self.drive(ctx, dut)

        simulator.add_testbench(drive)
        simulator.run()

    async def drive(self, ctx, dut: Any) -> None:
        order, random = self.order, np.random.default_rng(self.seed)
        sites = len(self.claims)
        values = random.integers(0, 1 << 16, (sites, order.beats))
        offsets = np.cumsum([0, *order.parts])
        # Which part of which site comes: all first parts of a tile, all second parts, and so on.
        coming = deque(
            (tile * order.sites + site, part)
            for tile in range(sites // order.sites)
            for part in range(len(order.parts)) for site in range(order.sites)
        )
        pushing: deque[int] = deque()
        # Beats that can be read, each with the cycle from which on it is visible.
        whole: deque[tuple[int, int]] = deque()
        free, cycle, last = self.depth, 0, -1
        while len(self.taken) < values.size:
            assert ctx.get(dut.room) == (free >= order.beats)
            visible = bool(whole) and whole[0][0] <= cycle
            assert ctx.get(dut.o.valid) == visible
            if visible:
                assert ctx.get(dut.o.p) == whole[0][1]
            # Claims come before their sites, or with them.
            due = len(self.claimed) < sites and self.claims[len(self.claimed)] <= cycle
            claim = due and free >= order.beats
            self.waited += due and not claim
            if claim:
                self.claimed.append(cycle)
                free -= order.beats
            if not pushing and coming:
                site, part = coming[0]
                if site < len(self.claimed) and self.starts[len(self.began)] <= cycle:
                    coming.popleft()
                    self.began.append(cycle)
                    pushing.extend(values[site, offsets[part] : offsets[part + 1]].tolist())
                    if part == len(order.parts) - 1:
                        for value in values[site].tolist():
                            last = max(cycle + QUEUE_LATENCY, last + 1)
                            whole.append((last, value))
            push = bool(pushing)
            # Between them it is noise.
            value = pushing.popleft() if push else int(random.integers(1 << 16))
            pop = random.random() < self.ready
            ctx.set(dut.reserve, int(claim))
            ctx.set(dut.i.valid, int(push))
            ctx.set(dut.i.p, value)
            ctx.set(dut.o.ready, int(pop))
            assert ctx.get(dut.room) == (free + claim * order.beats >= order.beats)
            if visible and pop:
                whole.popleft()
                self.taken.append(cycle)
                free += 1
            assert 0 <= free <= self.depth
            self.most = max(self.most, len(self.claimed) - len(self.taken) // order.beats)
            await ctx.tick()
            cycle += 1
            assert cycle < 20_000, "stuck"
        assert free == self.depth


def random_starts(order: TileOrder, random: np.random.Generator, pauses: float) -> np.ndarray:
    """When the parts of all sites begin: each after the one before, with pauses."""
    beats = np.tile(np.repeat(order.parts, order.sites), TILES)
    gaps = random.integers(0, 12, len(beats)) * (random.random(len(beats)) < pauses)
    return np.cumsum(beats + gaps) - beats


def first_parts(order: TileOrder, starts: np.ndarray) -> np.ndarray:
    """Of the beginnings of all parts those of the first parts."""
    return starts.reshape(-1, len(order.parts), order.sites)[:, 0].ravel()


@given(orders(), st.integers(0, 60), st.sampled_from(["", *STYLES]),
       st.sampled_from([0.0, 0.2, 0.8]), st.sampled_from([1.0, 0.6, 0.2]), st.integers(0, 999))
@examples(60)
def test_against_a_model(
    order: TileOrder, depth: int, style: str, pauses: float, ready: float, seed: int
) -> None:
    """Any order, depth and pauses; sites are claimed up to as many cycles ahead."""
    random = np.random.default_rng(seed)
    starts = random_starts(order, random, pauses)
    ahead = random.integers(0, 40, TILES * order.sites)
    claims = np.maximum.accumulate(np.maximum(first_parts(order, starts) - ahead, 0))
    # One site a cycle.
    claims = in_order(claims)
    run = Run(order, order.whole(depth), starts.tolist(), claims.tolist(), ready, style, seed)
    assert run.most <= run.depth // order.beats


@given(orders(), st.sampled_from([0.0, 0.3]), st.integers(0, 999))
@examples(40)
def test_on_time(order: TileOrder, pauses: float, seed: int) -> None:
    """Times as said, and never a wait with as many places as are claimed at once."""
    starts = random_starts(order, np.random.default_rng(seed), pauses)
    claims, ready = order.times(starts)
    pops = ready + QUEUE_LATENCY
    depth = order.whole(queue_depth(claims, pops))
    run = Run(order, depth, starts.tolist(), claims[:: order.beats].tolist())
    np.testing.assert_array_equal(run.began, starts)
    np.testing.assert_array_equal(np.repeat(run.claimed, order.beats), claims)
    np.testing.assert_array_equal(run.taken, pops)
    assert run.waited == 0
    if depth > order.whole(0):
        # With fewer places it waits.
        fewer = Run(order, depth - order.beats, starts.tolist(), claims[:: order.beats].tolist())
        assert fewer.waited


@given(orders(), st.integers(0, 200))
def test_whole_sites(order: TileOrder, depth: int) -> None:
    found = order.whole(depth)
    assert found % order.beats == 0
    assert found >= max(depth, order.tile_beats)
    assert found - order.beats < max(depth, order.tile_beats)
    assert order.whole(found) == found


def test_times() -> None:
    """Two sites of three beats, in parts of two and one, twice."""
    order = TileOrder(2, (2, 1))
    assert (order.beats, order.tile_beats) == (3, 6)
    claims, ready = order.times(np.array([0, 2, 10, 11, 20, 22, 40, 50]))
    assert claims.tolist() == [0, 0, 0, 2, 2, 2, 20, 20, 20, 22, 22, 22]
    # The second site is whole in 11, but the first one is read until 13.
    assert ready.tolist() == [10, 11, 12, 13, 14, 15, 40, 41, 42, 50, 51, 52]


@given(orders(), st.integers(0, 999))
@examples(40)
def test_times_of_any_order(order: TileOrder, seed: int) -> None:
    """Site by site, found from the list of what comes."""
    starts = random_starts(order, np.random.default_rng(seed), 0.4)
    claims, ready = order.times(starts)
    assert len(claims) == len(ready) == TILES * order.tile_beats
    time = -1
    for beat in range(len(ready)):
        tile, site = divmod(beat // order.beats, order.sites)
        begin = tile * order.sites * len(order.parts)
        assert claims[beat] == starts[begin + site]
        time = max(time + 1, starts[begin + (len(order.parts) - 1) * order.sites + site])
        assert ready[beat] == time


@pytest.mark.parametrize("sites, parts, message", [
    (0, (1,), r"^Sites of a tile must be positive, not 0$"),
    (1, (), r"^Parts must be equal, the last at most as large, not \(\)$"),
    (1, (0,), r"^Parts must be equal, the last at most as large, not \(0,\)$"),
    (1, (2, 0), r"^Parts must be equal, the last at most as large, not \(2, 0\)$"),
    (1, (1, 2), r"^Parts must be equal, the last at most as large, not \(1, 2\)$"),
    (1, (2, 1, 2), r"^Parts must be equal, the last at most as large, not \(2, 1, 2\)$"),
    (1, (3, 2, 2), r"^Parts must be equal, the last at most as large, not \(3, 2, 2\)$"),
])
def test_order_refuses(sites: int, parts: tuple[int, ...], message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        TileOrder(sites, parts)


@pytest.mark.parametrize("depth", [0, 3, 5, 7, 8])
@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_queue_refuses(depth: int) -> None:
    with pytest.raises(HwgenError, match=(
        r"^Depth must be at least the 6 beats of a tile and a multiple of the 3 of a site, "
        rf"not {depth}$"
    )):
        ReorderQueue(unsigned(8), depth, TileOrder(2, (2, 1)))
    gc.collect()  # Amaranth complains of the half-made queue when it goes: here, not later.
