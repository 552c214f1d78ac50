"""The integer graph in integer ops, exactly as the hardware computes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    AveragePool,
    Conv,
    ConvTranspose,
    GlobalAveragePool,
    Mul,
    Node,
    Quantisation,
    Requantise,
    TensorType,
)
from hwgen.models.export.writer import Writer, flat_pads, to_onnx_layout, writes

__all__ = ["IntegerWriter"]


class IntegerWriter(Writer):
    """Integer ops only, exactly as the hardware computes."""

    def _requantised(
        self, acc: str, requantise: Requantise, output: Quantisation, rank: int, out: str = "",
        entry: np.ndarray | None = None,
    ) -> str:
        """Write ``clamp(zp + round_half_even((acc * M + offset) * 2^-s))`` of an int32 tensor.

        It is computed in double, which is exact as long as products stay below ``2**53``.

        Parameters
        ----------
        acc, out : tensors
        requantise, output : multipliers and shifts, and the codes
        rank : of the tensor
        entry : which multiplier each pixel takes; None: one for each channel, or one for all
        """
        def spread(values: np.ndarray) -> np.ndarray:
            return values[entry] if entry is not None else values.reshape(-1, *(1,) * (rank - 2))

        scale, power = spread(requantise.multiplier), spread(np.ldexp(1.0, -requantise.shift))
        wide = self.op("Cast", acc, to=TensorProto.DOUBLE)
        scaled = self.op("Mul", wide, self.constant(scale, np.float64))
        if requantise.offset is not None:
            offset = spread(requantise.offset)
            scaled = self.op("Add", scaled, self.constant(offset, np.float64))
        shifted = self.op("Mul", scaled, self.constant(power, np.float64))
        return self._rounded(shifted, output, out)

    def _rounded(self, real: str, output: Quantisation, out: str = "") -> str:
        """Codes of doubles in steps of the output: half to even, and saturated."""
        rounded = self.op("Round", real)
        placed = self.op("Add", rounded, self.constant(output.zero_point, np.float64))
        clipped = self.op("Clip", placed, self.constant(output.low, np.float64),
                          self.constant(output.high, np.float64))
        kind = TensorProto.INT8 if output.bits <= 8 else TensorProto.INT16
        return self.op("Cast", clipped, out=out, to=kind)

    def _unsigned(self, node: Node, type: TensorType) -> str:
        """The input shifted by 128, because ConvInteger takes unsigned activations."""
        if type.bits > 8:
            raise HwgenError(
                f"Node {node.name!r} reads {type.bits} bits; integer ONNX has transposed "
                f"convolutions up to 8"
            )
        wide = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        moved = self.op("Add", wide, self.constant(128, np.int32))
        return self.op("Cast", moved, to=TensorProto.UINT8)

    def _convolution(self, node: Node, op: Conv, type: TensorType) -> str:
        rank, zero = op.weight.ndim, type.zero_point
        # The op takes the zero point off; the bias of the graph does so too.
        bias = op.bias + zero * op.weight.reshape(op.cout, -1).astype(np.int64).sum(1)
        bias = bias.reshape(-1, *(1,) * (rank - 2))
        if type.bits <= 8:
            sums = self._sums(self._unsigned(node, type), zero + 128, op)
            acc = self.op("Add", sums, self.constant(bias, np.int32))
        else:
            acc = self.op("Add", self._wide_sums(node, op, type), self.constant(bias, np.int64))
        return self._requantised(acc, op.requantise, op.output, rank)

    def _sums(self, codes: str, zero: int, op: Conv) -> str:
        """The sums of a convolution of unsigned codes of eight bits."""
        return self.op(
            "ConvInteger", codes, self.constant(to_onnx_layout(op.weight), np.int8),
            self.constant(zero, np.uint8), group=op.groups, strides=op.stride,
            pads=flat_pads(op.window), dilations=op.dilation,
        )

    def _wide_sums(self, node: Node, op: Conv, type: TensorType) -> str:
        """The sums of a convolution of wider codes, whose upper and lower bits go apart."""
        low = type.quantisation.low
        wide = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        codes = self.op("Sub", wide, self.constant(low, np.int32))
        upper = self.op("Div", codes, self.constant(256, np.int32))
        lower = self.op("Sub", codes, self.op("Mul", upper, self.constant(256, np.int32)))
        halves = []
        for half, zero in zip((upper, lower), divmod(type.zero_point - low, 256), strict=True):
            sums = self._sums(self.op("Cast", half, to=TensorProto.UINT8), zero, op)
            halves.append(self.op("Cast", sums, to=TensorProto.INT64))
        above = self.op("Mul", halves[0], self.constant(256, np.int64))
        return self.op("Add", above, halves[1])

    @writes(ConvTranspose)
    def _convtranspose(self, node: Node, op: ConvTranspose, types: list[TensorType]) -> None:
        """Spread pixels apart with zero points between, and convolve with the turned kernel."""
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

    @writes(AveragePool)
    def _averagepool(self, node: Node, op: AveragePool, types: list[TensorType]) -> None:
        (type,) = types
        wide = self.op("Cast", node.inputs[0], to=TensorProto.DOUBLE)
        real = self.op("Sub", wide, self.constant(type.zero_point, np.float64))
        ones = np.ones((type.channels, 1, *op.window.kernel))
        total = self.op("Conv", self.op("Cast", real, to=TensorProto.FLOAT),
                        self.constant(ones, np.float32), group=type.channels,
                        strides=op.window.stride, pads=flat_pads(op.window),
                        dilations=op.window.dilation)
        entry = None
        if not op.count_include_pad:
            inside = np.sum(op.window.views(np.ones((1, *type.spatial, 1), int), 0), axis=0)
            entry = to_onnx_layout(np.maximum(inside, 1) - 1)
        self._requantised(total, op.requantise, op.output, len(type.shape) + 1, out=node.name,
                          entry=entry)

    @writes(GlobalAveragePool)
    def _globalaveragepool(
        self, node: Node, op: GlobalAveragePool, types: list[TensorType]
    ) -> None:
        (type,) = types
        wide = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        real = self.op("Sub", wide, self.constant(type.zero_point, np.int32))
        axes = self.constant(range(2, len(type.shape) + 1), np.int64)
        total = self.op("ReduceSum", real, axes, keepdims=1)
        self._requantised(total, op.requantise, op.output, len(type.shape) + 1, out=node.name)

    @writes(Mul)
    def _mul(self, node: Node, op: Mul, types: list[TensorType]) -> None:
        terms = []
        for tensor, type in zip(node.inputs, types, strict=True):
            wide = self.op("Cast", tensor, to=TensorProto.INT64)
            terms.append(self.op("Sub", wide, self.constant(type.zero_point, np.int64)))
        self._requantised(self.op("Mul", *terms), op.requantise, op.output, 2, out=node.name)

    @writes(Add)
    def _add(self, node: Node, op: Add, types: list[TensorType]) -> None:
        terms = []
        for tensor, type, multiplier in zip(node.inputs, types, op.multipliers, strict=True):
            wide = self.op("Cast", tensor, to=TensorProto.DOUBLE)
            real = self.op("Sub", wide, self.constant(type.zero_point, np.float64))
            terms.append(self.op("Mul", real, self.constant(multiplier, np.float64)))
        total = self.op("Add", *terms)
        one = Requantise(np.array([1]), np.array([op.shift]))
        self._requantised(total, one, op.output, 2, out=node.name)
