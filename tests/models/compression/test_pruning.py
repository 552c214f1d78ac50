"""Pruning: exact rewrites of the integer graph, and groups as hardware forms them."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm, Table
from hwgen.models.compression.pruning import (
    channel_means,
    kept_groups,
    prune,
    sparsity,
    threshold,
)
from tests.networks import Builder, every_op
from tests.typed import of_kind


def network():
    b = Builder((6, 6, 3))
    x = b.conv("image", 8, 3, "c0")
    y = b.conv(x, 9, 3, "c1", stride=2)
    z = b.act(y, "s1")
    b.graph.outputs = [b.conv(b.conv(z, 8, 1, "c2"), 4, 1, "c3"), b.gemm(z, 5, "scores")]
    return b


def near_to_zero(x, quantisation, steps):
    return np.where(abs(x.astype(int) - quantisation.zero_point) < steps,
                    quantisation.zero_point, x)


# Activations

@pytest.mark.parametrize("unit", ["real", "codes"])
def test_threshold_is_exact(unit):
    b = network()
    q = b.graph.types["c0"].quantisation
    before = len(b.graph.nodes), list(b.graph.types)
    t = {"real": 12.5 * q.scale, "codes": 12.5}[unit]
    new = threshold(b.graph, {"c0": t}, unit=unit)
    assert (len(b.graph.nodes), list(b.graph.types)) == before
    frames = b.frames(3)
    old = b.graph.evaluate(frames, keep=["c0"])["c0"]
    got = new.evaluate(frames, keep=["c0", "c0/threshold", "c1"])
    np.testing.assert_array_equal(got["c0"], old)
    np.testing.assert_array_equal(got["c0/threshold"], near_to_zero(old, q, 12.5))
    assert (got["c0/threshold"] != old).any()
    (conv,) = (n for n in new.nodes if n.name == "c1")
    assert conv.inputs == ("c0/threshold",)
    type = new.types["c0/threshold"]
    assert type == new.types["c0"]
    np.testing.assert_array_equal(conv.op.evaluate([got["c0/threshold"]], [type])[0], got["c1"])


def test_values_at_the_threshold_stay():
    b = network()
    new = threshold(b.graph, {"c0": 2}, unit="codes")
    table = of_kind(next(n.op for n in new.nodes if n.name == "c0/threshold"), Table)
    zero = b.graph.types["c0"].zero_point
    changed = np.flatnonzero(table.values != np.arange(-128, 128)) - 128
    assert changed.tolist() == [zero - 1, zero + 1]


def test_tables_take_thresholds_up():
    b = network()
    frames = b.frames(2)
    count = len(b.graph.nodes)
    # In front of a table, behind it, and twice.
    for name, steps in (("c1", 9), ("s1", 4)):
        new = threshold(b.graph, {name: steps}, unit="codes")
        assert len(new.nodes) == count
        values = b.graph.evaluate(frames, keep=["c1", "s1"])
        q = b.graph.types[name].quantisation
        (table,) = (n.op for n in b.graph.nodes if n.name == "s1")
        cut = near_to_zero(values[name], q, steps)
        want = cut if name == "s1" else table.evaluate([cut], [b.graph.types["c1"]])[0]
        np.testing.assert_array_equal(new.evaluate(frames, keep=["s1"])["s1"], want)
    twice = threshold(threshold(b.graph, {"c0": 3}, unit="codes"), {"c0": 7}, unit="codes")
    once = threshold(b.graph, {"c0": 7}, unit="codes")
    assert len(twice.nodes) == len(once.nodes) == count + 1
    for name, value in once.evaluate(frames).items():
        np.testing.assert_array_equal(twice.evaluate(frames)[name], value)


def test_a_table_by_channel():
    b = network()
    g = b.graph
    rows = b.random.integers(-128, 128, (8, 256))
    g.outputs = [g.add(Table(rows, g.types["c0"].quantisation), "c0", name="wide")]
    g.outputs = [b.conv("wide", 4, 1, "last")]
    new = threshold(g, {"wide": 20}, unit="codes")
    x = g.evaluate(b.frames(1), keep=["wide"])["wide"]
    np.testing.assert_array_equal(new.evaluate(b.frames(1), keep=["wide"])["wide"],
                                  near_to_zero(x, g.types["wide"].quantisation, 20))


def test_outputs_and_inputs():
    b = network()
    b.graph.outputs.append("s1")
    new = threshold(b.graph, {"s1": 9, "image": 5}, unit="codes")
    assert {"s1/threshold", "image/threshold"} <= set(new.types)
    frames = b.frames(1)
    only = threshold(b.graph, {"s1": 9}, unit="codes")
    np.testing.assert_array_equal(only.evaluate(frames)["s1"], b.graph.evaluate(frames)["s1"])
    assert threshold(b.graph, {"s1": 1}, unit="codes") is b.graph


def test_every_op_with_thresholds():
    b, _ = every_op()
    made = [n.name for n in b.graph.nodes if n.name not in b.graph.outputs]
    new = threshold(b.graph, dict.fromkeys(made, 3), unit="codes")
    assert set(new.evaluate(b.frames(1))) == set(b.graph.outputs)


@pytest.mark.parametrize("thresholds,unit,message", [
    ({"nowhere": 1.0}, "real", "^The graph has no tensor 'nowhere' to threshold$"),
    ({"c0": -1.0}, "codes", r"^Threshold of 'c0' must be between 0 and 131, .* not -1.0$"),
    ({"c0": 132}, "codes", r"^Threshold of 'c0' must be between 0 and 131, .* not 132$"),
    ({"c0": 13.2}, "real", r"^Threshold of 'c0' must be between 0 and 13.1, .* not 13.2$"),
    ({"c0": float("nan")}, "real", r"not nan$"),
    ({"c3": 5}, "codes", "^Nothing in the graph reads 'c3'"),
    ({"c0": 5}, "volts", "^Unit must be one of real, codes, not 'volts'$"),
])
def test_refused_thresholds(thresholds, unit, message):
    with pytest.raises(HwgenError, match=message):
        threshold(network().graph, thresholds, unit=unit)


# Weights

def op(graph, name) -> Conv | Gemm:
    found = next(n.op for n in graph.nodes if n.name == name)
    assert isinstance(found, Conv | Gemm)
    return found


@pytest.mark.parametrize("pe", [1, 2, 4])
def test_groups_are_those_of_the_hardware(pe):
    b = network()
    b.graph.outputs.append(b.conv("c1", 6, 3, "grouped", groups=3))
    sizes = {"c1": pe, "grouped": min(pe, 2)}
    new = prune(b.graph, {"c1": 0.6, "grouped": 0.5}, pe=sizes)
    for name, share in (("c1", 0.6), ("grouped", 0.5)):
        conv, tensor = op(new, name), new.types[next(
            n.inputs[0] for n in new.nodes if n.name == name)]
        streams = 9
        config = SparseConvConfig(
            op=conv, tensor=tensor, tap_lanes=streams, pe=sizes[name], skip="weight",
            streams=even_streams(streams, 3))
        # Rows of weights that are skipped, for all output channels of a fold.
        assert 1 - config.keep.mean() == pytest.approx(share, abs=0.02)
        assert ((conv.weight == 0) | (conv.weight == op(b.graph, name).weight)).all()


def test_pruned_by_codes():
    b = network()
    new = prune(b.graph, {"c0": 40, "scores": 17.5}, by="codes")
    for name, least in (("c0", 40), ("scores", 17.5)):
        was = op(b.graph, name).weight
        np.testing.assert_array_equal(op(new, name).weight, np.where(abs(was) < least, 0, was))
    assert op(b.graph, "c1") is op(new, "c1")


def test_bias_of_the_zero_point_goes_too():
    """Frames that are zero everywhere give what they gave."""
    b = network()
    g = prune(b.graph, {"c1": 0.7, "scores": 0.5})
    for name in ("c1", "scores"):
        tensor = g.types[next(n.inputs[0] for n in g.nodes if n.name == name)]
        zero = np.full((1, *tensor.shape), tensor.zero_point)
        assert tensor.zero_point
        np.testing.assert_array_equal(op(g, name).evaluate([zero], [tensor])[0],
                                      op(b.graph, name).evaluate([zero], [tensor])[0])


def test_bias_correction_keeps_the_mean():
    b = network()
    frames = b.frames(20)
    means = channel_means(b.graph, frames)
    errors = []
    for given in (None, means):
        new = prune(b.graph, {"c2": 0.6, "scores": 0.6}, means=given)
        sums = []
        for g in (b.graph, new):
            x = b.graph.evaluate(frames, keep=["s1"])["s1"]
            conv = of_kind(op(g, "c2"), Conv)
            sums.append(conv.accumulators(x, g.types["s1"]).reshape(-1, 8).mean(0))
        errors.append(abs(sums[1] - sums[0]).max())
    # Of a 1x1 convolution the mean is exact, but for rounding.
    assert errors[1] < 1 < errors[0]


def test_scales_of_channels_count():
    weight = np.array([[1.0, 2.0], [10.0, 30.0]])
    np.testing.assert_array_equal(kept_groups(weight, sparsity=0.5), [[False] * 2, [True] * 2])
    b = network()
    conv = op(b.graph, "c0")
    ratio = np.ldexp(conv.requantise.multiplier.astype(float), -conv.requantise.shift)
    left = op(prune(b.graph, {"c0": 0.5}), "c0").weight
    gone = (left == 0) & (conv.weight != 0)
    real = abs(conv.weight) * ratio[:, None, None, None]
    assert real[gone].max() <= real[left != 0].min()


@pytest.mark.parametrize("layers,options,message", [
    ({"nowhere": 0.5}, {}, "^The graph has no node 'nowhere' to prune$"),
    ({"s1": 0.5}, {}, "^'s1' is no convolution or matrix: Table has no weights to prune$"),
    ({"c0": 1.0}, {}, "^Pruning 'c0': Sparsity must be 0 or more and below 1, not 1.0$"),
    ({"c0": float("nan")}, {}, "not nan$"),
    ({"c0": -1}, {"by": "codes"}, "Threshold must be between 0 and 127, .* not -1$"),
    ({"c0": 128}, {"by": "codes"}, "Threshold must be between 0 and 127, .* not 128$"),
    ({"c0": 0.5}, {"pe": 9}, "^Pruning 'c0': Pe must be between 1 and 8, not 9$"),
    ({"c0": 0.5}, {"by": "luck"}, "^Weights are pruned by one of sparsity, codes, not by 'luck'$"),
])
def test_refused_pruning(layers, options, message):
    with pytest.raises(HwgenError, match=message):
        prune(network().graph, layers, **options)


def test_report():
    b = network()
    frames = b.frames(2)
    g = threshold(prune(b.graph, {"c1": 0.5}, pe=2), {"c0": 40}, unit="codes")
    rows = {row.name: row for row in sparsity(g, frames, {"c1": 2})}
    assert list(rows) == ["c0", "c1", "c2", "c3", "scores"]
    row, x = rows["c1"], g.evaluate(frames, keep=["c0/threshold"])["c0/threshold"]
    tensor = g.types["c0/threshold"]
    assert row.groups == pytest.approx(0.5, abs=0.01)
    assert row.weights >= row.groups - 0.06
    assert row.activations == (x == tensor.zero_point).mean()
    # Against every pair of the convolution's own multiplication.
    ones = Conv((op(g, "c1").weight != 0).astype(int), np.zeros(9, int), op(g, "c1").requantise,
                op(g, "c1").output, (2, 2), ((1, 1), (1, 1)))
    there = (x != tensor.zero_point) + tensor.zero_point
    pairs = ones.accumulators(there, tensor) - tensor.zero_point * ones.weight.sum((1, 2, 3))
    assert row.products == pytest.approx(1 - pairs.sum() / (2 * row.macs))
    assert rows["scores"].macs == g.types["s1"].size * 5
    assert isinstance(op(g, "scores"), Gemm)
