"""AxiPort against a memory in Python: values, bursts, turns, errors, timing.

tests/cocotb has it against the memory of cocotbext-axi, in Verilog.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.lib.wiring import Out
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.synthesis import Synthesis
from hwgen.emit.verilog import emit_component
from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig, axi_ports
from hwgen.offchip.port import AxiPortConfig
from hwgen.sim.verilator import lint
from tests.cocotb.memory import BASE, DECERR, SLVERR, Memory
from tests.cocotb.port_top import PortTop
from tests.cocotb.rules import Rules, Seen
from tests.cocotb.traffic import (
    Client,
    Request,
    random_requests,
    words_at,
    write_all,
    writer,
)
from tests.profiles import examples
from tests.typed import ports

LIMIT = 20_000
"""Cycles of a run."""


def port(readers: int = 1, writers: int = 1, data_bits: int = 64, **options) -> AxiPortConfig:
    return AxiPortConfig(
        axi=AxiConfig(data_bits=data_bits), readers=readers, writers=writers, **options
    )


class Bench:
    """A port with clients and a memory, in Amaranth's simulator."""

    def __init__(
        self, config: AxiPortConfig, reads: Sequence[Client] = (), writes: Sequence[Client] = (),
        seed: int = 0, base: int = BASE, **memory,
    ) -> None:
        self.config = config
        self.random = np.random.default_rng(seed)
        self.memory = Memory(config.axi, self.random, base=base, **memory)
        self.reads, self.writes = list(reads), list(writes)
        self.rules = Rules(config.axi.word_bytes)
        self.cycle = 0
        self.error = 0
        self.idle = 1
        self.times: dict[str, list[int]] = {
            name: [] for name in ("ask", "aw", "w", "b", "ar", "r", "data", "done", "aw_valid",
                                  "ar_valid", "error", "word")
        }
        self.dut = ports(config.create())
        self.base = base

    def run(self, *phases) -> Bench:
        """Simulate coroutines ``phase(bench, ctx)`` one after the other, with a reset between."""
        reset = Signal()
        simulator = Simulator(ResetInserter(reset)(self.dut))
        simulator.add_clock(1e-6)

        async def drive(ctx) -> None:
            ctx.set(self.dut.base, self.base)
            for k, phase in enumerate(phases):
                if k:
                    ctx.set(reset, 1)
                    await ctx.tick()
                    ctx.set(reset, 0)
                    self.memory.reset()
                    self.rules = Rules(self.config.axi.word_bytes)
                await phase(self, ctx)

        simulator.add_testbench(drive)
        simulator.run()
        return self

    def _outputs(self, ctx) -> dict[str, tuple[int, ...]]:
        axi = self.dut.axi
        out = {}
        for name, channel, fields in (("aw", axi.aw, ("addr", "len", "id")),
                                      ("w", axi.w, ("data", "strb", "last")),
                                      ("ar", axi.ar, ("addr", "len", "id"))):
            if ctx.get(channel.valid):
                out[name] = tuple(ctx.get(getattr(channel.p, f)) for f in fields)
        for k in range(len(self.reads)):
            client = getattr(self.dut, f"read_{k}")
            if ctx.get(client.data.valid):
                out[f"data_{k}"] = (ctx.get(client.data.p),)
            out[f"read_ask_{k}"] = (ctx.get(client.request.ready),)
        for k in range(len(self.writes)):
            client = getattr(self.dut, f"write_{k}")
            out[f"write_ask_{k}"] = (ctx.get(client.request.ready),)
            out[f"word_{k}"] = (ctx.get(client.data.ready),)
            out[f"done_{k}"] = (ctx.get(client.done),)
        out["error"] = (ctx.get(self.dut.error),)
        out["idle"] = (ctx.get(self.dut.idle),)
        return out

    def _ask(self, ctx, client: Client, pins) -> None:
        if not client.offers and client.asked < len(client.requests):
            client.offers = self.random.random() >= client.pause
        ctx.set(pins.request.valid, client.offers)
        if client.offers:
            address, size = client.requests[client.asked]
            ctx.set(pins.request.p.address, address)
            ctx.set(pins.request.p.bytes, size)

    async def step(self, ctx) -> None:
        """A cycle."""
        axi, times = self.dut.axi, self.times
        out = self._outputs(ctx)
        offer = self.memory.offer(self.cycle)
        for name in ("aw", "w", "ar"):
            ctx.set(getattr(axi, name).ready, offer[name][0])
        for name, fields in (("b", ("id", "resp")), ("r", ("id", "data", "resp", "last"))):
            channel = getattr(axi, name)
            ctx.set(channel.valid, bool(offer[name]))
            for field_name, value in zip(fields, offer[name]):
                ctx.set(getattr(channel.p, field_name), value)
        for k, client in enumerate(self.reads):
            self._ask(ctx, client, getattr(self.dut, f"read_{k}"))
        for k, client in enumerate(self.writes):
            pins = getattr(self.dut, f"write_{k}")
            self._ask(ctx, client, pins)
            if not client.shows and client.given < len(client.words):
                client.shows = self.random.random() >= client.gap
            ctx.set(pins.data.valid, client.shows)
            if client.shows:
                ctx.set(pins.data.p, client.words[client.given])
        assert self._outputs(ctx) == out, "an input changes an output in the same cycle"

        seen = {name: Seen(name in out, offer[name][0], out.get(name, ()))
                for name in ("aw", "w", "ar")}
        answers = {name: Seen(bool(offer[name]), 1, offer[name]) for name in ("b", "r")}
        self.rules.step(**seen, **answers)
        self.memory.step(self.cycle, **seen)
        for name, channel in (seen | answers).items():
            if channel.moves:
                times[name].append(self.cycle)
        for name in ("aw", "ar"):
            if seen[name].valid:
                times[f"{name}_valid"].append(self.cycle)
        for kind, clients in (("read", self.reads), ("write", self.writes)):
            for k, client in enumerate(clients):
                if client.offers and out[f"{kind}_ask_{k}"][0]:
                    client.offers = False
                    client.asked += 1
                    times["ask"].append(self.cycle)
        for k, client in enumerate(self.reads):
            if word := out.get(f"data_{k}"):
                client.came.append(word[0])
                times["data"].append(self.cycle)
        for k, client in enumerate(self.writes):
            if client.shows and out[f"word_{k}"][0]:
                client.shows = False
                client.given += 1
                times["word"].append(self.cycle)
            if out[f"done_{k}"][0]:
                client.done += 1
                times["done"].append(self.cycle)
        if out["error"][0] != self.error:
            times["error"].append(self.cycle)
        assert out["error"][0] & self.error == self.error, "errors stay"
        (self.error,), (self.idle,) = out["error"], out["idle"]
        await ctx.tick()
        self.cycle += 1
        assert self.cycle < LIMIT


