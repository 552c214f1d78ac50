"""Off-chip memory in simulations: alone, driven by a small master in C++, and at a Verilog top."""

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from hwgen import boards
from hwgen.emit.verilog import Rtl
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, TensorType
from hwgen.offchip.bus import AxiConfig
from hwgen.parts.stream import StreamType
from hwgen.sim.verilator import Harness
from hwgen.sim.verilator.memory import FAULTS, MemoryModel

pytestmark = pytest.mark.verilator

MASTER = r"""
// usage: master SETTINGS PORTS WORD BASE SIZE SCRIPT RULE READY
//   SCRIPT  lines "port kind address beats bytes"; kind r or w, or b: wait until all is answered
//   RULE    rule of the protocol that is broken, or none
//   READY   probability that R and B are taken, each cycle
// Bytes that are written depend on their address; words that are read go to standard error.
#include <deque>
#include "memory.hpp"
using namespace offchip;

struct Op { size_t port; char kind; uint64_t address; unsigned beats; uint64_t bytes; };
struct Word { uint8_t data[WORD_LIMIT], strb[WORD_LIMIT / 8]; bool last; };
struct Master {
    std::deque<Op> ops;
    std::deque<Word> words;
    size_t open = 0;
    bool aw, w, ar;  // what the memory takes in this cycle
};

int main(int, char** argv) {
    const size_t count = atoi(argv[2]), word = atoi(argv[3]);
    const uint64_t base = strtoull(argv[4], nullptr, 0), size = strtoull(argv[5], nullptr, 0);
    const std::string rule = argv[7];
    const uint64_t ready = (uint64_t)(atof(argv[8]) * 0x1p53);
    unsigned log = 0;
    while (1u << log < word) log++;
    Memory m(Settings::read(argv[1]), count, word, base, size, {1, 2, 3, 4});
    Random random(5);
    std::vector<Master> masters(count);
    FILE* script = fopen(argv[6], "r");
    Op o;
    while (fscanf(script, "%zu %c %lu %u %lu", &o.port, &o.kind, &o.address, &o.beats, &o.bytes)
           == 5)
        masters[o.port].ops.push_back(o);
    m.ports[0].awvalid = rule == "reset";
    m.check_reset();

    printf("{\"events\": [");
    const char* comma = "";
    uint64_t quiet = 0;
    auto log_event = [&](size_t port, const char* channel, uint64_t id, unsigned response) {
        printf("%s[%lu, %zu, \"%s\", %lu, %u]", comma, m.cycle, port, channel, id, response);
        comma = ", ";
        quiet = 0;
    };
    for (bool busy = true; busy && quiet < 2000; quiet++) {
        m.drive();
        busy = false;
        size_t open = 0;
        for (Master& a : masters) open += a.open;
        for (size_t k = 0; k < count; k++) {
            Port& p = m.ports[k];
            Master& a = masters[k];
            while (!a.ops.empty() && a.ops[0].kind == 'b' && !open) a.ops.pop_front();
            if (!p.awvalid && !p.arvalid && !a.ops.empty() && a.ops[0].kind != 'b') {
                o = a.ops[0];
                a.ops.pop_front();
                a.open++;
                const Address address{k, base + o.address, o.beats - 1, log + (rule == "size"),
                                      rule != "burst"};
                if (o.kind == 'r') p.ar = address, p.arvalid = true;
                else p.aw = address, p.awvalid = true;
                for (unsigned b = 0; o.kind == 'w' && b < o.beats; b++) {
                    Word w{};
                    for (uint64_t n = 0, byte = b * word; n < word; n++, byte++) {
                        w.data[n] = (uint8_t)((o.address + byte) * 2654435761u >> 13);
                        if (byte < o.bytes) w.strb[n / 8] |= 1 << n % 8;
                    }
                    w.last = rule == "never" ? false : b + 1 + (rule == "early") == o.beats;
                    a.words.push_back(w);
                }
            }
            p.wvalid = !a.words.empty();
            if (p.wvalid) {
                p.wdata = a.words[0].data;
                p.wstrb = a.words[0].strb;
                p.wlast = a.words[0].last;
            }
            if (rule == "drop" && p.aw_waits) p.awvalid = false;
            if (rule == "change_aw" && p.aw_waits) p.aw.len++;
            if (rule == "change_ar" && p.ar_waits) p.ar.addr += word;
            if (rule == "change_data" && p.w_waits) a.words[0].data[word - 1]++;
            if (rule == "change_strobes" && p.w_waits) a.words[0].strb[0]++;
            if (rule == "change_last" && p.w_waits) p.wlast = !p.wlast;
            p.rready = random.below(ready);
            p.bready = random.below(ready);
            a.aw = p.awvalid && p.awready;
            a.ar = p.arvalid && p.arready;
            a.w = p.wvalid && p.wready;
            if (a.aw) log_event(k, "AW", p.aw.id, 0);
            if (a.ar) log_event(k, "AR", p.ar.id, 0);
            if (a.w) log_event(k, "W", 0, 0);
            if (p.rvalid && p.rready) {
                log_event(k, "R", p.rid, p.rresp);
                fwrite(p.rdata, 1, word, stderr);
                a.open -= p.rlast;
            }
            if (p.bvalid && p.bready) {
                log_event(k, "B", p.bid, p.bresp);
                a.open--;
            }
        }
        m.sample();
        for (size_t k = 0; k < count; k++) {
            Master& a = masters[k];
            if (a.aw) m.ports[k].awvalid = false;
            if (a.ar) m.ports[k].arvalid = false;
            if (a.w) a.words.pop_front();
            busy |= !a.ops.empty() || !a.words.empty() || a.open;
        }
    }
    printf("], \"cycles\": %lu, \"held\": %lu, \"read\": %lu, \"written\": %lu}\n", m.cycle, m.held,
           m.bytes_read(), m.bytes_written());
    return 0;
}
"""

