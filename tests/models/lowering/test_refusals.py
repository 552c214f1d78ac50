"""What is said of nodes that cannot be lowered."""

import numpy as np
import pytest
from onnx import helper

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
