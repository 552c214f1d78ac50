"""Softmax in a search: lanes that carry its rows, and time for its divisions."""

import pytest

from hwgen import boards
from hwgen.blocks.softmax import SoftmaxConfig
from hwgen.dse.design.search import search
from hwgen.dse.design.streams import Streams
from hwgen.errors import HwgenError
from hwgen.ir import Graph, Quantisation, Softmax, Table, TensorType

CODES = Quantisation(0.05, 0)


def weights(pixels: int = 16, groups: int = 2, channels: int = 96) -> Graph:
    graph = Graph()
    type = TensorType((pixels, groups * channels), CODES)
    graph.add_input("x", type)
    graph.add(Table.from_function(lambda v: 2 * v, CODES, CODES), "x", name="t")
    graph.add(Softmax.from_types(groups, type, Quantisation(1 / 255, -128)), "t", name="s")
    graph.outputs = ["s"]
    return graph


@pytest.mark.parametrize("cycles", [1200, 1600, 5000])
def test_is_as_fast_as_it_must_be(cycles):
    graph, board = weights(), boards.load("zcu102")
    found = search(graph, board, target_fps=board.clock_mhz * 1e6 / cycles)
    config = found.netlist.blocks["s"]
    assert isinstance(config, SoftmaxConfig)
    assert config.interval <= found.timing.interval <= cycles
    assert config.words >= {1200: 12, 1600: 32, 5000: 96}[cycles] // 2


def test_no_lanes_divide_faster():
    graph, board = weights(), boards.load("zcu102")
    streams = Streams(graph)
    op = graph.nodes[-1].op
    assert isinstance(op, Softmax)
    assert streams.least_interval() >= 32 * (op.reciprocal_bits + 2)
    assert streams.choose(streams.least_interval() - 1, False) is None
    with pytest.raises(HwgenError):
        search(graph, board, target_fps=board.clock_mhz * 1e6 / 500)
