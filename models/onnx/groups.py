"""Parts of a frame that stand where the batch does, such as windows of tokens: a frame again.

Windows of an image, patches that are mixed apart, and heads are often a batch for a while: the
first axis of tensors is their number then.  Each such tensor gets an axis of 1 in front, so that
everywhere else the first axis is the batch, and the rest a frame.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import ELEMENTWISE, WEIGHTED, attributes, opset, reads
from hwgen.models.onnx.quantisers import CodedConstant
from hwgen.models.onnx.shapes import infer_shapes

__all__ = ["keep_frames"]

SHAPED = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}
"""Ops that are a Reshape to a shape that is known."""
Lift = Callable[["_Lifter", onnx.NodeProto], onnx.NodeProto | None]
CELLS = {"GRU", "LSTM", "RNN"}
LIFTS: dict[str, Lift] = {}
"""ONNX op to what makes it work on tensors with an axis in front; that returns None if it cannot.

Where more than one node is needed, all but the last are appended.
"""


def keep_frames(model: onnx.ModelProto, kept: dict[str, CodedConstant]) -> None:
    """Give tensors whose first axis is more than the batch an axis in front, in place.

    Nodes stay as they are if neither a layer with weights nor a mean over the parts follows.

    Parameters
    ----------
    model : with constants folded and shapes inferred, and inputs with a batch of 1
    kept : constants that the file states in integers; those that are made of them are added

    Raises
    ------
    :exc:`HwgenError`
        If an op in front of a layer cannot do without such a batch.
    """
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        return
    if any(node.op_type in CELLS for node in model.graph.node):
        # Their steps are in front of the batch.
        return
    lifter = _Lifter(model, kept)
    if not lifter.run():
        return
    del model.graph.node[:]
    model.graph.node.extend(lifter.nodes)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in lifter.made.items())
    del model.graph.value_info[:]
    found = infer_shapes(model).graph
    model.graph.value_info.extend(found.value_info)


class _Lifter:
    """Goes over the nodes of a model and writes them anew.

    Members
    -------
    nodes, made : nodes, and constants that they need besides those of the model
    constants, shapes : of the model; shapes are those without an axis in front
    version : of the operator set
    """

    def __init__(self, model: onnx.ModelProto, kept: dict[str, CodedConstant]) -> None:
        self.graph, self.kept, self.version = model.graph, kept, opset(model)
        self.constants = {c.name: numpy_helper.to_array(c) for c in self.graph.initializer}
        self.shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in (
            *self.graph.input, *self.graph.value_info, *self.graph.output)}
        self.outputs = {value.name for value in self.graph.output}
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, np.ndarray] = {}
        self.lifted: set[str] = set()
        """Tensors that have an axis in front under their own name."""
        self._other: dict[str, str] = {}
        """Tensor to the same with an axis in front, or without it."""

    def run(self) -> bool:
        """Whether there was anything to do."""
        wanted: set[str] = set()
        before = []
        for node in reversed(self.graph.node):
            ends = node.op_type.startswith("Reduce") and self._several(node.input[0]) and (
                not self._several(node.output[0]))
            if ends or node.op_type in WEIGHTED or wanted.intersection(node.output):
                wanted.update(reads(node))
                before.append(node)
        inside = {id(node) for node in before}
        for node in self.graph.node:
            several = any(self._several(out) for out in node.output)
            if not (several or self.lifted.intersection(node.input)):
                self.nodes.append(node)
            elif id(node) not in inside or not self._lift(node):
                if id(node) in inside and self.lifted.intersection(node.input):
                    shapes = [list(self.shapes[i]) for i in node.input if i in self.lifted]
                    raise HwgenError(
                        f"Node {node.name or node.output[0]!r} ({node.op_type}): its first axis "
                        f"is a part of a frame, not the batch, in {shapes[0]}: that is not "
                        f"supported for this op")
                copy = onnx.NodeProto.FromString(node.SerializeToString())
                copy.input[:] = [self.plain(name) for name in node.input]
                self.nodes.append(copy)
        return bool(self.lifted)

    def _several(self, name: str) -> bool:
        return bool(self.shapes.get(name)) and self.shapes[name][0] != 1

    def _lift(self, node: onnx.NodeProto) -> bool:
        """Write a node for tensors with an axis in front; returns whether that can be done."""
        kind = node.op_type
        if any(name and name not in self.shapes for name in node.output):
            return False
        lift = LIFTS.get(kind, _elementwise if kind in ELEMENTWISE else None)
        mark = len(self.nodes)
        made = lift(self, node) if lift is not None else None
        if made is None:
            del self.nodes[mark:]
            return False
        self.nodes.append(made)
        for k, name in enumerate(node.output):
            if not name:
                continue
            if self._several(name) and name not in self.outputs:
                self.lifted.add(name)
            elif kind not in SHAPED or self._several(name):
                made.output[k] = f"{name}.lifted"
                self.nodes.append(self.reshape(f"{name}.lifted", self.shapes[name], name))
        return True

    # What lifts need

    def constant(self, value: np.ndarray, like: str) -> str:
        """A new constant, and its name."""
        name = f"{like}.{len(self.made)}"
        self.made[name] = value
        return name

    def value(self, name: str) -> np.ndarray | None:
        """A constant; None if it is none."""
        return self.constants.get(name)

    def rank(self, name: str) -> int:
        """Axes of a tensor, without the one in front."""
        return len(self.shapes[name])

    def reshape(self, name: str, shape: tuple[int, ...], out: str) -> onnx.NodeProto:
        """The node that gives a tensor another shape."""
        to = self.constant(np.array(shape, np.int64), out)
        return helper.make_node("Reshape", [name, to], [out], name=out)

    def with_axis(self, name: str) -> str:
        """A tensor or constant with an axis in front."""
        if name in self.constants:
            return self.constant(self.constants[name][None], name)
        return name if name in self.lifted else self._changed(name, (1, *self.shapes[name]))

    def plain(self, name: str) -> str:
        """A tensor without an axis in front."""
        return self._changed(name, self.shapes[name]) if name in self.lifted else name

    def _changed(self, name: str, shape: tuple[int, ...]) -> str:
        if name not in self._other:
            self._other[name] = f"{name}.other"
            self.nodes.append(self.reshape(name, shape, f"{name}.other"))
        return self._other[name]

    def copy(self, node: onnx.NodeProto, inputs: list[str], **at) -> onnx.NodeProto:
        """A node of the same kind with other inputs, and some other attributes."""
        every = attributes(node) | at
        return helper.make_node(
            node.op_type, inputs, list(node.output), name=node.name, domain=node.domain,
            **{key: value for key, value in every.items() if value is not None})


def _lifts(*kinds: str) -> Callable[[Lift], Lift]:
    """Register how ops are lifted."""
    def register(lift: Lift) -> Lift:
        LIFTS.update(dict.fromkeys(kinds, lift))
        return lift

    return register


def _elementwise(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto:
    """Axes are counted from behind where operands have fewer than the result."""
    rank = lifter.rank(node.output[0])
    inputs = [lifter.with_axis(name) if name and name not in lifter.constants
              and lifter.rank(name) == rank else name for name in node.input]
    return lifter.copy(node, inputs)


@_lifts("Flatten", "Reshape", "Squeeze", "Unsqueeze")
def _reshape(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto:
    out = node.output[0]
    shape = lifter.shapes[out]
    more = (1,) if lifter._several(out) else ()
    made = lifter.reshape(node.input[0], (*more, *shape), out)
    made.name = node.name
    return made


@_lifts("Transpose")
def _transpose(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto:
    turned = range(lifter.rank(node.input[0]))[::-1]
    perm = [0, *(p + 1 for p in attributes(node).get("perm", turned))]
    return lifter.copy(node, [lifter.with_axis(node.input[0])], perm=perm)


@_lifts("MatMul")
def _matmul(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    for name in node.input:
        if name not in lifter.constants and lifter.rank(name) < 2:
            return None
    return lifter.copy(node, [
        name if name in lifter.constants else lifter.with_axis(name) for name in node.input])


@_lifts("Gemm")
def _gemm(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Rows of a matrix are tokens of a frame."""
    at = attributes(node)
    weight, out = lifter.value(node.input[1]), node.output[0]
    more = node.input[2:3] if len(node.input) > 2 and node.input[2] else []
    bias = lifter.value(more[0]) if more else None
    factors = at.get("alpha", 1.0), at.get("beta", 1.0)
    if at.get("transA") or weight is None or (more and bias is None) or (
            lifter.kept.keys() & set(node.input) and factors != (1, 1)):
        return None
    weight = weight.T if at.get("transB") else weight
    name = lifter.constant(np.ascontiguousarray(weight * np.float32(factors[0])), node.input[1])
    if coded := lifter.kept.get(node.input[1]):
        lifter.kept[name] = coded.mapped(np.transpose) if at.get("transB") else coded
    product = [lifter.with_axis(node.input[0]), name]
    if bias is None:
        return helper.make_node("MatMul", product, [out], name=node.name)
    lifter.nodes.append(helper.make_node("MatMul", product, [f"{out}.product"], name=node.name))
    shift = more[0] if factors[1] == 1 else lifter.constant(
        bias * np.float32(factors[1]), more[0])
    return helper.make_node("Add", [f"{out}.product", shift], [out], name=f"{out}.sum")


