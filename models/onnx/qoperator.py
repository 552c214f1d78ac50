"""Rewrites ops on integers into float ops between quantisers: later steps know one form.

- QLinearConv, QLinearMatMul and their kin of onnxruntime (QGemm, QLinearAdd, …): between
  DequantizeLinear and QuantizeLinear;
- what only moves integers, or takes their maximum, likewise;
- ConvInteger and MatMulInteger, whose sums later nodes scale: float ops on the integers themselves.
  Where DynamicQuantizeLinear stands in front of them its input is float, and stays so: only the
  weights' integers are the file's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import attributes, rename

__all__ = ["rewrite_integer_ops"]

UNARY = {
    "QLinearAveragePool": "AveragePool", "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu", "QLinearSigmoid": "Sigmoid", "QLinearSoftmax": "Softmax",
}
BINARY = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
MOVING = {
    "ArgMax", "ArgMin", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool",
    "Identity", "Max", "MaxPool", "Min", "Pad", "ReduceMax", "ReduceMin", "Reshape", "Resize",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze",
    "Upsample",
}
"""Ops that may take integers between quantisers, and give the same whatever these stand for."""
SEVERAL = {"Concat", "Max", "Min"}
"""Those of several tensors with the same codes."""
LINEAR = {"Add", "Mul", "Neg", "Reshape", "Sub", "Transpose", "Unsqueeze", "Squeeze", "Flatten"}
"""Ops that may take integer sums, and compute the same in float."""
SUMS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def rewrite_integer_ops(model: onnx.ModelProto) -> None:
    """Rewrite the ops on integers of a model.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such form; the node is named.
    """
    kinds = {node.op_type for node in model.graph.node}
    if kinds & {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", *SUMS} or any(
            _is_integer_op(node) for node in model.graph.node):
        _Rewriter(model).run()


def _is_integer_op(node: onnx.NodeProto) -> bool:
    return node.op_type in ("MatMulIntegerToFloat", *SUMS) or node.op_type.startswith(
        ("QLinear", "QGemm", "QAttention", "QEmbed", "DynamicQuant"))


class _Rewriter:
    """Visits the nodes of a model in order, and writes others in their place.

    Members
    -------
    codes : integer tensor that is not constant, with one scale, to the names of its scale and
        zero point (``""``: none)
    real : output of a DynamicQuantizeLinear to the float tensor that it quantises
    sums : tensors that hold sums of integers in the file, and are float from now on
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.codes: dict[str, tuple[str, str]] = {}
        self.real: dict[str, str] = {}
        self.sums: set[str] = set()
        self._constants = {c.name: c for c in model.graph.initializer}
        self._fixed = set(self._constants)
        self._taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
        self._outputs = {value.name for value in model.graph.output}
        self._dequantisers: dict[tuple[str, str, str, int | None], str] = {}
        self._renamed: dict[str, str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._count = 0

    def run(self) -> None:
        self._note_inputs()
        for node in list(self.graph.node):
            rename(node, self._renamed)
            self._visit(node)
        changed = [onnx.NodeProto.FromString(n.SerializeToString()) for n in self._nodes]
        if changed != list(self.graph.node):
            del self.graph.node[:]
            self.graph.node.extend(changed)
            del self.graph.value_info[:]

    def _note_inputs(self) -> None:
        """Remember the codes of integer inputs: what dequantises them may come behind others."""
        inputs = {value.name for value in self.graph.input} - self._fixed
        makers = {out: node for node in self.graph.node for out in node.output}
        for node in self.graph.node:
            if node.op_type == "DequantizeLinear" or (
                    node.op_type in UNARY or node.op_type in BINARY or node.op_type in (
                        "QLinearConv", "QLinearMatMul", "QGemm")):
                tensor = node.input[0]
                while tensor in makers and makers[tensor].op_type in MOVING:
                    tensor = makers[tensor].input[0]
                if tensor in inputs:
                    self._note(tensor, node)

    def _note(self, tensor: str, quantiser: onnx.NodeProto) -> None:
        """Remember scale and zero point of a tensor, unless they differ by channel."""
        scale = self._constants.get(quantiser.input[1])
        if scale is None or np.prod(scale.dims) == 1:
            self.codes.setdefault(tensor, (quantiser.input[1], _input(quantiser, 2)))

    # Writing

    def _emit(self, kind: str, inputs: list[str], like: str, out: str = "", **at) -> str:
        """Write a node; its output is called after the tensor ``like``, if not ``out``."""
        if not out:
            out = like
            while out in self._taken:
                self._count += 1
                out = f"{like}.{self._count}"
        self._taken.add(out)
        self._nodes.append(helper.make_node(kind, inputs, [out], **at))
        return out

    def _constant(self, value: np.ndarray | float, name: str = "") -> str:
        self._count += 1
        tensor = numpy_helper.from_array(np.asarray(value), name or f"qoperator.{self._count}")
        self.graph.initializer.append(tensor)
        self._constants[tensor.name] = tensor
        return tensor.name

    def _dequantised(self, tensor: str, scale: str, zero: str, axis: int | None = None) -> str:
        at = {} if axis is None else {"axis": axis}
        key = tensor, scale, zero, axis
        if key not in self._dequantisers:
            self._dequantisers[key] = self._emit(
                "DequantizeLinear", [tensor, scale, *([zero] if zero else [])],
                f"{tensor}_DequantizeLinear_Output", **at)
        return self._dequantisers[key]

    def _quantised(self, real: str, scale: str, zero: str, out: str) -> None:
        self.codes[out] = scale, zero
        self._emit("QuantizeLinear", [real, scale, *([zero] if zero else [])], out, out)

    # Nodes

    def _visit(self, node: onnx.NodeProto) -> None:
        kind = node.op_type
        handler: Callable[[onnx.NodeProto], None] | None = {
            "QLinearConv": self._conv, "QLinearMatMul": self._matmul, "QGemm": self._gemm,
            "QLinearConcat": self._concat, "DynamicQuantizeLinear": self._dynamic,
            "DynamicQuantizeMatMul": self._dynamic_matmul,
            **dict.fromkeys(UNARY, self._unary), **dict.fromkeys(BINARY, self._binary),
            **dict.fromkeys(SUMS, self._sum),
        }.get(kind)
        if handler is not None:
            handler(node)
        elif _is_integer_op(node):
            raise _refusal(node, "this op on integers is not supported: quantise in QDQ form, as "
                                 "QuantizeLinear and DequantizeLinear around float ops")
        elif self.sums.intersection(node.input):
            self._of_sums(node)
        elif self.real.keys() & set(node.input):
            raise _refusal(node, f"it reads {node.input[0]!r}, which is quantised while running: "
                                 f"only ConvInteger and MatMulInteger may")
        elif kind in MOVING and node.input[0] in self.codes:
            self._move(node)
        else:
            if kind == "Constant" or (
                    any(node.input) and all(i in self._fixed for i in node.input if i)):
                self._fixed.update(node.output)
            elif kind == "QuantizeLinear":
                self._note(node.output[0], node)
            elif kind in ("Clip", "Relu") and node.input[0] in self.codes:
                self.codes[node.output[0]] = self.codes[node.input[0]]
            self._nodes.append(node)

    def _op(self, node: onnx.NodeProto, kind: str, inputs: list[str], codes: int, **more) -> None:
        """A float op, and the quantiser whose scale and zero point are inputs ``codes`` on."""
        at = attributes(node)
        if at.pop("channels_last", 0):
            raise _refusal(node, "channels_last = 1 is not supported: export with channels first")
        out = node.output[0]
        real = self._emit(kind, inputs, f"{out}.real", name=node.name or out, **{**at, **more})
        self._quantised(real, _input(node, codes), _input(node, codes + 1), out)

    def _operand(self, node: onnx.NodeProto, k: int, axis: int | None = None) -> str:
        """The real values of input ``k``, whose scale and zero point follow it."""
        return self._dequantised(node.input[k], _input(node, k + 1), _input(node, k + 2), axis)

    def _bias(self, node: onnx.NodeProto, k: int, scales: list[str]) -> str:
        """The real values of a bias in steps of the sum."""
        first, *rest = scales
        for scale in rest:
            first = self._emit("Mul", [first, scale], f"{node.input[k]}.scale")
        return self._dequantised(node.input[k], first, "", 0)

    def _unary(self, node: onnx.NodeProto) -> None:
        kind = UNARY[node.op_type]
        for attribute in list(node.attribute):
            if attribute.name == "opset":
                node.attribute.remove(attribute)
        self._op(node, kind, [self._operand(node, 0)], 3)

    def _binary(self, node: onnx.NodeProto) -> None:
        self._op(node, BINARY[node.op_type], [self._operand(node, 0), self._operand(node, 3)], 6)

    def _concat(self, node: onnx.NodeProto) -> None:
        parts = [self._operand(node, k) for k in range(2, len(node.input), 3)]
        self._op(node, "Concat", parts, 0)

    def _conv(self, node: onnx.NodeProto) -> None:
        inputs = [self._operand(node, 0), self._operand(node, 3, 0)]
        if _input(node, 8):
            inputs.append(self._bias(node, 8, [node.input[1], node.input[4]]))
        self._op(node, "Conv", inputs, 6)

    def _matmul(self, node: onnx.NodeProto) -> None:
        self._op(node, "MatMul", [self._operand(node, 0), self._operand(node, 3, -1)], 6)

    def _gemm(self, node: onnx.NodeProto) -> None:
        at = attributes(node)
        inputs = [self._operand(node, 0), self._operand(node, 3, 0 if at.get("transB") else 1)]
        if _input(node, 6):
            alpha = self._constant(np.float32(at.get("alpha", 1)))
            inputs.append(self._bias(node, 6, [node.input[1], node.input[4], alpha]))
        if _input(node, 7):
            self._op(node, "Gemm", inputs, 7)
        else:
            self._emit("Gemm", inputs, node.output[0], node.output[0], **at)

    def _move(self, node: onnx.NodeProto) -> None:
        """What moves integers moves what they stand for."""
        scale, zero = self.codes[node.input[0]]
        count = len(node.input) if node.op_type in SEVERAL else 1
        inputs = [self._dequantised(x, scale, zero) for x in node.input[:count]]
        inputs += node.input[count:]
        at = attributes(node)
        if node.op_type == "Pad" and at.get("mode", b"constant") == b"constant":
            kind = self._constants[zero].data_type if zero in self._constants else TensorProto.UINT8
            filled = _input(node, 2) or self._constant(
                np.zeros((), helper.tensor_dtype_to_np_dtype(kind)))
            value = self._dequantised(filled, scale, zero)
            inputs = [*inputs[:2], value, *inputs[3:]]
        # What ranks gives indices, which are integers anyway.
        values = {"ArgMax": 0, "ArgMin": 0, "TopK": 1}.get(node.op_type, len(node.output))
        outs = [f"{out}.real" if k < values else out for k, out in enumerate(node.output)]
        self._nodes.append(helper.make_node(
            node.op_type, inputs, outs, name=node.name or node.output[0], **at))
        for real, out in zip(outs[:values], node.output[:values], strict=True):
            self._quantised(real, scale, zero, out)

    # Sums that later nodes scale

    def _dynamic(self, node: onnx.NodeProto) -> None:
        """Its input stays float, in steps of 1."""
        integers, scale = node.output[:2]
        self.real[integers] = node.input[0]
        if {*node.output} & self._outputs:
            raise _refusal(node, "its results must not be outputs of the network: leave them out")
        self._constant(np.float32(1), scale)

    def _dynamic_matmul(self, node: onnx.NodeProto) -> None:
        weights = self._dequantised(node.input[1], node.input[2], _input(node, 3), -1)
        bias, out = _input(node, 4), node.output[0]
        product = self._emit("MatMul", [node.input[0], weights], f"{out}.real",
                             "" if bias else out)
        if bias:
            self._emit("Add", [product, bias], out, out)

    def _sum(self, node: onnx.NodeProto) -> None:
        """ConvInteger or MatMulInteger: the products of what its operands' integers are."""
        x, weights = node.input[:2]
        out, one = node.output[0], self._constant(np.float32(1))
        x = self.real[x] if x in self.real else self._dequantised(x, one, _input(node, 2))
        axis = 0 if node.op_type == "ConvInteger" else -1
        weights = self._dequantised(weights, one, _input(node, 3), axis)
        final = out in self._outputs
        sums = f"{out}.real" if final else out
        self._emit(SUMS[node.op_type], [x, weights], out, sums, name=node.name or out,
                   **attributes(node))
        self.sums.add(sums)
        if final:
            self._emit("Cast", [sums], out, out, to=TensorProto.INT32)
            self._renamed[out] = sums

    def _of_sums(self, node: onnx.NodeProto) -> None:
        """A node that reads sums of integers, which are float now."""
        out = node.output[0]
        if node.op_type == "Cast" and attributes(node)["to"] == TensorProto.FLOAT:
            self._emit("Identity", [node.input[0]], out, out)
            return
        if node.op_type not in LINEAR or out in self._outputs:
            raise _refusal(node, f"it reads integer sums, which only Cast to float, "
                                 f"{', '.join(sorted(LINEAR))} may: cast them to float first")
        for k, name in enumerate(node.input):
            constant = self._constants.get(name)
            if constant is not None and constant.data_type == TensorProto.INT32:
                value = numpy_helper.to_array(constant).astype(np.float32)
                node.input[k] = self._constant(value)
        self.sums.add(out)
        self._nodes.append(node)


def _input(node: onnx.NodeProto, k: int) -> str:
    """Input ``k`` of a node, empty if there is none."""
    return node.input[k] if k < len(node.input) else ""


def _refusal(node: onnx.NodeProto, why: str) -> HwgenError:
    return HwgenError(f"Node {node.name or node.output[0]!r} ({node.op_type}): {why}")
