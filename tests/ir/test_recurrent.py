"""Recurrent cells in integers: near the cells of ONNX in float, equal to integer ONNX."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Graph, Quantisation, Recurrent, Requantise, TensorType
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session

KINDS = ("lstm", "gru", "rnn")
INPUT = Quantisation(2.0**-8, 3, 12)


def cell(kind="lstm", units=6, steps=(9,), seed=0, x=INPUT, output=None, starts=False, **more):
    """A random cell, and the type of its input."""
    random, gates = np.random.default_rng(seed), {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    type = TensorType((*steps, units * gates), x)
    weight = random.uniform(-1.5, 1.5, (units, gates, units)) / np.sqrt(units)
    more |= {"bias": random.normal(0, 0.3, units)} if kind == "gru" else {}
    if starts:
        more |= {"initial_h": random.uniform(-0.9, 0.9, units)}
        more |= {"initial_c": random.uniform(-1, 1, units)} if kind == "lstm" else {}
    return Recurrent.from_float(kind, weight, type, output or Quantisation(1 / 128), **more), type


def graph_of(op: Recurrent, type: TensorType) -> Graph:
    graph = Graph()
    graph.add_input("x", type)
    graph.outputs = [graph.add(op, "x", name="y")]
    return graph


def frames(type: TensorType, count=4, seed=0, spread=350.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    codes = np.rint(random.normal(type.zero_point, spread, (count, *type.shape)))
    codes[0].flat[:5] = type.quantisation.low, type.quantisation.high, 0, 1, -1
    return np.clip(codes, type.quantisation.low, type.quantisation.high).astype(np.int64)


CASES = [
    {"kind": "lstm"}, {"kind": "gru"}, {"kind": "rnn"},
    {"kind": "rnn", "function": "Relu", "output": Quantisation(1 / 16)},
    {"kind": "lstm", "starts": True, "steps": (3, 4)}, {"kind": "gru", "starts": True},
    {"kind": "rnn", "output": Quantisation(1 / 32767, 0, 16)},
    {"kind": "rnn", "starts": True, "units": 1}, {"kind": "lstm", "x": Quantisation(0.05, -9, 8)},
    {"kind": "gru", "reset_first": True, "starts": True},
    {"kind": "gru", "reset_first": True, "output": Quantisation(1 / 32767, 0, 16)},
    {"kind": "gru", "x": Quantisation(0.0006, 5, 16), "output": Quantisation(1 / 32000, 0, 16)},
    {"kind": "lstm", "weight_bits": 4, "output": Quantisation(1 / 128, 0, 16), "steps": (1,)},
]


@pytest.mark.parametrize("case", CASES)
def test_equals_integer_onnx(case):
    op, type = cell(**case)
    graph, feed = graph_of(op, type), frames(type)
    (theirs,) = session(to_integer(graph)).run(
        ["y"], {"x": to_onnx_layout(feed).astype(type.quantisation.dtype)})
    np.testing.assert_array_equal(from_onnx_layout(theirs), graph.evaluate({"x": feed})["y"])


@pytest.mark.parametrize("case", CASES)
def test_is_near_the_cell_of_onnx(case):
    """Within a few steps of the codes, also after many steps of the cell."""
    op, type = cell(**case)
    graph, feed = graph_of(op, type), frames(type, spread=1.2 / type.scale)
    (theirs,) = session(to_qdq(graph)).run(
        ["y"], {"x": to_onnx_layout(feed).astype(type.quantisation.dtype)})
    error = (from_onnx_layout(theirs).astype(int) - graph.evaluate({"x": feed})["y"]) * (
        op.output.scale)
    assert np.sqrt(np.mean(np.square(error))) < max(0.008, 0.6 * op.output.scale)
    assert abs(error).max() < max(0.04, 3 * op.output.scale)


def test_a_state_does_not_stand_still():
    """With 8 bits a GRU that moves by less than half a step of them would not move at all."""
    weight = np.zeros((1, 3, 1))
    type = TensorType((400, 3), INPUT)
    op = Recurrent.from_float("gru", weight, type, Quantisation(1 / 128))
    x = np.full((1, *type.shape), type.zero_point)
    x[..., 0] += round(5.5 / type.scale)
    x[..., 2] += round(2.0 / type.scale)
    h = op.evaluate([x], [type])[0][0, :, 0]
    assert np.diff(h).min() >= 0
    real, keep = 0.0, 1 / (1 + np.exp(-5.5))
    for _ in range(400):
        real = keep * real + (1 - keep) * np.tanh(1.0)
    assert h[-1] == pytest.approx(real * 128, abs=3)


def test_each_frame_begins_anew():
    op, type = cell("lstm", starts=True)
    x = frames(type, 1)
    once = op.evaluate([x], [type])[0]
    twice = op.evaluate([np.concatenate([x, x])], [type])[0]
    np.testing.assert_array_equal(twice, np.concatenate([once, once]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_is_kept(kind):
    """Frames are parts of one long one; in integer ONNX too."""
    op, type = cell(kind, starts=True, keep=True)
    x = frames(type, 3)
    graph = graph_of(op, type)
    parts = graph.evaluate({"x": x})["y"]
    whole = op.evaluate([x.reshape(1, -1, type.channels)],
                        [TensorType((3 * type.pixels, type.channels), INPUT)])[0]
    np.testing.assert_array_equal(parts.reshape(whole.shape), whole)
    (theirs,) = session(to_integer(graph)).run(["y"], {"x": to_onnx_layout(x).astype(np.int16)})
    np.testing.assert_array_equal(from_onnx_layout(theirs), parts)
    (real,) = session(to_qdq(graph)).run(["y"], {"x": to_onnx_layout(x).astype(np.int16)})
    assert abs(from_onnx_layout(real).astype(int) - parts).max() < 6


def test_counts_products_with_the_units():
    op, type = cell("gru", units=6, steps=(9,))
    assert op.macs(type) == 9 * 6 * 18


@pytest.mark.parametrize("kind", KINDS)
def test_goes_through_a_file(kind, tmp_path):
    op, type = cell(kind, starts=True)
    graph, feed = graph_of(op, type), {"x": frames(type)}
    graph.save(tmp_path / "g.npz")
    np.testing.assert_array_equal(
        Graph.load(tmp_path / "g.npz").evaluate(feed)["y"], graph.evaluate(feed)["y"])


@pytest.mark.parametrize("change,message", [
    ({"kind": "elman"}, "Kind must be one of lstm, gru, rnn"),
    ({"weight": np.zeros((6, 3, 6), int)}, "Weights must have the shape \\(units, 4, units\\)"),
    ({"tables": np.zeros((4, 256), int)}, "Tables must have the shape \\(4, 1024\\)"),
    ({"cell": np.zeros(0, int)}, "Cell must have the shape \\(1024,\\)"),
    ({"drop": 6}, "Drop must be between 0 and 5"),
    ({"shift": 31}, "Shift must be between 1 and 30"),
    ({"output": Quantisation(1 / 128, 1)}, "must have zero point 0"),
    ({"initial_h": np.array([128] * 6)}, "initial_h must be 6 numbers of 8 bits"),
    ({"requantise": Requantise.from_scale(0.1)}, "requantisation must have 24 entries"),
    ({"reset_first": True}, "Only a GRU has a reset gate, not the kind 'lstm'"),
    ({"function": "Elu"}, "Function must be Tanh or Relu"),
])
def test_refusals(change, message):
    with pytest.raises(HwgenError, match=message):
        replace(cell()[0], **change)


def test_refuses_inputs_that_do_not_fit():
    op, _ = cell()
    with pytest.raises(HwgenError, match="6 units of 4 gates need 24 channels"):
        op.infer(TensorType((5, 23)))
    with pytest.raises(HwgenError, match="needs pixels, its steps"):
        op.infer(TensorType((24,)))
    with pytest.raises(HwgenError, match="steps of at least"):
        cell(x=Quantisation(1e-5, 0, 16))
    with pytest.raises(HwgenError, match="initial_c must be empty"):
        replace(cell("rnn")[0], initial_c=np.ones(6, int))
