"""Softmax in integers: near that in float, equal to integer ONNX, refused where unfit."""

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Graph, Quantisation, Requantise, Softmax, TensorType
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session

CASES = [
    ((12,), 1, 8, 8, 0.05), ((7, 12), 3, 8, 8, 0.05), ((2, 3, 40), 2, 12, 8, 0.004),
    ((3, 197), 1, 8, 12, 0.1), ((4, 6), 6, 8, 8, 0.05), ((2, 9), 1, 16, 8, 0.001),
    ((5, 8), 2, 4, 8, 0.4), ((2, 3000), 1, 8, 8, 0.001),
]


def case(shape, groups, bits, out_bits, scale):
    """A graph of one softmax, whose codes of the result span what comes."""
    type = TensorType(shape, Quantisation(scale, 3, bits))
    most = min(1.0, 20 * groups / shape[-1])
    out = Quantisation(most / ((1 << out_bits) - 1), -(1 << (out_bits - 1)), out_bits)
    graph = Graph()
    graph.add_input("x", type)
    graph.outputs = [graph.add(Softmax.from_types(groups, type, out), "x", name="o")]
    random = np.random.default_rng(0)
    frames = random.integers(type.quantisation.low, type.quantisation.high + 1, (4, *shape))
    return graph, frames


@pytest.mark.parametrize("shape,groups,bits,out_bits,scale", CASES)
def test_equals_integer_onnx_and_is_near_floats(shape, groups, bits, out_bits, scale):
    graph, x = case(shape, groups, bits, out_bits, scale)
    got = graph.evaluate({"x": x})["o"]
    feed = {"x": to_onnx_layout(x).astype(graph.inputs["x"].quantisation.dtype)}
    (theirs,) = session(to_integer(graph)).run(["o"], feed)
    np.testing.assert_array_equal(from_onnx_layout(theirs), got)
    out = graph.types["o"].quantisation
    real = (x.reshape(4, *shape[:-1], groups, -1) - 3) * scale
    e = np.exp(real - real.max(-1, keepdims=True))
    wanted = (e / e.sum(-1, keepdims=True)).reshape(x.shape)
    kept = wanted < out.scale * (out.high - out.low)
    error = (out.dequantise(got) - wanted)[kept]
    # Steps of the table are 1/32, so an exponential is off by 1/32 at most, and half of it often.
    assert (abs(error) <= 0.033 * wanted[kept] + out.scale + 4e-4).all()
    (real_graph,) = session(to_qdq(graph)).run(["o"], feed)
    near = abs(from_onnx_layout(real_graph).astype(int) - got) * out.scale
    assert (near <= 0.033 * wanted + 2 * out.scale + 4e-4).all()


def test_what_is_far_below_is_nothing():
    type = TensorType((4,), Quantisation(0.5, 0))
    op = Softmax.from_types(1, type, Quantisation(1 / 255, -128))
    (got,) = op.evaluate([np.array([[100, 80, 100, -128]])], [type])
    assert got.tolist() == [[-1, -128, -1, -128]]


def test_a_graph_with_it_is_saved(tmp_path):
    graph, x = case((7, 12), 3, 8, 8, 0.05)
    graph.save(tmp_path / "graph")
    again = Graph.load(tmp_path / "graph")
    np.testing.assert_array_equal(again.evaluate({"x": x})["o"], graph.evaluate({"x": x})["o"])


GOOD = Softmax.from_types(1, TensorType((8,), Quantisation(0.1)), Quantisation(1 / 255, -128))
X = TensorType((8,), Quantisation(0.1))


@pytest.mark.parametrize("change,message", [
    ({"groups": 3}, "3 groups must divide the 8 channels"),
    ({"groups": 0}, "Groups must be a number of at least 1, not 0"),
    ({"exp": np.zeros(256, int)}, "the first the largest and at least 1"),
    ({"exp": np.ones(4, int)}, "Exponentials must be 256 numbers"),
    ({"step": Requantise.from_scale([0.1, 0.2])}, "needs one multiplier for its differences"),
    ({"numerator": 3}, "Numerator must be from 4095"),
    ({"shift": 0}, "Shift must be between 1 and 47, not 0"),
])
def test_refusals(change, message):
    wanted = {name: getattr(GOOD, name) for name in (
        "groups", "step", "exp", "numerator", "shift", "output")} | change
    with pytest.raises(HwgenError, match=message):
        Softmax(**wanted).infer(X)
