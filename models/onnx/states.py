"""States that recurrent cells keep from frame to frame: on the device, not as inputs and outputs.

A file for streams takes the states of its cells as inputs (``initial_h``, ``initial_c``) and gives
them as outputs (``Y_h``, ``Y_c``), perhaps of several layers joined.  Where the device keeps them,
neither is there: the first frame behind a reset begins with zeros.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import reads
from hwgen.models.onnx.recurrent import CELLS

__all__ = ["keep_states"]

MOVES = {"Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
         "Unsqueeze"}
"""Ops that only move states."""
STATES = (5, 6)
"""Inputs of a cell that are states."""


def keep_states(model: onnx.ModelProto, name: str, keep: bool) -> None:
    """Take states out of the inputs and outputs, in place.

    Parameters
    ----------
    model : its cells as in the file
    name : what errors call it
    keep : whether the device keeps states from frame to frame

    Raises
    ------
    :exc:`HwgenError`
        If an input is a state and ``keep`` is False, or if states cannot be kept.
    """
    graph = model.graph
    cells = [node for node in graph.node if node.op_type in CELLS]
    if keep and not cells:
        raise HwgenError(f"{name} has no recurrent cell, whose state could be kept: leave out "
                         f"--keep-state")
    constants = {c.name for c in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in constants}
    makers = {out: node for node in graph.node for out in node.output}
    roots = {id(node): [root for k in STATES if len(node.input) > k and node.input[k]
                        for root in (_root(node.input[k], makers),) if root in inputs]
             for node in cells}
    states = {root: inputs[root] for found in roots.values() for root in found}
    if not states:
        return
    first = next(iter(states))
    if not keep:
        raise HwgenError(
            f"{name}: input {first!r} is a state in front of the first step: give --keep-state, "
            f"and it stays on the device from frame to frame, or export without it, and every "
            f"frame begins with zeros")
    for node in cells:
        if not roots[id(node)]:
            raise HwgenError(f"{name}: node {node.name or node.output[0]!r} ({node.op_type}) does "
                             f"not take its state from an input, as other cells do, so it would "
                             f"begin anew in every frame, which is not supported beside them")
    _check_readers(graph, states, name)
    for root, value in states.items():
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        graph.initializer.append(numpy_helper.from_array(np.zeros(dims, np.float32), root))
        graph.input.remove(value)
    _drop_outputs(graph, cells)


def _root(name: str, makers: dict[str, onnx.NodeProto]) -> str:
    """What a tensor is moved from."""
    while name in makers and makers[name].op_type in MOVES:
        name = makers[name].input[0]
    return name


def _moved(graph: onnx.GraphProto, names: Iterable[str]) -> set[str]:
    """Tensors, and what they are moved to."""
    found = set(names)
    for node in graph.node:
        if node.op_type in MOVES and node.input and node.input[0] in found:
            found.update(node.output)
    return found


def _check_readers(
    graph: onnx.GraphProto, states: Iterable[str], name: str
) -> None:
    """Refuse states that something else than a cell reads."""
    for state in states:
        moved = _moved(graph, [state])
        for node in graph.node:
            others = [i for k, i in enumerate(node.input) if i in moved and not (
                node.op_type in MOVES or (node.op_type in CELLS and k in STATES))]
            if others:
                raise HwgenError(
                    f"{name}: node {node.name or node.output[0]!r} ({node.op_type}) reads the "
                    f"state {state!r}, which only the cells can where the device keeps it")


def _drop_outputs(graph: onnx.GraphProto, cells: list[onnx.NodeProto]) -> None:
    """Drop states from the outputs, except Y_h where there is nothing else, and what only they
    needed."""
    for first in (1, 2):
        dropped = _moved(graph, (out for node in cells for out in node.output[first:] if out))
        left = [value for value in graph.output if value.name not in dropped]
        if left:
            break
    del graph.output[:]
    graph.output.extend(left)
    needed = {value.name for value in left}
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(reads(node))
            nodes.insert(0, node)
    del graph.node[:]
    graph.node.extend(nodes)
