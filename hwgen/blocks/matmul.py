"""Product of two streams: one of the stages of an attention's pipeline, with requantised results.

A *row* is a token of one head of the first operand.  The second operand is held in a memory that is
written while that of the last window is read; so the "weights" of the multipliers come from a
stream, and are packed, two for a DSP, as they are read.  Where tokens are not cut into windows, the
frame is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring

from hwgen import ir
from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.output import fold_beats, fold_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import levels, signed_width
from hwgen.device.cost import Area, logic, total
from hwgen.device.multiplier import Packing
from hwgen.errors import HwgenError
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.mac import MacArrayConfig
from hwgen.parts.memory import buffer_area
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.requantise import Requantiser, RequantiserConfig, lane_requantiser
from hwgen.parts.row_products import (
    OPERAND_LATENCY,
    RowStage,
    multiplied,
    row_starts,
    serialised,
    token_address,
)
from hwgen.parts.stream import StreamType
from hwgen.parts.token_banks import FRAMES, TokenBanks, TokenBanksConfig
from hwgen.parts.token_rows import RowShape

__all__ = ["MatMul", "MatMulConfig"]

SHORTEST = 2
"""Cycles of a row, at least: with fewer, its memory would not be free again in time."""


@dataclass(frozen=True, kw_only=True)
class MatMulConfig(BlockConfig):
    """A product of two streams, and how it is folded.

    Parameters
    ----------
    op : :class:`hwgen.ir.MatMul`
    tensors : pair of :class:`TensorType`
        Types of the operands.
    lanes : :class:`int`
        Channels per beat of the output; divides ``pe`` and the results of a head.
    channel_lanes : :class:`int`
        Products that are summed in each cycle for a result, and channels per beat of the first
        operand; divides those of a head.
    pe : :class:`int`
        Results side by side.  For scores these are tokens of the second operand, of which a beat
        has ``channel_lanes`` channels; for values channels of it, as many as a beat has, and it
        divides those of a head.
    multiplier : :class:`str`
        One of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    products : :class:`int`
        Products that share a multiplier; 0: as many as fit.
    window_style : :class:`str`
        Memory of the second operand: see :class:`hwgen.parts.memory.BufferMemory`.

    Raises
    ------
    :exc:`HwgenError`
        If the tensors do not fit the op, or the folding does not fit the tensors.
    """

    kind: ClassVar[str] = "convolution"

    op: ir.MatMul
    tensors: tuple[TensorType, TensorType]
    lanes: int = 1
    channel_lanes: int = 1
    pe: int = 1
    multiplier: str = "dsp48e2"
    products: int = 0
    window_style: str = ""

    def __post_init__(self) -> None:
        self.op.infer(*self.tensors)
        summed, results = self.op.head_channels(*self.tensors)[0], self.results
        if self.channel_lanes < 1 or summed % self.channel_lanes:
            raise HwgenError(f"channel_lanes must divide the {summed} channels of a head, not "
                             f"{self.channel_lanes!r}")
        if not 1 <= self.pe <= results:
            raise HwgenError(f"pe must be between 1 and the {results} results of a head, not "
                             f"{self.pe!r}")
        if self.op.form == "values" and results % self.pe:
            raise HwgenError(f"pe must divide the {results} channels of a head, not {self.pe!r}")
        for name, whole in (("pe", self.pe), ("results of a head", results)):
            if self.lanes < 1 or whole % self.lanes:
                raise HwgenError(f"lanes must divide {name} {whole}, not {self.lanes!r}")
        _ = self.inputs, self.outputs, self.array, self.requantiser, self.banks

    # Streams

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        a, b = self.tensors
        other = self.channel_lanes if self.op.form == "scores" else self.pe
        return StreamType(a, self.channel_lanes), StreamType(b, other)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        (out,) = self.op.infer(*self.tensors)
        return (StreamType(out, self.lanes),)

    # Parts

    @cached_property
    def array(self) -> MacArrayConfig:
        """Products of both operands."""
        a, b = self.tensors
        key = a.bits, b.bits, 1 << (b.bits - 1)
        products = self.products or Packing.densest(self.multiplier, *key).products
        return MacArrayConfig(
            simd=self.channel_lanes, pe=1, pixels=self.pe, shared="weight",
            acc_bits=signed_width(*self.op.accumulator_range(a, b)),
            packing=Packing(self.multiplier, min(products, self.pe), *key))

    @cached_property
    def requantiser(self) -> RequantiserConfig:
        """The requantisers behind the products."""
        op, acc_range = self.op, self.op.accumulator_range(*self.tensors)
        if len(op.requantise) == 1:
            return lane_requantiser(op.requantise, op.output, lanes=self.lanes,
                                    acc_range=acc_range, multiplier=self.multiplier)
        return RequantiserConfig(
            requantise=op.requantise, bias=np.zeros(len(op.requantise), np.int64),
            output=op.output, acc_range=acc_range, lanes=self.lanes, multiplier=self.multiplier)

    @cached_property
    def banks(self) -> TokenBanksConfig:
        """Memory of the second operand."""
        b, scores = self.tensors[1], self.op.form == "scores"
        window = TensorType((b.pixels // self.op.windows, b.channels), b.quantisation)
        return TokenBanksConfig(
            stream=StreamType(window, self.inputs[1].lanes),
            side=self.pe if scores else self.channel_lanes, style=self.window_style)

    @property
    def row_shape(self) -> RowShape:
        """Rows of a frame."""
        return RowShape(self.op.tokens(*self.tensors)[0], self.op.heads, 1, self.op.windows)

    # Rows: how many cycles each has

    @property
    def results(self) -> int:
        """Results of a row."""
        return self.op.head_results(*self.tensors)

    @property
    def words(self) -> int:
        """Words of a row."""
        return self.op.head_channels(*self.tensors)[0] // self.channel_lanes

    @property
    def head_words(self) -> int:
        """Words of a head of a token of the second operand."""
        return self.op.head_channels(*self.tensors)[1] // self.inputs[1].lanes

    @property
    def folds(self) -> int:
        """Folds of the results of a row."""
        return -(-self.results // self.pe)

    @property
    def fold_beats(self) -> list[int]:
        """Beats of the results of each fold of a row."""
        whole, rest = divmod(self.results, self.pe)
        return [self.pe // self.lanes] * whole + [rest // self.lanes] * (rest > 0)

    @property
    def fold_cycles(self) -> int:
        """Cycles of a fold."""
        return max(self.words, self.pe // self.lanes)

    @property
    def row_cycles(self) -> int:
        """Least cycles from the start of a row to the next one."""
        return max(self.folds * self.fold_cycles, SHORTEST)

    @property
    def row_beats(self) -> int:
        """Beats of the results of a row."""
        return self.results // self.lanes

    @cached_property
    def result_times(self) -> np.ndarray:
        """Cycles from the start of a row until each beat of its results is visible."""
        beats = self.fold_beats
        fold = np.repeat(np.arange(self.folds), beats)
        beat = np.concatenate([np.arange(n) for n in beats])
        sums = fold * self.fold_cycles + self.words - 1 + OPERAND_LATENCY + self.array.latency
        return sums + 1 + beat + self.requantiser.latency + QUEUE_LATENCY

    # The contract

    @property
    def read_end(self) -> int:
        """Cycles from the start of a window's last row until its second operand is free."""
        return self.folds * self.fold_cycles + 1

    @property
    def interval(self) -> int:
        windows, rows = self.op.windows, self.row_shape.window_rows
        # The window after the next one takes the place of this one.
        turn = (rows - 1) * self.row_cycles + self.read_end + self.banks.stream.beats + 1
        return max(windows * rows * self.row_cycles, -(-windows * turn // FRAMES),
                   *(s.beats for s in (*self.inputs, *self.outputs)))

    @property
    def least_depths(self) -> tuple[int, ...]:
        # As many rows as may have results on their way, and one more.
        rows = int(self.result_times.max()) // self.row_cycles + 2
        starts = np.arange(rows) * self.row_cycles
        out = (starts[:, None] + self.result_times).ravel()
        return (max(queue_depth(np.repeat(starts, self.row_beats), out), self.row_beats),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        rows = self.row_shape.window_rows
        release = (self.folds - 1) * self.fold_cycles + 2
        accepts, starts = row_starts(
            arrivals, self.words, np.full(rows, self.row_cycles), np.full(rows, release),
            [(self.banks.stream.beats, self.read_end)])
        out = (starts[:, None] + self.result_times).ravel()
        return Schedule(tuple(accepts), (out,), (np.repeat(starts, self.row_beats),))

    @property
    def dsp_products(self) -> int:
        return self.array.dsp_products

    def parts(self) -> dict[str, Area]:
        return {
            **super().parts(),
            "window": self.banks.area() + buffer_area(self.inputs[0].width, 2 * self.words),
            "multiply": self.array.area(),
            "requantise": self.requantiser.area(),
        }

    def area(self) -> Area:
        held = self.pe * self.array.acc_bits
        delay = sum(self.array.columns[0].skew) * self.tensors[0].bits
        counters = 3 * levels(self.row_cycles) + 3 * levels(self.row_shape.window_rows) + (
            2 * levels(self.banks.depth))
        return total(self.parts().values()) + logic(
            "attention", one=1, held=held, counter=counters, ff_register=delay)

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, self.tensors)

    def create(self) -> MatMul:
        return MatMul(self)


class MatMul(Configured[MatMulConfig]):
    """Multiplies each row of a stream by the matrix that another stream is.

    Parameters
    ----------
    config : :class:`MatMulConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
        Both operands, token after token.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A row starts ``config.row_cycles`` after the one before, and once all tokens of its window and
    the row itself have been accepted: a cycle after the last of these.  Its results are visible
    ``config.result_times`` after that.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.banks = banks = TokenBanks(config.banks)
        m.submodules.requantiser = requantiser = Requantiser(config.requantiser)
        wiring.connect(m, wiring.flipped(self.i_1), banks.i)
        start = Signal()
        queue, room = fold_queue(m, config, [config.row_beats], start)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        stage = RowStage(
            m, "row", self.i_0, config.row_shape, words=config.words, banks=banks,
            head_words=config.head_words, fold_cycles=config.fold_cycles, folds=config.folds,
            gap=config.row_cycles - 1, start=start, room=room)
        bits, packed = config.tensors[1].bits, banks.words
        if config.op.form == "scores":
            address = token_address(m, "bank", config.banks, stage.rows,
                                    stage.go & stage.fold_end, stage.last_fold, stage.step)
        else:
            address = token_address(m, "bank", config.banks, stage.rows,
                                    stage.go, stage.fold_end, stage.fold)
            # Tokens side by side are packed channel by channel.
            packed = Cat(
                banks.words.word_select(token * config.pe + channel, bits)
                for channel in range(config.pe) for token in range(config.channel_lanes))
        m.d.comb += banks.address.eq(address)
        done, acc = multiplied(m, "row", config.array, stage.flags, packed, stage.operands(m),
                               config.tensors[0].bits)
        count = fold_beats(m, "done", config.fold_beats, done[-1])
        sums, valid = serialised(m, "row", done[-1], acc, config.pe // config.lanes, count)
        m.d.comb += [
            requantiser.i.valid.eq(valid), requantiser.i.p.eq(sums),
            queue.i.valid.eq(requantiser.o.valid), queue.i.p.eq(requantiser.o.p),
        ]
        return m


@carries_out(ir.MatMul, own_lanes=True)
def _matmul(request: BlockRequest) -> MatMulConfig:
    return MatMulConfig(op=request.op, tensors=request.tensors, lanes=request.lanes,
                        **request.folded(MatMulConfig))
