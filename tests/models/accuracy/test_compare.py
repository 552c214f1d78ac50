"""The accuracy report: its figures against numpy, its worst layer, its hints, its layouts."""

import io
import json
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm, Graph, Quantisation, Requantise, Reshape, Table, TensorType
from hwgen.models.accuracy import measure
from hwgen.models.accuracy.frames import to_frame
from hwgen.models.accuracy.report import CEILING, Row, decibels
from hwgen.models.quantisation.calibrate import probe, statistics
from tests.models.float_networks import N, constants_of, network, noise
from tests.typed import of_kind

CONSTANTS = constants_of(w=(8, 3, 3, 3), b=(8,), v=(6, 8, 3, 3), m=(4, 216))
NODES = [N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), N("Relu", ["c"], ["r"]),
         N("Conv", ["r", "v"], ["d"], strides=[2, 2]), N("Tanh", ["d"], ["t"]),
         N("Flatten", ["t"], ["f"]), N("Gemm", ["f", "m"], ["y"], transB=1)]
FLOATS = {"first": "r", "second": "d", "tanh": "t", "flat": "f", "out": "y"}
SHAPES = {"x": (1, 3, 14, 14)}


def quantisation(limits, bits):
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    scale = (high - low) / ((1 << bits) - 1)
    bottom = -(1 << (bits - 1))
    return Quantisation(scale, round(bottom - low / scale), bits)


def rounded(weight, bits):
    scale = np.abs(weight.reshape(len(weight), -1)).max(1) / ((1 << (bits - 1)) - 1)
    return np.rint(weight / scale.reshape(-1, *(1,) * (weight.ndim - 1))).astype(int), scale


def build(net, ranges, weight_bits=8, bits=8, wide=(), narrow=()):
    """The integer graph of the network above, by hand."""
    graph = Graph()

    def of(name):
        kind = 16 if name in wide else 3 if name in narrow else bits
        return quantisation(ranges[name], kind)

    def conv(weight, bias, source, name, real, stride, pads):
        width = 3 if name in narrow else weight_bits
        q, scale = rounded(np.moveaxis(weight.astype(float), 1, -1), width)
        have = graph.types[source].quantisation
        whole = np.rint(bias / (scale * have.scale)).astype(int)
        whole = whole - have.zero_point * q.reshape(len(q), -1).sum(1)
        graph.add(Conv(q, whole, Requantise.from_scale(scale * have.scale / of(real).scale),
                       of(real), stride, pads, weight_bits=width), source, name=name)

    c = net.constants
    graph.add_input("x", TensorType((14, 14, 3), of("x")))
    conv(c["w"], c["b"], "x", "first", "r", (1, 1), ((1, 1), (1, 1)))
    conv(c["v"], np.zeros(6), "first", "second", "d", (2, 2), ((0, 0), (0, 0)))
    graph.add(Table.from_function(np.tanh, of("d"), of("t")), "second", name="tanh")
    graph.add(Reshape((216,)), "tanh", name="flat")
    order = np.moveaxis(np.arange(216).reshape(6, 6, 6), 0, -1).ravel()
    q, scale = rounded(c["m"][:, order].astype(float), weight_bits)
    bias = -of("t").zero_point * q.sum(1)
    graph.add(Gemm(q, bias, Requantise.from_scale(scale * of("t").scale / of("y").scale),
                   of("y"), weight_bits), "flat", name="out")
    graph.outputs = ["out"]
    graph.meta["floats"] = dict(FLOATS)
    return graph


@pytest.fixture(scope="module")
def case():
    net = network(NODES, CONSTANTS, SHAPES)
    feeds = noise(net, 3)
    return net, feeds, statistics(net, feeds).ranges


def by_name(accuracy):
    return {row.tensor: row for row in accuracy.rows}


def test_figures(case):
    net, feeds, ranges = case
    graph = build(net, ranges, 6, 7)
    accuracy = measure(net, graph, iter(feeds))
    rows = by_name(accuracy)
    assert list(rows) == ["x", "first", "second", "tanh", "flat", "out"]
    assert accuracy.frames == 3
    run = probe(net, [*FLOATS.values()])
    reals = [run(feed) for feed in feeds]

    def frames(name):
        stacked = np.concatenate([r[name] for r in reals])
        if name == "f":
            return np.moveaxis(stacked.reshape(3, 6, 6, 6), 1, -1).reshape(3, -1)
        return np.moveaxis(stacked, 1, -1)

    floats = {"x": "x", **FLOATS}
    codes = {t: graph.types[t].quantisation.quantise(frames(f)) for t, f in floats.items()}
    exact = graph.evaluate({"x": codes["x"]}, keep=list(floats))
    for node in graph.nodes:
        t = node.name
        q, real = graph.types[t].quantisation, frames(floats[t]).astype(float)
        (alone,) = node.op.evaluate([codes[i] for i in node.inputs],
                                    [graph.types[i] for i in node.inputs])
        for value, got in ((exact[t], rows[t].snr_db), (alone, rows[t].own_db),
                           (codes[t], rows[t].output_db)):
            wrong = np.square(q.dequantise(value) - real).sum()
            assert got == pytest.approx(10 * np.log10(np.square(real).sum() / wrong), abs=0.02)
        assert rows[t].input_db == rows[node.inputs[0]].output_db
        assert rows[t].own_db <= rows[t].output_db + 0.01
    assert rows["first"].snr_db == rows["first"].own_db
    assert (rows["first"].weight_bits, rows["first"].bits) == (6, 7)
    assert rows["tanh"].weight_bits is None
    assert rows["x"].op == "Input"


