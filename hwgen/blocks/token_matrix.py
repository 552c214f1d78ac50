"""Product of a matrix and each token: a fully connected layer, or a convolution with kernel 1.

A buffer assembles the beats of a token into words, which are read once for each fold of outputs.
Tokens have no neighbours, so no sliding window is needed.  :mod:`hwgen.blocks.low_rank` has two of
these, one after the other; designs use them only there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.conv_base import array_weights, serialise
from hwgen.blocks.output import fold_beats
from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, Part, logic, total
from hwgen.parts.component import Configured
from hwgen.parts.mac import MacArray
from hwgen.parts.memory import BufferMemory, buffer_area, buffer_registers
from hwgen.parts.requantise import Requantiser
from hwgen.parts.weights import LOAD_BITS

__all__ = ["WRITE_LATENCY", "TokenMatrix", "TokenMatrixConfig"]

WRITE_LATENCY = 2
"""Cycles from a token's last beat to the first cycle in which the token can start."""
READ_LATENCY = 2
"""Cycles from the address of a word to the word."""


@dataclass(frozen=True, kw_only=True)
class TokenMatrixConfig(Part):
    """A matrix by which each token is multiplied.

    Parameters
    ----------
    folding : :class:`FoldedConvConfig`
        The matrix as a convolution of a vector, and its folding.
    places : :class:`int`
        Number of tokens that the buffer holds.
    token_cycles : :class:`int`
        Least number of cycles from one token to the next.
    style : :class:`str`
        Style of the memory of the buffer: see :class:`BufferMemory`.
    """

    folding: FoldedConvConfig
    places: int
    token_cycles: int
    style: str = ""

    @property
    def steps(self) -> int:
        """Number of words in a token."""
        return self.folding.window.steps

    @property
    def folds(self) -> int:
        """Number of times that a token is read."""
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
        """Number of words in the buffer."""
        return self.places * self.steps

    @property
    def release(self) -> int:
        """Cycles from a token's start to the start of its last fold, which frees the token's place.

        From then on, words are read at least as fast as they are overwritten.
        """
        return (self.folds - 1) * self.fold_cycles

    @property
    def operand_latency(self) -> int:
        """Cycles from the addresses of activations and weights until both have been read."""
        return max(READ_LATENCY, self.folding.weight_latency)

    @property
    def activation_delay(self) -> int:
        """Cycles for which activations wait for their weights."""
        return self.operand_latency - READ_LATENCY

    @property
    def latency(self) -> int:
        """Cycles from the start of a fold to its first result."""
        return (self.steps - 1 + self.operand_latency + self.folding.array.latency + 1
                + self.folding.requantiser.latency)

    @cached_property
    def claims(self) -> np.ndarray:
        """Cycles from a token's start to the start of the fold of each of its results' beats."""
        return np.repeat(np.arange(self.folds) * self.fold_cycles, self.folding.beats)

    @cached_property
    def results(self) -> np.ndarray:
        """Cycles from a token's start to each beat of its results."""
        beat = np.concatenate([np.arange(n) for n in self.folding.beats])
        return self.claims + beat + self.latency

    def area(self) -> Area:
        """What the matrix takes, without the queue behind it."""
        folding, width, depth = self.folding, self.width, max(self.depth, 2)
        # The array counts the output registers of the buffer if they feed only the array, because
        # they may become part of a shift register.
        registers = buffer_registers(width, depth, self.style)
        own = registers // width if registers in (width, 2 * width) else 0
        held = folding.requantiser.acc_bits * max(folding.fold_results)
        row = max(folding.weight_depth - 1, 1).bit_length()
        flags = self.operand_latency + folding.array.latency
        out = buffer_area(width, depth, self.style) + folding.requantiser.area()
        out += folding.array.area(own + self.activation_delay)
        out += total(memory.area() for memory in folding.weights)
        out += logic(
            "convolution", one=1, ff_flags=3 * flags, lut_counter=row,
            ff_register=held + row + folding.fold_beats.bit_length(),
            lut_held=held * (folding.fold_beats > 1), ends=folding.fold_beats > 1,
        )
        beats = folding.inputs[0].beats
        counters = (levels(beats) + levels(folding.channel_lanes // folding.lanes_in)
                    + 3 * levels(depth) + levels(self.last_cycles) + levels(self.folds)
                    + 2 * (self.places + 1).bit_length())
        rows = row * (max(folding.array.skews) + self.operand_latency)
        return out + logic(
            "token matrix", one=1, lut_counter=counters,
            ff_register=counters + rows + width + registers * (own == 0),
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


class TokenMatrix(Configured[TokenMatrixConfig]):
    """Multiplies each token by a matrix: token buffer, multiply-accumulate array, requantisers.

    Parameters
    ----------
    config : :class:`TokenMatrixConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in), always_ready=True))`
        Beats of tokens, which may come only if there is a place for their token.
    ends : :py:`Out(1)`
        The beat at ``i`` is the last of a token.
    claim : :py:`In(1)`
        Claim a place in this cycle, at the latest with the last beat of the token.
    free : :py:`Out(1)`
        A place is free; a register.
    room : :py:`In(1)`
        There are places for the results of the next fold.
    start : :py:`Out(1)`
        A fold starts, and claims those places.
    begins : :py:`Out(1)`
        The fold that starts next is the first of a token.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out), always_ready=True))`
    load, next : see :class:`hwgen.parts.weights.WeightMemory`, if weights are loaded
    loaded : :py:`Out(1)`
        All weights have been loaded.

    Timing
    ------
    A token can start two cycles after its last beat, and ``token_cycles`` after the token before.
    Its results come ``config.results`` cycles after its start.
    """

    def elaborate(self, platform):
        m = Module()
        config, folding = self.config, self.config.folding
        m.submodules.buffer = buffer = BufferMemory(config.width, config.depth, config.style)
        m.submodules.array = array = MacArray(folding.array)
        m.submodules.requantiser = requantiser = Requantiser(folding.requantiser)
        flags = self._read(m, buffer, array, self._write(m, buffer))
        late = config.operand_latency
        x = delayed(m, buffer.read_data, config.activation_delay, "x")
        m.d.comb += array.x.as_value().eq(x)
        marks = [flags]
        for k in range(late + folding.array.latency):
            marks.append(Signal(len(flags), name=f"flags_{k}"))
            m.d.sync += marks[-1].eq(marks[-2])
        m.d.comb += Cat(array.add, array.first).eq(marks[late + folding.array.sum_latency][:2])
        done = marks[-1][2]
        beats = fold_beats(m, "done", folding.beats, done)
        serialise(m, folding, array.acc.as_value(), done, beats, requantiser)
        wiring.connect(m, requantiser.o, wiring.flipped(self.o))
        return m

    def _write(self, m: Module, buffer: BufferMemory) -> Value:
        """Collect beats into words.

        Returns
        -------
        whether a token is complete
        """
        source = self.config.folding.inputs[0]
        per_word = self.config.folding.channel_lanes // source.lanes
        beat, in_word = counter(source.beats, name="beat"), counter(per_word, name="slot")
        address = counter(self.config.depth, name="write_address")
        word = Signal(self.config.width, reset_less=True)
        enable, complete = Signal(), Signal()
        end = beat == source.beats - 1
        word_end = (in_word == per_word - 1) | end
        m.d.comb += [
            self.ends.eq(self.i.valid & end),
            buffer.write_en.eq(enable), buffer.write_addr.eq(address), buffer.write_data.eq(word),
        ]
        m.d.sync += [enable.eq(self.i.valid & word_end), complete.eq(self.ends)]
        with m.If(self.i.valid):
            m.d.sync += [beat.eq(Mux(end, 0, beat + 1)), in_word.eq(Mux(word_end, 0, in_word + 1))]
        for k in range(per_word):
            with m.If(self.i.valid & (in_word == k)):
                m.d.sync += word.word_select(k, source.width).eq(self.i.p.as_value())
        with m.If(enable):
            m.d.sync += address.eq(Mux(address == self.config.depth - 1, 0, address + 1))
        return complete

    def _read(self, m: Module, buffer: BufferMemory, array: MacArray, complete: Value) -> Value:
        """Read tokens fold by fold.

        Returns
        -------
        three bits: whether a word is read, whether it is the first of a fold, and the last
        """
        config = self.config
        # Tokens that have come; places left after the next token, negative if there is none for it.
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
        m.d.comb += self.loaded.eq(array_weights(
            m, self, config.folding, array, row,
            config.operand_latency - config.folding.weight_latency))
        return Cat(fire, step == 0, fire & last_step)
