"""Ops that work element by element: sum, product, extremum, table; and the largest channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = ["Add", "ArgMax", "ChannelMax", "Extremum", "Mul", "Table"]


def _same_shape(op: str, inputs: tuple[TensorType, ...]) -> None:
    a, b = inputs
    if a.shape != b.shape:
        raise HwgenError(f"{op} needs two tensors of one shape, not {a.shape} and {b.shape}")


@dataclass(frozen=True, eq=False)
class Add(Op):
    """Sum or difference of two tensors of one shape, each with its own scale.

    ``clamp(zp + round_half_even((m0 * (a - zp0) + m1 * (b - zp1)) / 2**shift))``.

    Parameters
    ----------
    multipliers : pair of :class:`int`
        Between ``-2**17`` and ``2**17``, both excluded.
    shift : :class:`int`
        1..47.
    output : :class:`Quantisation`
    """

    multipliers: tuple[int, int]
    shift: int
    output: Quantisation
    arity = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(map(int, self.multipliers)))
        if len(self.multipliers) != 2 or not all(abs(m) < 1 << 17 for m in self.multipliers):
            raise HwgenError(f"Add needs two multipliers below 2**17, not {self.multipliers!r}")
        if not 1 <= self.shift <= 47:
            raise HwgenError(f"Shift must be between 1 and 47, not {self.shift!r}")

    @classmethod
    def from_types(
        cls, a: Quantisation, b: Quantisation, output: Quantisation, sign: int = 1
    ) -> Add:
        """The closest integer form of the real sum ``a + sign * b``."""
        ratios = a.scale / output.scale, b.scale / output.scale
        largest = Requantise.from_scale(max(ratios))
        shift = int(largest.shift[0])
        m0, m1 = (int(np.rint(math.ldexp(r, shift))) for r in ratios)
        return cls((m0, sign * m1), shift, output)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        _same_shape("Add", inputs)
        return (TensorType(inputs[0].shape, self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        acc = sum(
            m * (x.astype(np.int64) - t.zero_point)
            for m, x, t in zip(self.multipliers, inputs, types, strict=True)
        )
        return (requantise(np.asarray(acc), 1, self.shift, self.output),)


@dataclass(frozen=True, eq=False)
class Mul(Op):
    """Product of two tensors of one shape: ``requantise((a - zp0) * (b - zp1))``.

    Parameters
    ----------
    requantise : :class:`Requantise`
        One entry, for all channels.
    output : :class:`Quantisation`
    """

    requantise: Requantise
    output: Quantisation
    arity = 2

    def __post_init__(self) -> None:
        if len(self.requantise) != 1:
            raise HwgenError(f"Mul needs one multiplier, not {len(self.requantise)}")

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        _same_shape("Mul", inputs)
        return (TensorType(inputs[0].shape, self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        a, b = (x.astype(np.int64) - t.zero_point for x, t in zip(inputs, types, strict=True))
        return (self.requantise.apply(a * b, self.output),)


@dataclass(frozen=True, eq=False)
class ChannelMax(Op):
    """The largest channel of each pixel, as one channel."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType((*x.spatial, 1), x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (inputs[0].max(-1, keepdims=True),)


@dataclass(frozen=True, eq=False)
class Extremum(Op):
    """The larger of two tensors of one type, element by element; or the smaller.

    Parameters
    ----------
    smaller : :class:`bool`
    """

    smaller: bool = False
    arity = 2

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        if inputs[0] != inputs[1]:
            raise HwgenError(f"Extremum needs two tensors of one type, not {inputs!r}")
        return (inputs[0],)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return ((np.minimum if self.smaller else np.maximum)(*inputs),)


@dataclass(frozen=True, eq=False)
class Table(Op):
    """Any function of one element, as a table over all codes: activations, changes of scale.

    Parameters
    ----------
    values : integer array, shape ``(2**bits of the input,)``, or ``(C, 2**bits)``
        Entry ``q + 2**(bits - 1)`` is the image of code ``q``.  There is a row for each channel
        where the function depends on the channel.
    output : :class:`Quantisation`
    """

    values: np.ndarray
    output: Quantisation

    def __post_init__(self) -> None:
        values = whole(self.values, "Table values")
        if values.ndim not in (1, 2) or values.shape[-1] not in [1 << b for b in range(2, 17)]:
            raise HwgenError(
                f"Table must have 4..65536 entries (a channel), not the shape {values.shape!r}"
            )
        if (values < self.output.low).any() or (values > self.output.high).any():
            raise HwgenError(f"Table values must fit {self.output.bits} signed bits")
        object.__setattr__(self, "values", values.astype(self.output.dtype))

    @property
    def by_channel(self) -> bool:
        """Whether every channel has a function of its own."""
        return self.values.ndim == 2

    @property
    def by_address(self) -> np.ndarray:
        """The values in the order of the codes as unsigned numbers: 0..high, then low..-1."""
        return np.roll(self.values, -(self.values.shape[-1] // 2), axis=-1)

    @classmethod
    def from_function(cls, function, input: Quantisation, output: Quantisation) -> Table:
        """The table of a real ``function`` (float64 array to array), rounded half to even."""
        codes = np.arange(input.low, input.high + 1)
        return cls(output.quantise(function((codes - input.zero_point) * input.scale)), output)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if self.values.shape[-1] != 1 << x.bits:
            raise HwgenError(
                f"A table of {self.values.shape[-1]} does not fit {x.bits}-bit codes"
            )
        if self.by_channel and len(self.values) != x.channels:
            raise HwgenError(f"A table for {len(self.values)} channels does not fit {x.channels}")
        return (TensorType(x.shape, self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        index = inputs[0].astype(np.int64) - types[0].quantisation.low
        if self.by_channel:
            return (self.values[np.arange(len(self.values)), index],)
        return (self.values[index],)


@dataclass(frozen=True, eq=False)
class ArgMax(Op):
    """The number of the largest channel of each pixel, as one channel; of equal ones the first."""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if x.channels > 1 << 15:
            raise HwgenError(f"ArgMax is built for up to 32768 channels, not {x.channels}")
        bits = max((x.channels - 1).bit_length() + 1, 2)
        return (TensorType((*x.spatial, 1), Quantisation(1.0, 0, bits)),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        (out,) = self.infer(*types)
        return (inputs[0].argmax(-1)[..., None].astype(out.quantisation.dtype),)
