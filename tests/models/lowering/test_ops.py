"""Every form of every ONNX op that is lowered, against onnxruntime on the float network."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.design import DesignPoint
from hwgen.errors import HwgenError
from hwgen.models.accuracy import decibels
from hwgen.models.lowering import lower, supported
from hwgen.models.onnx.reader import normalise
from hwgen.models.quantisation.calibrate import probe, statistics
from hwgen.plan import plan

RANDOM = np.random.default_rng(0)
N = helper.make_node


def weights(*shape):
    return RANDOM.normal(0, 1 / np.sqrt(max(np.prod(shape[1:]), 1)), shape).astype(np.float32)


def model(nodes, constants=(), shape=(1, 3, 12, 12), opset=17, outputs=("y",)):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = 9
    return onnx.shape_inference.infer_shapes(made)


def lowered(made):
    network = normalise(made.SerializeToString(), "net.onnx", None)
    feeds = [{n: RANDOM.random(network.shapes[n], dtype=np.float32) for n in network.inputs}
             for _ in range(3)]
    return network, feeds, lower(network, statistics(network, feeds).ranges)


def ops(graph):
    return [type(node.op).__name__ for node in graph.nodes]


CONV = N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1])
W = {"w": weights(8, 3, 3, 3), "b": weights(8)}
C8 = (8, 1, 1)
SQUEEZE = [
    CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Conv", ["g", "v"], ["d"]),
    N("Relu", ["d"], ["e"]), N("Conv", ["e", "u"], ["f"]), N("HardSigmoid", ["f"], ["h"]),
    N("Mul", ["c", "h"], ["y"]),
]
SE = {**W, "v": weights(4, 8, 1, 1), "u": weights(8, 4, 1, 1)}
SHUFFLE = [
    CONV, N("Reshape", ["c", "s1"], ["r1"]), N("Transpose", ["r1"], ["t"], perm=[0, 2, 1, 3, 4]),
    N("Reshape", ["t", "s2"], ["r2"]), N("Conv", ["r2", "v"], ["y"], group=2),
]

CASES = {
    # name: (model, ops of the integer graph)
    "dilated": (model([N("Conv", ["x", "w"], ["y"], dilations=[2, 3], pads=[2, 3, 2, 3])], W),
                ["Conv"]),
    "conv1d": (model([N("Conv", ["x", "v"], ["y"], pads=[2, 2], strides=[2])],
                     {"v": weights(6, 4, 5)}, (1, 4, 30)), ["Conv"]),
    "conv3d": (model([N("Conv", ["x", "v"], ["y"], pads=[1, 1, 1, 1, 1, 1], strides=[1, 2, 2])],
                     {"v": weights(6, 2, 3, 3, 3)}, (1, 2, 4, 8, 8)), ["Conv"]),
    "large_pads": (model([N("Conv", ["x", "v"], ["y"], pads=[3, 2, 1, 4])],
                         {"v": weights(4, 3, 2, 2)}), ["Conv"]),
    "deconv": (model([N("ConvTranspose", ["x", "v", "b"], ["y"], strides=[2, 2])],
                     {"v": weights(3, 8, 2, 2), "b": weights(8)}), ["ConvTranspose"]),
    "deconv_pads": (model([N("ConvTranspose", ["x", "v"], ["y"], strides=[2, 3],
                             pads=[1, 0, 1, 2], output_padding=[1, 0])],
                          {"v": weights(3, 4, 4, 3)}), ["ConvTranspose"]),
    "deconv_groups": (model([CONV, N("ConvTranspose", ["c", "v"], ["y"], strides=[2, 2], group=4,
                                     pads=[1, 1, 1, 1])], {**W, "v": weights(8, 3, 4, 4)}),
                      ["Conv", "ConvTranspose"]),
    "deconv_dilated": (model([N("ConvTranspose", ["x", "v"], ["y"], dilations=[2, 2])],
                             {"v": weights(3, 4, 3, 3)}), ["ConvTranspose"]),
    "deconv_shape": (model([N("ConvTranspose", ["x", "v"], ["y"], strides=[2, 2],
                              output_shape=[23, 24])], {"v": weights(3, 4, 3, 3)}),
                     ["ConvTranspose"]),
    "deconv_relu": (model([N("ConvTranspose", ["x", "v"], ["c"], strides=[2, 2]),
                           N("Relu", ["c"], ["y"])], {"v": weights(3, 8, 2, 2)}),
                    ["ConvTranspose"]),
    "max_dilated": (model([N("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])]),
                    ["MaxPool"]),
    "max_ceil": (model([N("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2],
                          ceil_mode=1)]), ["MaxPool"]),
    "mean_uncounted": (model([N("AveragePool", ["x"], ["y"], kernel_shape=[3, 3],
                                pads=[1, 1, 1, 1])]), ["AveragePool"]),
    "mean_counted": (model([N("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1],
                              count_include_pad=1)]), ["AveragePool"]),
    "mean_whole": (model([N("AveragePool", ["x"], ["y"], kernel_shape=[12, 12])]),
                   ["GlobalAveragePool"]),
    "mean_rows": (model([N("ReduceMean", ["x"], ["y"], axes=[3], keepdims=1)]), ["AveragePool"]),
    "max_all": (model([N("GlobalMaxPool", ["x"], ["y"])]), ["GlobalMaxPool"]),
    "reduce_max": (model([N("ReduceMax", ["x"], ["y"], axes=[2, 3], keepdims=0)]),
                   ["GlobalMaxPool"]),
    "squeeze_excite": (model(SQUEEZE, SE), None),
    "spatial_gate": (model([CONV, N("Conv", ["c", "v"], ["d"]), N("Sigmoid", ["d"], ["s"]),
                            N("Mul", ["c", "s"], ["y"])], {**W, "v": weights(1, 8, 1, 1)}),
                     ["Conv", "Conv", "Table", "GatherChannels", "Mul"]),
    "difference": (model([CONV, N("Conv", ["x", "v"], ["d"], pads=[1, 1, 1, 1]),
                          N("Sub", ["c", "d"], ["y"])], {**W, "v": weights(8, 3, 3, 3)}),
                   ["Conv", "Conv", "Add"]),
    "shuffle": (model(SHUFFLE, {**W, "s1": np.array([1, 2, 4, 12, 12]),
                                "s2": np.array([1, 8, 12, 12]), "v": weights(8, 4, 1, 1)}),
                ["Conv", "Conv"]),
    "channel_slice": (model([CONV, N("Slice", ["c", "a", "e", "i"], ["s"]),
                             N("Relu", ["s"], ["y"])],
                            {**W, "a": np.array([2]), "e": np.array([6]), "i": np.array([1])}),
                      ["Conv", "GatherChannels", "Table"]),
    "focus": (model([N("Slice", ["x", "a0", "e", "i", "st"], ["p"]),
                     N("Slice", ["x", "a1", "e", "i", "st"], ["q"]),
                     N("Concat", ["p", "q"], ["z"], axis=1), N("Conv", ["z", "v"], ["y"])],
                    {"a0": np.array([0, 0]), "a1": np.array([1, 1]), "e": np.array([99, 99]),
                     "i": np.array([2, 3]), "st": np.array([2, 2]), "v": weights(8, 6, 3, 3)}),
              ["Pad", "Pad", "Concat", "Conv"]),
    "split_uneven": (model([CONV, N("Split", ["c", "n"], ["p", "q"], axis=1),
                            N("Concat", ["q", "p"], ["y"], axis=1)],
                           {**W, "n": np.array([3, 5])}), ["Conv", "Split", "Concat"]),
    "split_unused": (model([CONV, N("Split", ["c", "n"], ["p", "q"], axis=1),
                            N("Tanh", ["q"], ["y"])], {**W, "n": np.array([3, 5])}),
                     ["Conv", "GatherChannels", "Table"]),
    "pad": (model([CONV, N("Pad", ["c", "p"], ["d"]), N("MaxPool", ["d"], ["y"],
                                                       kernel_shape=[2, 2])],
                  {**W, "p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}), ["Conv", "Pad", "MaxPool"]),
    "pad_edge": (model([CONV, N("Pad", ["c", "p"], ["y"], mode="edge")],
                       {**W, "p": np.array([0, 0, 1, 2, 0, 0, 3, -1])}), ["Conv", "Pad"]),
    "resize_to": (model([CONV, N("Resize", ["c", "none", "none", "f"], ["y"], mode="linear",
                                 coordinate_transformation_mode="half_pixel")],
                        {**W, "none": np.zeros(0, np.float32), "f": np.array([1, 8, 24, 24])},
                        opset=11), ["Conv", "Pad", "ConvTranspose"]),
    "resize_half": (model([CONV, N("Resize", ["c", "", "f"], ["y"], mode="linear",
                                   coordinate_transformation_mode="half_pixel")],
                          {**W, "f": np.array([1, 1, 2, 2], np.float32)}),
                    ["Conv", "Pad", "ConvTranspose"]),
    "resize_asymmetric": (model([CONV, N("Resize", ["c", "", "f"], ["y"], mode="linear",
                                         coordinate_transformation_mode="asymmetric")],
                                {**W, "f": np.array([1, 1, 3, 2], np.float32)}),
                          ["Conv", "Pad", "ConvTranspose"]),
    "resize_one_axis": (model([CONV, N("Resize", ["c", "", "f"], ["y"], mode="linear",
                                       coordinate_transformation_mode="half_pixel")],
                              {**W, "f": np.array([1, 1, 1, 4], np.float32)}),
                        ["Conv", "Pad", "ConvTranspose"]),
    "resize_down": (model([CONV, N("Resize", ["c", "", "f"], ["y"], mode="nearest",
                                   coordinate_transformation_mode="asymmetric",
                                   nearest_mode="floor")],
                          {**W, "f": np.array([1, 1, 0.5, 0.25], np.float32)}), ["Conv", "Pad"]),
    "upsample": (model([CONV, N("Upsample", ["c", "f"], ["y"], mode="nearest")],
                       {**W, "f": np.array([1, 1, 2, 3], np.float32)}, opset=9),
                 ["Conv", "Resize"]),
    "norm_after_concat": (
        model([CONV, N("MaxPool", ["x"], ["p"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
               N("Concat", ["c", "p"], ["h"], axis=1),
               N("BatchNormalization", ["h", "s", "t", "m", "v"], ["n"]), N("Relu", ["n"], ["y"])],
              {**W, "s": weights(11), "t": weights(11), "m": weights(11),
               "v": abs(weights(11)) + 0.5}),
        ["Conv", "MaxPool", "Table", "Concat", "Conv"]),
    "scale_by_channel": (model([N("Mul", ["x", "s"], ["d"]), N("Add", ["d", "t"], ["y"])],
                               {"s": weights(3, 1, 1), "t": weights(1, 3, 1, 1)}), ["Conv"]),
    "normalised_image": (model([N("Sub", ["x", "s"], ["d"]), N("Div", ["d", "t"], ["e"]),
                                N("Conv", ["e", "w", "b"], ["y"])],
                               {**W, "s": np.float32([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1),
                                "t": np.float32([0.2, 0.3, 0.2]).reshape(1, 3, 1, 1)}),
                         ["Conv", "Conv"]),
    "reversed": (model([CONV, N("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
                        N("Sub", ["s", "p"], ["y"])], {**W, "s": weights(*C8)}),
                 ["Conv", "MaxPool", "Conv"]),
    "prelu": (model([CONV, N("PRelu", ["c", "s"], ["y"])], {**W, "s": weights(*C8)}),
              ["Conv", "Table"]),
    "prelu_scalar": (model([CONV, N("PRelu", ["c", "s"], ["y"])],
                           {**W, "s": np.full((1, 1, 1), 0.1, np.float32)}), ["Conv", "Table"]),
    "argmax": (model([CONV, N("ArgMax", ["c"], ["y"], axis=1, keepdims=0)], W),
               ["Conv", "ArgMax"]),
    "argmax_class": (model([CONV, N("GlobalAveragePool", ["c"], ["g"]), N("Flatten", ["g"], ["f"]),
                            N("Gemm", ["f", "m"], ["s"]), N("ArgMax", ["s"], ["y"], axis=1)],
                           {**W, "m": weights(8, 10)}),
                     ["Conv", "GlobalAveragePool", "Gemm", "ArgMax"]),
    "flatten_order": (model([CONV, N("Flatten", ["c"], ["f"]), N("Gemm", ["f", "m"], ["y"],
                                                                 alpha=0.5)],
                            {**W, "m": weights(8 * 144, 10)}), ["Conv", "Gemm"]),
    "tokens": (model([CONV, N("Reshape", ["c", "s"], ["r"]),
                      N("Transpose", ["r"], ["t"], perm=[0, 2, 1]), N("MatMul", ["t", "m"], ["u"]),
                      N("Add", ["u", "n"], ["a"]), N("Relu", ["a"], ["h"]),
                      N("MatMul", ["h", "k"], ["o"]), N("Add", ["o", "t"], ["y"])],
                     {**W, "s": np.array([1, 8, 144]), "m": weights(8, 12), "n": weights(12),
                      "k": weights(12, 8)}), ["Conv", "Reshape", "Conv", "Conv", "Reshape", "Add"]),
    "sequence_mean": (model([N("MatMul", ["x", "m"], ["u"]),
                             N("ReduceMean", ["u"], ["y"], axes=[1], keepdims=0)],
                            {"m": weights(6, 8)}, (1, 10, 6)), None),
    "negative_scale": (model([CONV, N("Mul", ["c", "s"], ["d"]), N("Relu", ["d"], ["y"])],
                             {**W, "s": weights(*C8)}), ["Conv"]),
    "many_activations": (
        model([CONV, *[N(kind, [f"t{k}" if k else "c"], [f"t{k + 1}"]) for k, kind in enumerate(
            ["Softplus", "Tanh", "Mish", "Elu", "Selu", "Celu", "HardSwish", "Softsign"])],
            N("Identity", ["t8"], ["y"])], W, opset=18), ["Conv", "Table"]),
    "same_source": (model([CONV, N("Sigmoid", ["c"], ["s"]), N("Tanh", ["c"], ["t"]),
                           N("Mul", ["s", "t"], ["m"]), N("Add", ["m", "c"], ["y"])], W),
                    ["Conv", "Table"]),
}


@pytest.mark.parametrize("name", CASES)
def test_near_the_float_network(name):
    made, wanted_ops = CASES[name]
    network, feeds, graph = lowered(made)
    if wanted_ops is not None:
        assert ops(graph) == wanted_ops
    plan(graph, DesignPoint())
    (out,) = network.outputs
    run = probe(network, [out])
    signal, noise = 0.0, 0.0
    ((tensor_in, type_in),) = graph.inputs.items()
    for feed in feeds:
        # Rows of a matrix have their channels last already.
        x = feed["x"] if name == "sequence_mean" else np.moveaxis(feed["x"], 1, -1)
        codes = type_in.quantisation.quantise(x)
        got = graph.evaluate({tensor_in: codes.reshape(1, *type_in.shape)})
        want = run(feed)[out].astype(np.float64)
        (tensor,) = graph.outputs
        real = graph.types[tensor].quantisation.dequantise(got[tensor])[0]
        # Channels are last, wherever the network has them.
        want = np.moveaxis(want, 1, -1) if want.ndim > 2 and name != "tokens" else want
        if "argmax" in name:
            assert (real.ravel() == want.ravel()).mean() > 0.9
            return
        real = real.reshape(want.shape[1:])
        signal += float((want**2).sum())
        noise += float(((real - want[0]) ** 2).sum())
    assert decibels(signal, noise) > 25


def test_the_page_says_what_is_supported():
    assert {"Conv", "ConvTranspose", "Gelu", "PRelu", "ArgMax", "Pad"} <= set(supported())


@pytest.mark.parametrize("nodes, constants, message", [
    ([CONV, N("Conv", ["x", "v"], ["d"], pads=[1, 1, 1, 1]), N("Mod", ["c", "d"], ["y"], fmod=1)],
     {**W, "v": weights(8, 3, 3, 3)}, "remainders are not supported"),
    ([CONV, N("Pad", ["c", "p"], ["y"])], {**W, "p": np.array([1, 0, 0, 0, 0, 0, 0, 0])},
     "the first axis is the batch"),
    ([CONV, N("Resize", ["c", "", "f"], ["y"], mode="linear",
              coordinate_transformation_mode="align_corners")],
     {**W, "f": np.array([1, 1, 0.5, 0.5], np.float32)}, "a reduction with align_corners"),
    ([CONV, N("MaxPool", ["c"], ["y", "i"], kernel_shape=[2, 2]),
      N("Cast", ["i"], ["z"], to=1)], W, "indices of the maxima"),
    ([CONV, N("LSTM", ["x", "w", "w"], ["y"], hidden_size=2)], W, "cannot be run|not a valid"),
])
def test_refused(nodes, constants, message):
    outputs = ["y", "z"] if any("z" in n.output for n in nodes) else ["y"]
    with pytest.raises(HwgenError, match=message):
        lowered(model(nodes, constants, outputs=outputs))
