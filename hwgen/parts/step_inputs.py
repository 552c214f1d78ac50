"""The memory of a recurrent cell for what its inputs contribute: steps that wait for their turn."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, Part, logic
from hwgen.ir.types import Quantisation
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, buffer_area

__all__ = ["INPUT_LATENCY", "STEPS", "StepInputs", "StepInputsConfig"]

STEPS = 2
"""Steps that are kept: one is read while the next one comes."""
INPUT_LATENCY = 3
"""Cycles from the last beat of a step to the first cycle in which it can begin."""


@dataclass(frozen=True, kw_only=True)
class StepInputsConfig(Part):
    """The memory of two steps.

    Parameters
    ----------
    codes : :class:`Quantisation`
        Of the input.
    lanes, beats : :class:`int`
        Numbers of a beat, and beats of a step.
    offset, bits : :class:`int`
        What is added to each number, and the bits of the sum.
    """

    codes: Quantisation
    lanes: int
    beats: int
    offset: int
    bits: int

    @property
    def width(self) -> int:
        """Bits of a beat with its offset."""
        return self.lanes * self.bits

    @property
    def depth(self) -> int:
        """Beats that are kept."""
        return STEPS * self.beats

    def buffer_area(self) -> Area:
        """What the memory takes."""
        return buffer_area(self.width, self.depth)

    def area(self) -> Area:
        counters = 4 * levels(self.depth)
        return self.buffer_area() + logic(
            "recurrent", counter=counters, input=self.width)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        payload = data.ArrayLayout(signed(self.codes.bits), self.lanes)
        return wiring.Signature({
            "i": In(stream.Signature(payload)), "begin": In(1), "there": Out(1),
            "early": In(1), "last": In(1), "x": Out(self.width),
        })

    def create(self) -> StepInputs:
        return StepInputs(self)


class StepInputs(Configured[StepInputsConfig]):
    """Keeps the input of two steps, with an offset added.

    Parameters
    ----------
    config : :class:`StepInputsConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    begin : :py:`In(1)`
        A step begins.
    there : :py:`Out(1)`
        The input of the next step is there.
    early : :py:`In(1)`
        A beat is wanted two cycles later; with ``last``, the last one of its step, whose place is
        free from then on.
    x : :py:`Out(bits * lanes)`
        The beat.

    Timing
    ------
    A step is there three cycles after its last beat; a place is free two cycles after ``last``.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        beats, depth, bits = config.beats, config.depth, config.bits
        m.submodules.memory = memory = BufferMemory(config.width, depth)
        # Beats of the next step that are missing; places that are left, less one.
        missing = Signal(signed(depth.bit_length() + 2), init=-beats)
        left = Signal(signed(depth.bit_length() + 2), init=depth - 1)
        take, released = Signal(), Signal()
        write, read = (counter(depth, name=f"input_{what}") for what in ("write", "read"))
        word = Signal(config.width, reset_less=True)
        taken = Signal()
        m.d.comb += [
            self.i.ready.eq(~left[-1]), take.eq(self.i.valid & self.i.ready),
            memory.write_en.eq(taken), memory.write_addr.eq(write), memory.write_data.eq(word),
            memory.read_en.eq(1), memory.load.eq(1), memory.read_addr.eq(read),
            self.there.eq(~missing[-1]), self.x.eq(memory.read_data),
        ]
        offset = Const(config.offset, signed(bits))
        m.d.sync += [
            taken.eq(take), word.eq(Cat((value + offset)[:bits] for value in self.i.p)),
            # As late as units in front of the first step could be there.
            missing.eq(missing + delayed(m, taken, 1, "come") - Mux(self.begin, beats, 0)),
            left.eq(left - take + Mux(released, beats, 0)), released.eq(self.last),
        ]
        for place, step in ((write, taken), (read, self.early)):
            with m.If(step):
                m.d.sync += place.eq(Mux(place == depth - 1, 0, place + 1))
        return m
