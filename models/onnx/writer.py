"""What ops are written out with: a writer of float nodes, and the registry of rewrites."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper

from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import attributes, opset

__all__ = ["REWRITES", "Writer", "rewrites"]


class Writer:
    """Writes nodes in place of one.

    Parameters
    ----------
    network : the float network
    node : the one that is written out

    Members
    -------
    nodes : what has been written, in topological order
    constants : what it reads
    fine : tensors of it whose codes shall be fine
    """

    def __init__(self, network: Network, node: onnx.NodeProto) -> None:
        self.network, self.node = network, node
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.fine: set[str] = set()
        self.attributes = attributes(node)
        self.opset = opset(network.model)

    def op(self, kind: str, *inputs: str, fine: bool = True, **at) -> str:
        """Append a node, and return the tensor that it makes."""
        out = self._name(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **at))
        if fine:
            self.fine.add(out)
        return out

    def constant(self, value, dtype=np.float32) -> str:
        """Append a constant, and return its name."""
        name = self._name("constant")
        self.constants[name] = np.asarray(value, dtype)
        return name

    def _name(self, kind: str) -> str:
        return f"{self.node.output[0]}.{kind.lower()}.{len(self.nodes) + len(self.constants)}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor of the network."""
        return self.network.shapes[name]

    def reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        """The same elements in another shape."""
        return self.op("Reshape", tensor, self.constant(shape, np.int64))

    def reduced(self, kind: str, tensor: str, axes: Sequence[int]) -> str:
        """A reduction that keeps its axes, with extents of 1."""
        if self.opset >= (13 if kind == "ReduceSum" else 18):
            return self.op(kind, tensor, self.constant(list(axes), np.int64), keepdims=1)
        return self.op(kind, tensor, axes=list(axes), keepdims=1)

    def summed(self, tensor: str, axes: Sequence[int]) -> str:
        """The sum along axes, which are kept."""
        return self.reduced("ReduceSum", tensor, axes) if axes else tensor

    def quotient(self, above: str, below: str) -> str:
        """``above / below``, as a product with a reciprocal."""
        return self.op("Mul", above, self.op("Reciprocal", below))

    def normalised(
        self, tensor: str, mean: Callable[[str], str], epsilon: float, *, centred: bool = True,
        beside: bool = False,
    ) -> str:
        """A tensor divided by the root of the mean of its squares.

        Parameters
        ----------
        tensor : what is normalised
        mean : writes the mean of what is normalised together
        epsilon : added to the mean of the squares, so that nothing is divided by 0
        centred : whether the mean is subtracted first
        beside : whether ``epsilon`` is added to the root instead
        """
        if centred:
            tensor = self.op("Sub", tensor, mean(tensor))
        power = mean(self.op("Mul", tensor, tensor))
        if beside:
            root = self.op("Add", self.op("Sqrt", power), self.constant(epsilon))
        else:
            root = self.op("Sqrt", self.op("Add", power, self.constant(epsilon)))
        return self.quotient(tensor, root)

    def scaled(self, tensor: str, scale: str, shift: str, shape: Sequence[int]) -> str:
        """A tensor times a scale and plus a shift, either of which may be missing.

        Parameters
        ----------
        tensor : what is scaled
        scale, shift : constants or streams of the file; empty if there is none
        shape : what they are brought to; elements of a constant are repeated if they are too few
        """
        for kind, name, neutral in (("Mul", scale, 1), ("Add", shift, 0)):
            value = self.network.constants.get(name)
            if not name or (value is not None and (value == neutral).all()):
                continue
            if value is None:
                by = self.reshaped(name, shape)
            else:
                repeats = math.prod(shape) // value.size
                by = self.constant(np.repeat(value.ravel(), repeats).reshape(shape))
            tensor = self.op(kind, tensor, by)
        return tensor


Rewrite = Callable[[Writer, onnx.NodeProto], str | None]
"""Writes a node out and returns the result; None leaves the node to the lowering."""
REWRITES: dict[str, Rewrite] = {}
"""ONNX op to what writes it out."""


def rewrites(*kinds: str) -> Callable[[Rewrite], Rewrite]:
    """Register a rewrite for ONNX ops."""
    def register(rewrite: Rewrite) -> Rewrite:
        REWRITES.update(dict.fromkeys(kinds, rewrite))
        return rewrite

    return register
