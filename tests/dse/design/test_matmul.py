"""Products of two streams in a search: folded as far as the interval asks for."""

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks.matmul import MatMulConfig
from hwgen.dse.design.search import search
from hwgen.dse.design.streams import Streams
from hwgen.ir import Conv, Graph, MatMul, Quantisation, Requantise, TensorType

CODES = Quantisation(0.05, 0)


def talking(tokens: int = 24, heads: int = 4, d: int = 8) -> Graph:
    """Scores, a layer that mixes heads, and values, without anything between."""
    random, channels = np.random.default_rng(0), heads * d
    graph = Graph()
    graph.add_input("x", TensorType((tokens, channels), CODES))

    def layer(source: str, name: str) -> str:
        count = graph.types[source].channels
        weight = random.integers(-127, 128, (count, 1, count))
        return graph.add(Conv(weight, np.zeros(count, int),
                              Requantise.from_scale(np.full(count, 0.003)), CODES),
                         source, name=name)

    q, k, v = (layer("x", name) for name in "qkv")
    scale = Requantise.from_scale(0.01)
    graph.add(MatMul(heads, "scores", scale, CODES), q, k, name="s")
    graph.add(MatMul(heads, "values", scale, CODES), layer("s", "m"), v, name="o")
    graph.outputs = ["o"]
    return graph


@pytest.mark.parametrize("fps", [2_000, 40_000])
def test_is_folded_as_far_as_it_must_be(fps):
    graph, board = talking(), boards.load("zcu102")
    found = search(graph, board, target_fps=fps)
    for name in "so":
        config = found.netlist.blocks[name]
        assert isinstance(config, MatMulConfig)
        assert config.interval <= found.timing.interval <= 1e6 * found.design.clock_mhz / fps
        multipliers = config.resources(board.family).dsp
        assert multipliers <= (4 if fps == 2_000 else 30)
    assert found.netlist.interval <= found.timing.interval


def test_lanes_are_those_of_one_head():
    streams = Streams(talking(21, 3, 16))
    chosen = [streams.choose(1 << n, False) for n in range(7, 13)]
    assert {each.lanes["s"] for each in chosen if each is not None} <= {1, 3, 7, 21}
