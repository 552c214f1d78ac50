"""Ids: inputs of whole numbers that choose rows of tables, and inputs that are fixed.

Whole numbers go through a float network as floats, which hold all up to 2**24, and are cast where a
Gather reads them (:mod:`hwgen.models.onnx.tables`).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.ir import Embedding
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import ELEMENTWISE, attributes
from hwgen.models.onnx.quantisers import IntegerInput
from hwgen.models.onnx.session import session

__all__ = [
    "KEPT", "MOVES", "RANGE", "USUAL", "candidates", "fixed_values", "settle_ids", "state_ids",
]

KINDS = {TensorProto.INT64, TensorProto.INT32, TensorProto.INT16, TensorProto.UINT16,
         TensorProto.INT8, TensorProto.UINT8, TensorProto.UINT32, TensorProto.BOOL}
"""Types of whole numbers that an input of ids, or of a mask, may have."""
RANGE, KEPT = "range", "input"
"""What an input may be fixed to beside a number: 0, 1, 2, … along its last axis; or not at all."""
USUAL = {
    "attention_mask": "1", "decoder_attention_mask": "1", "input_mask": "1", "position_ids": RANGE,
    "segment_ids": "0", "token_type_ids": "0",
}
"""Inputs of whole numbers that are fixed unless the user says otherwise: frames without padding,
in one part."""
MOVES = {"Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Ops that only move ids, or repeat them."""


# Inputs