async def all_done(bench: Bench, ctx) -> None:
    """Until every client has what it asked for."""
    word = bench.config.axi.words
    while not (
        all(len(c.came) == sum(word(n) for _, n in c.requests) for c in bench.reads)
        and all(c.done == len(c.requests) for c in bench.writes)
    ):
        await bench.step(ctx)
    for _ in range(3):
        await bench.step(ctx)
    assert bench.idle
    assert bench.rules.complete
    assert bench.error == 0


def until_idle(cycles: int):
    """Some cycles, then until nothing is in flight, and a little longer."""
    async def phase(bench: Bench, ctx) -> None:
        for _ in range(cycles):
            await bench.step(ctx)
        while not bench.idle:
            await bench.step(ctx)
        for _ in range(20):
            await bench.step(ctx)
        assert bench.rules.complete
    return phase


@given(st.sampled_from([32, 64, 128]), st.integers(0, 3), st.integers(0, 3), st.integers(1, 9),
       st.sampled_from([1.0, 0.5, 0.1]), st.sampled_from([0.0, 0.6]), st.integers(0, 40),
       st.sampled_from([0, 0x230, 0xFF0]), st.integers(0, 999))
@examples(15)
def test_values(
    data_bits: int, reads: int, writes: int, outstanding: int, ready: float, gap: float,
    latency: int, unaligned: int, seed: int,
) -> None:
    """Several clients at once: what is read, and each byte that is or is not written."""
    config = port(max(reads, 1 - writes), writes, data_bits, outstanding=outstanding)
    random = np.random.default_rng(seed)
    pause = float(random.choice([0.0, 0.8]))
    readers = [Client(random_requests(config.axi, random, 5, 0, 8192), pause=pause)
               for _ in range(config.readers)]
    writers = [
        writer(config.axi, random_requests(config.axi, random, 5, (k + 2) * 8192, 8192), random,
               pause=pause, gap=gap) for k in range(writes)
    ]
    bench = Bench(config, readers, writers, seed, BASE + unaligned, ready=ready, latency=latency,
                  gap=gap)
    before = bytes(bench.memory.bytes)
    bench.run(all_done)
    for client in readers:
        assert client.came == words_at(config.axi, client, before)
    after = bytearray(before)
    for client in writers:
        write_all(config.axi, client, after)
    assert bench.memory.bytes == after
    assert max(bench.rules.in_flight) <= outstanding


