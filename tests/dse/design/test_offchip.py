"""Off-chip memory in the search: weights that stream and queues that are evicted, where it pays."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hwgen import boards
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.offchip_rearrange import OffChipRearrangeConfig
from hwgen.blocks.registry import block_config
from hwgen.design import OFF_CHIP, DesignPoint, Folding
from hwgen.device.storage import STYLES
from hwgen.dse.design.amounts import RESOURCES, Amounts
from hwgen.dse.design.check import check_design
from hwgen.dse.design.convolution import ConvTable
from hwgen.dse.design.found import Found
from hwgen.dse.design.search import search
from hwgen.dse.design.streaming import LEAST_FOLDS, External, TileSizes
from hwgen.dse.design.workload import Workload
from hwgen.errors import HwgenError
from hwgen.ir import GlobalAveragePool, Graph, Rearrange, Requantise, Resize
from hwgen.parts.stream import StreamType
from hwgen.timing import sized
from tests.networks import Builder, Q
from tests.profiles import examples

pytestmark = pytest.mark.network

BOARD = boards.load("zcu102")
TINY = replace(BOARD, dsp=200, bram18=24, lut=16000)
"""The weights of :func:`deep` are a third more than its memory."""


def deep() -> Graph:
    """Large weights for small frames."""
    b = Builder((8, 8, 16))
    x = b.conv(b.conv(b.conv("image", 32, 3, "c0"), 96, 3, "c1"), 96, 3, "c2")
    b.graph.outputs = [b.conv(x, 10, 1, "head")]
    return b.graph


def gated() -> Graph:
    """A skip connection that waits for the whole frame, half a word of a port a cycle."""
    b = Builder((96, 96, 8))
    x = b.conv("image", 8, 3, "c0")
    mean = b.graph.add(GlobalAveragePool(Requantise.from_scale(1 / 96**2), Q), x, name="mean")
    up = b.graph.add(Resize((96, 96)), b.conv(mean, 8, 1, "gate"), name="up")
    b.graph.outputs = [b.conv(b.add(x, up, "sum"), 10, 1, "head")]
    return b.graph


@cache
def on_tiny() -> Found:
    return search(deep(), TINY)


def check_fits(found: Found, board: boards.Board) -> None:
    """It fits the board, its memory's bandwidth too, and is planned as it was found."""
    need = found.netlist.resources()
    for key in ("dsp", "bram18", "uram", "lut", "ff"):
        assert getattr(need, key) <= getattr(board.usable, key)
    assert found.timing.interval == found.netlist.interval
    memory_map, external = found.netlist.offchip, External.of_board(board, found.design.clock_mhz)
    if memory_map is not None:
        while external is not None and found.design.ports != external.ports:
            external = external.narrower
        assert external is not None
        moved = memory_map.reads + memory_map.writes
        assert moved < external.bytes_per_cycle * found.timing.interval
    again = check_design(deep(), board, found.design, found.timing)
    assert again.netlist.resources() == need


def test_weights_stream_where_nothing_else_fits(tmp_path: Path) -> None:
    with pytest.raises(HwgenError, match=r"^Board zcu102 is too small for this network"):
        search(deep(), TINY, offchip="never")
    found = on_tiny()
    check_fits(found, TINY)
    assert found.limit in ("bram18", "lut", "bandwidth")
    streamed = [name for name, folding in found.design.foldings.items() if folding.tile]
    assert set(streamed) <= {"c1", "c2"}
    assert streamed
    reads = 0
    for name in streamed:
        config, folding = found.netlist.blocks[name], found.design.foldings[name]
        assert isinstance(config, FoldedConvConfig)
        assert config.weight_stream is not None
        assert config.offchip is not None
        assert config.weight_stream.places < config.channel_folds
        reads += config.offchip.reads
        # The even pace leaves less than a cycle of a fold unused.
        windows = config.window.windows
        assert folding.fold_cycles * windows <= found.timing.interval
    memory_map = found.netlist.offchip
    assert memory_map is not None
    assert memory_map.reads >= reads > 0
    path = tmp_path / "design.json"
    found.design.save(path)
    assert DesignPoint.load(path) == found.design
    # Depths and capacities are what the schedule of the design says.
    assert sized(deep(), found.design)[0] == found.design


