"""A layer of low rank: two matrices one after the other, for each token of a stream.

It computes ``requantise(W2 . requantise(W1 . x))``.  With C inputs, F outputs and rank r, it takes
r * (C + F) products instead of C * F, and the values between the matrices have their own precision
(Zheng, Huang, Yu and Bouganis, "ITERA-LLM: Boosting Sub-8-Bit Large Language Model Inference via
Iterative Tensor Decomposition", 2025; Yu and Bouganis, "Mixed-TD: Efficient Neural Network
Accelerator with Layer-Specific Tensor Decomposition", 2023).

Both arrays keep the pace of the slower one, and a token that has started passes through both: the
second array begins a fixed time after the last result of the first.  Between them is a small
memory instead of a queue.  It assembles the results of the first array into words, which the second
array reads once for each of its folds.  A token claims a place in that memory when it starts, and
a fold of the second array claims its places in the output queue, so nothing ever stalls on its way.

This block is for hand-written designs: no op of the graph uses it, because the search builds two
convolutions from such a layer, each with its own folding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring

from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.output import fold_queue
from hwgen.blocks.token_matrix import WRITE_LATENCY, TokenMatrixConfig
from hwgen.device.cost import Area, total
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.memory import check_style
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.stream import StreamType, in_order

__all__ = ["LowRankLinear", "LowRankLinearConfig"]

@dataclass(frozen=True, kw_only=True)
class LowRankLinearConfig(BlockConfig):
    """Two matrices one after the other, and the folding of their arrays.

    The values of a pair are for the first array and for the second.

    Parameters
    ----------
    first, second : :class:`Gemm`, or :class:`Conv` with a kernel of 1
        The ops; a token is the whole frame (Gemm) or a pixel (Conv).  The outputs of the first,
        with their precision, are the inputs of the second; their number is the rank.
    tensor : :class:`TensorType`
        Type of the input.
    lanes_in, lanes_out : :class:`int`
        Channels per beat of the streams; ``lanes_out`` divides the number of results of every
        fold.
    lanes_rank : :class:`int`
        Number of results of the first array that are requantised at a time; it divides the number
        of results of every fold.
    channel_lanes : pair of :class:`int`
        Inputs in parallel: multiples of ``lanes_in`` and of ``lanes_rank``.
    pe : pair of :class:`int`
        Outputs in parallel.
    multiplier, requantiser_multiplier, products, weight_style :
        See :class:`hwgen.blocks.conv_base.ConvolutionConfig`; the same for both arrays.
    capacity : :class:`int`
        Number of tokens that the input buffer holds; 0: one.
    buffer_style : :class:`str`
        Style of the memory of that buffer; "": whichever is cheaper.

    Raises
    ------
    :exc:`HwgenError`
        If the ops do not fit each other, or if the folding does not fit them.
    """

    kind: ClassVar[str] = "convolution"

    first: Op
    second: Op
    tensor: TensorType
    lanes_in: int = 1
    lanes_rank: int = 1
    lanes_out: int = 1
    channel_lanes: tuple[int, int] = (1, 1)
    pe: tuple[int, int] = (1, 1)
    multiplier: str = "dsp48e2"
    requantiser_multiplier: str = ""
    products: int = 0
    weight_style: str = ""
    capacity: int = 0
    buffer_style: str = ""

    def __post_init__(self) -> None:
        for name in ("channel_lanes", "pe"):
            if np.shape(getattr(self, name)) != (2,):
                raise HwgenError(f"{name.replace('_', ' ').capitalize()} must be a pair, "
                                 f"for both arrays, not {getattr(self, name)!r}")
        if self.requantiser_multiplier not in ("", *MULTIPLIERS):
            raise HwgenError(f"Requantiser multiplier must be one of {', '.join(MULTIPLIERS)} or "
                             f"empty, not {self.requantiser_multiplier!r}")
        check_style(self.buffer_style)
        if self.capacity < 0:
            raise HwgenError(f"Capacity must be 0 or more tokens, not {self.capacity!r}")
        _ = self.inputs, self.outputs, self.foldings, self.queue_depths, self.queue_styles

    @cached_property
    def matrices(self) -> tuple[Conv, Conv]:
        """Both ops as convolutions of a vector, a token."""
        first = _matrix("first", self.first, self.tensor)
        middle, inputs = self.first.infer(self.tensor)[0], getattr(self.second, "weight", None)
        if inputs is not None and inputs.shape[-1] != first.cout:
            raise HwgenError(
                f"The second op must have the {first.cout} outputs of the first as its inputs, "
                f"not {inputs.shape[-1]}"
            )
        return first, _matrix("second", self.second, middle)

    @cached_property
    def foldings(self) -> tuple[FoldedConvConfig, FoldedConvConfig]:
        """Both matrices and their foldings."""
        first, second = self.matrices
        types = (TensorType((first.weight.shape[-1],), self.tensor.quantisation),
                 TensorType((first.cout,), first.output))
        lanes = self.lanes_in, self.lanes_rank, self.lanes_out
        found = []
        for k, (name, op) in enumerate((("first", first), ("second", second))):
            try:
                found.append(FoldedConvConfig(
                    op=op, tensor=types[k], lanes_in=lanes[k], lanes_out=lanes[k + 1],
                    channel_lanes=self.channel_lanes[k], pe=self.pe[k], multiplier=self.multiplier,
                    requantiser_multiplier=self.requantiser_multiplier, products=self.products,
                    weight_style=self.weight_style, depths=self.depths if k else (),
                ))
                _ = found[k].array, found[k].weights
            except HwgenError as error:
                raise HwgenError(f"Of the {name} array: {error}") from None
        return found[0], found[1]

    @classmethod
    def balanced(
        cls, first: Op, second: Op, tensor: TensorType, cycles: int, *,
        lanes_in: int = 1, lanes_out: int = 1, **options,
    ) -> Self:
        """The folding with the fewest multipliers that takes at most ``cycles`` cycles per token.

        Parameters
        ----------
        cycles : most cycles per token
        first, second, tensor, lanes_in, lanes_out, options : see the class

        Raises
        ------
        :exc:`HwgenError`
            If a token has more than ``cycles`` beats at the input or at the output.
        """
        config = cls(first=first, second=second, tensor=tensor, **options)
        (cin, rank), (_, cout) = (folding.group_channels for folding in config.foldings)
        # Everything in parallel, which fits any number of lanes.
        config = replace(config, lanes_in=lanes_in, lanes_out=lanes_out, channel_lanes=(cin, rank),
                         pe=(rank, cout))
        halves = config.foldings
        least = max(halves[0].inputs[0].beats, halves[1].outputs[0].beats)
        if cycles < least:
            raise HwgenError(f"Cycles of a token must be at least its {least} beats, "
                             f"not {cycles!r}")
        requantiser = max(halves[0].requantiser.resources().dsp, 1)
        found = []
        for lanes in (n for n in range(1, rank + 1) if rank % n == 0):
            choices = [_fewest(half, cycles, *ends) for half, ends in
                       zip(halves, ((lanes_in, lanes), (lanes, lanes_out)), strict=True)]
            if all(choices):
                count, pe, channel_lanes = zip(*choices, strict=True)
                found.append((sum(count) + lanes * requantiser, pe, channel_lanes, lanes))
        _, pe, channel_lanes, lanes = min(found)
        return replace(config, lanes_rank=lanes, channel_lanes=channel_lanes, pe=pe)

    @property
    def dsp_products(self) -> int:
        return sum(folding.dsp_products for folding in self.foldings)

    @property
    def token_cycles(self) -> int:
        """Cycles from one token to the next: those of the slower array."""
        return max(folding.window.window_cycles for folding in self.foldings)

    @cached_property
    def arrays(self) -> tuple[TokenMatrixConfig, TokenMatrixConfig]:
        """Both arrays with their buffers."""
        first, second = (
            TokenMatrixConfig(folding=folding, places=1, token_cycles=self.token_cycles)
            for folding in self.foldings
        )
        # A place is claimed when its token starts, and freed when the second array begins to read
        # it for the last time.
        places = (int(first.results[-1]) + WRITE_LATENCY + second.release) // self.token_cycles + 1
        return (replace(first, places=self.capacity or 1, style=self.buffer_style),
                replace(second, places=places))

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes_in),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        _ = self.matrices
        (middle,) = self.first.infer(self.tensor)
        return (StreamType(self.second.infer(middle)[0], self.lanes_out),)

    @property
    def tokens(self) -> int:
        """Number of tokens in a frame."""
        return self.tensor.size // self.matrices[0].weight.shape[-1]

    @property
    def interval(self) -> int:
        return max(self.inputs[0].beats, self.tokens * self.token_cycles)

    @cached_property
    def least_depths(self) -> tuple[int, ...]:
        # So many tokens that the places of the first are free again when the last starts.
        tokens = 2 + int(self.arrays[1].results[-1] + QUEUE_LATENCY) // self.token_cycles
        claims, out = self._results(np.arange(tokens) * self.token_cycles)
        return (max(queue_depth(claims, out), self.foldings[1].fold_beats),)

    def _results(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For starts of tokens: when places of their results are claimed, and results visible."""
        first, second = self.arrays
        starts = (starts + first.results[-1] + WRITE_LATENCY)[:, None]
        return (starts + second.claims).ravel(), (starts + second.results + QUEUE_LATENCY).ravel()

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accepts = in_order(arrivals[0])
        beats = accepts.reshape(-1, self.foldings[0].inputs[0].beats)
        starts = in_order(beats[:, -1] + WRITE_LATENCY, self.token_cycles)
        claims, out = self._results(starts)
        capacity = queue_depth(beats[:, 0], starts + self.arrays[0].release)
        return Schedule((accepts,), (out,), (claims,), capacity)

    def area(self) -> Area:
        claims = len(set(self.foldings[1].beats))
        return self.queues_area(claims) + total(a.area() for a in self.arrays)

    @property
    def loads(self) -> int:
        """Number of words of weights that are loaded after reset."""
        return sum(folding.loads for folding in self.foldings)

    def load_words(self) -> list[int]:
        """The words of weights that are loaded, in order."""
        return [word for folding in self.foldings for word in folding.load_words()]

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        middle = self.first.evaluate(frames, (self.tensor,))
        return self.second.evaluate(middle, self.first.infer(self.tensor))

    def create(self) -> LowRankLinear:
        return LowRankLinear(self)