@pytest.mark.parametrize("data_bits, base, request_, bursts", [
    (128, 0, (0, 4096), [(0, 256)]),
    (128, 0, (4096 - 16, 17), [(4096 - 16, 1), (4096, 1)]),
    (128, 0, (4096 - 64, 64), [(4096 - 64, 4)]),
    (128, 0x800, (0, 4096), [(0x800, 128), (0x1000, 128)]),
    (128, 0xFF0, (0x10, 1), [(0x1000, 1)]),
    (1024, 0, (128, 4096), [(128, 31), (4096, 1)]),
    (64, 0, (8, 4096), [(8, 255), (2048, 256), (4096, 1)]),
    (32, 0, (0, 4095), [(0, 256), (1024, 256), (2048, 256), (3072, 256)]),
    (32, 4, (0, 4096), [(4, 255), (1024, 256), (2048, 256), (3072, 256), (4096, 1)]),
])
@pytest.mark.parametrize("writes", [0, 1])
def test_bursts(
    data_bits: int, base: int, request_: Request, bursts: list[tuple[int, int]], writes: int
) -> None:
    config = port(1 - writes, writes, data_bits)
    random = np.random.default_rng(0)
    clients = [writer(config.axi, [request_], random)] if writes else [Client([request_])]
    bench = Bench(config, [] if writes else clients, clients if writes else [],
                  base=BASE + base).run(all_done)
    seen = bench.rules.writes if writes else bench.rules.reads
    assert seen == [(BASE + address, beats, 0) for address, beats in bursts]


def test_strobes() -> None:
    """Of a request's last word only what it covers."""
    config = port(0, 1, 32)
    sizes = [1, 2, 3, 4, 5, 7, 8, 4096, 4095]
    client = writer(config.axi, [(8192 * (n > 8), n) for n in sizes], np.random.default_rng(0))
    bench = Bench(config, [], [client]).run(all_done)
    due = []
    for n in sizes:
        due += [15] * (config.axi.words(n) - 1) + [(1 << ((n - 1) % 4 + 1)) - 1]
    assert bench.memory.strobes == due


def test_addresses_wrap_at_the_end_of_the_address_space() -> None:
    config = AxiPortConfig(axi=AxiConfig(data_bits=1024, address_bits=12), readers=1, writers=1)
    random = np.random.default_rng(0)
    clients = [Client([(128, 300)])], [writer(config.axi, [(0, 4096)], random)]
    bench = Bench(config, *clients, base=0).run(all_done)
    assert bench.rules.reads == [(128, 3, 0)]
    assert bench.rules.writes == [(0, 32, 0)]


@pytest.mark.parametrize("writes", [0, 1])
def test_turns(writes: int) -> None:
    """Clients that always ask go round; one that asks alone need not wait for others."""
    config = port(*((0, 4) if writes else (4, 0)))
    random = np.random.default_rng(0)
    counts = (6, 6, 0, 12)
    clients = [writer(config.axi, [(64 * j, 24) for j in range(n)], random) for n in counts]
    bench = Bench(config, [] if writes else clients, clients if writes else []).run(all_done)
    order = [k for _, _, k in (bench.rules.writes if writes else bench.rules.reads)]
    assert order[:18] == [0, 1, 3] * 6
    assert order[18:] == [3] * 6


@given(st.integers(2, 5), st.floats(0, 0.9), st.integers(0, 999))
@examples(8)
def test_nobody_waits_for_more_than_the_others(clients: int, pause: float, seed: int) -> None:
    """While a client asks, no other is served twice."""
    config = port(clients, 0, 32)
    readers = [Client([(4 * j, 8) for j in range(12)], pause=pause) for _ in range(clients)]
    bench = Bench(config, readers, seed=seed)
    served: list[list[int]] = [[] for _ in readers]

    async def watch(bench: Bench, ctx) -> None:
        while any(c.asked < 12 for c in readers):
            before = [c.asked for c in readers]
            offers = [c.offers for c in readers]
            await bench.step(ctx)
            for k, client in enumerate(readers):
                if client.asked > before[k]:
                    served[k] = []
                    for j in range(clients):
                        if j != k and offers[j]:
                            served[j].append(k)
                            assert len(set(served[j])) == len(served[j])
        await all_done(bench, ctx)

    bench.run(watch)


