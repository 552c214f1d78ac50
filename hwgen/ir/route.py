"""Ops that only move data: joined, split, padded, enlarged, or in another order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType, whole
from hwgen.ir.window import Pads, Window

__all__ = ["Concat", "GatherChannels", "Pad", "Rearrange", "Reshape", "Resize", "Split"]


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
class GatherChannels(Op):
    """Channels in another order, or some of them: slices, channel shuffles, repetitions.

    Parameters
    ----------
    order : sequence of :class:`int`
        Per output channel the input channel that it is.
    """

    order: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(map(int, self.order)))
        if not self.order or min(self.order) < 0:
            raise HwgenError(f"Channel order must be one or more numbers, not {self.order!r}")

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if max(self.order) >= x.channels:
            raise HwgenError(f"There is no channel {max(self.order)} among {x.channels}")
        return (TensorType((*x.spatial, len(self.order)), x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (inputs[0][..., list(self.order)],)


@dataclass(frozen=True, eq=False)
class Pad(Op):
    """Pixels added around a frame, cut off, or left out: padding, cropping, strided slices.

    Parameters
    ----------
    pads : per spatial dimension (before, after); negative ones cut off
    fill : :class:`int` or None
        Code of added pixels; None: that of the nearest pixel of the frame.
    stride : per spatial dimension
        After padding, every ``stride``-th pixel is kept.
    """

    pads: Pads
    fill: int | None = None
    stride: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        window = Window((1,) * len(self.pads), self.stride, self.pads)
        object.__setattr__(self, "pads", window.pads)
        object.__setattr__(self, "stride", window.stride)

    @property
    def window(self) -> Window:
        """The window of one pixel that does the same."""
        return Window((1,) * len(self.pads), self.stride, self.pads)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        low, high = x.quantisation.low, x.quantisation.high
        if self.fill is not None and not low <= self.fill <= high:
            raise HwgenError(f"Fill must be within {low}..{high}, not {self.fill!r}")
        return (TensorType((*self.window.output(x.spatial), x.channels), x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (self.window.views(inputs[0], self.fill)[0],)


@dataclass(frozen=True, eq=False)
class Rearrange(Op):
    """Elements of a frame in any order: transposed, reversed, repeated or left out.

    Space to depth, depth to space, transpositions of channels and pixels, and whatever else
    permutes a frame.

    Parameters
    ----------
    order : integer array, shape ``(*spatial, channels)`` of the output
        Per element of the output, which element of the input it is, counted in the order of the
        stream.
    """

    order: np.ndarray

    def __post_init__(self) -> None:
        order = whole(self.order, "Rearrange order").astype(np.int64)
        if not order.ndim or not order.size or order.min() < 0:
            raise HwgenError(
                "Rearrange order must be an array of one or more numbers that are not negative, "
                f"not of shape {order.shape!r}"
            )
        object.__setattr__(self, "order", order)

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if self.order.max() >= x.size:
            raise HwgenError(f"There is no element {self.order.max()} among {x.size}")
        return (TensorType(self.order.shape, x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        frames = inputs[0].reshape(len(inputs[0]), -1)
        return (frames[:, self.order.ravel()].reshape(-1, *self.order.shape),)

    def run(self, x: TensorType) -> int:
        """Most channels that stay side by side, in all of both frames: words that can be moved."""
        common = math.gcd(x.channels, self.order.shape[-1])
        flat = self.order.ravel()
        for run in range(common, 1, -1):
            if common % run == 0:
                words = flat.reshape(-1, run)
                if not (words[:, 0] % run).any() and (np.diff(words, axis=1) == 1).all():
                    return run
        return 1


@dataclass(frozen=True, eq=False)
class Reshape(Op):
    """The same elements in the same stream order, under another shape; takes no hardware.

    Parameters
    ----------
    shape : sequence of :class:`int`
        Spatial extents, then channels.
    """

    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:
        (x,) = inputs
        if math.prod(self.shape) != x.size:
            raise HwgenError(f"Shape {self.shape!r} does not hold the {x.size} elements")
        return (TensorType(self.shape, x.quantisation),)

    def evaluate(
        self, inputs: Sequence[np.ndarray], types: Sequence[TensorType]
    ) -> tuple[np.ndarray, ...]:
        return (inputs[0].reshape(-1, *self.shape),)


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
