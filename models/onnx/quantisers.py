"""Takes the quantisers out of a file that has some: QDQ, QCDQ and QONNX.

- QuantizeLinear and DequantizeLinear, with a Clip between them for fewer bits (onnxruntime and
  PyTorch write QDQ, Brevitas QCDQ);
- Quant, BipolarQuant and Trunc of QONNX (Pappalardo et al., "QONNX: Representing
  Arbitrary-Precision Quantized Neural Networks", 2022).

Constants behind a quantiser become plain floats, and their integers are kept beside them.
Quantisers of activations become standard ops, if they are not such ops already, and the codes of
their tensors are noted.  What is left is an ordinary float network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hwgen.errors import HwgenError
from hwgen.ir import Quantisation
from hwgen.models.onnx.nodes import attributes, rename

__all__ = ["CodedConstant", "IntegerInput", "Quantisers", "code_range"]

DOMAINS = {
    "qonnx.custom_op.general", "finn.custom_op.general", "onnx.brevitas",
    "qonnx.custom_op.general.quant",
}
ROUNDING = {"ROUND": "Round", "HALF_EVEN": "Round", "FLOOR": "Floor", "CEIL": "Ceil"}
MOVERS = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
"""Ops that may stand between the quantiser of a constant and its reader."""
GROWING = {"ConstantOfShape", "Expand", "If", "Loop", "Range", "Scan", "Tile"}
"""Ops whose outputs may be huge: parameters of quantisers that they make are not computed."""
INTEGERS = {
    TensorProto.UINT4: (0, 15), TensorProto.INT4: (-8, 7), TensorProto.UINT8: (0, 255),
    TensorProto.INT8: (-128, 127), TensorProto.UINT16: (0, 65535),
    TensorProto.INT16: (-32768, 32767), TensorProto.INT32: (-(1 << 31), (1 << 31) - 1),
}


@dataclass(frozen=True)
class CodedConstant:
    """A constant that the file states in integers.

    Members
    -------
    integers : int64 array, zero points subtracted
    scale : float64 array of the same shape
    """

    integers: np.ndarray
    scale: np.ndarray

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> CodedConstant:
        """The constant, with integers and scales rearranged by a function."""
        return CodedConstant(function(self.integers), function(self.scale))


@dataclass(frozen=True)
class IntegerInput:
    """Integers that a file takes, and what they stand for: ``(integer - zero) * scale``.

    Members
    -------
    scale, zero
    low, high : smallest and largest integer of the type
    """

    scale: float
    zero: int
    low: int
    high: int

    def real(self, integers: np.ndarray) -> np.ndarray:
        """What integers stand for, float32."""
        return ((integers.astype(np.float64) - self.zero) * self.scale).astype(np.float32)

    def integers(self, real: np.ndarray) -> np.ndarray:
        """The integers that stand for real values."""
        near = np.rint(real.astype(np.float64) / self.scale) + self.zero
        return np.clip(near, self.low, self.high).astype(np.int64)


def code_range(scale: float, zero: int, low: int, high: int) -> Quantisation:
    """The quantisation whose codes ``low..high``, moved to be signed, mean the same.

    Raises
    ------
    :exc:`HwgenError`
        If there are more codes than 16 bits hold.
    """
    bits = max((high - low).bit_length(), 2)
    return Quantisation(scale, zero - high + (1 << (bits - 1)) - 1, bits)


def _no_integers(node: onnx.NodeProto, kind: str) -> HwgenError:
    """Refusal of codes that are no integers, or of too few bits."""
    return HwgenError(f"Node {node.name or node.output[0]!r} ({node.op_type}): codes of type "
                      f"{kind} are not supported: quantise to integers of 4 to 16 bits")


class Quantisers:
    """Takes the quantisers out of a model.

    Parameters
    ----------
    model : :class:`onnx.ModelProto`
        It is changed.

    Members
    -------
    codes : tensor name to :class:`Quantisation`
        Float tensors that take only these values.
    weights : constant name to :class:`CodedConstant`
    inner : tensors inside of a quantiser that was written out in several ops
    integer_inputs : inputs that are integers in the file, to what these stand for
    integer_outputs : outputs that are integers in the file, to the QuantizeLinear that makes them
        and their ONNX element type

    Raises
    ------
    :exc:`HwgenError`
        If a quantiser's parameters are not constant or not supported; the node is named.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.codes: dict[str, Quantisation] = {}
        self.weights: dict[str, CodedConstant] = {}
        self.inner: set[str] = set()
        self.integer_inputs: dict[str, IntegerInput] = {}
        self.integer_outputs: dict[str, tuple[onnx.NodeProto, int]] = {}
        self._model = model
        graph = model.graph
        self._constants = {c.name: c for c in graph.initializer}
        self._values: dict[str, np.ndarray] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._count = 0
        self._computed: set[str] = set()
        self._makers: dict[str, onnx.NodeProto] = {}
        self._dequantise_inputs()
        for node in graph.node:
            self._visit(node)
        self._dequantise_outputs()
        if self.codes or self.weights:
            kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
            del graph.node[:]
            graph.node.extend(kept)
            del graph.value_info[:]

    # Constants

    def _value(self, name: str) -> np.ndarray | None:
        """Value of a constant tensor; None if it is not constant."""
        if name in self._values:
            return self._values[name]
        if name in self._constants:
            value = numpy_helper.to_array(self._constants[name])
        elif name in self._makers and self._makers[name].op_type == "Constant":
            (attribute,) = self._makers[name].attribute
            value = helper.get_attribute_value(attribute)
            value = (numpy_helper.to_array(value) if isinstance(value, TensorProto)
                     else np.asarray(value, np.float32 if attribute.name.startswith("value_float")
                                     else np.int64))
        elif name in self._computed:
            value = self._run(self._makers[name], {
                i: v for i in self._makers[name].input if i and (v := self._value(i)) is not None})
        else:
            return None
        self._values[name] = value
        return value

    def _parameter(self, node: onnx.NodeProto, position: int, default: float = 0) -> np.ndarray:
        """A constant input of a node, as float64."""
        if position >= len(node.input) or not node.input[position]:
            return np.asarray(default, np.float64)
        value = self._value(node.input[position])
        if value is None:
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({node.op_type}): {node.input[position]!r} "
                f"must be constant"
            )
        return value.astype(np.float64)

    def _scalar(self, node: onnx.NodeProto, position: int, default: float = 0) -> float:
        value = np.unique(self._parameter(node, position, default))
        if value.size != 1:
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({node.op_type}): activations such as "
                f"{node.output[0]!r} must have one scale and zero point for the tensor, not "
                f"{value.size}"
            )
        return float(value[0])

    def _constant(self, value: np.ndarray | float, name: str = "") -> str:
        """Add a constant; returns its name."""
        if not name:
            self._count += 1
            name = f"quantiser.{self._count}"
        array = np.asarray(value)
        tensor = numpy_helper.from_array(
            array.astype(np.float32) if array.dtype.kind == "f" else array, name)
        self._model.graph.initializer.append(tensor)
        self._constants[name] = tensor
        return name

    def _fold(self, name: str, coded: CodedConstant) -> None:
        """Put a coded constant in the place of the node that made it."""
        self.weights[name] = coded
        self._constant(coded.integers * coded.scale, name)

    def _emit(self, kind: str, *inputs: str, out: str = "", **at) -> str:
        if not out:
            self._count += 1
            out = f"quantiser.{self._count}"
            self.inner.add(out)
        node = helper.make_node(kind, list(inputs), [out], **at)
        self._keep(node)
        return out

    def _keep(self, node: onnx.NodeProto) -> None:
        self._nodes.append(node)
        self._makers.update(dict.fromkeys(node.output, node))
        # What only constants go into is computed if a quantiser asks for it.
        if node.op_type not in GROWING and node.domain in ("", "ai.onnx") and any(node.input) and (
            all(i in self._constants or i in self._values or i in self._computed
                or self._is_literal(i) for i in node.input if i)
        ):
            self._computed.add(node.output[0])

    def _is_literal(self, name: str) -> bool:
        return name in self._makers and self._makers[name].op_type == "Constant"

    # Nodes

    def _visit(self, node: onnx.NodeProto) -> None:
        if node.domain in DOMAINS or (
            not node.domain and node.op_type in ("Quant", "IntQuant", "BipolarQuant", "Trunc")
        ):
            handler = getattr(self, f"_on_{node.op_type.lower()}", None)
            if handler is None:
                raise HwgenError(
                    f"Node {node.name or node.output[0]!r}: QONNX op {node.op_type!r} is not "
                    f"supported; supported are Quant, IntQuant, BipolarQuant, Trunc"
                )
            handler(node)
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and (
                x := self._value(node.input[0])) is not None:
            self._on_constant(node, x)
        elif node.op_type in MOVERS and node.input[0] in self.weights:
            self._fold(node.output[0], self.weights[node.input[0]].mapped(
                lambda array: self._moved(node, array)))
        else:
            if node.op_type == "DequantizeLinear":
                self._on_dequantise(node)
            self._keep(node)

    def _moved(self, node: onnx.NodeProto, array: np.ndarray) -> np.ndarray:
        """What a node that moves data makes of a constant."""
        feeds = {node.input[0]: array}
        for k, name in enumerate(node.input[1:], start=1):
            if name:
                feeds[name] = self._parameter(node, k).astype(np.int64)
        return self._run(node, feeds)

    def _run(self, node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
        """Run a node, and return its first output."""
        infos = [helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in feeds.items()]
        graph = helper.make_graph([node], "node", infos, [
            onnx.ValueInfoProto(name=node.output[0])])
        opsets = [o for o in self._model.opset_import if o.domain in ("", "ai.onnx")]
        model = helper.make_model(graph, opset_imports=opsets)
        return np.asarray(ReferenceEvaluator(model).run([node.output[0]], feeds)[0])

    def _spread(self, node: onnx.NodeProto, value: np.ndarray, rank: int) -> np.ndarray:
        """Scales or zero points, shaped to broadcast against the tensor."""
        if value.ndim == 0 or value.size == 1:
            return value.reshape(())
        at = attributes(node)
        if value.ndim != 1 or at.get("block_size"):
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({node.op_type}): quantisation in blocks "
                f"is not supported, only one scale for the tensor or for each channel"
            )
        shape = [1] * rank
        # A vector has no other axis, whatever the default is.
        axis = at.get("axis", 1) if rank > 1 else 0
        if not -rank <= axis < rank:
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({node.op_type}): a tensor of {rank} axes "
                f"has no axis {axis}"
            )
        shape[axis] = -1
        return value.reshape(shape)

    def _on_constant(self, node: onnx.NodeProto, x: np.ndarray) -> None:
        """Fold a quantiser of a constant."""
        scale = self._spread(node, self._parameter(node, 1), x.ndim)
        zero = self._spread(node, self._parameter(node, 2), x.ndim)
        if node.op_type == "DequantizeLinear":
            if not x.dtype.name.startswith(("int", "uint")):
                raise _no_integers(node, x.dtype.name)
            integers = np.rint(x.astype(np.float64) - zero).astype(np.int64)
            self._fold(node.output[0], CodedConstant(
                integers, np.broadcast_to(scale, integers.shape).astype(np.float64)))
            return
        kind = self._integer_kind(node)
        low, high = INTEGERS.get(kind, (0, 255))
        codes = np.clip(np.rint(x / scale) + zero, low, high)
        # What stands in front of its DequantizeLinear (Clip, Transpose) works on these integers.
        self._constant(codes.astype(helper.tensor_dtype_to_np_dtype(kind)), node.output[0])

    def _integer_range(self, node: onnx.NodeProto) -> tuple[int, int]:
        """Smallest and largest code of a QuantizeLinear or DequantizeLinear."""
        return INTEGERS.get(self._integer_kind(node), (0, 255))

    def _integer_kind(self, node: onnx.NodeProto) -> int:
        """ONNX element type of the codes of a QuantizeLinear or DequantizeLinear."""
        at = attributes(node)
        kind = at.get("output_dtype", 0) if node.op_type == "QuantizeLinear" else 0
        if len(node.input) > 2 and node.input[2]:
            name = node.input[2]
            if name in self._constants:
                kind = self._constants[name].data_type
            else:
                value = self._value(name)
                if value is not None:
                    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        if kind and kind not in INTEGERS:
            raise _no_integers(node, TensorProto.DataType.Name(kind))
        return kind or TensorProto.UINT8

    def _on_dequantise(self, node: onnx.NodeProto) -> None:
        """Codes of an activation, from its QuantizeLinear and the Clip between."""
        maker = self._makers.get(node.input[0])
        bounds: tuple[int, int] | None = None
        while maker is not None and maker.op_type in ("Clip", "Identity"):
            if maker.op_type == "Clip":
                low = self._scalar(maker, 1, -(1 << 31))
                high = self._scalar(maker, 2, (1 << 31) - 1)
                bounds = (max(bounds[0], int(low)), min(bounds[1], int(high))) if bounds else (
                    int(low), int(high))
            maker = self._makers.get(maker.input[0])
        if maker is None or maker.op_type != "QuantizeLinear":
            raise HwgenError(
                f"Node {node.name or node.output[0]!r}: a DequantizeLinear must follow a "
                f"QuantizeLinear or an integer input of the network"
            )
        low, high = self._integer_range(maker)
        if bounds:
            low, high = max(low, bounds[0]), min(high, bounds[1])
        scale, zero = self._scalar(node, 1), round(self._scalar(node, 2))
        self._claim(node, node.output[0], scale, zero, low, high)

    def _claim(
        self, node: onnx.NodeProto, tensor: str, scale: float, zero: int, low: int, high: int
    ) -> None:
        try:
            self.codes[tensor] = code_range(scale, zero, low, high)
        except HwgenError as error:
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({node.op_type}): {error}"
            ) from None

    # QONNX

    def _on_quant(self, node: onnx.NodeProto) -> None:
        at = attributes(node)
        signed, narrow = at.get("signed", 1), at.get("narrow", 0)
        bits, x = self._scalar(node, 3), self._value(node.input[0])
        most = 16 if x is None else 32
        if not 1 <= bits <= most or bits != int(bits):
            raise HwgenError(
                f"Node {node.name or node.output[0]!r}: bit width must be a whole number from 1 "
                f"to {most}, not {bits:g}: quantise {node.input[0]!r} to fewer bits"
            )
        span = 1 << int(bits)
        low, high = (-(span >> 1) + narrow, (span >> 1) - 1) if signed else (0, span - 1 - narrow)
        rounding = self._rounding(node, at.get("rounding_mode", b"ROUND"))
        if x is not None:
            scale, zero = self._parameter(node, 1), self._parameter(node, 2)
            function = {"Round": np.rint, "Floor": np.floor, "Ceil": np.ceil}[rounding]
            codes = np.clip(function(x / scale + zero), low, high) - zero
            self._fold(node.output[0], CodedConstant(
                np.rint(codes).astype(np.int64),
                np.broadcast_to(scale, codes.shape).astype(np.float64)))
            return
        scale, zero = self._scalar(node, 1), self._scalar(node, 2)
        self._quantised(node, node.input[0], scale, zero, low, high, rounding, node.output[0])

    _on_intquant = _on_quant

    def _rounding(self, node: onnx.NodeProto, mode: bytes) -> str:
        name = mode.decode().upper()
        if name not in ROUNDING:
            raise HwgenError(
                f"Node {node.name or node.output[0]!r}: rounding mode {name!r} is not supported; "
                f"supported are {', '.join(ROUNDING)}"
            )
        return ROUNDING[name]

    def _quantised(
        self, node: onnx.NodeProto, x: str, scale: float, zero: float, low: int, high: int,
        rounding: str, out: str,
    ) -> str:
        """The standard ops of ``(clip(round(x / scale + zero)) - zero) * scale``."""
        if zero != round(zero):
            raise HwgenError(
                f"Node {node.name or node.output[0]!r}: zero point {zero!r} must be whole"
            )
        value = self._emit("Div", x, self._constant(scale))
        if zero:
            value = self._emit("Add", value, self._constant(zero))
        value = self._emit(rounding, value)
        value = self._emit("Clip", value, self._constant(float(low)), self._constant(float(high)))
        if zero:
            value = self._emit("Sub", value, self._constant(zero))
        value = self._emit("Mul", value, self._constant(scale), out=out)
        self._claim(node, value, scale, round(zero), low, high)
        return value

    def _on_bipolarquant(self, node: onnx.NodeProto) -> None:
        x = self._value(node.input[0])
        if x is not None:
            scale = np.broadcast_to(self._parameter(node, 1), x.shape).astype(np.float64)
            self._fold(node.output[0], CodedConstant(np.where(x >= 0, 1, -1), scale))
            return
        scale = self._scalar(node, 1)
        negative = self._emit("Less", node.input[0], self._constant(0.0))
        sign = self._emit("Cast", self._emit("Not", negative), to=TensorProto.FLOAT)
        doubled = self._emit("Mul", sign, self._constant(2 * scale))
        self._emit("Sub", doubled, self._constant(scale), out=node.output[0])
        self._claim(node, node.output[0], scale, 0, -2, 1)

    def _on_trunc(self, node: onnx.NodeProto) -> None:
        """Quantise the input to its own codes, and then round these to fewer bits."""
        at = attributes(node)
        scale, zero, bits = (self._scalar(node, k) for k in (1, 2, 3))
        second = len(node.input) > 5
        out_bits = int(self._scalar(node, 5 if second else 4))
        factor = self._scalar(node, 4) / scale if second else 2.0 ** (bits - out_bits)
        factor = 2.0 ** round(np.log2(factor))
        signed = at.get("signed", 1)
        rounding = self._rounding(node, at.get("rounding_mode", b"FLOOR"))
        span = 1 << int(bits)
        low, high = (-(span >> 1), (span >> 1) - 1) if signed and second else (0, span - 1)
        if not second:
            # The first version does not say whether its codes have a sign: both fit one more bit.
            low = -span
        inner = self._quantised(node, node.input[0], scale, zero, low, high, "Round", "")
        value = self._emit("Div", inner, self._constant(scale * factor))
        if zero:
            value = self._emit("Add", value, self._constant(zero / factor))
        value = self._emit(rounding, value)
        out_span = 1 << out_bits
        if second:
            least, most = (-(out_span >> 1), (out_span >> 1) - 1) if signed else (0, out_span - 1)
            least += at.get("narrow", 0) if signed else 0
            value = self._emit(
                "Clip", value, self._constant(float(least)), self._constant(float(most)))
            out_zero, out_scale = zero / factor, scale * factor
        else:
            least, most = -out_span, out_span - 1
            out_zero, out_scale = zero, scale
        if out_zero:
            value = self._emit("Sub", value, self._constant(out_zero))
        self._emit("Mul", value, self._constant(out_scale), out=node.output[0])
        self._claim(node, node.output[0], out_scale, round(out_zero), least, most)

    # Integer inputs and outputs

    def _dequantise_inputs(self) -> None:
        """Let a network that takes integers take floats, and quantise these first."""
        graph = self._model.graph
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for info in graph.input:
            kind = info.type.tensor_type.elem_type
            users = readers.get(info.name, [])
            if (info.name in self._constants or kind not in INTEGERS or not users
                    or any(u.op_type != "DequantizeLinear" for u in users)):
                continue
            integers = f"{info.name}.codes"
            maker = helper.make_node("QuantizeLinear", [info.name, *users[0].input[1:]], [integers])
            self._keep(maker)
            self.integer_inputs[info.name] = IntegerInput(
                self._scalar(maker, 1), round(self._scalar(maker, 2)), *INTEGERS[kind])
            for user in users:
                user.input[0] = integers
            info.type.tensor_type.elem_type = TensorProto.FLOAT

    def _dequantise_outputs(self) -> None:
        """Let a network that gives integers give the floats that they stand for."""
        for info in self._model.graph.output:
            maker = self._makers.get(info.name)
            if maker is None or maker.op_type != "QuantizeLinear":
                continue
            integers = f"{info.name}.codes"
            self.integer_outputs[info.name] = (
                onnx.NodeProto.FromString(maker.SerializeToString()),
                info.type.tensor_type.elem_type)
            for node in self._nodes:
                rename(node, {info.name: integers})
            node = helper.make_node(
                "DequantizeLinear", [integers, *maker.input[1:]], [info.name])
            self._makers[integers] = maker
            self._on_dequantise(node)
            self._keep(node)
            info.type.tensor_type.elem_type = TensorProto.FLOAT