@pytest.mark.parametrize("resp, error", [(SLVERR, 1), (DECERR, 2), (1, 1)])
@pytest.mark.parametrize("fault", [0, 5, 39])
def test_bad_read(resp: int, error: int, fault: int) -> None:
    """Nothing is delivered from the bad word on, nothing is issued; a reset mends it."""
    config = port(2, 1, 64)
    random = np.random.default_rng(fault)
    readers = [Client([(512 * j + 64 * k, 96) for j in range(8)]) for k in range(2)]
    writing = writer(config.axi, [(8192 + 256 * j, 200) for j in range(8)], random)
    bench = Bench(config, readers, [writing], fault, ready=0.6, latency=9, gap=0.2)
    bench.memory.read_faults = {fault: resp}
    before = bytes(bench.memory.bytes)

    async def again(bench: Bench, ctx) -> None:
        for client in (*readers, writing):
            client.again()
        bench.error = 0
        await all_done(bench, ctx)

    def check(bench: Bench) -> None:
        assert bench.error == error
        # The bad word is the one at this place of all that came.
        assert sum(len(c.came) for c in readers) == fault
        for client in readers:
            due = words_at(config.axi, client, before)
            assert client.came == due[: len(client.came)]
        bad = bench.times["r"][fault]
        assert bench.times["error"] == [bad + 1]
        assert len(bench.times["r"]) == sum(n for _, n, _ in bench.rules.reads)
        for name in ("ar_valid", "aw_valid"):
            late = [t for t in bench.times[name] if t > bad]
            # What was offered stays until it is taken, without a break.
            assert late == list(range(bad + 1, bad + 1 + len(late)))
        assert not [t for t in bench.times["done"] if t > bad + 1]
        assert writing.done < 8

    async def first(bench: Bench, ctx) -> None:
        await until_idle(120)(bench, ctx)
        check(bench)

    bench.run(first, again)
    for client in readers:
        assert client.came == words_at(config.axi, client, before)
    after = bytearray(before)
    write_all(config.axi, writing, after)
    assert bench.memory.bytes == after


@pytest.mark.parametrize("resp, error", [(SLVERR, 1), (DECERR, 2)])
def test_bad_write(resp: int, error: int) -> None:
    """No request is done from a bad response on, not even one whose other burst was written."""
    config = port(1, 2, 64, outstanding=4)
    random = np.random.default_rng(1)
    writers = [writer(config.axi, [(4096 * k + 4096 - 64, 128)] * 9, random) for k in (2, 5)]
    bench = Bench(config, [Client([(0, 64)] * 50)], writers, 1, latency=5)
    bench.memory.write_faults = {6: resp}
    bench.run(until_idle(200))
    assert bench.error == error
    bad = bench.times["b"][6]
    assert bench.times["error"] == [bad + 1]
    assert sum(c.done for c in writers) == 3
    assert max(bench.times["done"]) <= bad + 1
    assert [t for t in bench.times["b"] if t > bad], "others came after it"
    assert max(bench.times["data"]) <= bad + 1
    # What was begun is completed by words that write nothing and that no client gives.
    assert max(bench.times["word"]) <= bad
    assert bench.times["w"][-1] > bad + 1
    assert bench.memory.strobes[-1] == 0
    assert bench.rules.beats == sum(n for _, n, _ in bench.rules.writes)


def test_two_errors_at_once_are_both_seen() -> None:
    config = port(1, 1, 64)
    random = np.random.default_rng(1)
    bench = Bench(config, [Client([(0, 8)])], [writer(config.axi, [(512, 8)], random)])
    # The read is asked again until both answers come in one cycle.
    bench.memory.read_faults, bench.memory.write_faults = {0: SLVERR}, {0: DECERR}

    async def together(bench: Bench, ctx) -> None:
        while not (bench.memory.writes.get(0) and bench.memory.reads.get(0)):
            await bench.step(ctx)
            held = bench.memory.reads.get(0)
            if held and not bench.memory.writes.get(0):
                held[0] = (bench.cycle + 1, *held[0][1:])
        held = bench.memory.reads[0]
        held[0] = (bench.memory.writes[0][0][0], *held[0][1:])
        await until_idle(5)(bench, ctx)

    bench.run(together)
    assert bench.times["r"] == bench.times["b"]
    assert bench.error == 3


