"""A layer of low rank: two matrices one after the other, for each token of a stream.

``requantise(W2 . requantise(W1 . x))``: a layer of C inputs and F outputs through a rank r takes
r * (C + F) products in place of C * F, and what is between has a precision of its own (Zheng,
Huang, Yu and Bouganis, "ITERA-LLM: Boosting Sub-8-Bit Large Language Model Inference via Iterative
Tensor Decomposition", 2025; Yu and Bouganis, "Mixed-TD: Efficient Neural Network Accelerator with
Layer-Specific Tensor Decomposition", 2023).

Both arrays keep the pace of the slower one, and one start sets a token on its way through both: the
second array begins when the last result of the first has come, at a fixed time after it.  There is
no stream between them but a small memory, in which the first array's results are put together to
the words that the second one reads, once for each of its folds.  A token claims a place there when
it starts, and a fold of the second array its places in the output's queue; nothing ever stops on
its way.

Tokens have no neighbours, so all that a sliding window does for its pixels is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.blocks import area
from hwgen.blocks.arithmetic import delayed, levels
from hwgen.blocks.base import BlockConfig, Resources, Schedule, StreamType, counter, in_order
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.convolution import serialise
from hwgen.blocks.mac import MacArray
from hwgen.blocks.memory import BufferMemory, check_style
from hwgen.blocks.multiplier import MULTIPLIERS
from hwgen.blocks.queue import QUEUE_LATENCY, output_queue, queue_depth, which_claim
from hwgen.blocks.requantise import Requantiser
from hwgen.blocks.weights import LOAD_BITS, WeightMemory
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType

__all__ = ["LowRankLinear", "LowRankLinearConfig", "TokenMatrix", "TokenMatrixConfig"]

WRITE_LATENCY = 2
"""Cycles from a token's last beat to the first cycle in which it can start."""
READ_LATENCY = 2
"""Cycles from the address of a word of a token to the word."""


