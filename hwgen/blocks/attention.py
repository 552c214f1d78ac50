"""Attention: scores, softmax and weighted sums in one pipeline, row by row.

A *row* is a query of one head.  Four stages work on different rows: scores against all keys with
their largest; exponentials with their sum; the reciprocal of the sum; weighted sums of the values.
Keys and values are held in memories that are written while those of the last window are read; the
"weights" of the multipliers so come from streams, and are packed, two for a DSP, as they are read.
A row starts when all that it needs is there and its results have places, and nothing stops it then.
Where tokens are not cut into windows, the frame is one.

Scores are kept as they are accumulated: requantised to 8 bits, as is usual, they would cost most of
the accuracy.  A softmax takes two passes over a row, not three as in HG-PIPE (Guo et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from hwgen import ir
from hwgen.blocks.attention_pipeline import EXP_BITS, Attention
from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import levels, signed_width
from hwgen.device.cost import Area, logic, total
from hwgen.device.multiplier import MULTIPLIERS, Multiplier, Packing
from hwgen.errors import HwgenError
from hwgen.ir.types import TensorType
from hwgen.parts.mac import MacArrayConfig
from hwgen.parts.memory import buffer_area
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.requantise import RoundShift, round_shift_area
from hwgen.parts.row_products import OPERAND_LATENCY, row_starts
from hwgen.parts.score_table import ScoreTable
from hwgen.parts.softmax import ExponentialsConfig, reciprocal_area
from hwgen.parts.stream import StreamType
from hwgen.parts.token_banks import FRAMES, TokenBanksConfig
from hwgen.parts.token_rows import RowShape

__all__ = ["Attention", "AttentionConfig"]


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
        Memory of the keys and values: see :class:`hwgen.parts.memory.BufferMemory`.

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
        self.op.infer(*self.tensors)
        keys = self.window_tensors[1].pixels
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

    @cached_property
    def window_tensors(self) -> tuple[TensorType, ...]:
        """Queries, keys and values of a window."""
        return tuple(TensorType((t.pixels // self.op.windows, t.channels), t.quantisation)
                     for t in self.tensors)

    @property
    def row_beats(self) -> int:
        """Beats of the results of a row."""
        return self.op.head_channels(*self.tensors)[1] // self.lanes

    @property
    def rows(self) -> int:
        """Rows of a window: head after head of each query."""
        return self.window_tensors[0].pixels * self.op.heads

    @property
    def row_shape(self) -> RowShape:
        """Rows of a frame, and which head of keys and values each reads."""
        op = self.op
        return RowShape(self.window_tensors[0].pixels, op.heads, op.heads // op.kv_heads,
                        op.windows)

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
        bits = signed_width(*self.op.product_range(q, k))
        return self._array(k.bits, q.bits, self.channel_lanes, self.pe, bits)

    @cached_property
    def value_array(self) -> MacArrayConfig:
        """Products of exponentials and values."""
        bits = signed_width(*self.op.sum_range(self.tensors[2]))
        return self._array(self.tensors[2].bits, EXP_BITS + 1, self.value_lanes, self.value_pe,
                           bits)

    @cached_property
    def keys(self) -> TokenBanksConfig:
        """Memory of the keys."""
        stream = StreamType(self.window_tensors[1], self.channel_lanes)
        return TokenBanksConfig(stream=stream, side=self.pe, style=self.window_style)

    @cached_property
    def values(self) -> TokenBanksConfig:
        """Memory of the values."""
        stream = StreamType(self.window_tensors[2], self.value_pe)
        return TokenBanksConfig(stream=stream, side=self.value_lanes, style=self.window_style)

    @cached_property
    def score_tables(self) -> dict[str, ScoreTable]:
        """Memories of what is read beside the scores: ``bias`` and ``hidden``, where there are."""
        words = tuple((self.folds * self.fold_words).tolist())
        found = {"bias": self.op.bias, "hidden": self.op.hidden}
        return {name: ScoreTable(values, self.op.heads, self.score_lanes, words)
                for name, values in found.items() if values is not None}

    @property
    def score_bits(self) -> int:
        """Bits of a score, with its bias."""
        return signed_width(*self.op.score_range(*self.tensors[:2]))

    @property
    def score_word_bits(self) -> int:
        """Bits of a score in its memory: one more says whether its key is hidden."""
        return self.score_bits + ("hidden" in self.score_tables)

    @cached_property
    def exponentials(self) -> ExponentialsConfig:
        """What looks exponentials up, one for each score lane."""
        return ExponentialsConfig(
            bits=self.score_bits, lanes=self.score_lanes, multipliers=self.op.multipliers,
            shift=int(self.op.step.shift[0]), exp=self.op.exp, multiplier=self.multiplier)

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
        """Cycles from the last step of a fold to its first word of scores, with their bias."""
        return OPERAND_LATENCY + self.score_array.latency + 1 + bool(self.score_tables)

    @cached_property
    def exp_begin(self) -> np.ndarray:
        """Cycles from a row's start to the first step of its exponentials: its largest is known."""
        fold, within = np.divmod(self.score_words - 1, self.fold_words)
        last = fold * self.fold_cycles + self.words - 1 + self.score_latency + within
        return last + self.tree_levels + 3

    @property
    def exp_latency(self) -> int:
        """Cycles from a step of the exponentials to these."""
        return 2 + self.exponentials.latency

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
        """Least cycles from the last row of a window to the first of the next one.

        Where that is much shorter, it must not overtake.
        """
        if not self.op.causal:
            return int(self.row_cycles[-1])
        return int(max(self.row_cycles[-1], self.first_sums[-1] + self.value_cycles[-1]))

    @cached_property
    def gaps(self) -> np.ndarray:
        """Per row of a window, least cycles to the start of the next one."""
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
        """Per row of a window, cycles from its start until each beat of its results is visible."""
        fold, beat = np.divmod(np.arange(self.row_beats), self.fold_beats)
        sums = self.first_sums[:, None] + fold * self.value_fold_cycles[:, None]
        return np.repeat(sums + 1 + beat + self.scale_latency + QUEUE_LATENCY, self.op.heads, 0)

    # The contract

    @property
    def read_ends(self) -> tuple[int, int]:
        """Cycles from the start of a window's last row until its keys and its values are free."""
        return (int(self.score_cycles[-1]) + 1,
                int(self.value_begin[-1] + self.value_cycles[-1]) + 1)

    @property
    def interval(self) -> int:
        windows, gaps = self.op.windows, int(self.gaps.sum())
        # The window after the next one takes the place of this one.
        turns = (gaps - int(self.gaps[-1]) + end + banks.stream.beats + 1
                 for end, banks in zip(self.read_ends, (self.keys, self.values), strict=True))
        return max(windows * gaps, *(-(-windows * turn // FRAMES) for turn in turns),
                   *(s.beats for s in (*self.inputs, *self.outputs)))

    @property
    def least_depths(self) -> tuple[int, ...]:
        # As many windows as may have results on their way, and one more.
        windows = int(self.result_times.max()) // int(self.gaps.sum()) + 2
        starts = np.r_[0, np.cumsum(np.tile(self.gaps, windows))[:-1]]
        out = (starts[:, None] + np.tile(self.result_times, (windows, 1))).ravel()
        return (max(queue_depth(np.repeat(starts, self.row_beats), out), self.row_beats),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        beats = [stream.beats // self.op.windows for stream in self.inputs[1:]]
        release = np.repeat(self.score_cycles - self.fold_cycles + 2, self.op.heads)
        accepts, starts = row_starts(arrivals, self.words, self.gaps, release,
                                     list(zip(beats, self.read_ends, strict=True)))
        windows = len(starts) // self.rows
        out = (starts[:, None] + np.tile(self.result_times, (windows, 1))).ravel()
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
            **({"weights": total(t.area() for t in self.score_tables.values())}
               if self.score_tables else {}),
        }

    @property
    def _buffers(self) -> Area:
        """Memories of queries, scores and exponentials."""
        scores = self.keys.rows * self.fold_words
        return total((
            buffer_area(self.inputs[0].width, 2 * self.words),
            buffer_area(self.score_word_bits * self.score_lanes, 2 * scores),
            buffer_area(EXP_BITS * self.value_lanes, 2 * self.values.rows),
        ))

    @property
    def _softmax(self) -> Area:
        """Largest scores, exponentials, reciprocals."""
        biased = self.score_lanes * self.score_word_bits * bool(self.score_tables)
        return (self.exponentials.area() + reciprocal_area(
            self.op.numerator, self.op.reciprocal_bits)
            + logic("attention", lut_score=biased, ff_score=biased))

    @property
    def _scaled(self) -> Area:
        """Sums times reciprocals, rounded."""
        a, b = self._scale_operands
        return self.device.area(a, b, self.lanes) + round_shift_area(
            a + b, (self.op.shift,) * 2, self.op.output, self.lanes)

    def area(self) -> Area:
        held = self.pe * self.score_array.acc_bits + self.value_pe * self.value_array.acc_bits
        delay = sum(self.score_array.columns[0].skew) * self.tensors[0].bits
        delay += sum(self.value_array.columns[0].skew) * EXP_BITS
        counters = 4 * levels(int(self.gaps.max())) + 6 * levels(self.rows) + 4 * levels(
            self.keys.depth + self.values.depth)
        return total(self.parts().values()) + logic(
            "attention", one=1, held=held, counter=counters, ff_register=delay)

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, self.tensors)

    def create(self) -> Attention:
        return Attention(self)


@carries_out(ir.Attention, own_lanes=True)
def _attention(request: BlockRequest) -> AttentionConfig:
    return AttentionConfig(op=request.op, tensors=request.tensors, lanes=request.lanes,
                           **request.folded(AttentionConfig))
