"""Normalisations of each pixel or token over its channels, as they stand in files.

Exporters write them as one op (which :mod:`hwgen.models.onnx.norms` writes out), or as means,
differences, squares, a root and a quotient, in several orders.  From the quotient the search goes
back to the tensor that is normalised.  (A variance as a mean of squares less the square of the mean
has been written as that of differences before: :mod:`hwgen.models.onnx.forms`.)  What is not of
these forms stays what it is written in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from hwgen.models.onnx.nodes import WEIGHTED, attributes

__all__ = ["NormPattern", "find_norms", "normalised_tensors"]

MOVES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Ops through which what is normalised came."""
POSITIVE = {"Abs", "Clip", "Max", "Relu"}
"""Ops that guard a variance against rounding below 0."""


@dataclass(frozen=True)
class NormPattern:
    """A tensor divided by the root of its mean square, or variance, along an axis.

    Members
    -------
    x, out : what is normalised, and the result, whose other axes are in the same order
    axis, out_axis : along which, in either, counted from the front
    epsilon : what is added to the mean square
    centred : whether the mean is subtracted
    absorbed : tensors in between
    """

    x: str
    out: str
    axis: int
    out_axis: int
    epsilon: float
    centred: bool
    absorbed: frozenset[str]


def find_norms(
    nodes: Iterable[onnx.NodeProto], constants: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]], kept: Iterable[str],
) -> dict[str, NormPattern]:
    """Every normalisation along one axis, by its result.

    Parameters
    ----------
    nodes, constants, shapes : the network's
    kept : tensors that must stay: outputs, and those with codes of their own
    """
    search = _Search(list(nodes), constants, shapes, set(kept))
    found = {}
    for node in search.nodes:
        if node.op_type in ("Div", "Mul"):
            pattern = search.at(node)
            if pattern is not None:
                found[pattern.out] = pattern
    return found


def normalised_tensors(
    patterns: Iterable[NormPattern], nodes: Iterable[onnx.NodeProto], fixed: Iterable[str]
) -> set[str]:
    """Tensors that are normalised, which blows their rounding up, so they should be fine.

    What a layer with weights reads as well is left out, and what is ``fixed``.
    """
    makers: dict[str, onnx.NodeProto] = {}
    read: set[str] = set()
    for node in nodes:
        makers.update(dict.fromkeys(node.output, node))
        if node.op_type in WEIGHTED:
            read.update(node.input)
    found: set[str] = set()
    for pattern in patterns:
        names, name = {pattern.x}, pattern.x
        while name in makers and makers[name].op_type in MOVES:
            name = makers[name].input[0]
            names.add(name)
        if read.isdisjoint(names):
            found |= names
    return found.difference(fixed)


