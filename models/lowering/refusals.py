"""What is said of a node that cannot be lowered: why, and what may be done about it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

import onnx

from hwgen.errors import HwgenError
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import ELEMENTWISE, WEIGHTED, reads

__all__ = ["refuse_control", "unsupported", "way_out"]

CONTROL = {"If", "Loop", "Scan"}
SEQUENCES = {
    "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt",
    "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength",
    "SequenceMap", "SplitToSequence",
}


def refuse_control(network: Network) -> None:
    """Refuse nodes that choose what to compute, repeat it, or hold lists of tensors.

    Raises
    ------
    :exc:`HwgenError`
        For the first of them; it is named.
    """
    for node in network.nodes:
        if node.op_type in CONTROL:
            why = ("it decides while running what is computed, or how often, but an accelerator "
                   "does the same for every frame: export with fixed shapes, so that it is "
                   "decided then, and with loops unrolled")
        elif node.op_type in SEQUENCES:
            why = ("it holds lists of tensors, which no stream is: export with Split and Concat "
                   "in place of them")
        else:
            continue
        raise HwgenError(f"Node {node.name or node.output[0]!r} ({node.op_type}): {why}"
                         f"{way_out(network, node)}")

CAUSES = {
    "Cast":
        "a Cast that changes the values of several streams, or of a tensor of another shape, is "
        "not supported: export in floats",
    "Dropout":
        "a Dropout in training draws at random, and its mask is not supported: export in "
        "inference mode (model.eval())",
    "LayerNormalization":
        "its outputs Mean and InvStdDev are not supported: take them with ReduceMean, and with "
        "ReduceSumSquare of the difference",
    "LogSoftmax":
        "a LogSoftmax in front of other layers is not supported, only behind the last one",
    "Mod":
        "remainders are not supported, but for those of one stream by a scalar constant: write "
        "a - b * Floor(a / b)",
    "Pow":
        "powers whose exponents are a stream, or differ from element to element, are not "
        "supported: only one scalar exponent is, in a table",
}
"""Ops that are supported in some forms, to why others are not."""


def unsupported(network: Network, node: onnx.NodeProto, supported: Collection[str]) -> str:
    """Why there is no handler for a node, given the ops that are supported."""
    if node.op_type in CAUSES:
        return CAUSES[node.op_type]
    if node.op_type not in ELEMENTWISE:
        near = difflib.get_close_matches(node.op_type, supported, 3, 0.8)
        like = f"{' and '.join(map(repr, near))} would be; " if near else ""
        return (f"op {node.op_type!r} is not supported here; {like}docs/conformance.md lists "
                f"what is")
    live = [i for i in node.input if i and i not in network.constants]
    if len(live) > 1:
        return (f"{node.op_type} of several streams ({', '.join(map(repr, live))}) is not "
                f"supported, only of one stream and scalar constants")
    return (f"{node.op_type} with a constant that is no scalar, or that changes the shape, is "
            f"not supported")


def way_out(network: Network, node: onnx.NodeProto) -> str:
    """What to do if a node behind the last weights cannot be computed; empty in front of them."""
    behind = _behind(network, node)
    if any(n.op_type in WEIGHTED for n in behind):
        return ""
    made = {out for n in behind for out in n.output}
    ends = list(dict.fromkeys((
        *(t for t in network.outputs if t not in made),
        *(i for n in behind for i in reads(n) if i not in made and i not in network.constants),
    )))
    if set(ends) & set(network.inputs):
        return ""
    return (f"; it is behind the last weights, so it can be left to the host: choose the outputs "
            f"{','.join(ends)}")


def _behind(network: Network, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A node and all that depend on it, in topological order."""
    behind, made = [node], set(node.output)
    for other in network.nodes:
        if other is not node and made.intersection(reads(other)):
            behind.append(other)
            made.update(other.output)
    return behind
