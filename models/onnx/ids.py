"""Ids: inputs of whole numbers that choose rows of tables, and inputs that are fixed.

Whole numbers go through a float network as floats, which hold all up to 2**24, and are cast where a
Gather reads them.  Files write an embedding as a Gather, as a OneHot or an Equal in front of a
matrix product, and with biases and functions of the rows behind it; all of that becomes one Gather
with another table.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.ir import Embedding
from hwgen.models.onnx.editor import Editor
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import ELEMENTWISE, attributes, reads
from hwgen.models.onnx.quantisers import IntegerInput
from hwgen.models.onnx.session import session

__all__ = [
    "KEPT", "RANGE", "USUAL", "candidates", "fixed_values", "settle_ids", "state_ids",
    "write_tables",
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
MOST = 1 << 26
"""Most elements of a table."""


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


# Tables


def write_tables(model: onnx.ModelProto, name: str, ids: Collection[str]) -> bool:
    """Write embeddings as Gather, in place; returns whether anything has changed.

    Places that are counted by the ids that are no padding become those of frames without any, with
    a :exc:`HwgenWarning`.

    Parameters
    ----------
    model : with constants folded and shapes inferred
    name : what warnings call it
    ids : inputs of whole numbers
    """
    if not ids:
        return False
    graph = Editor(model)
    _without_padding(graph, name)
    for node in list(graph.graph.node):
        if node.op_type == "OneHot":
            _one_hot(graph, node)
        elif node.op_type == "Equal":
            _equal(graph, node)
    for node in [n for n in graph.graph.node if n.op_type == "Gather"]:
        if _is_table(graph, node):
            _cast_last(graph, _fold_rows(graph, node), ids)
    graph.drop_unread()
    return True


def _without_padding(graph: Editor, name: str) -> None:
    """Count places as if no id was that of padding."""
    for node in [n for n in graph.graph.node if n.op_type == "Equal"]:
        padding = [value for i in node.input if (value := graph.constant(i)) is not None]
        shape = graph.shapes.get(node.output[0])
        if len(padding) != 1 or padding[0].size != 1 or not shape or padding[0].dtype.kind != "i":
            continue
        reached = {node.output[0]}
        for other in graph.graph.node:
            if reached.intersection(other.input) and other.op_type in ELEMENTWISE | MOVES:
                reached.update(other.output)
        if not any(other.op_type == "CumSum" and other.input[0] in reached
                   for other in graph.graph.node):
            continue
        warnings.warn(
            f"{name}: id {padding[0].item()} stands for padding, which is not counted in places: "
            f"frames are taken to have none", HwgenWarning, stacklevel=2)
        graph.add(np.zeros(shape, bool), node.output[0])
        graph.graph.node.remove(node)


def _is_table(graph: Editor, node: onnx.NodeProto) -> bool:
    """Whether a Gather takes rows of a constant."""
    return (node.input[0] in graph.constants and node.input[1] not in graph.constants
            and attributes(node).get("axis", 0) == 0)


def _one_hot(graph: Editor, node: onnx.NodeProto) -> None:
    """A OneHot along the last axis takes rows of a square table."""
    depth, ends = (graph.constant(i) for i in node.input[1:])
    rank = len(graph.shapes.get(node.output[0], ()))
    if depth is None or ends is None or attributes(node).get("axis", -1) not in (-1, rank - 1):
        return
    count = int(depth.ravel()[0])
    if not 0 < count * count <= MOST:
        return
    off, on = ends.ravel()
    table = graph.add(np.where(np.eye(count, dtype=bool), on, off).astype(ends.dtype),
                      f"{node.output[0]}.rows")
    graph.replace(node, [helper.make_node("Gather", [table, node.input[0]], node.output, axis=0)])


def _equal(graph: Editor, node: onnx.NodeProto) -> None:
    """An Equal of an id with each number of a line takes rows of a table."""
    for name, other in (node.input, node.input[::-1]):
        line, shape, out = graph.constant(other), graph.shapes.get(name), graph.shapes.get(
            node.output[0])
        if line is None or not shape or not out or line.ndim < 1 or line.dtype.kind not in "iu":
            continue
        if shape[-1] != 1 or line.size != line.shape[-1] or out != (*shape[:-1], line.size):
            continue
        count = int(line.max()) + 1
        casts = graph.readers(node.output[0])
        if line.min() < 0 or not 1 < count * line.size <= MOST or not casts or any(
                each.op_type != "Cast" or attributes(each)["to"] != TensorProto.FLOAT
                for each in casts) or node.output[0] in graph.outputs:
            continue
        rows = (np.arange(count)[:, None] == line.ravel()).astype(np.float32)
        table = graph.add(rows, f"{node.output[0]}.rows")
        extents = graph.add(np.array(shape[:-1] or (1,)), f"{node.output[0]}.extents")
        flat = f"{node.output[0]}.ids"
        graph.replace(node, [helper.make_node("Reshape", [name, extents], [flat])])
        for cast in casts:
            graph.replace(cast, [helper.make_node("Gather", [table, flat], cast.output, axis=0)])
        return


def _fold_rows(graph: Editor, node: onnx.NodeProto) -> onnx.NodeProto:
    """Compute on the table what is behind a Gather and works row by row; returns the Gather.

    Scales and shifts, functions of each element, and products with a matrix that make rows no
    longer: as long as one tensor alone comes of it.
    """
    (out,) = node.output
    table = graph.constant(node.input[0])
    if table is None or table.ndim != 2 or table.dtype != np.float32 or out in graph.outputs:
        return node
    rank, width = len(graph.shapes[out]), table.shape[1]
    inside, widths, best = {out}, {out: width}, out
    found: list[onnx.NodeProto] = []
    for other in graph.graph.node:
        live = [i for i in other.input if i and i not in graph.constants]
        if not live or not inside.issuperset(live) or len(other.output) != 1 or any(
                i in graph.outputs for i in live):
            continue
        (made,) = other.output
        if not _by_row(graph, other, live, rank, widths):
            continue
        found.append(other)
        inside.add(made)
        widths[made] = graph.shapes[made][-1]
        # All that is read from here on is this tensor alone.
        ends = {name for name in inside if name in graph.outputs or any(
            reader not in found for reader in graph.readers(name))}
        if ends == {made} and widths[made] <= width:
            best = made
    values = _computed(graph, found, out, best, table) if best != out else None
    if values is None:
        return node
    new = graph.add(values, f"{best}.rows")
    last = next(each for each in found if best in each.output)
    graph.replace(last, [helper.make_node("Gather", [new, node.input[1]], [best], axis=0,
                                          name=last.name or best)])
    node.output[0] = f"{out}.unread"
    made = graph.maker(best)
    assert made is not None
    return made


def _by_row(
    graph: Editor, node: onnx.NodeProto, live: Sequence[str], rank: int, widths: Mapping[str, int]
) -> bool:
    """Whether a node makes each row of its result from the same row of what it reads."""
    fixed = [graph.constants[i] for i in node.input if i in graph.constants]
    (made,) = node.output
    if len(graph.shapes.get(made, ())) != rank or graph.kinds.get(made) != TensorProto.FLOAT:
        return False
    if node.op_type == "MatMul":
        return node.input[0] in live and len(fixed) == 1 and len(fixed[0].dims) == 2
    if node.op_type == "LayerNormalization":
        return attributes(node).get("axis", -1) in (-1, rank - 1) and len(live) == 1
    if node.op_type not in ELEMENTWISE or node.op_type in ("Dropout", "Cast", "CastLike"):
        return False
    return len({widths[name] for name in live}) == 1 and all(
        np.prod(c.dims, dtype=int) in (1, *c.dims[-1:]) and len(c.dims) <= rank for c in fixed)


def _computed(
    graph: Editor, nodes: Sequence[onnx.NodeProto], source: str, wanted: str, table: np.ndarray
) -> np.ndarray | None:
    """Rows of a tensor for all rows of a table; None if they cannot be computed."""
    rank = len(graph.shapes[source])
    used = {i for node in nodes for i in node.input}
    inner = helper.make_graph(
        nodes, "rows",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [*[1] * (rank - 2),
                                                                   *table.shape])],
        [onnx.ValueInfoProto(name=wanted)],
        [c for name, c in graph.constants.items() if name in used])
    model = helper.make_model(inner, opset_imports=graph.model.opset_import)
    model.ir_version = graph.model.ir_version
    try:
        (rows,) = session(model).run(
            [wanted], {source: table.reshape(*[1] * (rank - 2), *table.shape)})
    except Exception:  # onnxruntime raises classes of its own for every fault
        return None
    return np.asarray(rows).reshape(len(table), -1)


def _cast_last(graph: Editor, node: onnx.NodeProto, ids: Collection[str]) -> None:
    """Move the ids of a Gather as floats, and cast them where it reads them."""
    chain, name = [], node.input[1]
    while name not in ids:
        maker = graph.maker(name)
        if maker is None or maker.op_type not in MOVES | {"Cast"}:
            return
        if any(i and i not in graph.constants for i in maker.input[1:]):
            return
        chain.append(maker)
        name = maker.input[0]
    nodes = []
    for k, each in enumerate(each for each in reversed(chain) if each.op_type != "Cast"):
        moved = f"{node.output[0]}.moved.{k}"
        nodes.append(onnx.NodeProto.FromString(each.SerializeToString()))
        nodes[-1].input[0], nodes[-1].output[0], nodes[-1].name = name, moved, moved
        name = moved
    whole = f"{node.output[0]}.ids"
    nodes.append(helper.make_node("Cast", [name], [whole], name=whole, to=TensorProto.INT64))
    last = onnx.NodeProto.FromString(node.SerializeToString())
    last.input[1] = whole
    graph.replace(node, [*nodes, last])


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
        count = min(count for count, _ in tables)
        if count > 1 << 16:
            where = min(tables)[1]
            raise HwgenError(
                f"{name}: node {where.name or where.output[0]!r}: an embedding of {count} rows is "
                f"not supported, because ids have at most 16 bits: 65536 rows are the most")
        network.integer_inputs[given] = IntegerInput(1.0, 0, 0, count - 1)
        network.codes[given] = Embedding.ids(count)
        network.ids.add(given)


def _tables(network: Network, given: str):
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
            wrong = np.flatnonzero((found.ravel() < 0) | (found.ravel() >= rows))
            if len(wrong):
                return max(begin + int(wrong[0]), 1)
    except Exception as error:  # onnxruntime raises classes of its own for every fault
        raise HwgenError(f"Ids {given!r} cannot be computed: {str(error)[:200]}") from None
    return 1 << 16
