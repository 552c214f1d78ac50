"""Attention: queries, keys and values as tokens, each with its heads side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import Attention, Quantisation
from hwgen.models.lowering.ranges import KEEPS
from hwgen.models.onnx.attention import AttentionPattern
from hwgen.models.onnx.network import Network

if TYPE_CHECKING:
    from hwgen.models.lowering.core import Lowering

__all__ = ["put_attention", "symmetric", "symmetric_tensors"]


def symmetric(most: float, bits: int) -> Quantisation:
    """Codes without a zero point, of at most 8 bits, for values up to ``most`` in magnitude."""
    bits = min(bits, 8)
    return Quantisation(float(np.float32(most / ((1 << (bits - 1)) - 1))), 0, bits)


def symmetric_tensors(network: Network) -> set[str]:
    """Tensors whose codes have no zero point: operands of attention, and what they are parts of."""
    makers = {out: node for node in network.nodes for out in node.output}
    found: set[str] = set()
    for pattern in network.attention.values():
        for name in (pattern.q, pattern.k, pattern.v):
            found.add(name)
            while name in makers and makers[name].op_type in KEEPS:
                name = makers[name].input[0]
                found.update((name, *makers[name].output) if name in makers else (name,))
    return found - {*network.inputs, *network.codes}


def put_attention(low: Lowering, pattern: AttentionPattern) -> None:
    """Add an attention in the place of its second product."""
    q, heads = _operand(low, pattern.q)
    k, kv_heads = _operand(low, pattern.k, turned=True)
    v, value_heads = _operand(low, pattern.v)
    if kv_heads != value_heads:
        # One of them is shared by more heads; both come as the other does.
        k, kv_heads = _operand(low, pattern.k, turned=True, shared=False)
        v, _ = _operand(low, pattern.v, shared=False)
    result = low.result(pattern.out)
    op = Attention.from_types(
        heads, low.type(q), low.type(k), low.type(v), result.quantisation, pattern.scale,
        kv_heads=kv_heads, causal=pattern.causal)
    shape = low.shape(pattern.out)
    tokens, channels = shape[-2:]
    positions = np.arange(tokens * heads * channels).reshape(tokens, heads, channels)
    low.put(result.name, op, q, k, v, positions=positions.transpose(1, 0, 2).reshape(shape))


def _operand(
    low: Lowering, name: str, *, turned: bool = False, shared: bool = True
) -> tuple[str, int]:
    """An operand as tokens with their heads side by side, and how many heads there are.

    Parameters
    ----------
    name : ONNX tensor ``(…, tokens, d)``
    turned : whether it is ``(…, d, tokens)``
    shared : whether heads that are the same shall be one
    """
    view, positions = low.view(name), low.positions(name)
    if turned:
        positions = positions.swapaxes(-1, -2)
    if positions.ndim < 3:
        raise HwgenError(f"{name!r} of shape {low.shape(name)} has no heads")
    by_head = positions.reshape(-1, *positions.shape[-2:])
    heads = len(by_head)
    if shared:
        same = next(n for n in range(heads, 0, -1) if heads % n == 0 and (
            by_head.reshape(heads // n, n, -1) == by_head[::n].reshape(heads // n, 1, -1)).all())
        by_head = by_head[::same]
    tokens = by_head.transpose(1, 0, 2).reshape(1, by_head.shape[1], -1)
    tensor = low.arranged(view.tensor, tokens, name, 2)
    have = low.type(tensor).quantisation
    if have.zero_point or have.bits > 8:
        most = max(have.high - have.zero_point, have.zero_point - have.low) * have.scale
        tensor = low.rescaled(tensor, symmetric(most, have.bits))
    return tensor, len(by_head)
