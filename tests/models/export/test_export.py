"""Every op of the integer graph as integer ONNX: onnxruntime computes the same, bit for bit."""

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    ArgMax,
    AveragePool,
    ChannelMax,
    Concat,
    Conv,
    ConvTranspose,
    Extremum,
    GatherChannels,
    Gemm,
    GlobalAveragePool,
    GlobalMaxPool,
    Graph,
    MaxPool,
    Mul,
    Pad,
    Quantisation,
    Rearrange,
    Requantise,
    Reshape,
    Resize,
    Split,
    Table,
    TensorType,
)
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.onnx.session import session

Q = Quantisation(0.1, 3)


def every_op() -> Graph:
    random = np.random.default_rng(0)

    def weights(*shape):
        return random.integers(-127, 128, shape)

    def scales(count):
        return Requantise.from_scale(random.uniform(0.001, 0.01, count))

    g = Graph()
    g.add_input("x", TensorType((7, 6, 4), Q))
    g.add(Conv(weights(6, 3, 3, 2), weights(6), scales(6), Q, (1, 2), ((2, 2), (2, 1)), 2, 8,
               (2, 1)), "x", name="conv")
    g.add(ConvTranspose(weights(6, 3, 4, 3), weights(6), scales(6), Q, (2, 3), ((1, 0), (0, -1)),
                        2), "conv", name="deconv")
    g.add(MaxPool((2, 2), (1, 1), ((1, 1), (0, 1)), (2, 1)), "deconv", name="most")
    g.add(AveragePool((3, 2), Requantise.from_scale(1 / np.arange(1, 7)), Q, (2, 1),
                      ((1, 1), (1, 0)), False), "most", name="mean")
    g.add(AveragePool((2, 2), Requantise.from_scale(0.25), Q, dilation=(1, 2)), "most",
          name="dilated_mean")
    g.add(Table(weights(6, 256), Q), "mean", name="by_channel")
    g.add(Table(weights(256), Q), "by_channel", name="table")
    g.add_node(Split((2, 4)), ["table"], ["left", "right"])
    g.add(Concat(), "right", "left", name="turned")
    g.add(GatherChannels((3, 1, 5, 0)), "turned", name="chosen")
    g.add(Pad(((1, -1), (2, 0)), 7, (2, 1)), "chosen", name="padded")
    g.add(Pad(((1, 1), (2, 0)), None), "padded", name="edged")
    g.add(Resize((2, 1)), "edged", name="large")
    mean = Requantise.from_scale(1 / g.types["large"].pixels)
    g.add(GlobalAveragePool(mean, Q), "large", name="all_mean")
    g.add(GlobalMaxPool(), "large", name="all_most")
    g.add(Mul(Requantise.from_scale(Q.scale), Q), "all_mean", "all_most", name="product")
    g.add(Add.from_types(Q, Q, Q, -1), "product", "all_most", name="difference")
    g.add(Extremum(), "product", "difference", name="larger")
    g.add(Extremum(smaller=True), "larger", "all_most", name="smaller")
    g.add(Rearrange(np.arange(g.types["large"].size)[::-1].reshape(-1, 4)[1:]), "large",
          name="reversed")
    g.add(ChannelMax(), "edged", name="largest")
    g.add(ArgMax(), "edged", name="which")
    g.add(Reshape((2, 2)), "smaller", name="reshaped")
    g.add(Gemm(weights(5, 4), weights(5), scales(5), Q), "reshaped", name="dense")
    g.outputs = ["dense", "which", "largest", "reversed", "dilated_mean"]
    return g


def test_integer_onnx_is_equal_at_every_tensor():
    graph = every_op()
    x = np.random.default_rng(1).integers(-128, 128, (3, 7, 6, 4))
    ours = graph.evaluate({"x": x}, keep=list(graph.types))
    model = to_integer(graph)
    names = [o.name for o in model.graph.output]
    for name, theirs in zip(names, session(model).run(
            names, {"x": to_onnx_layout(x).astype(np.int8)}), strict=True):
        np.testing.assert_array_equal(from_onnx_layout(theirs), ours[name], err_msg=name)
    assert set(names) == set(graph.types) - {"x"}


def test_qdq_is_within_one_step_op_by_op():
    graph = every_op()
    x = np.random.default_rng(1).integers(-128, 128, (3, 7, 6, 4))
    model = to_qdq(graph)
    names = [o.name for o in model.graph.output]
    theirs = {n: from_onnx_layout(v) for n, v in zip(names, session(model).run(
        names, {"x": to_onnx_layout(x).astype(np.int8)}), strict=True)}
    theirs["x"] = x
    for node in graph.nodes:
        ours = node.op.evaluate([theirs[t] for t in node.inputs],
                                [graph.types[t] for t in node.inputs])
        for name, value in zip(node.outputs, ours, strict=True):
            assert abs(value.astype(int) - theirs[name].astype(int)).max() <= 1, name


def test_wide_codes_in_integers():
    """Codes of more than eight bits, in all ops of which ONNX has forms for eight bits alone."""
    random = np.random.default_rng(0)
    wide = Quantisation(0.1, 99, 12)
    graph = Graph()
    graph.add_input("x", TensorType((4, 4, 6), wide))
    weight = random.integers(-127, 128, (6, 3, 3, 6))
    requantise = Requantise.from_scale(np.full(6, 1e-3))
    graph.add(Conv(weight, random.integers(-999, 999, 6), requantise, wide,
                   pads=((1, 1), (1, 1))), "x", name="conv")
    graph.add(MaxPool((3, 3), (1, 1), ((1, 1), (1, 1))), "conv", name="pool")
    graph.add(Pad(((1, 0), (0, 1)), None), "pool", name="edge")
    graph.add(Pad(((1, 0), (0, 1)), 7), "edge", name="pad")
    graph.add(Resize((2, 1)), "pad", name="resize")
    graph.add(GlobalMaxPool(), "resize", name="largest")
    graph.outputs = ["conv", "pool", "edge", "pad", "resize", "largest"]
    x = random.integers(-2048, 2048, (1, 4, 4, 6)).astype(np.int16)
    found = session(to_integer(graph)).run(graph.outputs, {"x": to_onnx_layout(x)})
    wanted = graph.evaluate({"x": x})
    for name, codes in zip(graph.outputs, found, strict=True):
        np.testing.assert_array_equal(from_onnx_layout(codes), wanted[name], err_msg=name)


def test_wide_activations_have_no_transposed_integer_convolution():
    graph = Graph()
    graph.add_input("x", TensorType((4, 4, 1), Quantisation(0.1, 0, 16)))
    graph.add(ConvTranspose(np.ones((1, 1, 1, 1)), [0], Requantise.from_scale(0.1), Q), "x",
              name="y")
    graph.outputs = ["y"]
    with pytest.raises(HwgenError, match="'y' reads 16 bits"):
        to_integer(graph)