def _matrix(name: str, op: Op, tensor: TensorType) -> Conv:
    """An op that multiplies each token by a matrix, as a convolution of a vector."""
    try:
        if isinstance(op, Gemm):
            return op.as_conv(TensorType((tensor.size,)))
        if (isinstance(op, Conv) and op.window.taps == op.groups == 1
                and op.infer(tensor)[0].spatial == tensor.spatial):
            return Conv(op.weight.reshape(op.cout, -1), op.bias, op.requantise, op.output,
                        weight_bits=op.weight_bits)
    except HwgenError as error:
        raise HwgenError(f"Of the {name} op: {error}") from None
    raise HwgenError(
        f"The {name} op must be a Gemm, or a Conv in one group with a kernel of 1 that keeps all "
        f"pixels, not {op!r}"
    )


def _fewest(
    folding: FoldedConvConfig, cycles: int, lanes_in: int, lanes_out: int
) -> tuple[int, int, int] | None:
    """Multipliers, pe and channel lanes of the smallest array that takes at most ``cycles`` cycles.

    Among arrays with equally many multipliers, it is the one with the fewest accumulators.  It is
    None if there is none.
    """
    cin, cout = folding.group_channels
    best = None
    for pe in range(1, cout + 1):
        folds = math.ceil(cout / pe)
        each, last = cycles // folds, cout - (folds - 1) * pe
        if each * lanes_out < pe or pe % lanes_out or last % lanes_out:
            continue
        lanes = math.ceil(math.ceil(cin / each) / lanes_in) * lanes_in
        count = lanes * math.ceil(pe / folding.array.packing.products)
        best = min(best or (count, pe, lanes), (count, pe, lanes))
    return best


