"""Products of two streams that are no attention: ``A B``, with either operand held in a memory.

Which operand comes row by row, and which axes are tokens and which channels, is free: of four ways
the one is taken that moves the least.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx

from hwgen.errors import HwgenError
from hwgen.ir import MatMul, Quantisation, Requantise
from hwgen.models.lowering.attention import Side, windows_of
from hwgen.models.lowering.ranges import keeping_codes
from hwgen.models.onnx.attention import Operand
from hwgen.models.onnx.network import Network

if TYPE_CHECKING:
    from hwgen.models.lowering.core import Lowering

__all__ = ["is_product", "product_tensors", "put_product", "wide_symmetric"]


def is_product(network: Network, node: onnx.NodeProto) -> bool:
    """Whether a node is a product of two streams that is in no attention."""
    return (node.op_type == "MatMul" and network.constants.keys().isdisjoint(node.input)
            and node.output[0] not in network.attention
            and node.output[0] not in network.absorbed)


def product_tensors(network: Network) -> set[str]:
    """Tensors whose codes have no zero point: operands of products, and what they are parts of."""
    operands = {name for node in network.nodes if is_product(network, node) for name in node.input}
    return keeping_codes(network, operands)


def wide_symmetric(low: float, high: float, bits: int) -> Quantisation:
    """Codes without a zero point; one bit more where values have one sign, for as fine a step."""
    most = max(-low, high) or 1.0
    bits = min(bits + (low >= 0 or high <= 0), 16)
    return Quantisation(float(np.float32(most / ((1 << (bits - 1)) - 1))), 0, bits)


@dataclass(frozen=True)
class _Way:
    """A way to compute a product.

    Members
    -------
    form : of the op
    swapped : whether rows are columns of the second operand, and results those of the product
    rows, held : the operand that comes row by row, and the one in the memory
    groups : which group each head of each window is, shape ``(windows, heads)``
    """

    form: str
    swapped: bool
    rows: Side
    held: Side
    groups: np.ndarray

    @property
    def cost(self) -> tuple[int, int]:
        """Elements that are brought into another order, and those that are held."""
        moved = sum(side.positions.size for side in (self.rows, self.held)
                    if not side.in_order(self.groups))
        return moved, self.held.positions.size


def _ways(low: Lowering, node: onnx.NodeProto) -> Iterator[_Way]:
    """The ways to compute a product: ``A`` by rows or ``B`` by columns, the other one either way.

    Tokens of the one in the memory are what results are of, or what is summed over.
    """
    a, b = node.input
    extents = low.shape(node.output[0])[:-2]
    order = np.arange(int(np.prod(extents)))
    for swapped in (False, True):
        for form in ("scores", "values"):
            turned = [form == "scores", False] if not swapped else [True, form == "values"]
            one = Operand(b if swapped else a, swapped, extents, order)
            other = Operand(a if swapped else b, turned[swapped], extents, order)
            sides = Side(low, one), Side(low, other)
            yield _Way(form, swapped, *sides, windows_of(list(sides)))


def put_product(low: Lowering, node: onnx.NodeProto) -> None:
    """Add a product of two streams, with a factor that stands behind it."""
    out = node.output[0]
    if min(len(low.shape(name)) for name in node.input) < 2:
        raise HwgenError("a product of a stream of vectors is not supported: only of matrices")
    affine = low.affine.get(out)
    result, factor = low.result(affine.end if affine else out), (
        float(affine.scale) if affine else 1.0)
    way = min(_ways(low, node), key=lambda each: each.cost)
    windows, heads = way.groups.shape
    tensors = [side.tensor(way.groups, heads, wide=True) for side in (way.rows, way.held)]
    ratio = factor * low.type(tensors[0]).scale * low.type(tensors[1]).scale
    codes = result.quantisation
    rule = Requantise.from_scale(ratio / codes.scale, min(max(codes.bits + 9, 12), 24))
    shape = low.shape(out)
    channels, tokens = shape[:-3:-1] if not way.swapped else shape[-2:]
    stream = np.arange(tokens * channels * way.groups.size)
    stream = stream.reshape(windows, tokens, heads, channels).transpose(0, 2, 1, 3)
    positions = np.empty((way.groups.size, tokens, channels), np.int64)
    positions[way.groups.ravel()] = stream.reshape(positions.shape)
    if way.swapped:
        positions = positions.swapaxes(1, 2)
    low.put(result.name, MatMul(heads, way.form, rule, codes, windows), *tensors,
            positions=positions.reshape(shape))