class _Search:
    """Walks from quotients back to what is normalised."""

    def __init__(
        self, nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]], kept: set[str],
    ) -> None:
        self.nodes, self.constants, self.shapes, self.kept = nodes, constants, shapes, kept
        self.makers = {out: node for node in nodes for out in node.output}
        self.readers: dict[str, set[str]] = {}
        for node in nodes:
            for name in node.input:
                self.readers.setdefault(name, set()).add(node.output[0])

    def at(self, node: onnx.NodeProto) -> NormPattern | None:
        """The normalisation that a quotient or a product with a reciprocal ends, if it is one."""
        sides = [(node.input[0], node.input[1])]
        if node.op_type == "Mul":
            sides.append((node.input[1], node.input[0]))
        for above, below in sides:
            inside: set[str] = set()
            power = self._root(below, node.op_type == "Mul", inside)
            found = self._mean_square(power, above, inside) if power is not None else None
            if power is None or found is None:
                continue
            x, centred, axis = found
            if centred:
                inside.add(above)
            inside -= {x}
            shape = list(self.shapes[node.output[0]])
            own = self._axis(above, axis) if centred else axis
            if shape.pop(axis) < 2 or own is None:
                continue
            shape.insert(own, self.shapes[above][axis])
            if self.shapes.get(x) != tuple(shape):
                continue
            whole = {*inside, node.output[0]}
            if inside & self.kept or any(not self.readers.get(i, set()) <= whole for i in inside):
                continue
            return NormPattern(
                x, node.output[0], own, axis, self.epsilon, centred, frozenset(inside))
        return None

    def _axis(self, name: str, axis: int) -> int | None:
        """An axis of what a tensor is a transposition of, if other axes keep their order."""
        node = self._maker(name, "Transpose")
        if node is None:
            return axis
        perm = attributes(node).get("perm", ())
        others = [a for a in perm if a != perm[axis]]
        return perm[axis] if others == sorted(others) else None

    def _maker(self, name: str, *kinds: str) -> onnx.NodeProto | None:
        node = self.makers.get(name)
        return node if node is not None and node.op_type in kinds else None

    def _number(self, name: str) -> float | None:
        """The value of a constant that is a number."""
        value = self.constants.get(name)
        return float(value.reshape(())) if value is not None and value.size == 1 else None

    def _with_number(self, node: onnx.NodeProto) -> tuple[str, float] | None:
        """Of two operands, the one that is a stream, and the other, a number."""
        for live, fixed in (node.input[:2], node.input[1::-1]):
            value = self._number(fixed)
            if value is not None and live not in self.constants:
                return live, value
        return None

    def _root(self, name: str, reciprocal: bool, inside: set[str]) -> str | None:
        """What ``name`` is the root of, or the reciprocal root, plus epsilon, which is noted."""
        inside.add(name)
        node = self._maker(name, "Pow")
        if node is not None:
            exponent = self._number(node.input[1])
            if exponent != (-0.5 if reciprocal else 0.5):
                return None
            return self._shifted(node.input[0], inside)
        if reciprocal:
            node = self._maker(name, "Reciprocal", "Div")
            if node is None or (node.op_type == "Div" and self._number(node.input[0]) != 1):
                return None
            name = node.input[-1]
            inside.add(name)
        node = self._maker(name, "Sqrt")
        return None if node is None else self._shifted(node.input[0], inside)

    def _shifted(self, name: str, inside: set[str]) -> str | None:
        """A mean square without epsilon."""
        self.epsilon = 0.0
        inside.add(name)
        node = self._maker(name, "Add")
        if node is not None:
            pair = self._with_number(node)
            if pair is None or pair[1] < 0:
                return None
            name, self.epsilon = pair
            inside.add(name)
        return name

    def _mean(self, name: str, inside: set[str]) -> tuple[str, int] | None:
        """What a tensor is the mean of along one axis, and the axis."""
        node = self._maker(name, "ReduceMean")
        if node is None or not attributes(node).get("keepdims", 1):
            return None
        axes = attributes(node).get("axes")
        if axes is None and len(node.input) > 1 and node.input[1] in self.constants:
            axes = self.constants[node.input[1]].tolist()
        if axes is None or len(axes) != 1:
            return None
        axis = axes[0] % len(self.shapes[node.input[0]])
        inside.add(name)
        return (node.input[0], axis) if axis else None

    def _squared(self, name: str, inside: set[str]) -> str | None:
        """What a tensor is the square of."""
        node = self._maker(name, "Mul", "Pow")
        if node is None or (node.input[0] != node.input[1] if node.op_type == "Mul"
                            else self._number(node.input[1]) != 2):
            return None
        inside.add(name)
        return node.input[0]

    def _difference(self, name: str, inside: set[str]) -> tuple[str, int] | None:
        """What a tensor is the difference of from its own mean along an axis, and the axis."""
        node = self._maker(name, "Transpose")
        if node is not None:
            # An axis is that of the transposed tensor.
            found, perm = self._difference(node.input[0], inside), attributes(node).get("perm", ())
            if found is not None:
                inside.add(name)
            return None if found is None else (found[0], perm.index(found[1]))
        node = self._maker(name, "Sub")
        mean = None if node is None else self._mean(node.input[1], inside)
        if node is None or mean is None or mean[0] != node.input[0]:
            return None
        inside.add(name)
        return mean

    def _mean_square(
        self, power: str, above: str, inside: set[str]
    ) -> tuple[str, bool, int] | None:
        """What is normalised, whether the mean is subtracted, and the axis.

        Parameters
        ----------
        power : the mean square or variance
        above : what is divided by its root
        """
        centred = self._difference(above, inside)
        guard = self._maker(power, *POSITIVE)
        if guard is not None:
            power = guard.input[0] if guard.input[0] not in self.constants else guard.input[1]
            inside.add(power)
        mean = self._mean(power, inside)
        base = None if mean is None else self._squared(mean[0], inside)
        if mean is None or base is None:
            return None
        _, axis = mean
        if centred is None:
            return (base, False, axis) if base == above else None
        if base == above or self._difference(base, inside) == centred:
            return (centred[0], True, axis) if centred[1] == axis else None
        return None
