"""Scale and shift behind a normalisation, taken into the weights and biases of what reads it.

A layer with weights ``W`` that reads ``x * g + b`` is one with ``g * W`` that reads ``x``, and has
``b W`` more in its bias: so they cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from hwgen.models.onnx.layer_norms import NormPattern
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes
from hwgen.models.onnx.writer import Writer

__all__ = ["scales_taken"]


def scales_taken(network: Network) -> dict[str, Writer]:
    """Layers that take the scale and shift of the normalisation that they read, by their result."""
    instead: dict[str, Writer] = {}
    for pattern in network.norms.values():
        end, scale, shift = _chain(network, pattern)
        if end == pattern.out:
            continue
        layers = list(_layers(network, pattern, end, []))
        if layers and all(layer is not None for layer in layers):
            for node, perms in filter(None, layers):
                writer = Writer(network, node)
                _taken(writer, pattern, perms, scale, shift)
                instead[node.output[0]] = writer
    return instead


def _chain(network: Network, pattern: NormPattern) -> tuple[str, np.ndarray, np.ndarray]:
    """The last of the products and sums with constants by channel; what they scale and shift by."""
    end, shape = pattern.out, network.shapes[pattern.out]
    count = shape[pattern.out_axis]
    scale, shift = np.ones(count), np.zeros(count)
    while True:
        readers = network.users.get(end, [])
        if len(readers) != 1 or {end, *readers[0].output} & _stay(network):
            return end, scale, shift
        (node,) = readers
        fixed = [network.constants[i] for i in node.input if i in network.constants]
        if node.op_type not in ("Add", "Mul") or len(fixed) != 1 or (
                network.shapes[node.output[0]] != shape):
            return end, scale, shift
        value = fixed[0].reshape((1,) * (len(shape) - fixed[0].ndim) + fixed[0].shape)
        if value.size != value.shape[pattern.out_axis]:
            return end, scale, shift
        by = np.broadcast_to(value.ravel().astype(np.float64), (count,))
        scale, shift = (scale * by, shift * by) if node.op_type == "Mul" else (scale, shift + by)
        end = node.output[0]


def _stay(network: Network) -> set[str]:
    return {*network.outputs, *network.codes, *network.inner}


def _layers(
    network: Network, pattern: NormPattern, tensor: str, perms: list[list[int]]
) -> Iterator[tuple[onnx.NodeProto, list[list[int]]] | None]:
    """Layers that read a tensor, with the transpositions in front; None for what is no layer."""
    if tensor in _stay(network):
        yield None
        return
    axis = pattern.out_axis
    for perm in perms:
        axis = perm.index(axis)
    for node in network.users.get(tensor, []):
        if node.op_type == "Transpose":
            perm = list(attributes(node)["perm"])
            yield from _layers(network, pattern, node.output[0], [*perms, perm])
        else:
            yield (node, perms) if _takes(network, node, tensor, axis) else None


def _takes(network: Network, node: onnx.NodeProto, tensor: str, axis: int) -> bool:
    """Whether a node is a layer that reads a tensor with its channels at an axis, and no more."""
    if node.output[0] in network.absorbed or node.input[0] != tensor or any(
            i not in network.constants or i in network.weights for i in node.input[1:] if i):
        return False
    at, rank = attributes(node), len(network.shapes[tensor])
    if node.op_type == "Conv":
        # What pads it is not scaled.
        return axis == 1 and at.get("group", 1) == 1 and not any(at.get("pads", ())) and (
            at.get("auto_pad", b"NOTSET") == b"NOTSET")
    if node.op_type == "Gemm":
        return axis == rank - 1 and not at.get("transA", 0)
    return node.op_type == "MatMul" and axis == rank - 1 and (
        network.constants[node.input[1]].ndim == 2)


def _taken(
    writer: Writer, pattern: NormPattern, perms: list[list[int]], scale: np.ndarray,
    shift: np.ndarray,
) -> None:
    """Write a layer that reads what is normalised."""
    node, x = writer.node, pattern.out
    weight = writer.network.constants[node.input[1]].astype(np.float64)
    for perm in perms:
        x = writer.op("Transpose", x, fine=False, perm=perm)
    # Channels of the input are rows, or follow the outputs.
    turned = node.op_type == "Conv" or bool(writer.attributes.get("transB", 0))
    rows = np.moveaxis(weight, 1, 0) if turned else weight
    more = np.tensordot(shift, rows, (0, 0))
    rows = rows * scale.reshape(-1, *(1,) * (rows.ndim - 1))
    more = more.reshape(more.shape[0], -1).sum(1)
    changed = writer.constant(np.moveaxis(rows, 0, 1) if turned else rows)
    if node.op_type == "MatMul":
        out = writer.op("MatMul", x, changed, fine=False)
        if more.any():
            writer.op("Add", out, writer.constant(more), fine=False)
        return
    at = dict(writer.attributes)
    bias = writer.network.constants.get(node.input[2]) if len(node.input) > 2 else None
    if node.op_type == "Gemm":
        more = more * at.get("alpha", 1.0)
        bias = None if bias is None else bias * at.pop("beta", 1.0)
    more = more if bias is None else more + bias
    writer.op(node.op_type, x, changed, writer.constant(more), fine=False, **at)
