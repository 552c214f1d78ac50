"""Attention in integers: near a softmax in float, equal to integer ONNX, refused where unfit."""

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Attention, Graph, Quantisation, TensorType
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session


def inputs(heads=3, kv_heads=3, tokens=(13,), keys=(13,), d=8, e=8, bits=8):
    return (TensorType((*tokens, heads * d), Quantisation(0.05, 0, bits)),
            TensorType((*keys, kv_heads * d), Quantisation(0.04, 0, bits)),
            TensorType((*keys, kv_heads * e), Quantisation(0.03, 0, bits)))


def attention(types, heads=3, kv_heads=3, causal=False):
    return Attention.from_types(heads, *types, Quantisation(0.02, 5), 8**-0.5, kv_heads=kv_heads,
                                causal=causal)


def graph_of(op, types):
    graph = Graph()
    for name, type in zip("qkv", types, strict=True):
        graph.add_input(name, type)
    graph.outputs = [graph.add(op, "q", "k", "v", name="o")]
    return graph


def frames(types, count=4, seed=0):
    random = np.random.default_rng(seed)
    return {name: random.integers(t.quantisation.low, t.quantisation.high + 1, (count, *t.shape))
            for name, t in zip("qkv", types, strict=True)}


CASES = [
    {}, {"kv_heads": 1, "e": 5}, {"causal": True}, {"keys": (20,), "e": 3},
    {"causal": True, "keys": (20,), "kv_heads": 1}, {"tokens": (3, 4), "bits": 4}, {"keys": (1,)},
]


@pytest.mark.parametrize("case", CASES)
def test_equals_integer_onnx(case):
    case = dict(case)
    causal = case.pop("causal", False)
    types = inputs(**case)
    op = attention(types, kv_heads=case.get("kv_heads", 3), causal=causal)
    graph, feed = graph_of(op, types), frames(types)
    (theirs,) = session(to_integer(graph)).run(
        ["o"], {n: to_onnx_layout(x).astype(np.int8) for n, x in feed.items()})
    np.testing.assert_array_equal(from_onnx_layout(theirs), graph.evaluate(feed)["o"])


@pytest.mark.parametrize("case", CASES)
def test_is_near_a_softmax(case):
    case = dict(case)
    causal = case.pop("causal", False)
    types = inputs(**case)
    op = attention(types, kv_heads=case.get("kv_heads", 3), causal=causal)
    graph, feed = graph_of(op, types), frames(types)
    model = to_qdq(graph)
    bits = [types[0].bits] * 3
    assert all(b <= 8 for b in bits)
    (theirs,) = session(model).run(
        ["o"], {n: to_onnx_layout(x).astype(np.int8) for n, x in feed.items()})
    steps = from_onnx_layout(theirs).astype(int) - graph.evaluate(feed)["o"]
    assert abs(steps).max() <= 3
    assert np.sqrt(np.mean(np.square(steps))) < 0.8


def test_counts_only_what_is_seen():
    types = inputs(tokens=(4,), keys=(4,))
    assert attention(types).macs(*types) == 4 * 4 * 3 * (8 + 8)
    assert attention(types, causal=True).macs(*types) == (1 + 2 + 3 + 4) * 3 * (8 + 8)


def test_goes_through_a_file(tmp_path):
    types = inputs(causal := 3)
    graph = graph_of(attention(types, causal=bool(causal)), types)
    graph.save(tmp_path / "g.npz")
    feed = frames(types)
    np.testing.assert_array_equal(
        Graph.load(tmp_path / "g.npz").evaluate(feed)["o"], graph.evaluate(feed)["o"])


@pytest.mark.parametrize("change,message", [
    ({"heads": 2}, "2 heads of queries and 3 of keys|divide the 2"),
    ({"tokens": (14,), "causal": True}, "14 queries of which each sees"),
    ({"zero": 1}, "zero point 0"),
    ({"bits": 12}, "at most 8 bits"),
    ({"values": 12}, "as many values as keys"),
])
def test_refusals(change, message):
    bits = change.get("bits", 8)
    types = list(inputs(tokens=change.get("tokens", (13,)), bits=bits))
    if "zero" in change:
        types[0] = TensorType(types[0].shape, Quantisation(0.05, 1))
    if "values" in change:
        types[2] = TensorType((12, 24), types[2].quantisation)
    with pytest.raises(HwgenError, match=message):
        attention(types, heads=change.get("heads", 3),
                  causal=change.get("causal", False)).infer(*types)
