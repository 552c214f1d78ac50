import json
import random

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
    with pytest.raises(HwgenError, match=r"graph\.npz cannot be read: No such file"):
        Graph.load(path)
    every_op()[0].graph.save(path)
    data = path.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:cut])
        with pytest.raises(HwgenError, match="is not a graph file"):
            Graph.load(path)
    path.write_bytes(bytes(range(1, 200)))
    with pytest.raises(HwgenError, match=r"is not a graph file: it is damaged, or no \.npz file$"):
        Graph.load(path)
    np.savez(path, header=np.frombuffer(b'{"format": "other"}', np.uint8))
    with pytest.raises(HwgenError, match="'other' is not 'hwgen-graph-1'"):
        Graph.load(path)


def test_a_flipped_bit_is_refused_or_harmless(tmp_path):
    builder, _ = every_op()
    path = tmp_path / "graph.npz"
    builder.graph.save(path)
    data, frames = path.read_bytes(), builder.frames(1)
    want = builder.graph.evaluate(frames)
    chance, refused = random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(data)
        damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            got = Graph.load(path).evaluate(frames)
        except HwgenError:
            refused += 1
        else:
            assert all((want[n] == got[n]).all() for n in want)
    assert refused > 100


@pytest.mark.parametrize("change, message", [
    ({"inputs": []}, "is not a graph file"),
    ({"nodes": [[3, [], ["a"]]]}, "is not a graph file"),
    ({"nodes": [[{"class": "Concat"}, [], []]]}, "is not a graph file"),
    ({"nodes": [[{"class": "Other"}, [], ["a"]]]}, "is not a graph file: 'Other'"),
    ({"outputs": ["y"]}, "no tensor 'y'"),
])
def test_load_refuses_a_wrong_header(tmp_path, change, message):
    header = {"format": "hwgen-graph-1", "inputs": {}, "nodes": [], "outputs": [], "meta": {}}
    text = json.dumps(header | change).encode()
    np.savez(tmp_path / "graph.npz", header=np.frombuffer(text, np.uint8))
    with pytest.raises(HwgenError, match=message):
        Graph.load(tmp_path / "graph.npz")


def test_keep():
    builder, _ = every_op()
    graph, frames = builder.graph, builder.frames(1)
    everything = graph.evaluate(frames, keep=list(graph.types))
    assert list(everything) == list(graph.types)
    for name, type in graph.types.items():
        assert everything[name].shape == (1, *type.shape)
    want = graph.evaluate(frames)
    assert all((want[n] == everything[n]).all() for n in graph.outputs)


@pytest.mark.parametrize("inputs, message", [
    ({}, "'x' is missing"),
    ({"x": np.full((1, 2, 2, 1), 200, np.uint8)}, r"'x' must be within -128\.\.127"),
    ({"x": np.full((1, 2, 2, 1), -129)}, r"'x' must be within -128\.\.127"),
    ({"x": np.full((1, 2, 2, 1), 0.5)}, "'x' must be whole numbers"),
    ({"x": np.full((1, 2, 2, 1), np.nan)}, "'x' must be whole numbers"),
])
def test_evaluate_refuses(inputs, message):
    graph = Graph()
    graph.add_input("x", TensorType((2, 2, 1)))
    graph.outputs = [graph.add(MaxPool((2, 2)), "x", name="p")]
    with pytest.raises(HwgenError, match=message):
        graph.evaluate(inputs)
    with pytest.raises(HwgenError, match="no tensor 'q'"):
        graph.evaluate({"x": np.zeros((1, 2, 2, 1))}, keep=["q"])


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