def test_worst_layer_and_hints(case):
    net, feeds, ranges = case

    def worst(graph) -> Row:
        return of_kind(measure(net, graph, feeds).worst, Row)

    row = worst(build(net, ranges, 8, 16, narrow=("second",)))
    assert (row.tensor, row.cause) == ("second", "weights")
    assert row.hint == "too few bits: give its weights more than 3"
    accuracy = measure(net, build(net, ranges, narrow=("t",)), feeds)
    assert by_name(accuracy)["tanh"].hint == "too few bits: give its activations more than 3"
    row = of_kind(accuracy.worst, Row)
    assert (row.tensor, row.cause) == ("out", "input")
    assert row.hint == "too few bits in front of it: see its input flat"
    row = worst(build(net, {**ranges, "d": (-0.3, 0.3)}))
    assert (row.tensor, row.cause) == ("second", "output")
    assert row.clipped > 0.1
    assert row.hint.startswith(f"its range is clipped, {row.clipped:.2%} of the values lie beyond")


def test_spread_of_weights(case):
    net, feeds, _ = case
    uneven = {**CONSTANTS, "v": CONSTANTS["v"].copy()}
    uneven["v"][:, 0] *= 40
    uneven["w"] = CONSTANTS["w"] / np.float32([40, *[1] * 7])[:, None, None, None]
    uneven["b"] = CONSTANTS["b"] / np.float32([40, *[1] * 7])
    net = network(NODES, uneven, SHAPES)
    ranges = statistics(net, feeds).ranges
    row = by_name(measure(net, build(net, ranges, 5, 16), feeds))["second"]
    assert row.spread > 10
    assert "channel spread is" in row.hint
    assert "equalise" in row.hint


def test_missing_and_unknown_names(case):
    net, feeds, ranges = case
    graph = build(net, ranges)
    whole = by_name(measure(net, graph, feeds))
    del graph.meta["floats"]["second"]
    graph.meta["floats"] |= {"nothing": "r", "first": "nowhere"}
    rows = by_name(measure(net, graph, feeds))
    assert list(rows) == ["x", "tanh", "flat", "out"]
    assert rows["out"] == whole["out"]
    # What the two convolutions do wrong is now the table's fault.
    assert rows["tanh"].own_db == rows["tanh"].snr_db < whole["tanh"].own_db
    assert by_name(measure(net, graph, feeds, FLOATS)) == whole
    graph.meta.clear()
    assert [row.op for row in measure(net, graph, feeds).rows] == ["Input"]
    assert measure(net, graph, feeds).worst is None


def test_report(case):
    net, feeds, ranges = case
    accuracy = measure(net, build(net, ranges), feeds)
    plain = json.loads(json.dumps(accuracy.plain(), allow_nan=False))["accuracy"]
    assert [row["tensor"] for row in plain] == [row.tensor for row in accuracy.rows]
    assert {"own_db", "snr_db", "clipped", "cause", "weight_bits"} <= set(plain[1])
    stream = io.StringIO()
    Console(file=stream, width=120).print(accuracy.table(limit=3))
    text = stream.getvalue()
    assert "accuracy over 3 frames" in text
    row = of_kind(accuracy.worst, Row)
    assert f"{row.tensor}: {row.hint}" in text
    assert text.count("Conv") + text.count("Table") + text.count("Gemm") + text.count("Resh") == 3


def test_errors(case):
    net, feeds, ranges = case
    graph = build(net, ranges)
    with pytest.raises(HwgenError, match=r"^The accuracy needs at least one frame"):
        measure(net, graph, [])
    other = Graph()
    other.add_input("x", TensorType((5, 5, 3)))
    with pytest.raises(HwgenError, match=r"^Tensor 'x' is 5x5x3 i8, but 'x' of the"):
        measure(net, other, feeds)


def test_decibels():
    assert decibels(100, 1) == pytest.approx(20)
    assert decibels(1, 0) == decibels(0, 0) == decibels(1, 1e-300) == CEILING
    assert decibels(0, 1) == -CEILING


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_channels_come_last(shape):
    shape = tuple(shape)
    frame = np.arange(np.prod(shape)).reshape(shape)
    first = np.moveaxis(frame, -1, 0)
    for value in (first[None], first.reshape(1, -1)):
        got = to_frame(value, shape)
        if got is None:
            # Only text or audio with as many channels as elements is unclear.
            assert len(set(shape)) < len(shape)
            assert value.ndim == 3
        else:
            np.testing.assert_array_equal(got, frame)


def test_layouts():
    value = np.arange(24).reshape(1, 4, 6)
    np.testing.assert_array_equal(to_frame(value, (4, 6)), value[0])
    np.testing.assert_array_equal(to_frame(value, (6, 4)), value[0].T)
    np.testing.assert_array_equal(to_frame(value, (1, 6, 4)), value[0].T[None])
    assert to_frame(value, (12, 2)) is None
    assert to_frame(np.zeros((1, 5, 5)), (5, 5)) is None
    assert to_frame(np.zeros((1, 5, 5, 5)), (5, 5, 5)) is not None
    assert to_frame(np.zeros((2, 5)), (5,)) is None
    assert to_frame(np.zeros(()), (1,)) is None
    shapes = {s for s in permutations((2, 3, 4)) if to_frame(np.zeros((1, 4, 2, 3)), s) is not None}
    assert shapes == {(2, 3, 4), (4, 2, 3)}


def test_what_a_relu_clears_is_no_error(case):
    """A convolution whose file quantises behind its ReLU is compared with what is behind it."""
    net, feeds, ranges = case
    rows = by_name(measure(net, build(net, ranges), feeds, {**FLOATS, "first": "c"}))
    assert rows["first"].float_tensor == "r"
    again = by_name(measure(net, build(net, ranges), feeds))
    assert rows["first"].own_db == again["first"].own_db
