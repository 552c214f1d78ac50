"""Ops with weights: convolution, transposed convolution, fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.requantise import Requantise
from hwgen.ir.types import Quantisation, TensorType, whole
from hwgen.ir.window import Pads, Window

__all__ = ["Conv", "ConvTranspose", "Convolution", "Gemm"]


def _exact_float(bound: int) -> type:
    """The faster float in which integer sums up to ``bound`` in magnitude stay exact."""
    if bound < 1 << 24:
        return np.float32
    if bound < 1 << 53:
        return np.float64
    raise HwgenError(f"Accumulators up to {bound} cannot be evaluated exactly")


def _whole_weights(weight) -> np.ndarray:
    """Weights as integers; integers are not copied, because they may be many."""
    weight = np.asarray(weight)
    return weight if weight.dtype.kind == "i" else whole(weight, "Weights")


@dataclass(frozen=True, eq=False)
class Convolution(Op):
    """What convolutions share: weights, bias, requantisation, and how hardware sees them.

    A *phase* is a set of weights that a window is multiplied by: an ordinary convolution has one, a
    transposed one as many as its stride has positions.  ``kernels[phase]`` slides over ``window``.
    Along each dimension, each window gives ``repeat`` output pixels, and ``crop`` of them are cut
    off at the ends.

    Parameters
    ----------
    weight : integer array, shape ``(Cout, *kernel, Cin / groups)``
        Signed and symmetric, within ``weight_bits``.
    bias : integer array, shape ``(Cout,)``
    requantise : :class:`Requantise`
        One multiplier and shift per output channel.
    output : :class:`Quantisation`
    stride, pads : per spatial dimension; see the op
    groups : :class:`int`
        Divides both channel counts; depthwise when it equals them.
    weight_bits : :class:`int`
        2..8; 9 for asymmetric 8-bit weights from which their zero point is subtracted.
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
        object.__setattr__(self, "weight", _whole_weights(self.weight))
        object.__setattr__(self, "bias", whole(self.bias, "Biases"))
        if self.weight.ndim < 2 or not self.weight.size:
            raise HwgenError(f"Weights must be (Cout, *kernel, Cin), not {self.weight.shape!r}")
        geometry = Window(self.weight.shape[1:-1], self.stride, self.pads)
        object.__setattr__(self, "stride", geometry.stride)
        object.__setattr__(self, "pads", geometry.pads)
        cout = self.weight.shape[0]
        if self.bias.shape != (cout,) or len(self.requantise) != cout:
            raise HwgenError(
                f"Bias and requantisation must have {cout} entries, not "
                f"{self.bias.shape!r} and {len(self.requantise)}"
            )
        if self.groups < 1 or cout % self.groups:
            raise HwgenError(f"Groups must divide {cout} output channels, not {self.groups!r}")
        if not 2 <= self.weight_bits <= 9:
            raise HwgenError(f"Weights must have 2 to 9 bits, not {self.weight_bits!r}")
        limit = 1 << (self.weight_bits - 1)
        if self.weight.min() < -limit or self.weight.max() >= limit:
            raise HwgenError(f"Weights must fit {self.weight_bits} signed bits")
        object.__setattr__(self, "weight", self.weight.astype(np.int16, copy=False))

    @property
    def window(self) -> Window:
        """Geometry of the kernels over the input."""
        raise NotImplementedError

    @property
    def repeat(self) -> tuple[int, ...]:
        """Output pixels per window, per dimension."""
        return (1,) * len(self.stride)

    @property
    def crop(self) -> Pads:
        """Output pixels cut off before and after, per dimension."""
        return ((0, 0),) * len(self.stride)

    @property
    def kernels(self) -> np.ndarray:
        """Weights of all phases, shape ``(phases, Cout, *window, Cin / groups)``."""
        return self.weight[None]

    def biases(self, type: TensorType) -> np.ndarray:
        """What each phase adds to the sum of products, shape ``(phases, Cout)``."""
        return self.bias[None]

    def as_conv(self, x: TensorType) -> Convolution:
        return self

    @property
    def cout(self) -> int:
        """Number of output channels."""
        return self.weight.shape[0]

    @cached_property
    def weight_limit(self) -> int:
        """Largest magnitude of a weight; 1 at least."""
        return max(int(self.weight.max()), -int(self.weight.min()), 1)

    @cached_property
    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the positive and of the negative weights, shape ``(phases, Cout)``."""
        kernels = self.kernels
        flat = kernels.reshape(*kernels.shape[:2], -1)
        return (np.maximum(flat, 0).sum(-1, dtype=np.int64),
                np.minimum(flat, 0).sum(-1, dtype=np.int64))

    def accumulator_range(self, type: TensorType) -> tuple[int, int]:
        """Exact worst case (low, high) of the sum and of every partial sum, over all inputs."""
        quantisation, bias = type.quantisation, self.biases(type)
        positive, negative = self._sums
        low = positive * quantisation.low + negative * quantisation.high
        high = positive * quantisation.high + negative * quantisation.low
        return (int(min(0, low.min(), (low + bias).min(), bias.min())),
                int(max(0, high.max(), (high + bias).max(), bias.max())))

    def accumulators(self, x: np.ndarray, type: TensorType) -> np.ndarray:
        """The sums before requantisation, int64, shape ``(frames, *output)``."""
        raise NotImplementedError

    def _exact_kind(self, type: TensorType) -> type:
        low, high = self.accumulator_range(type)
        # A partial sum may lie on the other side of the bias.
        bound = max(abs(low), abs(high)) + int(abs(self.biases(type)).max())
        if bound * max(1, int(self.requantise.multiplier.max())) >= 1 << 62:
            raise HwgenError(f"Accumulators up to {bound} overflow their requantisation")
        return _exact_float(bound)

    def _tap(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Products of pixels ``(..., Cin)`` with one tap's weights ``(Cout, Cin / groups)``."""
        cin = weight.shape[-1]
        if self.groups == 1:
            return x @ weight.T
        grouped = x.reshape(*x.shape[:-1], self.groups, cin)
        weight = weight.reshape(self.groups, -1, cin)
        if cin == 1:
            part = grouped * weight[..., 0]
        else:
            part = np.einsum("...gi,goi->...go", grouped, weight)
        return part.reshape(*x.shape[:-1], self.cout)

    def _check_input(self, type: TensorType) -> None:
        cin = self.weight.shape[-1] * self.groups
        if type.channels != cin:
            raise HwgenError(f"{self.__class__.__name__} needs {cin} input channels, "
                             f"not {type.channels}")

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (self.requantise.apply(self.accumulators(inputs[0], types[0]), self.output),)


