"""Forms that files write out: a softmax, means, variances, scales of rows, guards, whole slices."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from hwgen.ir import Conv, Table
from hwgen.models.load import read
from hwgen.models.onnx.editor import Editor
from hwgen.models.onnx.forms import simplify
from hwgen.models.onnx.session import session
from hwgen.models.onnx.tokens import keep_tokens

N = helper.make_node
RANDOM = np.random.default_rng(0)
TOKENS, WIDTH = 6, 8


def weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


def model(nodes, shape=(1, TOKENS, WIDTH), opset=17, outputs=("y",), **constants):
    """A model with an input ``x``, shapes inferred."""
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    return shape_inference.infer_shapes(made, data_prop=True)


def kinds(made) -> list[str]:
    return [node.op_type for node in made.graph.node]


def same(before, after, tolerance=1e-5) -> None:
    """Both compute the same."""
    shape = [d.dim_value for d in before.graph.input[0].type.tensor_type.shape.dim]
    x = RANDOM.normal(1, 2, shape).astype(np.float32)
    for a, b in zip(session(before).run(None, {"x": x}), session(after).run(None, {"x": x}),
                    strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tolerance, rtol=1e-4)


def simplified(nodes, kept=(), **options):
    """A model before and after, and whether it has changed."""
    made = model(nodes, **options)
    before = onnx.ModelProto()
    before.CopyFrom(made)
    changed = simplify(made, kept)
    same(before, made)
    return made, changed


EXPONENTIALS = [
    N("ReduceMax", ["x"], ["m"], axes=[2], keepdims=0), N("Max", ["least", "m"], ["n"]),
    N("Reshape", ["n", "rows"], ["r"]), N("Sub", ["x", "r"], ["s"]), N("Exp", ["s"], ["e"]),
    N("ReduceSum", ["e", "last"], ["t"], keepdims=0), N("Reshape", ["t", "rows"], ["u"]),
    N("Div", ["e", "u"], ["y"])]
ROWS = {"least": np.float32(-np.inf), "rows": np.array([1, TOKENS, 1]), "last": np.array([2])}


def test_exponentials_and_their_sum_are_a_softmax():
    made, changed = simplified(EXPONENTIALS, **ROWS)
    assert changed
    assert kinds(made) == ["Softmax"]


def test_softmax_without_the_largest():
    made, _ = simplified([N("Exp", ["x"], ["e"]), N("ReduceSum", ["e", "last"], ["t"]),
                          N("Div", ["e", "t"], ["y"])], last=np.array([2]))
    assert kinds(made) == ["Softmax"]


def test_sums_of_others_stay():
    nodes = [N("Exp", ["x"], ["e"]), N("ReduceSum", ["x", "last"], ["t"]),
             N("Div", ["e", "t"], ["y"])]
    made, changed = simplified(nodes, last=np.array([2]))
    assert not changed
    assert kinds(made) == ["Exp", "ReduceSum", "Div"]


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("last", [N("Mul", ["t", "c"], ["y"]), N("Div", ["t", "d"], ["y"]),
                                  N("Mul", ["c", "t"], ["y"])])
def test_sum_by_its_number_is_a_mean(last, opset):
    made, _ = simplified([N("ReduceSum", ["x", "axis"], ["t"], keepdims=0), last], opset=opset,
                         axis=np.array([-1]), c=np.float32(1 / WIDTH), d=np.float32(WIDTH))
    assert kinds(made) == ["ReduceMean"]


def test_sum_by_another_number_stays():
    made, changed = simplified([N("ReduceSum", ["x", "axis"], ["t"]), N("Mul", ["t", "c"], ["y"])],
                               axis=np.array([-1]), c=np.float32(1 / TOKENS))
    assert not changed
    assert kinds(made) == ["ReduceSum", "Mul"]


def variance(mean="r", end="y"):
    return [N("ReduceMean", ["x"], ["a"], axes=[1], keepdims=0), N("Mul", ["x", "x"], ["q"]),
            N("ReduceMean", ["q"], ["b"], axes=[1], keepdims=0), N("Mul", ["a", "a"], ["c"]),
            N("Sub", ["b", "c"], [end]), N("Reshape", ["a", "row"], [mean])]


ROW = {"row": np.array([1, 1, WIDTH]), "g": weights(1, TOKENS, 1)}


def test_mean_of_squares_without_that_of_the_mean():
    made, changed = simplified(variance(), **ROW)
    assert changed
    # The mean is taken first, and squares are those of what is left.
    assert kinds(made) == ["ReduceMean", "Sub", "Mul", "ReduceMean"]


def test_normalisation_as_flax_writes_it(tmp_path):
    nodes = [*variance(end="v"), N("Max", ["zero", "v"], ["w"]), N("Reshape", ["w", "row"], ["k"]),
             N("Sqrt", ["k"], ["s"]), N("Reciprocal", ["s"], ["i"]), N("Mul", ["i", "g"], ["j"]),
             N("Sub", ["x", "r"], ["d"]), N("Mul", ["d", "j"], ["y"])]
    made, _ = simplified(nodes, zero=np.float32(0), **ROW)
    # One difference serves both; constants come last.
    assert kinds(made).count("Sub") == 1
    assert kinds(made)[-2:] == ["Mul", "Mul"]
    assert "g" in made.graph.node[-1].input


def test_what_the_file_states_stays():
    made, changed = simplified(variance(), kept={"b"}, **ROW)
    assert not changed
    assert kinds(made)[4] == "Sub"


def test_guard_behind_a_softmax():
    nodes = [N("Softmax", ["x"], ["s"], axis=-1), N("IsNaN", ["s"], ["n"]),
             N("Where", ["n", "zero", "s"], ["y"])]
    made, changed = simplified(nodes, zero=np.float32(0))
    assert changed
    assert kinds(made) == ["Softmax", "Identity"]


def test_slice_of_everything():
    ends = {"begin": np.zeros(2, int), "end": np.full(2, 1 << 40), "axes": np.array([1, 2])}
    made, _ = simplified([N("Slice", ["x", "begin", "end", "axes"], ["y"])], **ends)
    assert kinds(made) == ["Identity"]
    turned, changed = simplified(
        [N("Slice", ["x", "last", "first", "axis", "back"], ["y"])], last=np.array([-1]),
        first=np.array([-100]), axis=np.array([2]), back=np.array([-1]))
    assert not changed
    assert kinds(turned) == ["Slice"]


def test_editor_drops_what_nothing_reads():
    made = model([N("Relu", ["x"], ["a"]), N("Mul", ["x", "c"], ["b"]), N("Exp", ["a"], ["y"])],
                 c=np.float32(2))
    editor = Editor(made)
    assert editor.constant("c") == 2
    assert [node.op_type for node in editor.readers("x")] == ["Relu", "Mul"]
    editor.drop_unread()
    assert kinds(made) == ["Relu", "Exp"]
    assert not made.graph.initializer


# Tokens in the place of frames

FLAT = [N("Reshape", ["x", "flat"], ["f"])]
BACK = N("Reshape", ["t", "back"], ["y"])
EXTENTS = {"flat": np.array([TOKENS, WIDTH]), "back": np.array([1, TOKENS, -1])}


@pytest.mark.parametrize("between", [
    [N("Gemm", ["f", "w", "b"], ["t"], alpha=0.5, beta=2.0)],
    [N("Gemm", ["f", "v"], ["t"], transB=1)],
    [N("MatMul", ["f", "w"], ["m"]), N("Add", ["m", "b"], ["n"]), N("Relu", ["n"], ["t"])],
    [N("MatMul", ["f", "w"], ["m"]), N("Softmax", ["m"], ["t"], axis=1)],
    [N("LayerNormalization", ["f", "s", "s"], ["m"]), N("MatMul", ["m", "w"], ["t"])],
])
def test_tokens_leave_the_place_of_frames(between):
    used = {i for node in between for i in node.input}
    constants = {"w": weights(WIDTH, 5), "v": weights(5, WIDTH), "b": weights(5),
                 "s": weights(WIDTH)}
    made = model([*FLAT, *between, BACK], **EXTENTS,
                 **{k: v for k, v in constants.items() if k in used})
    before = onnx.ModelProto()
    before.CopyFrom(made)
    assert keep_tokens(made, (), {})
    same(before, made)
    found = shape_inference.infer_shapes(made, data_prop=True).graph.value_info
    assert all(value.type.tensor_type.shape.dim[0].dim_value == 1 for value in found
               if value.name in {o for node in made.graph.node for o in node.output})


@pytest.mark.parametrize("between", [
    [N("Softmax", ["f"], ["t"], axis=0)],
    [N("Transpose", ["f"], ["m"], perm=[1, 0]), N("Exp", ["m"], ["t"])],
    [N("Gemm", ["f", "u", "c"], ["t"], transA=1)],
])
def test_tokens_that_meet_stay(between):
    used = {i for node in between for i in node.input}
    constants = {"u": weights(TOKENS, 5), "c": weights(5)}
    made = model([*FLAT, *between, N("Reshape", ["t", "whole"], ["y"])], **EXTENTS,
                 whole=np.array([1, -1]), **{k: v for k, v in constants.items() if k in used})
    before = made.SerializeToString()
    assert not keep_tokens(made, (), {})
    assert made.SerializeToString() == before


def test_network_of_flat_tokens(tmp_path):
    nodes = [N("MatMul", ["x", "v"], ["h"]), N("Reshape", ["h", "flat"], ["f"]),
             N("Gemm", ["f", "w", "b"], ["g"]), N("Sigmoid", ["g"], ["t"]), BACK]
    made = model(nodes, v=weights(WIDTH, WIDTH), w=weights(WIDTH, 5), b=weights(5), **EXTENTS)
    onnx.save(made, tmp_path / "net.onnx")
    graph = read(str(tmp_path / "net.onnx")).graph
    assert [type(node.op) for node in graph.nodes] == [Conv, Conv, Table]


PADDED = {"least": np.array(-np.inf, np.float32), "by": np.array([0, 0, 0, 1, 0, 0, 2, 1])}


@pytest.mark.parametrize("turned", [False, True])
def test_least_numbers_around_a_maximum(turned):
    """As timm's pools of TensorFlow's padding write it, also where a Transpose is moved between."""
    perm = [0, 2, 3, 1]
    sides = PADDED["by"].reshape(2, 4)
    by = np.empty_like(sides)
    by[:, perm] = sides
    nodes = [N("Pad", ["x", "by", "least"], ["p"])]
    nodes += [N("Transpose", ["p"], ["t"], perm=perm)] if turned else []
    pool = N("MaxPool", ["t" if turned else "p"], ["y"], kernel_shape=[3, 3], strides=[2, 2],
             pads=[1, 0, 0, 0])
    made, changed = simplified([*nodes, pool], shape=(1, 6, 7, 6), **(
        PADDED | {"by": by.ravel() if turned else PADDED["by"]}))
    assert changed
    assert kinds(made) == ["Transpose"] * turned + ["MaxPool"]
    (pads,) = (list(a.ints) for a in made.graph.node[-1].attribute if a.name == "pads")
    assert pads == [1, 1, 2, 1]


@pytest.mark.parametrize("fill, by", [
    (0.0, [0, 0, 0, 1, 0, 0, 0, 1]), (-np.inf, [0, 1, 0, 0, 0, 1, 0, 0]),
    (-np.inf, [0, 0, 0, 3, 0, 0, 0, 0]),
])
def test_pads_that_a_pool_cannot_have_stay(fill, by):
    nodes = [N("Pad", ["x", "by", "least"], ["p"]),
             N("MaxPool", ["p"], ["y"], kernel_shape=[3, 3])]
    _, changed = simplified(nodes, shape=(1, 3, 7, 6), least=np.array(fill, np.float32),
                            by=np.array(by))
    assert not changed
