"""Embedding: its meaning, and what it refuses; as ONNX, equal at every element."""

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Embedding, Graph, Quantisation, TensorType
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session

ROWS = np.arange(30).reshape(5, 6) - 9
OUTPUT = Quantisation(0.1, 3)


def test_rows_by_id_and_the_last_beyond():
    op = Embedding(ROWS, OUTPUT)
    type = TensorType((8, 1), Embedding.ids(5))
    codes = np.arange(-4, 4, dtype=np.int8).reshape(1, 8, 1)
    assert op.infer(type) == (TensorType((8, 6), OUTPUT),)
    (rows,) = op.evaluate([codes], [type])
    assert rows.dtype == np.int8
    assert np.array_equal(rows[0], ROWS[[0, 1, 2, 3, 4, 4, 4, 4]])


@pytest.mark.parametrize(("count", "bits"), [(1, 2), (4, 2), (5, 3), (257, 9), (1 << 16, 16)])
def test_bits_of_ids(count, bits):
    codes = Embedding.ids(count)
    assert (codes.bits, codes.zero_point, codes.scale) == (bits, codes.low, 1.0)


@pytest.mark.parametrize("spatial", [(7,), (3, 4), ()])
@pytest.mark.parametrize("count", [5, 200, 700])
def test_as_onnx(spatial, count):
    random = np.random.default_rng(count)
    graph = Graph()
    ids = Embedding.ids(count)
    graph.add_input("ids", TensorType((*spatial, 1), ids))
    output = Quantisation(0.1, 3, 8 if count < 600 else 12)
    rows = random.integers(output.low, output.high + 1, (count, 6))
    graph.outputs = [graph.add(Embedding(rows, output), "ids", name="rows")]
    codes = random.integers(ids.low, ids.high + 1, (4, *spatial, 1)).astype(ids.dtype)
    wanted = graph.evaluate({"ids": codes})["rows"]
    (theirs,) = session(to_integer(graph)).run(["rows"], {"ids": to_onnx_layout(codes)})
    np.testing.assert_array_equal(from_onnx_layout(theirs), wanted)
    (theirs,) = session(to_qdq(graph)).run(["rows"], {"ids": to_onnx_layout(codes)})
    np.testing.assert_array_equal(from_onnx_layout(theirs), wanted)


def test_what_is_refused():
    with pytest.raises(HwgenError, match=r"^Rows of an embedding must be a matrix"):
        Embedding(np.zeros(4), OUTPUT)
    with pytest.raises(HwgenError, match=r"^Rows of an embedding must fit 8 signed bits"):
        Embedding(np.full((2, 2), 200), OUTPUT)
    with pytest.raises(HwgenError, match=r"^Rows of an embedding must be whole numbers"):
        Embedding(np.full((2, 2), 0.5), OUTPUT)
    with pytest.raises(HwgenError, match=r"^There must be 1 to 65536 ids, not 65537"):
        Embedding.ids((1 << 16) + 1)
    op = Embedding(ROWS, OUTPUT)
    with pytest.raises(HwgenError, match=r"^Ids must be the only channel of their tensor, not 2"):
        op.infer(TensorType((8, 2), Embedding.ids(5)))
    with pytest.raises(HwgenError, match=r"^Ids must be counted from the smallest code"):
        op.infer(TensorType((8, 1), OUTPUT))


def test_travels_in_a_file(tmp_path):
    graph = Graph()
    graph.add_input("ids", TensorType((8, 1), Embedding.ids(5)))
    graph.outputs = [graph.add(Embedding(ROWS, OUTPUT), "ids", name="rows")]
    graph.save(tmp_path / "graph.npz")
    (node,) = Graph.load(tmp_path / "graph.npz").nodes
    assert isinstance(node.op, Embedding)
    assert np.array_equal(node.op.rows, ROWS)
