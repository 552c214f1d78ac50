"""The integer graph as standard ONNX: two independent golden models, run by onnxruntime.

:func:`to_integer` writes exactly what ``Graph.evaluate`` computes, in integer ops (ConvInteger,
Add, Cast, Mul, Round, Clip; Gather for tables): both must agree bit for bit at every tensor.
:func:`to_qdq` writes the same network as other tools do, float ops between QuantizeLinear and
DequantizeLinear: op by op it agrees within one step.

Tensors are NCHW with a batch of any size; integers are int8, or int16 above 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    ArgMax,
    AveragePool,
    Concat,
    Conv,
    Convolution,
    ConvTranspose,
    GatherChannels,
    Gemm,
    GlobalAveragePool,
    GlobalMaxPool,
    Graph,
    MaxPool,
    Mul,
    Node,
    Pad,
    Quantisation,
    Requantise,
    Reshape,
    Resize,
    Split,
    Table,
    TensorType,
    Window,
)

__all__ = ["from_onnx_layout", "to_integer", "to_onnx_layout", "to_qdq"]

OPSET = 21


def to_onnx_layout(frames: np.ndarray) -> np.ndarray:
    """Frames ``(N, *spatial, C)`` as ONNX has them, ``(N, C, *spatial)``."""
    return np.ascontiguousarray(np.moveaxis(frames, -1, 1))


def from_onnx_layout(frames: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_onnx_layout`."""
    return np.ascontiguousarray(np.moveaxis(frames, 1, -1))


