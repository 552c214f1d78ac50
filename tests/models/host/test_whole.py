"""The float network that travels with a build: what onnxruntime computes of the file itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.models.host.inputs import described, save
from hwgen.models.host.whole import WholeNetwork
from hwgen.models.load import Source, read
from tests.models.float_networks import N, constants_of
from tests.models.host.test_model import CONV, GROUP_NORM, MOVED, NORM, C, file, run
from tests.models.onnx.test_elements import file as of_elements
from tests.models.onnx.test_pixels import CAST
from tests.models.onnx.test_pixels import file as of_pixels


def check(path: Path, least: float = 100, **options) -> Source:
    """It gives the file's outputs, with their names, shapes and types."""
    source, names, wanted, _ = run(path, **options)
    assert source.whole is not None
    onnx.checker.check_model(source.whole)
    onnx.save(source.whole, path.with_name("float.onnx"))
    inputs = described(source.graph, source.network)
    whole = WholeNetwork(path.with_name("float.onnx"), inputs)
    frames = {i.name: i.real(np.concatenate([feed[i.name] for feed in source.feeds]))
              for i in inputs}
    made = whole.run(frames)
    assert list(made) == names
    for k, found in enumerate(made.values()):
        want = np.concatenate([row[k] for row in wanted])
        found = found[: len(want)]
        assert (found.shape, found.dtype) == (want.shape, want.dtype)
        real = want.astype(np.float64)
        noise = np.square(real - found.astype(np.float64)).sum()
        assert 10 * np.log10(np.square(real).sum() / max(noise, 1e-30)) > least
    return source


@pytest.mark.parametrize("name", MOVED)
def test_the_part_of_the_host_is_in_it(name: str, tmp_path: Path) -> None:
    nodes, constants, _ = MOVED[name]
    check(file(tmp_path, nodes, {**C, **constants}))


@pytest.mark.parametrize("make, least", [
    (lambda at: of_elements(at, np.float16, TensorProto.FLOAT16,
                            [N("Identity", ["x"], ["a"])]), 60),
    (lambda at: of_pixels(at, [CAST, N("Div", ["f", "k255"], ["t"])]), 100),
    (lambda at: file(at, [
        CONV, N("QuantizeLinear", ["c", "s", "z"], ["y"])],
        {**C, "s": np.float32(0.05), "z": np.uint8(100)}), 100),
    (lambda at: file(at, [CONV, N("Cast", ["c"], ["y"], to=TensorProto.DOUBLE)], C), 100),
])
def test_types_are_the_files(make: Callable[[Path], Path], least: float, tmp_path: Path) -> None:
    check(make(tmp_path), least)


def test_it_is_the_files_whatever_is_done_to_it(tmp_path: Path) -> None:
    path = file(tmp_path, GROUP_NORM, NORM)
    sources = [check(path, **options) for options in (
        {}, {"outputs": ["c"]}, {"equalise": True, "correct_bias": True, "precision": "w4a4"})]
    assert all(source.whole is not None for source in sources)


def test_a_graph_takes_it_along(tmp_path: Path) -> None:
    """With the names that the file gives its inputs, which differ from those of the graph."""
    path = file(tmp_path, [N("Identity", ["x"], ["in.0"]), CONV], C, ("c",))
    model = onnx.load(path)
    model.graph.input[0].name = model.graph.node[0].input[0] = "in/x"
    model.graph.node[1].input[0] = "in.0"
    onnx.save(model, path)
    source = read(str(path), mean=(0.5,), std=(0.25,))
    assert source.whole is not None
    source.graph.save(tmp_path / "graph.npz")
    save(described(source.graph, source.network), tmp_path / "pre.json")
    onnx.save(source.whole, tmp_path / "float.onnx")
    again = read(str(tmp_path / "graph.npz"))
    assert again.network.inputs == ["in/x"]
    assert again.network.normalised == source.network.normalised
    assert again.whole == source.whole
    assert described(again.graph, again.network) == described(source.graph, source.network)
    for a, b in zip(again.frames(2).values(), source.frames(2).values(), strict=True):
        np.testing.assert_array_equal(a, b)

    other = read(str(file(tmp_path, [N("Conv", ["x", "v2"], ["y"])],
                          constants_of(v2=(4, 3, 1, 1)), shape=(1, 3, 9, 9))))
    assert other.whole is not None
    onnx.save(other.whole, tmp_path / "float.onnx")
    with pytest.warns(HwgenWarning, match="does not take the inputs of this build, and is left"):
        assert read(str(tmp_path / "graph.npz")).whole is None
    (tmp_path / "float.onnx").write_bytes(b"nothing")
    with pytest.warns(HwgenWarning, match="is not an ONNX file, and is left out"):
        assert read(str(tmp_path / "graph.npz")).whole is None
    (tmp_path / "float.onnx").unlink()
    save(described(other.graph, other.network), tmp_path / "pre.json")
    with pytest.warns(HwgenWarning, match="does not describe the inputs of this graph and is left"):
        assert read(str(tmp_path / "graph.npz")).whole is None
    (tmp_path / "pre.json").write_text("{}")
    with pytest.warns(HwgenWarning, match="does not describe inputs: .*; it is left out"):
        assert read(str(tmp_path / "graph.npz")).whole is None


def test_what_cannot_be_run(tmp_path: Path) -> None:
    source = read(str(file(tmp_path, [CONV], C, ("c",))))
    inputs = described(source.graph, source.network)
    path = tmp_path / "float.onnx"
    with pytest.raises(HwgenError, match=r"float\.onnx is missing: build from the network's own"):
        WholeNetwork(path, inputs)
    path.write_bytes(b"nothing")
    with pytest.raises(HwgenError, match=r"float\.onnx is not an ONNX file"):
        WholeNetwork(path, inputs)
    assert source.whole is not None
    source.whole.graph.node[0].op_type = "Convert"
    onnx.save(source.whole, path)
    with pytest.raises(HwgenError, match=r"float\.onnx cannot be run: "):
        WholeNetwork(path, inputs)
