"""Attention as it stands in files: a softmax between two products of streams.

Exporters write the scale in front of the first product, on either operand or both, or behind it;
biases and masks as constants that are added or chosen; moves of axes in between, as windows need
them; and what guards against rows without any key.  From the second product the search goes back
to the softmax, and on to the first product.  Then what stands between is carried out on numbers,
which say by what the scores are multiplied, what is added to each, and which is which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import WEIGHTED, attributes, opset

__all__ = [
    "CHANGES", "MOVES", "PASSES", "AttentionPattern", "Operand", "find_attention",
    "residual_tensors", "score_tensors",
]

PASSES = {"Cast", "Dropout", "Identity"}
MOVES = {"Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Ops that only move scores."""
CHANGES = {"Add", "Div", "Mul", "Sub", "Where"}
"""Ops that multiply scores by a constant, add one, or hide some."""
PARTS = {"Concat", "Expand", "Gather", "Pad", "Slice", "Split"}
"""Ops that take parts of tensors, or put them together."""
HIDES = -1e4
"""What takes the place of scores of keys that shall not be seen is at most this."""
LARGEST = 1 << 26
"""Most scores of an attention."""


@dataclass(frozen=True)
class Operand:
    """Queries, keys or values.

    Members
    -------
    name : tensor ``(*groups, tokens, d)``
    turned : whether it is ``(*groups, d, tokens)``
    order : which of its groups, repeated to those of the product that reads it, each group takes
    """

    name: str
    turned: bool
    extents: tuple[int, ...]
    order: np.ndarray


@dataclass(frozen=True)
class AttentionPattern:
    """A softmax between two products; a *group* is a head, or one of a window.

    Members
    -------
    q, k, v : operands
    out : the second product, ``(*groups, queries, e)``
    turned : whether it is ``(*groups, e, queries)``
    scale : of the scores, shape ``(groups,)``, positive
    bias : what is added to them, shape ``(groups, queries, keys)``; None if nothing is
    absorbed : tensors in between
    """

    q: Operand
    k: Operand
    v: Operand
    out: str
    turned: bool
    scale: np.ndarray
    bias: np.ndarray | None
    absorbed: frozenset[str]


def find_attention(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, AttentionPattern]:
    """Every attention of a network, by its second product.

    Raises
    ------
    :exc:`HwgenError`
        If what stands between the products is none of the known forms; the node is named.
    """
    makers = {out: node for node in nodes for out in node.output}
    readers = Counter(name for node in nodes for name in node.input)
    found = {}
    for node in nodes:
        if node.op_type != "MatMul" or not constants.keys().isdisjoint(node.input):
            continue
        for side in (0, 1):
            search = _Search(makers, readers, constants, shapes, opset(model))
            pattern = search.pattern(node, side)
            if pattern is not None:
                found[node.output[0]] = pattern
                break
    return found


