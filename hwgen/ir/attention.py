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
BIAS_STEPS = 256
"""By how many steps of a bias an exponent of 1 is apart, at least."""
ALIKE = 1e-5
"""Biases that differ by no more, in nats, are the same."""
HIDDEN = -80.0
"""A key whose bias is so far below a row's largest, in nats, is hidden; masks add -100 or less."""


@dataclass(frozen=True, eq=False)
class Attention(Op):
    """``softmax(Q K^T) V`` for each head, in integers; scores are never requantised.

    For a query and the keys that it may see, with all zero points 0::

        score[j] = sum_c q[c] * k[j, c] + (bias[j] << bias_shift)
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

    The tokens may be cut into *windows*, equal numbers of tokens that follow one another: a query
    sees only keys of its own window (Liu et al., "Swin Transformer", 2021).  A bias of constants
    may be added to the scores, as for relative positions, and keys may be hidden.

    Parameters
    ----------
    heads, kv_heads : :class:`int`
        Heads of the queries, and of the keys and values, a divisor of the former.
    step : :class:`Requantise`
        From differences of scores to entries of the table: one multiplier, one for each head, or
        one for each head of each window, window after window; all with one shift.
    exp : integer array, shape ``(256,)``
        Exponentials, 0..127, the first not 0.
    numerator : :class:`int`
        What is divided by the sum of a row, below ``2**40``.
    shift : :class:`int`
        1..47.
    output : :class:`Quantisation`
    causal : :class:`bool`
        Whether a token sees only keys up to its own: query ``i`` of the ``n`` of a window sees the
        first ``keys - n + i + 1``.
    windows : :class:`int`
        Divides the number of queries, and that of keys.
    bias : integer array, shape ``(windows, heads, queries, keys)`` of a window, or None
        Either of the first two extents may be 1: the same for all.
    bias_shift : :class:`int`
        0..30.
    hidden : boolean array, shape as that of ``bias``, or None
        Which keys a query does not see.

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
    windows: int = 1
    bias: np.ndarray | None = None
    bias_shift: int = 0
    hidden: np.ndarray | None = None
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
        if type(self.windows) is not int or self.windows < 1:
            raise HwgenError(f"Windows must be a number of at least 1, not {self.windows!r}")
        legal = {1, self.heads, self.windows * self.heads}
        if len(self.step) not in legal or self.step.offset is not None or (
                self.step.shift != self.step.shift[0]).any():
            raise HwgenError("Attention needs one multiplier for its scores, or one for each head "
                             "or for each head of each window, with one shift and no offset")
        if not 0 <= self.bias_shift <= 30:
            raise HwgenError(f"Shift of the bias must be between 0 and 30, not "
                             f"{self.bias_shift!r}")
        if self.bias is not None:
            object.__setattr__(self, "bias", whole(self.bias, "Bias").astype(np.int64))
        if self.hidden is not None:
            object.__setattr__(self, "hidden", np.asarray(self.hidden, bool))
        for name, values in (("Bias", self.bias), ("Hidden keys", self.hidden)):
            if values is not None and (values.ndim != 4 or (
                    values.shape[0] not in (1, self.windows)
                    or values.shape[1] not in (1, self.heads))):
                raise HwgenError(f"{name} must have shape ({self.windows} or 1, {self.heads} or "
                                 f"1, queries, keys), not {values.shape!r}")
        if self.bias is not None and abs(self.bias).max(initial=0) >> 30:
            raise HwgenError("A bias must be below 2**30")
        if not exp[0] <= self.numerator < 1 << 40:
            raise HwgenError(f"Numerator must be from {exp[0]} to 2**40, not {self.numerator!r}")
        if not 1 <= self.shift <= 47:
            raise HwgenError(f"Shift must be between 1 and 47, not {self.shift!r}")

    @classmethod
    def from_types(
        cls, heads: int, q: TensorType, k: TensorType, v: TensorType, output: Quantisation,
        scale: float | np.ndarray, *, kv_heads: int = 0, causal: bool = False, windows: int = 1,
        bias: np.ndarray | None = None,
    ) -> Attention:
        """The closest integer form of ``softmax(scale * Q K^T + bias) V``.

        Parameters
        ----------
        heads, kv_heads, causal, windows : as for the op; 0 heads of keys: as many as of queries
        q, k, v : types of the inputs
        output : codes of the result
        scale : what scores are multiplied by in front of the softmax, positive; a number, or an
            array of shape ``(windows, heads)``, whose extents may be 1
        bias : in nats, shape as for the op; -inf, or less than a row's largest by 80: hidden
        """
        scales = np.broadcast_to(np.asarray(scale, np.float64), (1, 1) if np.ndim(scale) == 0 else (
            np.shape(scale)))
        if (scales == scales.flat[0]).all():
            scales = scales[:1, :1]
        elif (scales == scales[:1]).all():
            scales = np.broadcast_to(scales[:1], (1, heads))
        else:
            scales = np.broadcast_to(scales, (windows, heads))
        unit = q.scale * k.scale * scales
        # One shift for all, so that the largest has all its bits.
        step = Requantise.from_scale(unit.max() * STEPS_PER_NAT)
        ratio = unit.ravel() / unit.max() * step.multiplier[0]
        step = Requantise(np.maximum(np.rint(ratio), 1).astype(np.int64),
                          np.full(unit.size, step.shift[0]))
        exp = np.rint(LARGEST * np.exp(-np.arange(STEPS) / STEPS_PER_NAT)).astype(np.int64)
        ratio, keys = v.scale / output.scale, k.pixels // windows
        # The smallest reciprocal, of a row whose exponentials are all the largest, is fine enough.
        bits = RECIPROCAL_BITS + (LARGEST * keys).bit_length()
        shift = min(bits - int(np.frexp(ratio)[1]), 47)
        values, by, hidden = _bias(bias, unit) if bias is not None else (None, 0, None)
        return cls(heads, kv_heads or heads, step, exp, round(ratio * 2.0**shift), shift,
                   output, causal, windows, values, by, hidden)

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
        if q.pixels % self.windows or k.pixels % self.windows:
            raise HwgenError(f"{self.windows} windows must divide the {q.pixels} queries and the "
                             f"{k.pixels} keys")
        queries, keys = self.window_tokens(q, k)
        if self.causal and queries > keys:
            raise HwgenError(f"{queries} queries of which each sees the keys up to its own need "
                             f"as many keys, not {keys}")
        for name, values in (("Bias", self.bias), ("Hidden keys", self.hidden)):
            if values is not None and values.shape[2:] != (queries, keys):
                raise HwgenError(f"{name} of shape {values.shape!r} must be for {queries} queries "
                                 f"and {keys} keys")
        if self.hidden is not None and not self.seen(q, k).any(-1).all():
            raise HwgenError("A query must see at least one key")
        low, high = self.sum_range(v)
        if self.reciprocal_bits + max(-low, high).bit_length() > PRODUCT_BITS:
            raise HwgenError(f"Sums of {keys} values times reciprocals of "
                             f"{self.reciprocal_bits} bits have more than {PRODUCT_BITS} bits")
        return (TensorType((*q.spatial, self.heads * self.head_channels(*inputs)[1]),
                           self.output),)

    @property
    def reciprocal_bits(self) -> int:
        """Bits of a row's reciprocal: the sum is at least the exponential of 0."""
        return (self.numerator // int(self.exp[0])).bit_length()

    @property
    def multipliers(self) -> np.ndarray:
        """Multipliers of differences of scores, shape ``(windows, heads)`` or with extents of 1."""
        values = self.step.multiplier
        if len(values) == 1:
            return values.reshape(1, 1)
        return values.reshape(-1, self.heads)

    def window_tokens(self, q: TensorType, k: TensorType) -> tuple[int, int]:
        """Queries and keys of a window."""
        return q.pixels // self.windows, k.pixels // self.windows

    def product_range(self, q: TensorType, k: TensorType) -> tuple[int, int]:
        """Smallest and largest product of a query and a key, for all inputs."""
        d, low_q, low_k = q.channels // self.heads, q.quantisation.low, k.quantisation.low
        return d * min(low_q * k.quantisation.high, low_k * q.quantisation.high), d * low_q * low_k

    def score_range(self, q: TensorType, k: TensorType) -> tuple[int, int]:
        """Smallest and largest score, with its bias, for all inputs."""
        low, high = self.product_range(q, k)
        if self.bias is not None:
            low += int(self.bias.min()) << self.bias_shift
            high += int(self.bias.max()) << self.bias_shift
        return low, high

    def sum_range(self, v: TensorType) -> tuple[int, int]:
        """Smallest and largest sum of exponentials times values."""
        most = v.pixels // self.windows * int(self.exp.max())
        return most * v.quantisation.low, most * v.quantisation.high

    def keys_seen(self, q: TensorType, k: TensorType) -> np.ndarray:
        """Per query of a window, which keys come into question: the first so many."""
        queries, keys = self.window_tokens(q, k)
        if not self.causal:
            return np.full(queries, keys)
        return np.arange(keys - queries, keys) + 1

    def seen(self, q: TensorType, k: TensorType) -> np.ndarray:
        """Which keys each query sees, shape ``(windows, heads, queries, keys)`` or with 1."""
        keys = self.window_tokens(q, k)[1]
        seen = (np.arange(keys) < self.keys_seen(q, k)[:, None])[None, None]
        return seen if self.hidden is None else seen & ~self.hidden

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        # Frames, windows, heads, tokens, channels.
        q, k, v = (
            x.reshape(len(x), self.windows, type.pixels // self.windows, heads, -1)
            .transpose(0, 1, 3, 2, 4).astype(np.float64)
            for x, type, heads in zip(
                inputs, types, (self.heads, self.kv_heads, self.kv_heads), strict=True))
        k, v = (x.repeat(self.heads // self.kv_heads, axis=2) for x in (k, v))
        # Sums stay below 2**53, so float64 is exact.
        scores = (q @ k.swapaxes(-1, -2)).astype(np.int64)
        if self.bias is not None:
            scores += self.bias << self.bias_shift
        seen = self.seen(*types[:2])
        largest = np.where(seen, scores, np.iinfo(np.int64).min).max(-1, keepdims=True)
        entry = (largest - scores) * self.multipliers[..., None, None] >> self.step.shift[0]
        e = np.where(seen, self.exp[np.clip(entry, 0, STEPS - 1)], 0)
        sums = (e.astype(np.float64) @ v).astype(np.int64)
        reciprocal = self.numerator // e.sum(-1, keepdims=True)
        out = requantise(sums * reciprocal, 1, self.shift, self.output)
        (type,) = self.infer(*types)
        return (out.transpose(0, 1, 3, 2, 4).reshape(len(out), *type.shape),)

    def macs(self, *inputs: TensorType) -> int:
        q, k, _ = inputs
        rows = int(self.keys_seen(q, k).sum()) * self.windows
        return rows * self.heads * sum(self.head_channels(*inputs))


def _bias(
    bias: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray | None, int, np.ndarray | None]:
    """A bias in integers as few bits as it needs, its shift, and which keys are hidden.

    The same may be added to all scores of a query, so each row lies around 0.

    Parameters
    ----------
    bias : in nats, shape ``(windows, heads, queries, keys)`` or with extents of 1
    unit : nats of a step of the scores, shape ``(windows, heads)`` or with extents of 1
    """
    bias = np.asarray(bias, np.float64)
    top = bias.max(-1, keepdims=True)
    if np.isneginf(top).any() or not (np.isfinite(bias) | np.isneginf(bias)).all():
        raise HwgenError("A bias must be finite, or -inf for some of the keys of a query")
    hidden = bias - top <= HIDDEN
    # Of keys that are hidden it may be anything, so as it is in other windows or for other heads.
    seen = np.ma.masked_array(bias, hidden)
    for axis in (0, 1):
        least, most = seen.min(axis, keepdims=True), seen.max(axis, keepdims=True)
        if (most - least).max() <= ALIKE:
            seen = least
    middle = (seen.min(-1, keepdims=True) + seen.max(-1, keepdims=True)) / 2
    level = (seen - middle).filled(0.0)
    shift = int(np.clip(np.floor(np.log2(1 / BIAS_STEPS / unit.max())), 0, 30))
    values = np.rint(level / (unit[..., None, None] * 2.0**shift)).astype(np.int64)
    return (_shared(values) if values.any() else None, shift if values.any() else 0,
            _shared(hidden) if hidden.any() else None)


def _shared(values: np.ndarray) -> np.ndarray:
    """Values of windows and heads, once if they are the same for all."""
    for axis in (0, 1):
        first = values.take([0], axis)
        values = first if (values == first).all() else values
    return values