class LowRankLinear(Configured[LowRankLinearConfig]):
    """A layer of low rank, with requantisation after both matrices.

    Parameters
    ----------
    config : :class:`LowRankLinearConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out)))`
    load, next : see :class:`hwgen.parts.weights.WeightMemory`, if weights are loaded

    Timing
    ------
    Each token takes the cycles of the slower array,
    ``ceil(outputs / pe) * max(ceil(inputs / channel_lanes), results of a fold / lanes)``, where
    ``lanes`` is ``lanes_rank`` or ``lanes_out``; see :meth:`LowRankLinearConfig.schedule`.
    """

    def elaborate(self, platform):
        m = Module()
        first, second = (array.create() for array in self.config.arrays)
        m.submodules.first, m.submodules.second = first, second
        queue, room = fold_queue(m, self.config, self.config.foldings[1].beats, second.start)
        m.d.comb += [
            self.i.ready.eq(first.free),
            first.i.valid.eq(self.i.valid & first.free), first.i.p.eq(self.i.p),
            first.claim.eq(first.ends),
            # A token starts when it has a place between the arrays.
            first.room.eq((second.free | ~first.begins) & first.loaded & second.loaded),
            second.claim.eq(first.start & first.begins),
            second.room.eq(room),
        ]
        wiring.connect(m, first.o, second.i)
        wiring.connect(m, second.o, queue.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        chain = wiring.flipped(self.load) if self.config.loads else None
        for array in (first, second):
            if array.config.folding.loads:
                wiring.connect(m, chain, array.load)
                chain = array.next
        if self.config.loads:
            wiring.connect(m, chain, wiring.flipped(self.next))
        return m
