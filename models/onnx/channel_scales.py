"""Activations with a scale for each channel: the scales go into the weights behind them.

A product with a channel's weights is one with its integers if the weights are multiplied by the
channel's scale.  So the tensor is divided by its scales, which the layer in front of it does, and
has one scale, 1, from then on.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import attributes

__all__ = ["fold_channel_scales"]

HOMOGENEOUS = {"LeakyRelu", "MaxPool", "Relu"}
"""Ops that scale their output if their input is scaled by positive numbers, channel by channel."""


def fold_channel_scales(model: onnx.ModelProto) -> None:
    """Fold the scales of activations that have one for each channel into weights.

    Raises
    ------
    :exc:`HwgenError`
        If what reads the tensor cannot take them; the tensor is named.
    """
    folder = _Folder(model)
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and folder.differs(node):
            folder.fold(node)


class _Folder:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {c.name: numpy_helper.to_array(c) for c in self.graph.initializer
                          if len(c.dims) < 2}
        self.stored = {c.name: c for c in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant" and "value" in attributes(node):
                self.constants[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
        self.fixed = {*self.stored, *self.constants}
        for node in self.graph.node:
            if any(node.input) and all(i in self.fixed for i in node.input if i):
                self.fixed.update(node.output)
        self.makers = {out: node for node in self.graph.node for out in node.output}
        self.outputs = {value.name for value in self.graph.output}

    def differs(self, node: onnx.NodeProto) -> bool:
        """Whether an activation is dequantised with several scales."""
        scale = self.constants.get(node.input[1])
        return (node.input[0] not in self.fixed and scale is not None
                and len(np.unique(scale)) > 1)

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if tensor in node.input]

    def constant(self, value: np.ndarray, name: str) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        self.stored[name] = self.graph.initializer[-1]
        return name

    def fold(self, node: onnx.NodeProto) -> None:
        tensor, scale = node.output[0], self.constants[node.input[1]].astype(np.float64)
        zeros = self.constants.get(node.input[2]) if len(node.input) > 2 else None
        if zeros is not None and len(np.unique(zeros)) > 1:
            raise _refusal(node, "its zero point differs by channel, too")
        readers = self.readers(tensor)
        if tensor in self.outputs or not readers:
            raise _refusal(node, "it is an output")
        axis = attributes(node).get("axis", 1)
        chain = self._chain(node)
        ranks = {self._folded(node, reader, scale, axis) for reader in readers}
        rank = ranks.pop()
        if chain:
            self._divide(chain[-1], scale, rank - 1 - axis % rank)
        one = self.constant(np.float32(1), f"{tensor}.one")
        for quantiser in (node, *chain[-1:]):
            quantiser.input[1] = one
            if zeros is not None:
                quantiser.input[2] = self.constant(zeros.ravel()[0], f"{quantiser.output[0]}.zero")
        del self.graph.value_info[:]

    def _chain(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What stands in front of it up to its QuantizeLinear; nothing behind an integer input."""
        chain, maker = [], self.makers.get(node.input[0])
        before = node
        while maker is not None:
            if len(self.readers(maker.output[0])) > 1 or maker.output[0] in self.outputs:
                raise _refusal(node, f"more than one node reads {before.input[0]!r}")
            chain.append(maker)
            if maker.op_type == "QuantizeLinear":
                same = self.constants.get(maker.input[1])
                if same is None or not np.array_equal(same, self.constants[node.input[1]]):
                    raise _refusal(node, f"its quantiser {maker.output[0]!r} has other scales")
                return chain
            if maker.op_type not in ("Clip", "Identity"):
                raise _refusal(node, f"{maker.op_type} stands in front of it")
            before, maker = maker, self.makers.get(maker.input[0])
        return []

    def _divide(self, quantiser: onnx.NodeProto, scale: np.ndarray, behind: int) -> None:
        """Divide by the scales in front of a quantiser, and of what may come after that."""
        below, tensor = quantiser, quantiser.input[0]
        while (maker := self.makers.get(tensor)) is not None and (
                maker.op_type in HOMOGENEOUS and len(self.readers(tensor)) == 1
                and tensor not in self.outputs and (scale > 0).all()):
            below, tensor = maker, maker.input[0]
        spread = scale.astype(np.float32).reshape(-1, *(1,) * behind)
        divided = f"{quantiser.output[0]}.steps"
        below.input[0] = divided
        place = list(self.graph.node).index(below)
        self.graph.node.insert(place, helper.make_node(
            "Div", [tensor, self.constant(spread, f"{divided}.scale")], [divided]))

    def _root(self, name: str) -> onnx.TensorProto | None:
        """The constant of the file that quantisers of a constant begin with."""
        while name not in self.stored and name in self.makers and (
                self.makers[name].op_type in ("QuantizeLinear", "Clip", "Identity")):
            name = self.makers[name].input[0]
        return self.stored.get(name)

    def _folded(
        self, node: onnx.NodeProto, reader: onnx.NodeProto, scale: np.ndarray, axis: int
    ) -> int:
        """Multiply the weights of a reader; returns the rank of what it reads."""
        kind, at = reader.op_type, attributes(reader)
        if kind not in ("Conv", "Gemm", "MatMul") or reader.input[0] != node.output[0]:
            raise _refusal(node, f"node {reader.name or reader.output[0]!r} ({kind}) reads it, "
                                 f"which has no weights for them")
        name = reader.input[1]
        coded = self.makers.get(name)
        coded = coded if coded is not None and coded.op_type == "DequantizeLinear" else None
        stored = self._root(coded.input[0] if coded is not None else name)
        if stored is None:
            raise _refusal(node, f"the weights {name!r} are no constant")
        weights = numpy_helper.to_array(stored)
        rank = weights.ndim if kind != "MatMul" else max(axis % 8 + 1, 2)
        if axis % rank != (1 if kind != "MatMul" else rank - 1):
            raise _refusal(node, f"they are along axis {axis}, where no channels are")
        out = 0 if kind == "Conv" or at.get("transB") else 1
        factor = _factor(scale, weights.shape, out, at.get("group", 1))
        if coded is None:
            reader.input[1] = self.constant(
                (weights * factor).astype(weights.dtype), f"{reader.output[0]}.weights")
            return rank
        first = np.take(factor, [0], axis=1 - out)
        if (factor != first).any():
            raise _refusal(node, f"the weights {name!r}, which are integers, would need several "
                                 f"scales for an output")
        old = self.constants.get(coded.input[1])
        if old is None:
            raise _refusal(node, f"the scale of the weights {name!r} is no constant")
        per_output = first.reshape(-1) * old
        steps = self.constant(per_output.astype(np.float32), f"{reader.output[0]}.scale")
        again = helper.make_node(
            "DequantizeLinear", [coded.input[0], steps, *coded.input[2:]],
            [f"{reader.output[0]}.weights"], axis=out)
        self.graph.node.insert(list(self.graph.node).index(reader), again)
        reader.input[1] = again.output[0]
        return rank


def _factor(
    scale: np.ndarray, shape: tuple[int, ...], out: int, groups: int
) -> np.ndarray:
    """The scale of the channel that each weight meets, shaped to broadcast against them."""
    if len(scale) != shape[1 - out] * groups:
        # Whatever the reader is, its shapes do not fit.
        return np.ones((1,) * len(shape))
    each = scale.reshape(groups, 1, -1).repeat(shape[out] // groups, 1).reshape(shape[out], -1)
    each = each if out == 0 else each.T
    return each.reshape(*each.shape, *(1,) * (len(shape) - 2))


def _refusal(node: onnx.NodeProto, why: str) -> HwgenError:
    return HwgenError(
        f"Node {node.name or node.output[0]!r} ({node.op_type}): tensor {node.output[0]!r} has a "
        f"scale for each channel, but {why}: quantise it with one scale and zero point for the "
        f"tensor")
