"""Embeddings in a search: the memory of the table is chosen with all others; what is too large."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks import EmbeddingConfig
from hwgen.dse.design.search import search
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Embedding, Graph, Quantisation, Requantise, TensorType

CODES = Quantisation(0.05, 0)


def text(count: int, width: int = 32, tokens: int = 16) -> Graph:
    """A table, and a layer of each token behind it."""
    random = np.random.default_rng(0)
    graph = Graph()
    graph.add_input("ids", TensorType((tokens, 1), Embedding.ids(count)))
    graph.add(Embedding(random.integers(-127, 128, (count, width)), CODES), "ids", name="rows")
    layer = Conv(random.integers(-127, 128, (8, 1, width)), np.zeros(8, int),
                 Requantise.from_scale(np.full(8, 1e-3)), CODES)
    graph.outputs = [graph.add(layer, "rows", name="y")]
    return graph


@pytest.mark.parametrize("change, style", [
    ({"uram": 0}, "block"), ({"bram18": 8}, "ultra"), ({"bram18": 8, "uram": 0}, "distributed"),
])
def test_table_is_where_there_is_room(change, style):
    board = replace(boards.load("zcu104"), **change)
    found = search(text(3000 if style != "distributed" else 400), board)
    config = found.netlist.blocks["rows"]
    assert isinstance(config, EmbeddingConfig)
    assert config.weight_style == style
    assert found.netlist.loading == (["rows"] if style == "ultra" else [])
    # A frame takes as long as the rows of its ids.
    assert found.timing.interval >= config.interval


def test_table_that_is_too_large_is_named():
    board = replace(boards.load("zedboard"), dsp=20, lut=9000)
    with pytest.raises(HwgenError, match=r"the table of embedding 'rows', 20000 rows, has "
                                         r"20,480,000 bits, 4\.0 times the memory of the chip: it "
                                         r"must be in off-chip memory"):
        search(text(20_000, 128), board, offchip="never")
