"""Windows without line buffers: an op over K rows is rewritten as one over a single row.

What a window of K rows keeps of the rows above becomes K streams of the same tensor, each shifted
by a row, side by side as channels.  The queues of these streams are the line buffers then, and like
any queue they may lie off the chip.  Sums have the same terms, so results are the same bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hwgen.errors import HwgenError, naming
from hwgen.ir.conv import Conv
from hwgen.ir.graph import Graph, Node
from hwgen.ir.op import Op
from hwgen.ir.pool import AveragePool, MaxPool
from hwgen.ir.route import Concat, Pad, Reshape
from hwgen.ir.window import Window

__all__ = ["row_edges", "split_rows"]


def split_rows(graph: Graph, name: str) -> Graph:
    """A graph in which a convolution or pool reads each row of its window as a stream of its own.

    For each row of the kernel, :class:`Pad` chooses the rows of the input that it meets (crop and
    stride), and another one adds those beyond the frame.  :class:`Concat` puts them side by side,
    oldest row first.  The op that is left has a kernel of one row, and for a plain convolution K
    times the channels.  Groups of a convolution and channels of a pool stay apart: for them the K
    rows become another dimension, with K pixels.

    Names of what is new begin with that of the node: ``NAME_row0``, ``NAME_row1``, … are the
    streams (of a row that neither shifts nor strides, the input itself), ``NAME_rows`` is their
    concatenation.  The op keeps its name if it is a plain convolution; otherwise it is
    ``NAME_window``, and ``NAME`` its result in the old shape.

    Parameters
    ----------
    graph : the graph; it stays as it is
    name : the node, a :class:`Conv`, :class:`MaxPool` or :class:`AveragePool`

    Raises
    ------
    :exc:`HwgenError`
        If there is no such node, or it is of another kind; if its window has one row; if padding
        above or below does not count in a mean; if a name is taken.
    """
    split = Graph(meta=dict(graph.meta))
    for tensor, type in graph.inputs.items():
        split.add_input(tensor, type)
    found = False
    for node in graph.nodes:
        if node.name == name:
            found = True
            with naming(f"Rows of {name!r}"):
                _split(split, node)
        else:
            split.add_node(node.op, node.inputs, node.outputs)
    if not found:
        raise HwgenError(f"The graph has no node {name!r}")
    split.outputs = list(graph.outputs)
    return split


def row_edges(graph: Graph, name: str) -> list[str]:
    """Edges of the row streams of a node that was split, as a design names them; oldest row first.

    The last is that of the newest row, on which all others wait: its queue is short.

    Raises
    ------
    :exc:`HwgenError`
        If the node was not split.
    """
    rows = f"{name}_rows"
    origin: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node.op, Reshape):
            origin[node.name] = origin.get(node.inputs[0], node.inputs[0])
        if node.name == rows and isinstance(node.op, Concat):
            return [f"{origin.get(tensor, tensor)}>{rows}" for tensor in node.inputs]
    raise HwgenError(f"Rows of {name!r} are not split")


@dataclass(frozen=True)
class _Row:
    """The rows of a frame that one row of a kernel meets.

    Members
    -------
    tap : row of the kernel
    first, last : rows of the frame that it meets first and last
    before, after : rows beyond the frame, above and below
    """

    tap: int
    first: int
    last: int
    before: int
    after: int


def _rows(window: Window, height: int) -> list[_Row]:
    """For each row of the kernel that meets the frame at all, what it meets."""
    (stride, dilation, (pad, _)) = window.stride[0], window.dilation[0], window.pads[0]
    outermost = (window.kernel, window.stride, window.pads, window.dilation)
    (out,) = Window(*((each[0],) for each in outermost)).output((height,))
    rows = []
    for tap in range(window.kernel[0]):
        shift = tap * dilation - pad
        # Places whose row is in the frame: 0 <= place * stride + shift < height.
        begin = max(-(shift // stride), 0)
        end = min((height - 1 - shift) // stride, out - 1)
        if begin <= end:
            rows.append(_Row(tap, begin * stride + shift, end * stride + shift, begin,
                             out - 1 - end))
    if not rows:
        raise HwgenError("The window never meets the frame")
    return rows


def _split(graph: Graph, node: Node) -> None:
    """Add what a node is split into."""
    op, (tensor, *_), name = node.op, node.inputs, node.name
    if not isinstance(op, Conv | MaxPool | AveragePool):
        raise HwgenError(f"{type(op).__name__} cannot be split")
    frame, window = graph.types[tensor], op.window
    (out,) = op.infer(frame)
    if window.kernel[:1] in ((), (1,)):
        raise HwgenError("A window of one row keeps none")
    rows = _rows(window, frame.spatial[0])
    _check_counts(op, rows)
    fill = frame.quantisation.low if isinstance(op, MaxPool) else frame.zero_point
    streams = [_stream(graph, name, tensor, row, window.stride[0], fill) for row in rows]
    beside = graph.add(Concat(), *streams, name=f"{name}_rows")
    inner = {"stride": window.stride[1:], "pads": window.pads[1:], "dilation": window.dilation[1:]}
    one: dict[str, tuple] = {"stride": (1,), "pads": ((0, 0),), "dilation": (1,)}
    geometry = {key: one[key] + value for key, value in inner.items()}
    apart = {key: value + one[key] for key, value in geometry.items()}
    if isinstance(op, Conv):
        weight = op.weight[:, [row.tap for row in rows]]
        # A row of the kernel that only ever meets padding is part of the bias.
        axes = tuple(range(1, weight.ndim))
        lost = op.weight.sum(axes, dtype=np.int64) - weight.sum(axes, dtype=np.int64)
        weight = np.moveaxis(weight, 1, -2)
        op = replace(op, bias=op.bias + frame.zero_point * lost)
        if op.groups == 1:
            weight = weight.reshape(op.cout, 1, *window.kernel[1:], -1)
            graph.add(replace(op, weight=weight, **geometry), beside, name=name)
            return
        op = replace(op, weight=weight[:, None], **apart)
    else:
        kernel = (1, *window.kernel[1:], len(rows))
        op = replace(op, kernel=kernel, **apart)
    types = graph.types[beside]
    graph.add(Reshape((*types.spatial, len(rows), frame.channels)), beside, name=f"{beside}_apart")
    graph.add(op, f"{beside}_apart", name=f"{name}_window")
    graph.add(Reshape(out.shape), f"{name}_window", name=name)


def _check_counts(op: Op, rows: list[_Row]) -> None:
    """Raise :exc:`HwgenError` if a mean would count rows that it must not."""
    if isinstance(op, AveragePool) and not op.count_include_pad and (
        len(rows) < op.kernel[0] or any(row.before or row.after for row in rows)
    ):
        raise HwgenError("Padding above or below that does not count in a mean cannot be split")


def _stream(graph: Graph, name: str, tensor: str, row: _Row, stride: int, fill: int) -> str:
    """The rows that one row of a kernel meets, as a tensor."""
    frame = graph.types[tensor]
    height, *inner = frame.spatial
    crop, rest = (-row.first, row.last + 1 - height), ((0, 0),) * len(inner)
    fills = row.before or row.after
    stream = f"{name}_row{row.tap}"
    if any(crop) or stride > 1:
        crops = Pad((crop, *rest), None, (stride, *(1 for _ in inner)))
        tensor = graph.add(crops, tensor, name=f"{name}_crop{row.tap}" if fills else stream)
    if not fills:
        return tensor
    # Of a frame that is one long row, added pixels need no row kept: each reads the nearest pixel.
    have, width = graph.types[tensor], math.prod(inner)
    if inner:
        tensor = graph.add(Reshape((have.pixels, have.channels)), tensor,
                           name=f"{name}_flat{row.tap}")
    graph.add(Pad(((row.before * width, row.after * width),), fill), tensor, name=stream)
    if not inner:
        return stream
    shape = (row.before + have.spatial[0] + row.after, *inner, have.channels)
    return graph.add(Reshape(shape), stream, name=f"{name}_shaped{row.tap}")
