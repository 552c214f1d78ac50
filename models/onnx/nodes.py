"""What ONNX nodes say: their attributes, their padding, and whether they have weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx

from hwgen.ir import Pads

__all__ = [
    "ELEMENTWISE", "WEIGHTED", "attributes", "axis_pads", "is_square", "opset", "reads", "rename",
    "spatial_pads",
]

ELEMENTWISE = {
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "Cast", "CastLike",
    "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Div", "Dropout", "Elu", "Equal",
    "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Min", "Mish", "Mod", "Mul",
    "Neg", "Not", "Or", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Selu",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum",
    "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
}
"""Ops that compute element by element."""
WEIGHTED = {"Conv", "Gemm", "MatMul", "ConvTranspose"}
"""Ops with weights."""


def attributes(node: onnx.NodeProto) -> dict:
    """Attributes of a node as plain values."""
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def reads(node: onnx.NodeProto) -> list[str]:
    """Tensors that a node reads, those that only its subgraphs read too."""
    found = dict.fromkeys(i for i in node.input if i)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            own = {v.name for v in (*graph.input, *graph.initializer)}
            own.update(o for inner in graph.node for o in inner.output)
            names = [i for inner in graph.node for i in reads(inner)]
            # A subgraph may hand a tensor on without a node.
            names += [value.name for value in graph.output]
            found.update(dict.fromkeys(i for i in names if i not in own))
    return list(found)


def is_square(node: onnx.NodeProto) -> bool:
    """Whether a node multiplies a tensor by itself."""
    return node.op_type == "Mul" and node.input[0] == node.input[1]


def opset(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operator set that a model is written in."""
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Give the tensors that a node reads or makes other names, in place."""
    for tensors in (node.input, node.output):
        tensors[:] = [names.get(tensor, tensor) for tensor in tensors]


def spatial_pads(
    at: dict, kernel: tuple[int, ...], stride: tuple[int, ...], spatial: tuple[int, ...]
) -> Pads:
    """Padding of an ONNX node as (before, after) per dimension; ``kernel``: with dilation."""
    auto = at.get("auto_pad", b"NOTSET").decode()
    rank = len(kernel)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = []
        for n, k, s in zip(spatial, kernel, stride, strict=True):
            total = max((-(-n // s) - 1) * s + k - n, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if auto == "SAME_UPPER" else (large, small))
        return tuple(pads)
    flat = at.get("pads", (0,) * (2 * rank)) if auto == "NOTSET" else (0,) * (2 * rank)
    return tuple(zip(flat[:rank], flat[rank:], strict=True))


def axis_pads(
    node: onnx.NodeProto, rank: int, constant: Callable[[str], np.ndarray]
) -> list[tuple[int, int]]:
    """Padding of a Pad as (before, after) per axis.

    Parameters
    ----------
    node : the Pad
    rank : of what it pads
    constant : gives the value of a constant that it reads
    """
    at = attributes(node)
    amounts = at["pads"] if "pads" in at else constant(node.input[1]).astype(int).tolist()
    axes = list(range(rank))
    if len(node.input) > 3 and node.input[3]:
        axes = [int(a) % rank for a in constant(node.input[3])]
    pads = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        pads[axis] = int(amounts[k]), int(amounts[len(axes) + k])
    return pads
