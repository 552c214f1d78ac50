"""What ONNX ops that move data come to: which elements of a stream a reshaped tensor holds.

A *view* is an ONNX tensor that holds elements of a tensor of the integer graph, in some order.
Reshape, Transpose, Squeeze, Slice and the like only make another view: they are carried out on an
array of positions.  When an op wants its input as a stream, :func:`arrangement` finds the ops of
the integer graph that bring the positions into order, or says that there are none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import GatherChannels, Op, Pad, Rearrange, Reshape, Resize, TensorType

__all__ = [
    "View", "arrangement", "channels_last", "pixel_ops", "plain_positions", "rearranged",
]

LARGEST = 1 << 26
"""Most elements of a tensor that is rearranged."""


@dataclass(frozen=True)
class View:
    """An ONNX tensor in terms of the integer graph.

    Members
    -------
    tensor : name in the integer graph
    positions : integer array of the ONNX shape ``(1, …)``
        Per element its position in the stream of one frame; None: channels are axis 1, and the
        other axes follow in the order of the stream.
    """

    tensor: str
    positions: np.ndarray | None = None


def channels_last(shape: Sequence[int], axis: int = 1) -> tuple[int, ...]:
    """Shape of a frame, ``(*spatial, channels)``, for an ONNX shape with channels at ``axis``."""
    if len(shape) < 2:
        return (1,)
    return (*(n for k, n in enumerate(shape) if k not in (0, axis)), shape[axis])


def plain_positions(shape: Sequence[int], axis: int = 1) -> np.ndarray:
    """Positions of a tensor whose channels are at ``axis``."""
    size = math.prod(shape)
    if size > LARGEST:
        raise HwgenError(f"a tensor of {size} elements is too large to be rearranged")
    frame = np.arange(size).reshape(1, *channels_last(shape, axis))
    return np.moveaxis(frame, -1, axis) if len(shape) > 1 else frame.reshape(tuple(shape))


def arrangement(
    positions: np.ndarray, source: tuple[int, ...], axis: int = 1
) -> list[Op] | None:
    """Ops that turn a frame into the one that a view means.

    Parameters
    ----------
    positions : of the view; see :class:`View`
    source : shape of the frame, ``(*spatial, channels)``
    axis : where the view has its channels

    Returns
    -------
    list of :class:`Op`, or None
        None if no ops of the integer graph do it.
    """
    shape = channels_last(positions.shape, axis)
    wanted = np.moveaxis(positions, axis, -1).reshape(shape) if positions.ndim > 1 else positions
    if wanted.size == math.prod(source) and (wanted.ravel() == np.arange(wanted.size)).all():
        return [] if shape == source else [Reshape(shape)]
    if math.prod(source) == shape[-1] != source[-1] and (
            wanted == wanted.reshape(-1, shape[-1])[0]).all():
        # All of a frame in each pixel: it is one pixel itself.
        line = (*(1,) * (len(shape) - 1), shape[-1])
        behind = arrangement(positions, line, axis)
        return None if behind is None else [Reshape(line), *behind]
    channels = source[-1]
    pixels, order = np.divmod(wanted, channels)
    if (pixels != pixels[..., :1]).any() or (order != order.reshape(-1, shape[-1])[0]).any():
        return None
    ops: list[Op] = []
    first = order.reshape(-1, shape[-1])[0]
    if not np.array_equal(first, np.arange(channels)):
        ops.append(GatherChannels(tuple(int(c) for c in first)))
    if math.prod(source[:-1]) > 1 and (pixels == pixels.flat[0]).all():
        # One of its pixels is all that is wanted.
        at = np.unravel_index(pixels.flat[0], source[:-1])
        pads = tuple((-int(k), int(k) + 1 - n) for k, n in zip(at, source[:-1], strict=True))
        ops.append(Pad(pads, 0))
        source, pixels = (*(1,) * len(source[:-1]), channels), np.zeros_like(pixels)
    if math.prod(source[:-1]) == 1 and len(shape) != len(source):
        # One pixel, repeated over all of a frame.
        source = (*(1,) * (len(shape) - 1), channels)
        ops.append(Reshape((*source[:-1], shape[-1])))
    spatial = _pixels(pixels[..., 0], source[:-1])
    if spatial is None:
        return None
    ops += spatial
    shape_now = (*_extents(source[:-1], spatial), shape[-1])
    return ops if shape_now == shape else [*ops, Reshape(shape)]


def rearranged(
    positions: np.ndarray, source: TensorType, axis: int = 1
) -> list[Op]:
    """Ops that turn a frame into the one that a view means, whatever it takes.

    What moves is kept in pieces that are as large as possible, by an order of channels before or
    behind it, which :func:`hwgen.models.lowering.channels.fold_orders` puts into weights.

    Parameters
    ----------
    positions, axis : see :func:`arrangement`
    source : type of the frame
    """
    shape = channels_last(positions.shape, axis)
    wanted = np.moveaxis(positions, axis, -1).reshape(shape) if positions.ndim > 1 else positions
    whole = Rearrange(wanted)
    best = whole.run(source), [whole]
    pixels, order = np.divmod(wanted.reshape(-1, shape[-1]), source.channels)
    # Where a pixel's channels are of one pixel: those that stay together, one after the other.
    _, first = np.unique(order[:, 0], return_index=True)
    before = order[np.sort(first)].ravel()
    if np.array_equal(np.sort(before), np.arange(source.channels)):
        moved = (pixels * source.channels + np.argsort(before)[order]).reshape(shape)
        op = Rearrange(moved)
        best = max(best, (op.run(source), [GatherChannels(tuple(before)), op]),
                   key=lambda found: found[0])
    # Or else channels of each pixel of the output in the order in which they came.
    behind = np.argsort(wanted.reshape(-1, shape[-1])[0], kind="stable")
    op = Rearrange(wanted[..., behind])
    best = max(best, (op.run(source), [op, GatherChannels(tuple(np.argsort(behind)))]),
               key=lambda found: found[0])
    return list(best[1])


def _extents(spatial: tuple[int, ...], ops: list[Op]) -> tuple[int, ...]:
    for op in ops:
        if isinstance(op, Pad):
            spatial = op.window.output(spatial)
        elif isinstance(op, Resize):
            spatial = tuple(n * f for n, f in zip(spatial, op.factors, strict=True))
    return spatial


def _pixels(pixels: np.ndarray, spatial: tuple[int, ...]) -> list[Op] | None:
    """Ops that choose pixels: a crop with strides, or a repetition of each."""
    count = math.prod(spatial)
    if pixels.size == count and (pixels.ravel() == np.arange(count)).all():
        return []
    if pixels.ndim != len(spatial):
        return None
    grid = np.unravel_index(pixels, spatial)
    axes = []
    for d, where in enumerate(grid):
        line = np.moveaxis(where, d, 0).reshape(where.shape[d], -1)
        if (line != line[:, :1]).any():
            return None
        axes.append(line[:, 0])
    return pixel_ops(axes, spatial)


def pixel_ops(axes: Sequence[np.ndarray], spatial: Sequence[int]) -> list[Op] | None:
    """Ops that choose rows, columns, …: a repetition of each, or a crop with strides.

    Parameters
    ----------
    axes : per spatial dimension, which index of the input each index of the output is
    spatial : extents of the input

    Returns
    -------
    list of :class:`Op`, or None
        None if no ops of the integer graph do it.
    """
    if all(len(a) % n == 0 and (a == np.arange(len(a)) // (len(a) // n)).all()
           for a, n in zip(axes, spatial, strict=True)):
        return [Resize(tuple(len(a) // n for a, n in zip(axes, spatial, strict=True)))]
    pads, strides = [], []
    for a, n in zip(axes, spatial, strict=True):
        step = int(a[1] - a[0]) if len(a) > 1 else 1
        if step < 1 or (np.diff(a) != step).any():
            return None
        pads.append((-int(a[0]), int(a[-1]) + 1 - n))
        strides.append(step)
    return [Pad(tuple(pads), 0, tuple(strides))]
