"""Softmax over channels: the middle stages of an attention's pipeline, by themselves.

A *row* is a group of channels of a pixel.  While it comes, its largest element is found; then its
exponentials are looked up and summed, the sum's reciprocal is computed bit by bit, and exponentials
are multiplied by it.  Each stage is at a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring

from hwgen import ir
from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.output import fold_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, logic, total
from hwgen.device.multiplier import MULTIPLIERS, Multiplier
from hwgen.errors import HwgenError
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, buffer_area
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.requantise import RoundShift, round_shift_area
from hwgen.parts.row_products import OPERAND_LATENCY, RowBuffer, row_starts
from hwgen.parts.softmax import (
    LARGEST_LATENCY,
    ExponentialsConfig,
    largest_of_row,
    reciprocal_area,
    reciprocal_of_sum,
)

__all__ = ["Softmax", "SoftmaxConfig", "least_row_cycles"]


def least_row_cycles(op: ir.Softmax, channels: int, lanes: int) -> int:
    """Fewest cycles from a row of a softmax to the next one.

    Parameters
    ----------
    channels : of a group
    lanes : of a beat
    """
    words, tree = channels // lanes, levels(lanes)
    return max(words, op.reciprocal_bits + 2,
               # Memories of rows are free again, and exponentials have been read.
               -(-(words + LARGEST_LATENCY + 2 + tree) // 2),
               -(-(words + tree + op.reciprocal_bits) // 2))


@dataclass(frozen=True, kw_only=True)
class SoftmaxConfig(OpConfig):
    """Softmax of each group of channels.

    Parameters
    ----------
    op : :class:`hwgen.ir.Softmax`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat; divides those of a group.
    multiplier : :class:`str`
        One of :data:`hwgen.device.multiplier.MULTIPLIERS`.

    Raises
    ------
    :exc:`HwgenError`
        If the lanes do not divide the channels of a group.
    """

    op: ir.Softmax
    multiplier: str = "dsp48e2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_channels % self.lanes:
            raise HwgenError(f"Lanes must divide the {self.group_channels} channels of a group, "
                             f"not {self.lanes!r}")

    @property
    def group_channels(self) -> int:
        """Channels of a group."""
        return self.tensor.channels // self.op.groups

    @property
    def words(self) -> int:
        """Beats of a row."""
        return self.group_channels // self.lanes

    @property
    def device(self) -> Multiplier:
        """The multiplier of all products."""
        return MULTIPLIERS[self.multiplier]

    @cached_property
    def exponentials(self) -> ExponentialsConfig:
        """What looks exponentials up, one for each lane."""
        return ExponentialsConfig(
            bits=self.tensor.bits, lanes=self.lanes, multipliers=self.op.step.multiplier[:, None],
            shift=int(self.op.step.shift[0]), exp=self.op.exp, multiplier=self.multiplier)

    @property
    def tree_levels(self) -> int:
        """Levels of the trees over the lanes."""
        return levels(self.lanes)

    @property
    def start_latency(self) -> int:
        """Cycles from a row's last beat until it may start: its largest element is known."""
        return self.tree_levels + LARGEST_LATENCY + 1

    @property
    def exp_latency(self) -> int:
        """Cycles from a step of a row to its exponentials."""
        return OPERAND_LATENCY + self.exponentials.latency

    @property
    def divided(self) -> int:
        """Cycles from a row's start until its reciprocal is there."""
        return self.words + self.exp_latency + self.tree_levels + 1 + self.op.reciprocal_bits

    @property
    def row_cycles(self) -> int:
        """Least cycles from the start of a row to the next one."""
        return least_row_cycles(self.op, self.group_channels, self.lanes)

    @property
    def _scale_operands(self) -> tuple[int, int]:
        """Bits of a reciprocal and of an exponential, the wider first."""
        bits = self.exponentials.exp_bits + 1, self.op.reciprocal_bits + 1
        return max(bits), min(bits)

    @property
    def scale_latency(self) -> int:
        """Cycles from an exponential to its result."""
        return self.device.product_latency(*self._scale_operands) + RoundShift.latency

    @cached_property
    def result_times(self) -> np.ndarray:
        """Cycles from the start of a row until each beat of its results is visible."""
        return self.divided + 1 + np.arange(self.words) + self.scale_latency + QUEUE_LATENCY

    # The contract

    @property
    def rows(self) -> int:
        """Rows of a frame."""
        return self.tensor.pixels * self.op.groups

    @property
    def interval(self) -> int:
        return max(self.rows * self.row_cycles, super().interval)

    @property
    def least_depths(self) -> tuple[int, ...]:
        # As many rows as may have results on their way, and one more.
        rows = int(self.result_times.max()) // self.row_cycles + 2
        starts = np.arange(rows) * self.row_cycles
        out = (starts[:, None] + self.result_times).ravel()
        return (max(queue_depth(np.repeat(starts, self.words), out), self.words),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accepts, starts = row_starts(
            arrivals, self.words, np.array([self.row_cycles]), np.array([2]),
            late=self.start_latency)
        out = (starts[:, None] + self.result_times).ravel()
        return Schedule(tuple(accepts), (out,), (np.repeat(starts, self.words),))

    def parts(self) -> dict[str, Area]:
        a, b = self._scale_operands
        return {
            **super().parts(),
            "window": buffer_area(self.inputs[0].width, 2 * self.words)
            + buffer_area(self.exponentials.exp_bits * self.lanes, 2 * self.words),
            "requantise": self.exponentials.area() + reciprocal_area(
                self.op.numerator, self.op.reciprocal_bits)
            + self.device.area(a, b, self.lanes)
            + round_shift_area(a + b, (self.op.shift,) * 2, self.op.output, self.lanes),
        }

    def area(self) -> Area:
        counters = 6 * levels(2 * self.words) + 2 * levels(self.row_cycles)
        return total(self.parts().values()) + logic(
            "attention", counter=counters, ff_register=4 * self.tensor.bits)

    def create(self) -> Softmax:
        return Softmax(self)


class Softmax(Configured[SoftmaxConfig]):
    """Softmax, row by row.

    Parameters
    ----------
    config : :class:`SoftmaxConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A row starts ``config.row_cycles`` after the one before, and ``config.start_latency`` after its
    last beat was accepted.  Its results are visible ``config.result_times`` after that.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        words, bits, lanes = config.words, config.tensor.bits, config.lanes
        start = Signal()
        queue, room = fold_queue(m, config, [words], start)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        rows = RowBuffer(m, "row", self.i, words, start, start)
        # The largest of each row, of which two may wait.
        number = counter(words, name="number")
        with m.If(rows.take):
            m.d.sync += number.eq(Mux(number == words - 1, 0, number + 1))
        found, ended = largest_of_row(m, list(self.i.p), bits, Cat(
            rows.take, number == 0, rows.take & (number == words - 1)))
        best = [Signal(signed(bits), name=f"best_{k}", reset_less=True) for k in range(2)]
        found_half, taken_half = Signal(), Signal()
        largest = Signal(signed(bits), name="largest_now", reset_less=True)
        with m.If(ended):
            m.d.sync += found_half.eq(~found_half)
            for k in range(2):
                with m.If(found_half == k):
                    m.d.sync += best[k].eq(found)
        # It is there with the first word of the row.
        with m.If(delayed(m, start, OPERAND_LATENCY - 1, "row_first")):
            m.d.sync += [
                largest.eq(Mux(taken_half, best[1], best[0])), taken_half.eq(~taken_half)]
        # The start of rows, and their steps.
        waiting, rest = Signal(range(3)), counter(config.row_cycles, name="rest")
        busy, go, row_end = Signal(), Signal(), Signal()
        step = counter(words, name="step")
        m.d.comb += [
            start.eq((waiting != 0) & (rest == 0) & room), go.eq(start | busy),
            row_end.eq(go & (step == words - 1)),
        ]
        m.d.sync += waiting.eq(waiting + ended - start)
        with m.If(start):
            m.d.sync += rest.eq(config.row_cycles - 1)
        with m.Elif(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        with m.If(go):
            m.d.sync += [step.eq(Mux(row_end, 0, step + 1)), busy.eq(~row_end)]
        word = rows.read(m, step, row_end)
        factor, least_over = (Const(int(values.flat[0])) for values in (
            config.op.step.multiplier, config.exponentials.least_over))
        values = [
            config.exponentials.lookup(m, lane, largest, word.word_select(lane, bits).as_signed(),
                                       Const(1), factor, least_over)
            for lane in range(lanes)]
        marks = delayed(m, Cat(go, row_end), config.exp_latency, "exp_marks")
        most = config.group_channels * int(config.op.exp.max())
        reciprocal, soon = reciprocal_of_sum(
            m, values, marks, most, config.op.numerator, config.op.reciprocal_bits)
        self._scaled(m, values, marks[0], reciprocal, soon, queue)
        return m

    def _scaled(self, m: Module, values, valid, reciprocal, soon, queue) -> None:
        """Exponentials wait for the reciprocal, and are multiplied by it."""
        config = self.config
        words, bits = config.words, config.exponentials.exp_bits
        m.submodules.exp_memory = memory = BufferMemory(bits * config.lanes, 2 * words)
        write, read = counter(2 * words, name="exp_write"), counter(2 * words, name="exp_read")
        left, go = counter(words, name="scaled_left"), Signal(name="scaled_go")
        m.d.comb += [
            memory.write_en.eq(valid), memory.write_addr.eq(write),
            memory.write_data.eq(Cat(values)), memory.read_en.eq(1), memory.load.eq(1),
            memory.read_addr.eq(read), go.eq(soon | (left != 0)),
        ]
        for enable, address in ((valid, write), (go, read)):
            with m.If(enable):
                m.d.sync += address.eq(Mux(address == 2 * words - 1, 0, address + 1))
        with m.If(soon):
            m.d.sync += left.eq(words - 1)
        with m.Elif(left != 0):
            m.d.sync += left.eq(left - 1)
        scale = Signal(signed(len(reciprocal) + 1), name="scale", reset_less=True)
        with m.If(delayed(m, soon, 1, "reciprocal_there")):
            m.d.sync += scale.eq(reciprocal)
        m.d.comb += queue.i.valid.eq(delayed(m, go, 2 + config.scale_latency, "scaled"))
        for lane in range(config.lanes):
            value = Cat(memory.read_data.word_select(lane, bits), Const(0, 1)).as_signed()
            wide, narrow = sorted((value, scale), key=len, reverse=True)
            product = config.device.product(m, wide, narrow, f"scaled_{lane}")
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                len(product), (config.op.shift,) * 2, config.op.output)
            m.d.comb += [rounder.i.eq(product), rounder.shift.eq(0), queue.i.p[lane].eq(rounder.o)]


@carries_out(ir.Softmax)
def _softmax(request: BlockRequest) -> SoftmaxConfig:
    return SoftmaxConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                         **request.folded(SoftmaxConfig))