def residual_tensors(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
) -> set[str]:
    """Sums of two streams, and what is added to them from further back, of a transformer.

    Their errors add up from layer to layer, and a normalisation of a token blows them up: they
    should be finer than other tensors.  What a layer with weights reads itself is left out.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    sums = [node for node in nodes if node.op_type == "Add" and len(
        {shapes.get(i) for i in node.input}) == 1 and constants.keys().isdisjoint(node.input)]
    skips = {i for node in sums for i in node.input if len(readers[i]) > 1}
    return {name for name in {*skips, *(node.output[0] for node in sums)}
            if not any(node.op_type in WEIGHTED for node in readers.get(name, ()))}


def score_tensors(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], absorbed: Collection[str],
) -> set[str]:
    """What a softmax outside of attention reads, and what that is the sum of.

    An exponential blows rounding up, so they should be finer than other tensors.  What a layer
    with weights reads as well is left out.
    """
    makers = {out: node for node in nodes for out in node.output}
    weighted = {name for node in nodes if node.op_type in WEIGHTED for name in node.input}
    found: set[str] = set()
    open_ = [node.input[0] for node in nodes
             if node.op_type == "Softmax" and node.output[0] not in absorbed]
    while open_:
        name = open_.pop()
        node = makers.get(name)
        if node is None or name in found or name in weighted:
            continue
        found.add(name)
        if node.op_type in PASSES | MOVES | CHANGES | PARTS:
            open_ += [i for i in node.input if i and i not in constants]
    return found


@dataclass
class _Scores:
    """What becomes of the scores on their way, each of the shape that the scores have then.

    Members
    -------
    scale, bias : what scores of the first product are multiplied by, and what is added
    which : which score of the first product it is
    row : number of what it is normalised with
    """

    scale: np.ndarray
    bias: np.ndarray
    which: np.ndarray
    row: np.ndarray | None = None

    @property
    def parts(self) -> dict[str, np.ndarray]:
        every = {"scale": self.scale, "bias": self.bias, "which": self.which, "row": self.row}
        return {name: value for name, value in every.items() if value is not None}

    def moved(self, move) -> _Scores:
        """All of it moved."""
        return _Scores(**{name: move(value) for name, value in self.parts.items()})


@dataclass
class _Search:
    """Looks for a softmax in front of a product, and for the product in front of that.

    Members
    -------
    makers, readers, constants, shapes, version : of the network
    absorbed : tensors on the way
    """

    makers: Mapping[str, onnx.NodeProto]
    readers: Counter[str]
    constants: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    version: int
    absorbed: set[str] = field(default_factory=set)

    def pattern(self, second: onnx.NodeProto, side: int) -> AttentionPattern | None:
        """The attention whose probabilities are an operand of a product, if they are."""
        behind, softmax = self._back(second.input[side], "Softmax", PASSES | MOVES)
        if softmax is None:
            return None
        between, first = self._back(softmax.input[0], "MatMul", PASSES | MOVES | CHANGES)
        if first is None:
            return None
        shape = self.shapes[first.output[0]]
        if np.prod(shape) > LARGEST or len(shape) < 3:
            return None
        scores = _Scores(np.ones(shape), np.zeros(shape), np.arange(np.prod(shape)).reshape(shape))
        for node in between:
            scores = self._step(node, scores)
        rows = self._rows(softmax, scores.scale.shape)
        if rows is None:
            return None
        scores.row = rows
        for node in behind:
            scores = self._step(node, scores)
        if side == 1:
            scores = scores.moved(lambda x: x.swapaxes(-1, -2))
        return self._pattern(first, second, side, scores)

    def _back(
        self, name: str, kind: str, through: set[str]
    ) -> tuple[list[onnx.NodeProto], onnx.NodeProto | None]:
        """The node of a kind that makes a tensor by way of some ops, and these, first to last."""
        path: list[onnx.NodeProto] = []
        while (node := self.makers.get(name)) is not None:
            self.absorbed.update(node.output)
            if node.op_type == kind:
                live = [i for i in node.input if i not in self.constants]
                whole = kind != "MatMul" or len(live) == 2
                return path[::-1], node if whole else None
            guarded = self._guarded(node)
            live = [i for i in node.input if i and i not in self.constants]
            if guarded is not None:
                name = guarded
                continue
            if node.op_type not in through or len(live) != 1 or (
                    node.op_type == "Div" and node.input[0] != live[0]) or (
                    node.op_type == "Where" and node.input[0] == live[0]):
                break
            path.append(node)
            name = live[0]
        return [], None

    def _guarded(self, node: onnx.NodeProto) -> str | None:
        """What a Where hands on if it only replaces NaN, which rows without any key would have."""
        if node.op_type != "Where" or node.input[1] not in self.constants:
            return None
        asks, data = self.makers.get(node.input[0]), node.input[2]
        if asks is None or asks.op_type != "IsNaN" or asks.input[0] != data:
            return None
        self.absorbed.update(asks.output)
        return data

    def _step(self, node: onnx.NodeProto, scores: _Scores) -> _Scores:
        """The scores behind a node that they go through."""
        kind = node.op_type
        shape = self.shapes[node.output[0]]
        if kind in PASSES:
            return scores
        if kind == "Transpose":
            perm = attributes(node).get("perm", tuple(range(len(shape)))[::-1])
            return scores.moved(lambda x: x.transpose(perm))
        if kind in MOVES:
            return scores.moved(lambda x: x.reshape(shape))
        if shape != scores.scale.shape:
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({kind}): a constant that repeats the "
                f"scores of an attention is not supported")
        (fixed,) = [self.constants[i] for i in node.input[-2:] if i in self.constants]
        fixed = np.broadcast_to(np.asarray(fixed, np.float64), shape)
        with np.errstate(invalid="ignore", divide="ignore"):
            if kind == "Where":
                return self._chosen(node, scores, fixed)
            if kind == "Mul":
                scores.scale, scores.bias = scores.scale * fixed, scores.bias * fixed
            elif kind == "Div":
                scores.scale, scores.bias = scores.scale / fixed, scores.bias / fixed
            elif kind == "Add":
                scores.bias = scores.bias + fixed
            elif node.input[1] in self.constants:
                scores.bias = scores.bias - fixed
            else:
                scores.scale, scores.bias = -scores.scale, fixed - scores.bias
        return scores

    def _chosen(self, node: onnx.NodeProto, scores: _Scores, fixed: np.ndarray) -> _Scores:
        """Scores that a constant takes the place of, so that their keys are hidden."""
        seen = np.broadcast_to(self.constants[node.input[0]].astype(bool), fixed.shape)
        if node.input[1] in self.constants:
            seen = ~seen
        if (fixed[~seen] > HIDES).any():
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} (Where): a constant in the place of scores "
                f"of an attention is supported if it hides their keys, {HIDES:g} or less")
        scores.bias = np.where(seen, scores.bias, -np.inf)
        return scores

    def _rows(self, softmax: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray | None:
        """Per score, a number of what it is normalised with."""
        rank, old = len(shape), self.version < 13
        axis = attributes(softmax).get("axis", 1 if old else -1) % rank
        if old and axis != rank - 1:
            return None
        others = [1 if k == axis else n for k, n in enumerate(shape)]
        return np.broadcast_to(np.arange(np.prod(others)).reshape(others), shape)

    def _pattern(
        self, first: onnx.NodeProto, second: onnx.NodeProto, side: int, scores: _Scores
    ) -> AttentionPattern | None:
        """The attention of two products and the scores between them, ``(*groups, Q, K)``."""
        *groups, queries, keys = scores.scale.shape
        *extents, rows, columns = self.shapes[first.output[0]]
        *outer, _, _ = self.shapes[second.output[0]]
        assert scores.row is not None
        row = scores.row.reshape(-1, keys)
        # All that is normalised together must be summed up together.
        if (row != row[:, :1]).any() or len(np.unique(row[:, 0])) != len(row) or (
                np.prod(groups) != np.prod(outer)):
            return None
        which = scores.which.reshape(-1, queries, keys)
        order, within = np.divmod(which, rows * columns)
        if (order != order[:, :1, :1]).any():
            return None
        plain = np.arange(rows * columns).reshape(rows, columns)
        if plain.shape == (queries, keys) and (within == plain).all():
            swapped = False
        elif plain.T.shape == (queries, keys) and (within == plain.T).all():
            swapped = True
        else:
            return None
        taken, by = order[:, 0, 0], tuple(extents)
        left, right = (self._operand(first.input[k], bool(k), by, taken, scores) for k in (0, 1))
        q, k = (right, left) if swapped else (left, right)
        q = Operand(q.name, swapped, q.extents, q.order)
        k = Operand(k.name, not swapped, k.extents, k.order)
        scale = scores.scale.reshape(len(taken), -1)
        if (scale != scale[:, :1]).any() or (scale <= 0).any():
            raise HwgenError(
                f"Node {first.name or first.output[0]!r} (MatMul): the scores of an attention are "
                f"multiplied by constants that differ within a head, or are not positive")
        bias = scores.bias.reshape(-1, queries, keys)
        every = tuple(outer)
        v = Operand(second.input[1 - side], side == 1, every, np.arange(len(taken)))
        return AttentionPattern(
            q, k, v, second.output[0], side == 1, scale[:, 0], bias if bias.any() else None,
            frozenset(self.absorbed))

    def _operand(
        self, name: str, right: bool, extents: tuple[int, ...], order: np.ndarray, scores: _Scores
    ) -> Operand:
        """An operand of the first product, without scales of its own, which go to the scores."""
        while (node := self.makers.get(name)) is not None and node.op_type in ("Mul", "Div"):
            live = [i for i in node.input if i not in self.constants]
            fixed = [self.constants[i] for i in node.input if i in self.constants]
            if len(live) != 1 or self.shapes[live[0]] != self.shapes[node.output[0]] or (
                    node.op_type == "Div" and node.input[0] != live[0]) or (
                    any(n != 1 for n in fixed[0].shape[-2:])):
                break
            factor = np.asarray(fixed[0], np.float64)
            factor = factor.reshape(factor.shape[:-2])
            shape = np.broadcast_shapes(factor.shape, self.shapes[name][:-2])
            factor = np.broadcast_to(np.broadcast_to(factor, shape), extents).ravel()[order]
            factor = factor.reshape(*scores.scale.shape[:-2], 1, 1)
            if self.readers[name] == 1:
                self.absorbed.add(name)
            scores.scale = scores.scale * factor if node.op_type == "Mul" else (
                scores.scale / factor)
            name = live[0]
        return Operand(name, right, extents, order)