@pytest.mark.parametrize("kind", ["read", "write", "no address", "no word"])
def test_silent_memory(kind: str) -> None:
    """``timeout`` cycles after the last movement, the third error; then a reset."""
    config = port(1, 1, 32, timeout=50)
    random = np.random.default_rng(1)
    reading = Client([(64 * k, 32) for k in range(5)] if kind in ("read", "no address") else [])
    writing = writer(config.axi, [(4096, 256)] if "w" in kind else [], random)
    bench = Bench(config, [reading], [writing], latency=3)
    bench.memory.silent = {"read": 14, "write": 20, "no address": 0, "no word": LIMIT}[kind]
    if kind == "no word":
        del writing.words[10:]
    before = bytes(bench.memory.bytes)

    async def until_error(bench: Bench, ctx) -> None:
        while not bench.error:
            await bench.step(ctx)
        moves = [t for name in ("aw", "w", "b", "ar", "r") for t in bench.times[name]]
        last = max(moves, default=min(bench.times["ar_valid"], default=0) - 1)
        assert bench.times["error"] == [last + 52]
        assert bench.error == 4
        got = len(reading.came)
        if kind == "no word":  # The port completes the burst itself.
            await until_idle(0)(bench, ctx)
            assert bench.memory.strobes == [15] * 10 + [0] * 54
            assert bench.memory.bytes[4096 + 40 :] == before[4096 + 40 :]
            assert bench.idle
        else:
            for _ in range(100):
                await bench.step(ctx)
            assert not bench.idle
        # What comes after all is dropped.
        bench.memory.silent = LIMIT
        await until_idle(20)(bench, ctx)
        assert len(reading.came) == got
        assert writing.done == 0

    async def again(bench: Bench, ctx) -> None:
        reading.requests = [(128, 64)]
        reading.again()
        bench.writes[0] = writer(config.axi, [(256, 30)], random)
        bench.error = 0
        await all_done(bench, ctx)

    bench.run(until_error, again)
    assert reading.came == words_at(config.axi, reading, before)


def test_a_slow_memory_is_no_silent_one() -> None:
    config = port(2, 2, 32, timeout=50)
    random = np.random.default_rng(1)
    readers = [Client([(512 * k, 100)] * 3) for k in range(2)]
    writers = [writer(config.axi, [(8192 + 512 * k, 100)] * 3, random) for k in range(2)]
    bench = Bench(config, readers, writers, latency=45).run(all_done)
    assert bench.error == 0


def test_latencies() -> None:
    """As the docstring says."""
    config = port(1, 1, 64)
    reading, writing = Client([]), Client([])
    bench = Bench(config, [reading], [writing], latency=4)

    async def measure(bench: Bench, ctx) -> None:
        for _ in range(5):
            await bench.step(ctx)
        reading.requests = [(0, 8)]
        writing.requests, writing.words = [(64, 16)], [1, 2]
        await all_done(bench, ctx)

    times = bench.run(measure).times
    assert times["ar_valid"][0] == times["aw_valid"][0] == 5 + 3
    assert times["w"] == [5 + 7, 5 + 8]
    assert times["data"] == [times["r"][0] + 1]
    assert times["done"] == [times["b"][0] + 1]


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("words", [4, 32])
def test_a_word_a_cycle(clients: int, words: int) -> None:
    """In both directions at once, as soon as there are several requests."""
    config = port(clients, clients, 64, outstanding=8)
    random = np.random.default_rng(1)
    requests = [(words * 8 * k, words * 8) for k in range(12)]
    readers = [Client(requests) for _ in range(clients)]
    writers = [writer(config.axi, [(32768 + a, n) for a, n in requests], random)
               for _ in range(clients)]
    times = Bench(config, readers, writers, latency=6).run(all_done).times
    for name in ("r", "w", "data"):
        assert len(times[name]) == 12 * clients * words
        assert times[name][-1] - times[name][0] == 12 * clients * words - 1


