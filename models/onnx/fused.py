"""Ops of onnxruntime's domain, and of ONNX, that stand for several: written as these.

onnxruntime's optimiser of transformers joins nodes into ops of its own domain.  Each is written in
ops of ONNX again, in the forms that exporters write, so that all that follows knows nothing of it.
What an op becomes is said by a function that registers for it with :func:`stands_for`; those of
attention, which need shapes, are in :mod:`hwgen.models.onnx.fused_attention`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import attributes, opset

__all__ = ["FUSED", "FusedWriter", "Written", "microsoft", "stands_for", "write_fused_ops"]

MICROSOFT = "com.microsoft"


class FusedWriter:
    """Writes nodes in place of one.

    Parameters
    ----------
    model : for its constants, and its operator set
    node : the one that is written as several
    shapes : of tensors, as far as they are known

    Members
    -------
    nodes, made : what has been written, and the constants that it reads
    """

    def __init__(
        self, model: onnx.ModelProto, node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        self.node, self.shapes, self.version = node, shapes, opset(model)
        self.constants = {c.name: c for c in model.graph.initializer}
        for other in model.graph.node:
            if other.op_type == "Constant" and "value" in attributes(other):
                self.constants[other.output[0]] = attributes(other)["value"]
        self.nodes: list[onnx.NodeProto] = []
        self.made: dict[str, np.ndarray] = {}
        self.attributes = attributes(node)

    def input(self, k: int) -> str:
        """Input ``k`` of the node; empty if there is none."""
        return self.node.input[k] if len(self.node.input) > k else ""

    def op(self, kind: str, *inputs: str, **at) -> str:
        """Append a node, and return the tensor that it makes."""
        out = self._name(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **at))
        return out

    def number(self, value, dtype=np.float32) -> str:
        """Append a constant, and return its name."""
        name = self._name("constant")
        self.made[name] = np.asarray(value, dtype)
        return name

    def _name(self, kind: str) -> str:
        return f"{self.node.output[0]}.{kind.lower()}.{len(self.nodes) + len(self.made)}"

    def reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        """The same elements in another shape."""
        return self.op("Reshape", tensor, self.number(shape, np.int64))

    def mean(self, tensor: str) -> str:
        """The mean over the last axis, which is kept."""
        if self.version >= 18:
            return self.op("ReduceMean", tensor, self.number([-1], np.int64), keepdims=1)
        return self.op("ReduceMean", tensor, axes=[-1], keepdims=1)

    def sum(self, tensor: str, axes: Sequence[int]) -> str:
        """The sum over some axes, which are gone."""
        if self.version >= 13:
            return self.op("ReduceSum", tensor, self.number(axes, np.int64), keepdims=0)
        return self.op("ReduceSum", tensor, axes=list(axes), keepdims=0)

    def slice(self, tensor: str, begin: int, end: int, axis: int, step: int = 1) -> str:
        """Some of the elements along an axis."""
        return self.op("Slice", tensor, *(
            self.number([n], np.int64) for n in (begin, end, axis, step)))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises
        ------
        :exc:`HwgenError`
            If it is not known.
        """
        if name not in self.shapes:
            raise self.refusal(f"the shape of {name!r} is not known")
        return self.shapes[name]

    def constant(self, name: str, what: str) -> np.ndarray:
        """Value of a constant.

        Raises
        ------
        :exc:`HwgenError`
            If it is none; ``what`` says which input it is.
        """
        if name not in self.constants:
            raise self.refusal(f"its {what} must be constant")
        return numpy_helper.to_array(self.constants[name])

    def refusal(self, why: str) -> HwgenError:
        """The error that says why the node is not read."""
        node = self.node
        return HwgenError(f"Node {node.name or node.output[0]!r} ({node.op_type}): {why}")

    def only(self, known: int, outputs: Sequence[int] = (0,)) -> None:
        """Refuse inputs from ``known`` on, and outputs other than those."""
        more = [name for name in self.node.input[known:] if name]
        made = [name for k, name in enumerate(self.node.output) if name and k not in outputs]
        if more or made:
            raise self.refusal(f"{', '.join(map(repr, more or made))}: past keys and values, "
                               f"masks by length, and other outputs are not supported")


Written = dict[int, str]
"""Output of a node to the tensor that takes its place."""
Write = Callable[[FusedWriter], Written]
FUSED: dict[tuple[str, str], tuple[Write, bool]] = {}
"""Domain and op to what writes it, and whether that needs shapes."""


def stands_for(domain: str, *kinds: str, shapes: bool = False) -> Callable[[Write], Write]:
    """Register how ops are written as several others."""
    def register(write: Write) -> Write:
        FUSED.update({(domain, kind): (write, shapes) for kind in kinds})
        return write

    return register


def microsoft(*kinds: str, shapes: bool = False) -> Callable[[Write], Write]:
    """Register how ops of onnxruntime's domain are written as several others."""
    return stands_for(MICROSOFT, *kinds, shapes=shapes)


