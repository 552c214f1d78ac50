"""Buffers and tables: words, latency, styles; as many blocks after synthesis as are counted."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.synthesis import ECP5, synthesise
from hwgen.device.cost import Resources
from hwgen.device.storage import (
    STYLES,
    block_count,
    block_ram,
    block_shape,
    memory_style,
    ram_luts,
    rom_luts,
    table_count,
    ultra_count,
)
from hwgen.emit.verilog import emit_component
from hwgen.errors import HwgenError
from hwgen.parts.memory import BufferMemory, ReadOnlyMemory
from tests.emit.synthesis import synthesised
from tests.vectors import in_amaranth, in_verilator


class Table(wiring.Component):
    """A table with an address and a word."""

    address: Value
    data: Value

    def __init__(self, table: ReadOnlyMemory, rows: list[int]) -> None:
        self.table = table
        self.rows = rows
        super().__init__({"address": In(range(max(table.depth, 2))), "data": Out(table.width)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.data.eq(self.table.read(m, "table", self.address, self.rows))
        return m


def random_table(table: ReadOnlyMemory, seed: int = 0) -> Table:
    source = random.Random(seed)
    return Table(table, [source.getrandbits(table.width) for _ in range(table.depth)])


@given(st.integers(1, 40), st.integers(1, 6000), st.sampled_from(["", "block"]), st.booleans(),
       st.integers(0, 99))
def test_table(width: int, depth: int, style: str, bare: bool, seed: int) -> None:
    table = ReadOnlyMemory(width, depth, style, bare)
    dut = random_table(table, seed)
    addresses = [0, depth - 1, *np.random.default_rng(seed).integers(0, depth, 40).tolist()]
    seen = in_amaranth(dut, [{"address": address} for address in addresses])
    for t, address in enumerate(addresses[: -table.latency]):
        assert seen[t + table.latency]["data"] == dut.rows[address]


def test_table_is_never_in_ultra_ram() -> None:
    with pytest.raises(HwgenError, match=r"^UltraRAM cannot hold a table"):
        ReadOnlyMemory(8, 8, "ultra")


def accesses(width: int, depth: int, count: int, seed: int) -> list[dict[str, int]]:
    """Random writes and reads; every word is written first."""
    source, vectors = random.Random(seed), []
    for address in range(depth):
        word = address * 37 % 2**width
        vectors.append({"write_en": 1, "write_addr": address, "write_data": word})
    for _ in range(count):
        vectors.append({
            "write_en": source.getrandbits(1), "write_addr": source.randrange(depth),
            "write_data": source.getrandbits(width), "read_en": source.getrandbits(1),
            "read_addr": source.randrange(depth), "load": source.getrandbits(1),
        })
    return vectors


def check_buffer(vectors: list[dict[str, int]], seen: list[dict[str, int]]) -> None:
    """A word comes with the load after its fetch, as it was before that cycle's write."""
    words: dict[int, int] = {}
    fetched = out = None
    for vector, found in zip(vectors, seen, strict=True):
        if out is not None:
            assert found["read_data"] == out
        if vector.get("load"):
            out = fetched
        if vector.get("read_en"):
            fetched = words[vector["read_addr"]]
        if vector["write_en"]:
            words[vector["write_addr"]] = vector["write_data"]


@pytest.mark.parametrize("style", ["", *STYLES])
def test_buffer_in_simulation(style: str) -> None:
    vectors = accesses(9, 70, 200, 1)
    check_buffer(vectors, in_amaranth(BufferMemory(9, 70, style), vectors))


@pytest.mark.verilator
@pytest.mark.parametrize("style, width, depth", [
    ("block", 40, 2500), ("block", 5, 513), ("ultra", 80, 4200), ("distributed", 9, 70),
])
def test_buffer_as_synthesis_sees_it(style: str, width: int, depth: int, tmp_path: Path) -> None:
    vectors = accesses(width, depth, 500, 2)
    dut = BufferMemory(width, depth, style)
    check_buffer(vectors, in_verilator(dut, vectors, tmp_path, ("-DSYNTHESIS",)))


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_buffer_refuses() -> None:
    with pytest.raises(HwgenError, match=r"^Memory style must be one of \(.*\) or empty, not 'x'$"):
        BufferMemory(8, 8, "x")
    gc.collect()  # Amaranth complains of the half-made memory when it goes: here, not later.


