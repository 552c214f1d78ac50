"""Softmax that is in no attention: over the channels of a pixel, brought there if need be."""

from __future__ import annotations

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Softmax
from hwgen.models.lowering.core import Lowering, handles
from hwgen.models.onnx.nodes import attributes, opset

__all__: list[str] = []


@handles("Softmax")
def _softmax(low: Lowering, node: onnx.NodeProto) -> None:
    name, out = node.input[0], node.output[0]
    shape, old = low.shape(name), opset(low.network.model) < 13
    axis = attributes(node).get("axis", 1 if old else -1) % len(shape)
    if axis == 0 and shape[0] > 1:
        raise HwgenError("its axis is the batch")
    if old:
        # All axes from that one on are one.
        rows = low.positions(name).reshape(int(np.prod(shape[:axis])), -1)
    else:
        rows = np.moveaxis(low.positions(name), axis, -1).reshape(-1, shape[axis])
    view = low.view(name)
    tokens, order = _tokens(rows, low.type(view.tensor).channels)
    tensor = low.arranged(view.tensor, tokens.reshape(1, len(tokens), -1), name, 2)
    result = low.result(out)
    op = Softmax.from_types(tokens.shape[1], low.type(tensor), result.quantisation)
    # Where each element is in the stream.
    placed = np.empty(rows.shape, np.int64)
    placed[order] = np.arange(rows.size).reshape(rows.shape)
    if old:
        positions = placed.reshape(shape)
    else:
        others = [n for k, n in enumerate(shape) if k != axis]
        positions = np.moveaxis(placed.reshape(*others, shape[axis]), -1, axis)
    low.put(result.name, op, tensor, positions=positions)


def _tokens(rows: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows as groups of pixels' channels, and which row each of the groups is.

    Rows within a pixel stay there, if there are equally many in each; else each is a pixel itself.

    Parameters
    ----------
    rows : positions, shape ``(rows, elements)``
    channels : of the stream in which they lie

    Returns
    -------
    positions ``(pixels, groups, elements)``, and numbers of rows, one after the other
    """
    pixels = rows // channels
    plain = np.arange(len(rows))
    if (pixels != pixels[:, :1]).any():
        return rows[:, None], plain
    order = np.lexsort((rows[:, 0], pixels[:, 0]))
    _, counts = np.unique(pixels[:, 0], return_counts=True)
    if (counts != counts[0]).any():
        return rows[:, None], plain
    return rows[order].reshape(len(counts), counts[0], -1), order