def write_fused_ops(
    model: onnx.ModelProto, shapes: Callable[[onnx.ModelProto], dict[str, tuple[int, ...]]] | None
) -> None:
    """Write ops that stand for several as these, in place.

    Parameters
    ----------
    model : changed
    shapes : gives the shapes of a model's tensors; None: only ops that need none are written

    Raises
    ------
    :exc:`HwgenError`
        If a form of an op is not supported; the node is named.
    """
    while todo := [node for node in model.graph.node if _stands(node, model, shapes is not None)]:
        known = shapes(model) if shapes is not None else {}
        # Shapes behind an op that ONNX does not know follow once it is written.
        now = [node for node in todo if not _needs(node) or all(
            name in known for name in node.input if name)] or todo[:1]
        written = {node.output[0]: _written(model, node, known) for node in now}
        nodes = [part for node in model.graph.node for part in (
            written[node.output[0]] if node.output and node.output[0] in written else [node])]
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _stands(node: onnx.NodeProto, model: onnx.ModelProto, shapes: bool) -> bool:
    """Whether a node stands for several, and can be written now."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    found = FUSED.get((domain, node.op_type))
    if domain == "" and node.op_type == "LayerNormalization" and opset(model) >= 17:
        return False
    return found is not None and (shapes or not found[1])


def _needs(node: onnx.NodeProto) -> bool:
    """Whether shapes are needed."""
    return FUSED["" if node.domain == "ai.onnx" else node.domain, node.op_type][1]


def _written(
    model: onnx.ModelProto, node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]
) -> list[onnx.NodeProto]:
    """The nodes in place of a node; its outputs keep their names."""
    writer = FusedWriter(model, node, shapes)
    write, _ = FUSED["" if node.domain == "ai.onnx" else node.domain, node.op_type]
    for k, made in write(writer).items():
        if len(node.output) > k and node.output[k]:
            writer.nodes.append(helper.make_node(
                "Identity", [made], [node.output[k]], name=node.name or node.output[k]))
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in writer.made.items())
    return writer.nodes


# Normalisations


def _normalised(
    writer: FusedWriter, x: str, scale: str, shift: str, *, centred: bool = True
) -> str:
    """A tensor normalised along its last axis, times a scale and plus a shift."""
    epsilon = writer.number(writer.attributes.get("epsilon", 1e-5 if centred else 1e-6))
    if writer.attributes.get("axis", -1) != -1:
        raise writer.refusal("only a normalisation along the last axis is supported")
    if centred:
        x = writer.op("Sub", x, writer.mean(x))
    power = writer.mean(writer.op("Mul", x, x))
    x = writer.op("Div", x, writer.op("Sqrt", writer.op("Add", power, epsilon)))
    x = writer.op("Mul", x, scale)
    return writer.op("Add", x, shift) if shift else x


@stands_for("", "LayerNormalization")
@microsoft("LayerNormalization")
def _layer_normalization(writer: FusedWriter) -> Written:
    writer.only(3)
    return {0: _normalised(writer, *(writer.input(k) for k in range(3)))}


@stands_for("", "SimplifiedLayerNormalization")
@microsoft("SimplifiedLayerNormalization")
def _simplified(writer: FusedWriter) -> Written:
    writer.only(2)
    return {0: _normalised(writer, writer.input(0), writer.input(1), "", centred=False)}


@microsoft("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip(writer: FusedWriter) -> Written:
    """The sum of two streams, and perhaps a bias, normalised; the sum is an output, too."""
    centred = writer.node.op_type == "SkipLayerNormalization"
    writer.only(5 if centred else 4, (0, 3))
    total = writer.op("Add", writer.input(0), writer.input(1))
    shift, bias = (writer.input(3), writer.input(4)) if centred else ("", writer.input(3))
    if bias:
        total = writer.op("Add", total, bias)
    return {0: _normalised(writer, total, writer.input(2), shift, centred=centred), 3: total}


# Activations


@microsoft("BiasGelu", "Gelu")
def _gelu(writer: FusedWriter) -> Written:
    x = writer.input(0)
    if writer.input(1):
        x = writer.op("Add", x, writer.input(1))
    erf = writer.op("Erf", writer.op("Mul", x, writer.number(math.sqrt(0.5))))
    half = writer.op("Mul", x, writer.number(0.5))
    return {0: writer.op("Mul", half, writer.op("Add", erf, writer.number(1.0)))}


@microsoft("FastGelu")
def _fast_gelu(writer: FusedWriter) -> Written:
    """The form with a hyperbolic tangent."""
    x = writer.input(0)
    if writer.input(1):
        x = writer.op("Add", x, writer.input(1))
    cube = writer.op("Mul", writer.op("Mul", x, x), writer.op("Mul", x, writer.number(0.044715)))
    inner = writer.op("Mul", writer.op("Add", x, cube), writer.number(math.sqrt(2 / math.pi)))
    half = writer.op("Mul", x, writer.number(0.5))
    tanh = writer.op("Add", writer.op("Tanh", inner), writer.number(1.0))
    return {0: writer.op("Mul", half, tanh)}


@microsoft("QuickGelu")
def _quick_gelu(writer: FusedWriter) -> Written:
    x, alpha = writer.input(0), writer.number(writer.attributes.get("alpha", 1.702))
    return {0: writer.op("Mul", x, writer.op("Sigmoid", writer.op("Mul", x, alpha)))}


@microsoft("FusedMatMul", "TransposeMatMul", shapes=True)
def _fused_matmul(writer: FusedWriter) -> Written:
    at = writer.attributes
    if at.get("transBatchA") or at.get("transBatchB"):
        raise writer.refusal("a transposed batch is not supported")
    sides = []
    for name, turned in zip(writer.node.input, ("transA", "transB"), strict=True):
        rank = len(writer.shape(name))
        perm = [*range(rank - 2), rank - 1, rank - 2]
        sides.append(writer.op("Transpose", name, perm=perm) if at.get(turned) else name)
    product = writer.op("MatMul", *sides)
    alpha = at.get("alpha", 1.0)
    return {0: product if alpha == 1 else writer.op("Mul", product, writer.number(alpha))}
