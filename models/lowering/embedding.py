"""Embeddings: rows of a constant, chosen by ids that come as a stream."""

from __future__ import annotations

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import Embedding
from hwgen.models.lowering.core import Lowering

__all__ = ["put_embedding"]


def put_embedding(low: Lowering, node: onnx.NodeProto) -> None:
    """Add an embedding for a Gather whose table is constant.

    What is computed of an id in front, element by element, is computed of all ids now, and chooses
    the rows of the table.

    Raises
    ------
    :exc:`HwgenError`
        If what chooses the rows are no ids.
    """
    table, index = low.constant(node.input[0]), node.input[1]
    source = low.regions.source.get(index, index)
    view, positions = low.view(source), low.positions(source)
    ids = low.type(view.tensor)
    if ids.channels != 1 or ids.quantisation != Embedding.ids(1 << ids.bits):
        raise HwgenError(f"rows of a constant are chosen by {source!r}, which holds no ids: only "
                         f"inputs of whole numbers do")
    count = min(1 << ids.bits, low.ids.get(view.tensor, 1 << ids.bits))
    chosen = np.arange(count)
    if source != index:
        chosen = low.regions.apply(index, chosen.astype(np.float64)).astype(np.int64)
    # A number that no row has is that of no frame.
    rows = table[np.clip(chosen, 0, len(table) - 1)].reshape(count, -1)
    result = low.result(node.output[0])
    op = Embedding(result.quantisation.quantise(rows), result.quantisation)
    width = rows.shape[1]
    where = positions[..., None] * width + np.arange(width)
    low.put(result.name, op, view.tensor, positions=where.reshape(low.shape(node.output[0])))
