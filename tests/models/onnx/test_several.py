"""Quotients, choices, comparisons and sums of several streams."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import Add, Softmax, Table
from hwgen.models.load import read
from tests.models.float_networks import N
from tests.models.host.test_model import C, file, run
from tests.models.onnx.test_norms import ints, weights
from tests.models.whole import compared

TWO = [N("Conv", ["x", "w"], ["c"], pads=[1] * 4), N("Conv", ["x", "v"], ["d"], pads=[1] * 4)]
LAST = N("Conv", ["t", "e"], ["y"])
E = {"w": C["w"], "v": weights(8, 3, 3, 3), "e": weights(4, 8, 1, 1), "zero": np.float32(0),
     "one": np.float32(1)}

FOUND = {
    "quotient": ([N("Sigmoid", ["d"], ["s"]), N("Div", ["c", "s"], ["t"])], {}),
    "quotient by rows": (
        [N("ReduceMax", ["c"], ["m"], axes=[2]), N("Abs", ["m"], ["a"]),
         N("Add", ["a", "one"], ["b"]), N("Div", ["d", "b"], ["t"])], {}),
    "quotient whose codes have a 0": (
        [N("Relu", ["d"], ["r"]), N("Add", ["r", "third"], ["s"]), N("Div", ["c", "s"], ["t"])],
        {"third": np.float32(0.3)}),
    "vector by a stream": ([N("Sigmoid", ["d"], ["s"]), N("Div", ["k", "s"], ["t"])],
                           {"k": weights(8, 1, 1)}),
    "larger one": ([N("Greater", ["c", "d"], ["b"]), N("Where", ["b", "c", "d"], ["t"])], {}),
    "smaller one": ([N("LessOrEqual", ["c", "d"], ["b"]), N("Where", ["b", "c", "d"], ["t"])], {}),
    "bound by channel": ([N("Max", ["c", "k"], ["t"])], {"k": weights(8, 1, 1)}),
    "bound of a frame": ([N("Min", ["k", "c"], ["t"])], {"k": weights(1, 8, 8, 8)}),
    "several bounds of two": ([N("Max", ["c", "k", "d", "zero"], ["t"])], {"k": weights(8, 8)}),
    "mask": ([N("Where", ["k", "c", "d"], ["t"])], {"k": weights(8, 8) > 0}),
    "mask of a frame": ([N("Where", ["k", "c", "zero"], ["t"])], {"k": weights(8, 8, 8) > 0}),
    "sum of three": ([N("Sum", ["c", "d", "k"], ["t"])], {"k": weights(8, 1, 1)}),
    "sum of one": ([N("Sum", ["c"], ["t"])], {}),
    "mean of three": ([N("Relu", ["d"], ["r"]), N("Mean", ["c", "d", "r"], ["t"])], {}),
    "mean with a vector": ([N("GlobalAveragePool", ["c"], ["g"]), N("Mean", ["g", "d"], ["t"])],
                           {}),
    "choice of branches": (
        [N("Concat", ["c", "d"], ["j"], axis=1), N("Reshape", ["j", "s"], ["r"]),
         N("Softmax", ["r"], ["m"], axis=1), N("Reshape", ["m", "h"], ["t"])],
        {"s": ints(1, 2, 8, 8, 8), "h": ints(1, 16, 8, 8), "e": weights(4, 16, 1, 1)}),
    "choice of channels": (
        [N("Conv", ["c", "e"], ["z"]), N("Softmax", ["z"], ["t"], axis=1)],
        {"e": weights(4, 8, 1, 1), "e2": weights(3, 4, 1, 1)}),
    "gated half": ([N("Split", ["c"], ["p", "q"], axis=1), N("Sigmoid", ["q"], ["s"]),
                    N("Mul", ["p", "s"], ["t"])], {"e": weights(3, 4, 1, 1)}),
    "gated rows": ([N("Split", ["c"], ["p", "q"], axis=2), N("Sigmoid", ["q"], ["s"]),
                    N("Mul", ["p", "s"], ["t"])], {}),
    "gated columns": ([N("Split", ["c"], ["p", "q"], axis=3), N("Tanh", ["q"], ["s"]),
                       N("Mul", ["p", "s"], ["t"])], {}),
}


@pytest.mark.parametrize("name", FOUND)
def test_equals_the_file(name, tmp_path):
    nodes, constants = FOUND[name]
    last = N("Conv", ["t", "e2"], ["y"]) if "e2" in constants else LAST
    path = file(tmp_path, [*TWO, *nodes, last], {**E, **constants}, opset=13)
    decibels = compared(path)[1]
    assert decibels > 30


DECIDED = {
    "constants": [N("Greater", ["c", "d"], ["b"])],
    "equal": [N("Greater", ["c", "zero"], ["m"]), N("Cast", ["m"], ["n"], to=1),
              N("Greater", ["d", "zero"], ["o"]), N("Cast", ["o"], ["p"], to=1),
              N("Equal", ["n", "p"], ["b"])],
    **{kind: [N("Greater", ["c", "zero"], ["p"]), N("Less", ["d", "zero"], ["q"]),
              N(kind, ["p", "q"], ["b"])] for kind in ("And", "Or", "Xor")},
    "not": [N("Greater", ["c", "zero"], ["p"]), N("Less", ["d", "zero"], ["q"]),
            N("Or", ["p", "q"], ["o"]), N("Not", ["o"], ["b"])],
}


@pytest.mark.parametrize("name", DECIDED)
def test_decisions_are_those_of_the_file(name, tmp_path):
    """All but those that hang by less than a step of the codes."""
    path = file(tmp_path, [*TWO, *DECIDED[name], N("Where", ["b", "k", "one"], ["y"])],
                {**E, "k": np.float32(-0.5)})
    _, _, wanted, got = run(path)
    close = [abs(a - b) < 0.01 for (a,), (b,) in zip(wanted, got, strict=True)]
    assert np.mean(close) > 0.97


def test_a_condition_is_an_output(tmp_path):
    path = file(tmp_path, [*TWO, N("Greater", ["c", "d"], ["y"])], E)
    _, _, wanted, got = run(path)
    for (want,), (value,) in zip(wanted, got, strict=True):
        assert want.dtype == value.dtype == bool
        assert (want == value).mean() > 0.97


def test_a_function_of_one_stream_stays_one_table(tmp_path):
    nodes = [*TWO, N("Abs", ["d"], ["a"]), N("Add", ["a", "one"], ["b"]),
             N("Div", ["d", "b"], ["t"]), LAST]
    source, decibels = compared(file(tmp_path, nodes, E))
    assert decibels > 30
    assert [type(node.op).__name__ for node in source.graph.nodes] == ["Conv", "Table", "Conv"]


def test_a_reciprocal_saturates(tmp_path):
    """Codes include 0, though no value of the calibration was: its reciprocal is the largest."""
    nodes, constants = FOUND["quotient whose codes have a 0"]
    graph = read(str(file(tmp_path, [*TWO, *nodes, LAST], {**E, **constants}))).graph
    (table,) = [node for node in graph.nodes if type(node.op).__name__ == "Table"]
    type_in = graph.types[table.inputs[0]].quantisation
    values = np.asarray(table.op.values)  # pyright: ignore[reportAttributeAccessIssue]
    assert values[type_in.zero_point - type_in.low] == values.max()


@pytest.mark.parametrize("nodes, constants, message", [
    ([N("Abs", ["c"], ["a"]), N("Pow", ["a", "k"], ["t"])], {"k": 1 + abs(weights(8, 1, 1))},
     "exponents are a stream, or differ from element to element"),
    ([N("Abs", ["c"], ["a"]), N("Pow", ["a", "d"], ["t"])], {},
     "exponents are a stream, or differ from element to element"),
    ([N("Mod", ["c", "d"], ["t"], fmod=1)], {}, r"^Node 't': remainders are not supported"),
    ([N("LogSoftmax", ["c"], ["t"], axis=1)], {}, "LogSoftmax in front of other layers"),
    ([N("LayerNormalization", ["c", "k"], ["l", "m"]), N("Add", ["l", "m"], ["t"])],
     {"k": weights(8)}, "outputs Mean and InvStdDev are not supported"),
    ([N("Relu", ["c"], ["r"]), N("Sub", ["r", "one"], ["a"]), N("Abs", ["a"], ["b"]),
      N("Add", ["b", "one"], ["f"]), N("Asin", ["f"], ["t"])], {}, "infinite or NaN"),
])
def test_refused(nodes, constants, message, tmp_path):
    with pytest.raises(HwgenError, match=message):
        read(str(file(tmp_path, [*TWO, *nodes, LAST], {**E, **constants})))


def test_softmax_over_more_elements_is_an_op(tmp_path):
    nodes = [N("Conv", ["c", "k"], ["z"]), N("Softmax", ["z"], ["t"], axis=1)]
    constants = {"k": weights(12, 8, 1, 1), "e": weights(4, 12, 1, 1)}
    source, decibels = compared(file(tmp_path, [*TWO, *nodes, LAST], {**E, **constants}))
    assert decibels > 30
    assert [node.op.groups for node in source.graph.nodes if isinstance(node.op, Softmax)] == [1]


def test_peaks_are_what_is_their_own_maximum(tmp_path):
    """The difference is 0 or far from it in steps of its operands, whatever calibration saw."""
    path = file(tmp_path, [
        *TWO, N("MaxPool", ["c"], ["m"], kernel_shape=[3, 3], pads=[1] * 4),
        N("GreaterOrEqual", ["c", "m"], ["b"]), N("Cast", ["b"], ["f"], to=1),
        N("Mul", ["f", "d"], ["t"]), LAST], E, opset=13)
    source = read(str(path))
    graph = source.graph
    (sub,) = (n for n in graph.nodes if isinstance(n.op, Add))
    steps = [graph.types[name].scale for name in sub.inputs]
    assert graph.types[sub.name].scale >= min(steps) / 1024


def test_whole_numbers_have_codes(tmp_path):
    path = file(tmp_path, [*TWO, N("Floor", ["c"], ["f"]), N("Mul", ["f", "d"], ["t"]), LAST], E,
                opset=13)
    graph = read(str(path)).graph
    (floor,) = (n for n in graph.nodes if isinstance(n.op, Table))
    assert graph.types[floor.name].scale == 1