def fixed_values(texts: Sequence[str]) -> dict[str, str]:
    """What inputs are fixed to, by their names, from texts ``name=value``.

    Raises
    ------
    :exc:`HwgenError`
        If a text is no such, an input is named twice, or a value is neither a number nor one of
        :data:`RANGE` and :data:`KEPT`.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        if not equals or not name or name in found:
            raise HwgenError(f"Inputs are fixed by name=value, each once, not by {text!r}")
        if value not in (RANGE, KEPT):
            try:
                known = np.isfinite(float(value))
            except ValueError:
                known = False
            if not known:
                raise HwgenError(f"An input is fixed to a number, {RANGE!r} or {KEPT!r}, not to "
                                 f"{value!r}")
        found[name] = value
    return found


def candidates(model: onnx.ModelProto, fixed: Mapping[str, str]) -> set[str]:
    """Inputs of whole numbers that may choose rows, or that are fixed."""
    kinds = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    whole = {name for name, kind in kinds.items() if kind in KINDS}
    found = {name for name in whole if name in fixed or name in USUAL}
    for name in whole:
        reached = {name}
        for node in model.graph.node:
            if not reached.intersection(node.input):
                continue
            if node.op_type in ("Gather", "OneHot", "Equal"):
                chooses = node.input[node.op_type == "Gather"] in reached
                found.update({name} if chooses or node.op_type == "Equal" else ())
            if node.op_type != "Cast" or attributes(node)["to"] in KINDS:
                reached.update(node.output)
    return found


def settle_ids(model: onnx.ModelProto, name: str, fixed: Mapping[str, str]) -> list[str]:
    """Make inputs that are fixed constants, and let those of whole numbers come as floats.

    Parameters
    ----------
    model : with static inputs; changed
    name : what errors call it
    fixed : inputs to what they are fixed to, as the user says

    Returns
    -------
    inputs of whole numbers

    Raises
    ------
    :exc:`HwgenError`
        If there is no such input, or if none would be left.
    """
    graph, ids = model.graph, []
    if unknown := sorted(fixed.keys() - {value.name for value in graph.input}):
        known = ", ".join(repr(value.name) for value in graph.input)
        raise HwgenError(f"{name} has no input {unknown[0]!r} that could be fixed; its inputs are "
                         f"{known}")
    coded = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for value in list(graph.input):
        kind = value.type.tensor_type.elem_type
        whole = kind in KINDS and value.name not in coded
        said = fixed.get(value.name)
        to = said or (USUAL.get(value.name, KEPT) if whole else KEPT)
        if to != KEPT:
            _fix(graph, value, to)
            if said is None:
                warnings.warn(
                    f"{name}: input {value.name!r} is taken to be {_in_words(to)}, and the "
                    f"accelerator has no such input; fix it to something else if it is not, or to "
                    f"{KEPT!r} if it differs from frame to frame", HwgenWarning, stacklevel=2)
        elif whole:
            ids.append(value.name)
            _as_float(graph, value)
    if not graph.input:
        raise HwgenError(f"{name}: no input is left that is not fixed")
    return ids


def _in_words(value: str) -> str:
    return "0, 1, 2, … along its last axis" if value == RANGE else f"{value} everywhere"


def _fix(graph: onnx.GraphProto, value: onnx.ValueInfoProto, to: str) -> None:
    """Make an input a constant."""
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    line = np.arange(shape[-1] if shape else 1) if to == RANGE else np.full(1, float(to))
    array = np.broadcast_to(line if shape else line[0], shape).astype(kind)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), value.name))
    graph.input.remove(value)


def _as_float(graph: onnx.GraphProto, value: onnx.ValueInfoProto) -> None:
    """Let an input of whole numbers come as floats, and cast it."""
    kind, whole = value.type.tensor_type.elem_type, f"{value.name}.whole"
    for node in graph.node:
        node.input[:] = [whole if i == value.name else i for i in node.input]
    graph.node.insert(0, helper.make_node("Cast", [value.name], [whole], name=whole, to=kind))
    value.type.tensor_type.elem_type = TensorProto.FLOAT


# The network


def state_ids(network: Network, name: str, ids: Collection[str]) -> None:
    """Note which numbers the inputs of ids can be: those of rows of all tables that they choose of.

    Parameters
    ----------
    network : changed
    name : what errors call it
    ids : inputs of whole numbers

    Raises
    ------
    :exc:`HwgenError`
        If an input of whole numbers chooses rows of no table, or of one with too many rows.
    """
    for given in network.inputs:
        if given not in ids:
            continue
        tables = list(_tables(network, given))
        if not tables:
            raise HwgenError(
                f"{name}: input {given!r} is of whole numbers, but chooses no rows of a constant "
                f"table: only inputs of floats are read, integers of 8 or 16 bits that a "
                f"DequantizeLinear or a Cast to float reads, and ids of an embedding; an input "
                f"that is always the same can be fixed")
        for _, node in tables:
            if attributes(node).get("axis", 0) % network.constants[node.input[0]].ndim:
                raise HwgenError(f"{name}: node {node.name or node.output[0]!r}: rows of a "
                                 f"constant are chosen along its first axis alone")
        count = min(count for count, _ in tables)
        if count > 1 << 16:
            where = tables[0][1]
            raise HwgenError(
                f"{name}: node {where.name or where.output[0]!r}: an embedding of {count} rows is "
                f"not supported, because ids have at most 16 bits: 65536 rows are the most")
        network.integer_inputs[given] = IntegerInput(1.0, 0, 0, count - 1)
        network.codes[given] = Embedding.ids(count)
        network.ids.add(given)


def _tables(network: Network, given: str) -> Iterator[tuple[int, onnx.NodeProto]]:
    """Numbers of ids that choose rows of a table, and the Gather that does, for an input."""
    reached: dict[str, list[onnx.NodeProto]] = {given: []}
    for node in network.nodes:
        live = [i for i in node.input if i and i not in network.constants]
        if node.op_type == "Gather" and node.input[0] in network.constants and (
                node.input[1] in reached):
            rows = network.constants[node.input[0]].shape[0]
            steps = reached[node.input[1]]
            plain = all(step.op_type in MOVES | {"Cast"} for step in steps)
            yield (rows if plain else _prefix(network, steps, given, node.input[1], rows)), node
        elif live and all(i in reached for i in live) and node.op_type in ELEMENTWISE | MOVES:
            steps = {id(step): step for i in live for step in reached[i]}
            for out in node.output:
                reached[out] = [*steps.values(), node]


def _prefix(
    network: Network, steps: Sequence[onnx.NodeProto], given: str, wanted: str, rows: int
) -> int:
    """How many ids from 0 on a function takes to numbers of rows."""
    used = {i for node in steps for i in node.input}
    shape = network.shapes[given]
    size = int(np.prod(shape))
    ordered = [n for n in network.nodes if any(n is step for step in steps)]
    graph = helper.make_graph(
        ordered, "ids", [helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=wanted)],
        [numpy_helper.from_array(v, k) for k, v in network.constants.items() if k in used])
    model = helper.make_model(graph, opset_imports=network.model.opset_import)
    model.ir_version = network.model.ir_version
    try:
        run = session(model)
        for begin in range(0, (1 << 16) + 1, size):
            ids = np.arange(begin, begin + size, dtype=np.float32)
            (found,) = run.run([wanted], {given: ids.reshape(shape)})
            number = np.asarray(found).ravel()
            wrong = np.flatnonzero((number < 0) | (number >= rows))
            if len(wrong):
                return max(begin + int(wrong[0]), 1)
    except Exception as error:  # onnxruntime raises classes of its own for every fault
        raise HwgenError(f"Ids {given!r} cannot be computed: {str(error)[:200]}") from None
    return 1 << 16