@dataclass(frozen=True, eq=False)
class Conv(Convolution):
    """Convolution and requantisation: ``requantise(sum(w * x) + bias)``.

    Padding inserts the input's zero point; the zero-point term of the sum is part of ``bias``
    (``bias' = bias - zero_point * sum(w)``).

    Parameters
    ----------
    weight, bias, requantise, output, groups, weight_bits : see :class:`Convolution`
    stride, pads, dilation : see :class:`Window`
    """

    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "dilation", self.window.dilation)

    @property
    def window(self) -> Window:
        """Geometry of the kernel over the input."""
        return Window(self.weight.shape[1:-1], self.stride, self.pads, self.dilation)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        self._check_input(x)
        return (TensorType((*self.window.output(x.spatial), self.cout), self.output),)

    def accumulators(self, x: np.ndarray, type: TensorType) -> np.ndarray:
        kind = self._exact_kind(type)
        weight = self.weight.reshape(self.cout, self.window.taps, -1).astype(kind)
        acc = None
        for tap, view in enumerate(self.window.views(x.astype(kind), type.zero_point)):
            part = self._tap(view, weight[:, tap])
            acc = part if acc is None else np.add(acc, part, out=acc)
        assert acc is not None
        return acc.astype(np.int64) + self.bias

    def macs(self, *inputs: TensorType) -> int:
        (out,) = self.infer(*inputs)
        return out.size * math.prod(self.weight.shape[1:])


