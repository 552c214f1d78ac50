"""Products of two streams: as numpy computes them, equal to integer ONNX, refused where unfit."""

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Graph, MatMul, Quantisation, Requantise, TensorType
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session


def operands(form="scores", heads=3, tokens=(5,), others=(7,), d=4, windows=1, bits=(8, 8)):
    """Types of both operands; ``d``: channels of a head of the second one."""
    first = d if form == "scores" else int(np.prod(others)) // windows
    return (TensorType((*tokens, heads * first), Quantisation(0.05, 0, bits[0])),
            TensorType((*others, heads * d), Quantisation(0.04, 0, bits[1])))


OUT = Quantisation(0.11, -7)


def product(types, form="scores", heads=3, windows=1, out=OUT, by_channel=False):
    """A product whose results are in the middle of their codes, with their real scale."""
    ratio = np.array([types[0].scale * types[1].scale / out.scale])
    op = MatMul(heads, form, Requantise.from_scale(ratio), out, windows)
    if not by_channel:
        return op
    channels = op.infer(*types)[0].channels
    return MatMul(heads, form, Requantise.from_scale(ratio * np.linspace(0.3, 1, channels)), out,
                  windows)


def graph_of(op, types):
    graph = Graph()
    for name, type in zip("ab", types, strict=True):
        graph.add_input(name, type)
    graph.outputs = [graph.add(op, "a", "b", name="o")]
    return graph


def frames(types, count=4, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.integers(t.quantisation.low, t.quantisation.high + 1, (count, *t.shape))
            for name, t in zip("ab", types, strict=True)}


CASES = [
    {}, {"form": "values"}, {"heads": 1, "tokens": (1,), "others": (1,), "d": 1},
    {"tokens": (2, 3), "others": (8,)}, {"form": "values", "tokens": (6,), "others": (2, 5)},
    {"windows": 2, "tokens": (6,), "others": (8,)}, {"by_channel": True},
    {"form": "values", "windows": 3, "tokens": (2, 3), "others": (9,), "by_channel": True},
    {"form": "values", "bits": (12, 8)}, {"bits": (4, 6)}, {"bits": (16, 16), "d": 9},
    {"out": Quantisation(0.02, 0, 12)},
]


def case_of(case):
    """Types and op of a case."""
    case = dict(case)
    own = {key: case.pop(key) for key in ("by_channel", "out") if key in case}
    types = operands(**case)
    shared = {key: case[key] for key in ("form", "heads", "windows") if key in case}
    return types, product(types, **shared, **own)


@pytest.mark.parametrize("case", CASES)
def test_equals_numpy_and_integer_onnx(case):
    types, op = case_of(case)
    graph, feed = graph_of(op, types), frames(types)
    (got,) = op.evaluate(list(feed.values()), types)
    a, b = (x.astype(np.int64).reshape(4, op.windows, -1, op.heads, t.channels // op.heads)
            for x, t in zip(feed.values(), types, strict=True))
    form = "nwthc,nwjhc->nwthj" if op.form == "scores" else "nwthj,nwjhc->nwthc"
    acc = np.einsum(form, a, b).reshape(got.shape)
    low, high = op.accumulator_range(*types)
    assert low <= acc.min() <= acc.max() <= high
    real = acc * (op.requantise.multiplier / 2.0**op.requantise.shift)
    wanted = np.clip(np.rint(real) + op.output.zero_point, op.output.low, op.output.high)
    np.testing.assert_array_equal(got, wanted)
    kinds = [t.quantisation.dtype for t in types]
    (theirs,) = session(to_integer(graph)).run(["o"], {
        n: to_onnx_layout(x).astype(k) for (n, x), k in zip(feed.items(), kinds, strict=True)})
    np.testing.assert_array_equal(from_onnx_layout(theirs), got)


@pytest.mark.parametrize("case", [{}, {"form": "values", "windows": 2, "tokens": (4,),
                                        "others": (6,)}])
def test_is_near_the_product_in_float(case):
    types, op = case_of(case)
    graph, feed = graph_of(op, types), frames(types)
    (theirs,) = session(to_qdq(graph)).run(
        ["o"], {n: to_onnx_layout(x).astype(np.int8) for n, x in feed.items()})
    assert abs(from_onnx_layout(theirs).astype(int) - graph.evaluate(feed)["o"]).max() <= 1


def test_a_graph_with_it_is_saved(tmp_path):
    types, op = case_of({"form": "values", "windows": 2, "tokens": (4,), "others": (6,)})
    graph, feed, file = graph_of(op, types), frames(types), tmp_path / "graph"
    graph.save(file)
    np.testing.assert_array_equal(Graph.load(file).evaluate(feed)["o"], graph.evaluate(feed)["o"])


def test_products_are_counted():
    types, op = case_of({"windows": 2, "tokens": (6,), "others": (8,)})
    assert op.macs(*types) == 2 * 3 * 3 * 4 * 4


A, B = operands()


@pytest.mark.parametrize("types,change,message", [
    ((A, TensorType(B.shape, Quantisation(0.1, 3))), {}, "operands with zero point 0, not 0 and 3"),
    ((A, B), {"heads": 5}, "5 heads do not fit 12 and 12 channels"),
    ((A, B), {"windows": 2}, "2 windows must divide the 5 and 7 tokens"),
    ((A, B), {"form": "values"}, "do not fit for values"),
    ((A, B), {"form": "keys"}, "Form must be one of scores, values, not 'keys'"),
    ((A, B), {"heads": 0}, "Heads must be a number of at least 1, not 0"),
    ((A, B), {"requantise": Requantise([1 << 16] * 2, [17] * 2)}, "one for each of its 21"),
])
def test_refusals(types, change, message):
    wanted = {"heads": 3, "form": "scores", "requantise": Requantise.from_scale(0.01),
              "output": Quantisation(0.1)} | change
    with pytest.raises(HwgenError, match=message):
        MatMul(**wanted).infer(*types)
