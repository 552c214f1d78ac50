"""Pruning: thresholds that make activations and weights zero.

What is zero takes no multiplier in :mod:`hwgen.blocks.sparse_conv`.  Thresholds are rewrites of the
integer graph, so what they mean stays exact: a threshold of activations is a table (the thresholded
ReLU of HASS, Yu et al., "HASS: Hardware-Aware Sparsity Search for Dataflow DNN Accelerator", 2024,
section III), one of weights other weights.

Output channels that are computed together share the test for zeros, so a weight saves time only
where those of all of them are zero at its tap and input channel: weights are pruned in groups of
``pe`` output channels, as hardware forms them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hwgen.errors import HwgenError, naming
from hwgen.ir import Conv, Gemm, Graph, Op, Table, TensorType
from hwgen.models.quantisation.bias import corrected_bias

__all__ = [
    "LayerSparsity",
    "channel_means",
    "kept_groups",
    "prune",
    "sparsity",
    "threshold",
]

UNITS = "real", "codes"
"""Units of the thresholds of activations."""
WAYS = "sparsity", "codes"
"""Ways to say which weights are pruned."""


# Activations

def threshold(graph: Graph, thresholds: Mapping[str, float], *, unit: str = "real") -> Graph:
    """A graph in which values of some tensors that are near to zero become zero.

    Values with ``|x| < t`` become the zero point, for whoever reads the tensor.  If a table makes
    the tensor, or only tables read it, these change; otherwise a table ``NAME/threshold`` comes
    behind it.  An output of the graph stays what it was.

    Parameters
    ----------
    graph : integer graph, left as it is
    thresholds : by name of a node or tensor
    unit : ``"real"``, as the float network has them; ``"codes"``: steps of the tensor

    Raises
    ------
    :exc:`HwgenError`
        If there is no such tensor, or a threshold is negative, no number, or beyond the largest
        magnitude of its tensor.
    """
    if unit not in UNITS:
        raise HwgenError(f"Unit must be one of {', '.join(UNITS)}, not {unit!r}")
    for name, least in thresholds.items():
        if name not in graph.types:
            raise HwgenError(f"The graph has no tensor {name!r} to threshold")
        graph = _thresholded(graph, name, _steps(name, graph.types[name], least, unit))
    return graph


def _steps(name: str, type: TensorType, least: float, unit: str) -> float:
    """A threshold in steps of a tensor."""
    q = type.quantisation
    scale = q.scale if unit == "real" else 1.0
    most = max(q.high - q.zero_point, q.zero_point - q.low) * scale
    # Not a number is neither smaller nor larger.
    if not 0 <= least <= most:
        raise HwgenError(f"Threshold of {name!r} must be between 0 and {most:g}, the largest "
                         f"magnitude of the tensor, not {least!r}")
    return least / scale


def _thresholded(graph: Graph, name: str, steps: float) -> Graph:
    q = graph.types[name].quantisation
    codes = np.arange(q.low, q.high + 1)
    image = np.where(abs(codes - q.zero_point) < steps, q.zero_point, codes)
    if (image == codes).all():
        return graph
    readers = [node for node in graph.nodes if name in node.inputs]
    made = next((node for node in graph.nodes if name in node.outputs), None)
    ops: dict[str, Op] = {}
    if made is not None and isinstance(made.op, Table) and name not in graph.outputs:
        ops[name] = replace(made.op, values=image[made.op.values.astype(np.int64) - q.low])
    elif readers and all(isinstance(node.op, Table) for node in readers):
        for node in readers:
            assert isinstance(node.op, Table)
            ops[node.name] = replace(node.op, values=node.op.values[..., image - q.low])
    elif not readers:
        raise HwgenError(f"Nothing in the graph reads {name!r}: a threshold would change nothing")
    else:
        return _rewritten(graph, {}, (name, Table(image, q)))
    return _rewritten(graph, ops)


def _rewritten(
    graph: Graph, ops: Mapping[str, Op], table: tuple[str, Table] | None = None
) -> Graph:
    """A graph with other ops for some nodes, and a table between a tensor and its readers."""
    new = Graph(meta=dict(graph.meta))
    renamed: dict[str, str] = {}

    def follow(names: Iterable[str]) -> None:
        if table is not None and table[0] in names:
            base = free = f"{table[0]}/threshold"
            taken, number = graph.types, 1
            while free in taken:
                number += 1
                free = f"{base}{number}"
            renamed[table[0]] = new.add(table[1], table[0], name=free)

    for name, type in graph.inputs.items():
        new.add_input(name, type)
    follow(graph.inputs)
    for node in graph.nodes:
        op = ops.get(node.name, node.op)
        new.add_node(op, [renamed.get(t, t) for t in node.inputs], node.outputs)
        follow(node.outputs)
    new.outputs = list(graph.outputs)
    return new


# Weights

def prune(
    graph: Graph, layers: Mapping[str, float], *, by: str = "sparsity",
    pe: int | Mapping[str, int] = 1, means: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """A graph in which small weights of some layers are zero.

    Parameters
    ----------
    graph : integer graph, left as it is
    layers : by name of a convolution or matrix, how much is pruned
    by : ``"sparsity"``: at least that share of the groups of weights becomes zero, those that are
        smallest once multiplied by the scales of their channels.  ``"codes"``: all groups whose
        root mean square is below that many steps.
    pe : output channels of a group, one number or by name; 1: every weight by itself
    means : mean code of each channel of tensors (:func:`channel_means`)
        Where a layer's input has some, its biases make up for what pruned weights added on average.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such layer, or a number is out of range.
    """
    if by not in WAYS:
        raise HwgenError(f"Weights are pruned by one of {', '.join(WAYS)}, not by {by!r}")
    nodes = {node.name: node for node in graph.nodes}
    ops: dict[str, Op] = {}
    for name, amount in layers.items():
        if name not in nodes:
            raise HwgenError(f"The graph has no node {name!r} to prune")
        op, tensor = nodes[name].op, nodes[name].inputs[0]
        if not isinstance(op, Conv | Gemm):
            raise HwgenError(f"{name!r} is no convolution or matrix: {op.__class__.__name__} has "
                             f"no weights to prune")
        size = pe if isinstance(pe, int) else pe.get(name, 1)
        mean = None if means is None else means.get(tensor)
        with naming(f"Pruning {name!r}"):
            ops[name] = _pruned(op, graph.types[tensor], amount, by, size, mean)
    return _rewritten(graph, ops)


def _pruned(
    op: Conv | Gemm, type: TensorType, amount: float, by: str, pe: int, mean: np.ndarray | None
) -> Conv | Gemm:
    weight, groups = op.weight.astype(np.float64), op.groups if isinstance(op, Conv) else 1
    if by == "codes":
        limit = int(abs(op.weight.astype(np.int64)).max())
        if not 0 <= amount <= limit:
            raise HwgenError(f"Threshold must be between 0 and {limit}, the largest weight, "
                             f"not {amount!r}")
        keep = kept_groups(weight, pe=pe, groups=groups, least=amount)
    else:
        scale = np.ldexp(op.requantise.multiplier.astype(np.float64), -op.requantise.shift)
        real = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
        keep = kept_groups(real, pe=pe, groups=groups, sparsity=amount)
    left = np.where(keep, op.weight, 0)
    gone = (op.weight - left).reshape(len(left), -1).astype(np.int64)
    # The bias of zeros of the tensor goes with the weights.
    bias = op.bias + type.zero_point * gone.sum(1)
    if mean is not None:
        centred = np.asarray(mean, np.float64) - type.zero_point
        if isinstance(op, Gemm):
            centred = np.tile(centred, type.pixels)
        bias = np.rint(corrected_bias(weight, left, bias, centred)).astype(np.int64)
    return replace(op, weight=left, bias=bias)


def kept_groups(
    weight: np.ndarray, *, pe: int = 1, groups: int = 1, sparsity: float = 0.0, least: float = 0.0
) -> np.ndarray:
    """Which weights stay when whole groups are pruned, as booleans of the weights' shape.

    Parameters
    ----------
    weight : shape ``(Cout, …)``
    pe : output channels of a group, consecutive ones; the last group of a run has what is left
    groups : of the convolution; a group of weights lies within one
    sparsity : share of groups that go, the smallest by their root mean square
    least : all groups whose root mean square is smaller go

    Raises
    ------
    :exc:`HwgenError`
        If ``pe`` is not that of a layer, or the share not within 0 and 1.
    """
    cout = len(weight) // groups
    if not 1 <= pe <= cout:
        raise HwgenError(f"Pe must be between 1 and {cout}, not {pe!r}")
    if not 0 <= sparsity < 1:
        raise HwgenError(f"Sparsity must be 0 or more and below 1, not {sparsity!r}")
    starts = np.arange(0, cout, pe)
    squares = np.square(weight.reshape(groups, cout, -1), dtype=np.float64)
    sizes = np.diff(np.r_[starts, cout])
    norms = np.sqrt(np.add.reduceat(squares, starts, axis=1) / sizes[:, None])
    keep = norms >= least
    order = norms.ravel().argsort(kind="stable")
    keep.ravel()[order[: math.floor(sparsity * order.size + 0.5)]] = False
    return np.repeat(keep, sizes, axis=1).reshape(weight.shape)


def channel_means(graph: Graph, frames: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean code of each channel of what layers with weights read, float64 ``(C,)`` by tensor."""
    tensors = {node.inputs[0] for node in graph.nodes if isinstance(node.op, Conv | Gemm)}
    values = graph.evaluate(frames, keep=sorted(tensors))
    return {name: value.reshape(-1, value.shape[-1]).mean(0, dtype=np.float64)
            for name, value in values.items()}


