"""A recurrent cell: the product with the units of the step before, and the gates, in a loop.

The matrix multiplies the units of a step as a token (:mod:`hwgen.blocks.token_matrix`): folded over
the units that it computes and those that it reads, two products to a DSP, weights on chip.  Its
results, a few gates in each cycle, go through the cell (:mod:`hwgen.parts.recurrent_cell`), and the
new units go back into the token buffer.  So the loop is the only place where anything waits: a step
begins when the units of the step before are there.  What the inputs contribute comes as a stream,
two steps of which are kept.

The first step of a frame needs nothing of the last one of the frame before, so frames follow each
other without the wait of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring

from hwgen import ir
from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.output import fold_beats, fold_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.blocks.token_matrix import WRITE_LATENCY, TokenMatrix, TokenMatrixConfig
from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, logic, total
from hwgen.errors import HwgenError
from hwgen.ir.types import TensorType
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, buffer_area, read_words
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.recurrent_cell import EARLY, RecurrentCellConfig
from hwgen.parts.stream import StreamType, in_order, pack_rows

__all__ = ["Recurrent", "RecurrentConfig"]

STEPS = 2
"""Steps of the input that are kept: one is read while the next one comes."""
INPUT_LATENCY = 3
"""Cycles from the last beat of a step of the input to the first cycle in which it can begin."""


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig(BlockConfig):
    """A recurrent cell, and how it is folded.

    Parameters
    ----------
    op : :class:`hwgen.ir.Recurrent`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Units per beat of the output, each with all of its gates per beat of the input; divides
        the units, ``channel_lanes`` and ``pe``.
    channel_lanes : :class:`int`
        Units of the step before that are summed in each cycle.
    pe : :class:`int`
        Units side by side, each with all of its gates.
    multiplier, requantiser_multiplier : :class:`str`
        Multipliers of the matrix, and of what comes behind it, from
        :data:`hwgen.device.multiplier.MULTIPLIERS`; ``""`` for the latter: the same.
    products : :class:`int`
        Products that share a multiplier; 0: as many as fit.
    weight_style : :class:`str`
        Memory of the weights: see :class:`hwgen.blocks.conv_base.ConvolutionConfig`.

    Raises
    ------
    :exc:`HwgenError`
        If the folding does not fit the op.
    """

    kind: ClassVar[str] = "convolution"

    op: ir.Recurrent
    tensor: TensorType
    lanes: int = 1
    channel_lanes: int = 1
    pe: int = 1
    multiplier: str = "dsp48e2"
    requantiser_multiplier: str = ""
    products: int = 0
    weight_style: str = ""

    def __post_init__(self) -> None:
        units = self.op.units
        for name in ("channel_lanes", "pe"):
            if not 1 <= getattr(self, name) <= units:
                raise HwgenError(f"{name} must be between 1 and the {units} units, not "
                                 f"{getattr(self, name)!r}")
        for name, number in (("units", units), ("channel_lanes", self.channel_lanes),
                             ("pe", self.pe)):
            if self.lanes < 1 or number % self.lanes:
                raise HwgenError(f"lanes must divide {name} {number}, not {self.lanes!r}")
        if self.depths and self.depths[0] < units // self.lanes:
            raise HwgenError(f"Depth must be at least the {units // self.lanes} beats of a step, "
                             f"not {self.depths[0]!r}")
        _ = self.inputs, self.outputs, self.matrix.folding.array, self.matrix.folding.weights

    # Streams and parts

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.op.gates * self.lanes),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(self.tensor)[0], self.lanes),)

    @cached_property
    def matrix(self) -> TokenMatrixConfig:
        """The recurrent weights, and the buffer of the units."""
        folding = FoldedConvConfig(
            op=self.op.matrix, tensor=self.op.hidden, lanes_in=self.lanes,
            lanes_out=self.op.gates * self.lanes, channel_lanes=self.channel_lanes,
            pe=self.op.gates * self.pe, multiplier=self.multiplier,
            requantiser_multiplier=self.requantiser_multiplier, products=self.products,
            weight_style=self.weight_style)
        return TokenMatrixConfig(
            folding=folding, places=2, token_cycles=folding.window.window_cycles)

    @cached_property
    def cell(self) -> RecurrentCellConfig:
        """What computes units from the gates."""
        return RecurrentCellConfig(
            op=self.op, codes=self.tensor.quantisation, lanes=self.lanes,
            multiplier=self.requantiser_multiplier or self.multiplier)

    # Time

    @property
    def steps(self) -> int:
        """Steps of a frame."""
        return self.tensor.pixels

    @property
    def beats(self) -> int:
        """Beats of a step, of the input and of the output."""
        return self.cell.beats

    @property
    def step_cycles(self) -> int:
        """Cycles from one step of a frame to the next: once around the loop."""
        return int(self.matrix.results[-1]) + self.cell.latency + WRITE_LATENCY

    @property
    def last_cycles(self) -> int:
        """Least cycles from the last step of a frame to the first one of the next frame."""
        return max(self.matrix.token_cycles, self.beats + 1 + WRITE_LATENCY)

    @cached_property
    def gaps(self) -> np.ndarray:
        """Per step of a frame, least cycles to the next one."""
        gaps = np.full(self.steps, self.step_cycles)
        gaps[-1] = self.last_cycles
        return gaps

    @cached_property
    def result_times(self) -> np.ndarray:
        """Per beat of a step, cycles from its begin until it is visible."""
        return self.matrix.results + self.cell.latency + QUEUE_LATENCY

    @property
    def interval(self) -> int:
        # Places of the input are free again when a step has been read; two are kept.
        pair = int(self.matrix.results[-1]) + self.beats - 1 + INPUT_LATENCY
        return max(int(self.gaps.sum()), self.inputs[0].beats,
                   -(-pair // STEPS) if self.steps == 1 else 0)

    @property
    def least_depths(self) -> tuple[int, ...]:
        count = min(3 * self.steps, max(12, self.steps + 2))
        gaps = np.resize(np.roll(self.gaps, count // 2), count)
        starts = np.cumsum(np.r_[0, gaps])
        out = (starts[:, None] + self.result_times).ravel()
        return (max(queue_depth(np.repeat(starts, self.beats), out), self.beats),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        beats, gaps = self.beats, self.gaps.tolist()
        index = np.arange(beats)
        # Per step, when its last beat comes if there is always a place for it.
        last = ((arrivals[0].reshape(-1, beats) - index).max(1) + beats - 1).tolist()
        starts, free = np.zeros(len(last), np.int64), np.zeros(len(last), np.int64)
        release, time, before = int(self.matrix.results[-1]), -1, 0
        for step, come in enumerate(last):
            if step >= STEPS:
                free[step] = starts[step - STEPS] + release
            time = max(time + beats, int(free[step]) + beats - 1, come)
            starts[step] = max(time + INPUT_LATENCY, before)
            before = int(starts[step]) + gaps[step % self.steps]
        accepts = in_order(np.maximum(arrivals[0], np.repeat(free, beats)))
        out = (starts[:, None] + self.result_times).ravel()
        return Schedule((accepts,), (out,), (np.repeat(starts, beats),))

    # Resources

    @property
    def dsp_products(self) -> int:
        return self.matrix.folding.array.dsp_products

    def parts(self) -> dict[str, Area]:
        folding = self.matrix.folding
        return {
            **super().parts(), "window": self._inputs_area,
            "weights": total(memory.area() for memory in folding.weights),
            "multiply": folding.array.area(),
            "requantise": folding.requantiser.area() + self.cell.area(),
        }

    @property
    def _input_width(self) -> int:
        """Bits of a beat of the input with its offset."""
        return self.op.gates * self.lanes * self.cell.x_bits

    @property
    def _inputs_area(self) -> Area:
        return buffer_area(self._input_width, STEPS * self.beats)

    def area(self) -> Area:
        counters = (6 * levels(self.beats) + 2 * levels(self.steps) + levels(self.matrix.folds)
                    + 4 * levels(STEPS * self.beats))
        return total((
            self.queues_area(), self.matrix.area(), self.cell.area(), self._inputs_area,
            logic("recurrent", one=1, counter=counters, input=self._input_width)))

    @property
    def loads(self) -> int:
        return self.matrix.folding.loads

    def load_words(self) -> list[int]:
        return self.matrix.folding.load_words()

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, (self.tensor,))

    def create(self) -> Recurrent:
        return Recurrent(self)


class Recurrent(Configured[RecurrentConfig]):
    """A recurrent cell: a matrix and gates, whose results are the operands of the next step.

    Parameters
    ----------
    config : :class:`RecurrentConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), gates * lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`
    load, next : see :class:`hwgen.parts.weights.WeightMemory`, if weights are loaded

    Timing
    ------
    A step begins ``config.step_cycles`` after the one before (the first of a frame
    ``config.last_cycles``), and three cycles after the last beat of its input was accepted.  Its
    results are visible ``config.result_times`` after that.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.matrix = matrix = config.matrix.create()
        m.submodules.cell = cell = config.cell.create()
        begin = Signal()
        queue, room = fold_queue(m, config, [config.beats], begin)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        early, last_beat = self._results(m, matrix)
        there, x = self._inputs(m, begin, early, last_beat)
        # Which step begins next, and which one a beat is of.
        starts, ends = (counter(config.steps, name=name) for name in ("start_step", "beat_step"))
        for step, go in ((starts, begin), (ends, last_beat)):
            with m.If(go):
                m.d.sync += step.eq(Mux(step == config.steps - 1, 0, step + 1))
        again = delayed(m, ends != config.steps - 1, EARLY + config.cell.latency, "again")
        first_valid, first_units = self._first(m, begin & (starts == config.steps - 1))
        m.d.comb += [
            begin.eq(matrix.start & matrix.begins),
            matrix.room.eq((room & there & matrix.loaded) | ~matrix.begins),
            matrix.claim.eq(matrix.ends),
            cell.early.eq(early), cell.first.eq(ends == 0),
            cell.x.eq(x), cell.v.as_value().eq(matrix.o.p.as_value()),
            queue.i.valid.eq(cell.o.valid), queue.i.p.eq(cell.o.p),
            # The units go on to the next step; those of the last step of a frame do not.
            matrix.i.valid.eq((cell.o.valid & again) | first_valid),
            matrix.i.p.as_value().eq(Mux(first_valid, first_units, cell.o.p.as_value())),
        ]
        if config.loads:
            wiring.connect(m, wiring.flipped(self.load), matrix.load)
            wiring.connect(m, matrix.next, wiring.flipped(self.next))
        return m

    def _results(self, m: Module, matrix: TokenMatrix) -> tuple[Signal, Signal]:
        """Whether a beat of the matrix's results comes two cycles later, and the last of a step."""
        config = self.config.matrix
        begins = delayed(m, matrix.start, config.latency - EARLY - 1, "begins")
        beats = fold_beats(m, "results", config.folding.beats, begins)
        left, fold = Signal(range(max(config.folding.beats) + 1)), counter(
            config.folds, name="results_fold")
        early, last = Signal(), Signal()
        m.d.comb += [early.eq(left != 0), last.eq((left == 1) & (fold == config.folds - 1))]
        with m.If(begins):
            m.d.sync += left.eq(beats)
        with m.Elif(early):
            m.d.sync += left.eq(left - 1)
        with m.If(left == 1):
            m.d.sync += fold.eq(Mux(last, 0, fold + 1))
        return early, last

    def _inputs(
        self, m: Module, begin: Value, early: Value, last_beat: Value
    ) -> tuple[Value, Value]:
        """The memory of two steps of the input.

        Returns
        -------
        whether the input of the next step is there, and the input of a beat, two cycles after
        ``early``
        """
        config = self.config
        beats, depth, bits = config.beats, STEPS * config.beats, config.cell.x_bits
        m.submodules.inputs = memory = BufferMemory(config._input_width, depth)
        # Beats of the next step that are missing; places that are left, less one.
        missing = Signal(signed(depth.bit_length() + 2), init=-beats)
        left = Signal(signed(depth.bit_length() + 2), init=depth - 1)
        take, released = Signal(), Signal()
        write, read = (counter(depth, name=f"input_{what}") for what in ("write", "read"))
        word = Signal(config._input_width, reset_less=True)
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq(~left[-1]), take.eq(self.i.valid & self.i.ready),
            memory.write_en.eq(taken), memory.write_addr.eq(write), memory.write_data.eq(word),
            memory.read_en.eq(1), memory.load.eq(1), memory.read_addr.eq(read),
        ]
        offset = Const(config.cell.offset, signed(bits))
        m.d.sync += [
            taken.eq(take), word.eq(Cat((value + offset)[:bits] for value in self.i.p)),
            # As late as units in front of the first step could be there.
            missing.eq(missing + delayed(m, taken, 1, "come") - Mux(begin, beats, 0)),
            left.eq(left - take + Mux(released, beats, 0)), released.eq(last_beat),
        ]
        for place, step in ((write, taken), (read, early)):
            with m.If(step):
                m.d.sync += place.eq(Mux(place == depth - 1, 0, place + 1))
        return ~missing[-1], memory.read_data

    def _first(self, m: Module, last_begins: Value) -> tuple[Value, Value]:
        """The units in front of the first step of a frame, which come when the last one begins.

        Returns
        -------
        whether there is a beat of them, and the beat
        """
        config = self.config
        sending, beat, valid = Signal(init=1), counter(config.beats, name="first_beat"), Signal()
        end = beat == config.beats - 1
        with m.If(last_begins):
            m.d.sync += sending.eq(1)
        with m.Elif(end):
            m.d.sync += sending.eq(0)
        with m.If(sending):
            m.d.sync += beat.eq(Mux(end, 0, beat + 1))
        m.d.sync += valid.eq(sending)
        width = config.outputs[0].width
        if not config.op.initial_h.any():
            return valid, Const(0, width)
        rows = pack_rows(config.op.initial_h.reshape(-1, config.lanes), config.op.output.bits)
        return valid, read_words(m, "first", beat, rows, width, "distributed")


@carries_out(ir.Recurrent, own_lanes=True)
def _recurrent(request: BlockRequest) -> RecurrentConfig:
    return RecurrentConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                           **request.folded(RecurrentConfig))
