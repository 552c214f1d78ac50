"""Embedding: values, times, stalls, every kind of memory; a table that is loaded after reset."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks import EmbeddingConfig
from hwgen.blocks.registry import block_config
from hwgen.design import Folding
from hwgen.errors import HwgenError
from hwgen.ir import Embedding, TensorType
from hwgen.parts.memory import ReadOnlyMemory
from hwgen.parts.stream import StreamType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


def config_of(
    count: int, width: int, lanes: int, tokens: int = 5, style: str = "", seed: int = 0,
    output=None,
) -> EmbeddingConfig:
    """A table of random rows."""
    output = output or Embedding.ids(256)
    rows = np.random.default_rng(seed).integers(output.low, output.high + 1, (count, width))
    return EmbeddingConfig(op=Embedding(rows, output), lanes=lanes, weight_style=style,
                           tensor=TensorType((tokens, 1), Embedding.ids(count)))


@st.composite
def configs(draw: st.DrawFn) -> EmbeddingConfig:
    width = draw(st.integers(1, 12))
    return config_of(
        draw(st.integers(1, 70) | st.sampled_from([256, 600])), width, draw(divisors(width)),
        draw(st.integers(1, 9)), draw(st.sampled_from(["", "distributed", "block", "ultra"])),
        draw(st.integers(0, 99)), draw(quantisations()))


@given(configs(), st.integers(0, 999))
@examples(30)
def test_values_and_times(config: EmbeddingConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999), st.integers(1, 8))
@examples(30)
def test_values_under_stalls(config: EmbeddingConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize(("style", "late"), [("distributed", 1), ("block", 2)])
@pytest.mark.parametrize("lanes", [2, 6])
def test_latency_is_of_memory_and_address(style, late, lanes):
    config = config_of(300, 6, lanes, style=style)
    assert config.push_latency == 1 + (lanes < 6) + late
    assert config.interval == 5 * 6 // lanes


def test_table_in_ultra_ram_is_loaded():
    config = config_of(40, 6, 3, style="ultra")
    assert config.loads == 40 * 2 == len(config.load_words())
    check_on_time(config, 1)
    check_under_stalls(config, 2)


def test_codes_beyond_the_last_row_are_the_last_row():
    config = config_of(5, 4, 2, tokens=8)
    codes = np.arange(-4, 4).reshape(1, 8, 1)
    run = simulate(config.create(), codes)
    seen = run.outputs["o"][0]
    assert np.array_equal(seen[:5], config.op.rows)
    assert np.array_equal(seen[5:], np.repeat(config.op.rows[-1:], 3, axis=0))


def test_is_what_an_embedding_comes_to():
    op = Embedding(np.zeros((9, 6), int), Embedding.ids(256))
    ids = StreamType(TensorType((5, 1), Embedding.ids(9)))
    config = block_config(op, (ids,), Folding(weight_style="block"), 3)
    assert isinstance(config, EmbeddingConfig)
    assert isinstance(config.memory, ReadOnlyMemory)
    with pytest.raises(HwgenError, match=r"^pe must be 1, not 2"):
        block_config(op, (ids,), Folding(pe=2), 3)
    with pytest.raises(HwgenError, match=r"^Memory style must be one of"):
        replace(config, weight_style="paper")