@dataclass(frozen=True, eq=False)
class ConvTranspose(Convolution):
    """Transposed convolution and requantisation.

    Every pixel ``i`` of the input adds ``w[k] * (x[i] - zero_point)`` to pixel
    ``stride * i + k - pads before`` of the output; then bias and requantisation.  Unlike that of
    :class:`Conv`, ``bias`` holds no zero-point term.

    Hardware computes it output pixel by output pixel (Shi et al., "Is the deconvolution layer the
    same as a convolutional layer?", 2016): the taps that meet a pixel depend only on its position
    modulo the stride, its phase.

    Parameters
    ----------
    weight, bias, requantise, output, groups, weight_bits : see :class:`Convolution`
    stride : per spatial dimension
    pads : (before, after) cut off the output, per spatial dimension; negative: added to it
    """

    @cached_property
    def _axes(self) -> list[tuple[int, int, int, int]]:
        """Per dimension: taps of a window; pads before and after it; output pixels cut before."""
        axes = []
        for k, s, (before, after) in zip(
            self.weight.shape[1:-1], self.stride, self.pads, strict=True
        ):
            taps, cut = -(-k // s), before % s
            first = taps - 1 - (before - cut) // s
            last = -(-(k - before - after + cut) // s) + taps - 2 - first
            axes.append((taps, first, last, cut))
        return axes

    @property
    def window(self) -> Window:
        """Geometry of a phase's taps over the input."""
        return Window(tuple(a[0] for a in self._axes), (), tuple((a[1], a[2]) for a in self._axes))

    @property
    def repeat(self) -> tuple[int, ...]:
        return self.stride

    @property
    def crop(self) -> Pads:
        return tuple(
            (cut, -(k - before - after + cut) % s)
            for (_, _, _, cut), k, s, (before, after) in zip(
                self._axes, self.weight.shape[1:-1], self.stride, self.pads, strict=True
            )
        )

    @cached_property
    def kernels(self) -> np.ndarray:
        taps = self.window.kernel
        padded = np.pad(self.weight, (
            (0, 0),
            *((0, t * s - k) for t, s, k in zip(
                taps, self.stride, self.weight.shape[1:-1], strict=True)),
            (0, 0),
        ))
        return np.stack([
            # The last tap of a window meets the first weight of its phase.
            padded[(slice(None), *(slice(r, None, s) for r, s in zip(phase, self.stride)))][
                (slice(None), *(slice(None, None, -1),) * len(phase))
            ]
            for phase in product(*map(range, self.stride))
        ])

    def biases(self, type: TensorType) -> np.ndarray:
        return self.bias - type.zero_point * sum(self._sums)

    def output_spatial(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """Extents of the output.

        Raises
        ------
        :exc:`HwgenError`
            If nothing is left, or the ranks differ.
        """
        kernel = self.weight.shape[1:-1]
        if len(spatial) != len(kernel):
            raise HwgenError(
                f"A {len(kernel)}-dimensional kernel needs as many spatial dimensions, "
                f"not {tuple(spatial)!r}"
            )
        out = tuple(
            (n - 1) * s + k - sum(p)
            for n, s, k, p in zip(spatial, self.stride, kernel, self.pads, strict=True)
        )
        if any(n < 1 for n in out):
            raise HwgenError(f"Pads {self.pads!r} leave nothing of the output")
        return out

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        self._check_input(x)
        return (TensorType((*self.output_spatial(x.spatial), self.cout), self.output),)

    def accumulators(self, x: np.ndarray, type: TensorType) -> np.ndarray:
        kind = self._exact_kind(type)
        spatial, kernel = x.shape[1:-1], self.weight.shape[1:-1]
        real = x.astype(kind) - kind(type.zero_point)
        grow = [(max(-a, 0), max(-b, 0)) for a, b in self.pads]
        full = [(n - 1) * s + k + sum(g)
                for n, s, k, g in zip(spatial, self.stride, kernel, grow, strict=True)]
        acc = np.zeros((len(x), *full, self.cout), kind)
        for tap in product(*map(range, kernel)):
            part = self._tap(real, self.weight[(slice(None), *tap)].astype(kind))
            place = tuple(
                slice(g + t, g + t + s * (n - 1) + 1, s)
                for (g, _), t, s, n in zip(grow, tap, self.stride, spatial, strict=True)
            )
            acc[(slice(None), *place)] += part
        cut = tuple(slice(max(a, 0), n - max(b, 0))
                    for n, (a, b) in zip(full, self.pads, strict=True))
        return acc[(slice(None), *cut)].astype(np.int64) + self.bias

    def macs(self, *inputs: TensorType) -> int:
        (x,) = inputs
        return x.pixels * self.weight.size


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
        object.__setattr__(self, "weight", _whole_weights(self.weight))
        object.__setattr__(self, "bias", whole(self.bias, "Biases"))
        if self.weight.ndim != 2:
            raise HwgenError(f"Gemm weights must be a matrix, not of shape {self.weight.shape!r}")
        _ = self.as_conv(TensorType((self.weight.shape[1],)))
        object.__setattr__(self, "weight", self.weight.astype(np.int16, copy=False))

    def as_conv(self, x: TensorType) -> Conv:
        """The convolution that equals this layer: its window covers the whole frame."""
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
