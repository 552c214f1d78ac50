"""Damaged and odd ONNX files, made from valid ones; always the same for a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

__all__ = ["damaged", "valid"]

N = helper.make_node


def _model(nodes, constants, shape, opset=17) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")], weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return shape_inference.infer_shapes(model)


def valid() -> list[onnx.ModelProto]:
    """Small networks that are right: branches, pools, a classifier, quantisers, 1D and 3D."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0, 0.3, shape).astype(np.float32)

    conv = {"w": weights(4, 3, 3, 3), "b": weights(4)}
    return [
        _model([N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), N("Relu", ["c"], ["r"]),
                N("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
                N("Flatten", ["p"], ["f"]), N("Gemm", ["f", "m", "n"], ["y"], transB=1)],
               {**conv, "m": weights(5, 64), "n": weights(5)}, (1, 3, 8, 8)),
        _model([N("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), N("Sigmoid", ["c"], ["s"]),
                N("Mul", ["c", "s"], ["a"]), N("Split", ["a", "z"], ["d", "e"], axis=1),
                N("Concat", ["e", "d"], ["f"], axis=1), N("Add", ["f", "a"], ["g"]),
                N("Resize", ["g", "", "q"], ["y"], mode="nearest", nearest_mode="floor",
                  coordinate_transformation_mode="asymmetric")],
               {**conv, "z": np.array([2, 2]), "q": np.array([1, 1, 2, 2], np.float32)},
               (1, 3, 6, 6)),
        _model([N("ConvTranspose", ["x", "w"], ["c"], strides=[2, 2]),
                N("BatchNormalization", ["c", "s", "t", "m", "v"], ["n"]),
                N("GlobalAveragePool", ["n"], ["g"]), N("Reshape", ["g", "k"], ["r"]),
                N("MatMul", ["r", "u"], ["y"])],
               {"w": weights(3, 4, 2, 2), "s": weights(4), "t": weights(4), "m": weights(4),
                "v": abs(weights(4)) + 1, "k": np.array([1, 4]), "u": weights(4, 3)},
               (1, 3, 4, 4)),
        _model([N("QuantizeLinear", ["x", "a", "z"], ["q"]),
                N("DequantizeLinear", ["q", "a", "z"], ["d"]),
                N("DequantizeLinear", ["w", "k", "o"], ["v"], axis=0),
                N("Conv", ["d", "v"], ["c"]), N("QuantizeLinear", ["c", "e", "z"], ["h"]),
                N("DequantizeLinear", ["h", "e", "z"], ["y"])],
               {"a": np.float32(0.01), "z": np.uint8(3), "e": np.float32(0.05),
                "w": random.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
                "k": abs(weights(4)) + np.float32(0.01), "o": np.zeros(4, np.int8)},
               (1, 3, 6, 6)),
        _model([N("Conv", ["x", "w"], ["y"], pads=[1, 1], dilations=[2])],
               {"w": weights(4, 2, 2)}, (1, 2, 9)),
        _model([N("Conv", ["x", "w"], ["c"]), N("AveragePool", ["c"], ["y"],
                                                kernel_shape=[2, 2, 2])],
               {"w": weights(2, 2, 2, 2, 2)}, (1, 2, 5, 5, 5)),
    ]


Damage = Callable[[onnx.ModelProto, np.random.Generator], bytes]


def _truncated(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    data = model.SerializeToString()
    return data[: int(random.integers(0, len(data)))]


def _flipped(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    data = bytearray(model.SerializeToString())
    for _ in range(int(random.integers(1, 12))):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return bytes(data)


def _spliced(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    data = model.SerializeToString()
    a, b = sorted(int(k) for k in random.integers(0, len(data), 2))
    return data[:a] + data[b:] if random.random() < 0.5 else data[:b] + data[a:]


def _without_constant(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    del model.graph.initializer[int(random.integers(len(model.graph.initializer)))]
    return model.SerializeToString()


def _without_node(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    del model.graph.node[int(random.integers(len(model.graph.node)))]
    return model.SerializeToString()


def _cyclic(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    first = model.graph.node[int(random.integers(len(model.graph.node)))]
    first.input[0] = model.graph.node[-1].output[0]
    return model.SerializeToString()


def _rewired(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    names = [t for n in model.graph.node for t in (*n.input, *n.output)] + ["", "nothing"]
    node = model.graph.node[int(random.integers(len(model.graph.node)))]
    kind = node.input if random.random() < 0.7 else node.output
    kind[int(random.integers(len(kind)))] = names[int(random.integers(len(names)))]
    return model.SerializeToString()


def _constant(model: onnx.ModelProto, random: np.random.Generator, change) -> bytes:
    place = model.graph.initializer[int(random.integers(len(model.graph.initializer)))]
    array = np.array(numpy_helper.to_array(place))
    place.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(array)), place.name))
    return model.SerializeToString()


def _not_finite(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    value = random.choice([np.nan, np.inf, -np.inf, 3e38])

    def change(array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "f":
            array.reshape(-1)[int(random.integers(array.size))] = value
            return array
        return array + 1 if array.dtype.itemsize > 1 else array

    return _constant(model, random, change)


def _reshaped(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    def change(array: np.ndarray) -> np.ndarray:
        pick = int(random.integers(4))
        if pick == 0:
            return array.reshape(-1)
        if pick == 1:
            return array[:0]  if array.ndim else array.reshape(1)[:0]
        if pick == 2:
            return array[None]
        return np.repeat(array.reshape(-1), 2)

    return _constant(model, random, change)


def _odd_type(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    kind = random.choice(["float64", "int32", "int8", "float16", "bool", "complex64"])
    return _constant(model, random, lambda array: array.astype(kind))


def _odd_extent(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    odd = [0, -1, 1, 2, 3, 1 << 24, 1 << 31, (1 << 62) + 1]
    dims[int(random.integers(len(dims)))].dim_value = odd[int(random.integers(len(odd)))]
    if random.random() < 0.7:
        del model.graph.value_info[:]
        model.graph.output[0].type.Clear()
    return model.SerializeToString()


def _odd_attribute(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    nodes = [n for n in model.graph.node if n.attribute]
    if not nodes:
        return _odd_extent(model, random)
    node = nodes[int(random.integers(len(nodes)))]
    attribute = node.attribute[int(random.integers(len(node.attribute)))]
    odd = [0, -1, 7, 1 << 20, 1 << 40, -(1 << 62)]
    value = odd[int(random.integers(len(odd)))]
    if attribute.type == onnx.AttributeProto.INTS and attribute.ints:
        if random.random() < 0.3:
            del attribute.ints[0]
        else:
            attribute.ints[int(random.integers(len(attribute.ints)))] = value
    elif attribute.type == onnx.AttributeProto.INT:
        attribute.i = value
    elif attribute.type == onnx.AttributeProto.STRING:
        attribute.s = random.choice([b"", b"cubic", b"\xff\xfe", b"half_pixel"])
    else:
        attribute.type = onnx.AttributeProto.STRING
    return model.SerializeToString()


def _odd_op(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    node = model.graph.node[int(random.integers(len(model.graph.node)))]
    node.op_type = str(random.choice(
        ["Softmax", "Relu", "LSTM", "If", "Nothing", "Quant", "", "Reshape", "Shape", "Loop"]))
    if random.random() < 0.2:
        node.domain = "qonnx.custom_op.general"
    return model.SerializeToString()


def _odd_opset(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    model.opset_import[0].version = int(random.choice([0, 1, 8, 9, 11, 13, 99, -3]))
    return model.SerializeToString()


def _lying(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    """A constant whose extents are not those of its data."""
    place = model.graph.initializer[int(random.integers(len(model.graph.initializer)))]
    if place.dims:
        place.dims[0] = int(random.choice([0, -1, 1, 1 << 33, 1 << 62]))
    else:
        place.dims.append(1 << 40)
    return model.SerializeToString()


def _bomb(model: onnx.ModelProto, random: np.random.Generator) -> bytes:
    """A few bytes that ask for gigabytes."""
    extent = int(random.choice([1 << 16, 1 << 31]))
    model.graph.initializer.append(
        numpy_helper.from_array(np.array([extent, extent]), "huge_shape"))
    kind = "ConstantOfShape" if random.random() < 0.5 else "Expand"
    if kind == "Expand":
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "huge_value"))
        inputs = ["huge_value", "huge_shape"]
    else:
        inputs = ["huge_shape"]
    model.graph.node.insert(0, helper.make_node(kind, inputs, ["huge"]))
    last = model.graph.node[-1].output[0]
    model.graph.node.append(helper.make_node("Add", [last, "huge"], ["bomb"]))
    model.graph.output[0].name = "bomb"
    model.graph.output[0].type.Clear()
    return model.SerializeToString()


DAMAGES: list[Damage] = [
    _truncated, _flipped, _spliced, _without_constant, _without_node, _cyclic, _rewired,
    _not_finite, _reshaped, _odd_type, _odd_extent, _odd_attribute, _odd_op, _odd_opset, _lying,
    _bomb,
]


def damaged(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files, each with the name of what was done to it."""
    models = [m.SerializeToString() for m in valid()]
    for k in range(count):
        random = np.random.default_rng((seed, k))
        model = onnx.load_from_string(models[k % len(models)])
        damage = DAMAGES[k // len(models) % len(DAMAGES)]
        yield damage.__name__.strip("_"), damage(model, random)
