"""The order of things in the shell: what a run is, and what a soft reset is."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.shell.runs import COUNT_BITS, WORD_BITS

__all__ = ["Sequencer"]

CLEAR_CYCLES = 8
"""Cycles of a soft reset."""
PATIENCE = 1 << 17
"""Cycles after which a soft reset waits no longer for a memory that does not answer."""
SETTLE = 4
"""Cycles in which nothing may be under way before a soft reset."""


class Sequencer(wiring.Component):
    """Begins runs, sees their end, and carries out soft resets.

    Parameters
    ----------
    sizes : sequence of :class:`int`
        Bus words of a frame, of each input and output.
    weights : :class:`bool`
        Whether weights are loaded before the first run.

    Members
    -------
    start, frames : :py:`In(1)`, :py:`In(32)`
        Begin a run of so many frames.
    clear : :py:`In(1)`
        Begin a soft reset.
    busy : :py:`In(1)`
        Something still moves frames.
    failed : :py:`In(1)`
        There was an error: the run does not end.
    memory_idle : :py:`In(1)`
        Nothing is under way at any memory.
    loaded : :py:`In(1)`
        All weights have been asked for.
    load, begin : :py:`Out(1)`
        For a cycle: fetch the weights; move frames.
    words_0, … : :py:`Out(40)`
        Bus words of all frames of the run.
    stop, reset : :py:`Out(1)`
        Begin nothing more at the memories; all but the registers is in reset, as it is from a
        reset to the first run behind it, because arguments say where memory is.
    idle, finished, clearing : :py:`Out(1)`
        A run may begin; one has ended, for a cycle; a soft reset goes on.

    Timing
    ------
    A run begins 36 cycles after its start.
    """

    def __init__(self, sizes: Sequence[int], weights: bool) -> None:
        self.sizes, self.weights = tuple(sizes), weights
        super().__init__({
            "start": In(1), "frames": In(COUNT_BITS), "clear": In(1), "busy": In(1),
            "failed": In(1), "memory_idle": In(1), "loaded": In(1), "load": Out(1),
            "begin": Out(1), **{f"words_{k}": Out(WORD_BITS) for k in range(len(self.sizes))},
            "stop": Out(1), "reset": Out(1), "idle": Out(1), "finished": Out(1),
            "clearing": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        frames, step = Signal(COUNT_BITS), Signal(range(COUNT_BITS))
        asked, awake, have = Signal(), Signal(), Signal(init=not self.weights)
        wait, settled = Signal(range(PATIENCE + 1)), Signal(range(SETTLE + 1))
        m.d.sync += [self.load.eq(0), self.begin.eq(0), self.finished.eq(0)]
        with m.If(self.clear):
            m.d.sync += asked.eq(1)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(asked):
                    m.next = "STOP"
                with m.Elif(self.start):
                    m.d.sync += [step.eq(0), frames.eq(self.frames), awake.eq(1)]
                    m.d.sync += [getattr(self, f"words_{k}").eq(0) for k in range(len(self.sizes))]
                    m.next = "MULTIPLY"
            with m.State("MULTIPLY"):
                # Bit by bit, the highest first.
                m.d.sync += [step.eq(step + 1), frames.eq(Cat(0, frames[:-1]))]
                for k, size in enumerate(self.sizes):
                    words = getattr(self, f"words_{k}")
                    m.d.sync += words.eq((words << 1) + Mux(frames[-1], size, 0))
                with m.If(step == COUNT_BITS - 1):
                    m.d.sync += step.eq(0)
                    m.next = "LOAD"
            with m.State("LOAD"):
                with m.If(have):
                    m.d.sync += self.begin.eq(1)
                    m.next = "BEGIN"
                with m.Else():
                    m.d.sync += [self.load.eq(1), have.eq(1)]
                    m.next = "LOADING"
            with m.State("LOADING"):
                m.d.sync += step.eq(step + 1)
                with m.If(asked):
                    m.next = "STOP"
                # The movers are busy from two cycles on.
                with m.Elif((step >= 3) & self.loaded):
                    m.next = "LOAD"
            with m.State("BEGIN"):
                m.d.sync += step.eq(step + 1)
                with m.If(step == 3):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(asked):
                    m.next = "STOP"
                with m.Elif(~self.busy & ~self.failed):
                    m.d.sync += self.finished.eq(1)
                    m.next = "IDLE"
            with m.State("STOP"):
                # What is under way comes to its end, unless a memory is dead.
                m.d.sync += [asked.eq(0), wait.eq(wait + 1)]
                m.d.sync += settled.eq(Mux(self.memory_idle, settled + 1, 0))
                with m.If((settled == SETTLE) | (wait == PATIENCE)):
                    m.d.sync += wait.eq(0)
                    m.next = "RESET"
            with m.State("RESET"):
                m.d.sync += [wait.eq(wait + 1), settled.eq(0), awake.eq(0),
                             have.eq(not self.weights)]
                with m.If(wait == CLEAR_CYCLES):
                    m.d.sync += wait.eq(0)
                    m.next = "IDLE"
        m.d.comb += [
            self.idle.eq(fsm.ongoing("IDLE") & ~asked), self.reset.eq(~awake),
            self.stop.eq(fsm.ongoing("STOP") | fsm.ongoing("RESET")),
            self.clearing.eq(asked | fsm.ongoing("STOP") | fsm.ongoing("RESET")),
        ]
        return m
