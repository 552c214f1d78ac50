"""Layers with weights as decompositions see them: convolutions and matrices are of one class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from hwgen.errors import HwgenError, naming
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes, spatial_pads

__all__ = ["FloatLayer", "find", "layers", "read_layer"]

WEIGHT_OPS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class FloatLayer:
    """A convolution without groups, or a product with a constant matrix.

    Members
    -------
    name : of its node, or of the node's output if it has none
    kind : ``Conv``, ``Gemm`` or ``MatMul``
    weight : as the network has it, shape ``(F, C, *kernel)``; no kernel if it is a matrix
    inputs, outputs : spatial extents of the frame before and behind it; none for one row,
        ``(rows,)`` for a matrix of them
    stride, dilation : per spatial dimension
    pads : (before, after) per spatial dimension
    """

    name: str
    kind: str
    weight: np.ndarray
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return self.weight.shape


def layers(network: Network) -> dict[str, FloatLayer]:
    """All layers of a network that can be decomposed, by name, in its order."""
    found = {}
    for node in network.nodes:
        try:
            found[_label(node)] = read_layer(network, node)
        except HwgenError:
            continue
    return found


def find(network: Network, name: str) -> onnx.NodeProto:
    """The node that is called ``name``, or whose output is.

    Raises
    ------
    :exc:`HwgenError`
        If there is none, or several are called so.
    """
    nodes = [node for node in network.nodes if name in (node.name, node.output[0])]
    if not nodes:
        known = [_label(node) for node in network.nodes if node.op_type in WEIGHT_OPS]
        raise HwgenError(f"Layer {name!r} is unknown: the network has {_listed(known)}")
    if len(nodes) > 1:
        raise HwgenError(f"Layer {name!r} is the name of {len(nodes)} nodes: use the names of "
                         f"their outputs, {_listed([node.output[0] for node in nodes])}")
    return nodes[0]


def read_layer(network: Network, node: onnx.NodeProto) -> FloatLayer:
    """A node as a layer.

    Raises
    ------
    :exc:`HwgenError`
        If it has no weights of its own that could be decomposed; the layer is named.
    """
    with naming(f"Layer {_label(node)!r}"):
        if node.op_type not in WEIGHT_OPS:
            raise HwgenError(f"op {node.op_type!r} cannot be decomposed: only "
                             f"{', '.join(WEIGHT_OPS)} can")
        name = node.input[1]
        if name not in network.constants:
            raise HwgenError(f"weights {name!r} must be constant")
        if name in network.weights:
            raise HwgenError(f"weights {name!r} are integers of the file: decompose the float "
                             f"network instead")
        weight = network.constants[name]
        if node.op_type == "Conv":
            return _conv(network, node, weight)
        return _matrix(network, node, weight)


def _label(node: onnx.NodeProto) -> str:
    """What a node is called."""
    return node.name or node.output[0]


def _listed(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return f"{shown}, ..." if len(names) > 20 else shown or "none that could be decomposed"


def _conv(network: Network, node: onnx.NodeProto, weight: np.ndarray) -> FloatLayer:
    at = attributes(node)
    groups, kernel = int(at.get("group", 1)), weight.shape[2:]
    if groups != 1:
        raise HwgenError(f"a convolution of {groups} groups cannot be unfolded: only those of "
                         f"1 group can")
    stride = tuple(at.get("strides", (1,) * len(kernel)))
    dilation = tuple(at.get("dilations", (1,) * len(kernel)))
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    inputs = network.shapes[node.input[0]][2:]
    return FloatLayer(
        _label(node), "Conv", weight, inputs, network.shapes[node.output[0]][2:], stride, dilation,
        spatial_pads(at, extent, stride, inputs))


def _matrix(network: Network, node: onnx.NodeProto, weight: np.ndarray) -> FloatLayer:
    at = attributes(node)
    if at.get("transA"):
        raise HwgenError("transA = 1 is not supported: a frame is one row")
    if weight.ndim != 2:
        raise HwgenError(f"weights must be a matrix, not of shape {list(weight.shape)}")
    if not at.get("transB"):
        weight = weight.T
    rows = network.shapes[node.input[0]][1:-1]
    return FloatLayer(_label(node), node.op_type, weight, rows, rows)
