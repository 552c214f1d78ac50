"""cocotb's tests of the emitted AxiPort; ``test_axi_port.py`` builds and runs them.

The memory is cocotbext-axi's; where it has to fail, the one of :mod:`tests.cocotb.memory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge
from cocotbext.axi import AxiBus, AxiRam

from tests.cocotb.memory import BASE, DECERR, SIZE, SLVERR, Memory
from tests.cocotb.port_top import CONFIG
from tests.cocotb.rules import Rules, Seen
from tests.cocotb.traffic import Client, random_requests, words_at, write_all, writer

SEEDS = 20
LIMIT = 60_000
"""Cycles of a run."""
REGION = 8192
"""Bytes for each client."""
CHANNELS = {
    "aw": ("addr", "len", "id"), "w": ("data", "strb", "last"), "b": ("id", "resp"),
    "ar": ("addr", "len", "id"), "r": ("id", "data", "resp", "last"),
}
AXI = CONFIG.axi


class Bench:
    """The port's clients, and the rules, a step a cycle.

    Inputs change after the rising edge; all is looked at at the falling one, when it has settled.
    With a ``memory`` this drives its channels too, else they are another's.
    """

    def __init__(self, dut, seed: int, memory: Memory | None = None) -> None:
        self.dut, self.memory = dut, memory
        self.random = np.random.default_rng(seed)
        self.reads: Sequence[Client] = ()
        self.writes: Sequence[Client] = ()
        self.cycle = 0
        self.channels = {
            name: (getattr(dut, f"m_axi_0_{name}valid"), getattr(dut, f"m_axi_0_{name}ready"),
                   [getattr(dut, f"m_axi_0_{name}{f}") for f in fields])
            for name, fields in CHANNELS.items()
        }
        self.pins = {
            port: {name: getattr(dut, f"{port}__{name}") for name in names}
            for ports, names in (
                (CONFIG.read_ports, ("request__valid", "request__ready", "request__payload",
                                     "data__valid", "data__payload")),
                (CONFIG.write_ports, ("request__valid", "request__ready", "request__payload",
                                      "data__valid", "data__ready", "data__payload", "done")),
            )
            for port in ports
        }
        self.error = self.idle = 0

    async def start(self, base: int) -> None:
        """Clock and reset."""
        self.dut.base.value = base
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        await self.reset()

    async def reset(self) -> None:
        self.dut.rst.value = 1
        for name, pins in self.pins.items():
            pins["request__valid"].value = 0
            if name in CONFIG.write_ports:
                pins["data__valid"].value = 0
        if self.memory:
            self._offer({name: () if name in ("b", "r") else (0,) for name in CHANNELS})
        for _ in range(3):
            await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0
        self.rules = Rules(AXI.word_bytes)
        if self.memory:
            self.memory.reset()
        for client in (*self.reads, *self.writes):
            client.again()
        await RisingEdge(self.dut.clk)

    async def step(self) -> None:
        """A cycle, from after its rising edge on."""
        if self.memory:
            self._offer(self.memory.offer(self.cycle))
        for ports, clients in ((CONFIG.read_ports, self.reads), (CONFIG.write_ports, self.writes)):
            for port, client in zip(ports, clients):
                self._drive(self.pins[port], client)
        await FallingEdge(self.dut.clk)
        seen = {}
        for name, (valid, ready, fields) in self.channels.items():
            is_valid = int(valid.value)
            seen[name] = Seen(is_valid, int(ready.value),
                              tuple(int(f.value) for f in fields) if is_valid else ())
        self.rules.step(**seen)
        if self.memory:
            self.memory.step(self.cycle, seen["aw"], seen["w"], seen["ar"])
        for port, client in zip(CONFIG.read_ports, self.reads):
            pins = self.pins[port]
            self._asked(pins, client)
            if int(pins["data__valid"].value):
                client.came.append(int(pins["data__payload"].value))
        for port, client in zip(CONFIG.write_ports, self.writes):
            pins = self.pins[port]
            self._asked(pins, client)
            if client.shows and int(pins["data__ready"].value):
                client.given += 1
                client.shows = False
            client.done += int(pins["done"].value)
        self.error, self.idle = int(self.dut.error.value), int(self.dut.idle.value)
        self.cycle += 1
        assert self.cycle < LIMIT
        await RisingEdge(self.dut.clk)

    def _offer(self, offer: dict[str, tuple[int, ...]]) -> None:
        for name, (valid, ready, fields) in self.channels.items():
            if name in ("b", "r"):
                valid.value = bool(offer[name])
                for pin, value in zip(fields, offer[name]):
                    pin.value = value
            else:
                ready.value = offer[name][0]

    def _drive(self, pins, client: Client) -> None:
        if not client.offers and client.asked < len(client.requests):
            client.offers = bool(self.random.random() >= client.pause)
        pins["request__valid"].value = client.offers
        if client.offers:
            address, size = client.requests[client.asked]
            pins["request__payload"].value = address | size << AXI.address_bits
        if client.words:
            if not client.shows and client.given < len(client.words):
                client.shows = bool(self.random.random() >= client.gap)
            pins["data__valid"].value = client.shows
            if client.shows:
                pins["data__payload"].value = client.words[client.given]

    @staticmethod
    def _asked(pins, client: Client) -> None:
        if client.offers and int(pins["request__ready"].value):
            client.offers = False
            client.asked += 1

    @property
    def done(self) -> bool:
        """Whether every client has what it asked for."""
        return all(
            len(c.came) == sum(AXI.words(n) for _, n in c.requests) for c in self.reads
        ) and all(c.done == len(c.requests) for c in self.writes)

    async def run(self) -> None:
        """Until all is done; nothing may come after that."""
        while not self.done:
            await self.step()
        for _ in range(10):
            await self.step()
        assert self.done
        assert self.idle
        assert self.error == 0
        assert self.rules.complete
        assert max(self.rules.in_flight) <= CONFIG.outstanding


def pauses(random: np.random.Generator) -> Iterator[bool]:
    """Pauses now and then, or most of the time, or never."""
    share = float(random.choice([0.0, 0.2, 0.5, 0.9]))
    while True:
        yield bool(random.random() < share)


def clients(random: np.random.Generator, longest: int) -> tuple[list[Client], list[Client]]:
    """Clients that read, and clients that write elsewhere."""
    pause, gap = float(random.choice([0.0, 0.9])), float(random.choice([0.0, 0.5]))
    count = len(CONFIG.read_ports)
    reads = [Client(random_requests(AXI, random, 7, k * REGION, REGION, longest), pause=pause)
             for k in range(count)]
    writes = [
        writer(AXI, random_requests(AXI, random, 7, (k + count) * REGION, REGION, longest),
               random, pause=pause, gap=gap)
        for k in range(len(CONFIG.write_ports))
    ]
    return reads, writes


@cocotb.test()
@cocotb.parametrize(seed=range(SEEDS))
async def traffic(dut, seed: int) -> None:
    """Reads and writes at once, each byte compared; then what was written is read."""
    random = np.random.default_rng(seed)
    bench = Bench(dut, seed)
    ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_0"), dut.clk, dut.rst, size=SIZE)
    place = int(random.choice([0, 0x230, 0xFF0]))
    before = random.bytes(SIZE - 0x1000)
    ram.write(place, before)
    assert ram.write_if is not None
    assert ram.read_if is not None
    for channel in (ram.write_if.aw_channel, ram.write_if.w_channel, ram.write_if.b_channel,
                    ram.read_if.ar_channel, ram.read_if.r_channel):
        channel.set_pause_generator(pauses(np.random.default_rng(random.integers(1 << 30))))
    await bench.start(BASE + place)
    bench.reads, bench.writes = clients(random, int(random.choice([200, 1500, 4096])))
    await bench.run()
    after = bytearray(before)
    for client in bench.reads:
        assert client.came == words_at(AXI, client, before)
    for client in bench.writes:
        write_all(AXI, client, after)
    assert ram.read(place, len(after)) == after
    for name, value in (("size", 4), ("burst", 1), ("cache", 3), ("prot", 0)):
        for channel in ("aw", "ar"):
            assert int(getattr(dut, f"m_axi_0_{channel}{name}").value) == value

    bench.reads, bench.writes = [Client(client.requests) for client in bench.writes], ()
    await bench.run()
    for client in bench.reads:
        assert client.came == words_at(AXI, client, after)


@cocotb.test()
@cocotb.parametrize(resp=[SLVERR, DECERR], kind=["read", "write"], seed=range(2))
async def bad_response(dut, resp: int, kind: str, seed: int) -> None:
    """Nothing wrong is delivered, all that was begun is ended; a reset mends it."""
    random = np.random.default_rng(seed)
    memory = Memory(AXI, random, ready=0.6, latency=12, gap=0.3)
    bench = Bench(dut, seed, memory)
    before = bytes(memory.bytes)
    fault = int(random.integers(3, 12))
    (memory.read_faults if kind == "read" else memory.write_faults)[fault] = resp
    bench.reads, bench.writes = clients(random, 600)
    await bench.start(BASE)
    while not bench.error:
        await bench.step()
    assert bench.error == (2 if resp == DECERR else 1)
    done = [client.done for client in bench.writes]
    came = [len(client.came) for client in bench.reads]
    if kind == "read":
        assert sum(came) == fault
    for client in bench.reads:
        assert client.came == words_at(AXI, client, before)[: len(client.came)]
    while not bench.idle:
        await bench.step()
    for _ in range(50):
        await bench.step()
    assert bench.idle
    assert bench.rules.complete
    assert done == [client.done for client in bench.writes]
    assert came == [len(client.came) for client in bench.reads]
    await works(bench, before)


@cocotb.test()
@cocotb.parametrize(seed=range(4))
async def silence(dut, seed: int) -> None:
    """A memory that stops answering is noticed; when it and the port were reset, all works."""
    random = np.random.default_rng(seed)
    memory = Memory(AXI, random, ready=0.8, latency=7, gap=0.1)
    bench = Bench(dut, seed, memory)
    before = bytes(memory.bytes)
    memory.silent = 40 + 15 * seed
    bench.reads, bench.writes = clients(random, 2000)
    await bench.start(BASE)
    while not bench.error:
        await bench.step()
    assert bench.error == 4
    assert CONFIG.timeout <= bench.cycle - memory.silent <= CONFIG.timeout + 5
    came = [len(client.came) for client in bench.reads]
    memory.silent = bench.cycle + 100
    while bench.cycle < memory.silent:
        await bench.step()
    assert came == [len(client.came) for client in bench.reads]
    memory.silent = LIMIT
    await works(bench, before)


async def works(bench: Bench, before: bytes) -> None:
    """All that the clients ask for, once more after a reset."""
    assert bench.memory is not None
    await bench.reset()
    await bench.run()
    after = bytearray(before)
    for client in bench.reads:
        assert client.came == words_at(AXI, client, before)
    for client in bench.writes:
        write_all(AXI, client, after)
    assert bench.memory.bytes == after