@dataclass(frozen=True, kw_only=True)
class TokenMatrixConfig:
    """A matrix, times each token that comes.

    Parameters
    ----------
    folding : :class:`FoldedConvConfig`
        The matrix as a convolution of a vector, and its folding.
    places : :class:`int`
        Tokens that the buffer holds.
    token_cycles : :class:`int`
        Cycles from a token to the next, at least.
    style : :class:`str`
        Memory of the buffer: see :class:`BufferMemory`.
    """

    folding: FoldedConvConfig
    places: int
    token_cycles: int
    style: str = ""

    @property
    def steps(self) -> int:
        """Words of a token."""
        return self.folding.window.steps

    @property
    def folds(self) -> int:
        """Times a token is read."""
        return self.folding.channel_folds

    @property
    def fold_cycles(self) -> int:
        """Cycles of a fold; the last one of a token may be longer."""
        return self.folding.window.fold_cycles

    @property
    def last_cycles(self) -> int:
        """Cycles of a token's last fold."""
        return self.token_cycles - self.release

    @property
    def width(self) -> int:
        """Bits of a word."""
        return self.folding.channel_lanes * self.folding.tensor.bits

    @property
    def depth(self) -> int:
        """Words of the buffer."""
        return self.places * self.steps

    @property
    def release(self) -> int:
        """Cycles from a token's start to its last fold, whose start frees the token's place.

        Words are overwritten no faster than they are read then.
        """
        return (self.folds - 1) * self.fold_cycles

    @cached_property
    def fold_beats(self) -> list[int]:
        """Beats at the output, for each fold."""
        return (self.folding.fold_results // self.folding.lanes_out).tolist()

    @property
    def operand_latency(self) -> int:
        """Cycles from the addresses of activations and weights until both have come."""
        return max(READ_LATENCY, self.folding.weight_latency)

    @property
    def latency(self) -> int:
        """Cycles from the start of a fold to its first result."""
        return (self.steps - 1 + self.operand_latency + self.folding.array.latency + 1
                + self.folding.requantiser.latency)

    @cached_property
    def claims(self) -> np.ndarray:
        """Cycles from a token's start to the start of the fold of each of its results' beats."""
        return np.repeat(np.arange(self.folds) * self.fold_cycles, self.fold_beats)

    @cached_property
    def results(self) -> np.ndarray:
        """Cycles from a token's start to each beat of its results."""
        beat = np.concatenate([np.arange(n) for n in self.fold_beats])
        return self.claims + beat + self.latency

    def resources(self) -> Resources:
        """What it takes, the queue behind it not included."""
        folding, width, depth = self.folding, self.width, max(self.depth, 2)
        # Registers that end a buffer and go nowhere else are the array's, for they may be shifted.
        registers = area.buffer_registers(width, depth, self.style)
        own = registers // width if registers in (width, 2 * width) else 0
        late = self.operand_latency - READ_LATENCY
        held = folding.requantiser.acc_bits * max(folding.fold_results)
        row = max(folding.weight_depth - 1, 1).bit_length()
        flags = self.operand_latency + folding.array.latency
        out = area.buffer(width, depth, self.style) + folding.requantiser.resources()
        out += area.array(folding.array, own + late)
        out += area.total(memory.resources() for memory in folding.weights)
        out += area.logic(
            "convolution", one=1, ff_flags=3 * flags, lut_counter=row,
            ff_register=held + row + max(self.fold_beats).bit_length(),
            lut_held=held * (max(self.fold_beats) > 1), ends=folding.fold_beats > 1,
        )
        beats = folding.inputs[0].beats
        counters = (levels(beats) + levels(folding.channel_lanes // folding.lanes_in)
                    + 3 * levels(depth) + levels(self.last_cycles) + levels(self.folds)
                    + 2 * (self.places + 1).bit_length())
        rows = row * (max(folding.array.skews) + self.operand_latency)
        return out + Resources(
            lut=counters + 4, ff=counters + rows + width + 3 + registers * (own == 0)
        )

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        words = stream.Signature(LOAD_BITS, always_ready=True)
        payloads = self.folding.inputs[0].payload, self.folding.outputs[0].payload
        i, o = (stream.Signature(payload, always_ready=True) for payload in payloads)
        return wiring.Signature({
            "i": In(i), "ends": Out(1), "claim": In(1), "free": Out(1), "room": In(1),
            "start": Out(1), "begins": Out(1), "o": Out(o),
            **({"load": In(words), "next": Out(words)} if self.folding.loads else {}),
            "loaded": Out(1),
        })

    def create(self) -> TokenMatrix:
        return TokenMatrix(self)


class TokenMatrix(wiring.Component):
    """A matrix times each token: buffer of tokens, multiply-accumulate array, requantisers.

    Parameters
    ----------
    config : :class:`TokenMatrixConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in), always_ready=True))`
        Tokens, each only when it has a place.
    ends : :py:`Out(1)`
        The beat at ``i`` is the last of a token.
    claim : :py:`In(1)`
        Claim a place in this cycle, at the latest with a token's last beat.
    free : :py:`Out(1)`
        A place is free; a register.
    room : :py:`In(1)`
        There are places for what comes of the next fold.
    start : :py:`Out(1)`
        A fold starts, which claims those places.
    begins : :py:`Out(1)`
        The fold that starts next is a token's first.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out), always_ready=True))`
    load, next : see :class:`hwgen.blocks.weights.WeightMemory`, if weights are loaded
    loaded : :py:`Out(1)`
        All weights are there.

    Timing
    ------
    A token can start two cycles after its last beat, and ``token_cycles`` after the one before it;
    ``config.results`` later its results come.
    """

    def __init__(self, config: TokenMatrixConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config, folding = self.config, self.config.folding
        m.submodules.buffer = buffer = BufferMemory(config.width, config.depth, config.style)
        m.submodules.array = array = MacArray(folding.array)
        m.submodules.requantiser = requantiser = Requantiser(folding.requantiser)
        flags = self._read(m, buffer, array, self._write(m, buffer))
        late = config.operand_latency
        x = delayed(m, buffer.read_data, late - READ_LATENCY, "x")
        m.d.comb += array.x.as_value().eq(x)
        marks = [flags]
        for k in range(late + folding.array.latency):
            marks.append(Signal(len(flags), name=f"flags_{k}"))
            m.d.sync += marks[-1].eq(marks[-2])
        m.d.comb += Cat(array.add, array.first).eq(marks[late + folding.array.sum_latency][:2])
        done = marks[-1][2]
        most, *fewer = sorted(set(config.fold_beats), reverse=True)
        beats = Mux(which_claim(m, "done", config.fold_beats, done), fewer[0] if fewer else 0, most)
        serialise(m, folding, array.acc.as_value(), done, beats, requantiser)
        wiring.connect(m, requantiser.o, wiring.flipped(self.o))
        return m

    def _write(self, m: Module, buffer: BufferMemory) -> Value:
        """Collect beats into words; returns that a token is there."""
        source = self.config.folding.inputs[0]
        per_word = self.config.folding.channel_lanes // source.lanes
        beat, slot = counter(source.beats, name="beat"), counter(per_word, name="slot")
        address = counter(self.config.depth, name="write_address")
        word = Signal(self.config.width, reset_less=True)
        enable, complete = Signal(), Signal()
        end = beat == source.beats - 1
        word_end = (slot == per_word - 1) | end
        m.d.comb += [
            self.ends.eq(self.i.valid & end),
            buffer.write_en.eq(enable), buffer.write_addr.eq(address), buffer.write_data.eq(word),
        ]
        m.d.sync += [enable.eq(self.i.valid & word_end), complete.eq(self.ends)]
        with m.If(self.i.valid):
            m.d.sync += [beat.eq(Mux(end, 0, beat + 1)), slot.eq(Mux(word_end, 0, slot + 1))]
        for k in range(per_word):
            with m.If(self.i.valid & (slot == k)):
                m.d.sync += word.word_select(k, source.width).eq(self.i.p.as_value())
        with m.If(enable):
            m.d.sync += address.eq(Mux(address == self.config.depth - 1, 0, address + 1))
        return complete

    def _read(self, m: Module, buffer: BufferMemory, array: MacArray, complete: Value) -> Value:
        """Read tokens fold by fold; returns of each cycle: a word is read, the first, the last."""
        config = self.config
        # Tokens that have come; places that are left after the next one: none if negative.
        waiting = Signal(range(config.places + 1))
        left = Signal(range(-1, config.places), init=config.places - 1)
        step, fold = counter(config.last_cycles), counter(config.folds)
        address, base = counter(config.depth), counter(config.depth)
        row = counter(config.folding.weight_depth)
        starting = Signal(init=1)
        last_fold = fold == config.folds - 1
        cycles = Mux(last_fold, config.last_cycles, config.fold_cycles)
        fold_end, last_step = step == cycles - 1, step == config.steps - 1
        go, fire, release = Signal(), Signal(), Signal()
        m.d.comb += [
            self.free.eq(~left[-1]), self.begins.eq(fold == 0),
            self.start.eq(starting & (waiting != 0) & self.room),
            go.eq(self.start | ~starting),
            fire.eq(go & (step < config.steps)),
            release.eq(self.start & last_fold),
            buffer.read_en.eq(1), buffer.load.eq(1), buffer.read_addr.eq(address),
        ]
        m.d.sync += [
            waiting.eq(waiting + complete - release), left.eq(left + release - self.claim),
        ]
        with m.If(go):
            m.d.sync += [starting.eq(fold_end), step.eq(Mux(fold_end, 0, step + 1))]
            with m.If(fold_end):
                m.d.sync += fold.eq(Mux(last_fold, 0, fold + 1))
        with m.If(fire):
            after = Signal.like(address)
            m.d.comb += after.eq(Mux(address == config.depth - 1, 0, address + 1))
            m.d.sync += [
                address.eq(Mux(last_step & ~last_fold, base, after)),
                row.eq(Mux(row == config.folding.weight_depth - 1, 0, row + 1)),
            ]
            with m.If(last_step & last_fold):
                m.d.sync += base.eq(after)
        self._weights(m, array, row)
        return Cat(fire, step == 0, fire & last_step)

    def _weights(self, m: Module, array: MacArray, row: Value) -> None:
        """Read the weights, as late as the array wants them beside the activations."""
        folding, loaded = self.config.folding, []
        chain = wiring.flipped(self.load) if folding.loads else None
        rows = [row]
        for k in range(max(folding.array.skews) + self.config.operand_latency):
            rows.append(Signal.like(row, name=f"row_{k + 1}", reset_less=True))
            m.d.sync += rows[k + 1].eq(rows[k])
        for k, (memory, contents, skew) in enumerate(
            zip(folding.weights, folding.memory_rows, folding.array.skews, strict=True)
        ):
            m.submodules[f"weights_{k}"] = weights = WeightMemory(memory, contents)
            late = skew + self.config.operand_latency - memory.latency
            m.d.comb += [
                weights.address.eq(rows[late]), getattr(array, f"w_{k}").eq(weights.data)
            ]
            if memory.loads:
                wiring.connect(m, chain, weights.load)
                chain = weights.next
                loaded.append(weights.loaded)
        if folding.loads:
            wiring.connect(m, chain, wiring.flipped(self.next))
        m.d.comb += self.loaded.eq(Cat(loaded).all())


@dataclass(frozen=True, kw_only=True)
class LowRankLinearConfig(BlockConfig):
    """Two matrices one after the other, and the folding of their arrays.

    Where there is a pair, it is for the first array and the second.

    Parameters
    ----------
    first, second : :class:`Gemm`, or :class:`Conv` with a kernel of 1
        What is computed; a token is the whole frame, or a pixel.  The outputs of the first, with
        their precision, are the inputs of the second: their number is the rank.
    tensor : :class:`TensorType`
        Type of the input.
    lanes_in, lanes_out : :class:`int`
        Channels a beat of the streams; ``lanes_out`` divides the results of every fold.
    lanes_rank : :class:`int`
        Results of the first array that are requantised at a time; it divides those of every fold.
    channel_lanes : pair of :class:`int`
        Inputs in parallel: multiples of ``lanes_in`` and of ``lanes_rank``.
    pe : pair of :class:`int`
        Outputs in parallel.
    multiplier, requantiser_multiplier, products, weight_style :
        See :class:`hwgen.blocks.convolution.ConvolutionConfig`; the same for both arrays.
    capacity : :class:`int`
        Tokens that the input's buffer holds; 0: one.
    buffer_style : :class:`str`
        Memory of that buffer; "": whichever is cheaper.

    Raises
    ------
    :exc:`HwgenError`
        If the ops do not fit each other, or the folding does not fit them.
    """

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
        """Both ops as they meet a token: convolutions of a vector."""
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
        """The folding with the fewest multipliers that takes at most some cycles a token.

        Parameters
        ----------
        cycles : of a token
        first, second, tensor, lanes_in, lanes_out, options : see the class

        Raises
        ------
        :exc:`HwgenError`
            If a token has more beats than that at the input or at the output.
        """
        config = cls(first=first, second=second, tensor=tensor, **options)
        (cin, rank), (_, cout) = (folding.group_channels for folding in config.foldings)
        # All in parallel, which any lanes fit.
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
    def token_cycles(self) -> int:
        """Cycles from a token to the next: those of the slower array."""
        return max(folding.window.window_cycles for folding in self.foldings)

    @cached_property
    def arrays(self) -> tuple[TokenMatrixConfig, TokenMatrixConfig]:
        """Both arrays with their buffers."""
        first, second = (
            TokenMatrixConfig(folding=folding, places=1, token_cycles=self.token_cycles)
            for folding in self.foldings
        )
        # A place is claimed when a token starts, and free for others after the second array has
        # begun to read it for the last time.
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
        """Tokens of a frame."""
        return self.tensor.size // self.matrices[0].weight.shape[-1]

    @property
    def interval(self) -> int:
        return max(self.inputs[0].beats, self.tokens * self.token_cycles)

    @cached_property
    def least_depths(self) -> tuple[int, ...]:
        # So many tokens that the places of the first are free again when the last one starts.
        tokens = 2 + int(self.arrays[1].results[-1] + QUEUE_LATENCY) // self.token_cycles
        claims, out = self._results(np.arange(tokens) * self.token_cycles)
        return (max(queue_depth(claims, out), self.foldings[1].fold_beats),)

    def _results(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For starts of tokens: when places of results are claimed, and when they are visible."""
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

    def resources(self) -> Resources:
        claims = len(set(self.arrays[1].fold_beats))
        return area.output_queues(self, claims) + area.total(a.resources() for a in self.arrays)

    @property
    def loads(self) -> int:
        """Words of weights that are loaded after reset."""
        return sum(folding.loads for folding in self.foldings)

    def load_words(self) -> list[int]:
        """The words of weights that are loaded, in order."""
        return [word for folding in self.foldings for word in folding.load_words()]

    @property
    def signature(self) -> wiring.Signature:
        if not self.loads:
            return super().signature
        words = stream.Signature(LOAD_BITS, always_ready=True)
        return wiring.Signature({**super().signature.members, "load": In(words),
                                 "next": Out(words)})

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        middle = self.first.evaluate(frames, (self.tensor,))
        return self.second.evaluate(middle, self.first.infer(self.tensor))

    def create(self) -> LowRankLinear:
        return LowRankLinear(self)


def _matrix(name: str, op: Op, tensor: TensorType) -> Conv:
    """An op that is a matrix times each token, as a convolution of a vector."""
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
    """Multipliers, pe and channel lanes of the smallest array that takes at most some cycles.

    Of arrays with as many multipliers it is the one with the fewest accumulators.
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


class LowRankLinear(wiring.Component):
    """A layer of low rank, with requantisation after both matrices.

    Parameters
    ----------
    config : :class:`LowRankLinearConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out)))`
    load, next : see :class:`hwgen.blocks.weights.WeightMemory`, if weights are loaded

    Timing
    ------
    For each token the cycles of the slower array:
    ``ceil(outputs / pe) * max(ceil(inputs / channel_lanes), results of a fold / lanes)``, where
    lanes are ``lanes_rank`` or ``lanes_out``; see :meth:`LowRankLinearConfig.schedule`.
    """

    def __init__(self, config: LowRankLinearConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        first, second = (array.create() for array in self.config.arrays)
        m.submodules.first, m.submodules.second = first, second
        counts = self.config.arrays[1].fold_beats
        claims = tuple(sorted(set(counts), reverse=True))
        m.submodules.queue = queue = output_queue(self.config, 0, claims)
        claim = which_claim(m, "starting", counts, second.start)
        m.d.comb += [
            self.i.ready.eq(first.free),
            first.i.valid.eq(self.i.valid & first.free), first.i.p.eq(self.i.p),
            first.claim.eq(first.ends),
            # A token starts when it has a place between the arrays.
            first.room.eq((second.free | ~first.begins) & first.loaded & second.loaded),
            second.claim.eq(first.start & first.begins),
            second.room.eq(queue.room.bit_select(claim, 1)),
            queue.reserve.eq(Mux(second.start, 1 << claim, 0)),
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