@pytest.mark.synthesis
@pytest.mark.parametrize("family", ["xcup", "xc7"])
def test_counts_after_synthesis(family: str) -> None:
    """Yosys takes the blocks and UltraRAMs that are counted, and about the LUTs."""
    components, due = {}, {}
    for width, depth in [(13, 2311), (37, 1152), (72, 100), (5, 4097)]:
        table = ReadOnlyMemory(width, depth, "block")
        components[f"table_{width}"], due[f"table_{width}"] = random_table(table), table.resources()
        for style in ("block", "ultra")[: 1 + (family == "xcup")]:
            name = f"{style}_{width}"
            components[name] = BufferMemory(width, depth, style)
            due[name] = Resources.memory(width, depth, style)
    taken = synthesised(components, family)
    for name, resources in taken.items():
        assert (resources.bram18, resources.uram) == (due[name].bram18, due[name].uram), name
        assert abs(resources.lut - due[name].lut) <= 0.2 * due[name].lut + 8, name


@pytest.mark.synthesis
def test_counts_after_synthesis_for_ecp5() -> None:
    """Yosys takes the EBRs that are counted, and about the LUTs: DPR16X4 and a choice."""
    for width, depth in [(13, 2311), (37, 1152), (72, 100), (5, 4097)]:
        table = ReadOnlyMemory(width, depth, "block")
        for part, due in ((random_table(table), table.resources("ecp5")),
                          (BufferMemory(width, depth, "block"),
                           Resources.memory(width, depth, "block", "ecp5"))):
            taken = synthesise(emit_component(part), ECP5)
            assert taken.bram18 == due.bram18, (width, depth)
    for width, depth in [(1, 16), (16, 32), (16, 64), (64, 48), (40, 256), (8, 96), (7, 17)]:
        taken = synthesise(emit_component(BufferMemory(width, depth, "distributed")), ECP5)
        due = Resources.memory(width, depth, "distributed", "ecp5")
        assert taken.dsp == taken.bram18 == 0
        assert abs(taken.lut - due.lut) <= 0.01 * due.lut + 1, (width, depth)


@pytest.mark.synthesis
def test_luts_after_synthesis() -> None:
    """Memories in LUTs: RAMs but for the decoders, and tables of random bits, exactly."""
    shapes = [(1, 16), (16, 32), (16, 64), (64, 48), (40, 256), (8, 96)]
    components = {}
    for width, depth in shapes:
        components[f"ram_{width}_{depth}"] = BufferMemory(width, depth, "distributed")
        components[f"rom_{width}_{depth}"] = random_table(
            ReadOnlyMemory(width, depth, "distributed")
        )
    taken = synthesised(components)
    for width, depth in shapes:
        assert taken[f"rom_{width}_{depth}"].lut == rom_luts(width, depth)
        assert abs(taken[f"ram_{width}_{depth}"].lut - ram_luts(width, depth)) <= 2


@pytest.mark.parametrize("width, depth, blocks, shape", [
    (18, 1024, 1, (18, 1024)), (9, 2048, 1, (9, 2048)), (36, 512, 1, (36, 512)),
    (37, 512, 2, (36, 512)), (8, 4096, 2, (9, 2048)), (1, 16384, 1, (1, 16384)),
    (256, 4096, 58, (9, 2048)), (72, 2100, 10, (9, 2048)),
])
def test_blocks(width: int, depth: int, blocks: int, shape: tuple[int, int]) -> None:
    assert block_count(width, depth) == blocks
    # Parts of several depths may take as many blocks; the deepest are built.
    assert block_shape(width, depth)[1] >= shape[1]
    assert block_ram(width, depth) in (0, blocks)


def test_counts_of_arrays() -> None:
    width, depth = np.meshgrid([1, 8, 37, 300], [2, 64, 600, 5000])
    for count in (block_count, block_ram, table_count, ultra_count, ram_luts, rom_luts):
        single = [count(w, d) for w, d in zip(width.ravel(), depth.ravel())]
        np.testing.assert_array_equal(count(width, depth).ravel(), single)
    assert (table_count(width, depth) <= block_count(width, depth)).all()


def test_ultra_ram_only_when_asked_for() -> None:
    assert memory_style(72, 4096) == "block"
    assert memory_style(72, 4096, "ultra") == "ultra"
    assert Resources.memory(73, 4096, "ultra") == Resources(uram=2)
    assert Resources.memory(73, 4096).uram == 0
