"""The ops of the integer graph: per op its shape rule (``infer``) and exact meaning (``evaluate``).

Arrays carry a batch axis in front: ``(frames, *spatial, channels)``.  Spatial dimensions are as
many as the type has: none, one, two or three.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation, TensorType, whole

__all__ = [
    "Add",
    "AveragePool",
    "Concat",
    "Conv",
    "Gemm",
    "GlobalAveragePool",
    "MaxPool",
    "Op",
    "Resize",
    "Split",
    "Table",
    "Window",
]

Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Window:
    """Geometry of a window sliding over spatial dimensions: kernel, stride, padding.

    Parameters
    ----------
    kernel, stride : sequences of :class:`int`, one per spatial dimension
    pads : sequence of (before, after), one per spatial dimension
        Each below the kernel's extent, so that every window holds a real pixel.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    pads: Pads = ()

    def __post_init__(self) -> None:
        dims = len(self.kernel)
        object.__setattr__(self, "kernel", tuple(map(int, self.kernel)))
        object.__setattr__(self, "stride", tuple(map(int, self.stride)) or (1,) * dims)
        pads = tuple((int(a), int(b)) for a, b in self.pads) or ((0, 0),) * dims
        object.__setattr__(self, "pads", pads)
        if not len(self.kernel) == len(self.stride) == len(self.pads):
            raise HwgenError(f"Kernel, stride and pads must have one rank: {self!r}")
        if any(k < 1 for k in self.kernel) or any(s < 1 for s in self.stride):
            raise HwgenError(f"Kernel and stride must be positive: {self!r}")
        for k, pair in zip(self.kernel, self.pads, strict=True):
            if not all(0 <= p < k for p in pair):
                raise HwgenError(f"Pads must be between 0 and the kernel's extent - 1: {self!r}")

    @property
    def taps(self) -> int:
        """Pixels in a window."""
        return math.prod(self.kernel)

    def output(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Extents of the output for an input of ``spatial`` extents."""
        if len(spatial) != len(self.kernel):
            raise HwgenError(
                f"A {len(self.kernel)}-dimensional window needs as many spatial dimensions, "
                f"not {tuple(spatial)!r}"
            )
        out = tuple(
            (n + sum(p) - k) // s + 1
            for n, k, s, p in zip(spatial, self.kernel, self.stride, self.pads, strict=True)
        )
        if any(n < 1 for n in out):
            raise HwgenError(f"Window {self.kernel!r} does not fit into {tuple(spatial)!r}")
        return out

    def views(self, x: np.ndarray, fill: int) -> list[np.ndarray]:
        """Per tap (row-major), the pixels it meets: arrays ``(frames, *output, channels)``."""
        spatial = x.shape[1:-1]
        out = self.output(spatial)
        if any(any(p) for p in self.pads):
            x = np.pad(x, ((0, 0), *self.pads, (0, 0)), constant_values=fill)
        steps = tuple(zip(self.stride, out, strict=True))
        return [
            x[(slice(None), *(slice(o, o + s * (n - 1) + 1, s)
                              for o, (s, n) in zip(offset, steps, strict=True)))]
            for offset in product(*map(range, self.kernel))
        ]


class Op(ABC):
    """What is computed: typed tensors in and out.  Subclasses are frozen dataclasses."""

    arity: int | None = 1
    """Number of inputs; ``None`` where it varies."""

    @abstractmethod
    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        """Types of the outputs.

        Raises
        ------
        :exc:`HwgenError`
            If the inputs do not fit the op.
        """

    @abstractmethod
    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        """Exact values of the outputs, for inputs of shape ``(frames, *type.shape)``."""

    def macs(self, *inputs: TensorType) -> int:
        """Multiply-accumulates a frame, as papers count them: window taps, padding included."""
        return 0


def _exact_float(bound: int) -> type:
    """The faster float in which integer sums up to ``bound`` in magnitude stay exact."""
    if bound < 1 << 24:
        return np.float32
    if bound < 1 << 53:
        return np.float64
    raise HwgenError(f"Accumulators up to {bound} cannot be evaluated exactly")


@dataclass(frozen=True, eq=False)
class Conv(Op):
    """Convolution and requantisation: ``requantise(sum(w * x) + bias)``.

    Padding inserts the input's zero point; the zero-point term of the sum is part of ``bias``
    (``bias' = bias - zero_point * sum(w)``).

    Parameters
    ----------
    weight : integer array, shape ``(Cout, *kernel, Cin / groups)``
        Signed and symmetric, within ``weight_bits``.
    bias : integer array, shape ``(Cout,)``
    requantise : :class:`Requantise`
        One multiplier and shift per output channel.
    output : :class:`Quantisation`
    stride, pads : see :class:`Window`
    groups : :class:`int`
        Divides both channel counts; depthwise when it equals them.
    weight_bits : :class:`int`
        2..8.
    """

    weight: np.ndarray
    bias: np.ndarray
    requantise: Requantise
    output: Quantisation
    stride: tuple[int, ...] = ()
    pads: Pads = ()
    groups: int = 1
    weight_bits: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", whole(self.weight, "Weights"))
        object.__setattr__(self, "bias", whole(self.bias, "Biases"))
        if self.weight.ndim < 2:
            raise HwgenError(f"Weights must be (Cout, *kernel, Cin), not {self.weight.shape!r}")
        window = Window(self.weight.shape[1:-1], self.stride, self.pads)
        object.__setattr__(self, "stride", window.stride)
        object.__setattr__(self, "pads", window.pads)
        cout = self.weight.shape[0]
        if self.bias.shape != (cout,) or len(self.requantise) != cout:
            raise HwgenError(
                f"Bias and requantisation must have {cout} entries, not "
                f"{self.bias.shape!r} and {len(self.requantise)}"
            )
        if self.groups < 1 or cout % self.groups:
            raise HwgenError(f"Groups must divide {cout} output channels, not {self.groups!r}")
        if not 2 <= self.weight_bits <= 8:
            raise HwgenError(f"Weights must have 2 to 8 bits, not {self.weight_bits!r}")
        limit = 1 << (self.weight_bits - 1)
        if (self.weight < -limit).any() or (self.weight >= limit).any():
            raise HwgenError(f"Weights must fit {self.weight_bits} signed bits")
        object.__setattr__(self, "weight", self.weight.astype(np.int16))

    @property
    def window(self) -> Window:
        """Geometry of the kernel over the input."""
        return Window(self.weight.shape[1:-1], self.stride, self.pads)

    @property
    def cout(self) -> int:
        """Number of output channels."""
        return self.weight.shape[0]

    @cached_property
    def weight_limit(self) -> int:
        """Largest magnitude of a weight; 1 at least."""
        return max(int(abs(self.weight).max(initial=1)), 1)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        cin = self.weight.shape[-1] * self.groups
        if x.channels != cin:
            raise HwgenError(f"Conv needs {cin} input channels, not {x.channels}")
        return (TensorType((*self.window.output(x.spatial), self.cout), self.output),)

    def accumulators(self, x: np.ndarray, type: TensorType) -> np.ndarray:
        """The sums before requantisation, int64, shape ``(frames, *output)``."""
        lo, hi = self.accumulator_range(type)
        bound = max(abs(lo), abs(hi)) + int(abs(self.bias).max())
        if bound * max(1, int(self.requantise.multiplier.max())) >= 1 << 62:
            raise HwgenError(f"Accumulators up to {bound} overflow their requantisation")
        kind = _exact_float(bound)
        cout_g, cin_g = self.cout // self.groups, self.weight.shape[-1]
        weight = self.weight.reshape(self.groups, cout_g, -1, cin_g).astype(kind)
        acc = None
        for tap, view in enumerate(self.window.views(x.astype(kind), type.zero_point)):
            grouped = view.reshape(*view.shape[:-1], self.groups, cin_g)
            if self.groups == 1:
                part = grouped[..., 0, :] @ weight[0, :, tap].T
            elif cin_g == 1:
                part = (grouped * weight[:, :, tap, 0]).reshape(*view.shape[:-1], self.cout)
            else:
                part = np.einsum("...gi,goi->...go", grouped, weight[:, :, tap])
                part = part.reshape(*view.shape[:-1], self.cout)
            acc = part if acc is None else np.add(acc, part, out=acc)
        assert acc is not None
        return acc.astype(np.int64) + self.bias

    def accumulator_range(self, type: TensorType) -> tuple[int, int]:
        """Exact worst case (low, high) of the sum and of every partial sum, over all inputs."""
        quantisation = type.quantisation
        flat = self.weight.reshape(self.cout, -1).astype(np.int64)
        positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
        low = positive * quantisation.low + negative * quantisation.high
        high = positive * quantisation.high + negative * quantisation.low
        return (int(min(0, low.min(), (low + self.bias).min(), self.bias.min())),
                int(max(0, high.max(), (high + self.bias).max(), self.bias.max())))

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (self.requantise.apply(self.accumulators(inputs[0], types[0]), self.output),)

    def macs(self, *inputs: TensorType) -> int:
        (out,) = self.infer(*inputs)
        return out.size * math.prod(self.weight.shape[1:])


@dataclass(frozen=True, eq=False)
class Gemm(Op):
    """Fully connected layer over the whole frame, and requantisation.

    Parameters
    ----------
    weight : integer array, shape ``(Cout, frame size)``
        The input is flattened in stream order: row-major, channels last.
    bias, requantise, output, weight_bits : as for :class:`Conv`
    """

    weight: np.ndarray
    bias: np.ndarray
    requantise: Requantise
    output: Quantisation
    weight_bits: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", whole(self.weight, "Weights"))
        object.__setattr__(self, "bias", whole(self.bias, "Biases"))
        if self.weight.ndim != 2:
            raise HwgenError(f"Gemm weights must be a matrix, not of shape {self.weight.shape!r}")
        _ = self.as_conv(TensorType((self.weight.shape[1],)))
        object.__setattr__(self, "weight", self.weight.astype(np.int16))

    def as_conv(self, x: TensorType) -> Conv:
        """The convolution that is this layer: its window covers the whole frame."""
        if x.size != self.weight.shape[1]:
            raise HwgenError(f"Gemm needs {self.weight.shape[1]} inputs, not {x.size}")
        return Conv(
            self.weight.reshape(-1, *x.shape), self.bias, self.requantise, self.output,
            weight_bits=self.weight_bits,
        )

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (out,) = self.as_conv(inputs[0]).infer(*inputs)
        return (TensorType((out.channels,), out.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        (out,) = self.as_conv(types[0]).evaluate(inputs, types)
        return (out.reshape(len(out), -1),)

    def macs(self, *inputs: TensorType) -> int:
        return self.weight.size


@dataclass(frozen=True, eq=False)
class MaxPool(Op):
    """Largest value of each window; padding never wins.

    Parameters
    ----------
    kernel, stride, pads : see :class:`Window`
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    pads: Pads = ()

    def __post_init__(self) -> None:
        _ = self.window

    @property
    def window(self) -> Window:
        """Geometry of the window."""
        return Window(self.kernel, self.stride, self.pads)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType((*self.window.output(x.spatial), x.channels), x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        out = None
        for view in self.window.views(inputs[0], types[0].quantisation.low):
            out = view.copy() if out is None else np.maximum(out, view, out=out)
        assert out is not None
        return (out,)


@dataclass(frozen=True, eq=False)
class AveragePool(Op):
    """Mean of each window, padding counted as 0.0, and requantisation.

    ``requantise(sum(x - zero_point))``; the multiplier holds the division by the window's size.

    Parameters
    ----------
    kernel, stride, pads : see :class:`Window`
    requantise : :class:`Requantise`
        One entry, for all channels.
    output : :class:`Quantisation`
    """

    kernel: tuple[int, ...]
    requantise: Requantise
    output: Quantisation
    stride: tuple[int, ...] = ()
    pads: Pads = ()

    def __post_init__(self) -> None:
        _ = self.window
        if len(self.requantise) != 1:
            raise HwgenError(f"AveragePool needs one multiplier, not {len(self.requantise)}")

    @property
    def window(self) -> Window:
        """Geometry of the window."""
        return Window(self.kernel, self.stride, self.pads)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        return (TensorType((*self.window.output(x.spatial), x.channels), self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        zero = types[0].zero_point
        views = self.window.views(inputs[0].astype(np.int64) - zero, 0)
        return (self.requantise.apply(np.sum(views, axis=0), self.output),)


@dataclass(frozen=True, eq=False)
class GlobalAveragePool(Op):
    """Mean of all pixels of a frame per channel, and requantisation; spatial extents become 1.

    Parameters
    ----------
    requantise : :class:`Requantise`
        One entry; the multiplier holds the division by the number of pixels.
    output : :class:`Quantisation`
    """

    requantise: Requantise
    output: Quantisation

    def as_pool(self, x: TensorType) -> AveragePool:
        """The average pool whose window is the whole frame."""
        return AveragePool(x.spatial, self.requantise, self.output)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        return self.as_pool(inputs[0]).infer(*inputs)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return self.as_pool(types[0]).evaluate(inputs, types)


@dataclass(frozen=True, eq=False)
class Add(Op):
    """Sum of two tensors of one shape, each with its own scale.

    ``clamp(zp + round_half_even((m0 * (a - zp0) + m1 * (b - zp1)) / 2**shift))``.

    Parameters
    ----------
    multipliers : pair of :class:`int`
        Unsigned, below ``2**17``.
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
        if len(self.multipliers) != 2 or not all(0 <= m < 1 << 17 for m in self.multipliers):
            raise HwgenError(f"Add needs two multipliers below 2**17, not {self.multipliers!r}")
        if not 1 <= self.shift <= 47:
            raise HwgenError(f"Shift must be between 1 and 47, not {self.shift!r}")

    @classmethod
    def from_types(cls, a: Quantisation, b: Quantisation, output: Quantisation) -> Add:
        """The closest integer form of the real sum of ``a`` and ``b``."""
        ratios = a.scale / output.scale, b.scale / output.scale
        largest = Requantise.from_scale(max(ratios))
        shift = int(largest.shift[0])
        m0, m1 = (int(np.rint(math.ldexp(r, shift))) for r in ratios)
        return cls((m0, m1), shift, output)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        a, b = inputs
        if a.shape != b.shape:
            raise HwgenError(f"Add needs two tensors of one shape, not {a.shape} and {b.shape}")
        return (TensorType(a.shape, self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        acc = sum(
            m * (x.astype(np.int64) - t.zero_point)
            for m, x, t in zip(self.multipliers, inputs, types, strict=True)
        )
        return (requantise(np.asarray(acc), 1, self.shift, self.output),)


@dataclass(frozen=True, eq=False)
class Concat(Op):
    """Channels of several tensors, one after the other; all of one quantisation."""

    arity = None

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        if not inputs:
            raise HwgenError("Concat needs at least one input")
        if len({(t.spatial, t.quantisation) for t in inputs}) != 1:
            raise HwgenError(
                "Concat needs inputs of equal spatial extents and quantisation, not "
                + ", ".join(map(repr, inputs))
            )
        channels = sum(t.channels for t in inputs)
        return (TensorType((*inputs[0].spatial, channels), inputs[0].quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (np.concatenate(list(inputs), axis=-1),)


@dataclass(frozen=True, eq=False)
class Split(Op):
    """Consecutive runs of channels, each an output.

    Parameters
    ----------
    sizes : sequence of :class:`int`
        Channels of each output; their sum is the input's channel count.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(map(int, self.sizes)))
        if not self.sizes or any(n < 1 for n in self.sizes):
            raise HwgenError(f"Split sizes must be positive, not {self.sizes!r}")

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if sum(self.sizes) != x.channels:
            raise HwgenError(f"Split {self.sizes!r} does not add up to {x.channels} channels")
        return tuple(TensorType((*x.spatial, n), x.quantisation) for n in self.sizes)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return tuple(np.split(inputs[0], np.cumsum(self.sizes)[:-1], axis=-1))


@dataclass(frozen=True, eq=False)
class Resize(Op):
    """Nearest-neighbour enlargement by whole factors: each pixel is repeated.

    Parameters
    ----------
    factors : sequence of :class:`int`, one per spatial dimension
    """

    factors: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(map(int, self.factors)))
        if not self.factors or any(n < 1 for n in self.factors):
            raise HwgenError(f"Resize factors must be positive, not {self.factors!r}")

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if len(self.factors) != len(x.spatial):
            raise HwgenError(f"Resize {self.factors!r} does not fit spatial extents {x.spatial!r}")
        spatial = (n * f for n, f in zip(x.spatial, self.factors, strict=True))
        return (TensorType((*spatial, x.channels), x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        out = inputs[0]
        for axis, factor in enumerate(self.factors, start=1):
            out = np.repeat(out, factor, axis=axis)
        return (out,)


@dataclass(frozen=True, eq=False)
class Table(Op):
    """Any function of one element, as a table over all codes: activations, changes of scale.

    Parameters
    ----------
    values : integer array, shape ``(2**bits of the input,)``
        Entry ``q + 2**(bits - 1)`` is the image of code ``q``.
    output : :class:`Quantisation`
    """

    values: np.ndarray
    output: Quantisation

    def __post_init__(self) -> None:
        values = whole(self.values, "Table values")
        if values.ndim != 1 or len(values) not in [1 << b for b in range(2, 17)]:
            raise HwgenError(f"Table must be a vector of 4..65536 entries, not {values.shape!r}")
        if (values < self.output.low).any() or (values > self.output.high).any():
            raise HwgenError(f"Table values must fit {self.output.bits} signed bits")
        object.__setattr__(self, "values", values.astype(self.output.dtype))

    @classmethod
    def from_function(cls, function, input: Quantisation, output: Quantisation) -> Table:
        """The table of a real ``function`` (float64 array to array), rounded half to even."""
        codes = np.arange(input.low, input.high + 1)
        return cls(output.quantise(function((codes - input.zero_point) * input.scale)), output)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if len(self.values) != 1 << x.bits:
            raise HwgenError(f"A table of {len(self.values)} does not fit {x.bits}-bit codes")
        return (TensorType(x.shape, self.output),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (self.values[inputs[0].astype(np.int64) - types[0].quantisation.low],)
