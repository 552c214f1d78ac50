"""Which nodes of a file are the accelerator's, and which are left to the host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import WEIGHTED, reads
from hwgen.models.onnx.recurrent import CELLS

__all__ = ["Division", "Host", "divide", "divide_at"]

BEGINS = {
    "Flatten", "LogSoftmax", "NonMaxSuppression", "Reshape", "Softmax", "Squeeze", "TopK",
    "Transpose", "Unsqueeze",
}
"""Ops at which the host's part may begin."""


MOVES = BEGINS | {
    "ArgMax", "ArgMin", "Cast", "Concat", "DepthToSpace", "Expand", "Gather", "GatherElements",
    "GatherND", "Hardmax", "Identity", "Slice", "SpaceToDepth", "Split", "Tile",
}
"""Ops that only move, choose or rank, and may follow on the host."""


@dataclass(frozen=True)
class Host:
    """The host's part of a network.

    Members
    -------
    nodes : in topological order; they read outputs of the accelerator, and constants
    outputs : of the file, with types and shapes
    kinds : ONNX element types of the accelerator's outputs, where they are not float
    typed : outputs of the file that are not float32, to the node that makes them of such: a
        QuantizeLinear or a Cast
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    kinds: dict[str, int] = field(default_factory=dict)
    typed: dict[str, onnx.NodeProto] = field(default_factory=dict)


@dataclass(frozen=True)
class Division:
    """Which nodes the accelerator computes, and which are the host's.

    Members
    -------
    kept, host : nodes in topological order
    outputs : tensors at which the accelerator ends
    """

    kept: list[onnx.NodeProto]
    host: list[onnx.NodeProto]
    outputs: list[str]


DECODES = {"Softmax", "LogSoftmax", "NonMaxSuppression", "TopK"}
"""Ops that make the decoding of a detector's boxes, and what is beside it, the host's work."""
EXPECTATION = 256
"""Most weights of a layer behind a Softmax, with one output, that is part of such a decoding."""


def divide(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> Division:
    """Leave to the host what only moves, chooses or ranks data behind the last weights.

    The host's part begins at one of :data:`BEGINS`, if all nodes that follow are :data:`MOVES`;
    unless it is asked to, the host computes nothing.  But where boxes are decoded there (one of
    :data:`DECODES`, such as the Softmax of distributed boxes and the small layer that takes its
    expectation; Li et al., "Generalized Focal Loss", 2020), all that follows is the host's.

    Parameters
    ----------
    nodes : in topological order
    constants : the constant tensors
    outputs : of the network
    """
    useful: set[str] = set()
    movable: set[str] = set()
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in reads(node):
            readers.setdefault(name, []).append(node)
    layers = _layers(nodes, constants)
    decoded = False
    for node in reversed(nodes):
        if node.output[0] in layers or any(out in useful for out in node.output):
            useful.update(node.input)
        elif node.op_type in DECODES:
            decoded = True
    behind = _turned(nodes)
    for node in reversed(nodes):
        if any(out in useful for out in node.output) or node.output[0] in layers | behind:
            continue
        if (decoded or node.op_type in MOVES) and all(
            reader.output[0] in movable for out in node.output for reader in readers.get(out, ())
        ):
            movable.add(node.output[0])
    known = set(constants)
    gone = _behind(nodes, known, movable)
    host = [n for n in nodes if n.output[0] in gone]
    kept = [n for n in nodes if n.output[0] not in gone]
    heads = [i for n in host for i in n.input if i and i not in gone and i not in known]
    ends = dict.fromkeys([*(o for o in outputs if o not in gone), *heads])
    return Division(kept, host, list(ends))


def _turned(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """What recurrent cells give, and that with the batch in front, as all other frames have it."""
    cells = {out for node in nodes if node.op_type in CELLS for out in node.output}
    turned = {node.output[0] for node in nodes
              if node.op_type == "Transpose" and node.input[0] in cells}
    return turned | {node.output[0] for node in nodes
                     if node.op_type == "Reshape" and node.input[0] in turned}


def _layers(nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> set[str]:
    """What layers with weights make, without the small ones behind a Softmax."""
    layers: set[str] = set()
    soft: set[str] = set()
    for node in nodes:
        if node.op_type == "Softmax" or any(name in soft for name in node.input):
            soft.update(node.output)
        if node.op_type in WEIGHTED:
            weights = [constants[i] for i in node.input if i in constants]
            expects = weights and all(
                w.size == max(w.shape, default=1) <= EXPECTATION for w in weights)
            if not (expects and soft.intersection(node.output)):
                layers.add(node.output[0])
    return layers


def _behind(
    nodes: Sequence[onnx.NodeProto], constants: set[str], movable: set[str]
) -> set[str]:
    """The movable tensors at which the host's part may begin, and all tensors behind them."""
    gone: set[str] = set()
    for node in nodes:
        live = any(i and i not in constants for i in node.input)
        if any(i in gone for i in node.input) or (
                live and node.op_type in BEGINS and node.output[0] in movable):
            gone.update(node.output)
    return gone


def divide_at(
    nodes: Sequence[onnx.NodeProto], constants: Iterable[str], inputs: Iterable[str],
    outputs: Sequence[str], chosen: Sequence[str],
) -> Division:
    """End the accelerator at tensors that the user chose, and leave all behind them to the host.

    Raises
    ------
    :exc:`HwgenError`
        If the host would need more than these tensors.
    """
    known, given = set(constants), set(inputs)
    wanted, ends, host = set(outputs), set(chosen), []
    for node in reversed(nodes):
        if any(o in wanted and o not in ends for o in node.output):
            host.append(node)
            wanted.update(i for i in reads(node) if i not in known)
    if missing := sorted((wanted & given) - ends):
        raise HwgenError(
            f"Outputs {', '.join(chosen)}: the file's outputs also depend on its input "
            f"{missing[0]!r} by another way: choose tensors through which everything goes"
        )
    host.reverse()
    wanted = set(chosen)
    kept = []
    for node in reversed(nodes):
        if any(o in wanted for o in node.output):
            kept.append(node)
            wanted.update(node.input)
    kept.reverse()
    return Division(kept, host, list(chosen))
