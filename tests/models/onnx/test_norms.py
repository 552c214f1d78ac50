"""Normalisations and norms, as files have them and as they write them out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hwgen.ir import Conv, LayerNorm, Table
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout
from hwgen.models.load import read
from hwgen.models.onnx.network import FINE
from hwgen.models.onnx.session import session
from tests.models.float_networks import N
from tests.models.host.test_model import C, file
from tests.models.whole import CONV, LAST, compared, ints, weights


def turned(a: str, b: str, *perm: int):
    return N("Transpose", [a], [b], perm=list(perm))


E = {"w": C["w"], "e": weights(4, 8, 1, 1)}
S = {**E, "s": 1 + weights(8), "b": weights(8)}
COLUMN = {"s": 1 + weights(8, 1, 1), "b": weights(8, 1, 1)}
TWO = {"two": np.float32(2), "eps": np.float32(1e-6)}
POINT = {"Resize": 2, "Add": 1, "Mul": 2, "Table": 1}

NORMS = {
    # name: nodes, constants, opset
    "instance": ([CONV, N("InstanceNormalization", ["c", "s", "b"], ["t"]), LAST], S, 17),
    "instance at the end": (
        [CONV, N("InstanceNormalization", ["c", "s", "b"], ["y"])], S, 17),
    "group": ([CONV, N("GroupNormalization", ["c", "s", "b"], ["t"], num_groups=2), LAST], S, 21),
    "one group": (
        [CONV, N("GroupNormalization", ["c", "s", "b"], ["t"], num_groups=1), LAST], S, 21),
    "as many groups as channels": (
        [CONV, N("GroupNormalization", ["c", "s", "b"], ["t"], num_groups=8), LAST], S, 21),
    "two in a row": (
        [CONV, N("GroupNormalization", ["c", "s", "b"], ["g"], num_groups=2),
         N("Relu", ["g"], ["r"]), N("Conv", ["r", "k"], ["d"]),
         N("GroupNormalization", ["d", "s", "b"], ["t"], num_groups=4), LAST],
        {**S, "k": weights(8, 8, 1, 1)}, 21),
    "group of PyTorch": (
        [CONV, N("Reshape", ["c", "g"], ["r"]),
         N("InstanceNormalization", ["r", "one", "zero"], ["i"]), N("Reshape", ["i", "h"], ["n"]),
         N("Mul", ["n", "s"], ["m"]), N("Add", ["m", "b"], ["a"]), N("Relu", ["a"], ["t"]), LAST],
        {**E, **COLUMN, "one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32),
         "g": ints(0, 4, -1), "h": ints(1, 8, 8, 8)}, 17),
    "group with its own scales": (
        [CONV, N("Reshape", ["c", "g"], ["r"]),
         N("InstanceNormalization", ["r", "s", "b"], ["i"]), N("Reshape", ["i", "h"], ["t"]),
         LAST],
        {**E, "s": 1 + weights(4), "b": weights(4), "g": ints(0, 4, -1), "h": ints(1, 8, 8, 8)},
        17),
    "group of features": (
        [CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["f"]),
         N("GroupNormalization", ["f", "s", "b"], ["t"], num_groups=2),
         N("Gemm", ["t", "k"], ["g4"]), N("Reshape", ["g4", "h"], ["y"])],
        {**S, "k": weights(8, 4), "h": ints(1, 4, 1, 1)}, 21),
    "layer of ConvNeXt": (
        [CONV, turned("c", "p", 0, 2, 3, 1), N("LayerNormalization", ["p", "s", "b"], ["l"]),
         turned("l", "t", 0, 3, 1, 2), LAST], S, 17),
    "layer of all": ([CONV, N("LayerNormalization", ["c", "s", "b"], ["t"], axis=1), LAST],
                     {**E, "s": 1 + weights(8, 8, 8), "b": weights(8, 8, 8)}, 17),
    "layer of tokens": (
        [CONV, N("Reshape", ["c", "g"], ["r"]), turned("r", "p", 0, 2, 1),
         N("LayerNormalization", ["p", "s", "b"], ["l"]), N("MatMul", ["l", "k"], ["y"])],
        {**S, "g": ints(1, 8, 64), "k": weights(8, 6)}, 17),
    "layer of features": (
        [CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["f"]),
         N("LayerNormalization", ["f", "s", "b"], ["l"]), N("Gemm", ["l", "k"], ["y"])],
        {**S, "k": weights(8, 4)}, 17),
    "layer written out, channels first": (
        [CONV, N("ReduceMean", ["c"], ["u"], axes=[1]), N("Sub", ["c", "u"], ["d"]),
         N("Pow", ["d", "two"], ["q"]), N("ReduceMean", ["q"], ["v"], axes=[1]),
         N("Add", ["v", "eps"], ["g"]), N("Sqrt", ["g"], ["r"]), N("Div", ["d", "r"], ["n"]),
         N("Mul", ["n", "s"], ["m"]), N("Add", ["m", "b"], ["t"]), LAST],
        {**E, **COLUMN, **TWO}, 17),
    "root mean square": (
        [CONV, turned("c", "p", 0, 2, 3, 1), N("RMSNormalization", ["p", "s"], ["l"]),
         turned("l", "t", 0, 3, 1, 2), LAST], S, 23),
    "root mean square, written out": (
        [CONV, N("Pow", ["c", "two"], ["q"]), N("ReduceMean", ["q"], ["v"], axes=[1]),
         N("Add", ["v", "eps"], ["g"]), N("Sqrt", ["g"], ["r"]), N("Reciprocal", ["r"], ["i"]),
         N("Mul", ["c", "i"], ["n"]), N("Mul", ["n", "s"], ["t"]), LAST],
        {**E, **COLUMN, **TWO}, 17),
    "mean and variance": ([CONV, N("MeanVarianceNormalization", ["c"], ["n"]),
                           N("Add", ["n", "b"], ["t"]), LAST], {**E, **COLUMN}, 13),
    "mean and variance of all": (
        [CONV, N("MeanVarianceNormalization", ["c"], ["t"], axes=[0, 1, 2, 3]), LAST], E, 13),
    "layer as two means": (
        [CONV, N("ReduceMean", ["c"], ["m"], axes=[1]), N("Mul", ["c", "c"], ["q"]),
         N("ReduceMean", ["q"], ["p"], axes=[1]), N("Mul", ["m", "m"], ["n"]),
         N("Sub", ["p", "n"], ["v"]), N("Max", ["v", "none"], ["g"]), N("Add", ["g", "eps"], ["h"]),
         N("Sqrt", ["h"], ["r"]), N("Sub", ["c", "m"], ["d"]), N("Div", ["d", "r"], ["t"]), LAST],
        {**E, "eps": np.float32(1e-5), "none": np.float32(0)}, 17),
    "L2": ([CONV, N("LpNormalization", ["c"], ["t"], axis=1), LAST], E, 17),
    "L1": ([CONV, N("LpNormalization", ["c"], ["t"], axis=1, p=1), LAST], E, 17),
    "L2 of PyTorch": (
        [CONV, N("ReduceL2", ["c"], ["n"], axes=[1]), N("Clip", ["n", "lo"], ["l"]),
         N("Expand", ["l", "h"], ["p"]), N("Div", ["c", "p"], ["t"]), LAST],
        {**E, "lo": np.float32(1e-12), "h": ints(1, 8, 8, 8)}, 17),
    "local response": (
        [CONV, N("LRN", ["c"], ["t"], size=5, alpha=0.5, bias=1.0), LAST], E, 17),
}


@pytest.mark.parametrize("name", NORMS)
def test_equals_the_file(name, tmp_path):
    nodes, constants, opset = NORMS[name]
    source, decibels = compared(file(tmp_path, nodes, constants, opset=opset))
    assert decibels > 30
    # What is between is fine, and what a block normalises; other tensors have 8 bits.
    wide = {name for name, type in source.graph.types.items() if type.bits > 8}
    assert wide
    blocks = [n for n in source.graph.nodes if isinstance(n.op, LayerNorm)]
    assert "c" not in wide or blocks
    assert not {"t", "y", *(node.name for node in blocks)} & wide


@pytest.mark.parametrize("name", [
    "layer of tokens", "layer of ConvNeXt", "layer written out, channels first",
    "layer as two means",
    "root mean square", "root mean square, written out"])
def test_of_each_pixel_are_blocks(name, tmp_path):
    nodes, constants, opset = NORMS[name]
    ops = [node.op for node in read(str(file(tmp_path, nodes, constants, opset=opset))).graph.nodes]
    (norm,) = [op for op in ops if isinstance(op, LayerNorm)]
    assert norm.centred == name.startswith("layer")
    # Scale and shift are in the weights behind.
    assert not any(isinstance(op, Conv) and op.groups > 1 for op in ops)


@pytest.mark.parametrize("kind", [
    "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp", "ReduceLogSum"])
@pytest.mark.parametrize("axes, opset", [([1], 13), ([2, 3], 13), ([1], 18), (None, 18)])
def test_norms_along_axes(kind, axes, opset, tmp_path):
    front = [CONV, N("Exp", ["c"], ["p"])]
    norm = N(kind, ["p"], ["n"], axes=axes) if opset < 18 else N(kind, ["p", *["a"] * bool(axes)],
                                                                 ["n"])
    path = file(tmp_path, [*front, norm, N("Mul", ["p", "n"], ["t"]), LAST],
                {**E, "a": ints(*(axes or [0]))}, opset=opset)
    assert compared(path)[1] > 30


def test_a_norm_without_its_axes(tmp_path):
    nodes = [CONV, N("ReduceL2", ["c"], ["y"], axes=[2, 3], keepdims=0)]
    assert compared(file(tmp_path, nodes, E, opset=13))[1] > 30


def test_one_frame_is_held_and_squares_are_products(tmp_path):
    nodes, constants, _ = NORMS["instance"]
    graph = read(str(file(tmp_path, nodes, constants))).graph
    assert Counter(type(node.op).__name__ for node in graph.nodes) == {
        "Conv": 3, "GlobalAveragePool": 2, **POINT}
    assert {type.bits for type in graph.types.values()} == {8, FINE}


@pytest.mark.parametrize("precision, most", [("w8a8", FINE), ("w4a4", FINE), ("w8a16", 16)])
def test_fine_codes_are_at_least_as_fine_as_others(precision, most, tmp_path):
    nodes, constants, _ = NORMS["group of PyTorch"]
    graph = read(str(file(tmp_path, nodes, constants)), precision=precision).graph
    (table,) = [node for node in graph.nodes if isinstance(node.op, Table)]
    assert graph.types[table.inputs[0]].bits == most
    assert max(type.bits for type in graph.types.values()) == most


def test_ranges_of_what_is_fine_are_whole(tmp_path):
    """Squares have rare large values, which other ways of calibration would clip."""
    nodes, constants, _ = NORMS["instance"]
    path = file(tmp_path, nodes, constants)
    for method in ("percentile", "mse"):
        assert compared(path, calibrate=method)[1] > 25


def test_quantisers_around_a_normalisation_keep_their_codes(tmp_path):
    quantised = [N("QuantizeLinear", ["t", "q", "z"], ["i"]),
                 N("DequantizeLinear", ["i", "q", "z"], ["u"])]
    nodes = [CONV, N("InstanceNormalization", ["c", "s", "b"], ["t"]), *quantised,
             N("Conv", ["u", "e"], ["y"])]
    path = file(tmp_path, nodes, {**S, "q": np.float32(0.05), "z": np.uint8(128)})
    source, decibels = compared(path)
    assert decibels > 30
    (layer,) = [node for node in source.graph.nodes if node.outputs == ("y",)]
    assert source.graph.types[layer.inputs[0]].scale == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["instance", "group", "layer of tokens", "local response"])
def test_integer_onnx_computes_the_same(name, tmp_path):
    nodes, constants, opset = NORMS[name]
    source = read(str(file(tmp_path, nodes, constants, opset=opset)))
    frames = source.calibration(2)
    wanted = source.graph.evaluate(frames, keep=list(source.graph.types))
    runner = session(to_integer(source.graph))
    found = runner.run(None, {name: to_onnx_layout(x) for name, x in frames.items()})
    for value, codes in zip(runner.get_outputs(), found, strict=True):
        np.testing.assert_array_equal(from_onnx_layout(codes), wanted[value.name])
