"""The integer graph as standard ONNX: two independent golden models, run by onnxruntime.

:func:`to_integer` writes exactly what ``Graph.evaluate`` computes, in integer ops (ConvInteger,
Add, Cast, Mul, Round, Clip; Gather for tables): both must agree bit for bit at every tensor.
:func:`to_qdq` writes the same network as other tools do, float ops between QuantizeLinear and
DequantizeLinear: op by op it agrees within one step.

Tensors are NCHW with a batch of one; integers are int8.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    AveragePool,
    Concat,
    Conv,
    Gemm,
    GlobalAveragePool,
    Graph,
    MaxPool,
    Node,
    Quantisation,
    Requantise,
    Resize,
    Split,
    Table,
    TensorType,
)
from hwgen.ir.ops import Window

__all__ = ["from_onnx_layout", "to_integer", "to_onnx_layout", "to_qdq"]

OPSET = 21


def to_onnx_layout(frames: np.ndarray) -> np.ndarray:
    """Frames ``(N, *spatial, C)`` as ONNX has them, ``(N, C, *spatial)``."""
    return np.ascontiguousarray(np.moveaxis(frames, -1, 1))


def from_onnx_layout(frames: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_onnx_layout`."""
    return np.ascontiguousarray(np.moveaxis(frames, 1, -1))


