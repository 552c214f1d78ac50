"""Runs: requests cover the runs, in order, and never without room."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.offchip.bus import REQUEST_LIMIT, AxiConfig
from hwgen.shell.runs import Runs, claims
from tests.profiles import examples
from tests.typed import ports

LIMIT = 20_000
"""Cycles of a transfer."""


def transfer(
    axi: AxiConfig, sizes: tuple[int, ...], transfers: list[tuple[int, int, int, int]],
    room: float = 1.0, ready: float = 1.0, seed: int = 0,
) -> tuple[list[list[tuple[int, int]]], list[int]]:
    """Requests (address, bytes) of each transfer (address, words, runs, stride), and its cycles."""
    random = np.random.default_rng(seed)
    dut = ports(Runs(axi, sizes))
    made: list[list[tuple[int, int]]] = []
    cycles: list[int] = []

    async def drive(ctx) -> None:
        for values in transfers:
            for name, value in zip(("address", "words", "runs", "stride"), values, strict=True):
                ctx.set(getattr(dut, name), value)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            # The others are registers, which stay as they are.
            ctx.set(dut.address, 0)
            made.append([])
            reserved = 0
            for cycle in range(LIMIT):
                places = sum(int(random.random() < room) << k for k in range(len(sizes)))
                ctx.set(dut.room, places)
                ctx.set(dut.request.ready, random.random() < ready)
                claim = ctx.get(dut.reserve)
                assert claim & places == claim, "a request without room"
                assert claim.bit_count() <= 1
                if claim:
                    assert not reserved
                    reserved = sizes[claim.bit_length() - 1] * axi.word_bytes
                if ctx.get(dut.request.valid):
                    request = (ctx.get(dut.request.p.address), ctx.get(dut.request.p.bytes))
                    assert request[1] == reserved, "a request is what was reserved"
                    if ctx.get(dut.request.ready):
                        made[-1].append(request)
                        reserved = 0
                if not ctx.get(dut.busy):
                    cycles.append(cycle)
                    break
                await ctx.tick()
            else:
                raise AssertionError("the transfer does not end")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    return made, cycles


def words_of(requests: list[tuple[int, int]], size: int) -> list[int]:
    """Addresses of all words."""
    return [address + k for address, count in requests for k in range(0, count, size)]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 150), st.integers(0, 4),
                          st.integers(0, 200)), min_size=1, max_size=3),
       st.sampled_from([32, 128, 1024]), st.floats(0.1, 1), st.floats(0.1, 1), st.integers(0, 999))
@examples(25)
def test_requests_cover_the_runs(
    transfers: list[tuple[int, int, int, int]], bits: int, room: float, ready: float, seed: int
) -> None:
    axi = AxiConfig(data_bits=bits)
    size = axi.word_bytes
    scaled = [(size * address, words, runs, size * stride)
              for address, words, runs, stride in transfers]
    made, _ = transfer(axi, claims(axi), scaled, room, ready, seed)
    for (address, words, runs, stride), requests in zip(scaled, made, strict=True):
        wanted = [address + r * stride + k * size for r in range(runs) for k in range(words)]
        assert words_of(requests, size) == wanted
        assert all(count <= REQUEST_LIMIT for _, count in requests)


def test_four_cycles_a_request() -> None:
    axi = AxiConfig()
    _, (few, more) = transfer(axi, (8, 1), [(0, 8, 1, 0), (0, 80, 1, 0)])
    assert more - few == 9 * 4


def test_addresses_of_many_bits() -> None:
    axi = AxiConfig(address_bits=64)
    begin = (1 << 40) - 16
    ((*requests,),), _ = transfer(axi, (1,), [(begin, 1, 2, 0xFFFF_FFF0)])
    assert requests == [(begin, 16), (begin + 0xFFFF_FFF0, 16)]


@pytest.mark.parametrize("bits, largest", [(32, 64), (128, 64), (512, 64), (1024, 32)])
def test_claims(bits: int, largest: int) -> None:
    assert claims(AxiConfig(data_bits=bits)) == (largest, 8, 1)