BASE, SIZE = 0x1000_0000, 1 << 20
PLAIN = MemoryModel(gbps=1e6, efficiency=1, latency=20, refresh_cycles=0)
"""Nothing but a latency."""

Op = tuple[int, str, int, int]
"""Port, kind, address from the base, beats."""


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("master")
    (folder / "master.cpp").write_text(MASTER)
    subprocess.run(
        ["c++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined",
         "-fno-sanitize-recover", f"-I{files('hwgen.sim.verilator')}", "-o", "master",
         "master.cpp"],
        cwd=folder, check=True,
    )
    return folder / "master"


class Run:
    """What a master saw."""

    def __init__(self, program: Path, model: MemoryModel, ops: Sequence[Op], *, ports: int = 1,
                 word: int = 16, rule: str = "none", ready: float = 1.0, cut: int = 0) -> None:
        settings, script = program.parent / "settings.txt", program.parent / "script.txt"
        settings.write_text(model.settings())
        script.write_text("".join(
            f"{port} {kind} {address} {beats} {beats * word - cut}\n"
            for port, kind, address, beats in ops
        ))
        result = subprocess.run(
            [program, settings, str(ports), str(word), str(BASE), str(SIZE), script, rule,
             str(ready)], capture_output=True, check=False,
        )
        self.status = result.returncode
        self.data = np.frombuffer(result.stderr, np.uint8)
        if self.status:
            self.message = result.stderr.decode()
            return
        report = json.loads(result.stdout)
        self.cycles, self.held = report["cycles"], report["held"]
        self.read, self.written = report["read"], report["written"]
        self.events = report["events"]

    def times(self, channel: str, port: int | None = None) -> np.ndarray:
        return np.array([e[0] for e in self.events
                         if e[2] == channel and port in (None, e[1])], np.int64)

    def responses(self, channel: str) -> list[int]:
        return [e[4] for e in self.events if e[2] == channel]


def pattern(address: int, size: int) -> np.ndarray:
    bytes = np.arange(address, address + size, dtype=np.uint64)
    return ((bytes * np.uint64(2654435761)) >> np.uint64(13)).astype(np.uint8)


def reads(bursts: int, port: int = 0, beats: int = 64) -> list[Op]:
    return [(port, "r", 0x1000 * (n % 16), beats) for n in range(bursts)]


def writes(bursts: int, port: int = 0, beats: int = 64) -> list[Op]:
    return [(port, "w", 0x10_000 * (port + 1) + 0x1000 * (n % 16), beats) for n in range(bursts)]


