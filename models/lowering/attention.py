"""Attention: queries, keys and values as tokens, each with its heads side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hwgen.ir import Attention, Quantisation
from hwgen.ir.attention import HIDDEN
from hwgen.models.lowering.layout import arrangement
from hwgen.models.lowering.ranges import keeping_codes
from hwgen.models.onnx.attention import AttentionPattern, Operand
from hwgen.models.onnx.network import Network

if TYPE_CHECKING:
    from hwgen.models.lowering.core import Lowering

__all__ = ["Side", "put_attention", "symmetric", "symmetric_tensors", "windows_of"]


def symmetric(most: float, bits: int) -> Quantisation:
    """Codes without a zero point, of at most 8 bits, for values up to ``most`` in magnitude."""
    bits = min(bits, 8)
    return Quantisation(float(np.float32(most / ((1 << (bits - 1)) - 1))), 0, bits)


def symmetric_tensors(network: Network) -> set[str]:
    """Tensors whose codes have no zero point: operands of attention, and what they are parts of."""
    return keeping_codes(network, {each.name for pattern in network.attention.values()
                                   for each in (pattern.q, pattern.k, pattern.v)})


def put_attention(low: Lowering, pattern: AttentionPattern) -> None:
    """Add an attention in the place of its second product."""
    sides = [Side(low, operand) for operand in (pattern.q, pattern.k, pattern.v)]
    groups = windows_of(sides)
    windows, heads = groups.shape
    kv_heads = np.lcm(sides[1].kinds(groups), sides[2].kinds(groups))
    q, k, v = (side.tensor(groups, n) for side, n in zip(
        sides, (heads, kv_heads, kv_heads), strict=True))
    result = low.result(pattern.out)
    bias, causal = None, False
    if pattern.bias is not None:
        bias = pattern.bias[groups]
        # Keys behind a token's own are not even looked at.
        queries, keys = bias.shape[2:]
        behind = ~np.tri(queries, keys, keys - queries, dtype=bool)
        top = bias.max(-1, keepdims=True)
        causal = queries <= keys and bool(behind.any()) and bool(
            (bias[..., behind] <= (top + HIDDEN).repeat(keys, -1)[..., behind]).all())
        if causal:
            bias = np.where(behind, bias[..., :1], bias)
    op = Attention.from_types(
        heads, low.type(q), low.type(k), low.type(v), result.quantisation, pattern.scale[groups],
        kv_heads=int(kv_heads), causal=causal, windows=windows, bias=bias)
    shape = low.shape(pattern.out)
    channels, tokens = shape[-2:] if pattern.turned else shape[:-3:-1]
    stream = np.arange(tokens * channels * groups.size)
    stream = stream.reshape(windows, tokens, heads, channels).transpose(0, 2, 1, 3)
    positions = np.empty((groups.size, tokens, channels), np.int64)
    positions[groups.ravel()] = stream.reshape(positions.shape)
    if pattern.turned:
        positions = positions.swapaxes(1, 2)
    low.put(result.name, op, q, k, v, positions=positions.reshape(shape))


class Side:
    """Queries, keys or values.

    Parameters
    ----------
    low : the lowering
    operand : what the pattern says

    Members
    -------
    positions : of the elements in the stream, shape ``(groups, tokens, channels)``
    """

    def __init__(self, low: Lowering, operand: Operand) -> None:
        self.low, self.name = low, operand.name
        self.view, positions = low.view(operand.name), low.positions(operand.name)
        if operand.turned:
            positions = positions.swapaxes(-1, -2)
        ends = positions.shape[-2:]
        every = np.broadcast_to(positions, (*operand.extents, *ends))
        self.positions = every.reshape(-1, *ends)[operand.order]

    @property
    def pixels(self) -> np.ndarray | None:
        """Pixel of each token, shape ``(groups, tokens)``; None if one is spread over several."""
        pixels = self.positions // self.low.type(self.view.tensor).channels
        return pixels[..., 0] if (pixels == pixels[..., :1]).all() else None

    def kinds(self, groups: np.ndarray) -> int:
        """Number of heads of a window that differ; heads that follow one another may be alike."""
        by_head = self.positions[groups].reshape(*groups.shape, -1)
        heads = groups.shape[1]
        return next(n for n in range(1, heads + 1) if heads % n == 0 and (
            by_head.reshape(len(by_head), n, heads // n, -1)
            == by_head[:, :: heads // n, None]).all())

    def _tokens(self, groups: np.ndarray, heads: int) -> np.ndarray:
        """Positions of the tokens, window after window, each with so many heads side by side."""
        tokens = self.positions[groups[:, :: groups.shape[1] // heads]].transpose(0, 2, 1, 3)
        return tokens.reshape(1, len(groups) * tokens.shape[1], -1)

    def in_order(self, groups: np.ndarray) -> bool:
        """Whether the tokens come as they are wanted, but for an order of their channels."""
        tensor = self.low.type(self.view.tensor)
        return arrangement(self._tokens(groups, groups.shape[1]), tensor.shape, 2) is not None

    def tensor(self, groups: np.ndarray, heads: int, *, wide: bool = False) -> str:
        """The tokens, window after window, each with so many heads side by side.

        Parameters
        ----------
        wide : whether codes may have more than 8 bits; those with a zero point then stay exact
        """
        low = self.low
        tensor = low.arranged(self.view.tensor, self._tokens(groups, heads), self.name, 2)
        have = low.type(tensor).quantisation
        if wide and have.zero_point and have.bits < 16:
            return low.rescaled(tensor, Quantisation(have.scale, 0, have.bits + 1))
        if have.zero_point or (have.bits > 8 and not wide):
            most = max(have.high - have.zero_point, have.zero_point - have.low) * have.scale
            tensor = low.rescaled(tensor, symmetric(most, have.bits))
        return tensor


def windows_of(sides: list[Side]) -> np.ndarray:
    """Which group each head of each window is, shape ``(windows, heads)``.

    Heads of a window are different channels of the same tokens.
    """
    count = len(sides[0].positions)
    pixels = [side.pixels for side in sides]
    known = [each for each in pixels if each is not None]
    if not known:
        return np.arange(count)[:, None]
    _, first, of = np.unique(np.concatenate(known, 1), axis=0, return_index=True,
                             return_inverse=True)
    of = of.ravel()
    windows = [np.flatnonzero(of == of[k]) for k in np.sort(first)]
    if len({len(window) for window in windows}) > 1:
        return np.arange(count)[:, None]
    return np.stack(windows)