def test_the_same_every_time() -> None:
    again = search(deep(), TINY)
    assert again.design == on_tiny().design
    assert again.explored == on_tiny().explored


def test_not_used_where_memory_is_enough() -> None:
    """Nothing is moved by choice, and with it a design is as fast as without."""
    auto, never = (search(deep(), BOARD, offchip=mode) for mode in ("auto", "never"))
    assert auto.netlist.offchip is None
    assert auto.design == never.design
    # A board whose memory is tight: what fits without is never worse with.
    tight = replace(TINY, bram18=60, lut=40000)
    auto, never = (search(deep(), tight, offchip=mode) for mode in ("auto", "never"))
    assert never.netlist.offchip is None
    assert auto.timing.interval <= never.timing.interval
    check_fits(auto, tight)


def test_preferred() -> None:
    """A long skip connection leaves the chip, though there is room for it."""
    auto, prefer = (search(gated(), BOARD, offchip=mode) for mode in ("auto", "prefer"))
    assert auto.netlist.offchip is None
    assert not any(style == OFF_CHIP for style in auto.design.memories.values())
    assert prefer.design.memories["c0>sum"] == OFF_CHIP
    assert prefer.timing.interval <= auto.timing.interval * 1.02
    taken, left = (found.netlist.resources() for found in (prefer, auto))
    assert taken.bram18 < left.bram18 - 20
    config = prefer.netlist.blocks["evict_c0_sum"]
    assert isinstance(config, EvictionConfig)
    assert config.stream.tensor.shape == (96, 96, 8)
    memory_map = prefer.netlist.offchip
    assert memory_map is not None
    assert memory_map.reads == memory_map.writes == config.offchip.reads >= 64 * 64 * 16
    assert check_design(gated(), BOARD, prefer.design, prefer.timing).netlist.offchip == memory_map


def test_evicted_where_it_fits_no_memory() -> None:
    """The queue is larger than the block memory, and than the LUTs: either alone."""
    board = replace(BOARD, dsp=200, bram18=24, lut=20000)
    with pytest.raises(HwgenError, match=r"^Board zcu102 is too small for this network"):
        search(gated(), board, offchip="never")
    found = search(gated(), board)
    assert found.design.memories["c0>sum"] == OFF_CHIP


def turned() -> Graph:
    """A frame whose rows become columns: it takes 28 block memories on the chip."""
    b = Builder((64, 64, 8))
    op = Rearrange(np.arange(64 * 64 * 8).reshape(64, 64, 8).transpose(1, 0, 2))
    b.graph.outputs = [b.conv(b.graph.add(op, b.conv("image", 8, 3, "c0"), name="across"), 10, 3,
                              "head")]
    return b.graph


def test_order_off_chip_where_it_fits_no_memory(tmp_path: Path) -> None:
    """As fast as pieces can be requested, which is slower than on the chip."""
    board = replace(BOARD, dsp=200, bram18=14, lut=16000)
    with pytest.raises(HwgenError, match=r"^Board zcu102 is too small for this network"):
        search(turned(), board, offchip="never")
    found = search(turned(), board)
    assert found.design.foldings["across"].window_style == OFF_CHIP
    config = found.netlist.blocks["across"]
    assert isinstance(config, OffChipRearrangeConfig)
    assert config.axi == found.design.ports.axi
    assert found.timing.interval == 64 * 64 * config.piece_cycles == 64 * 64 * 45
    memory_map = found.netlist.offchip
    assert memory_map is not None
    assert memory_map.reads == memory_map.writes == 64 * 64 * 16
    need = found.netlist.resources()
    assert need.bram18 <= 14
    path = tmp_path / "design.json"
    found.design.save(path)
    design = DesignPoint.load(path)
    assert design == found.design
    again = check_design(turned(), board, design, found.timing)
    assert again.netlist.resources() == need
    assert sized(turned(), design)[0] == design