def test_bursts_in_flight() -> None:
    """As many as allowed, and no more."""
    config = port(1, 1, 32, outstanding=3)
    random = np.random.default_rng(1)
    requests = [(64 * k, 8) for k in range(12)]
    bench = Bench(config, [Client(requests)], [writer(config.axi, requests, random)], latency=40)
    assert bench.run(all_done).rules.in_flight == [3, 3]


@pytest.mark.parametrize("options, message", [
    ({"data_bits": 16}, r"^AXI data bits must be a power of two from 32 to 1024, not 16$"),
    ({"data_bits": 96}, r"^AXI data bits must be a power of two from 32 to 1024, not 96$"),
    ({"data_bits": 2048}, r"^AXI data bits must be a power of two from 32 to 1024, not 2048$"),
    ({"address_bits": 11}, r"^AXI address bits must be between 12 and 64, not 11$"),
    ({"address_bits": 65}, r"^AXI address bits must be between 12 and 64, not 65$"),
    ({"id_bits": 0}, r"^AXI identifier bits must be between 1 and 16, not 0$"),
])
def test_config_refuses(options: dict[str, int], message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        AxiConfig(**options)


@pytest.mark.parametrize("options, message", [
    ({"readers": 65}, r"^Readers must be between 0 and the 64 identifiers, not 65$"),
    ({"writers": -1}, r"^Writers must be between 0 and the 64 identifiers, not -1$"),
    ({"readers": 0, "writers": 0}, r"^An AXI port must have at least one client$"),
    ({"outstanding": 0}, r"^Outstanding bursts must be positive, not 0$"),
    ({"timeout": 0}, r"^AXI timeout must be positive, not 0$"),
])
def test_port_refuses(options: dict[str, int], message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        port(**options)


def test_layouts() -> None:
    config = AxiConfig(data_bits=256)
    assert (config.word_bytes, config.word_shift, config.burst_bits) == (32, 5, 7)
    assert config.words(33) == 2
    assert config.request_layout.size == 40 + 13
    assert AxiConfig(data_bits=32).burst_bits == 8
    assert config.write_layout.size == 256 + 32 + 1


def test_pins() -> None:
    config = AxiConfig(data_bits=512)
    pins = axi_ports(config, "m_axi_0")
    names = {
        "aw": "addr len size burst id cache prot valid ready", "w": "data strb last valid ready",
        "b": "id resp valid ready", "ar": "addr len size burst id cache prot valid ready",
        "r": "id data resp last valid ready",
    }
    assert set(pins) == {
        f"m_axi_0_{channel}{name}" for channel, all_ in names.items() for name in all_.split()
    }
    outputs = {name for name, pin in pins.items() if pin.flow == Out}
    assert {n for n in outputs if n.endswith("ready")} == {"m_axi_0_bready", "m_axi_0_rready"}
    assert not {n for n in outputs if n.startswith("m_axi_0_r")} - {"m_axi_0_rready"}
    assert pins["m_axi_0_wstrb"] == Out(64)
    dut = PortTop(AxiPortConfig(axi=config, readers=1, writers=1))
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def look(ctx) -> None:
        for channel in ("aw", "ar"):
            for name, value in (("size", 6), ("burst", 1), ("cache", 3), ("prot", 0)):
                assert ctx.get(getattr(dut, f"m_axi_0_{channel}{name}")) == value

    simulator.add_testbench(look)
    simulator.run_until(1e-6)


@pytest.mark.verilator
@pytest.mark.parametrize("config", [
    port(1, 1, 32, outstanding=1), port(3, 0, 128, outstanding=5), port(0, 5, 1024),
], ids=str)
def test_verilog_has_no_warnings(config: AxiPortConfig, tmp_path: Path) -> None:
    rtl = emit_component(PortTop(config))
    rtl.write(tmp_path)
    lint(rtl, tmp_path)


@pytest.mark.synthesis
@pytest.mark.parametrize("config", [
    port(2, 1, 128), port(4, 3, 64, outstanding=16, timeout=1000),
], ids=str)
def test_resources(config: AxiPortConfig, tmp_path: Path) -> None:
    counted = Synthesis(tmp_path / "counts.json").area(config.create())
    said = config.resources()
    assert (said.dsp, said.bram18, said.uram) == (counted.dsp, counted.bram18, counted.uram)
    assert said.lut == pytest.approx(counted.lut, rel=0.15)
    assert said.ff == pytest.approx(counted.ff, rel=0.1)
