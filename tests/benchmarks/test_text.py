"""The benchmark of text: ids of files, what a network calls them, how many are right."""

import numpy as np
import pytest

from benchmarks import text
from hwgen.ir import Embedding, Graph, Quantisation, TensorType

CONFIG = {"block_size": 16, "beg_size": 4, "end_size": 4, "padding_token": 256}


@pytest.mark.parametrize("data, ids", [
    (b"abcdefgh", b"abcdefgh"), (b"  ab", [97, 98, 256, 256, 256, 256, 97, 98]),
    (b"\n\nabcdefghijklmnopqrstuvwxyz  ", b"abcdwxyz"),
])
def test_ids_of_a_file(tmp_path, data, ids):
    path = tmp_path / "file"
    path.write_bytes(data)
    assert text.ids_of(path, CONFIG).tolist() == list(ids)


def test_share_of_files():
    assert text.share(["c", "cpp", "python"], ["h", "h", "h"]) == pytest.approx(200 / 3)


def test_files_are_of_all_kinds_and_differ(tmp_path, monkeypatch):
    for k in range(9):
        (tmp_path / f"{k}.py").write_bytes(bytes([k // 2 + 65]) * 400)
    (tmp_path / "small.py").write_bytes(b"x")
    (tmp_path / "page.html").write_bytes(b"<p>" * 200)
    monkeypatch.setattr(text, "roots", lambda: [tmp_path])
    found = text.files(3)
    assert [kind for _, kind in found] == ["py"] * 3 + ["html"]
    assert len({path.read_bytes() for path, _ in found}) == 4
    assert len(text.files(99)) == 6


def test_integer_graph_names_kinds():
    rows = np.eye(3, dtype=int)[[2, 0, 1]] * 100
    graph = Graph()
    graph.add_input("ids", TensorType((1, 1), Embedding.ids(3)))
    graph.outputs = [graph.add(Embedding(rows, Quantisation()), "ids", name="scores")]
    assert text.integer(graph, np.array([[0], [1], [2]]), ["a", "b", "c"]) == ["c", "a", "b"]


def test_package_that_is_missing(monkeypatch, capsys):
    monkeypatch.setattr(text, "package", lambda: None)
    assert text.main([]) == 2
    assert "pip install --no-deps magika" in capsys.readouterr().err
