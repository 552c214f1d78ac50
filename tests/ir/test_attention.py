"""Attention in integers: near a softmax in float, equal to integer ONNX, refused where unfit."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Attention, Graph, Quantisation, Requantise, TensorType
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session


def inputs(heads=3, kv_heads=3, tokens=(13,), keys=(13,), d=8, e=8, bits=8):
    return (TensorType((*tokens, heads * d), Quantisation(0.05, 0, bits)),
            TensorType((*keys, kv_heads * d), Quantisation(0.04, 0, bits)),
            TensorType((*keys, kv_heads * e), Quantisation(0.03, 0, bits)))


def attention(types, heads=3, kv_heads=3, causal=False, windows=1, bias=None, scale=8**-0.5):
    """An attention; ``bias``: extents of windows and heads of a random one, some keys hidden."""
    if bias is not None:
        random, (queries, keys) = np.random.default_rng(1), (t.pixels // windows for t in types[:2])
        bias = random.normal(0, 1, (*bias, queries, keys))
        bias[random.random(bias.shape) < 0.2] = -np.inf
        bias[..., 0] = 0.5
    return Attention.from_types(heads, *types, Quantisation(0.02, 5), scale, kv_heads=kv_heads,
                                causal=causal, windows=windows, bias=bias)


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
    {"tokens": (2, 6), "keys": (20,), "windows": 4}, {"bias": (1, 1)}, {"bias": (1, 3)},
    {"tokens": (12,), "keys": (3, 6), "windows": 2, "bias": (2, 3), "causal": True},
    {"tokens": (12,), "keys": (9,), "windows": 3, "bias": (3, 1), "kv_heads": 1},
    {"scale": np.array([[0.1, 0.3, 0.5]])},
    {"tokens": (4,), "keys": (6,), "windows": 2, "bias": (2, 1),
     "scale": np.array([[0.1], [0.4]])},
]


def attention_of(case):
    """Types and op of a case."""
    case = dict(case)
    own = {key: case.pop(key) for key in ("causal", "windows", "bias", "scale") if key in case}
    types = inputs(**case)
    return types, attention(types, kv_heads=case.get("kv_heads", 3), **own)


@pytest.mark.parametrize("case", CASES)
def test_equals_integer_onnx(case):
    types, op = attention_of(case)
    graph, feed = graph_of(op, types), frames(types)
    (theirs,) = session(to_integer(graph)).run(
        ["o"], {n: to_onnx_layout(x).astype(np.int8) for n, x in feed.items()})
    np.testing.assert_array_equal(from_onnx_layout(theirs), graph.evaluate(feed)["o"])


@pytest.mark.parametrize("case", CASES)
def test_is_near_a_softmax(case):
    types, op = attention_of(case)
    graph, feed = graph_of(op, types), frames(types)
    model = to_qdq(graph)
    bits = [types[0].bits] * 3
    assert all(b <= 8 for b in bits)
    (theirs,) = session(model).run(
        ["o"], {n: to_onnx_layout(x).astype(np.int8) for n, x in feed.items()})
    steps = from_onnx_layout(theirs).astype(int) - graph.evaluate(feed)["o"]
    assert abs(steps).max() <= 3
    assert np.sqrt(np.mean(np.square(steps))) < 0.8


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_windows_and_bias_in_float():
    """Near a softmax in float that was written down here, with the bias before it was rounded."""
    types, random = inputs(tokens=(12,), keys=(15,)), np.random.default_rng(3)
    bias = random.normal(0, 2, (3, 3, 4, 5))
    bias[:, :, 1, 2:] -= 100
    op = Attention.from_types(3, *types, Quantisation(0.02, 5), 0.3, windows=3, bias=bias)
    feed = frames(types)
    got = op.evaluate(list(feed.values()), types)[0]
    q, k, v = (x.reshape(4, 3, -1, 3, 8).transpose(0, 1, 3, 2, 4) * t.scale
               for x, t in zip(feed.values(), types, strict=True))
    wanted = softmax(0.3 * q @ k.swapaxes(-1, -2) + bias) @ v
    wanted = wanted.transpose(0, 1, 3, 2, 4).reshape(got.shape)
    steps = got - op.output.quantise(wanted)
    assert abs(steps).max() <= 3
    assert np.sqrt(np.mean(np.square(steps))) < 0.8


def test_a_bias_has_as_few_bits_as_it_needs():
    types = inputs()
    bias = np.linspace(-2, 2, 13 * 13).reshape(1, 1, 13, 13) + 50 * np.arange(13)[:, None]
    op = Attention.from_types(3, *types, Quantisation(0.02, 5), 0.01,
                              bias=np.broadcast_to(bias, (1, 3, 13, 13)))
    assert op.bias is not None
    assert op.hidden is None
    # What a row has in common is gone, and so are heads that are alike.
    assert op.bias.shape == (1, 1, 13, 13)
    # The unit is 0.00002 nats; steps of the bias are at most 1/256.
    unit = types[0].scale * types[1].scale * 0.01 * 2**op.bias_shift
    assert 1 / 512 < unit <= 1 / 256
    assert abs(op.bias).max() < 64
    assert Attention.from_types(3, *types, Quantisation(0.02, 5), 0.01,
                                bias=np.full((1, 1, 13, 13), -90.0)).bias is None


def test_counts_only_what_is_seen():
    types = inputs(tokens=(4,), keys=(4,))
    assert attention(types).macs(*types) == 4 * 4 * 3 * (8 + 8)
    assert attention(types, causal=True).macs(*types) == (1 + 2 + 3 + 4) * 3 * (8 + 8)
    assert attention(types, windows=2).macs(*types) == 2 * 2 * 2 * 3 * (8 + 8)


def test_goes_through_a_file(tmp_path):
    types = inputs(causal := 3)
    graph = graph_of(attention(types, causal=bool(causal), bias=(1, 3)), types)
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


@pytest.mark.parametrize("change,message", [
    ({"windows": 2}, "2 windows must divide the 13 queries and the 13 keys"),
    ({"windows": 0}, "Windows must be a number of at least 1, not 0"),
    ({"bias": np.zeros((1, 2, 13, 13))}, "Bias must have shape \\(1 or 1, 3 or 1"),
    ({"bias": np.zeros((1, 1, 13, 12))}, "Bias of shape .* must be for 13 queries and 13 keys"),
    ({"bias": np.full((1, 1, 13, 13), 1 << 40)}, "below 2\\*\\*30"),
    ({"hidden": np.ones((1, 1, 13, 13), bool)}, "A query must see at least one key"),
    ({"bias_shift": 31}, "Shift of the bias must be between 0 and 30, not 31"),
    ({"step": Requantise(np.array([1, 2]), np.array([4, 4]))}, "one for each head"),
    ({"step": Requantise(np.array([1, 2, 3]), np.array([4, 4, 5]))}, "with one shift"),
])
def test_refusals_of_windows_and_biases(change, message):
    types = inputs()
    with pytest.raises(HwgenError, match=message):
        replace(attention(types), **change).infer(*types)


@pytest.mark.parametrize("bias", [np.nan, np.inf, -np.inf])
def test_refuses_a_bias_of_no_number(bias):
    with pytest.raises(HwgenError, match="A bias must be finite, or -inf for some of the keys"):
        Attention.from_types(3, *inputs(), Quantisation(0.02, 5), 1.0,
                             bias=np.full((1, 1, 13, 13), bias))
