"""Parts of a frame that stand where the batch does: networks that compute the same with an axis."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.load import read
from hwgen.models.onnx.groups import keep_frames
from hwgen.models.onnx.session import session
from hwgen.models.onnx.shapes import infer_shapes
from tests.models.whole import compared

N = helper.make_node
RANDOM = np.random.default_rng(0)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


CONSTANTS = {
    "w": RANDOM.normal(0, 0.4, (6, 6)), "b": RANDOM.normal(0, 0.3, 6),
    "apart": ints(4, 5, 6), "whole": ints(1, 20, 6), "rows": ints(20, 6), "three": ints(3, 3),
    "zero": ints(0), "one": ints(1), "two": ints(2), "four": ints(4), "last": ints(-1),
    "scalar": np.array(1, np.int64), "shape": ints(4, 5, 2, 3), "wide": ints(4, 5, 6),
    "plus": RANDOM.uniform(0.5, 1.5, 6), "mean": RANDOM.normal(0, 0.2, 6),
    "pads": ints(0, 1, 0, 0, 1, 0), "repeats": ints(1, 2, 1), "some": ints(2, 0, 1),
    "bias": RANDOM.normal(0, 0.3, (4, 1, 6)), "line": RANDOM.normal(0, 0.3, (1, 5, 6)),
}
APART = N("Reshape", ["x", "apart"], ["a"])
BACK = N("Reshape", ["c", "whole"], ["d"])
END = N("MatMul", ["d", "w"], ["y"])
FORMS = {
    "MatMul": [APART, N("MatMul", ["a", "w"], ["c"])],
    "Gemm": [N("Reshape", ["x", "rows"], ["a"]),
             N("Gemm", ["a", "w", "b"], ["c"], alpha=0.5, beta=2.0, transB=1)],
    "BatchNormalization": [N("Reshape", ["x", "rows"], ["a"]),
                           N("BatchNormalization", ["a", "plus", "b", "mean", "plus"], ["c"])],
    "LayerNormalization": [APART, N("LayerNormalization", ["a", "plus", "b"], ["c"], axis=2)],
    "sum with constants": [APART, N("Add", ["a", "bias"], ["s"]), N("Add", ["line", "s"], ["c"])],
    "Transpose": [APART, N("Transpose", ["a"], ["t"], perm=[1, 0, 2]),
                  N("MatMul", ["t", "w"], ["m"]), N("Transpose", ["m"], ["c"], perm=[1, 0, 2])],
    "Transpose without an order": [
        APART, N("Transpose", ["a"], ["t"]), N("Transpose", ["t"], ["c"])],
    "Split and Concat": [APART, N("Split", ["a", "three"], ["p", "q"], axis=-1),
                         N("Relu", ["p"], ["r"]), N("Concat", ["q", "r"], ["c"], axis=2)],
    "Split of groups": [APART, N("Split", ["a"], ["p", "q"], axis=0),
                        N("Concat", ["q", "p"], ["c"], axis=0)],
    "Slice": [APART, N("Slice", ["a", "one", "four", "one"], ["p"]),
              N("Slice", ["a", "zero", "one", "one"], ["q"]),
              N("Slice", ["a", "zero", "one", "one"], ["r"]),
              N("Concat", ["p", "q", "r"], ["c"], axis=1)],
    "Gather": [APART, N("Gather", ["a", "some"], ["g"], axis=0),
               N("Gather", ["a", "scalar"], ["s"], axis=0),
               N("Unsqueeze", ["s", "zero"], ["u"]), N("Concat", ["g", "u"], ["c"], axis=0)],
    "Squeeze and Flatten": [APART, N("Unsqueeze", ["a", "one"], ["u"]),
                            N("Squeeze", ["u", "one"], ["s"]), N("Flatten", ["s"], ["c"])],
    "Pad": [APART, N("Pad", ["a", "pads"], ["p"]), N("Slice", ["p", "one", "last", "one"], ["c"])],
    "mean": [APART, N("ReduceMean", ["a"], ["m"], axes=[1]), N("Sub", ["a", "m"], ["c"])],
    "Softmax": [APART, N("Reshape", ["a", "shape"], ["s"]), N("Softmax", ["s"], ["p"], axis=3),
                N("Reshape", ["p", "wide"], ["c"])],
    "other streams": [APART, N("Reshape", ["x", "wide"], ["o"]), N("Mul", ["a", "o"], ["m"]),
                      N("ReduceMean", ["a"], ["f"], axes=[0], keepdims=1),
                      N("Add", ["m", "f"], ["c"])],
}


def model_of(nodes, outputs=("y",)) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", 1, [1, 20, 6])],
        [helper.make_tensor_value_info(name, 1, None) for name in outputs],
        [numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), k)
         for k, v in CONSTANTS.items() if k in used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    found = infer_shapes(model).graph
    model.graph.value_info.extend(found.value_info)
    for value, known in zip(model.graph.output, found.output, strict=True):
        value.CopyFrom(known)
    return model


def first_axes(model: onnx.ModelProto) -> set[int]:
    """Extents of the first axis of all tensors."""
    found = infer_shapes(model).graph
    return {value.type.tensor_type.shape.dim[0].dim_value
            for value in (*found.value_info, *found.output)}


@pytest.mark.parametrize("form", FORMS)
def test_computes_the_same_with_an_axis_in_front(form):
    model = model_of([*FORMS[form], BACK, END])
    x = {"x": RANDOM.normal(0, 1, (1, 20, 6)).astype(np.float32)}
    (wanted,) = session(model).run(None, x)
    keep_frames(model, {})
    assert first_axes(model) == {1}
    (got,) = session(model).run(None, x)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_what_is_behind_the_last_weights_stays():
    """It may be the host's, which takes it as it is; outputs keep their shapes."""
    nodes = [APART, N("MatMul", ["a", "w"], ["y"]), N("Softmax", ["y"], ["z"])]
    model = model_of(nodes, ("y", "z"))
    x = {"x": RANDOM.normal(0, 1, (1, 20, 6)).astype(np.float32)}
    wanted = session(model).run(None, x)
    keep_frames(model, {})
    assert model.graph.node[-1].op_type == "Softmax"
    assert model.graph.node[-1].input[0] == "y"
    for got, want in zip(session(model).run(None, x), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_network_without_such_parts_stays_as_it_is():
    model = model_of([N("MatMul", ["x", "w"], ["c"]), BACK, END])
    before = model.SerializeToString()
    keep_frames(model, {})
    assert model.SerializeToString() == before


def test_goes_through_the_lowering(tmp_path):
    """Tokens as rows of a matrix, with a layer and a normalisation of their own."""
    onnx.save(model_of([*FORMS["Gemm"], BACK, END]), tmp_path / "net.onnx")
    source, decibels = compared(str(tmp_path / "net.onnx"))
    assert decibels > 35
    assert len(source.graph.nodes) == 2


def test_refuses_what_mixes_them(tmp_path):
    nodes = [APART, N("CumSum", ["a", "scalar"], ["c"]), BACK, END]
    onnx.save(model_of(nodes), tmp_path / "net.onnx")
    with pytest.raises(HwgenError, match=r"Node 'c' \(CumSum\): its first axis is a "
                       r"part of a frame, not the batch, in \[4, 5, 6\]"):
        read(str(tmp_path / "net.onnx"))


@pytest.mark.parametrize("by", [0, 1, 3])
def test_a_roll_is_another_order(by, tmp_path):
    """Also by 0, which joins a frame to nothing; a roll back to where it was costs nothing."""
    parts = {f"{name}{k}": ints(n) for k, n in enumerate((0, 20 - by, 20)) for name in "n"}
    CONSTANTS.update(parts)
    nodes = [N("MatMul", ["x", "w"], ["m"]), N("Slice", ["m", "n1", "n2", "one"], ["p"]),
             N("Slice", ["m", "n0", "n1", "one"], ["q"]), N("Concat", ["p", "q"], ["d"], axis=1),
             N("Relu", ["d"], ["e"]), N("MatMul", ["e", "w"], ["y"])]
    model = model_of(nodes)
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "net.onnx")
    source, decibels = compared(str(tmp_path / "net.onnx"))
    assert decibels > 35
    kinds = [type(node.op).__name__ for node in source.graph.nodes]
    assert "Concat" not in kinds
    assert kinds.count("Rearrange") == (1 if by else 0)
