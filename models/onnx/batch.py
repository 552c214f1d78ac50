"""A file with a fixed batch of several frames: rewritten to one frame, if frames are kept apart."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from onnx import numpy_helper

from hwgen.errors import HwgenError, HwgenWarning, naming
from hwgen.models.onnx.nodes import attributes
from hwgen.models.onnx.shapes import first_line, infer_shapes

__all__ = ["to_one_frame"]

LARGEST = 1 << 16
"""Most frames at once that a file may take."""
AXIS = {
    "ArgMax": 0, "ArgMin": 0, "Concat": 0, "CumSum": 0, "Gather": 0, "GatherElements": 0,
    "Hardmax": -1, "LayerNormalization": -1, "LogSoftmax": -1, "LpNormalization": -1,
    "ScatterElements": 0, "Softmax": -1, "Split": 0, "TopK": -1,
}
"""Ops that work along an axis, and which if they do not say."""
ALONG = {"Squeeze": 1, "Unsqueeze": 1}
"""Ops that work along several axes, and the input that says so; those of Reduce ops too."""
MIXING = {
    "Compress", "Det", "GRU", "GatherND", "LSTM", "MaxRoiPool",
    "MeanVarianceNormalization", "NonMaxSuppression", "NonZero", "RNN", "ReverseSequence",
    "RoiAlign", "ScatterND", "Trilu", "Unique",
}
"""Ops that may join frames, or that have the batch elsewhere."""

Shapes = dict[str, list[int]]


def to_one_frame(model: onnx.ModelProto, name: str) -> None:
    """Rewrite a model that takes several frames at once to one that takes a single frame.

    Parameters
    ----------
    model : changed
    name : what errors call it

    Raises
    ------
    :exc:`HwgenError`
        If a node does not keep frames apart; it is named.
    """
    batches = {value.name: value.type.tensor_type.shape.dim[0] for value in model.graph.input
               if len(value.type.tensor_type.shape.dim)}
    counts = {dim.dim_value for dim in batches.values()} - {1}
    if not counts:
        return
    (frames, *others), text = sorted(counts), ", ".join(
        f"{tensor!r} of {dim.dim_value}" for tensor, dim in batches.items())
    if others or any(dim.dim_value == 1 for dim in batches.values()):
        raise HwgenError(f"{name}: its inputs have batches of several sizes ({text}): export with "
                         f"a batch of 1")
    if frames > LARGEST:
        raise HwgenError(f"{name}: a batch of {frames} frames is too large: export with a batch "
                         f"of 1")
    with naming(name):
        before = _shapes(model)
        makers = _rewritten(model.graph, before, frames)
        for dim in batches.values():
            dim.dim_value = 1
        del model.graph.value_info[:]
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        after = _shapes(model)
        for tensor, node in makers.items():
            if tensor in before and after.get(tensor) != [1, *before[tensor][1:]]:
                raise _refusal(node, frames, f"of one it would make {after.get(tensor, 'nothing')} "
                                             f"in place of {before[tensor]}")
    warnings.warn(f"{name}: input {next(iter(batches))!r} has a batch of {frames}: frames go "
                  f"through one by one, and the batch is 1", HwgenWarning, stacklevel=2)


def _shapes(model: onnx.ModelProto) -> Shapes:
    """The shapes that follow from those of the inputs."""
    try:
        graph = infer_shapes(model).graph
    except Exception as error:  # whatever shape inference raises
        raise HwgenError(f"it is inconsistent: {first_line(error)}") from None
    return {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
        and all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)
    }


def _rewritten(
    graph: onnx.GraphProto, shapes: Shapes, frames: int
) -> dict[str, onnx.NodeProto]:
    """Rewrite the nodes that frames go through; returns their tensors and what makes them."""
    dims = {c.name: list(c.dims) for c in graph.initializer}
    values = {c.name: numpy_helper.to_array(c) for c in graph.initializer if len(c.dims) < 2}
    live = {value.name for value in graph.input if value.name not in dims}
    makers: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in attributes(node):
            values[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
            dims[node.output[0]] = list(values[node.output[0]].shape)
        mine = [i for i in node.input if i in live]
        if not mine or node.op_type in ("Shape", "Size"):
            continue
        live.update(node.output)
        makers.update((out, node) for out in node.output if out)
        _check(node, mine, shapes, frames, values)
        _check_constants(node, dims, shapes, frames)
        _state_one(graph, node, values, frames)
    return makers


def _refusal(node: onnx.NodeProto, frames: int, why: str) -> HwgenError:
    return HwgenError(
        f"Node {node.name or node.output[0]!r} ({node.op_type}): the file takes {frames} frames "
        f"at once, but {why}: export with a batch of 1")


def _check(
    node: onnx.NodeProto, live: list[str], shapes: Shapes, frames: int,
    values: dict[str, np.ndarray],
) -> None:
    """Refuse a node that does not keep frames apart."""
    for tensor in (*live, *node.output):
        if shapes.get(tensor, [frames])[:1] != [frames]:
            raise _refusal(node, frames, f"it makes {shapes[tensor]} of them")
    # Unsqueeze counts axes of what it makes.
    counted = node.output[0] if node.op_type == "Unsqueeze" else node.input[0]
    rank = len(shapes.get(counted, ())) or 1
    if node.op_type in MIXING or any(axis % rank == 0 for axis in _axes(node, values, rank)) or (
            node.op_type == "Einsum" and not _named_apart(node, live)):
        raise _refusal(node, frames, "it may work along the batch")
    if node.op_type == "Transpose" and next(iter(attributes(node).get("perm", (1,)))) != 0:
        raise _refusal(node, frames, "it moves the batch to another axis")
    product = node.op_type in ("MatMul", "Gemm")
    if product and node.input[1] in live and len(shapes.get(node.input[1], ())) < 3:
        raise _refusal(node, frames, "it sums over the batch")


def _named_apart(node: onnx.NodeProto, live: list[str]) -> bool:
    """Whether an Einsum names the batch first, once, in all streams and its result."""
    sides, _, out = attributes(node)["equation"].decode().replace(" ", "").partition("->")
    parts = sides.split(",")
    return bool(out) and all(
        part.startswith(out[0]) and part.count(out[0]) == 1 if name in live else out[0] not in part
        for name, part in zip(node.input, parts, strict=True))


def _check_constants(
    node: onnx.NodeProto, dims: dict[str, list[int]], shapes: Shapes, frames: int
) -> None:
    """Refuse an element by element op whose constant has another value for each frame."""
    out = shapes.get(node.output[0], [])
    operands = node.input[2:] if node.op_type == "Gemm" else node.input
    for name in operands:
        if dims.get(name, [])[:1] == [frames] and len(dims[name]) == len(out) and all(
                a in (1, b) for a, b in zip(dims[name], out, strict=True)) and (
                node.op_type not in ("Conv", "ConvTranspose", "MatMul")):
            raise _refusal(node, frames, f"its constant {name!r} differs by frame")


def _axes(node: onnx.NodeProto, values: dict[str, np.ndarray], rank: int) -> list[int]:
    """Axes along which a node works."""
    at, kind = attributes(node), node.op_type
    if kind in AXIS:
        return [at.get("axis", AXIS[kind])]
    if kind in ALONG or kind.startswith("Reduce"):
        where = ALONG.get(kind, 1)
        if len(node.input) > where and node.input[where] in values:
            return values[node.input[where]].ravel().tolist()
        return list(at.get("axes", range(rank if kind.startswith("Reduce") else 0)))
    if kind == "Slice" and len(node.input) > 4:
        # One that keeps all frames may still turn them round.
        steps = values.get(node.input[4], np.ones(1)).tolist()
        axes = values.get(node.input[3], np.arange(len(steps))).tolist()
        return [axis for axis, step in zip(axes, steps, strict=False) if step < 0]
    if kind == "Pad":
        given = values.get(node.input[1]) if len(node.input) > 1 else None
        pads = list(at.get("pads", [] if given is None else given.tolist()))
        return [0] if len(pads) == 2 * rank and (pads[0] or pads[rank]) else []
    return []


def _state_one(
    graph: onnx.GraphProto, node: onnx.NodeProto, values: dict[str, np.ndarray], frames: int
) -> None:
    """Let a node that states extents state those of one frame."""
    where = {"Reshape": 1, "Expand": 1, "Resize": 3}.get(node.op_type)
    if where is None or len(node.input) <= where or node.input[where] not in values:
        return
    extents = values[node.input[where]]
    if extents.size and extents[0] == frames:
        one = extents.copy()
        one[0] = 1
        name = f"{node.output[0]}.extents"
        graph.initializer.append(numpy_helper.from_array(one, name))
        node.input[where] = name
