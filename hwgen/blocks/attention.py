"""Attention: scores, softmax and weighted sums in one pipeline, row by row.

A *row* is a query of one head.  Four stages work on different rows: scores against all keys with
their largest; exponentials with their sum; the reciprocal of the sum; weighted sums of the values.
Keys and values are held in memories that are written while those of the last frame are read; the
"weights" of the multipliers so come from streams, and are packed, two for a DSP, as they are read.
A row starts when all that it needs is there and its results have places, and nothing stops it then.

Scores are kept as they are accumulated: requantised to 8 bits, as is usual, they would cost most of
the accuracy.  A softmax takes two passes over a row, not three as in HG-PIPE (Guo et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring

from hwgen import ir
from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.output import fold_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import adder_tree, counter, delayed, levels, signed_width
from hwgen.device.cost import Area, logic, total
from hwgen.device.multiplier import MULTIPLIERS, Multiplier, Packing
from hwgen.errors import HwgenError
from hwgen.ir.attention import STEPS
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.mac import MacArray, MacArrayConfig
from hwgen.parts.memory import BufferMemory, ReadOnlyMemory, buffer_area
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.requantise import RoundShift, round_shift_area
from hwgen.parts.stream import StreamType, in_order
from hwgen.parts.token_banks import FRAMES, TokenBanks, TokenBanksConfig

__all__ = ["Attention", "AttentionConfig"]

OPERAND_LATENCY = 4
"""Cycles from a step of a stage to the operands: two for the address, two for the word."""
EXP_BITS = 7


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(BlockConfig):
    """Attention, and how it is folded.

    Parameters
    ----------
    op : :class:`hwgen.ir.Attention`
    tensors : three :class:`TensorType`
        Types of queries, keys and values.
    lanes : :class:`int`
        Channels per beat of the output; divides ``value_pe``.
    channel_lanes : :class:`int`
        Channels that are summed in each cycle for a score, and channels per beat of queries and
        keys; divides those of a head.
    pe : :class:`int`
        Keys side by side.
    score_lanes : :class:`int`
        Scores a cycle that become exponentials; divides ``pe``.
    value_lanes : :class:`int`
        Keys that are summed in each cycle for a weighted sum; a multiple of ``score_lanes``.
    value_pe : :class:`int`
        Channels of weighted sums side by side, and channels per beat of the values; divides those
        of a head.
    multiplier : :class:`str`
        One of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    products : :class:`int`
        Products that share a multiplier; 0: as many as fit.
    window_style : :class:`str`
        Memory of the keys and values: see :class:`BufferMemory`.

    Raises
    ------
    :exc:`HwgenError`
        If the tensors do not fit the op, or the folding does not fit the tensors.
    """

    kind: ClassVar[str] = "convolution"

    op: ir.Attention
    tensors: tuple[TensorType, TensorType, TensorType]
    lanes: int = 1
    channel_lanes: int = 1
    pe: int = 1
    score_lanes: int = 1
    value_lanes: int = 1
    value_pe: int = 1
    multiplier: str = "dsp48e2"
    products: int = 0
    window_style: str = ""

    def __post_init__(self) -> None:
        d, e = self.op.head_channels(*self.tensors)
        keys = self.tensors[1].pixels
        for name, whole in (("channel_lanes", d), ("value_pe", e)):
            if getattr(self, name) < 1 or whole % getattr(self, name):
                raise HwgenError(f"{name} must divide the {whole} channels of a head, not "
                                 f"{getattr(self, name)!r}")
        for name in ("pe", "value_lanes"):
            if not 1 <= getattr(self, name) <= keys:
                raise HwgenError(f"{name} must be between 1 and the {keys} keys, not "
                                 f"{getattr(self, name)!r}")
        for name, of in (("score_lanes", "pe"), ("lanes", "value_pe"),
                         ("score_lanes", "value_lanes")):
            whole = getattr(self, of)
            if getattr(self, name) < 1 or whole % getattr(self, name):
                raise HwgenError(f"{name} must divide {of} {whole}, not {getattr(self, name)!r}")
        _ = self.inputs, self.outputs, self.score_array, self.value_array

    # Streams

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return tuple(StreamType(tensor, lanes) for tensor, lanes in zip(
            self.tensors, (self.channel_lanes, self.channel_lanes, self.value_pe), strict=True))

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        (out,) = self.op.infer(*self.tensors)
        return (StreamType(out, self.lanes),)

    @property
    def row_beats(self) -> int:
        """Beats of the results of a row."""
        return self.op.head_channels(*self.tensors)[1] // self.lanes

    @property
    def rows(self) -> int:
        """Rows of a frame: head after head of each query."""
        return self.tensors[0].pixels * self.op.heads

    # Parts

    @property
    def device(self) -> Multiplier:
        """The multiplier of all products."""
        return MULTIPLIERS[self.multiplier]

    def _array(self, bits: int, other: int, simd: int, pixels: int, acc: int) -> MacArrayConfig:
        """Products of packed words of ``bits`` bits with operands of ``other`` bits."""
        key = other, bits, 1 << (bits - 1)
        products = self.products or Packing.densest(self.multiplier, *key).products
        return MacArrayConfig(
            simd=simd, pe=1, pixels=pixels, shared="weight", acc_bits=acc,
            packing=Packing(self.multiplier, min(products, pixels), *key))

    @cached_property
    def score_array(self) -> MacArrayConfig:
        """Products of queries and keys."""
        q, k, _ = self.tensors
        return self._array(k.bits, q.bits, self.channel_lanes, self.pe, self.score_bits)

    @cached_property
    def value_array(self) -> MacArrayConfig:
        """Products of exponentials and values."""
        bits = signed_width(*self.op.sum_range(self.tensors[2]))
        return self._array(self.tensors[2].bits, EXP_BITS + 1, self.value_lanes, self.value_pe,
                           bits)

    @cached_property
    def keys(self) -> TokenBanksConfig:
        """Memory of the keys."""
        return TokenBanksConfig(stream=self.inputs[1], side=self.pe, style=self.window_style)

    @cached_property
    def values(self) -> TokenBanksConfig:
        """Memory of the values."""
        return TokenBanksConfig(stream=self.inputs[2], side=self.value_lanes,
                                style=self.window_style)

    @property
    def score_bits(self) -> int:
        """Bits of a score."""
        return signed_width(*self.op.score_range(*self.tensors[:2]))

    @property
    def exp_table(self) -> ReadOnlyMemory:
        """Memory of the exponentials, one for each score lane."""
        return ReadOnlyMemory(EXP_BITS, STEPS)

    @cached_property
    def least_over(self) -> int:
        """The least difference of scores that is beyond the table, or at its end."""
        m, shift = int(self.op.step.multiplier[0]), int(self.op.step.shift[0])
        most = 1 << self.score_bits
        return most if not m else min(-(-((STEPS - 1) << shift) // m), most)

    # Stages: how many cycles each has for a row, and when it begins

    @property
    def words(self) -> int:
        """Words of a query's head."""
        return self.op.head_channels(*self.tensors)[0] // self.channel_lanes

    @property
    def fold_words(self) -> int:
        """Words of the scores of a fold."""
        return self.pe // self.score_lanes

    @property
    def fold_cycles(self) -> int:
        """Cycles of a fold of keys."""
        return max(self.words, self.fold_words)

    @cached_property
    def seen(self) -> np.ndarray:
        """Per query, how many keys it sees; all that follows is per query, too."""
        return self.op.keys_seen(*self.tensors[:2])

    @property
    def folds(self) -> np.ndarray:
        """Folds of the keys of a row."""
        return -(-self.seen // self.pe)

    @property
    def score_cycles(self) -> np.ndarray:
        """Cycles in which a row's scores are computed."""
        return self.folds * self.fold_cycles

    @property
    def score_words(self) -> np.ndarray:
        """Words of the scores of a row."""
        return -(-self.seen // self.score_lanes)

    @property
    def exp_words(self) -> np.ndarray:
        """Words of the exponentials of a row, ``value_lanes`` in each."""
        return -(-self.seen // self.value_lanes)

    @property
    def exp_pieces(self) -> int:
        """Words of scores in a word of exponentials."""
        return self.value_lanes // self.score_lanes

    @property
    def exp_cycles(self) -> np.ndarray:
        """Cycles in which a row's exponentials are looked up."""
        return self.exp_words * self.exp_pieces

    @property
    def value_folds(self) -> int:
        """Folds of a head's channels."""
        return self.op.head_channels(*self.tensors)[1] // self.value_pe

    @property
    def fold_beats(self) -> int:
        """Beats of the results of a fold of channels."""
        return self.value_pe // self.lanes

    @property
    def value_fold_cycles(self) -> np.ndarray:
        """Cycles of a fold of channels."""
        return np.maximum(self.exp_words, self.fold_beats)

    @property
    def value_cycles(self) -> np.ndarray:
        """Cycles in which a row's weighted sums are computed."""
        return self.value_folds * self.value_fold_cycles

    @property
    def tree_levels(self) -> int:
        """Levels of the trees over the score lanes."""
        return levels(self.score_lanes)

    @property
    def score_latency(self) -> int:
        """Cycles from the last step of a fold to its first word of scores."""
        return OPERAND_LATENCY + self.score_array.latency + 1

    @cached_property
    def exp_begin(self) -> np.ndarray:
        """Cycles from a row's start to the first step of its exponentials: its largest is known."""
        fold, within = np.divmod(self.score_words - 1, self.fold_words)
        last = fold * self.fold_cycles + self.words - 1 + self.score_latency + within
        return last + self.tree_levels + 3

    @property
    def entry_bits(self) -> int:
        """Bits of a difference of scores that is within the table, with a sign."""
        return max((self.least_over - 1).bit_length(), 1) + 1

    @property
    def _step_operands(self) -> tuple[int, int]:
        """Bits of the operands of the product that makes an entry of the table, wider first."""
        bits = self.entry_bits, max(int(self.op.step.multiplier[0]).bit_length(), 1) + 1
        return max(bits), min(bits)

    @property
    def exp_latency(self) -> int:
        """Cycles from a step of the exponentials to these."""
        return 7 + self.device.product_latency(*self._step_operands) + self.exp_table.latency

    @property
    def sum_begin(self) -> np.ndarray:
        """Cycles from a row's start until the sum of its exponentials is there."""
        return self.exp_begin + self.exp_cycles + self.exp_latency + self.tree_levels

    @property
    def divided(self) -> np.ndarray:
        """Cycles from a row's start until its reciprocal is there."""
        return self.sum_begin + 1 + self.op.reciprocal_bits

    @property
    def value_latency(self) -> int:
        """Cycles from the last step of a fold of channels until its sums are there."""
        return OPERAND_LATENCY + self.value_array.latency

    @cached_property
    def value_wait(self) -> int:
        """Cycles from a row's last exponentials to the first step of its weighted sums.

        All exponentials have been written then, and the reciprocal is there when the first sums
        are.
        """
        written = self.exp_begin + self.exp_cycles + self.exp_latency
        late = self.divided - self.exp_words + 1 - self.value_latency - written
        return max(1, int(late.max()))

    @property
    def value_begin(self) -> np.ndarray:
        """Cycles from a row's start to the first step of its weighted sums."""
        return self.exp_begin + self.exp_cycles + self.exp_latency + self.value_wait

    @property
    def first_sums(self) -> np.ndarray:
        """Cycles from a row's start until the sums of its first fold are there."""
        return self.value_begin + self.exp_words - 1 + self.value_latency

    @cached_property
    def row_cycles(self) -> np.ndarray:
        """Least cycles from the start of a row to the next one: no stage has two rows at once."""
        return np.maximum.reduce([
            self.score_cycles, self.exp_cycles + 3 + self.tree_levels, self.value_cycles,
            np.full_like(self.seen, self.op.reciprocal_bits + 2),
            self.first_sums - self.divided + 1,
            # What a stage reads is written again two rows later.
            self.value_begin - self.exp_begin - self.exp_latency + 1,
        ])

    @property
    def last_cycles(self) -> int:
        """Least cycles from the last row of a frame to the first of the next one.

        Where that is much shorter, it must not overtake.
        """
        if not self.op.causal:
            return int(self.row_cycles[-1])
        return int(max(self.row_cycles[-1], self.first_sums[-1] + self.value_cycles[-1]))

    @cached_property
    def gaps(self) -> np.ndarray:
        """Per row of a frame, least cycles to the start of the next one."""
        gaps = np.repeat(self.row_cycles, self.op.heads)
        gaps[-1] = self.last_cycles
        return gaps

    @property
    def _scale_operands(self) -> tuple[int, int]:
        """Bits of a sum and of a reciprocal, the wider first."""
        bits = self.value_array.acc_bits, self.op.reciprocal_bits + 1
        return max(bits), min(bits)

    @property
    def scale_latency(self) -> int:
        """Cycles from a word of sums to its results."""
        return self.device.product_latency(*self._scale_operands) + RoundShift.latency

    @cached_property
    def result_times(self) -> np.ndarray:
        """Per row of a frame, cycles from its start until each beat of its results is visible."""
        fold, beat = np.divmod(np.arange(self.row_beats), self.fold_beats)
        sums = self.first_sums[:, None] + fold * self.value_fold_cycles[:, None]
        return np.repeat(sums + 1 + beat + self.scale_latency + QUEUE_LATENCY, self.op.heads, 0)

    # The contract

    @property
    def interval(self) -> int:
        return max(int(self.gaps.sum()), *(s.beats for s in (*self.inputs, *self.outputs)))

    @property
    def least_depths(self) -> tuple[int, ...]:
        starts = np.cumsum(np.r_[0, self.gaps[:-1], self.gaps])
        starts = np.r_[starts[: self.rows], starts[self.rows :][: self.rows]]
        out = (starts[:, None] + np.tile(self.result_times, (2, 1))).ravel()
        return (max(queue_depth(np.repeat(starts, self.row_beats), out), self.row_beats),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        frames = len(arrivals[1]) // self.inputs[1].beats
        accepts = [np.zeros_like(times) for times in arrivals]
        starts = np.zeros(frames * self.rows, np.int64)
        beats = [stream.beats for stream in self.inputs]
        # When the reading of the last row of a frame ends, for keys and for values.
        ends = self.score_cycles[-1] + 1, self.value_begin[-1] + self.value_cycles[-1] + 1
        words, rows, gaps = self.words, self.rows, self.gaps.tolist()
        release = np.repeat(self.score_cycles - self.fold_cycles + 2, self.op.heads).tolist()
        # Per row, when the last word of its query comes if there is always a place for it.
        index = np.arange(words)
        last = ((arrivals[0].reshape(-1, words) - index).max(1) + words - 1).tolist()
        free = np.zeros(len(starts), np.int64)
        time = before = -1
        for frame in range(frames):
            ready = 0
            for k in (1, 2):
                own = slice(frame * beats[k], (frame + 1) * beats[k])
                times = arrivals[k][own]
                if frame:
                    times = np.maximum(times, accepts[k][own.start - 1] + 1)
                if frame >= FRAMES:
                    freed = starts[(frame - FRAMES + 1) * rows - 1] + ends[k - 1]
                    times = np.maximum(times, freed)
                accepts[k][own] = in_order(times)
                ready = max(ready, int(accepts[k][own.stop - 1]) + 1)
            for row in range(frame * rows, (frame + 1) * rows):
                place = int(starts[row - 2]) + release[(row - 2) % rows] if row >= 2 else 0
                free[row] = place
                time = max(time + words, place + words - 1, last[row])
                start = max(ready, time + 1, before)
                starts[row] = start
                before = start + gaps[row % rows]
        accepts[0] = in_order(np.maximum(arrivals[0], np.repeat(free, words)))
        out = (starts[:, None] + np.tile(self.result_times, (frames, 1))).ravel()
        return Schedule(tuple(accepts), (out,), (np.repeat(starts, self.row_beats),))

    @property
    def dsp_products(self) -> int:
        return self.score_array.dsp_products + self.value_array.dsp_products

    def parts(self) -> dict[str, Area]:
        return {
            **super().parts(),
            "window": self.keys.area() + self.values.area() + self._buffers,
            "multiply": self.score_array.area() + self.value_array.area(),
            "requantise": self._softmax + self._scaled,
        }

    @property
    def _buffers(self) -> Area:
        """Memories of queries, scores and exponentials."""
        scores = self.keys.rows * self.fold_words
        return total((
            buffer_area(self.inputs[0].width, 2 * self.words),
            buffer_area(self.score_bits * self.score_lanes, 2 * scores),
            buffer_area(EXP_BITS * self.value_lanes, 2 * self.values.rows),
        ))

    @property
    def _softmax(self) -> Area:
        """Largest scores, exponentials, reciprocals."""
        a, b = self._step_operands
        lanes, bits = self.score_lanes, self.score_bits
        divider = (int(self.op.numerator).bit_length() + 2 * self.op.reciprocal_bits)
        return self.device.area(a, b, lanes) + total([self.exp_table.area()] * lanes) + logic(
            "token matrix", one=1, lut_counter=lanes * (2 * bits + self.entry_bits) + divider,
            ff_register=lanes * (4 * bits + self.entry_bits) + 2 * divider)

    @property
    def _scaled(self) -> Area:
        """Sums times reciprocals, rounded."""
        a, b = self._scale_operands
        return self.device.area(a, b, self.lanes) + round_shift_area(
            a + b, (self.op.shift,) * 2, self.op.output, self.lanes)

    def area(self) -> Area:
        held = self.pe * self.score_bits + self.value_pe * self.value_array.acc_bits
        delay = sum(self.score_array.columns[0].skew) * self.tensors[0].bits
        delay += sum(self.value_array.columns[0].skew) * EXP_BITS
        counters = 4 * levels(int(self.gaps.max())) + 6 * levels(self.rows) + 4 * levels(
            self.keys.depth + self.values.depth)
        return total(self.parts().values()) + logic(
            "token matrix", one=1, lut_counter=held + counters,
            ff_register=held + delay + counters)

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, self.tensors)

    def create(self) -> Attention:
        return Attention(self)


class _Rows:
    """Which row of a frame a stage is at.

    Parameters
    ----------
    m, name : module and prefix of signals
    config : the block
    step : whether the row is done in this cycle

    Members
    -------
    query : which query of the frame the row is of
    group_end : the row is the last of those that share a head of keys and values
    token_end : the row is the last of its query
    last : the row is the last of its frame
    """

    def __init__(self, m: Module, name: str, config: AttentionConfig, step: Value) -> None:
        op, queries = config.op, config.tensors[0].pixels
        sharing = op.heads // op.kv_heads
        shared, head = (counter(n, name=f"{name}_{what}") for n, what in (
            (sharing, "shared"), (op.kv_heads, "head")))
        self.query = query = counter(queries, name=f"{name}_query")
        self.group_end = shared == sharing - 1
        self.token_end, self.last = Signal(name=f"{name}_token_end"), Signal(name=f"{name}_last")
        m.d.comb += [
            self.token_end.eq(self.group_end & (head == op.kv_heads - 1)),
            self.last.eq(self.token_end & (query == queries - 1)),
        ]
        with m.If(step):
            m.d.sync += shared.eq(Mux(self.group_end, 0, shared + 1))
            with m.If(self.group_end):
                m.d.sync += head.eq(Mux(self.token_end, 0, head + 1))
            with m.If(self.token_end):
                m.d.sync += query.eq(Mux(self.last, 0, query + 1))

    def of_query(self, values: np.ndarray) -> Value:
        """That of a number per query which is the row's."""
        if (values == values[0]).all():
            return Const(int(values[0]))
        return Array(values.tolist())[self.query]


class _Heads(_Rows):
    """Where the words of a row's head begin in a memory of tokens.

    Parameters
    ----------
    m, name, config, step : see :class:`_Rows`
    banks : the memory
    words : words of a head

    Members
    -------
    base : address of the row's first words, two cycles after ``step``
    """

    def __init__(
        self, m: Module, name: str, config: AttentionConfig, banks: TokenBanksConfig, words: int,
        step: Value,
    ) -> None:
        super().__init__(m, name, config, step)
        frame, offset = Signal(name=f"{name}_frame"), counter(
            banks.token_words, name=f"{name}_offset")
        self.base = counter(banks.depth, name=f"{name}_base")
        with m.If(step):
            with m.If(self.group_end):
                m.d.sync += offset.eq(Mux(self.token_end, 0, offset + words))
            with m.If(self.last):
                m.d.sync += frame.eq(~frame)
        m.d.sync += self.base.eq(Mux(frame, banks.frame_words, 0) + offset)


class Attention(Configured[AttentionConfig]):
    """Attends, row by row: a query of one head at a time.

    Parameters
    ----------
    config : :class:`AttentionConfig`

    Members
    -------
    i_0, i_1, i_2 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
        Queries, keys and values, token after token.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A row starts ``config.row_cycles`` after the one before, and once its frame's keys and values
    and its query's head have been accepted: a cycle after the last of these.  Its results are
    visible ``config.result_times`` after that.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.keys = keys = TokenBanks(config.keys)
        m.submodules.values = values = TokenBanks(config.values)
        wiring.connect(m, wiring.flipped(self.i_1), keys.i)
        wiring.connect(m, wiring.flipped(self.i_2), values.i)
        start = Signal()
        queue, room = fold_queue(m, config, [config.row_beats], start)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        scores = self._scores(m, keys, values, start, room)
        exponentials, marks = self._exponentials(m, *scores)
        reciprocal = self._reciprocal(m, exponentials, marks)
        self._sums(m, values, exponentials, marks, reciprocal, queue)
        return m

    def _steps(
        self, m: Module, name: str, go: Value, most: tuple[int, int], last: tuple[Value, Value],
    ) -> tuple[Signal, Value, Signal, Value]:
        """Two nested counters: the inner and the outer one, and whether each is at its end.

        Parameters
        ----------
        go : whether they go on in this cycle
        most : most turns of each
        last : the last turn of each, for the row that they are at
        """
        one, two = counter(most[0], name=f"{name}_step"), counter(most[1], name=f"{name}_fold")
        one_end, two_end = one == last[0], two == last[1]
        with m.If(go):
            m.d.sync += one.eq(Mux(one_end, 0, one + 1))
            with m.If(one_end):
                m.d.sync += two.eq(Mux(two_end, 0, two + 1))
        return one, one_end, two, two_end

    def _scores(self, m: Module, keys, values, start: Signal, room: Value):
        """Scores of a row against all keys.

        Returns
        -------
        words of scores lane by lane, and whether there is one
        """
        config = self.config
        words, q = config.words, config.inputs[0]
        m.submodules.queries = queries = BufferMemory(q.width, 2 * words)
        # Words of the next row that are missing, less one; places that are left, less one.
        missing = Signal(signed((2 * words).bit_length() + 2), init=-words)
        left = Signal(signed((2 * words).bit_length() + 2), init=2 * words - 1)
        take, release, released = Signal(), Signal(), Signal()
        write = counter(2 * words, name="query_write")
        m.d.comb += [
            self.i_0.ready.eq(~left[-1]), take.eq(self.i_0.valid & self.i_0.ready),
            queries.write_en.eq(take), queries.write_addr.eq(write),
            queries.write_data.eq(self.i_0.p.as_value()),
            queries.read_en.eq(1), queries.load.eq(1),
        ]
        m.d.sync += [
            missing.eq(missing + take - Mux(start, words, 0)),
            left.eq(left - take + Mux(released, words, 0)), released.eq(release),
        ]
        with m.If(take):
            m.d.sync += write.eq(Mux(write == 2 * words - 1, 0, write + 1))
        # The start of rows, and their steps.
        rest = counter(int(config.gaps.max()), name="rest")
        busy, go, row_end = Signal(), Signal(), Signal()
        heads = _Heads(m, "key", config, config.keys, words, row_end)
        starts = _Rows(m, "start", config, start)
        first = Signal(init=1)
        """The row that starts next is the first of a frame."""
        with m.If(start):
            m.d.sync += rest.eq(Mux(starts.last, config.last_cycles - 1,
                                    starts.of_query(config.row_cycles - 1)))
        with m.Elif(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        step, fold_end, _, last_fold = self._steps(
            m, "score", go, (config.fold_cycles, config.keys.rows),
            (Const(config.fold_cycles - 1), heads.of_query(config.folds - 1)))
        m.d.comb += [
            start.eq((rest == 0) & room & ~missing[-1] & (
                ~first | (keys.full & values.full))),
            go.eq(start | busy), row_end.eq(go & fold_end & last_fold),
            release.eq(go & last_fold & (step == 0)),
            keys.begin.eq(start & first), values.begin.eq(start & first),
        ]
        freed = Signal()
        m.d.sync += freed.eq(row_end & heads.last)
        m.d.comb += keys.free.eq(freed)
        with m.If(go):
            m.d.sync += busy.eq(~row_end)
        with m.If(start):
            m.d.sync += first.eq(starts.last)
        # Addresses.
        fold_base = counter(config.keys.frame_words, name="key_fold")
        local = counter(config.keys.frame_words, name="key_local")
        half, query = Signal(), counter(2 * words, name="query_local")
        query_address = Signal.like(query)
        m.d.sync += [
            local.eq(fold_base + step), keys.address.eq(heads.base + local),
            query.eq(Mux(half, words, 0) + step), query_address.eq(query),
        ]
        m.d.comb += queries.read_addr.eq(query_address)
        with m.If(go & fold_end):
            m.d.sync += fold_base.eq(
                Mux(last_fold, 0, fold_base + config.keys.token_words))
        with m.If(row_end):
            m.d.sync += half.eq(~half)
        # Products.
        live = Signal()
        m.d.comb += live.eq(go & (step < words))
        done, acc = self._multiplied(
            m, "score", config.score_array, Cat(live, step == 0, live & (step == words - 1)),
            keys.words, queries.read_data, config.tensors[0].bits)
        return self._serialised(m, "score", done, acc, config.fold_words)

    def _multiplied(
        self, m: Module, name: str, config: MacArrayConfig, flags: Value, packed: Value,
        shared: Value, bits: int,
    ) -> tuple[Value, Value]:
        """Products of packed words, which are side by side, with operands that they share.

        Returns
        -------
        whether sums are complete, and the sums
        """
        array = MacArray(config)
        m.submodules[f"{name}_array"] = array
        marks = [flags]
        for k in range(OPERAND_LATENCY + config.latency):
            marks.append(Signal(len(flags), name=f"{name}_flags_{k}"))
            m.d.sync += marks[-1].eq(marks[-2])
        m.d.comb += [
            Cat(array.add, array.first).eq(marks[OPERAND_LATENCY + config.sum_latency][:2]),
            array.x.as_value().eq(packed),
        ]
        skew, wide = config.columns[0].skew, config.w_bits
        operands = [shared[k * bits : (k + 1) * bits] for k in range(config.simd)]
        for k, late in enumerate(config.skews):
            mine = [operands[n].as_signed() for n, s in enumerate(skew)
                    if s == sorted(set(skew))[k]]
            sized = []
            for value in mine:
                word = Signal(signed(wide), name=f"{name}_operand_{k}_{len(sized)}")
                m.d.comb += word.eq(value)
                sized.append(word)
            m.d.comb += getattr(array, f"w_{k}").eq(
                delayed(m, Cat(sized), late, f"{name}_shared_{k}"))
        return marks[-1][2], array.acc.as_value()

    def _serialised(
        self, m: Module, name: str, done: Value, acc: Value, words: int
    ) -> tuple[Value, Value]:
        """Results of a fold, word by word: the word, and whether there is one."""
        held = Signal(len(acc), name=f"{name}_held", reset_less=True)
        left = Signal(range(words + 1), name=f"{name}_left")
        bits = len(acc) // words
        valid = left != 0
        with m.If(done):
            m.d.sync += [held.eq(acc), left.eq(words)]
        with m.Elif(valid):
            m.d.sync += [held.eq(held >> bits), left.eq(left - 1)]
        return held[:bits], valid

    def _exponentials(self, m: Module, word: Value, valid: Value):
        """Largest score of a row, then exponentials of the distances from it.

        Returns
        -------
        exponentials lane by lane; and two bits: whether there are any, and whether they are the
        last of a row
        """
        config = self.config
        lanes, bits = config.score_lanes, config.score_bits
        depth = config.keys.rows * config.fold_words
        m.submodules.score_memory = memory = BufferMemory(bits * lanes, 2 * depth)
        number, half = counter(depth, name="score_number"), Signal(name="score_half")
        end = Signal(name="score_end")
        rows = _Rows(m, "largest", config, end)
        m.d.comb += end.eq(valid & (number == rows.of_query(config.folds * config.fold_words - 1)))
        with m.If(valid):
            m.d.sync += number.eq(Mux(end, 0, number + 1))
            with m.If(end):
                m.d.sync += half.eq(~half)
        write = counter(2 * depth, name="score_address")
        data, write_en = Signal(bits * lanes, reset_less=True), Signal()
        m.d.sync += [
            write.eq(Mux(half, depth, 0) + number), data.eq(word), write_en.eq(valid)]
        m.d.comb += [memory.write_en.eq(write_en), memory.write_addr.eq(write),
                     memory.write_data.eq(data)]
        # The largest: of the lanes of a word, then of words.
        last_word = rows.of_query(config.score_words - 1)
        present = rows.of_query(config.seen - (config.score_words - 1) * lanes)
        lowest = -(1 << (bits - 1))
        best = []
        for lane in range(lanes):
            score = Signal(signed(bits), name=f"score_{lane}", reset_less=True)
            value = word[lane * bits : (lane + 1) * bits].as_signed()
            absent = (number == last_word) & (present <= lane)
            m.d.sync += score.eq(Mux(absent, lowest, value))
            best.append(score)
        for level in range(config.tree_levels):
            paired = []
            for k in range(0, len(best), 2):
                larger = Signal(signed(bits), name=f"larger_{level}_{k}", reset_less=True)
                pair = best[k : k + 2]
                m.d.sync += larger.eq(
                    pair[0] if len(pair) == 1 else Mux(pair[0] > pair[1], pair[0], pair[1]))
                paired.append(larger)
            best = paired
        marks = Cat(valid & (number <= last_word), number == 0, valid & (number == last_word))
        marks = delayed(m, marks, 1 + config.tree_levels, "largest_marks")
        largest = Signal(signed(bits), reset_less=True)
        with m.If(marks[0] & (marks[1] | (best[0] > largest))):
            m.d.sync += largest.eq(best[0])
        ended = Signal()
        m.d.sync += ended.eq(marks[2])
        # Now step through the row once more.
        of_row = Signal(signed(bits), reset_less=True)
        busy = Signal(name="exp_busy")
        with m.If(ended):
            m.d.sync += [of_row.eq(largest), busy.eq(1)]
        step, row_end = counter(int(config.exp_cycles.max()), name="exp_step"), Signal(
            name="exp_end")
        rows = _Rows(m, "exp", config, row_end)
        last_word = rows.of_query(config.score_words - 1)
        present = rows.of_query(config.seen - (config.score_words - 1) * lanes)
        m.d.comb += row_end.eq(busy & (step == rows.of_query(config.exp_cycles - 1)))
        from_half = Signal(name="exp_half")
        with m.If(busy):
            m.d.sync += step.eq(Mux(row_end, 0, step + 1))
            with m.If(row_end):
                m.d.sync += [busy.eq(ended), from_half.eq(~from_half)]
        address = Signal.like(memory.read_addr)
        m.d.comb += [
            # Steps beyond the scores read anything, and count for nothing.
            address.eq(Mux(from_half, depth, 0) + step),
            memory.read_addr.eq(address), memory.read_en.eq(1), memory.load.eq(1),
        ]
        late = config.exp_latency
        live = delayed(m, Cat(
            busy & ((step < last_word) | ((step == last_word) & (present > lane)))
            for lane in range(lanes)), late - 1, "exp_live")
        lanes_out = []
        for lane in range(lanes):
            score = memory.read_data[lane * bits : (lane + 1) * bits].as_signed()
            lanes_out.append(self._exponential(m, lane, of_row, score, live[lane]))
        marks = delayed(m, Cat(busy, row_end), late, "exp_marks")
        return lanes_out, marks

    def _exponential(
        self, m: Module, lane: int, largest: Value, score: Value, there: Value
    ) -> Signal:
        """The exponential of a score's distance from the largest; 0 if there is no such score."""
        config = self.config
        bits, shift = config.entry_bits, int(config.op.step.shift[0])
        distance = Signal(unsigned(config.score_bits), name=f"distance_{lane}", reset_less=True)
        kept = Signal.like(distance, name=f"kept_{lane}")
        over = Signal(name=f"over_{lane}", reset_less=True)
        within = Signal(signed(bits), name=f"within_{lane}", reset_less=True)
        m.d.sync += [
            distance.eq(largest - score), kept.eq(distance),
            over.eq(distance >= config.least_over), within.eq(kept[: bits - 1]),
        ]
        over = delayed(m, over, 1, f"over_{lane}")
        step = int(config.op.step.multiplier[0])
        factor = Const(step, signed(max(step.bit_length(), 1) + 1))
        wide, narrow = sorted((within, factor), key=len, reverse=True)
        product = config.device.product(m, wide, narrow, f"entry_{lane}")
        over = delayed(m, over, config.device.product_latency(*config._step_operands),
                       f"over_product_{lane}")
        entry = Signal(8, name=f"entry_{lane}", reset_less=True)
        m.d.sync += entry.eq(Mux(over, STEPS - 1, (product >> shift)[:8]))
        value = config.exp_table.read(m, f"exp_{lane}", entry, config.op.exp.tolist())
        e = Signal(EXP_BITS, name=f"e_{lane}", reset_less=True)
        m.d.sync += e.eq(Mux(there, value, 0))
        return e

    def _reciprocal(self, m: Module, lanes: list[Signal], marks: Value) -> Value:
        """One over the sum of a row's exponentials, bit by bit."""
        config = self.config
        bits, keys = config.op.reciprocal_bits, config.tensors[1].pixels
        sum_bits = (keys * int(config.op.exp.max())).bit_length()
        terms: list[tuple[Value, Value | None]] = [
            (Cat(e, Const(0, 1)).as_signed(), None) for e in lanes]
        total_, _ = adder_tree(m, terms, EXP_BITS + 1, "exp_sum")
        marks = delayed(m, marks, config.tree_levels, "sum_marks")
        total = Signal(sum_bits, reset_less=True)
        first, complete = Signal(init=1), Signal()
        with m.If(marks[0]):
            m.d.sync += [total.eq(Mux(first, 0, total) + total_), first.eq(marks[1])]
        m.d.sync += complete.eq(marks[0] & marks[1])
        # The quotient has as many bits as its reciprocal, so the dividend's others begin it.
        high = int(config.op.numerator) >> bits
        divisor = Signal(sum_bits, reset_less=True)
        dividend = Signal(bits, reset_less=True)
        remainder = Signal(sum_bits, reset_less=True)
        quotient, result = Signal(bits, reset_less=True), Signal(bits, reset_less=True)
        left = counter(bits + 1, name="divide_left")
        shifted = Cat(dividend[-1], remainder)
        difference = Signal(signed(sum_bits + 2))
        m.d.comb += difference.eq(shifted - divisor)
        with m.If(complete):
            m.d.sync += [
                divisor.eq(total), remainder.eq(high), left.eq(bits),
                dividend.eq(int(config.op.numerator) & ((1 << bits) - 1)),
            ]
        with m.Elif(left != 0):
            m.d.sync += [
                left.eq(left - 1), dividend.eq(dividend << 1),
                remainder.eq(Mux(difference[-1], shifted, difference)),
                quotient.eq(Cat(~difference[-1], quotient)),
            ]
            with m.If(left == 1):
                # It stays while the next one is made.
                m.d.sync += result.eq(Cat(~difference[-1], quotient))
        return result

    def _sums(
        self, m: Module, values, lanes: list[Signal], marks: Value, reciprocal: Value, queue
    ) -> None:
        """Weighted sums of the values, times the row's reciprocal."""
        config = self.config
        pieces, words = config.exp_pieces, config.values.rows
        m.submodules.exp_memory = memory = BufferMemory(EXP_BITS * config.value_lanes, 2 * words)
        # Collect exponentials to words.
        word = Signal(EXP_BITS * config.value_lanes, reset_less=True)
        piece, write, write_en = counter(pieces, name="piece"), counter(
            2 * words, name="exp_write"), Signal()
        full = piece == pieces - 1
        half_end, half = Signal(name="exp_row_end"), Signal(name="exp_write_half")
        m.d.sync += [write_en.eq(marks[0] & full), half_end.eq(marks[1])]
        with m.If(marks[0]):
            m.d.sync += [word.eq(Cat(word, *lanes)[EXP_BITS * len(lanes):]),
                         piece.eq(Mux(full, 0, piece + 1))]
        with m.If(write_en):
            m.d.sync += write.eq(Mux(half_end, Mux(half, 0, words), write + 1))
        with m.If(half_end):
            m.d.sync += half.eq(~half)
        m.d.comb += [memory.write_en.eq(write_en), memory.write_addr.eq(write),
                     memory.write_data.eq(word), memory.read_en.eq(1), memory.load.eq(1)]
        # Begin when all are there.
        begin = delayed(m, marks[1], config.value_wait, "value_begin")
        busy, row_end = Signal(name="value_busy"), Signal(name="value_end")
        heads = _Heads(m, "value", config, config.values, config.value_folds, row_end)
        step, fold_end, fold, last_fold = self._steps(
            m, "value", busy, (int(config.value_fold_cycles.max()), config.value_folds),
            (heads.of_query(config.value_fold_cycles - 1), Const(config.value_folds - 1)))
        with m.If(begin):
            m.d.sync += busy.eq(1)
        with m.Elif(row_end):
            m.d.sync += busy.eq(0)
        freed, half = Signal(), Signal(name="value_half")
        m.d.sync += freed.eq(row_end & heads.last)
        m.d.comb += [row_end.eq(busy & fold_end & last_fold), values.free.eq(freed)]
        base = counter(config.values.frame_words, name="value_row")
        local = counter(config.values.frame_words, name="value_local")
        exp_local, exp_address = counter(2 * words, name="exp_local"), Signal.like(
            memory.read_addr, name="exp_address")
        m.d.sync += [
            local.eq(base + fold), values.address.eq(heads.base + local),
            exp_local.eq(Mux(half, words, 0) + step), exp_address.eq(exp_local),
        ]
        m.d.comb += memory.read_addr.eq(exp_address)
        with m.If(busy):
            m.d.sync += base.eq(Mux(fold_end, 0, base + config.values.token_words))
        with m.If(row_end):
            m.d.sync += half.eq(~half)
        # Lanes of values are packed channel by channel.
        bits = config.tensors[2].bits
        packed = Cat(
            values.words.word_select(token * config.value_pe + channel, bits)
            for channel in range(config.value_pe) for token in range(config.value_lanes))
        operands = Cat(Cat(memory.read_data.word_select(k, EXP_BITS), Const(0, 1))
                       for k in range(config.value_lanes))
        last_step = heads.of_query(config.exp_words - 1)
        live = busy & (step <= last_step)
        done, acc = self._multiplied(
            m, "value", config.value_array, Cat(live, step == 0, live & (step == last_step)),
            packed, operands, EXP_BITS + 1)
        sums, valid = self._serialised(m, "value", done, acc, config.fold_beats)
        # The reciprocal of the row that the sums are of.
        row_first, row_fold = Signal(init=1), counter(config.value_folds, name="scaled_fold")
        scale = Signal(signed(len(reciprocal) + 1), reset_less=True)
        with m.If(done):
            last = row_fold == config.value_folds - 1
            m.d.sync += [row_fold.eq(Mux(last, 0, row_fold + 1)), row_first.eq(last)]
            with m.If(row_first):
                m.d.sync += scale.eq(reciprocal)
        late = config.scale_latency
        m.d.comb += queue.i.valid.eq(delayed(m, valid, late, "scaled"))
        acc_bits = config.value_array.acc_bits
        for lane in range(config.lanes):
            value = sums[lane * acc_bits : (lane + 1) * acc_bits].as_signed()
            wide, narrow = sorted((value, scale), key=len, reverse=True)
            product = config.device.product(m, wide, narrow, f"scaled_{lane}")
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                len(product), (config.op.shift,) * 2, config.op.output)
            m.d.comb += [rounder.i.eq(product), rounder.shift.eq(0), queue.i.p[lane].eq(rounder.o)]


@carries_out(ir.Attention, own_lanes=True)
def _attention(request: BlockRequest) -> AttentionConfig:
    return AttentionConfig(op=request.op, tensors=request.tensors, lanes=request.lanes,
                           **request.folded(AttentionConfig))