@_lifts("BatchNormalization")
def _batch_normalization(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """A scale and a shift for each channel, which is axis 1 without the one in front."""
    scale, shift, mean, variance = (lifter.value(name) for name in node.input[1:])
    at, out = attributes(node), node.output[0]
    if scale is None or shift is None or mean is None or variance is None or (
            at.get("training_mode") or len(node.output) > 1):
        return None
    factor = scale / np.sqrt(variance.astype(np.float64) + at.get("epsilon", 1e-5))
    line = (-1, *(1,) * (lifter.rank(node.input[0]) - 2))
    values = [np.reshape(v, line).astype(np.float32) for v in (factor, shift - mean * factor)]
    by, more = (lifter.constant(value, out) for value in values)
    source = lifter.with_axis(node.input[0])
    lifter.nodes.append(helper.make_node("Mul", [source, by], [f"{out}.scaled"], name=node.name))
    return helper.make_node("Add", [f"{out}.scaled", more], [out], name=f"{out}.shifted")


@_lifts("LayerNormalization", "LogSoftmax", "Softmax")
def _along(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """Ops along an axis, or along all axes from one on."""
    old = node.op_type != "LayerNormalization" and lifter.version < 13
    rank = lifter.rank(node.input[0])
    axis = attributes(node).get("axis", 1 if old else -1) % rank
    if (old and axis != rank - 1) or len(node.output) > 1:
        return None
    inputs = [lifter.with_axis(node.input[0]), *node.input[1:]]
    return lifter.copy(node, inputs, axis=axis - rank)


@_lifts("Concat", "Gather", "Split")
def _axis(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    if node.op_type == "Gather" and lifter.value(node.input[0]) is not None:
        return None
    axis = attributes(node).get("axis", 0) % lifter.rank(node.input[0]) + 1
    if node.op_type == "Concat":
        return lifter.copy(node, [lifter.with_axis(name) for name in node.input], axis=axis)
    if any(name and lifter.value(name) is None for name in node.input[1:]):
        return None
    return lifter.copy(node, [lifter.with_axis(node.input[0]), *node.input[1:]], axis=axis)


@_lifts("Slice")
def _slice(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    starts = lifter.value(node.input[1]) if len(node.input) > 1 else None
    if starts is None:
        return None
    axes = np.arange(starts.size)
    if len(node.input) > 3 and node.input[3]:
        axes = lifter.constants[node.input[3]]
    axes = np.asarray(axes, np.int64) % lifter.rank(node.input[0]) + 1
    inputs = [lifter.with_axis(node.input[0]), *node.input[1:3],
              lifter.constant(axes, node.output[0]), *node.input[4:]]
    return lifter.copy(node, inputs)


@_lifts("Expand", "Tile")
def _repeat(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    extents = lifter.value(node.input[1])
    if extents is None:
        return None
    more = lifter.constant(np.r_[1, extents].astype(np.int64), node.output[0])
    return lifter.copy(node, [lifter.with_axis(node.input[0]), more])


@_lifts("Pad")
def _pad(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    pads = lifter.value(node.input[1]) if len(node.input) > 1 else None
    if pads is None or (len(node.input) > 3 and node.input[3]):
        return None
    before, after = np.split(pads, 2)
    more = lifter.constant(np.r_[0, before, 0, after].astype(np.int64), node.output[0])
    return lifter.copy(node, [lifter.with_axis(node.input[0]), more, *node.input[2:]])


@_lifts("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum")
def _reduce(lifter: _Lifter, node: onnx.NodeProto) -> onnx.NodeProto | None:
    rank, at = lifter.rank(node.input[0]), attributes(node)
    axes = at.get("axes")
    by_input = len(node.input) > 1 and bool(node.input[1])
    if by_input:
        given = lifter.value(node.input[1])
        axes = None if given is None else given.tolist()
    if not axes:
        return None
    axes = [axis % rank + 1 for axis in axes]
    source = lifter.with_axis(node.input[0])
    if by_input:
        more = lifter.constant(np.array(axes, np.int64), node.output[0])
        return lifter.copy(node, [source, more])
    return lifter.copy(node, [source], axes=axes)
