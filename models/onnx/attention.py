"""Attention as it stands in files: a softmax between two products of streams.

Exporters write the scale in front of the first product, on either operand or both, or behind it;
masks as constants that are added or chosen; and what guards against rows without any key.  From the
softmax the search goes back to the first product, and on to the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import WEIGHTED, attributes, opset

__all__ = ["AttentionPattern", "find_attention", "residual_tensors"]

HIDDEN = -1e4
"""What is added to the score of a key that shall not be seen is at most this."""
PASSES = {"Cast", "Dropout", "Identity"}


@dataclass(frozen=True)
class AttentionPattern:
    """A softmax between two products.

    Members
    -------
    q, k, v : tensors ``(…, tokens, d)``, ``(…, d, keys)`` and ``(…, keys, e)``
    out : the second product
    scale : of the scores
    causal : whether each token sees only keys up to its own
    absorbed : tensors in between
    """

    q: str
    k: str
    v: str
    out: str
    scale: float
    causal: bool
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
    found = {}
    for node in nodes:
        live = [i for i in node.input if i not in constants]
        if node.op_type != "MatMul" or len(live) != 2:
            continue
        softmax, absorbed = _back(node.input[0], makers, PASSES)
        if softmax is None or softmax.op_type != "Softmax":
            continue
        rank = len(shapes[softmax.input[0]])
        old = opset(model) < 13
        if attributes(softmax).get("axis", 1 if old else -1) % rank != rank - 1:
            continue
        search = _Search(makers, constants, shapes, {*absorbed, softmax.output[0]})
        first = search.scores(softmax.input[0])
        if first is None:
            continue
        q, k = (search.operand(name) for name in first.input)
        found[node.output[0]] = AttentionPattern(
            q, k, node.input[1], node.output[0], search.scale, search.causal,
            frozenset(search.absorbed))
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


def _back(
    name: str, makers: Mapping[str, onnx.NodeProto], passes: set[str]
) -> tuple[onnx.NodeProto | None, set[str]]:
    """The node that makes a tensor, behind ops that hand it on; and the tensors between."""
    between: set[str] = set()
    node = makers.get(name)
    while node is not None and node.op_type in passes:
        between.update(node.output)
        node = makers.get(node.input[0])
    return node, between


class _Search:
    """Walks from a softmax back to the first product.

    Members
    -------
    scale, causal : found on the way
    absorbed : tensors on the way
    """

    def __init__(
        self, makers: Mapping[str, onnx.NodeProto], constants: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]], absorbed: set[str],
    ) -> None:
        self.makers, self.constants, self.shapes = makers, constants, shapes
        self.absorbed, self.scale, self.causal = absorbed, 1.0, False

    def scores(self, name: str) -> onnx.NodeProto | None:
        """The first product; None if there is none."""
        while (node := self.makers.get(name)) is not None:
            self.absorbed.update(node.output)
            live = [i for i in node.input if i and i not in self.constants]
            if node.op_type == "MatMul":
                return node if len(live) == 2 else None
            if len(live) != 1:
                return None
            fixed = [self.constants[i] for i in node.input if i in self.constants]
            if node.op_type in ("Mul", "Div") and fixed[0].size == 1 and (
                    node.op_type == "Mul" or node.input[0] == live[0]):
                self._scaled(node.op_type, float(fixed[0].reshape(())))
            elif node.op_type == "Add":
                self._masked(node, fixed[0] > HIDDEN, fixed[0] == 0)
            elif node.op_type == "Where" and node.input[0] in self.constants:
                seen = self.constants[node.input[0]].astype(bool)
                if live[0] == node.input[2]:
                    seen = ~seen
                self._masked(node, seen, np.ones(1, bool))
            elif node.op_type not in PASSES:
                return None
            name = live[0]
        return None

    def operand(self, name: str) -> str:
        """An operand of the first product, without a scale of its own."""
        while (node := self.makers.get(name)) is not None and node.op_type in ("Mul", "Div"):
            live = [i for i in node.input if i not in self.constants]
            fixed = [self.constants[i] for i in node.input if i in self.constants]
            if len(live) != 1 or fixed[0].size != 1 or (
                    node.op_type == "Div" and node.input[0] != live[0]):
                break
            self._scaled(node.op_type, float(fixed[0].reshape(())))
            name = live[0]
        return name

    def _scaled(self, kind: str, value: float) -> None:
        self.scale = self.scale * value if kind == "Mul" else self.scale / value

    def _masked(self, node: onnx.NodeProto, seen: np.ndarray, plain: np.ndarray) -> None:
        """A mask of constants, which is causal or hides nothing."""
        queries, keys = self.shapes[node.output[0]][-2:]
        where = np.broadcast_to(seen, np.broadcast_shapes(seen.shape, (queries, keys)))
        causal = np.tri(queries, keys, keys - queries, dtype=bool)
        if not (plain | ~seen).all():
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({node.op_type}): a bias that is added to "
                f"the scores of an attention is not supported yet, only masks that hide keys")
        if where.all():
            return
        if not (where == causal).all():
            raise HwgenError(
                f"Node {node.name or node.output[0]!r} ({node.op_type}): a mask of attention that "
                f"is not causal is not supported yet")
        self.causal = True
