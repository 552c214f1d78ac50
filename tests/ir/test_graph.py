import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Concat, Graph, MaxPool, Quantisation, TensorType
from tests.networks import every_op


def test_save_and_load(tmp_path):
    builder, _ = every_op()
    graph = builder.graph
    graph.meta = {"model": "test", "anchors": [[1, 2]]}
    graph.save(tmp_path / "graph.npz")
    again = Graph.load(tmp_path / "graph.npz")
    assert again.meta == graph.meta
    assert again.types == graph.types
    assert again.macs == graph.macs > 0
    frames = builder.frames(2)
    want, got = graph.evaluate(frames), again.evaluate(frames)
    assert list(want) == list(got)
    assert all((want[n] == got[n]).all() and want[n].dtype == got[n].dtype for n in want)


def test_files_are_deterministic(tmp_path):
    for name in ("a", "b"):
        every_op()[0].graph.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_load_refuses(tmp_path):
    path = tmp_path / "graph.npz"
    with pytest.raises(HwgenError, match=r"graph\.npz is not a graph file: .*No such file"):
        Graph.load(path)
    every_op()[0].graph.save(path)
    data = path.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:cut])
        with pytest.raises(HwgenError, match="is not a graph file"):
            Graph.load(path)
    np.savez(path, header=np.frombuffer(b'{"format": "other"}', np.uint8))
    with pytest.raises(HwgenError, match="'other' is not 'hwgen-graph-1'"):
        Graph.load(path)


def test_graph_refuses():
    graph = Graph()
    graph.add_input("x", TensorType((4, 4, 2), Quantisation()))
    with pytest.raises(HwgenError, match="'p' reads 'y', which nothing before it makes"):
        graph.add(MaxPool((2, 2)), "y", name="p")
    with pytest.raises(HwgenError, match="'p' needs 1 inputs, not 2"):
        graph.add(MaxPool((2, 2)), "x", "x", name="p")
    with pytest.raises(HwgenError, match="Node 'p': Window"):
        graph.add(MaxPool((5, 5)), "x", name="p")
    graph.add(Concat(), "x", "x", name="c")
    with pytest.raises(HwgenError, match="'c' is defined twice"):
        graph.add(MaxPool((2, 2)), "x", name="c")
    with pytest.raises(HwgenError, match="must have shape"):
        graph.evaluate({"x": np.zeros((1, 4, 4, 3))})
