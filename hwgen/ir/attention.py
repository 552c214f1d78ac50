"""Attention: every token's weighted mean of values, the weights a softmax of its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = ["Attention"]

STEPS = 256
"""Entries of the table of exponentials."""
STEPS_PER_NAT = 32
"""By how many entries an exponent of 1 is apart."""
LARGEST = 127
"""The exponential of 0: so the largest of a row, and with 7 bits as good as a signed code."""
RECIPROCAL_BITS = 17
"""Least bits of a row's reciprocal."""
PRODUCT_BITS = 52
"""Most bits of a row's sums times its reciprocal: a double holds them."""


@dataclass(frozen=True, eq=False)
class Attention(Op):
    """``softmax(Q K^T) V`` for each head, in integers; scores are never requantised.

    For a query and the keys that it may see, with all zero points 0::

        score[j] = sum_c q[c] * k[j, c]
        e[j] = exp[min(255, (max(score) - score[j]) * M >> s)]
        sum[c] = sum_j e[j] * v[j, c]
        out[c] = clamp(zp + round_half_even(sum[c] * (numerator // sum_j e[j]) / 2**shift))

    The forms are integer: accumulators are kept, differences from a row's largest score are looked
    up in steps of 1/32, and a row is divided by the sum of its exponentials after the product with
    the values, by one reciprocal for the row.  (I-BERT and I-ViT approximate the exponential by
    polynomials and shifts instead; HG-PIPE has a table of 32 entries.)

    Inputs are tokens, one after the other, each with its heads' channels side by side: queries
    ``(tokens, heads * d)``, keys ``(keys, kv_heads * d)``, values ``(keys, kv_heads * e)``; the
    output is ``(tokens, heads * e)``.  With fewer heads of keys than of queries, each serves as
    many that follow one another (Ainslie et al., "GQA", 2023).

    Parameters
    ----------
    heads, kv_heads : :class:`int`
        Heads of the queries, and of the keys and values, a divisor of the former.
    step : :class:`Requantise`
        One multiplier and shift: from differences of scores to entries of the table.
    exp : integer array, shape ``(256,)``
        Exponentials, 0..127, the first not 0.
    numerator : :class:`int`
        What is divided by the sum of a row, below ``2**40``.
    shift : :class:`int`
        1..47.
    output : :class:`Quantisation`
    causal : :class:`bool`
        Whether a token sees only keys up to its own: query ``i`` of ``n`` sees the first
        ``keys - n + i + 1``.

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    heads: int
    kv_heads: int
    step: Requantise
    exp: np.ndarray
    numerator: int
    shift: int
    output: Quantisation
    causal: bool = False
    arity = 3

    def __post_init__(self) -> None:
        exp = whole(self.exp, "Exponentials")
        if exp.shape != (STEPS,) or exp.min() < 0 or exp.max() > LARGEST or exp[0] < 1:
            raise HwgenError(f"Exponentials must be {STEPS} numbers of 0..{LARGEST}, the first at "
                             f"least 1")
        object.__setattr__(self, "exp", exp)
        if self.heads < 1 or self.kv_heads < 1 or self.heads % self.kv_heads:
            raise HwgenError(f"Heads of keys must divide the {self.heads} of queries, not "
                             f"{self.kv_heads!r}")
        if len(self.step) != 1 or self.step.offset is not None:
            raise HwgenError("Attention needs one multiplier without an offset for its scores")
        if not exp[0] <= self.numerator < 1 << 40:
            raise HwgenError(f"Numerator must be from {exp[0]} to 2**40, not {self.numerator!r}")
        if not 1 <= self.shift <= 47:
            raise HwgenError(f"Shift must be between 1 and 47, not {self.shift!r}")

    @classmethod
    def from_types(
        cls, heads: int, q: TensorType, k: TensorType, v: TensorType, output: Quantisation,
        scale: float, *, kv_heads: int = 0, causal: bool = False,
    ) -> Attention:
        """The closest integer form of ``softmax(scale * Q K^T) V``.

        Parameters
        ----------
        heads, kv_heads : as for the op; 0 heads of keys: as many as of queries
        q, k, v : types of the inputs
        output : codes of the result
        scale : what scores are multiplied by in front of the softmax, positive
        """
        step = Requantise.from_scale(q.scale * k.scale * scale * STEPS_PER_NAT)
        exp = np.rint(LARGEST * np.exp(-np.arange(STEPS) / STEPS_PER_NAT)).astype(np.int64)
        ratio, keys = v.scale / output.scale, k.pixels
        # The smallest reciprocal, of a row whose exponentials are all the largest, is fine enough.
        bits = RECIPROCAL_BITS + (LARGEST * keys).bit_length()
        shift = min(bits - int(np.frexp(ratio)[1]), 47)
        return cls(heads, kv_heads or heads, step, exp, round(ratio * 2.0**shift), shift,
                   output, causal)

    def head_channels(self, *inputs: TensorType) -> tuple[int, int]:
        """Channels of a head of the queries and keys, and of the values."""
        return inputs[0].channels // self.heads, inputs[2].channels // self.kv_heads

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        q, k, v = inputs
        if any(t.zero_point for t in inputs):
            raise HwgenError("Attention needs queries, keys and values with zero point 0, not "
                             f"{[t.zero_point for t in inputs]!r}")
        if any(t.bits > 8 for t in inputs):
            raise HwgenError("Attention needs queries, keys and values of at most 8 bits, not "
                             f"{[t.bits for t in inputs]!r}")
        if q.channels % self.heads or k.channels % self.kv_heads or v.channels % self.kv_heads or (
                q.channels // self.heads != k.channels // self.kv_heads):
            raise HwgenError(f"{self.heads} heads of queries and {self.kv_heads} of keys and "
                             f"values do not fit {q.channels}, {k.channels} and {v.channels} "
                             f"channels")
        if k.pixels != v.pixels:
            raise HwgenError(f"There must be as many values as keys, not {v.pixels} and {k.pixels}")
        if self.causal and q.pixels > k.pixels:
            raise HwgenError(f"{q.pixels} queries of which each sees the keys up to its own need "
                             f"as many keys, not {k.pixels}")
        low, high = self.sum_range(v)
        if self.reciprocal_bits + max(-low, high).bit_length() > PRODUCT_BITS:
            raise HwgenError(f"Sums of {v.pixels} values times reciprocals of "
                             f"{self.reciprocal_bits} bits have more than {PRODUCT_BITS} bits")
        return (TensorType((*q.spatial, self.heads * self.head_channels(*inputs)[1]),
                           self.output),)

    @property
    def reciprocal_bits(self) -> int:
        """Bits of a row's reciprocal: the sum is at least the exponential of 0."""
        return (self.numerator // int(self.exp[0])).bit_length()

    def score_range(self, q: TensorType, k: TensorType) -> tuple[int, int]:
        """Smallest and largest score, for all inputs."""
        d, low_q, low_k = q.channels // self.heads, q.quantisation.low, k.quantisation.low
        return d * min(low_q * k.quantisation.high, low_k * q.quantisation.high), d * low_q * low_k

    def sum_range(self, v: TensorType) -> tuple[int, int]:
        """Smallest and largest sum of exponentials times values."""
        most = v.pixels * int(self.exp.max())
        return most * v.quantisation.low, most * v.quantisation.high

    def keys_seen(self, q: TensorType, k: TensorType) -> np.ndarray:
        """Per query, how many keys it sees: the first of them."""
        if not self.causal:
            return np.full(q.pixels, k.pixels)
        return np.arange(k.pixels - q.pixels, k.pixels) + 1

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        q, k, v = (
            x.reshape(len(x), type.pixels, heads, -1).transpose(0, 2, 1, 3).astype(np.float64)
            for x, type, heads in zip(
                inputs, types, (self.heads, self.kv_heads, self.kv_heads), strict=True))
        k, v = (x.repeat(self.heads // self.kv_heads, axis=1) for x in (k, v))
        # Sums stay below 2**53, so float64 is exact.
        scores = (q @ k.swapaxes(-1, -2)).astype(np.int64)
        seen = np.arange(types[1].pixels) < self.keys_seen(*types[:2])[:, None]
        largest = np.where(seen, scores, np.iinfo(np.int64).min).max(-1, keepdims=True)
        entry = (largest - scores) * self.step.multiplier[0] >> self.step.shift[0]
        e = np.where(seen, self.exp[np.clip(entry, 0, STEPS - 1)], 0)
        sums = (e.astype(np.float64) @ v).astype(np.int64)
        reciprocal = self.numerator // e.sum(-1, keepdims=True)
        out = requantise(sums * reciprocal, 1, self.shift, self.output)
        (type,) = self.infer(*types)
        return (out.transpose(0, 2, 1, 3).reshape(len(out), *type.shape),)

    def macs(self, *inputs: TensorType) -> int:
        q, k, _ = inputs
        return int(self.keys_seen(q, k).sum()) * self.heads * sum(self.head_channels(*inputs))
