"""Ranges that several tensors share, because an op between them keeps codes as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np

from hwgen.ir import Quantisation
from hwgen.models.onnx.network import Network

__all__ = ["Ranges", "keeping_codes", "range_codes", "shared_ranges", "sum_codes"]

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name to its smallest and largest value."""

KEEPS = {
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalMaxPool", "MaxPool", "Pad",
    "ReduceMax", "ReduceMin", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze", "Upsample",
}
"""Ops whose outputs have the codes of their inputs."""


def keeping_codes(network: Network, tensors: Iterable[str]) -> set[str]:
    """Tensors, and what they are parts of in the same codes, but for those whose codes are given.
    """
    makers = {out: node for node in network.nodes for out in node.output}
    found: set[str] = set()
    for name in tensors:
        found.add(name)
        while name in makers and makers[name].op_type in KEEPS:
            name = makers[name].input[0]
            found.update((name, *makers[name].output) if name in makers else (name,))
    return found - {*network.inputs, *network.codes}


def shared_ranges(
    network: Network, ranges: Ranges
) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Give one range to tensors that a Concat joins, or that keep their codes.

    Inputs, and tensors whose codes the file states, share with nobody.

    Returns
    -------
    ranges : by tensor; those of a group at its representative
    groups : tensor to the representative of its group, without the representatives
    """
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        while name in parents:
            name = parents[name]
        return name

    fixed = {*network.constants, *network.inputs, *network.codes, ""}
    shared = dict(ranges)
    for node in network.nodes:
        if node.op_type == "Gather" and node.input[0] in network.constants:
            # Rows that no frame of the calibration had may come as well.
            table, (out,) = network.constants[node.input[0]], node.output
            low, high = ranges.get(out, (0.0, 0.0))
            shared[out] = min(low, float(table.min())), max(high, float(table.max()))
            continue
        several = node.op_type in ("Max", "Min") and sum(t not in fixed for t in node.input) > 1
        if node.op_type not in KEEPS and not several:
            continue
        for a, b in pairwise([t for t in (*node.input, *node.output) if t not in fixed]):
            if find(a) != find(b):
                parents[find(b)] = find(a)
    for name, (low, high) in list(shared.items()):
        root = find(name)
        if root != name:
            have = shared.get(root, (low, high))
            shared[root] = (min(low, have[0]), max(high, have[1]))
    return shared, {name: find(name) for name in parents}


def range_codes(low: float, high: float, bits: int) -> Quantisation:
    """Codes whose steps divide a range evenly; it is widened until it holds 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    steps = (1 << bits) - 1
    scale = float(np.float32((high - low) / steps)) or 1.0
    bottom = -(1 << (bits - 1))
    zero = int(np.clip(round(bottom - low / scale), bottom, bottom + steps))
    return Quantisation(scale, zero, bits)


def sum_codes(most: float) -> Quantisation:
    """Codes of sums in front of the gates of a cell, for values up to ``most`` in magnitude.

    A gate is all but open or closed at 8.  Steps are powers of two, so that they divide those of
    the tables (:class:`hwgen.ir.Recurrent`).
    """
    power = int(np.ceil(np.log2(max(most * 2048 / 2047 / 8, 1.0))))
    return Quantisation(2.0 ** (power - 8), 0, 12)