def test_order_stays_where_it_would_be_slower() -> None:
    """Where there is room, even if off-chip memory is preferred; and a little slower is no way."""
    for mode in ("auto", "prefer"):
        found = search(turned(), BOARD, offchip=mode)
        assert found.design.foldings["across"].window_style in STYLES
        assert found.timing.interval == 64 * 64
    # At a rate that leaves time for its requests, it goes where that is preferred.
    found = search(turned(), BOARD, offchip="prefer", target_fps=1000)
    assert found.design.foldings["across"].window_style == OFF_CHIP
    found = search(turned(), BOARD, target_fps=1000)
    assert found.netlist.offchip is None


def test_found_on_chip_wherever_it_is_found_otherwise() -> None:
    """What needs no off-chip memory is found without it, too."""
    board = replace(TINY, bram18=48, lut=30000)
    auto = search(deep(), board)
    assert auto.netlist.offchip is None
    assert search(deep(), board, offchip="never").timing.interval <= auto.timing.interval


def test_refuses() -> None:
    with pytest.raises(HwgenError, match=r"^Offchip must be one of auto, never, prefer, not 'x'$"):
        search(deep(), BOARD, offchip="x")
    without = replace(BOARD, memory=())
    assert External.of_board(without, 250.0) is None
    with pytest.raises(HwgenError, match=(
        r"^Board zcu102 has no off-chip memory, so that offchip cannot be 'prefer'$"
    )):
        search(deep(), without, offchip="prefer")
    with pytest.raises(HwgenError, match=r"^Board zcu102 is too small for this network"):
        search(deep(), replace(TINY, memory=()))


def test_memory_of_a_board() -> None:
    """Practical bandwidth, but not more than the ports move; bursts of at most 4 KB."""
    (memory,) = BOARD.memory
    external = External.of_board(BOARD, 250.0)
    assert external is not None
    ports = external.ports
    assert (ports.count, ports.data_bits) == (memory.count * memory.ports, memory.axi_bits)
    assert external.bytes_per_cycle == pytest.approx(
        min(memory.practical_gbps / 8 / 0.25, ports.count * ports.data_bits / 8 * 0.95)
    )
    faster = External.of_board(BOARD, 500.0)
    assert faster is not None
    assert faster.bytes_per_cycle < external.bytes_per_cycle
    wide = replace(BOARD, memory=(replace(memory, axi_bits=1024),))
    external = External.of_board(wide, 250.0)
    assert external is not None
    assert external.ports.burst * external.ports.data_bits // 8 <= 4096


def test_narrower_ports() -> None:
    """Half as wide, again and again, down to 32 bits; as fast as they are and the memory is."""
    external, bits = External.of_board(BOARD, 250.0), 128
    assert external is not None
    practical, count = external.bytes_per_cycle, external.ports.count
    while (narrower := external.narrower) is not None:
        external, bits = narrower, bits // 2
        assert external.ports.data_bits == bits
        assert external.bytes_per_cycle == min(practical, count * bits / 8 * 0.95)
    assert bits == 32


def test_narrow_where_memories_are_short() -> None:
    """With ports of the board's width, memories behind them take more blocks than there are."""
    board = replace(TINY, bram18=10)
    found = search(deep(), board)
    assert found.design.ports.data_bits < BOARD.memory[0].axi_bits
    check_fits(found, board)


