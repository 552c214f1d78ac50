"""A recurrent cell: the product with the units of the step before, and the gates, in a loop.

The matrix multiplies the units of a step as a token (:mod:`hwgen.blocks.token_matrix`): folded over
the units that it computes and those that it reads, two products to a DSP, weights on chip.  Its
results, a few gates in each cycle, go through the cell (:mod:`hwgen.parts.recurrent_cell`), and the
new units go back into the token buffer.  So the loop is the only place where anything waits: a step
begins when the units of the step before are there.  What the inputs contribute comes as a stream,
two steps of which are kept.

The first step of a frame needs nothing of the last one of the frame before, so frames follow each
other without the wait of the loop, unless the state is kept.

A GRU whose reset gate comes in front of the matrix goes through the loop in two halves: a second
matrix, that of the last gate, multiplies what the gate leaves of the state.  Both have the folding
that one for all gates would have, and a step takes about twice as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
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
from hwgen.parts.memory import read_words
from hwgen.parts.queue import QUEUE_LATENCY, queue_depth
from hwgen.parts.recurrent_cell import EARLY, RecurrentCellConfig
from hwgen.parts.reset_cell import ResetCell, ResetCellConfig
from hwgen.parts.step_inputs import INPUT_LATENCY, STEPS, StepInputsConfig
from hwgen.parts.stream import StreamType, in_order, pack_rows

__all__ = ["Recurrent", "RecurrentConfig"]


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
        _ = self.inputs, self.outputs
        _ = [(matrix.folding.array, matrix.folding.weights) for matrix in self.matrices]

    # Streams and parts

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.op.gates * self.lanes),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(self.tensor)[0], self.lanes),)

    @cached_property
    def matrices(self) -> tuple[TokenMatrixConfig, ...]:
        """The recurrent weights, and the buffers of what they multiply: one, or two in a row."""
        return tuple(self._matrix(op) for op in self.op.matrices)

    def _matrix(self, op: ir.Conv) -> TokenMatrixConfig:
        gates = len(op.weight) // self.op.units
        folding = FoldedConvConfig(
            op=op, tensor=self.op.hidden, lanes_in=self.lanes, lanes_out=gates * self.lanes,
            channel_lanes=self.channel_lanes, pe=gates * self.pe, multiplier=self.multiplier,
            requantiser_multiplier=self.requantiser_multiplier, products=self.products,
            weight_style=self.weight_style)
        return TokenMatrixConfig(
            folding=folding, places=2, token_cycles=folding.window.window_cycles)

    @cached_property
    def cell(self) -> RecurrentCellConfig:
        """What computes units from the gates."""
        return (ResetCellConfig if self.op.reset_first else RecurrentCellConfig)(
            op=self.op, codes=self.tensor.quantisation, lanes=self.lanes,
            multiplier=self.requantiser_multiplier or self.multiplier)

    @property
    def step_inputs(self) -> StepInputsConfig:
        """The memory of the input."""
        return StepInputsConfig(
            codes=self.tensor.quantisation, lanes=self.inputs[0].lanes, beats=self.beats,
            offset=self.cell.offset, bits=self.cell.x_bits)

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
    def _half(self) -> int:
        """Cycles from the begin of a step until its last matrix starts."""
        if not isinstance(self.cell, ResetCellConfig):
            return 0
        return int(self.matrices[0].results[-1]) + self.cell.reset_latency + WRITE_LATENCY

    @property
    def step_cycles(self) -> int:
        """Cycles from one step of a frame to the next: once around the loop."""
        return (self._half + int(self.matrices[-1].results[-1]) + self.cell.latency
                + WRITE_LATENCY)

    @property
    def overlaps(self) -> bool:
        """Whether a frame begins while the last step of the one before is under way."""
        return not (self.op.keep or self.op.reset_first)

    @property
    def last_cycles(self) -> int:
        """Least cycles from the last step of a frame to the first one of the next frame."""
        if not self.overlaps:
            return self.step_cycles
        return max(self.matrices[0].token_cycles, self.beats + 1 + WRITE_LATENCY)

    @cached_property
    def gaps(self) -> np.ndarray:
        """Per step of a frame, least cycles to the next one."""
        gaps = np.full(self.steps, self.step_cycles)
        gaps[-1] = self.last_cycles
        return gaps

    @cached_property
    def result_times(self) -> np.ndarray:
        """Per beat of a step, cycles from its begin until it is visible."""
        return self._half + self.matrices[-1].results + self.cell.latency + QUEUE_LATENCY

    @property
    def interval(self) -> int:
        # Places of the input are free again when a step has been read; two are kept.
        pair = int(self.matrices[0].results[-1]) + self.beats - 1 + INPUT_LATENCY
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
        release, time, before = int(self.matrices[0].results[-1]), -1, 0
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
        return sum(matrix.folding.array.dsp_products for matrix in self.matrices)

    def parts(self) -> dict[str, Area]:
        foldings = [matrix.folding for matrix in self.matrices]
        return {
            **super().parts(), "window": self.step_inputs.buffer_area(),
            "weights": total(memory.area() for folding in foldings for memory in folding.weights),
            "multiply": total(folding.array.area() for folding in foldings),
            "requantise": total((*(folding.requantiser.area() for folding in foldings),
                                 self.cell.area())),
        }

    def area(self) -> Area:
        counters = (6 * levels(self.beats) + 2 * levels(self.steps)
                    + sum(levels(matrix.folds) for matrix in self.matrices))
        return total((
            self.queues_area(), *(matrix.area() for matrix in self.matrices), self.cell.area(),
            self.step_inputs.area(),
            logic("recurrent", one=1, counter=counters)))

    @property
    def loads(self) -> int:
        return sum(matrix.folding.loads for matrix in self.matrices)

    def load_words(self) -> list[int]:
        return [word for matrix in self.matrices for word in matrix.folding.load_words()]

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
        matrices = [matrix.create() for matrix in config.matrices]
        m.submodules.matrix = matrix = matrices[0]
        m.submodules.cell = cell = config.cell.create()
        m.submodules.inputs = inputs = config.step_inputs.create()
        begin = Signal()
        queue, room = fold_queue(m, config, [config.beats], begin)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        wiring.connect(m, wiring.flipped(self.i), inputs.i)
        early, last_beat = self._results(m, "results", matrix)
        come, last_come = early, last_beat
        if config.op.reset_first:
            come, last_come = self._second(m, matrices[1], cell)
        # Which step begins next, and which one a beat is of.
        starts, ends = (counter(config.steps, name=name) for name in ("start_step", "beat_step"))
        for step, go in ((starts, begin), (ends, last_come)):
            with m.If(go):
                m.d.sync += step.eq(Mux(step == config.steps - 1, 0, step + 1))
        ended, wait = ends == config.steps - 1, EARLY + config.cell.latency
        first_step: Value = ends == 0
        if config.op.keep:
            first_step = Signal(init=1)
            with m.If(last_come):
                m.d.sync += first_step.eq(0)
        # The units go on to the next step; those of the last step of a frame do not.
        if config.overlaps:
            again = delayed(m, ~ended, wait, "again")
            first_valid, first_units = self._first(
                m, begin & (starts == config.steps - 1), Const(0, 1))
        else:
            again, renewed = Const(1, 1), Const(0, 1)
            if not config.op.keep:
                renewed = delayed(m, come & ended, wait - 1, "renewed")
            first_valid, first_units = self._first(m, Const(0, 1), renewed)
        m.d.comb += [
            begin.eq(matrix.start & matrix.begins),
            matrix.room.eq((room & inputs.there & Cat(each.loaded for each in matrices).all())
                           | ~matrix.begins),
            matrix.claim.eq(matrix.ends),
            inputs.begin.eq(begin), inputs.early.eq(early), inputs.last.eq(last_beat),
            cell.early.eq(early), cell.first.eq(first_step),
            cell.x.eq(inputs.x), cell.v.as_value().eq(matrix.o.p.as_value()),
            queue.i.valid.eq(cell.o.valid), queue.i.p.eq(cell.o.p),
            matrix.i.valid.eq((cell.o.valid & again) | first_valid),
            matrix.i.p.as_value().eq(Mux(first_valid, first_units, cell.o.p.as_value())),
        ]
        if config.loads:
            chain = wiring.flipped(self.load)
            for each in matrices:
                wiring.connect(m, chain, each.load)
                chain = each.next
            wiring.connect(m, chain, wiring.flipped(self.next))
        return m

    def _second(self, m: Module, matrix: TokenMatrix, cell: ResetCell) -> tuple[Signal, Signal]:
        """The matrix of the last gate, behind the reset gate; returns as :meth:`_results`."""
        m.submodules.second = matrix
        early, last = self._results(m, "second", matrix)
        m.d.comb += [
            matrix.i.valid.eq(cell.left.valid), matrix.i.p.eq(cell.left.p),
            matrix.claim.eq(matrix.ends), matrix.room.eq(1),
            cell.again.eq(early), cell.u.as_value().eq(matrix.o.p.as_value()),
        ]
        return early, last

    def _results(self, m: Module, name: str, matrix: TokenMatrix) -> tuple[Signal, Signal]:
        """Whether a beat of a matrix's results comes two cycles later, and the last of a step."""
        config = matrix.config
        begins = delayed(m, matrix.start, config.latency - EARLY - 1, f"{name}_begins")
        beats = fold_beats(m, name, config.folding.beats, begins)
        left, fold = Signal(range(max(config.folding.beats) + 1)), counter(
            config.folds, name=f"{name}_fold")
        early, last = Signal(), Signal()
        m.d.comb += [early.eq(left != 0), last.eq((left == 1) & (fold == config.folds - 1))]
        with m.If(begins):
            m.d.sync += left.eq(beats)
        with m.Elif(early):
            m.d.sync += left.eq(left - 1)
        with m.If(left == 1):
            m.d.sync += fold.eq(Mux(last, 0, fold + 1))
        return early, last

    def _first(self, m: Module, begins: Value, renewed: Value) -> tuple[Value, Value]:
        """The units in front of the first step of a frame.

        Parameters
        ----------
        begins : all of their beats are wanted, from two cycles later on
        renewed : a beat of them is wanted a cycle later

        Returns
        -------
        whether there is a beat of them, and the beat
        """
        config = self.config
        sending, beat, valid = Signal(init=1), counter(config.beats, name="first_beat"), Signal()
        end = beat == config.beats - 1
        with m.If(begins):
            m.d.sync += sending.eq(1)
        with m.Elif(end):
            m.d.sync += sending.eq(0)
        with m.If(sending | renewed):
            m.d.sync += beat.eq(Mux(end, 0, beat + 1))
        m.d.sync += valid.eq(sending | renewed)
        width = config.outputs[0].width
        if not config.op.initial_h.any():
            return valid, Const(0, width)
        rows = pack_rows(config.op.initial_h.reshape(-1, config.lanes), config.op.output.bits)
        return valid, read_words(m, "first", beat, rows, width, "distributed")


@carries_out(ir.Recurrent, own_lanes=True)
def _recurrent(request: BlockRequest) -> RecurrentConfig:
    return RecurrentConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                           **request.folded(RecurrentConfig))