# Measurements

@dataclass(frozen=True)
class LayerSparsity:
    """How much of a layer is zero, as shares of 1.

    Members
    -------
    name : of the node
    macs : products of a frame
    weights : zeros among the weights
    groups : groups of ``pe`` weights that are all zero
    activations : zeros among the values that the layer reads
    products : products that are zero for either reason, those of padding among them
    """

    name: str
    macs: int
    weights: float
    groups: float
    activations: float
    products: float


def sparsity(
    graph: Graph, frames: Mapping[str, np.ndarray], pe: int | Mapping[str, int] = 1
) -> list[LayerSparsity]:
    """How much is zero in every convolution and matrix, measured on frames.

    Parameters
    ----------
    graph : the integer graph
    frames : input name to integers ``(frames, *shape)``
    pe : output channels of a group of weights, one number or by name
    """
    nodes = [node for node in graph.nodes if isinstance(node.op, Conv | Gemm)]
    values = graph.evaluate(frames, keep=sorted({node.inputs[0] for node in nodes}))
    rows = []
    for node in nodes:
        type, x = graph.types[node.inputs[0]], values[node.inputs[0]]
        op = node.op.as_conv(type) if isinstance(node.op, Gemm) else node.op
        assert isinstance(op, Conv)
        size = min(pe if isinstance(pe, int) else pe.get(node.name, 1), op.cout // op.groups)
        there = x != type.zero_point
        # Per tap and channel of a group, how often there is a value, and in how many weights.
        met = np.stack([view.reshape(-1, type.channels).sum(0, dtype=np.int64)
                        for view in op.window.views(there, 0)])
        cin = op.weight.shape[-1]
        used = (op.weight != 0).reshape(op.groups, -1, op.window.taps, cin).sum(1)
        done = (met.reshape(-1, op.groups, cin).swapaxes(0, 1) * used).sum()
        macs = op.macs(type)
        rows.append(LayerSparsity(
            node.name, macs,
            weights=float((op.weight == 0).mean()),
            groups=1 - float(_group_share(op, size)),
            activations=1 - float(there.mean()),
            products=1 - float(done / (macs * len(x))),
        ))
    return rows


def _group_share(op: Conv, pe: int) -> float:
    """Share of groups with a weight that is not zero."""
    cout = op.cout // op.groups
    used = (op.weight != 0).reshape(op.groups, cout, -1)
    return np.logical_or.reduceat(used, np.arange(0, cout, pe), axis=1).mean()