def to_integer(graph: Graph) -> onnx.ModelProto:
    """The graph in integer ops; every tensor of the graph is an output of the same name.

    Raises
    ------
    :exc:`HwgenError`
        If an op with weights reads a tensor of more than 8 bits.
    """
    writer = _Integer(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.model(graph.types)


def to_qdq(graph: Graph) -> onnx.ModelProto:
    """The graph as float ops between QuantizeLinear and DequantizeLinear.

    Every tensor of the graph is an output of the same name.
    """
    writer = _Qdq(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.model(graph.types)


class _Writer:
    """Collects ONNX nodes and constants."""

    def __init__(self, graph: Graph) -> None:
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
            kind = TensorProto.INT8 if self.graph.types[name].bits <= 8 else TensorProto.INT16
            return helper.make_tensor_value_info(name, kind, ["N", shape[-1], *shape[:-1]])

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
        (type,) = types
        index = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        begin = np.asarray(-type.quantisation.low)
        if op.by_channel:
            rows = np.arange(type.channels) * op.values.shape[-1]
            begin = (begin + rows).reshape(-1, *(1,) * len(type.spatial))
        shifted = self.op("Add", index, self.constant(begin, np.int32))
        values = self.constant(op.values.ravel(), op.output.dtype)
        self.op("Gather", values, shifted, out=node.name)

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
        # onnxruntime pads less than a kernel; the smallest code never wins either.
        window = op.window
        source = self._padded(node.inputs[0], window, types[0].quantisation.low, types[0])
        self.op("MaxPool", source, out=node.name, kernel_shape=window.kernel,
                strides=window.stride, dilations=window.dilation)

    def _globalmaxpool(self, node: Node, op: GlobalMaxPool, types: list[TensorType]) -> None:
        axes = self.constant(range(2, len(types[0].shape) + 1), np.int64)
        self.op("ReduceMax", node.inputs[0], axes, out=node.name, keepdims=1)

    def _padded(self, tensor: str, window: Window, fill: int | None, type: TensorType) -> str:
        """A tensor with the pads of a window, as an op of its own."""
        if not any(any(p) for p in window.pads):
            return tensor
        amounts = self.constant([0, 0, *(a for a, _ in window.pads), 0, 0,
                                 *(b for _, b in window.pads)], np.int64)
        if fill is None:
            return self.op("Pad", tensor, amounts, mode="edge")
        return self.op("Pad", tensor, amounts, self.constant(fill, type.quantisation.dtype))

    def _pad(self, node: Node, op: Pad, types: list[TensorType]) -> None:
        (type,) = types
        padded = self._padded(node.inputs[0], op.window, op.fill, type)
        rank = len(type.spatial)
        self.op(
            "Slice", padded, self.constant([0] * rank, np.int64),
            self.constant([1 << 40] * rank, np.int64), self.constant(range(2, rank + 2), np.int64),
            self.constant(op.stride, np.int64), out=node.name,
        )

    def _gatherchannels(self, node: Node, op: GatherChannels, types: list[TensorType]) -> None:
        self.op("Gather", node.inputs[0], self.constant(op.order, np.int64), out=node.name, axis=1)

    def _reshape(self, node: Node, op: Reshape, types: list[TensorType]) -> None:
        """The order of the stream is kept, which has channels last."""
        before, after = len(types[0].shape) + 1, len(op.shape) + 1
        last = self.op("Transpose", node.inputs[0], perm=[0, *range(2, before), 1])
        shaped = self.op("Reshape", last, self.constant((-1, *op.shape), np.int64))
        self.op("Transpose", shaped, out=node.name, perm=[0, after - 1, *range(1, after - 1)])

    def _argmax(self, node: Node, op: ArgMax, types: list[TensorType]) -> None:
        (out,) = op.infer(*types)
        kind = TensorProto.INT8 if out.bits <= 8 else TensorProto.INT16
        self.op("Cast", self.op("ArgMax", node.inputs[0], axis=1, keepdims=1), out=node.name,
                to=kind)

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

    def _convtranspose(self, node: Node, op: ConvTranspose, types: list[TensorType]) -> None:
        raise NotImplementedError

    def _globalaveragepool(
        self, node: Node, op: GlobalAveragePool, types: list[TensorType]
    ) -> None:
        raise NotImplementedError

    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        raise NotImplementedError


class _Integer(_Writer):
    """Integer ops only, exactly as the hardware computes."""

    def _requantised(
        self, acc: str, requantise: Requantise, output: Quantisation, rank: int, out: str = "",
        entry: np.ndarray | None = None,
    ) -> str:
        """``clamp(zp + round_half_even(acc * M * 2^-s))`` of an int32 tensor, in double: exact.

        ``entry``: which multiplier each pixel takes; else one for each channel, or one for all.
        """
        scale, power = requantise.multiplier, np.ldexp(1.0, -requantise.shift)
        if entry is not None:
            scale, power = scale[entry], power[entry]
        else:
            scale, power = (v.reshape(-1, *(1,) * (rank - 2)) for v in (scale, power))
        wide = self.op("Cast", acc, to=TensorProto.DOUBLE)
        scaled = self.op("Mul", wide, self.constant(scale, np.float64))
        shifted = self.op("Mul", scaled, self.constant(power, np.float64))
        rounded = self.op("Round", shifted)
        placed = self.op("Add", rounded, self.constant(output.zero_point, np.float64))
        clipped = self.op("Clip", placed, self.constant(output.low, np.float64),
                          self.constant(output.high, np.float64))
        kind = TensorProto.INT8 if output.bits <= 8 else TensorProto.INT16
        return self.op("Cast", clipped, out=out, to=kind)

    def _unsigned(self, node: Node, type: TensorType) -> str:
        """ConvInteger wants unsigned activations: everything is shifted by 128."""
        if type.bits > 8:
            raise HwgenError(
                f"Node {node.name!r} reads {type.bits} bits; integer ONNX has convolutions up to 8"
            )
        wide = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        moved = self.op("Add", wide, self.constant(128, np.int32))
        return self.op("Cast", moved, to=TensorProto.UINT8)

    def _convolution(self, node: Node, op: Conv, type: TensorType) -> str:
        weight = to_onnx_layout(op.weight)
        zero = type.zero_point
        sums = self.op(
            "ConvInteger", self._unsigned(node, type), self.constant(weight, np.int8),
            self.constant(zero + 128, np.uint8), group=op.groups, strides=op.stride,
            pads=_pads(op.window), dilations=op.dilation,
        )
        # The op takes the zero point off; the bias of the graph does so too.
        bias = op.bias + zero * op.weight.reshape(op.cout, -1).astype(np.int64).sum(1)
        rank = weight.ndim
        acc = self.op("Add", sums, self.constant(bias.reshape(-1, *(1,) * (rank - 2)), np.int32))
        return self._requantised(acc, op.requantise, op.output, rank)

    def _convtranspose(self, node: Node, op: ConvTranspose, types: list[TensorType]) -> None:
        """Pixels spread apart by the zero point, and a convolution with the kernel turned round."""
        (type,) = types
        zero, rank = type.zero_point, len(type.spatial)
        x = self._unsigned(node, type)
        apart = [n for extent in type.spatial for n in (extent, 1)]
        x = self.op("Reshape", x, self.constant((-1, type.channels, *apart), np.int64))
        code = self.constant(zero + 128, np.uint8)
        spread = [n for s in op.stride for n in (0, s - 1)]
        x = self.op("Pad", x, self.constant([0] * (2 + 2 * rank) + [0, 0, *spread], np.int64), code)
        full = [n * s for n, s in zip(type.spatial, op.stride, strict=True)]
        x = self.op("Reshape", x, self.constant((-1, type.channels, *full), np.int64))
        kernel = op.weight.shape[1:-1]
        before = [k - 1 - p for k, (p, _) in zip(kernel, op.pads, strict=True)]
        after = [k - 1 - p - (s - 1)
                 for k, (_, p), s in zip(kernel, op.pads, op.stride, strict=True)]
        x = self.op("Pad", x, self.constant([0, 0, *before, 0, 0, *after], np.int64), code)
        turned = op.weight[(slice(None), *(slice(None, None, -1),) * rank)]
        sums = self.op("ConvInteger", x, self.constant(to_onnx_layout(turned), np.int8), code,
                       group=op.groups)
        bias = self.constant(op.bias.reshape(-1, *(1,) * rank), np.int32)
        self._requantised(self.op("Add", sums, bias), op.requantise, op.output, rank + 2,
                          out=node.name)

    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        (type,) = types
        wide = self.op("Cast", node.inputs[0], to=TensorProto.DOUBLE)
        real = self.op("Sub", wide, self.constant(type.zero_point, np.float64))
        ones = np.ones((type.channels, 1, *op.window.kernel))
        total = self.op("Conv", self.op("Cast", real, to=TensorProto.FLOAT),
                        self.constant(ones, np.float32), group=type.channels,
                        strides=op.window.stride, pads=_pads(op.window),
                        dilations=op.window.dilation)
        entry = None
        if not op.count_include_pad:
            inside = np.sum(op.window.views(np.ones((1, *type.spatial, 1), int), 0), axis=0)
            entry = to_onnx_layout(np.maximum(inside, 1) - 1)
        self._requantised(total, op.requantise, op.output, len(type.shape) + 1, out=node.name,
                          entry=entry)

    def _globalaveragepool(
        self, node: Node, op: GlobalAveragePool, types: list[TensorType]
    ) -> None:
        (type,) = types
        wide = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        real = self.op("Sub", wide, self.constant(type.zero_point, np.int32))
        axes = self.constant(range(2, len(type.shape) + 1), np.int64)
        total = self.op("ReduceSum", real, axes, keepdims=1)
        self._requantised(total, op.requantise, op.output, len(type.shape) + 1, out=node.name)

    def _mul(self, node: Node, op: Mul, types: list[TensorType]) -> None:
        terms = []
        for tensor, type in zip(node.inputs, types, strict=True):
            wide = self.op("Cast", tensor, to=TensorProto.INT32)
            terms.append(self.op("Sub", wide, self.constant(type.zero_point, np.int32)))
        self._requantised(self.op("Mul", *terms), op.requantise, op.output, 2, out=node.name)

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
                       self.constant(q.zero_point, q.dtype))

    def _codes(self, real: str, q: Quantisation, out: str = "") -> str:
        if q.bits not in (8, 16):
            low, high = (np.float32((c - q.zero_point) * q.scale) for c in (q.low, q.high))
            real = self.op("Clip", real, self.constant(low, np.float32),
                           self.constant(high, np.float32))
        return self.op("QuantizeLinear", real, self.constant(q.scale, np.float32),
                       self.constant(q.zero_point, q.dtype), out=out)

    def _scale(self, op: Convolution, type: TensorType) -> np.ndarray:
        """Scales of the weights, from those of the requantisation."""
        ratio = np.ldexp(op.requantise.multiplier.astype(np.float64), -op.requantise.shift)
        return ratio * op.output.scale / type.scale

    def _convolution(self, node: Node, op: Conv, type: TensorType) -> str:
        scale, zeros = self._scale(op, type), np.zeros(op.cout)
        weight = self.op(
            "DequantizeLinear", self.constant(to_onnx_layout(op.weight), np.int8),
            self.constant(scale, np.float32), self.constant(zeros, np.int8), axis=0,
        )
        bias = op.bias + type.zero_point * op.weight.reshape(op.cout, -1).sum(1, dtype=np.int64)
        real_bias = self.op(
            "DequantizeLinear", self.constant(bias, np.int32),
            self.constant(scale * type.scale, np.float32), self.constant(zeros, np.int32), axis=0,
        )
        out = self.op("Conv", self._real(node.inputs[0], type.quantisation), weight, real_bias,
                      group=op.groups, strides=op.stride, pads=_pads(op.window),
                      dilations=op.dilation)
        return self._codes(out, op.output)

    def _convtranspose(self, node: Node, op: ConvTranspose, types: list[TensorType]) -> None:
        """Plain float weights: with groups no axis of theirs is that of the output channels."""
        (type,) = types
        grow = [max(-b, 0) for _, b in op.pads]
        if any(a < 0 for a, _ in op.pads) or any(
                g >= s for g, s in zip(grow, op.stride, strict=True)):
            raise HwgenError(f"Pads {op.pads} of {node.name!r} cannot be written as QDQ")
        scale = self._scale(op, type)
        real = op.weight * scale.reshape(-1, *(1,) * (op.weight.ndim - 1))
        real = np.moveaxis(real.reshape(op.groups, -1, *op.weight.shape[1:]), -1, 1)
        real = real.reshape(type.channels, *real.shape[2:])
        pads = [max(a, 0) for a, _ in op.pads] + [max(b, 0) for _, b in op.pads]
        out = self.op(
            "ConvTranspose", self._real(node.inputs[0], type.quantisation),
            self.constant(real, np.float32),
            self.constant(op.bias * scale * type.scale, np.float32),
            group=op.groups, strides=op.stride, pads=pads, output_padding=grow,
        )
        self._codes(out, op.output, out=node.name)

    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        real = self._real(node.inputs[0], types[0].quantisation)
        mean = self.op("AveragePool", real, kernel_shape=op.window.kernel,
                       strides=op.window.stride, pads=_pads(op.window),
                       dilations=op.window.dilation, count_include_pad=int(op.count_include_pad))
        self._codes(mean, op.output, out=node.name)

    def _globalaveragepool(
        self, node: Node, op: GlobalAveragePool, types: list[TensorType]
    ) -> None:
        mean = self.op("GlobalAveragePool", self._real(node.inputs[0], types[0].quantisation))
        self._codes(mean, op.output, out=node.name)

    def _add(self, node: Node, op: Add, types: list[TensorType]) -> None:
        a, b = (self._real(t, q.quantisation) for t, q in zip(node.inputs, types, strict=True))
        kind = "Sub" if op.multipliers[1] < 0 else "Add"
        self._codes(self.op(kind, a, b), op.output, out=node.name)

    def _mul(self, node: Node, op: Mul, types: list[TensorType]) -> None:
        a, b = (self._real(t, q.quantisation) for t, q in zip(node.inputs, types, strict=True))
        self._codes(self.op("Mul", a, b), op.output, out=node.name)


def _pads(window: Window) -> list[int]:
    return [p[0] for p in window.pads] + [p[1] for p in window.pads]
