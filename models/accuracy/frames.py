"""Float tensors, channels first as ONNX has them, as frames of the integer graph."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["to_frame"]


def to_frame(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """A float tensor ``(1, C, *spatial)`` as a frame ``(*spatial, C)`` of the integer graph.

    Also takes tensors that have the frame's own order, that lack or add extents of 1, or that are
    flattened, channels first; None if the layout is unclear.
    """
    first = (shape[-1], *shape[:-1])
    if value.ndim == 0 or value.shape[0] != 1 or value.size != math.prod(shape):
        return None
    have = tuple(n for n in value.shape if n != 1)
    channels_first, channels_last = (tuple(n for n in s if n != 1) for s in (first, shape))
    if have == channels_first or len(have) <= 1:
        if have == channels_last and len(have) == 2 and value.ndim <= 3:
            # Text (1, tokens, C) or audio (1, C, samples)?
            return None
        return np.moveaxis(value.reshape(first), 0, -1)
    return value.reshape(shape) if have == channels_last else None
