"""The integer graph as float ops between quantisers."""

from __future__ import annotations

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    AveragePool,
    Conv,
    Convolution,
    ConvTranspose,
    GlobalAveragePool,
    Mul,
    Node,
    Quantisation,
    TensorType,
)
from hwgen.models.export.writer import Writer, flat_pads, to_onnx_layout, writes

__all__ = ["QdqWriter"]


class QdqWriter(Writer):
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
        if op.requantise.offset is None:
            real_bias = self.op(
                "DequantizeLinear", self.constant(bias, np.int32),
                self.constant(scale * type.scale, np.float32), self.constant(zeros, np.int32),
                axis=0,
            )
        else:
            real_bias = self.constant(
                (bias + _fraction(op)) * scale * type.scale, np.float32)
        out = self.op("Conv", self._real(node.inputs[0], type.quantisation), weight, real_bias,
                      group=op.groups, strides=op.stride, pads=flat_pads(op.window),
                      dilations=op.dilation)
        return self._codes(out, op.output)

    @writes(ConvTranspose)
    def _convtranspose(self, node: Node, op: ConvTranspose, types: list[TensorType]) -> None:
        """Write float weights: with groups, none of their axes is that of the output channels."""
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
            self.constant((op.bias + _fraction(op)) * scale * type.scale, np.float32),
            group=op.groups, strides=op.stride, pads=pads, output_padding=grow,
        )
        self._codes(out, op.output, out=node.name)

    @writes(AveragePool)
    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        real = self._real(node.inputs[0], types[0].quantisation)
        mean = self.op("AveragePool", real, kernel_shape=op.window.kernel,
                       strides=op.window.stride, pads=flat_pads(op.window),
                       dilations=op.window.dilation, count_include_pad=int(op.count_include_pad))
        self._codes(mean, op.output, out=node.name)

    @writes(GlobalAveragePool)
    def _globalaveragepool(
        self, node: Node, op: GlobalAveragePool, types: list[TensorType]
    ) -> None:
        mean = self.op("GlobalAveragePool", self._real(node.inputs[0], types[0].quantisation))
        self._codes(mean, op.output, out=node.name)

    @writes(Add)
    def _add(self, node: Node, op: Add, types: list[TensorType]) -> None:
        a, b = (self._real(t, q.quantisation) for t, q in zip(node.inputs, types, strict=True))
        kind = "Sub" if op.multipliers[1] < 0 else "Add"
        self._codes(self.op(kind, a, b), op.output, out=node.name)

    @writes(Mul)
    def _mul(self, node: Node, op: Mul, types: list[TensorType]) -> None:
        a, b = (self._real(t, q.quantisation) for t, q in zip(node.inputs, types, strict=True))
        self._codes(self.op("Mul", a, b), op.output, out=node.name)


def _fraction(op: Convolution) -> np.ndarray:
    """The part of the biases that is below a step of the accumulator, in such steps."""
    offset = op.requantise.offset
    return np.zeros(op.cout) if offset is None else offset / np.maximum(op.requantise.multiplier, 1)
