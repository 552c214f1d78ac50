"""Product of two streams: what attention is made of where it is not one op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise
from hwgen.ir.types import Quantisation, TensorType

__all__ = ["MatMul"]

FORMS = ("scores", "values")
"""What is summed over: channels of a head, or tokens."""


@dataclass(frozen=True, eq=False)
class MatMul(Op):
    """A product of two matrices for each head, both of which are streams.

    The second operand has a row of channels for each of its ``n`` tokens; zero points are 0::

        scores:  acc[t, h*n + j] = sum_c a[t, h*d + c] * b[j, h*d + c]
        values:  acc[t, h*e + c] = sum_j a[t, h*n + j] * b[j, h*e + c]
        out = clamp(zp + round_half_even(acc * M / 2**s))

    So the first is ``A B^T`` and the second ``A B``.  Inputs are tokens, one after the other, each
    with its heads' channels side by side: ``(tokens, heads * d or n)`` and ``(n, heads * d or e)``;
    the output is ``(tokens, heads * n or e)``.  What has another order takes it by a
    :class:`hwgen.ir.Rearrange` in front.

    The tokens may be cut into *windows*, equal numbers of tokens that follow one another: a token
    of the first operand then meets those of its own window, and ``n`` is their number.

    Parameters
    ----------
    heads : :class:`int`
    form : :class:`str`
        ``"scores"`` or ``"values"``.
    requantise : :class:`Requantise`
        One multiplier, or one for each channel of the output.
    output : :class:`Quantisation`
    windows : :class:`int`
        Divides the tokens of both operands.

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    heads: int
    form: str
    requantise: Requantise
    output: Quantisation
    windows: int = 1
    arity = 2

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise HwgenError(f"Form must be one of {', '.join(FORMS)}, not {self.form!r}")
        for name in ("heads", "windows"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise HwgenError(f"{name.capitalize()} must be a number of at least 1, not "
                                 f"{value!r}")

    def tokens(self, a: TensorType, b: TensorType) -> tuple[int, int]:
        """Tokens of a window, of either operand."""
        return a.pixels // self.windows, b.pixels // self.windows

    def head_channels(self, a: TensorType, b: TensorType) -> tuple[int, int]:
        """Channels of a head, of either operand."""
        return a.channels // self.heads, b.channels // self.heads

    def head_results(self, a: TensorType, b: TensorType) -> int:
        """Channels of a head of the output."""
        return self.tokens(a, b)[1] if self.form == "scores" else self.head_channels(a, b)[1]

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        a, b = inputs
        if a.zero_point or b.zero_point:
            raise HwgenError(f"A product of two streams needs operands with zero point 0, not "
                             f"{a.zero_point} and {b.zero_point}")
        if a.channels % self.heads or b.channels % self.heads:
            raise HwgenError(f"{self.heads} heads do not fit {a.channels} and {b.channels} "
                             f"channels")
        if a.pixels % self.windows or b.pixels % self.windows:
            raise HwgenError(f"{self.windows} windows must divide the {a.pixels} and {b.pixels} "
                             f"tokens")
        summed, (d, e) = self.tokens(a, b)[1], self.head_channels(a, b)
        if d != (e if self.form == "scores" else summed):
            raise HwgenError(
                f"A head of the first operand has {d} channels, and the second has {summed} tokens "
                f"of {e} channels a head: they do not fit for {self.form}")
        out = TensorType((*a.spatial, self.heads * self.head_results(a, b)), self.output)
        if len(self.requantise) not in (1, out.channels):
            raise HwgenError(f"A product of two streams needs one multiplier, or one for each of "
                             f"its {out.channels} channels, not {len(self.requantise)}")
        return (out,)

    def accumulator_range(self, a: TensorType, b: TensorType) -> tuple[int, int]:
        """Smallest and largest sum, for all inputs."""
        x, y, count = a.quantisation, b.quantisation, self.head_channels(a, b)[0]
        return count * min(x.low * y.high, y.low * x.high), count * x.low * y.low

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        # Frames, windows, heads, tokens, channels.
        a, b = (
            x.reshape(len(x), self.windows, type.pixels // self.windows, self.heads, -1)
            .transpose(0, 1, 3, 2, 4).astype(np.float64)
            for x, type in zip(inputs, types, strict=True))
        # Sums stay below 2**53, so float64 is exact.
        acc = a @ (b.swapaxes(-1, -2) if self.form == "scores" else b)
        (type,) = self.infer(*types)
        acc = acc.transpose(0, 1, 3, 2, 4).reshape(len(acc), *type.shape).astype(np.int64)
        return (self.requantise.apply(acc, self.output),)

    def macs(self, *inputs: TensorType) -> int:
        a, b = inputs
        return a.size * self.head_results(a, b)
