"""Attention in a search: folded as far as the interval asks for, scores and sums apart."""

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks.attention import AttentionConfig
from hwgen.dse.design.search import search
from hwgen.dse.design.streams import Streams
from hwgen.ir import Attention, Conv, Graph, Quantisation, Requantise, TensorType

CODES = Quantisation(0.05, 0)


def transformer(
    tokens: int = 24, heads: int = 2, d: int = 16, windows: int = 1, bias: np.ndarray | None = None
) -> Graph:
    """A layer for queries, keys and values each, and one behind."""
    random, channels = np.random.default_rng(0), heads * d
    graph = Graph()
    graph.add_input("x", TensorType((tokens, channels), CODES))

    def layer(source: str, name: str) -> str:
        weight = random.integers(-127, 128, (channels, 1, channels))
        return graph.add(Conv(weight, np.zeros(channels, int),
                              Requantise.from_scale(np.full(channels, 0.003)), CODES),
                         source, name=name)

    names = [layer("x", name) for name in "qkv"]
    types = [graph.types[name] for name in names]
    graph.add(Attention.from_types(heads, *types, CODES, d**-0.5, windows=windows, bias=bias),
              *names, name="a")
    graph.outputs = [layer("a", "o")]
    return graph


@pytest.mark.parametrize("fps", [2_000, 60_000])
def test_is_folded_as_far_as_it_must_be(fps):
    graph, board = transformer(), boards.load("zcu102")
    found = search(graph, board, target_fps=fps)
    config = found.netlist.blocks["a"]
    assert isinstance(config, AttentionConfig)
    assert config.interval <= found.timing.interval <= 1e6 * found.design.clock_mhz / fps
    multipliers = config.resources(board.family).dsp
    assert multipliers <= (6 if fps == 2_000 else 60)
    # Times that were predicted hold for what is planned again.
    assert found.netlist.interval <= found.timing.interval


def test_lanes_are_those_of_one_head():
    """192 channels of three heads: six lanes would carry a frame, but no head has as many."""
    streams = Streams(transformer(17, 3, 64))
    beats = [streams.choose(cycles, False) for cycles in (3264, 1632, 748, 544, 272, 51)]
    assert [each and each.lanes["a"] for each in beats] == [1, 2, 8, 8, 16, 64]
    assert streams.least_interval() == 51
    assert streams.choose(50, False) is None

def test_windows_need_fewer_multipliers():
    """A quarter of the scores, and a bias for them."""
    board, multipliers = boards.load("zcu102"), []
    for graph in (transformer(), transformer(windows=4, bias=np.eye(6)[None, None])):
        found = search(graph, board, target_fps=60_000)
        config = found.netlist.blocks["a"]
        assert isinstance(config, AttentionConfig)
        assert config.interval <= 1e6 * found.design.clock_mhz / 60_000
        assert ("bias" in config.score_tables) == (config.op.windows > 1)
        multipliers.append(config.resources(board.family).dsp)
    assert multipliers[1] < multipliers[0]
