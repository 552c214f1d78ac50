"""What belongs to a layer and stands behind a move of its results; padding in front of one."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.models.onnx.moves import settle_moves
from tests.models.float_networks import N
from tests.models.host.test_model import file
from tests.models.whole import compared, ints, weights

LAST = {"w": weights(8, 3, 3, 3), "e": weights(4, 8, 3, 3), "b": weights(8), "c": weights(8) ** 2}
CONV = N("Conv", ["x", "w"], ["a"], pads=[1] * 4)
TURN = N("Transpose", ["a"], ["t"], perm=[0, 2, 3, 1])
BACK = N("Transpose", ["r"], ["s"], perm=[0, 3, 1, 2])
END = N("Conv", ["s", "e"], ["y"])
BEHIND = [N("Add", ["t", "b"], ["m"]), N("Mul", ["c", "m"], ["n"]), N("Relu", ["n"], ["r"])]

LAYERS = {
    # Keras on PyTorch: the bias comes behind the transposition.
    "transposed": ([CONV, TURN, *BEHIND, BACK, END], {}, (1, 3, 10, 10), 2),
    "output": ([CONV, TURN, N("Add", ["t", "b"], ["m"]), N("Clip", ["m", "low", "high"], ["y"])],
               {"low": np.float32(-0.5), "high": np.float32(0.75)}, (1, 3, 10, 10), 1),
    "both readers": ([CONV, TURN, *BEHIND, BACK, N("Add", ["a", "s"], ["y"])], {}, (1, 3, 10, 10),
                     3),
    # TensorFlow: a sequence is an image of one row.
    "squeezed": (
        [N("Unsqueeze", ["x", "axis"], ["u"]), N("Conv", ["u", "k"], ["a"], pads=[0, 1, 0, 1]),
         N("Squeeze", ["a", "axis"], ["t"]), N("Add", ["t", "column"], ["m"]),
         N("PRelu", ["m", "column"], ["r"]), N("Unsqueeze", ["r", "axis"], ["s"]),
         N("Conv", ["s", "last"], ["y"])],
        {"axis": ints(2), "k": weights(8, 3, 1, 3), "column": weights(8, 1),
         "last": weights(4, 8, 1, 1)}, (1, 3, 10), 3),
    # A fully connected layer of each pixel.
    "rows": (
        [CONV, TURN, N("Reshape", ["t", "flat"], ["f"]), N("MatMul", ["f", "k"], ["p"]),
         N("Reshape", ["p", "full"], ["q"]), N("Add", ["q", "five"], ["g"]),
         N("Relu", ["g"], ["y"])],
        {"flat": ints(-1, 8), "k": weights(8, 5), "five": weights(5), "full": ints(1, 10, 10, 5)},
        (1, 3, 10, 10), 2),
    # A quantiser stays where it is, and what is in front of it is a tensor of its own.
    "quantiser": (
        [CONV, TURN, N("Add", ["t", "b"], ["m"]), N("QuantizeLinear", ["m", "step", "zero"], ["i"]),
         N("DequantizeLinear", ["i", "step", "zero"], ["r"]), BACK, END],
        {"step": np.float32(0.02), "zero": np.uint8(128)}, (1, 3, 10, 10), 3),
    # The bias is not the layer's where someone else reads what is moved.
    "read itself": ([CONV, TURN, N("Add", ["t", "b"], ["m"]), N("Mul", ["m", "t"], ["y"])], {},
                    (1, 3, 10, 10), 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_part_of_the_layer(name, tmp_path):
    nodes, constants, shape, ops = LAYERS[name]
    source, db = compared(file(tmp_path, nodes, {**LAST, **constants}, shape=shape))
    assert db > 35
    kinds = [type(node.op).__name__ for node in source.graph.nodes]
    assert len([kind for kind in kinds if kind != "Reshape"]) == ops, kinds


def test_moved_ops_keep_their_names(tmp_path):
    nodes, constants, shape, _ = LAYERS["squeezed"]
    source, _ = compared(file(tmp_path, nodes, {**LAST, **constants}, shape=shape))
    assert {"m", "r"} & set(source.graph.meta["floats"].values())


def test_nothing_to_move_changes_nothing():
    graph = helper.make_graph(
        [CONV, N("Relu", ["a"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 4, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 4, 4))],
        [numpy_helper.from_array(LAST["w"], "w")])
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph))
    before = model.SerializeToString(deterministic=True)
    settle_moves(model, ())
    assert model.SerializeToString(deterministic=True) == before


PADDED = {
    # Uneven padding and strides; the filling is the input's zero point.
    "before": ([N("Pad", ["x", "p"], ["s"]), N("Conv", ["s", "w"], ["y"], strides=[2, 2])],
               {"p": ints(0, 0, 0, 0, 0, 0, 1, 1)}, ["Conv"]),
    "pads of its own": ([N("Pad", ["x", "p"], ["s"]), N("Conv", ["s", "w"], ["y"], pads=[1] * 4)],
                        {"p": ints(0, 0, 2, 0, 0, 0, 1, 3)}, ["Conv"]),
    "cropped": ([N("Pad", ["x", "p"], ["s"]), N("Conv", ["s", "w"], ["y"])],
                {"p": ints(0, 0, -1, -2, 0, 0, 0, -1)}, ["Conv"]),
    "cropped, then padded": (
        [N("Pad", ["x", "p"], ["s"]), N("Conv", ["s", "w"], ["y"], pads=[1] * 4)],
        {"p": ints(0, 0, -1, -2, 0, 0, 0, -1)}, ["Pad", "Conv"]),
    "for two": ([N("Pad", ["x", "p"], ["s"]), N("Conv", ["s", "w"], ["t"]),
                 N("Conv", ["s", "w"], ["u"], dilations=[2, 2], pads=[1] * 4),
                 N("Concat", ["t", "u"], ["y"], axis=1)],
                {"p": ints(0, 0, 1, 0, 0, 0, 0, 1)}, ["Conv", "Conv", "Concat"]),
    "other filling": ([N("Pad", ["x", "p", "v"], ["s"]), N("Conv", ["s", "w"], ["y"])],
                      {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float32(0.5)}, ["Pad", "Conv"]),
    "for a pool too": (
        [N("Pad", ["x", "p"], ["s"]), N("Conv", ["s", "w"], ["t"]),
         N("MaxPool", ["s"], ["u"], kernel_shape=[3, 3]), N("Concat", ["t", "u"], ["y"], axis=1)],
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}, ["Pad", "Conv", "MaxPool", "Table", "Concat"]),
    # A quantiser between, as integer files have.
    "quantised": (
        [N("QuantizeLinear", ["x", "step", "zero"], ["i"]),
         N("DequantizeLinear", ["i", "step", "zero"], ["j"]), N("Pad", ["j", "p"], ["k"]),
         N("QuantizeLinear", ["k", "step", "zero"], ["l"]),
         N("DequantizeLinear", ["l", "step", "zero"], ["s"]),
         N("Conv", ["s", "w"], ["y"], strides=[2, 2])],
        {"p": ints(0, 0, 0, 0, 0, 0, 1, 1), "step": np.float32(2 / 255), "zero": np.int8(-3)},
        ["Conv"]),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_is_the_convolutions(name, tmp_path):
    nodes, constants, kinds = PADDED[name]
    source, db = compared(file(tmp_path, nodes, {**LAST, **constants}, shape=(1, 3, 9, 11)))
    assert db > 35
    assert [type(node.op).__name__ for node in source.graph.nodes] == kinds


@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_padding_where_channels_are_last(mode, tmp_path):
    """Rows and columns are padded, not channels: the input comes as it lies."""
    nodes = [N("Pad", ["x", "p"], ["h"], mode=mode),
             N("Transpose", ["h"], ["s"], perm=[0, 3, 1, 2]), N("Conv", ["s", "w"], ["y"])]
    source, db = compared(file(
        tmp_path, nodes, {**LAST, "p": ints(0, 1, 2, 0, 0, 0, 3, 0)}, shape=(1, 9, 11, 3)))
    assert db > 35
    kinds = [type(node.op).__name__ for node in source.graph.nodes]
    assert kinds == (["Conv"] if mode == "constant" else ["Pad", "Conv"])


def test_an_image_that_is_normalised_first(tmp_path):
    """As Keras does by channel, before its image is transposed: it comes with channels last."""
    nodes = [N("Mul", ["x", "by"], ["a"]), N("Add", ["a", "shift"], ["b"]),
             N("Transpose", ["b"], ["s"], perm=[0, 3, 1, 2]), N("Conv", ["s", "w"], ["y"])]
    source, db = compared(file(
        tmp_path, nodes, {"by": np.float32(2), "shift": weights(3), "w": LAST["w"]},
        shape=(1, 9, 11, 3)))
    assert db > 35
    assert source.graph.inputs["x"].shape == (9, 11, 3)
    assert "Rearrange" not in {type(node.op).__name__ for node in source.graph.nodes}


def test_slopes_of_each_element(tmp_path):
    """As Keras has them, if no axes share them."""
    nodes = [N("Conv", ["x", "w"], ["a"], pads=[1] * 4), N("PRelu", ["a", "slope"], ["y"])]
    _, db = compared(file(tmp_path, nodes, {"w": LAST["w"], "slope": weights(8, 10, 10)},
                          shape=(1, 3, 10, 10)))
    assert db > 35