def to_integer(graph: Graph) -> onnx.ModelProto:
    """The graph in integer ops; every tensor of the graph is an int8 output of the same name.

    Raises
    ------
    :exc:`HwgenError`
        If a tensor is wider than 8 bits.
    """
    writer = _Integer(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.model(graph.types)


def to_qdq(graph: Graph) -> onnx.ModelProto:
    """The graph as float ops between QuantizeLinear and DequantizeLinear.

    Every tensor of the graph is an int8 output of the same name.
    """
    writer = _Qdq(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.model(graph.types)


class _Writer:
    """Collects ONNX nodes and constants."""

    def __init__(self, graph: Graph) -> None:
        for name, type in graph.types.items():
            if type.bits > 8:
                raise HwgenError(f"Tensor {name!r} has {type.bits} bits; ONNX is written up to 8")
        self.graph = graph
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, out: str = "", **attributes) -> str:
        """Add an ONNX node with one output; returns the output's name."""
        if not out:
            self._count += 1
            out = f"{kind.lower()}.{self._count}"
        self._nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, value, dtype) -> str:
        """Add a constant; returns its name."""
        self._count += 1
        name = f"constant.{self._count}"
        self._constants[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def model(self, outputs: Iterable[str]) -> onnx.ModelProto:
        """The finished model."""
        def info(name: str) -> onnx.ValueInfoProto:
            shape = self.graph.types[name].shape
            return helper.make_tensor_value_info(
                name, TensorProto.INT8, ["N", shape[-1], *shape[:-1]]
            )

        graph = helper.make_graph(
            self._nodes, "graph", [info(name) for name in self.graph.inputs],
            [info(name) for name in outputs if name not in self.graph.inputs],
            list(self._constants.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 10
        onnx.checker.check_model(model)
        return model

    def node(self, node: Node) -> None:
        """Write one op of the integer graph."""
        types = [self.graph.types[t] for t in node.inputs]
        handler = getattr(self, f"_{type(node.op).__name__.lower()}")
        handler(node, node.op, types)

    # What both forms share: ops that only select among integers.

    def _table(self, node: Node, op: Table, types: list[TensorType]) -> None:
        index = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        shifted = self.op("Sub", index, self.constant(types[0].quantisation.low, np.int32))
        self.op("Gather", self.constant(op.values, np.int8), shifted, out=node.name)

    def _concat(self, node: Node, op: Concat, types: list[TensorType]) -> None:
        self.op("Concat", *node.inputs, out=node.name, axis=1)

    def _split(self, node: Node, op: Split, types: list[TensorType]) -> None:
        sizes = self.constant(op.sizes, np.int64)
        self._nodes.append(
            helper.make_node("Split", [node.inputs[0], sizes], list(node.outputs), axis=1)
        )

    def _resize(self, node: Node, op: Resize, types: list[TensorType]) -> None:
        scales = self.constant((1, 1, *op.factors), np.float32)
        self.op("Resize", node.inputs[0], "", scales, out=node.name, mode="nearest",
                coordinate_transformation_mode="asymmetric", nearest_mode="floor")

    def _maxpool(self, node: Node, op: MaxPool, types: list[TensorType]) -> None:
        self.op("MaxPool", node.inputs[0], out=node.name, kernel_shape=op.window.kernel,
                strides=op.window.stride, pads=_pads(op.window))

    def _gemm(self, node: Node, op: Gemm, types: list[TensorType]) -> None:
        """A convolution whose window is the frame, its spatial extents then taken away."""
        conv = op.as_conv(types[0])
        wide = self._convolution(node, conv, types[0])
        shape = self.constant((-1, conv.cout), np.int64)
        self.op("Reshape", wide, shape, out=node.name)

    def _conv(self, node: Node, op: Conv, types: list[TensorType]) -> None:
        self.op("Identity", self._convolution(node, op, types[0]), out=node.name)

    def _convolution(self, node: Node, op: Conv, type: TensorType) -> str:
        raise NotImplementedError

    def _globalaveragepool(
        self, node: Node, op: GlobalAveragePool, types: list[TensorType]
    ) -> None:
        self._averagepool(node, op.as_pool(types[0]), types)

    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        raise NotImplementedError


class _Integer(_Writer):
    """Integer ops only, exactly as the hardware computes."""

    def _requantised(
        self, acc: str, requantise: Requantise, output: Quantisation, rank: int, out: str = ""
    ) -> str:
        """``clamp(zp + round_half_even(acc * M * 2^-s))`` of an int32 tensor, in double: exact."""
        shape = (-1,) + (1,) * (rank - 2)
        wide = self.op("Cast", acc, to=TensorProto.DOUBLE)
        scaled = self.op(
            "Mul", wide, self.constant(requantise.multiplier.reshape(shape), np.float64)
        )
        power = np.ldexp(1.0, -requantise.shift).reshape(shape)
        shifted = self.op("Mul", scaled, self.constant(power, np.float64))
        rounded = self.op("Round", shifted)
        placed = self.op("Add", rounded, self.constant(output.zero_point, np.float64))
        clipped = self.op("Clip", placed, self.constant(output.low, np.float64),
                          self.constant(output.high, np.float64))
        return self.op("Cast", clipped, out=out, to=TensorProto.INT8)

    def _convolution(self, node: Node, op: Conv, type: TensorType) -> str:
        # ConvInteger wants unsigned activations: everything is shifted by 128.
        wide = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        moved = self.op("Add", wide, self.constant(128, np.int32))
        x = self.op("Cast", moved, to=TensorProto.UINT8)
        weight = to_onnx_layout(op.weight)
        zero = type.zero_point
        sums = self.op(
            "ConvInteger", x, self.constant(weight, np.int8), self.constant(zero + 128, np.uint8),
            group=op.groups, strides=op.stride, pads=_pads(op.window),
        )
        # The op takes the zero point off; the bias of the graph does so too.
        bias = op.bias + zero * op.weight.reshape(op.cout, -1).astype(np.int64).sum(1)
        rank = weight.ndim
        acc = self.op("Add", sums, self.constant(bias.reshape(-1, *(1,) * (rank - 2)), np.int32))
        return self._requantised(acc, op.requantise, op.output, rank)

    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        (type,) = types
        wide = self.op("Cast", node.inputs[0], to=TensorProto.DOUBLE)
        real = self.op("Sub", wide, self.constant(type.zero_point, np.float64))
        rank = len(type.shape) + 1
        ones = np.ones((type.channels, 1, *op.window.kernel))
        total = self.op("Conv", self.op("Cast", real, to=TensorProto.FLOAT),
                        self.constant(ones, np.float32), group=type.channels,
                        strides=op.window.stride, pads=_pads(op.window))
        self._requantised(total, op.requantise, op.output, rank, out=node.name)

    def _add(self, node: Node, op: Add, types: list[TensorType]) -> None:
        terms = []
        for tensor, type, multiplier in zip(node.inputs, types, op.multipliers, strict=True):
            wide = self.op("Cast", tensor, to=TensorProto.DOUBLE)
            real = self.op("Sub", wide, self.constant(type.zero_point, np.float64))
            terms.append(self.op("Mul", real, self.constant(multiplier, np.float64)))
        total = self.op("Add", *terms)
        one = Requantise(np.array([1]), np.array([op.shift]))
        self._requantised(total, one, op.output, 2, out=node.name)


class _Qdq(_Writer):
    """Float ops between quantisers, as onnxruntime and PyTorch write quantised networks."""

    def _real(self, tensor: str, q: Quantisation) -> str:
        return self.op("DequantizeLinear", tensor, self.constant(q.scale, np.float32),
                       self.constant(q.zero_point, np.int8))

    def _codes(self, real: str, q: Quantisation, out: str = "") -> str:
        if q.bits < 8:
            low, high = (np.float32((c - q.zero_point) * q.scale) for c in (q.low, q.high))
            real = self.op("Clip", real, self.constant(low, np.float32),
                           self.constant(high, np.float32))
        return self.op("QuantizeLinear", real, self.constant(q.scale, np.float32),
                       self.constant(q.zero_point, np.int8), out=out)

    def _convolution(self, node: Node, op: Conv, type: TensorType) -> str:
        ratio = np.ldexp(op.requantise.multiplier.astype(np.float64), -op.requantise.shift)
        scale = ratio * op.output.scale / type.scale
        zeros = self.constant(np.zeros(op.cout), np.int8)
        weight = self.op(
            "DequantizeLinear", self.constant(to_onnx_layout(op.weight), np.int8),
            self.constant(scale, np.float32), zeros, axis=0,
        )
        bias = op.bias + type.zero_point * op.weight.reshape(op.cout, -1).astype(np.int64).sum(1)
        real_bias = self.op(
            "DequantizeLinear", self.constant(bias, np.int32),
            self.constant(scale * type.scale, np.float32),
            self.constant(np.zeros(op.cout), np.int32), axis=0,
        )
        out = self.op("Conv", self._real(node.inputs[0], type.quantisation), weight, real_bias,
                      group=op.groups, strides=op.stride, pads=_pads(op.window))
        return self._codes(out, op.output)

    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        real = self._real(node.inputs[0], types[0].quantisation)
        mean = self.op("AveragePool", real, kernel_shape=op.window.kernel,
                       strides=op.window.stride, pads=_pads(op.window), count_include_pad=1)
        self._codes(mean, op.output, out=node.name)

    def _add(self, node: Node, op: Add, types: list[TensorType]) -> None:
        a, b = (self._real(t, q.quantisation) for t, q in zip(node.inputs, types, strict=True))
        self._codes(self.op("Add", a, b), op.output, out=node.name)


def _pads(window: Window) -> list[int]:
    return [p[0] for p in window.pads] + [p[1] for p in window.pads]
