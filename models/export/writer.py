"""What both forms of ONNX share: nodes, constants, and ops that only choose among integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.ir import (
    ArgMax,
    ChannelMax,
    Concat,
    Conv,
    Embedding,
    Extremum,
    GatherChannels,
    Gemm,
    GlobalMaxPool,
    Graph,
    MaxPool,
    Node,
    Pad,
    Rearrange,
    Reshape,
    Resize,
    Split,
    Table,
    TensorType,
    Window,
)
from hwgen.ir.op import Op

__all__ = ["Writer", "flat_pads", "from_onnx_layout", "to_onnx_layout", "writes"]

OPSET = 21


def to_onnx_layout(frames: np.ndarray) -> np.ndarray:
    """Frames ``(N, *spatial, C)`` as ONNX has them, ``(N, C, *spatial)``."""
    return np.ascontiguousarray(np.moveaxis(frames, -1, 1))


def from_onnx_layout(frames: np.ndarray) -> np.ndarray:
    """Inverse of :func:`to_onnx_layout`."""
    return np.ascontiguousarray(np.moveaxis(frames, 1, -1))


Handler = Callable[[Any, Node, Any, list[TensorType]], None]
_HANDLERS: dict[tuple[type, type[Op]], Handler] = {}


def writes(*kinds: type[Op], form: type | None = None) -> Callable[[Handler], Handler]:
    """Register how ops are written: a method of a writer, or a function for a given one.

    Parameters
    ----------
    kinds : classes of ops; subclasses are included
    form : :class:`Writer`, for both forms of ONNX, or one of its subclasses; left out for methods,
        which are for their own class
    """
    def register(handler: Handler) -> Handler:
        if form is None:
            handler.__dict__["kinds"] = kinds
        else:
            _HANDLERS.update({(form, kind): handler for kind in kinds})
        return handler

    return register


class _Registering(type):
    """Takes up the methods that :func:`writes` marked, each for its class."""

    def __init__(cls, name: str, bases: tuple, namespace: dict) -> None:
        super().__init__(name, bases, namespace)
        for method in namespace.values():
            _HANDLERS.update({(cls, kind): method for kind in getattr(method, "kinds", ())})


class Writer(metaclass=_Registering):
    """Collects ONNX nodes and constants; :func:`writes` says how an op is written."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, out: str = "", **attributes) -> str:
        """Add an ONNX node with one output, and return the output's name."""
        if not out:
            self._count += 1
            out = f"{kind.lower()}.{self._count}"
        self._nodes.append(helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def constant(self, value, dtype) -> str:
        """Add a constant, and return its name."""
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
        for form in type(self).__mro__:
            for kind in type(node.op).__mro__:
                if handler := _HANDLERS.get((form, kind)):
                    handler(self, node, node.op, types)
                    return
        raise HwgenError(f"Node {node.name!r}: {type(node.op).__name__} has no form in ONNX")

    # What both forms share: ops that only choose among integers.

    def _chosen(
        self, kind: str, type: TensorType, source: str, *inputs: str, out: str = "", **attributes
    ) -> str:
        """Write an op of which onnxruntime has no form for integers of 16 bits: in floats then."""
        if type.bits <= 8:
            return self.op(kind, source, *inputs, out=out, **attributes)
        real = self.op("Cast", source, to=TensorProto.FLOAT)
        return self.op("Cast", self.op(kind, real, *inputs, **attributes), out=out,
                       to=TensorProto.INT16)

    @writes(Table)
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

    @writes(Embedding)
    def _embedding(self, node: Node, op: Embedding, types: list[TensorType]) -> None:
        (type,) = types
        index = self.op("Cast", node.inputs[0], to=TensorProto.INT32)
        ids = self.op("Add", index, self.constant(-type.quantisation.low, np.int32))
        known = self.op("Min", ids, self.constant(len(op.rows) - 1, np.int32))
        rows = self.op("Gather", self.constant(op.rows, op.output.dtype),
                       self.op("Squeeze", known, self.constant([1], np.int64)), axis=0)
        rank = len(type.shape) + 1
        self.op("Transpose", rows, out=node.name, perm=[0, rank - 1, *range(1, rank - 1)])

    @writes(Concat)
    def _concat(self, node: Node, op: Concat, types: list[TensorType]) -> None:
        self.op("Concat", *node.inputs, out=node.name, axis=1)

    @writes(Split)
    def _split(self, node: Node, op: Split, types: list[TensorType]) -> None:
        sizes = self.constant(op.sizes, np.int64)
        self._nodes.append(
            helper.make_node("Split", [node.inputs[0], sizes], list(node.outputs), axis=1)
        )

    @writes(Resize)
    def _resize(self, node: Node, op: Resize, types: list[TensorType]) -> None:
        scales = self.constant((1, 1, *op.factors), np.float32)
        self._chosen("Resize", types[0], node.inputs[0], "", scales, out=node.name, mode="nearest",
                     coordinate_transformation_mode="asymmetric", nearest_mode="floor")

    @writes(MaxPool)
    def _maxpool(self, node: Node, op: MaxPool, types: list[TensorType]) -> None:
        # onnxruntime pads less than a kernel; the smallest code never wins either.
        window = op.window
        source = self._padded(node.inputs[0], window, types[0].quantisation.low, types[0])
        self._chosen("MaxPool", types[0], source, out=node.name, kernel_shape=window.kernel,
                     strides=window.stride, dilations=window.dilation)

    @writes(ChannelMax)
    def _channelmax(self, node: Node, op: ChannelMax, types: list[TensorType]) -> None:
        axes = self.constant([1], np.int64)
        self.op("ReduceMax", node.inputs[0], axes, out=node.name, keepdims=1)

    @writes(GlobalMaxPool)
    def _globalmaxpool(self, node: Node, op: GlobalMaxPool, types: list[TensorType]) -> None:
        axes = self.constant(range(2, len(types[0].shape) + 1), np.int64)
        self._chosen("ReduceMax", types[0], node.inputs[0], axes, out=node.name, keepdims=1)

    def _padded(self, tensor: str, window: Window, fill: int | None, type: TensorType) -> str:
        """A tensor with the pads of a window, as an op of its own."""
        if not any(any(p) for p in window.pads):
            return tensor
        amounts = self.constant([0, 0, *(a for a, _ in window.pads), 0, 0,
                                 *(b for _, b in window.pads)], np.int64)
        if fill is None:
            return self._chosen("Pad", type, tensor, amounts, mode="edge")
        kind = np.int8 if type.bits <= 8 else np.float32
        return self._chosen("Pad", type, tensor, amounts, self.constant(fill, kind))

    @writes(Pad)
    def _pad(self, node: Node, op: Pad, types: list[TensorType]) -> None:
        (type,) = types
        padded = self._padded(node.inputs[0], op.window, op.fill, type)
        rank = len(type.spatial)
        self.op(
            "Slice", padded, self.constant([0] * rank, np.int64),
            self.constant([1 << 40] * rank, np.int64), self.constant(range(2, rank + 2), np.int64),
            self.constant(op.stride, np.int64), out=node.name,
        )

    @writes(GatherChannels)
    def _gatherchannels(self, node: Node, op: GatherChannels, types: list[TensorType]) -> None:
        self.op("Gather", node.inputs[0], self.constant(op.order, np.int64), out=node.name, axis=1)

    @writes(Reshape)
    def _reshape(self, node: Node, op: Reshape, types: list[TensorType]) -> None:
        """Reshape with channels last, so that the order of the stream is kept."""
        before, after = len(types[0].shape) + 1, len(op.shape) + 1
        last = self.op("Transpose", node.inputs[0], perm=[0, *range(2, before), 1])
        shaped = self.op("Reshape", last, self.constant((-1, *op.shape), np.int64))
        self.op("Transpose", shaped, out=node.name, perm=[0, after - 1, *range(1, after - 1)])

    @writes(Extremum)
    def _extremum(self, node: Node, op: Extremum, types: list[TensorType]) -> None:
        wide = [self.op("Cast", tensor, to=TensorProto.INT32) for tensor in node.inputs]
        found = self.op("Min" if op.smaller else "Max", *wide)
        kind = TensorProto.INT8 if types[0].bits <= 8 else TensorProto.INT16
        self.op("Cast", found, out=node.name, to=kind)

    @writes(Rearrange)
    def _rearrange(self, node: Node, op: Rearrange, types: list[TensorType]) -> None:
        """Choose among the elements of a frame in the order of the stream."""
        before, after = len(types[0].shape) + 1, op.order.ndim + 1
        last = self.op("Transpose", node.inputs[0], perm=[0, *range(2, before), 1])
        flat = self.op("Reshape", last, self.constant((-1, types[0].size), np.int64))
        chosen = self.op("Gather", flat, self.constant(op.order, np.int64), axis=1)
        self.op("Transpose", chosen, out=node.name, perm=[0, after - 1, *range(1, after - 1)])

    @writes(ArgMax)
    def _argmax(self, node: Node, op: ArgMax, types: list[TensorType]) -> None:
        (out,) = op.infer(*types)
        kind = TensorProto.INT8 if out.bits <= 8 else TensorProto.INT16
        self.op("Cast", self.op("ArgMax", node.inputs[0], axis=1, keepdims=1), out=node.name,
                to=kind)

    @writes(Gemm)
    def _gemm(self, node: Node, op: Gemm, types: list[TensorType]) -> None:
        """Write a convolution whose window is the frame, and then remove its spatial extents."""
        (type,) = types
        if not type.spatial:
            node, type = self._as_line(node, type)
        conv = op.as_conv(type)
        wide = self._convolution(node, conv, type)
        shape = self.constant((-1, conv.cout), np.int64)
        self.op("Reshape", wide, shape, out=node.name)

    def _as_line(self, node: Node, type: TensorType) -> tuple[Node, TensorType]:
        """A node that reads a vector as a line of one pixel: ONNX convolves along some axis."""
        line = self.op("Reshape", node.inputs[0],
                       self.constant((-1, type.channels, 1), np.int64))
        return (Node(node.op, (line,), node.outputs),
                TensorType((1, type.channels), type.quantisation))

    @writes(Conv)
    def _conv(self, node: Node, op: Conv, types: list[TensorType]) -> None:
        (type,) = types
        if type.spatial:
            self.op("Identity", self._convolution(node, op, type), out=node.name)
            return
        node, type = self._as_line(node, type)
        line = replace(op, weight=op.weight[:, None], stride=(1,), pads=((0, 0),), dilation=(1,))
        wide = self._convolution(node, line, type)
        self.op("Reshape", wide, self.constant((-1, op.cout), np.int64), out=node.name)

    def _convolution(self, node: Node, op: Conv, type: TensorType) -> str:
        raise NotImplementedError


def flat_pads(window: Window) -> list[int]:
    """Pads of a window as ONNX lists them."""
    return [p[0] for p in window.pads] + [p[1] for p in window.pads]
