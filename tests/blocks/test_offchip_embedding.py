"""Embedding from off-chip memory: values, times, requests; its table in an image; the search."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen import boards
from hwgen.blocks import OffChipEmbeddingConfig
from hwgen.blocks.registry import block_config
from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.dse.design.search import search
from hwgen.errors import HwgenError
from hwgen.ir import Embedding, Graph, TensorType
from hwgen.offchip.bus import AxiConfig
from hwgen.parts.queue import queue_depth
from hwgen.parts.stream import StreamType, in_order
from hwgen.plan import plan
from hwgen.sim.amaranth import simulate, simulate_netlist
from tests.blocks.checks import STALLS, divisors, quantisations, random_arrivals, random_frames
from tests.dse.design.test_embedding import text
from tests.profiles import examples


def config_of(
    count: int, width: int, lanes: int, tokens: int = 6, data_bits: int = 32, latency: int = 20,
    output=None, seed: int = 0,
) -> OffChipEmbeddingConfig:
    """A table of random rows in a small memory."""
    output = output or Embedding.ids(256)
    rows = np.random.default_rng(seed).integers(output.low, output.high + 1, (count, width))
    return OffChipEmbeddingConfig(
        op=Embedding(rows, output), lanes=lanes, tensor=TensorType((tokens, 1),
                                                                   Embedding.ids(count)),
        axi=AxiConfig(data_bits=data_bits, address_bits=24), memory_latency=latency)


@st.composite
def configs(draw: st.DrawFn) -> OffChipEmbeddingConfig:
    width = draw(st.integers(1, 24))
    return config_of(
        draw(st.integers(1, 70) | st.just(600)), width, draw(divisors(width)),
        draw(st.integers(1, 9)), draw(st.sampled_from([32, 64])), draw(st.integers(24, 60)),
        draw(quantisations()), draw(st.integers(0, 99)))


def first_word(config: OffChipEmbeddingConfig) -> int:
    """Cycles from a request to its first word, if the last comes when the memory says."""
    return config.memory_latency - config.row_words + 1


@given(configs(), st.integers(0, 999))
@examples(25)
def test_values_and_times(config: OffChipEmbeddingConfig, seed: int) -> None:
    """Exact are accepts, and beats from when their words come; the schedule bounds both."""
    random = np.random.default_rng(seed)
    (frames,), (arrivals,) = random_frames(config, random), random_arrivals(config, random)
    schedule = config.schedule([arrivals])
    run = simulate(config.create(), frames, arrivals=[arrivals], latency=first_word(config))
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])
    np.testing.assert_array_equal(run.accepts["i"], schedule.accepts[0])
    assert (run.times["o"] <= schedule.outputs[0]).all()
    assert queue_depth(schedule.claims[0], schedule.outputs[0]) <= config.queue_depths[0]
    words, steps = config.words_per_beat, config.beats * config.words_per_beat
    come = schedule.accepts[0][:, None] + 2 + first_word(config) + np.arange(config.row_words)
    per_word = np.arange(steps) // config.beats_per_word
    late = 3 + (config.beats_per_word > 1)
    visible = in_order((come[:, per_word] + late).ravel())
    np.testing.assert_array_equal(run.times["o"], visible[words - 1 :: words])


@given(configs(), st.integers(0, 999))
@examples(25)
def test_values_under_stalls(config: OffChipEmbeddingConfig, seed: int) -> None:
    (frames,) = random_frames(config, np.random.default_rng(seed))
    depths = (config.beats * (1 + seed % 3),)
    run = simulate(replace(config, depths=depths).create(), frames, stall=STALLS[seed % 4],
                   seed=seed, latency=1 + seed % 70)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])


def test_image_has_a_row_at_each_power_of_two():
    config = config_of(5, 12, 4, data_bits=32)
    assert (config.row_words, config.row_bytes, config.row_shift) == (3, 12, 4)
    image = np.frombuffer(config.image(), np.int8).reshape(5, 16)
    assert np.array_equal(image[:, :12], config.op.rows)
    assert config.offchip.size == 80
    assert config.offchip.reads == 6 * 12


def test_what_is_refused():
    with pytest.raises(HwgenError, match=r"^A row in off-chip memory has at most 4096 bytes, not "):
        config_of(5, 5000, 4, latency=2000)
    with pytest.raises(HwgenError, match=r"^Queue depth must be at least the 3 beats of a row"):
        replace(config_of(5, 12, 4), depths=(2,))
    with pytest.raises(HwgenError, match=r"^Memory latency must be at least the 3 words of a row"):
        replace(config_of(5, 12, 4), memory_latency=2)
    with pytest.raises(HwgenError, match=r"^Table must be within 12 bits of address"):
        replace(config_of(600, 12, 4), axi=AxiConfig(data_bits=32, address_bits=12))
    ids = StreamType(TensorType((5, 1), Embedding.ids(9)))
    op = Embedding(np.zeros((9, 6), int), Embedding.ids(256))
    config = block_config(op, (ids,), Folding(weight_style=OFF_CHIP), 3, ports=MemoryPorts())
    assert isinstance(config, OffChipEmbeddingConfig)


def test_two_tables_share_a_port():
    random, graph = np.random.default_rng(4), Graph()
    for name, count in (("a", 40), ("b", 70)):
        graph.add_input(name, TensorType((5, 1), Embedding.ids(count)))
        rows = random.integers(-128, 128, (count, 12))
        graph.outputs.append(graph.add(Embedding(rows, Embedding.ids(256)), name, name=f"{name}o"))
    design = DesignPoint(lanes={"ao": 4, "bo": 2}, foldings={
        "ao": Folding(weight_style=OFF_CHIP), "bo": Folding(weight_style=OFF_CHIP)})
    netlist = plan(graph, design)
    ids = {name: random.integers(type.quantisation.low, type.quantisation.high + 1, (3, 5, 1))
           for name, type in graph.inputs.items()}
    run = simulate_netlist(netlist, ids, stall=0.3, seed=2, back_pressure=0.2)
    for name, wanted in graph.evaluate(ids).items():
        np.testing.assert_array_equal(run.outputs[name], wanted)


def test_search_takes_a_large_table_off_the_chip():
    board = boards.load("zcu104")
    found = search(text(30_000, 256), board)
    config = found.netlist.blocks["rows"]
    assert isinstance(config, OffChipEmbeddingConfig)
    assert found.netlist.offchip is not None
    assert found.netlist.offchip.interval <= found.timing.interval
    with pytest.raises(HwgenError, match=r"the table of embedding 'rows', 30000 rows"):
        search(text(30_000, 256), board, offchip="never")
