"""Tables of embeddings as files write them: each becomes one Gather.

Files write an embedding as a Gather, or as a OneHot or an Equal in front of a matrix product.
Biases and functions of the rows may stand behind it, as may products with a matrix that make rows
no longer: they are computed on the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from hwgen.errors import HwgenWarning
from hwgen.models.onnx.editor import Editor
from hwgen.models.onnx.ids import MOVES
from hwgen.models.onnx.nodes import ELEMENTWISE, attributes
from hwgen.models.onnx.session import session

__all__ = ["write_tables"]

MOST = 1 << 26
"""Most elements of a table."""


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
        if ends == {made} and widths[made] <= widths[best]:
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
