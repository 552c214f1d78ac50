"""The digits, with less training and fewer images than the example takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.digits import cluttered, integer, prepared
from examples import digits
from examples.digits import Images, Network
from hwgen.ir import ArgMax, Conv, Gemm

pytestmark = pytest.mark.network

EPOCHS = 4


@pytest.fixture(scope="module")
def parts() -> tuple[Images, Images]:
    return digits.digits()


@pytest.fixture(scope="module")
def network(parts: tuple[Images, Images]) -> Network:
    return digits.train(parts[0], EPOCHS)


def test_split(parts: tuple[Images, Images]) -> None:
    training, test = parts
    assert (len(training), len(test)) == (1257, 540)
    share = np.bincount(test.labels) / np.bincount(training.labels)
    np.testing.assert_allclose(share, 0.3 / 0.7, rtol=0.02)
    assert (test.pixels.min(), test.pixels.max()) == (0, 1)


def test_training_is_repeatable(parts: tuple[Images, Images], network: Network) -> None:
    again = digits.train(parts[0], EPOCHS).state_dict()
    for name, value in network.state_dict().items():
        assert (again[name] == value).all(), name
    other = digits.train(parts[0], 1, seed=1).state_dict()
    assert (other["head.weight"] != network.head.weight).any()


def test_accuracy(parts: tuple[Images, Images], network: Network, tmp_path: Path) -> None:
    training, test = parts
    right = test.accuracy(network.classify(test.pixels))
    assert right >= 98
    onnx = prepared(network, 8, tmp_path)
    graphs = {name: integer(onnx, training, name) for name in ("w8a8", "w4a4", "mixed")}
    lost = {n: right - test.accuracy(digits.classify(g, test)) for n, g in graphs.items()}
    assert lost["w8a8"] <= 0.5
    assert lost["w4a4"] <= 1.5
    assert lost["mixed"] <= 1.5
    graph = graphs["mixed"]
    assert graph.outputs == ["scores", "digit"]
    assert isinstance(graph.nodes[-1].op, ArgMax)
    bits = [n.op.weight_bits for n in graph.nodes if isinstance(n.op, Conv | Gemm)]
    assert bits == [8, 4, 4, 8]
    assert [graph.types[t].bits for t in ("second_relu", "scores", "digit")] == [4, 8, 5]


def test_scores_are_those_of_the_float_network(
    parts: tuple[Images, Images], network: Network, tmp_path: Path
) -> None:
    training, test = parts
    graph = integer(prepared(network, 8, tmp_path), training, "w8a8")
    codes = graph.evaluate(digits.to_codes(graph, test))["scores"]
    with torch.no_grad():
        wanted = network(torch.from_numpy(test.pixels))[0].numpy()
    error = graph.types["scores"].quantisation.dequantise(codes) - wanted
    assert np.abs(error).mean() < 0.02 * np.abs(wanted).max()


def test_main(
    parts: tuple[Images, Images], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A subset of the test images through the Verilog."""
    training, test = parts
    few = Images(test.pixels[:60], test.labels[:60])
    monkeypatch.setattr(digits, "digits", lambda: (training, few))
    monkeypatch.setattr(digits, "train", partial(digits.train, epochs=EPOCHS))
    arguments = ["digits", "--precision", "w4a4", "--board", "zedboard", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert digits.main() == 0
    text = capsys.readouterr().out
    assert "w8a8" in text
    assert "w4a4" in text
    assert "0 digits and 0 scores differ from the reference" in text
    for what in ("interval", "latency"):
        found = re.search(what + r" ([0-9,]+)(?: cycles)?, predicted ([0-9,]+)", text)
        assert found is not None
        assert found[1] == found[2]
    assert "module top(" in (tmp_path / "simulation" / "rtl" / "top.v").read_text()


def test_mistakes_are_counted() -> None:
    def outcome(**changes: int) -> digits.Outcome:
        good = {"dsp": 9, "interval": 100, "latency": 50, "simulated_interval": 100,
                "simulated_latency": 50, "wrong_digits": 0, "wrong_scores": 0}
        return digits.Outcome(digits=np.zeros(4), seconds=1.0, **good | changes)

    assert outcome().exact
    for name in ("simulated_interval", "simulated_latency", "wrong_digits", "wrong_scores"):
        assert not outcome(**{name: 1}).exact
    assert Images(np.zeros((4, 1, 8, 8)), np.arange(4)).accuracy(np.zeros(4)) == 25


def test_cluttered(parts: tuple[Images, Images]) -> None:
    some = Images(parts[1].pixels[:30], parts[1].labels[:30])
    make: Callable[[int], Images] = partial(cluttered, some, 2)
    images = make(0)
    assert images.pixels.shape == (60, 1, 32, 32)
    assert images.pixels.dtype == np.float32
    assert (images.labels == np.tile(some.labels, 2)).all()
    assert images.pixels.min() == 0
    assert images.pixels.max() <= 1
    # Pixels are those of a camera, and no two canvases of a digit are alike.
    np.testing.assert_allclose(images.pixels * 255, np.rint(images.pixels * 255), atol=1e-4)
    assert (images.pixels[:30] != images.pixels[30:]).any((1, 2, 3)).all()
    assert (make(0).pixels == images.pixels).all()
    assert (make(1).pixels != images.pixels).any()
