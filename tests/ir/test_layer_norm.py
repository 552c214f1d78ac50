"""LayerNorm and RMSNorm in integers equal integer ONNX, and are near the same in float."""

import numpy as np
import pytest

from hwgen.ir import Graph, LayerNorm, Quantisation, TensorType
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session

CASES = [
    # shape, bits, zero point, epsilon, centred
    ((9, 24), 8, 3, 1e-5, True), ((9, 24), 12, -7, 1e-5, True), ((9, 24), 16, 11, 1e-5, False),
    ((3, 4, 7), 8, 5, 1e-5, False), ((192,), 12, 0, 0.0, True), ((5, 1), 4, 2, 0.1, False),
    ((2, 2, 3, 6), 8, 0, 10.0, True),
]


@pytest.mark.parametrize(("shape", "bits", "zero", "epsilon", "centred"), CASES)
@pytest.mark.parametrize("output", [Quantisation(1 / 40, 4), Quantisation(1 / 500, -3, 12)])
def test_equals_integer_onnx(shape, bits, zero, epsilon, centred, output):
    tensor = TensorType(shape, Quantisation(0.02, zero, bits))
    op = LayerNorm.from_types(tensor, output, epsilon, centred=centred)
    graph = Graph()
    graph.add_input("x", tensor)
    graph.outputs = [graph.add(op, "x", name="o")]
    random = np.random.default_rng(0)
    q = tensor.quantisation
    x = random.integers(q.low, q.high + 1, (6, *shape))
    # Pixels with all channels alike, or nearly, and with the largest variance.
    x[0], x[1] = q.high, q.low
    x[2], x[2, ..., ::2] = q.low, q.high
    x[3] = q.zero_point
    feed = {"x": to_onnx_layout(x).astype(q.dtype)}
    wanted = graph.evaluate({"x": x})["o"]
    (exact,) = session(to_integer(graph)).run(["o"], feed)
    np.testing.assert_array_equal(from_onnx_layout(exact), wanted)
    (near,) = session(to_qdq(graph)).run(["o"], feed)
    steps = np.abs(from_onnx_layout(near).astype(int) - wanted)
    if not epsilon:
        # Without it, float divides its own rounding where all channels are alike.
        steps = np.delete(steps, [0, 1, 3], 0)
    assert steps.max() <= 1 + 0.003 * (1 << output.bits - 1)
