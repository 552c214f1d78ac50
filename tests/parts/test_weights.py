"""Weight memories: rows, latency, loading over a chain; in Verilog, loaded and preloaded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from amaranth.hdl import Module, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.storage import ultra_weights
from hwgen.errors import HwgenError
from hwgen.parts.weights import LOAD_BITS, WeightMemory, WeightMemoryConfig
from tests.emit.synthesis import synthesised
from tests.typed import ports
from tests.vectors import Vectors, in_amaranth, in_verilator

SHAPES = [
    ("", 8, 20, 1), ("", 36, 512, 1), ("distributed", 5, 1, 1), ("distributed", 9, 700, 1),
    ("block", 72, 700, 1), ("block", 13, 2311, 4), ("block", 400, 1100, 3),
    ("ultra", 8, 1, 2), ("ultra", 72, 5, 2), ("ultra", 200, 33, 2), ("ultra", 73, 2050, 2),
    ("ultra", 20, 4100, 3), ("ultra", 5, 16390, 4),
]


def random_rows(config: WeightMemoryConfig, seed: int) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(config.width) for _ in range(config.depth)]


class Chain(wiring.Component):
    """Memories, one behind the other on the chain; each has its own address and data."""

    load: stream.Interface
    next: stream.Interface
    loaded: Value

    def __init__(self, *memories: WeightMemory) -> None:
        self.memories = memories
        last = memories[-1].config.signature.members
        super().__init__({
            "load": last["load"], "next": last["next"], "loaded": Out(len(memories)),
            **{f"address_{k}": In(len(ports(memory).address)) for k, memory in enumerate(memories)},
            **{f"data_{k}": Out(memory.config.width) for k, memory in enumerate(memories)},
        })

    def elaborate(self, platform):
        m = Module()
        load = wiring.flipped(self.load)
        for k, memory in enumerate(map(ports, self.memories)):
            m.submodules[f"memory_{k}"] = memory
            wiring.connect(m, load, memory.load)
            load = memory.next
            m.d.comb += [
                memory.address.eq(getattr(self, f"address_{k}")),
                getattr(self, f"data_{k}").eq(memory.data), self.loaded[k].eq(memory.loaded),
            ]
        wiring.connect(m, load, wiring.flipped(self.next))
        return m


def loading(words: list[int], gaps: float, seed: int) -> list[dict[str, int]]:
    """Words on a chain, with gaps in which they are noise."""
    source, vectors = random.Random(seed), []
    for word in words:
        while source.random() < gaps:
            vectors.append({"load__valid": 0, "load__payload": source.getrandbits(LOAD_BITS)})
        vectors.append({"load__valid": 1, "load__payload": word})
    vectors.append({"load__valid": 0})
    return vectors


def reading(config: WeightMemoryConfig, count: int, seed: int, port: str) -> list[dict[str, int]]:
    """Addresses: the ends of the memory and of its parts, and others."""
    source = random.Random(seed)
    edges = [a for a in (0, 511, 512, 1023, 1024, 2047, 2048, 4095, 4096, 8191, 8192)
             if a < config.depth]
    addresses = [*edges, config.depth - 1, *(source.randrange(config.depth) for _ in range(count))]
    return [{port: address} for address in addresses]


def check_rows(
    config: WeightMemoryConfig, rows: list[int], vectors: Vectors, seen: list[dict[str, int]],
    start: int, suffix: str = "",
) -> None:
    """Every row comes exactly ``latency`` cycles after its address, from a cycle on."""
    addresses, last = [], 0
    for vector in vectors:
        last = vector.get(f"address{suffix}", last)
        addresses.append(last)
    for t in range(start, len(vectors) - config.latency):
        assert seen[t + config.latency][f"data{suffix}"] == rows[addresses[t]]


@pytest.mark.parametrize("style, width, depth, latency", SHAPES)
def test_rows_in_simulation(style: str, width: int, depth: int, latency: int) -> None:
    config = WeightMemoryConfig(width, depth, style)
    assert config.latency == latency
    rows = random_rows(config, width)
    vectors = []
    if config.loads:
        vectors = loading(config.load_words(rows), 0.02, depth)
    start = len(vectors)
    vectors += reading(config, 100, width, "address")
    seen = in_amaranth(config.create(rows), vectors)
    check_rows(config, rows, vectors, seen, max(start - 1, 0))
    if config.loads:
        # Up in the cycle after the last word, where the first rows are read.
        assert [t["loaded"] for t in seen] == [t >= start - 1 for t in range(len(seen))]


def check_chain(seen: list[dict[str, int]], configs, rows, vectors: Vectors, extra) -> None:
    """Each memory is up after its words, its rows are right from then on; others are passed on."""
    sent = [t for t, vector in enumerate(vectors) if vector.get("load__valid")]
    taken = 0
    for k, config in enumerate(configs):
        taken += config.loads
        # The words of a memory pass through a register in each of those before it.
        up = sent[taken - 1] + k + 1
        assert [t["loaded"] >> k & 1 for t in seen] == [t >= up for t in range(len(seen))]
        check_rows(config, rows[k], vectors, seen, up, f"_{k}")
    passed = [(t, x["next__payload"]) for t, x in enumerate(seen) if x["next__valid"]]
    assert passed == [(t + len(configs), word)
                      for t, word in zip(sent[taken:], extra, strict=True)]


def chain(seed: int):
    configs = [WeightMemoryConfig(100, 9, "ultra"), WeightMemoryConfig(30, 4099, "ultra"),
               WeightMemoryConfig(150, 2050, "ultra")]
    rows = [random_rows(config, seed + k) for k, config in enumerate(configs)]
    return configs, rows, Chain(*(c.create(r) for c, r in zip(configs, rows, strict=True)))


def chain_vectors(configs, rows, gaps: float, seed: int):
    extra = [7, 1 << 71, 3]
    words = [w for c, r in zip(configs, rows, strict=True) for w in c.load_words(r)]
    vectors = loading([*words, *extra], gaps, seed)
    for k, config in enumerate(configs):
        for t, vector in enumerate(reading(config, len(vectors), seed, f"address_{k}")):
            if t < len(vectors):
                vectors[t] |= vector
    for vector in zip(*(reading(c, 300, seed, f"address_{k}") for k, c in enumerate(configs))):
        vectors.append({key: value for part in vector for key, value in part.items()})
    return vectors, extra


@pytest.mark.slow
@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_chain_in_simulation(gaps: float) -> None:
    configs, rows, dut = chain(1)
    vectors, extra = chain_vectors(configs, rows, gaps, 2)
    check_chain(in_amaranth(dut, vectors), configs, rows, vectors, extra)


@pytest.mark.verilator
@pytest.mark.parametrize("flags", [(), ("-DSYNTHESIS",)], ids=["simulation", "synthesis"])
def test_chain_in_verilator(flags: tuple[str, ...], tmp_path: Path) -> None:
    configs, rows, dut = chain(3)
    vectors, extra = chain_vectors(configs, rows, 0.2, 4)
    check_chain(in_verilator(dut, vectors, tmp_path, flags), configs, rows, vectors, extra)


@pytest.mark.verilator
def test_preloaded_in_verilator(tmp_path: Path) -> None:
    """The rows are there from the beginning, and all words are passed on."""
    configs, rows, dut = chain(5)
    vectors = [{f"address_{k}": a["address"] for k, a in enumerate(part)} for part in zip(
        *(reading(c, 200, 6, "address") for c in configs)
    )]
    vectors[3] |= {"load__valid": 1, "load__payload": 99}
    vectors[4] |= {"load__valid": 0}
    seen = in_verilator(dut, vectors, tmp_path, ("-DHWGEN_PRELOAD",))
    for k, config in enumerate(configs):
        check_rows(config, rows[k], vectors, seen, 0, f"_{k}")
    assert all(t["loaded"] == 7 for t in seen)
    assert [(t, x["next__payload"]) for t, x in enumerate(seen) if x["next__valid"]] == [(6, 99)]


@pytest.mark.verilator
@pytest.mark.parametrize("style, width, depth", [
    ("block", 13, 2311), ("block", 400, 1100), ("distributed", 9, 100),
])
def test_tables_in_verilator(style: str, width: int, depth: int, tmp_path: Path) -> None:
    config = WeightMemoryConfig(width, depth, style)
    rows = random_rows(config, 1)
    vectors = reading(config, 100, 2, "address")
    seen = in_verilator(config.create(rows), vectors, tmp_path)
    check_rows(config, rows, vectors, seen, 0)


@pytest.mark.synthesis
def test_counts_after_synthesis() -> None:
    """Yosys takes as many blocks and UltraRAMs as the configurations say."""
    configs = [
        WeightMemoryConfig(72, 100, "ultra"), WeightMemoryConfig(144, 2048, "ultra"),
        WeightMemoryConfig(73, 2049, "ultra"), WeightMemoryConfig(216, 1000, "ultra"),
        WeightMemoryConfig(145, 4097, "ultra"), WeightMemoryConfig(400, 1100, "block"),
    ]
    taken = synthesised({
        f"memory_{k}": config.create(random_rows(config, k)) for k, config in enumerate(configs)
    })
    for k, config in enumerate(configs):
        found, due = taken[f"memory_{k}"], config.resources()
        assert (found.bram18, found.uram) == (due.bram18, due.uram), config
        assert abs(found.lut - due.lut) <= 0.2 * due.lut + 20, config


@pytest.mark.parametrize("width, depth, count", [
    (72, 2048, 1), (144, 2048, 1), (145, 2048, 2), (73, 2049, 2), (144, 4096, 2), (144, 4097, 3),
    (144, 6145, 4), (1, 8192, 2),
])
def test_ultra_weights(width: int, depth: int, count: int) -> None:
    assert ultra_weights(width, depth) == count


@pytest.mark.parametrize("arguments, message", [
    ((0, 1), r"^width must be positive, not 0$"),
    ((1, 0), r"^depth must be positive, not 0$"),
    ((1, 1, "mud"), r"^Memory style must be one of \(.*\) or empty, not 'mud'$"),
])
def test_refuses(arguments: tuple, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        WeightMemoryConfig(*arguments)
