"""Scales and shifts per channel: where they stand behind an op with weights, they are part of it.

They are BatchNormalization, and Mul, Add, Sub and Div with constants.  One that alone reads the
tensor in front of it is folded into the op that makes it; where there is no such op, the chain is
an op of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx

from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import WEIGHTED, attributes

__all__ = ["Affine", "along", "find_affine", "scale_and_shift"]


@dataclass
class Affine:
    """``scale * x + shift``, per channel.

    Members
    -------
    scale, shift : float64 arrays, shape ``(C,)`` or ``()``
    end : tensor that is the result
    axis : where the channels are
    absorbed : tensors whose nodes are part of it, without that of the op itself
    """

    end: str
    axis: int = 1
    scale: np.ndarray = field(default_factory=lambda: np.ones(()))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(()))
    absorbed: list[str] = field(default_factory=list)

    def then(self, scale: np.ndarray, shift: np.ndarray, end: str) -> None:
        """Append another scale and shift, whose result is ``end``."""
        self.scale, self.shift = self.scale * scale, self.shift * scale + shift
        self.end = end

    def ordered(self, order: np.ndarray) -> Affine:
        """The same of channels in another order."""
        scale, shift = (v[order] if v.ndim else v for v in (self.scale, self.shift))
        return Affine(self.end, self.axis, scale, shift, self.absorbed)


def along(value: np.ndarray, shape: tuple[int, ...], axis: int) -> np.ndarray | None:
    """A constant as a vector along ``axis`` of a tensor, or a scalar; None if it is neither."""
    if value.size == 1:
        return value.reshape(())
    if value.ndim > len(shape):
        return None
    full = value.reshape((1,) * (len(shape) - value.ndim) + value.shape)
    if full.shape[axis] == value.size == shape[axis]:
        return full.reshape(-1)
    return None


def scale_and_shift(
    kind: str, value: np.ndarray, first: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """What an Add, Sub, Mul or Div with a constant does to a stream; None if it is not affine.

    ``first`` is whether the stream is the first operand.
    """
    one, zero = np.ones(()), np.zeros(())
    if kind == "Add":
        return one, value
    if kind == "Sub":
        return (one, -value) if first else (-one, value)
    if kind == "Mul":
        return value, zero
    return (1 / value, zero) if first and (value != 0).all() else None


def step(
    network: Network, node: onnx.NodeProto, tensor: str, axis: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Scale and shift of a node that reads ``tensor``; None if it is not affine in it."""
    constants, shape = network.constants, network.shapes.get(tensor, ())
    if network.shapes.get(node.output[0]) != shape:
        return None
    if node.op_type == "BatchNormalization" and node.input[0] == tensor and axis == 1:
        if len(node.output) > 1 or any(i not in constants for i in node.input[1:5]):
            return None
        gain, shift, mean, variance = (constants[i].astype(np.float64) for i in node.input[1:5])
        scale = gain / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        return scale, shift - mean * scale
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.input) != 2:
        return None
    first = node.input[0] == tensor
    other = node.input[1] if first else node.input[0]
    if other not in constants or other == tensor:
        return None
    value = along(constants[other].astype(np.float64), shape, axis)
    if value is None:
        return None
    return scale_and_shift(node.op_type, value, first)


def _begins(
    network: Network, node: onnx.NodeProto, axes: Iterable[int]
) -> tuple[int, tuple[np.ndarray, np.ndarray] | None]:
    """The axis along which a node begins a chain, with its scale and shift, or None."""
    live = [i for i in node.input if i and i not in network.constants]
    for axis in axes:
        first = step(network, node, live[0], axis) if len(live) == 1 else None
        if first is not None and (node.op_type == "BatchNormalization"
                                  or any(part.ndim for part in first)):
            return axis, first
    return 1, None


def _factor(scale: np.ndarray, shift: np.ndarray) -> bool:
    """Whether it is one positive factor and nothing else: all that a product of streams takes."""
    return scale.ndim == 0 and float(scale) > 0 and not shift.any()


def find_affine(network: Network) -> dict[str, Affine]:
    """Chains of scales and shifts, by the output of the op that they belong to."""
    found: dict[str, Affine] = {}
    taken: set[str] = set()
    for node in network.nodes:
        out = node.output[0]
        if out in taken or out not in network.shapes:
            continue
        rank = len(network.shapes[out])
        axis = rank - 1 if node.op_type == "MatMul" else min(1, rank - 1)
        first, live = None, network.constants.keys().isdisjoint(node.input)
        if live and out in network.attention:
            continue
        if node.op_type not in WEIGHTED:
            axis, first = _begins(network, node, (axis, rank - 1))
            if first is None:
                continue
        chain = Affine(out, axis)
        if first is not None:
            chain.then(*first, out)
        while chain.end not in network.codes and chain.end not in network.outputs:
            readers = network.users.get(chain.end, [])
            if len(readers) != 1 or list(readers[0].input).count(chain.end) != 1:
                break
            (reader,) = readers
            change = step(network, reader, chain.end, axis)
            if change is None or reader.output[0] in network.inner:
                break
            if live and node.op_type in WEIGHTED and not _factor(*change):
                break
            chain.then(*change, reader.output[0])
            chain.absorbed.append(reader.output[0])
            taken.add(reader.output[0])
        if node.op_type not in WEIGHTED or chain.absorbed:
            found[out] = chain
    return found
