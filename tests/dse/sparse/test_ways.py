"""Dense and sparse layers in one search."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks.sparse_conv import SparseConvConfig
from hwgen.design import DesignPoint
from hwgen.dse.design.found import Found
from hwgen.dse.design.search import search
from hwgen.dse.sparse.statistics import Statistics, measure, stated
from hwgen.dse.sparse.ways import sparse_ways
from hwgen.ir import Conv, Graph, Quantisation
from hwgen.plan import plan
from tests.networks import Builder
from tests.typed import of_kind

BOARD = replace(boards.load("zcu102"), dsp=220, lut=60000)
RELU = Quantisation(0.1, -128)


@cache
def network() -> Graph:
    b = Builder((16, 16, 8))
    x = b.conv("image", 32, 3, "c0", output=RELU)
    x = b.conv(x, 32, 3, "c1", output=RELU)
    x = b.conv(x, 32, 3, "c2", output=RELU)
    b.graph.outputs = [b.conv(x, 10, 1, "head")]
    return b.graph


@cache
def statistics(density: float) -> Statistics:
    return stated(network(), density)


@cache
def found(density: float = 0.0) -> Found:
    return search(network(), BOARD, offchip="never",
                  statistics=statistics(density) if density else None)


@pytest.mark.slow
def test_faster_where_there_are_zeros() -> None:
    """Few DSPs, many zeros: sparse layers, and a shorter interval than two products a DSP give."""
    assert found().netlist.sparse == []
    best = found(0.3)
    assert best.netlist.sparse
    assert best.timing.interval < 0.85 * found().timing.interval
    need = best.netlist.resources()
    for key in ("dsp", "bram18", "uram", "lut", "ff"):
        assert getattr(need, key) <= getattr(BOARD.usable, key)


def test_cycles_are_exact() -> None:
    """What a sparse layer is said to take is what its sample takes, to the cycle."""
    best, layers = found(0.3), statistics(0.3)
    for name in best.netlist.sparse:
        config = best.netlist.blocks[name]
        assert isinstance(config, SparseConvConfig)
        assert config.cycles == pytest.approx(layers[name].exact_cycles(config), rel=0.03)
        assert config.cycles < 0.6 * max(map(len, config.streams)) * config.window.steps


def test_dense_where_there_are_none() -> None:
    best = found(1.0)
    assert best.netlist.sparse == []
    assert best.timing.interval == found().timing.interval


def test_the_design_alone_is_enough(tmp_path) -> None:
    best, path = found(0.3), tmp_path / "design.json"
    best.design.save(path)
    netlist = plan(network(), DesignPoint.load(path))
    assert netlist.sparse == best.netlist.sparse
    assert netlist.interval == best.netlist.interval


def test_weights_count_where_they_vanish() -> None:
    """Rows of weights that are zero for all output channels computed together are passed over."""
    graph = network()
    conv = of_kind(next(node.op for node in graph.nodes if node.name == "c1"), Conv)
    weight = conv.weight.copy()
    weight[:, :, :, ::2] = 0
    b = Builder((16, 16, 8))
    x = b.conv("image", 32, 3, "c0", output=RELU)
    b.graph.outputs = [b.graph.add(replace(conv, weight=weight), x, name="c1")]
    random = np.random.default_rng(0)
    frames = {"image": random.integers(-128, 128, (2, 16, 16, 8))}
    layers = measure(b.graph, frames)
    ways = sparse_ways(layers["c1"], 8, 8)
    assert {way.sparse.skip for way in ways} == {"both"}
    dense = measure(graph, frames)
    assert {way.sparse.skip for way in sparse_ways(dense["c1"], 8, 8)} == {"activation"}
