"""What is said of nodes that cannot be lowered."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.load import read
from hwgen.models.lowering.refusals import unsupported, way_out
from tests.models.float_networks import network

N = helper.make_node
KNOWN = {"Conv", "ReduceMean", "ReduceMax", "Softplus"}


@pytest.mark.parametrize("kind, like", [
    ("LRN", ""), ("ReduceMin", "'ReduceMean' would be; "), ("Pool", ""),
])
def test_names_op_and_those_like_it(kind, like):
    net = network([N("Relu", ["x"], ["y"])])
    assert unsupported(net, N(kind, ["x"], ["y"]), KNOWN) == (
        f"op {kind!r} is not supported here; {like}docs/conformance.md lists what is")


def test_way_out_behind_the_last_weights():
    last = N("LRN", ["c"], ["y"], size=3)
    nodes = [N("Conv", ["x", "w"], ["c"]), last]
    weights = {"w": np.ones((4, 4, 1, 1), np.float32)}
    assert way_out(network(nodes, weights, {"x": (1, 4, 8, 8)}), last) == (
        "; it is behind the last weights, so it can be left to the host: choose the outputs c")
    again = [N("Conv", ["x", "w"], ["c"]), last, N("Conv", ["y", "w"], ["z"])]
    assert way_out(network(again, weights, {"x": (1, 4, 8, 8)}, ["z"]), last) == ""


def branch(kind, out):
    """A subgraph that reads a tensor of the graph around it."""
    return helper.make_graph([N(kind, ["c"], [out])], out, [],
                             [helper.make_tensor_value_info(out, TensorProto.FLOAT, (1, 8, 8, 8))])


def turns():
    info = helper.make_tensor_value_info
    shape = (1, 8, 8, 8)
    return helper.make_graph(
        [N("Relu", ["p"], ["q"]), N("Identity", ["more"], ["on"])], "body",
        [info("turn", TensorProto.INT64, ()), info("more", TensorProto.BOOL, ()),
         info("p", TensorProto.FLOAT, shape)],
        [info("on", TensorProto.BOOL, ()), info("q", TensorProto.FLOAT, shape)])


CONTROL = {
    "If": [N("ReduceMax", ["c"], ["m"], keepdims=0), N("Cast", ["m"], ["f"], to=TensorProto.BOOL),
           N("If", ["f"], ["z"], then_branch=branch("Relu", "a"), else_branch=branch("Neg", "b"))],
    "Loop": [N("Loop", ["three", "yes", "c"], ["z"], body=turns())],
    "SplitToSequence": [N("SplitToSequence", ["c"], ["s"], axis=1),
                        N("ConcatFromSequence", ["s"], ["z"], axis=1)],
}


@pytest.mark.parametrize("kind", CONTROL)
@pytest.mark.parametrize("last", [False, True])
def test_control_and_lists_are_refused_by_name(kind, last, tmp_path):
    nodes = CONTROL[kind]
    for node in nodes:
        node.name = f"the {node.op_type}"
    end = N("Identity", ["z"], ["y"]) if last else N("Conv", ["z", "v"], ["y"])
    constants = {"w": np.ones((8, 3, 1, 1), np.float32), "v": np.ones((8, 8, 1, 1), np.float32),
                 "three": np.array(3), "yes": np.array(True)}
    graph = helper.make_graph(
        [N("Conv", ["x", "w"], ["c"]), *nodes, end], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8, 8, 8))],
        [numpy_helper.from_array(v, k) for k, v in constants.items()])
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)],
                                ir_version=8), path)
    with pytest.raises(HwgenError, match=f"Node 'the {kind}' .{kind}.: it (holds lists|decides)"
                                         ) as refused:
        read(str(path))
    assert str(refused.value).endswith(("outputs c", "outputs f,c")) == last
    if last:
        # What the refusal says does: subgraphs read tensors too.
        source = read(str(path), outputs=["c"])
        assert source.host is not None
        onnx.checker.check_model(source.host, full_check=True)
