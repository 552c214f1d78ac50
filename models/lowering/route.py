"""Ops that move data: concatenation, split, views, padding."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from hwgen.errors import HwgenError
from hwgen.ir import Concat, Pad, Split
from hwgen.models.lowering.core import Lowering, handles
from hwgen.models.onnx.nodes import attributes

__all__: list[str] = []


@handles("Concat")
def _concat(low: Lowering, node: onnx.NodeProto) -> None:
    axis = attributes(node)["axis"] % len(low.shape(node.output[0]))
    if axis == 0:
        raise HwgenError("only the concatenation of channels is supported, not of frames")
    for name in node.input:
        if low.channel_axis(name) != axis and low.shape(name)[axis] != 1:
            raise HwgenError("only the concatenation of channels is supported")
    vectors = len(low.shape(node.output[0])) == 2
    orders = []
    if vectors:
        # Features may come in any order, as long as it is known.
        tensors, orders = map(list, zip(*(low.features(name) for name in node.input), strict=True))
    else:
        tensors = [low.tensor(name, axis) for name in node.input]
    result = low.result(node.output[0])
    name, codes = result.name, result.quantisation
    have = {low.type(tensor).quantisation for tensor in tensors}
    if len(have) == 1 and name == node.output[0] and name not in low.network.codes:
        # Nothing asks for other codes than those that all of them have.
        (codes,) = have
    begins = np.cumsum([0, *map(len, orders)])
    order = [k + begin for k, begin in zip(orders, begins, strict=False)]
    moved = vectors and any((np.diff(k) < 0).any() for k in orders)
    low.put(name, Concat(), *(low.rescaled(tensor, codes) for tensor in tensors), axis=axis,
            positions=np.concatenate(order)[None] if moved else None)


@handles("Split")
def _split(low: Lowering, node: onnx.NodeProto) -> None:
    name, shape = node.input[0], low.shape(node.input[0])
    axis = attributes(node).get("axis", 0) % len(shape)
    sizes = tuple(low.shape(out)[axis] for out in node.output)
    # Parts that nothing reads are no outputs.
    used = [bool(low.network.users.get(out)) or out in low.network.outputs for out in node.output]
    if axis == 1 and low.view(name).positions is None and all(used):
        low.put_all(list(node.output), Split(sizes), low.tensor(name))
        return
    view, positions = low.view(name), low.positions(name)
    parts = np.split(positions, np.cumsum(sizes)[:-1], axis=axis)
    for out, part in zip(node.output, parts, strict=True):
        low.move(out, view.tensor, part)


@handles("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Expand",
         "DepthToSpace", "SpaceToDepth")
def _view(low: Lowering, node: onnx.NodeProto) -> None:
    """Another view of the same stream: the op is carried out on positions."""
    name = node.input[0]
    view, positions = low.view(name), low.positions(name)
    feeds = {name: positions}
    feeds |= {i: low.network.constants[i] for i in node.input[1:] if i in low.network.constants}
    if missing := [i for i in node.input[1:] if i and i not in feeds]:
        raise HwgenError(f"{missing[0]!r} must be constant")
    infos = [helper.make_tensor_value_info(
        k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()]
    graph = helper.make_graph([node], "view", infos, [onnx.ValueInfoProto(name=node.output[0])])
    model = helper.make_model(graph, opset_imports=[
        o for o in low.network.model.opset_import if o.domain in ("", "ai.onnx")])
    try:
        (result,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # whatever an op of numpy raises
        raise HwgenError(f"cannot be carried out: {str(error)[:200]}") from None
    moved = np.asarray(result)
    if moved.shape != low.shape(node.output[0]):
        moved = moved.reshape(low.shape(node.output[0]))
    if moved.ndim < 1 or moved.shape[0] != 1:
        raise HwgenError(
            f"shape {list(moved.shape)} does not keep a frame apart: the first axis is the batch"
        )
    low.move(node.output[0], view.tensor, moved)


@handles("Pad")
def _pad(low: Lowering, node: onnx.NodeProto) -> None:
    at, rank = attributes(node), len(low.shape(node.input[0]))
    amounts = at["pads"] if "pads" in at else low.constant(node.input[1]).astype(int).tolist()
    axes = list(range(rank))
    if len(node.input) > 3 and node.input[3]:
        axes = [int(a) % rank for a in low.constant(node.input[3])]
    before, after = [0] * rank, [0] * rank
    for k, axis in enumerate(axes):
        before[axis], after[axis] = int(amounts[k]), int(amounts[len(axes) + k])
    if before[0] or after[0] or before[1] or after[1] or rank < 3:
        raise HwgenError("only padding of spatial axes is supported")
    source = low.tensor(node.input[0])
    codes = low.type(source).quantisation
    mode = at.get("mode", b"constant").decode()
    if mode not in ("constant", "edge"):
        raise HwgenError(f"mode {mode!r} is not supported; supported are constant, edge")
    fill = None
    if mode == "constant":
        value = float(at.get("value", 0.0))
        if len(node.input) > 2 and node.input[2]:
            value = float(low.constant(node.input[2]).ravel()[0])
        fill = int(codes.quantise(np.asarray(value)))
    pads = tuple(zip(before[2:], after[2:], strict=True))
    low.put(node.output[0], Pad(pads, fill), source)
