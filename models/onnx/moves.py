"""Ops that move data, moved out of the way: what belongs to a layer stands right behind it.

TensorFlow and Keras keep channels last and convolve in two dimensions, so their exporters write
Transpose, Squeeze, Unsqueeze and Reshape between a layer and its bias, its normalisation and its
activation.  These compute the same in front of such a move, and are part of the layer there.  A
fully connected layer for each pixel comes as a product of rows that are all pixels of the batch.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.models.onnx.nodes import WEIGHTED, attributes
from hwgen.models.onnx.order import sort_nodes

__all__ = ["settle_moves"]

MOVES = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
CARRIED = {
    "Add", "Celu", "Clip", "Div", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul",
    "PRelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sub", "Tanh",
}
"""Ops of one stream, element by element, that are carried to the front of a move."""


def settle_moves(model: onnx.ModelProto, kept: Collection[str]) -> None:
    """Carry element-wise ops behind a layer to the front of what moves its results, in place.

    Parameters
    ----------
    model : with constants folded and shapes inferred
    kept : tensors, apart from outputs, that stay as they are
    """
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        # Names are those of other graphs too.
        return
    if _Settler(model, {*kept, *(value.name for value in model.graph.output)}).run():
        sort_nodes(model)


class _Settler:
    """Changes the nodes of a model in place; the order of nodes is seen to at the end."""

    def __init__(self, model: onnx.ModelProto, kept: set[str]) -> None:
        self.graph, self.kept = model.graph, kept
        self.constants = {c.name: numpy_helper.to_array(c) for c in self.graph.initializer}
        self.shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in (
            *self.graph.input, *self.graph.value_info, *self.graph.output)}
        self.makers = {out: node for node in self.graph.node for out in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in filter(None, node.input):
                self.readers.setdefault(name, []).append(node)
        self.changed: set[str] = set()

    def run(self) -> bool:
        """Whether anything changed."""
        # Tensors that come from a layer, by ops that are carried and moves alone.
        layers: set[str] = set()
        for node in list(self.graph.node):
            if node.op_type == "MatMul":
                self._each_pixel(node)
            if node.op_type in CARRIED and layers.intersection(node.input):
                while self._carry(node):
                    pass
            if node.op_type in WEIGHTED or (
                    node.op_type in CARRIED | MOVES and layers.intersection(node.input)):
                layers.update(node.output)
                layers.update(out for each in self.readers.get(node.output[0], ())
                              if each.op_type in MOVES for out in each.output)
        self._state_shapes()
        return bool(self.changed)

    def _carry(self, node: onnx.NodeProto) -> bool:
        """Carry an op to the front of the move in front of it; returns whether that was done."""
        live = [name for name in node.input if name and name not in self.constants]
        move = self.makers.get(live[0]) if len(live) == 1 else None
        if move is None or move.op_type not in MOVES or move.input[0] in self.constants:
            return False
        moved, out, source = move.output[0], node.output[0], move.input[0]
        if (moved in self.kept or self.kept.intersection(node.input) or len(node.output) > 1
                or len(self.readers[moved]) > 1 or self.shapes.get(moved) != self.shapes.get(out)
                or source not in self.shapes or moved not in self.shapes):
            return False
        others = {name: _in_front(self.constants[name], move, self.shapes[source],
                                  self.shapes[moved]) for name in node.input
                  if name in self.constants}
        if any(value is None for value in others.values()):
            return False
        # The op keeps its tensor's name; what is moved gets another one, unless it is an output.
        front, behind = out, out
        if out in self.kept:
            front = self._fresh(f"{out}.front")
        else:
            behind = self._fresh(f"{out}.moved")
        node.input[:] = [
            source if name == moved else self._constant(name, others[name]) if name else ""
            for name in node.input]
        node.output[0], move.input[0], move.output[0] = front, front, behind
        for reader in self.readers.get(out, ()):
            reader.input[:] = [behind if name == out else name for name in reader.input]
        self.readers[behind] = self.readers.pop(out, [])
        self.readers[front] = [move]
        self.readers[source] = [node if each is move else each for each in self.readers[source]]
        self.makers |= {front: node, behind: move}
        self.shapes |= {behind: self.shapes[out], front: self.shapes[source]}
        self.changed |= {front, behind}
        return True

    def _fresh(self, name: str) -> str:
        """A name that no tensor has."""
        taken, unique, k = {*self.makers, *self.constants, *self.shapes}, name, 1
        while unique in taken:
            k += 1
            unique = f"{name}.{k}"
        return unique

    def _constant(self, name: str, value: np.ndarray) -> str:
        """The name of a constant in another shape."""
        if value.shape == self.constants[name].shape:
            return name
        new = f"{name}.{'x'.join(map(str, value.shape))}"
        if new not in self.constants:
            self.graph.initializer.append(numpy_helper.from_array(value, new))
            self.constants[new] = value
        return new

    def _each_pixel(self, node: onnx.NodeProto) -> None:
        """Let a product of the pixels as rows be one of the pixels where they are."""
        rows, out = self.makers.get(node.input[0]), node.output[0]
        if rows is None or rows.op_type != "Reshape" or node.input[1] not in self.constants:
            return
        whole = self.shapes.get(rows.input[0], ())
        have, behind = self.shapes.get(rows.output[0], ()), self.readers.get(out, [])
        if (len(whole) < 3 or whole[0] != 1 or len(have) != 2 or have[0] == 1
                or have[1] != whole[-1] or {rows.output[0], out} & self.kept
                or len(self.readers[rows.output[0]]) > 1
                or any(each.op_type != "Reshape" or each.input[1] not in self.constants
                       or not self.constants[each.input[1]].all()
                       or self.shapes.get(each.output[0], (0,))[0] != 1 for each in behind)):
            return
        node.input[0] = rows.input[0]
        self.readers[rows.input[0]] = [
            node if each is rows else each for each in self.readers[rows.input[0]]]
        self.graph.node.remove(rows)
        self.shapes[out] = (*whole[:-1], self.shapes[out][-1])
        self.changed.add(out)

    def _state_shapes(self) -> None:
        """State the shapes of what changed."""
        stated = [v for v in self.graph.value_info if v.name not in self.changed]
        outputs = {value.name for value in self.graph.output}
        del self.graph.value_info[:]
        self.graph.value_info.extend(stated)
        self.graph.value_info.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, self.shapes[name])
            for name in sorted(self.changed - outputs))


def _in_front(
    value: np.ndarray, move: onnx.NodeProto, source: tuple[int, ...], moved: tuple[int, ...]
) -> np.ndarray | None:
    """A constant that meets what is moved, for what it is moved from; None if there is none."""
    if value.size == 1:
        return value.reshape(())
    if value.ndim > len(moved):
        return None
    full = value.reshape((1,) * (len(moved) - value.ndim) + value.shape)
    if move.op_type == "Transpose":
        perm = attributes(move).get("perm", tuple(range(len(moved)))[::-1])
        return full.transpose(np.argsort(perm))
    if [n for n in source if n > 1] == [n for n in moved if n > 1]:
        left = iter(n for n, extent in zip(full.shape, moved, strict=True) if extent > 1)
        return full.reshape([next(left) if extent > 1 else 1 for extent in source])
    if source[-1] == moved[-1] == full.shape[-1] == full.size:
        return full.reshape((1,) * (len(source) - 1) + full.shape[-1:])
    return None