def convolutions() -> Graph:
    """Convolutions with large weights, each of the input."""
    b = Builder((8, 8, 64))
    b.graph.outputs = [
        b.conv("image", 192, 3, "c3"), b.conv("image", 256, 3, "c3s", stride=2),
        b.conv("image", 2048, 1, "c1"), b.conv("image", 96, 5, "c5"),
    ]
    return b.graph


@given(st.sampled_from(["c3", "c3", "c3s", "c1", "c5"]), st.sampled_from([(1, 1), (2, 2), (1, 2)]),
       st.sampled_from(["dsp48e2", "dsp48e1", "mult18"]), st.booleans(),
       st.sampled_from([1, 2, 4, 8, 32]), st.integers(0, 999))
@examples(40)
def test_tables_say_what_blocks_say(
    name: str, pixels: tuple[int, int], multiplier: str, ultra: bool, macs: int, seed: int
) -> None:
    """Cycles, DSPs and bytes of a way to stream are the block's; memories too, once it was built.

    Before, the window and the queue are a guess: no less than it takes, and at most twice as much
    but for four blocks.  An even pace may leave fewer places for weights, which only the block
    knows.
    """
    graph, random = convolutions(), np.random.default_rng(seed)
    node = next(node for node in graph.nodes if node.name == name)
    tensor, out = graph.types["image"], graph.types[name]
    lanes_in, lanes_out = (
        int(random.choice([n for n in range(1, t.channels + 1) if t.channels % n == 0]))
        for t in (tensor, out)
    )
    external = External.of_board(BOARD, 250.0)
    assert external is not None
    interval = node.op.macs(tensor) // macs
    # Memory is dear, and LUTs are not cheap enough to hold all weights.
    dear = Amounts(dsp=0.001, ff=0, lut=0.01, bram18=1, uram=2, bandwidth=1e-8)
    prices = np.array(dear) * random.uniform(0.3, 1, len(RESOURCES))
    known: dict[int, TileSizes] = {}
    while True:
        work = Workload(node.op, tensor, lanes_in, lanes_out, *pixels, multiplier, ultra=ultra)
        table = ConvTable(work, external, dict(known))
        assume(table.limit(interval))
        (way,), _ = table.cheapest(prices[None])
        column = table.column(way)
        folding = column.choice
        assert isinstance(folding, Folding)
        assume(folding.tile)
        config = block_config(node.op, (StreamType(tensor, lanes_in, pixels[0]),), folding,
                              lanes_out, pixels[1], external.ports)
        assert isinstance(config, FoldedConvConfig)
        assert config.order is not None
        assert config.weight_stream is not None
        assert config.offchip is not None
        assert column.cycles <= config.interval <= interval
        assert column.takes.bandwidth == config.offchip.reads
        assert config.channel_folds >= LEAST_FOLDS
        assert config.weight_stream.places < config.channel_folds
        beats = np.arange(3 * config.inputs[0].beats)
        schedule = config.schedule([beats * config.interval // config.inputs[0].beats])
        order, stream = config.order, config.weight_stream
        unpaced = replace(config, fold_cycles=0).weight_stream
        config = replace(config, capacity=schedule.capacity)
        # Where the queue is, is decided last.
        needs = [replace(config, styles=(style,)).resources()
                 for style in (("", "ultra") if ultra else ("",))]
        assert all(column.takes.dsp == need.dsp for need in needs)
        taken = [(need.bram18, need.uram) for need in needs]
        assert any(column.takes.bram18 >= blocks and column.takes.uram >= ultras
                   for blocks, ultras in taken)
        assert unpaced is not None
        same = stream.ring_places == unpaced.ring_places
        if folding.tile in known:
            assert not same or (column.takes.bram18, column.takes.uram) in taken
            return
        assert not same or any(column.takes.bram18 <= 2 * blocks + 4 and column.takes.uram <= ultras
                               for blocks, ultras in taken)
        depth = order.whole(2 * order.tile_beats)
        known[folding.tile] = TileSizes(config.window.sites,
                                        min(config.queue_depths[0], depth))
