"""Frames in any order, joined and padded along any axis, and constants of a whole frame."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.ir import Rearrange
from tests.models.float_networks import N
from tests.models.host.test_model import C, file, run
from tests.models.whole import CONV, LAST, compared, ints, weights


def gathered(axis: int, order: list[int]) -> tuple[list, dict]:
    return [CONV, N("Gather", ["c", "o"], ["t"], axis=axis), LAST], {
        "o": np.array(order), "e": weights(4, 8, 1, 1)}


FOUND = {
    # name: nodes, constants, the ops of the integer graph
    "depth to space": ([CONV, N("DepthToSpace", ["c"], ["t"], blocksize=2), LAST],
                       {"e": weights(4, 2, 1, 1)}, ["Conv", "Rearrange", "Conv"]),
    "pixel shuffle": ([CONV, N("DepthToSpace", ["c"], ["t"], blocksize=2, mode="CRD"), LAST],
                      {"e": weights(4, 2, 1, 1)}, ["Conv", "Rearrange", "Conv"]),
    "space to depth": ([CONV, N("SpaceToDepth", ["c"], ["t"], blocksize=2), LAST],
                       {"e": weights(4, 32, 1, 1)}, ["Conv", "Rearrange", "Conv"]),
    "reorg of YOLOv2": (
        [CONV, N("Reshape", ["c", "s1"], ["r"]), N("Transpose", ["r"], ["p"],
                                                   perm=[0, 3, 5, 1, 2, 4]),
         N("Reshape", ["p", "s2"], ["t"]), LAST],
        {"s1": ints(1, 8, 4, 2, 4, 2), "s2": ints(1, 32, 4, 4), "e": weights(4, 32, 1, 1)},
        ["Conv", "Rearrange", "Conv"]),
    "rows and columns exchanged": (
        [CONV, N("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2]), LAST],
        {"e": weights(4, 8, 3, 1)}, ["Conv", "Rearrange", "Conv"]),
    "pixels mixed": (
        [CONV, N("Reshape", ["c", "s"], ["r"]), N("MatMul", ["r", "k"], ["q"]),
         N("Relu", ["q"], ["a"]), N("Add", ["a", "r"], ["b"]), N("Reshape", ["b", "s2"], ["t"]),
         LAST],
        {"s": ints(1, 8, 64), "k": weights(64, 64), "s2": ints(1, 8, 8, 8),
         "e": weights(4, 8, 1, 1)}, None),
    "dense layer to frame": (
        [N("Flatten", ["x"], ["f"]), N("Gemm", ["f", "k"], ["g"]), N("Relu", ["g"], ["h"]),
         N("Reshape", ["h", "s"], ["t"]), LAST],
        {"k": weights(192, 128), "s": ints(1, 8, 4, 4), "e": weights(4, 8, 3, 3)},
        ["Gemm", "Reshape", "Conv"]),
    "flattened, normalised": (
        [CONV, N("Flatten", ["c"], ["f"]),
         N("BatchNormalization", ["f", "s", "b", "b", "v"], ["n"]), N("Gemm", ["n", "k"], ["y"])],
        {"s": weights(512), "b": weights(512), "v": abs(weights(512)) + 0.5,
         "k": weights(512, 10)}, ["Conv", "Reshape", "Conv", "Gemm"]),
    "flattened, joined": (
        [CONV, N("Flatten", ["c"], ["f"]), N("GlobalAveragePool", ["c"], ["g"]),
         N("Flatten", ["g"], ["h"]), N("Concat", ["h", "f"], ["j"], axis=1),
         N("Gemm", ["j", "k"], ["y"])], {"k": weights(520, 10)}, None),
    "reversed columns": (
        [CONV, N("Slice", ["c", "a", "b", "i", "s"], ["t"]), LAST],
        {"a": ints(-1), "b": ints(-99), "i": ints(3), "s": ints(-1), "e": weights(4, 8, 1, 1)},
        ["Conv", "Rearrange", "Conv"]),
    "rows chosen": (*gathered(2, [5, 0, 0, 3]), ["Conv", "Rearrange", "Conv"]),
    "rolled": (
        [CONV, N("Slice", ["c", "a", "b", "i"], ["p"]), N("Slice", ["c", "z", "a", "i"], ["q"]),
         N("Concat", ["p", "q"], ["t"], axis=3), LAST],
        {"a": ints(3), "b": ints(99), "z": ints(0), "i": ints(3), "e": weights(4, 8, 1, 1)}, None),
    "joined rows": ([CONV, N("MaxPool", ["c"], ["m"], kernel_shape=[2, 1], strides=[2, 1]),
                     N("Concat", ["c", "m"], ["t"], axis=2), LAST], {"e": weights(4, 8, 1, 1)},
                    None),
    "tiled": ([CONV, N("Tile", ["c", "n"], ["t"]), LAST],
              {"n": ints(1, 1, 2, 3), "e": weights(4, 8, 3, 3)}, ["Conv", "Rearrange", "Conv"]),
    "reflected": ([CONV, N("Pad", ["c", "p"], ["t"], mode="reflect"), LAST],
                  {"p": ints(0, 0, 1, 2, 0, 0, 3, 1), "e": weights(4, 8, 3, 3)},
                  ["Conv", "Rearrange", "Conv"]),
    "wrapped": ([CONV, N("Pad", ["c", "p"], ["t"], mode="wrap"), LAST],
                {"p": ints(0, 0, 1, 2, 0, 0, 3, 1), "e": weights(4, 8, 3, 3)},
                ["Conv", "Rearrange", "Conv"]),
    "channels padded": (
        [CONV, N("Slice", ["c", "z", "b", "i", "s"], ["h"]), N("Pad", ["h", "p"], ["t"]), LAST],
        {"z": ints(0, 0), "b": ints(99, 99), "i": ints(2, 3), "s": ints(2, 2),
         "p": ints(0, 4, 0, 0, 0, 4, 0, 0), "e": weights(4, 16, 1, 1)}, None),
    "channels padded with a value": (
        [CONV, N("Pad", ["c", "p", "v"], ["t"]), LAST],
        {"p": ints(0, 1, 1, 1, 0, 2, 0, 0), "v": np.float32(0.7), "e": weights(4, 11, 1, 1)}, None),
    "features padded": (
        [CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["f"]),
         N("Pad", ["f", "p"], ["h"]), N("Gemm", ["h", "k"], ["y"])],
        {"p": ints(0, 2, 0, 0), "k": weights(10, 4)}, None),
    "added frame": ([CONV, N("Add", ["c", "k"], ["t"]), LAST],
                    {"k": weights(8, 8, 8), "e": weights(4, 8, 1, 1)},
                    ["Conv", "Reshape", "Conv", "Reshape", "Conv"]),
    "subtracted from rows": ([CONV, N("Sub", ["k", "c"], ["t"]), LAST],
                             {"k": weights(8, 1), "e": weights(4, 8, 1, 1)}, None),
    "masked": ([CONV, N("Mul", ["c", "k"], ["t"]), LAST],
               {"k": np.triu(np.ones((8, 8), np.float32)), "e": weights(4, 8, 1, 1)}, None),
    "divided": ([CONV, N("Div", ["c", "k"], ["t"]), LAST],
                {"k": 1 + abs(weights(8, 8)), "e": weights(4, 8, 1, 1)}, None),
    "repeated by a constant": (
        [CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Add", ["g", "k"], ["t"]), LAST],
        {"k": weights(1, 8, 4, 4), "e": weights(4, 8, 1, 1)}, None),
    "larger of two": ([CONV, N("Conv", ["x", "v"], ["d"]), N("Max", ["c", "d"], ["t"]), LAST],
                      {"v": weights(8, 3, 1, 1), "e": weights(4, 8, 1, 1)},
                      ["Conv", "Conv", "Extremum", "Conv"]),
    "smallest of three": (
        [CONV, N("Conv", ["x", "v"], ["d"]), N("GlobalAveragePool", ["d"], ["g"]),
         N("Min", ["c", "g", "d"], ["t"]), LAST],
        {"v": weights(8, 3, 1, 1), "e": weights(4, 8, 1, 1)}, None),
    "maximum of channels": ([CONV, N("ReduceMax", ["c"], ["m"], axes=[1]),
                             N("Mul", ["c", "m"], ["t"]), LAST], {"e": weights(4, 8, 1, 1)}, None),
    "mean of channels": ([CONV, N("ReduceMean", ["c"], ["m"], axes=[1]),
                          N("Sub", ["c", "m"], ["t"]), LAST], {"e": weights(4, 8, 1, 1)}, None),
    "sum of rows": ([CONV, N("ReduceSum", ["c", "i"], ["t"]), LAST],
                    {"i": ints(2), "e": weights(4, 8, 1, 1)}, ["Conv", "AveragePool", "Conv"]),
    "smallest pixel": ([CONV, N("ReduceMin", ["c"], ["t"], axes=[2, 3]), LAST],
                       {"e": weights(4, 8, 1, 1)}, None),
    "mean of what has none": (
        [CONV, N("ReduceMean", ["c"], ["m"], axes=[1]), N("Sub", ["c", "m"], ["a"]),
         N("ReduceMean", ["a"], ["z"], axes=[1]), N("Sub", ["a", "z"], ["t"]), LAST],
        {"e": weights(4, 8, 1, 1)}, None),
    "mean of all": ([CONV, N("ReduceMean", ["c"], ["y"])], {}, None),
    "enlarged unevenly": ([CONV, N("Resize", ["c", "", "", "f"], ["t"], mode="nearest"), LAST],
                          {"f": ints(1, 8, 11, 13), "e": weights(4, 8, 1, 1)},
                          ["Conv", "Rearrange", "Conv"]),
    "interpolated, corners aligned": (
        [CONV, N("Resize", ["c", "", "", "f"], ["t"], mode="linear",
                 coordinate_transformation_mode="align_corners"), LAST],
        {"f": ints(1, 8, 16, 16), "e": weights(4, 8, 1, 1)}, None),
    "interpolated, no whole factor": (
        [CONV, N("Resize", ["c", "", "", "f"], ["t"], mode="linear"), LAST],
        {"f": ints(1, 8, 11, 5), "e": weights(4, 8, 1, 1)}, None),
    "bicubic": ([CONV, N("Resize", ["c", "", "", "f"], ["t"], mode="cubic",
                         cubic_coeff_a=-0.75), LAST],
                {"f": ints(1, 8, 16, 8), "e": weights(4, 8, 1, 1)}, None),
}


@pytest.mark.parametrize("name", FOUND)
def test_equals_the_file(name, tmp_path):
    nodes, constants, wanted = FOUND[name]
    opset = 13 if "mean" in name or "maximum" in name or "smallest pixel" in name else 19
    path = file(tmp_path, nodes, {"w": C["w"], **constants}, opset=opset)
    source, quality = compared(path)
    if wanted is not None:
        assert [type(node.op).__name__ for node in source.graph.nodes] == wanted
    assert quality > 30


def test_pieces_stay_as_large_as_they_can(tmp_path):
    """What shuffles pixels moves whole runs of channels: their order goes into the weights."""
    nodes, constants, _ = FOUND["pixel shuffle"]
    graph = run(file(tmp_path, nodes, {"w": C["w"], **constants}, opset=19))[0].graph
    ((op, source),) = [(n.op, n.inputs[0]) for n in graph.nodes if isinstance(n.op, Rearrange)]
    assert op.run(graph.types[source]) == 2


@pytest.mark.parametrize("shape, nodes", [
    ((1, 28, 28, 1), [N("Reshape", ["x", "s"], ["r"]), N("Conv", ["r", "k"], ["y"])]),
    ((1, 49, 10), [N("Unsqueeze", ["x", "a"], ["r"]), N("Conv", ["r", "k"], ["y"])]),
])
def test_inputs_come_as_their_reader_wants_them(shape, nodes, tmp_path):
    """The layout of an input is chosen so that no frame has to be put in another order."""
    constants = {"s": ints(-1, 1, 28, 28), "a": ints(1), "k": weights(4, 1, 3, 3)}
    source, *_ = run(file(tmp_path, nodes, constants, shape=shape))
    assert not any(isinstance(n.op, Rearrange) for n in source.graph.nodes)