def both(bursts: int, port: int = 0) -> list[Op]:
    return [op for pair in zip(reads(bursts, port), writes(bursts, port)) for op in pair]


@pytest.mark.parametrize("word", [4, 16, 128])
@pytest.mark.parametrize("model", [
    PLAIN,
    replace(PLAIN, gbps=20, jitter=30, refresh_interval=200, refresh_cycles=40,
            back_pressure=0.3, seed=3),
])
def test_bytes_come_back(master: Path, model: MemoryModel, word: int) -> None:
    """Three ports write and read their parts at once; the last word of a write is partial."""
    random = np.random.default_rng(0)
    beats = random.integers(1, min(256, 4096 // word) + 1, (3, 20))
    ops: list[Op] = [(port, "w", 0x20_000 * (port + 1) + 0x1000 * n, int(beats[port, n]))
                     for n in range(20) for port in range(3)]
    ops += [(port, "b", 0, 0) for port in range(3)]
    ops += [(port, "r", address, beats) for port, kind, address, beats in ops if kind == "w"]
    run = Run(master, model, ops, ports=3, word=word, ready=0.7, cut=3)
    assert run.status == 0
    assert set(run.responses("R") + run.responses("B")) == {0}
    assert run.read == word * beats.sum()
    assert run.written == word * beats.sum() - 3 * 60
    # Words of the ports are interleaved: each came at the port that asked for it.
    words = run.data.reshape(-1, word)
    came = [e[1] for e in run.events if e[2] == "R"]
    assert [e[3] for e in run.events if e[2] == "R"] == came
    for port in range(3):
        mine = words[np.array(came) == port].ravel()
        for n in range(20):
            size = word * beats[port, n]
            wanted = pattern(0x20_000 * (port + 1) + 0x1000 * n, size)
            np.testing.assert_array_equal(mine[:size - 3], wanted[:-3])
            mine = mine[size:]
        assert not mine.size


def test_image_then_garbage(master: Path) -> None:
    run, again, other = (
        Run(master, replace(PLAIN, seed=seed), [(0, "r", 0, 256)]) for seed in (0, 0, 1)
    )
    assert list(run.data[:4]) == [1, 2, 3, 4]
    assert len(np.unique(run.data)) > 250
    np.testing.assert_array_equal(run.data, again.data)
    assert (run.data[4:] == other.data[4:]).mean() < 0.02


def test_latency(master: Path) -> None:
    """From address to first data, from last data to response; a word a cycle; overlapped."""
    run = Run(master, PLAIN, [(0, "r", 0, 8), (0, "r", 0, 8)])
    np.testing.assert_array_equal(run.times("AR"), [0, 1])
    np.testing.assert_array_equal(run.times("R"), 20 + np.arange(16))
    run = Run(master, PLAIN, [(0, "w", 0, 8)])
    np.testing.assert_array_equal(run.times("AW"), [0])
    np.testing.assert_array_equal(run.times("W"), 1 + np.arange(8))
    np.testing.assert_array_equal(run.times("B"), [8 + 20])
    assert run.held == 0
    lone = [op for n in range(300) for op in ((0, "r", 0, 1), (0, "b", 0, 0))]
    run = Run(master, replace(PLAIN, jitter=9), lone)
    assert set(run.times("R") - run.times("AR")) == set(range(20, 30))


@pytest.mark.parametrize("ops, ports, most", [
    (reads(200), 1, 16),
    (writes(200), 1, 16),
    (both(200), 1, 32),
    ([op for k in range(4) for op in reads(100, k)], 4, 64),
    ([op for k in range(3) for op in both(100, k)], 3, 96),
], ids=["reads", "writes", "both", "four ports", "three ports, both"])
@pytest.mark.parametrize("share", [0.03, 0.1, 0.45, 0.9, 1.5])
@pytest.mark.parametrize("refresh", [0, 88])
def test_bandwidth(master: Path, ops: list[Op], ports: int, most: int, share: float,
                   refresh: int) -> None:
    """``share`` of what the ports could take at once."""
    model = MemoryModel(gbps=most * share * 2 / 0.8, refresh_cycles=refresh)
    assert model.bytes_per_cycle == pytest.approx(most * share)
    run = Run(master, model, ops, ports=ports)
    assert run.status == 0
    total = run.read + run.written
    assert total == 1024 * len(ops)
    # Until the first port has nothing left to do.
    moved = np.sort(np.concatenate([run.times("R"), run.times("W")]))
    ends = [t[-1] for k in range(ports) for c in "RW" if len(t := run.times(c, k))]
    begin, end = moved[0], min(ends)
    rate = 16 * (moved <= end).sum() / (end - begin + 1)
    limit = min(model.bytes_per_cycle, most * (1 - refresh / 1950))
    assert rate == pytest.approx(limit, rel=0.02)
    assert (run.held > 0) == (share < 1 or refresh > 0)


def test_ports_share_alike(master: Path) -> None:
    """A slow memory serves reads and writes of all ports in turn."""
    ops = [op for k in range(3) for op in both(40, k)]
    run = Run(master, replace(PLAIN, gbps=20), ops, ports=3)
    assert run.status == 0
    counts = [(run.times(channel, k) < 2000).sum() for k in range(3) for channel in "RW"]
    assert max(counts) <= 1.1 * min(counts)


def test_refresh(master: Path) -> None:
    model = replace(PLAIN, refresh_interval=100, refresh_cycles=30)
    run = Run(master, model, reads(20) + writes(20))
    moved = np.unique(np.concatenate([run.times("R"), run.times("W"), run.times("B")]))
    assert set(moved % 100) == set(range(70))
    assert run.held > 0.25 * run.cycles


def test_back_pressure(master: Path) -> None:
    """Every channel pauses; one word of four is what passes."""
    model = replace(PLAIN, back_pressure=0.75)
    for ops, channel in ((reads(40), "R"), (writes(40), "W")):
        run = Run(master, model, ops)
        assert len(run.times(channel)) / np.ptp(run.times(channel)) == pytest.approx(0.25, rel=0.1)
        assert run.held == 0
    lone = [op for n in range(300) for op in ((0, "w", 0, 1), (0, "b", 0, 0))]
    run = Run(master, model, lone)
    waits = run.times("B") - run.times("W") - 20
    assert waits.min() == 0
    assert waits.mean() == pytest.approx(3, rel=0.2)


@pytest.mark.parametrize("kind, response", [("slverr", 2), ("decerr", 3)])
def test_errors(master: Path, kind: str, response: int) -> None:
    ops = [(0, "r", 0x1000 * n, 8) for n in range(4)]
    good = Run(master, PLAIN, ops)
    run = Run(master, replace(PLAIN, fault=f"read_{kind}:2"), ops)
    bad = np.array(run.responses("R")).reshape(4, 8)
    assert not bad[[0, 1, 3]].any()
    assert list(bad[2]) == ([0, 0, 0, 0, 2, 0, 0, 0] if response == 2 else [3] * 8)
    wrong = (run.data != good.data).reshape(4, 8, 16)
    assert (wrong.all(2) == (bad > 0)).all()
    assert (wrong.any(2) == (bad > 0)).all()

    ops = [(0, "w", 0x1000 * n, 8) for n in range(4)]
    ops += [(0, "b", 0, 0), *((0, "r", 0x1000 * n, 8) for n in range(4))]
    run = Run(master, replace(PLAIN, fault=f"write_{kind}:1"), ops)
    assert run.responses("B") == [0, response, 0, 0]
    for n, data in enumerate(run.data.reshape(4, -1)):
        assert (data == pattern(0x1000 * n, 128)).all() == (n != 1)


def test_silence(master: Path) -> None:
    """Two requests are answered, the others taken in as far as there is room."""
    run = Run(master, replace(PLAIN, fault="silent:2"),
              [(0, "r", 0, 4), (0, "w", 0x1000, 4), (0, "r", 0, 4), *writes(20)])
    assert len(run.times("AR")) == 2
    assert len(run.times("AW")) == 1 + 16
    assert len(run.times("R")) == 4
    assert len(run.times("B")) == 1


@pytest.mark.parametrize("rule, ops, message", [
    ("none", [(0, "r", 0xFF0, 2)], "read of 32 bytes at 0x10000ff0 crosses a 4 KB boundary"),
    ("none", [(0, "w", 0, 257)], "write of 4112 bytes at 0x10000000 crosses a 4 KB boundary"),
    ("none", [(0, "w", SIZE, 1)],
     "write of 16 bytes at 0x10100000 is outside the memory, 0x10000000 to 0x100fffff"),
    ("none", [(0, "r", -16 % 2**64, 1)], "read of 16 bytes at 0xffffff0 is outside the memory"),
    ("none", [(0, "r", 8, 1)], "read address 0x10000008 is no multiple of 16 bytes"),
    ("none", [(0, "w", 0x100, 4), (1, "r", 0x130, 1)],
     "port 1: read of 16 bytes at 0x10000130 overlaps a write at port 0 that is not answered yet"),
    ("none", [(0, "r", 0x100, 4), (0, "w", 0x130, 1)],
     "write of 16 bytes at 0x10000130 overlaps a read at port 0 that is not answered yet"),
    ("burst", [(0, "r", 0, 1)], "read burst is of type 0, not INCR"),
    ("size", [(0, "w", 0, 1)], "write beats are of 32 bytes, the bus is of 16"),
    ("early", [(0, "w", 0, 4)], "wlast is 1 at beat 3 of 4"),
    ("never", [(0, "w", 0, 4)], "wlast is 0 at beat 4 of 4"),
    ("drop", [(0, "w", 0, 4)], "AW was valid and not ready, and is valid no more"),
    ("change_aw", [(0, "w", 0, 4)], "AW changed while valid and not ready"),
    ("change_ar", [(0, "r", 0, 4)], "AR changed while valid and not ready"),
    ("change_data", [(0, "w", 0, 4)], "W changed while valid and not ready"),
    ("change_strobes", [(0, "w", 0, 4)], "W changed while valid and not ready"),
    ("change_last", [(0, "w", 0, 4)], "W changed while valid and not ready"),
    ("reset", [], "AW valid during reset"),
])
def test_violations(master: Path, rule: str, ops: list[Op], message: str) -> None:
    waits = rule in ("drop", "change_aw", "change_ar")
    model = replace(PLAIN, back_pressure=0.9 if waits else 0)
    run = Run(master, model, ops, ports=2, rule=rule)
    assert run.status == 7
    assert run.message.startswith("memory port ")
    assert message in run.message


@pytest.mark.parametrize("change, message", [
    ({"gbps": 0}, "gbps must be positive, not 0"),
    ({"clock_mhz": -1}, "clock_mhz must be positive, not -1"),
    ({"efficiency": 1.1}, "efficiency must be above 0, at most 1, not 1.1"),
    ({"latency": 0}, "latency must be 1 or more, not 0"),
    ({"jitter": -1}, "jitter must be 0 or more, not -1"),
    ({"refresh_interval": 88}, "refresh_interval must be above refresh_cycles, 88, not 88"),
    ({"back_pressure": 1}, "back_pressure must be 0 or more, below 1, not 1"),
    ({"fault": "hot:1"},
     f"fault must be one of {', '.join(FAULTS)}, a colon and a number, not 'hot:1'"),
])
def test_parameters(change: dict, message: str) -> None:
    with pytest.raises(HwgenError) as error:
        MemoryModel(**change)
    assert str(error.value) == message


def test_of_board() -> None:
    model = MemoryModel.of_board(boards.load("zcu102"))
    assert model == MemoryModel()
    assert model.bytes_per_cycle == pytest.approx(153.6e9 * 0.8 / 8 / 250e6)
    slow = MemoryModel.of_board(boards.load("zcu102"), 125)
    assert (slow.latency, slow.refresh_interval, slow.refresh_cycles) == (25, 975, 44)
    for name in boards.names():
        board = boards.load(name)
        model = MemoryModel.of_board(board)
        assert model.bytes_per_cycle == pytest.approx(
            board.offchip_practical_gbps * 125 / board.clock_mhz
        )
    with pytest.raises(HwgenError, match="Board zcu102 has no off-chip memory"):
        MemoryModel.of_board(replace(boards.load("zcu102"), memory=()))


TOP = """
// Takes 16 bytes, writes them to memory, reads them back, adds what it read from the beginning of
// memory before: one beat at a time.
module top(
    input aclk, input aresetn,
    input [127:0] s_axis_tdata, input s_axis_tvalid, output s_axis_tready,
    output [127:0] m_axis_y_tdata, output m_axis_y_tvalid, output m_axis_y_tlast,
    input m_axis_y_tready,
    output [3:0] m_axi_0_awid, output [31:0] m_axi_0_awaddr, output [7:0] m_axi_0_awlen,
    output [2:0] m_axi_0_awsize, output [1:0] m_axi_0_awburst, output m_axi_0_awvalid,
    input m_axi_0_awready,
    output [127:0] m_axi_0_wdata, output [15:0] m_axi_0_wstrb, output m_axi_0_wlast,
    output m_axi_0_wvalid, input m_axi_0_wready,
    input [3:0] m_axi_0_bid, input [1:0] m_axi_0_bresp, input m_axi_0_bvalid,
    output m_axi_0_bready,
    output [3:0] m_axi_0_arid, output [31:0] m_axi_0_araddr, output [7:0] m_axi_0_arlen,
    output [2:0] m_axi_0_arsize, output [1:0] m_axi_0_arburst, output m_axi_0_arvalid,
    input m_axi_0_arready,
    input [3:0] m_axi_0_rid, input [127:0] m_axi_0_rdata, input [1:0] m_axi_0_rresp,
    input m_axi_0_rlast, input m_axi_0_rvalid, output m_axi_0_rready,
    input [31:0] memory_base, output [2:0] memory_error, output memory_idle, output memory_ready,
    output memory_waits
);
    localparam BEGIN = 0, FETCH = 1, TAKE = 2, AW = 3, W = 4, B = 5, AR = 6, R = 7, GIVE = 8,
               STOP = 9;
    reg [3:0] state = 0;
    reg [127:0] first, word;
    reg [2:0] error = 0;
    reg [3:0] beat = 0;
    reg [9:0] waited = 0;
    assign s_axis_tready = state == TAKE;
    assign m_axis_y_tdata = word ^ first;
    assign m_axis_y_tvalid = state == GIVE;
    assign m_axis_y_tlast = beat == 7;
    assign m_axi_0_awid = 5;
    assign m_axi_0_awaddr = memory_base + 32'h1000 + {beat, 4'b0};
    assign m_axi_0_awlen = 0;
    assign m_axi_0_awsize = 4;
    assign m_axi_0_awburst = 1;
    assign m_axi_0_awvalid = state == AW;
    assign m_axi_0_wdata = word;
    assign m_axi_0_wstrb = 16'hffff;
    assign m_axi_0_wlast = 1;
    assign m_axi_0_wvalid = state == W;
    assign m_axi_0_bready = 1;
    assign m_axi_0_arid = 6;
    assign m_axi_0_araddr = state == BEGIN ? memory_base : m_axi_0_awaddr;
    assign m_axi_0_arlen = 0;
    assign m_axi_0_arsize = 4;
    assign m_axi_0_arburst = 1;
    assign m_axi_0_arvalid = aresetn && (state == BEGIN || state == AR);
    assign m_axi_0_rready = 1;
    assign memory_error = error;
    assign memory_ready = state >= TAKE;
    assign memory_idle = !(state == FETCH || state == W || state == B || state == R)
                         && error != 4;
    assign memory_waits = state == B || state == R;
    wire [1:0] response = m_axi_0_rvalid ? m_axi_0_rresp : m_axi_0_bresp;
    always @(posedge aclk) if (!aresetn) begin
        state <= BEGIN;
        beat <= 0;
    end else begin
        waited <= state == B || state == R || state == FETCH ? waited + 1 : 0;
        case (state)
            BEGIN: if (m_axi_0_arready) state <= FETCH;
            FETCH: if (m_axi_0_rvalid) begin first <= m_axi_0_rdata; state <= TAKE; end
            TAKE: if (s_axis_tvalid) begin word <= s_axis_tdata; state <= AW; end
            AW: if (m_axi_0_awready) state <= W;
            W: if (m_axi_0_wready) state <= B;
            B: if (m_axi_0_bvalid) begin word <= 0; state <= AR; end
            AR: if (m_axi_0_arready) state <= R;
            R: if (m_axi_0_rvalid) begin word <= m_axi_0_rdata; state <= GIVE; end
            GIVE: if (m_axis_y_tready) begin beat <= beat == 7 ? 0 : beat + 1; state <= TAKE; end
        endcase
        if ((m_axi_0_rvalid || m_axi_0_bvalid) && response != 0) begin
            error <= {1'b0, response == 3, response == 2};
            state <= STOP;
        end
        if (waited == 1000) begin error <= 4; state <= STOP; end
    end
endmodule
"""


@dataclass(frozen=True)
class Ports:
    """One port to off-chip memory."""

    axi: AxiConfig
    size: int
    ports: int = 1


@dataclass(frozen=True)
class Outside:
    """Verilog that was written by hand, as a simulator sees it."""

    inputs: dict[str, StreamType]
    outputs: dict[str, StreamType]
    offchip: Ports
    image: bytes = b""

    def load_words(self) -> list[int]:
        return []

    def memory_image(self) -> bytes:
        return self.image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple]:
    """Runs frames through the design; gives what came and what was to come."""
    stream = StreamType(TensorType((8, 16), Quantisation(1.0, 0)), 16)
    random = np.random.default_rng(1)
    design = Outside({"x": stream}, {"y": stream}, Ports(AxiConfig(address_bits=32), size=0x2000),
                     random.integers(0, 256, 16, np.uint8).tobytes())
    rtl = Rtl("top", {"top.v": TOP}, memory=design.memory_image())
    simulation = Harness(rtl, design, tmp_path_factory.mktemp("top"), optimise=False)

    def run(frames: int = 4, **given):
        x = random.integers(-128, 128, (frames, 8, 16))
        first = np.frombuffer(design.image, np.int8)
        found = simulation.run({"x": x}, **{"idle_limit": 5000} | given)
        return found, x ^ first

    return run


@pytest.mark.parametrize("memory", [None, replace(PLAIN, jitter=9, back_pressure=0.5)])
def test_design(model, memory: MemoryModel | None) -> None:
    found, wanted = model(memory=memory)
    np.testing.assert_array_equal(found.outputs["y"], wanted)
    use = found.memory
    assert (use.bytes_read, use.bytes_written) == (4 * 128, 4 * 128)
    assert (use.read, use.written) == ((4 * 128,), (4 * 128,))
    assert (use.total_read, use.total_written) == (4 * 128 + 16, 4 * 128)
    assert list(use.frame_read) == list(use.frame_written) == [128] * 3
    assert use.bytes_per_frame == 256
    latency = 20 if memory else 50
    assert use.ready >= latency
    assert use.waits >= 4 * 8 * 2 * latency
    if memory is None:
        # B and R take the latency and a refresh now and then; the other states a cycle each.
        late = use.waits - 32 * 2 * 50
        assert 0 <= late <= 2 * 88
        assert found.cycles == 32 * (2 * 50 + 5) + late
    else:
        assert use.held == 0


def test_slow_memory_is_no_standstill(model) -> None:
    fast, _ = model()
    slow, wanted = model(memory=MemoryModel(gbps=0.1))
    np.testing.assert_array_equal(slow.outputs["y"], wanted)
    assert slow.cycles > 1.5 * fast.cycles
    assert slow.memory.held > 0


@pytest.mark.parametrize("fault, message", [
    ("silent:0", "time-out; not idle [0-9]+ cycles later; 0 of 32 beats"),
    ("read_slverr:0", "SLVERR; idle 0 cycles later; 0 of 32 beats had come from m_axis_y"),
    ("read_decerr:9", "DECERR; idle 0 cycles later; 8 of 32 beats had come from m_axis_y"),
    ("write_slverr:2", "SLVERR; idle 0 cycles later; 2 of 32 beats"),
    ("silent:7", "time-out; not idle [0-9]+ cycles later; 3 of 32 beats"),
])
def test_memory_errors(model, fault: str, message: str) -> None:
    with pytest.raises(HwgenError, match=f"memory error: {message}"):
        model(memory=replace(PLAIN, fault=fault))


def test_overflow_of_addresses(tmp_path: Path) -> None:
    stream = StreamType(TensorType((8, 16), Quantisation(1.0, 0)), 16)
    design = Outside({"x": stream}, {"y": stream}, Ports(AxiConfig(address_bits=12), size=4097))
    with pytest.raises(HwgenError, match="at most what 12 bits of address reach, not 4097"):
        Harness(Rtl("top", {"top.v": TOP}), design, tmp_path)
