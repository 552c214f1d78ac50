"""Recurrent cells in a search: folded as far as the interval asks for, with lanes that suffice."""

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks.recurrent import RecurrentConfig
from hwgen.dse.design.search import search
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Graph, Quantisation, Recurrent, Requantise, TensorType


def network(kind: str = "lstm", units: int = 24, steps: int = 10) -> Graph:
    """A layer for the sums of the gates, and the cell."""
    random, gates = np.random.default_rng(0), {"lstm": 4, "gru": 3, "reset": 3}[kind]
    sums = Quantisation(2.0**-8, 0, 12)
    graph = Graph()
    graph.add_input("x", TensorType((steps, 8), Quantisation(0.05)))
    weight = random.integers(-127, 128, (units * gates, 1, 8))
    graph.add(Conv(weight, np.zeros(len(weight), int),
                   Requantise.from_scale(np.full(len(weight), 0.05)), sums), "x", name="sums")
    real = random.uniform(-1, 1, (units, gates, units)) / np.sqrt(units)
    graph.add(Recurrent.from_float(
        kind if kind == "lstm" else "gru", real, graph.types["sums"], Quantisation(1 / 128),
        reset_first=kind == "reset"), "sums", name="cell")
    graph.outputs = ["cell"]
    return graph


@pytest.mark.parametrize("kind,fps,most", [
    ("lstm", 20_000, 16), ("lstm", 200_000, 400), ("gru", 20_000, 16), ("gru", 200_000, 400),
    ("reset", 20_000, 24), ("reset", 150_000, 400)])
def test_is_folded_as_far_as_it_must_be(kind, fps, most):
    graph, board = network(kind), boards.load("zcu102")
    found = search(graph, board, target_fps=fps)
    config = found.netlist.blocks["cell"]
    assert isinstance(config, RecurrentConfig)
    assert config.interval <= found.timing.interval <= 1e6 * found.design.clock_mhz / fps
    assert sum(matrix.folding.array.resources(board.family).dsp
               for matrix in config.matrices) <= most
    # Times that were predicted hold for what is planned again.
    assert found.netlist.interval <= found.timing.interval


@pytest.mark.parametrize("interval", [10_000, 20_000, 30_000])
def test_lanes_change_in_time_in_front_of_the_gates(interval):
    """Two lanes to three would be one element a cycle."""
    graph, board = network("gru", 250, 49), boards.load("zcu104")
    found = search(graph, board, target_fps=1e6 * board.clock_mhz / interval)
    assert found.timing.interval <= interval


def test_as_fast_as_the_loop():
    """The steps wait for one another, however large the board is."""
    graph, board = network("gru"), boards.load("u250")
    found = search(graph, board)
    config = found.netlist.blocks["cell"]
    assert isinstance(config, RecurrentConfig)
    assert config.lanes > 1
    assert found.bounds.stream <= found.timing.interval <= found.bounds.stream * 1.05
    with pytest.raises(HwgenError, match="out of reach"):
        search(graph, board, target_fps=1e9 / found.timing.interval)
