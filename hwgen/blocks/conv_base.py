"""Common parts of the blocks of convolutions: folding, weight memories, serialised results.

:mod:`hwgen.blocks.conv` computes all products, :mod:`hwgen.blocks.sparse_conv` only those that are
not zero.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring

from hwgen.blocks.base import BlockConfig
from hwgen.blocks.registry import BlockRequest
from hwgen.device.cost import Area, total
from hwgen.errors import HwgenError
from hwgen.ir import Convolution, Table
from hwgen.ir.types import TensorType
from hwgen.parts.mac import MacArray, MacArrayConfig
from hwgen.parts.requantise import Requantiser, RequantiserConfig
from hwgen.parts.weights import WeightMemory, WeightMemoryConfig
from hwgen.parts.window import SlidingWindowConfig

__all__ = ["ConvolutionConfig", "array_weights", "serialise", "weight_memories"]


@dataclass(frozen=True, kw_only=True)
class ConvolutionConfig(BlockConfig):
    """A convolution and its folding.

    Parameters
    ----------
    op : :class:`hwgen.ir.Convolution`
    tensor : :class:`TensorType`
        Type of the input.
    lanes_in, lanes_out : :class:`int`
        Channels per beat of the streams.  ``lanes_out`` is also the number of requantisers per
        pixel; it divides the number of results of every fold.
    channel_lanes, tap_lanes : :class:`int`
        Input channels and kernel taps in parallel.  ``channel_lanes`` is a multiple of
        ``lanes_in``.
    pe : :class:`int`
        Output channels in parallel, in each group.
    multiplier, requantiser_multiplier : :class:`str`
        Multipliers of the products and of the requantisers, from
        :data:`hwgen.device.multiplier.MULTIPLIERS`; ``""`` for the requantisers: the same.
    products : :class:`int`
        Number of products that share a multiplier; 0: as many as fit.
    capacity : :class:`int`
        Number of sites in the window's buffer; 0: the fewest with which it works.
    window_style, weight_style : :class:`str`
        Styles of the memories of the window's buffer and of the weights; "": whichever is cheaper.
    lookup : :class:`Table` or None
        A function that is applied to the results, the same for all channels.

    Raises
    ------
    :exc:`HwgenError`
        If the folding does not fit the op.
    """

    kind: ClassVar[str] = "convolution"

    op: Convolution
    tensor: TensorType
    lanes_in: int = 1
    lanes_out: int = 1
    channel_lanes: int = 1
    tap_lanes: int = 1
    pe: int = 1
    multiplier: str = "dsp48e2"
    requantiser_multiplier: str = ""
    products: int = 0
    capacity: int = 0
    window_style: str = ""
    weight_style: str = ""
    lookup: Table | None = None

    def __post_init__(self) -> None:
        _ = self.result
        cin, cout = self.group_channels
        if not 1 <= self.channel_lanes <= cin:
            raise HwgenError(
                f"Channel lanes must be between 1 and {cin}, not {self.channel_lanes!r}"
            )
        if not 1 <= self.pe <= cout:
            raise HwgenError(f"Pe must be between 1 and {cout}, not {self.pe!r}")
        self._check_folding()
        if self.products > self.sharing:
            raise HwgenError(f"Products must be at most the {self.sharing} that can share a "
                             f"multiplier, not {self.products!r}")
        if self.products:
            _ = self.array
        for results in self.fold_results:
            if self.lanes_out < 1 or results % self.lanes_out:
                raise HwgenError(
                    f"Output lanes must divide the {results} results of a fold, "
                    f"not {self.lanes_out!r}: choose others, or another pe"
                )
        if self.depths and self.depths[0] < self.fold_beats:
            raise HwgenError(
                f"Depth must be at least the {self.fold_beats} beats of a fold, "
                f"not {self.depths[0]!r}"
            )

    @abstractmethod
    def _check_folding(self) -> None:
        """Raise :exc:`HwgenError` unless the rest of the folding fits the op."""

    @cached_property
    def result(self) -> TensorType:
        """Type of the output."""
        (result,) = self.op.infer(self.tensor)
        return self.lookup.infer(result)[0] if self.lookup else result

    @property
    def dsp_products(self) -> int:
        return self.array.dsp_products

    @property
    def group_channels(self) -> tuple[int, int]:
        """Input and output channels of a group."""
        return self.op.weight.shape[-1], self.op.cout // self.op.groups

    @property
    def sharing(self) -> int:
        """Most products that could share a multiplier: results that are computed side by side."""
        return self.pe

    @property
    def channel_folds(self) -> int:
        """Number of folds of the output channels of a group."""
        return math.ceil(self.group_channels[1] / self.pe)

    @cached_property
    def fold_results(self) -> np.ndarray:
        """Number of results of each fold of an output pixel, group after group."""
        _, cout = self.group_channels
        left = np.minimum(cout - np.arange(self.channel_folds) * self.pe, self.pe)
        return np.tile(left, self.op.groups)

    @cached_property
    def beats(self) -> list[int]:
        """Number of output beats of each fold of an output pixel."""
        return (self.fold_results // self.lanes_out).tolist()

    @property
    def fold_beats(self) -> int:
        """Most output beats of a fold."""
        return max(self.beats)

    @property
    @abstractmethod
    def window(self) -> SlidingWindowConfig:
        """The sliding window."""

    @property
    @abstractmethod
    def array(self) -> MacArrayConfig:
        """The multipliers."""

    @property
    @abstractmethod
    def requantiser(self) -> RequantiserConfig:
        """The requantisers behind the multipliers."""

    @property
    @abstractmethod
    def weights(self) -> tuple[WeightMemoryConfig, ...]:
        """Memories of the weights on chip."""

    @property
    @abstractmethod
    def memory_rows(self) -> list[list[int]]:
        """Contents of the weight memories."""

    @property
    def weight_latency(self) -> int:
        """Cycles from the address of weights until the weights have been read."""
        return max(memory.latency for memory in self.weights)

    def parts(self) -> dict[str, Area]:
        return {
            **super().parts(), "weights": total(memory.area() for memory in self.weights),
            "multiply": self.array.area(), "requantise": self.requantiser.area(),
        }

    def figures(self) -> dict[str, Any]:
        return {"products_per_dsp": self.array.packing.products} if self.dsp_products else {}

    @property
    def loads(self) -> int:
        return sum(memory.loads for memory in self.weights)

    def load_words(self) -> list[int]:
        return [word for memory, part in zip(self.weights, self.memory_rows, strict=True)
                for word in (memory.load_words(part) if memory.loads else ())]

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        results = self.op.evaluate(frames, (self.tensor,))
        return self.lookup.evaluate(results, self.op.infer(self.tensor)) if self.lookup else results


def weight_memories(
    m: Module, block: wiring.Component, config: ConvolutionConfig,
    address: Callable[[int, int], Value],
) -> tuple[list[Value], Value]:
    """Build the memories of the weights, in a chain if they are loaded.

    Parameters
    ----------
    block : the component, which has ports ``load`` and ``next`` if weights are loaded
    address : function of the number of a memory and a delay in cycles.  It returns the address for
        that memory, delayed by so much that all memories answer ``weight_latency`` cycles after
        the undelayed address.

    Returns
    -------
    words : output of each memory
    loaded : whether all memories have their contents
    """
    words, loaded = [], []
    chain = wiring.flipped(block.load) if config.loads else None
    for k, (memory, rows) in enumerate(zip(config.weights, config.memory_rows, strict=True)):
        m.submodules[f"weights_{k}"] = weights = WeightMemory(memory, rows)
        m.d.comb += weights.address.eq(address(k, config.weight_latency - memory.latency))
        words.append(weights.data)
        if memory.loads:
            wiring.connect(m, chain, weights.load)
            chain = weights.next
            loaded.append(weights.loaded)
    if config.loads:
        wiring.connect(m, chain, wiring.flipped(block.next))
    return words, Cat(loaded).all()


def array_weights(
    m: Module, block: wiring.Component, config: ConvolutionConfig, array: MacArray,
    address: Signal, late: int = 0,
) -> Value:
    """Connect the memories of the weights to an array, with the delays that the array needs.

    Parameters
    ----------
    block : see :func:`weight_memories`
    address : address of all memories
    late : number of cycles by which the first weights come later than ``weight_latency`` cycles
        after the address; the others also have the skews of the array

    Returns
    -------
    whether all memories have their contents
    """
    skews = config.array.skews
    addresses = [address]
    for k in range(max(skews) + config.weight_latency + late):
        addresses.append(Signal.like(address, name=f"address_{k + 1}", reset_less=True))
        m.d.sync += addresses[k + 1].eq(addresses[k])
    words, loaded = weight_memories(
        m, block, config, lambda k, more: addresses[skews[k] + late + more])
    m.d.comb += [getattr(array, f"w_{k}").eq(word) for k, word in enumerate(words)]
    return loaded


def serialise(
    m: Module, config: ConvolutionConfig, results: Value, done: Value, beats: Value,
    requantiser: Requantiser,
) -> Signal:
    """Send the results of a fold to the requantisers, beat by beat.

    Parameters
    ----------
    results : all results of a fold, in the order of beats
    done : whether the results of a fold are complete in this cycle
    beats : number of beats that they take

    Returns
    -------
    the number of beats that are still to be sent
    """
    bits = len(requantiser.i.p.as_value())
    held = Signal(len(results), reset_less=True)
    left = Signal(range(config.fold_beats + 1))
    with m.If(done):
        m.d.sync += [held.eq(results), left.eq(beats)]
    with m.Elif(left != 0):
        m.d.sync += [held.eq(held >> bits), left.eq(left - 1)]
    m.d.comb += [
        requantiser.i.valid.eq(left != 0),
        requantiser.i.p.eq(held[: min(bits, len(held))]),
    ]
    return left


def lanes_taken(request: BlockRequest) -> int:
    """Most input lanes that fit a convolution's folding and divide the lanes of its stream."""
    op, folding = request.op.as_conv(request.tensor), request.folding
    word = folding.channel_lanes * folding.group_lanes
    segment = op.weight.shape[-1] * (op.groups if folding.group_lanes > 1 else 1)
    return math.gcd(request.streams[0].lanes, word, segment)
