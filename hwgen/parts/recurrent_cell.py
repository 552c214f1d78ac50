"""The arithmetic of a recurrent cell: from sums of its gates to its units, some in each cycle.

Gates are looked up in tables; products of their values go through multipliers, and are rounded.
Nothing in it stalls: everything comes a fixed number of cycles after its operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter, delayed, levels, signed_width
from hwgen.device.cost import Area, Part, logic, total
from hwgen.device.multiplier import MULTIPLIERS, Multiplier
from hwgen.ir.recurrent import ENTRIES, ONE, STATE, Recurrent
from hwgen.ir.types import Quantisation
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, ReadOnlyMemory, buffer_area, read_words
from hwgen.parts.requantise import RoundShift, round_shift_area
from hwgen.parts.stream import pack_rows

__all__ = ["EARLY", "RecurrentCell", "RecurrentCellConfig", "Timed"]

EARLY = 2
"""Cycles by which a cell is told that a beat comes."""
STATE_LATENCY = 3
"""Cycles from a place of the state to the state."""
ENTRY_BITS = ENTRIES.bit_length() - 1
VALUE_BITS = STATE.bits


@dataclass(frozen=True, kw_only=True)
class RecurrentCellConfig(Part):
    """A cell, and how many of its units there are in each cycle.

    Parameters
    ----------
    op : :class:`hwgen.ir.Recurrent`
    codes : :class:`Quantisation`
        Of the input of the op.
    lanes : :class:`int`
        Units in each cycle; divides their number.
    multiplier : :class:`str`
        One of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    """

    op: Recurrent
    codes: Quantisation
    lanes: int = 1
    multiplier: str = "dsp48e2"

    @property
    def beats(self) -> int:
        """Beats of a step."""
        return self.op.units // self.lanes

    @property
    def device(self) -> Multiplier:
        """The multiplier."""
        return MULTIPLIERS[self.multiplier]

    @property
    def offset(self) -> int:
        """What is added to codes of the input: no zero point, and half an entry of the tables."""
        return (1 << self.op.drop >> 1) - self.codes.zero_point

    @property
    def x_bits(self) -> int:
        """Bits of the input with ``offset``."""
        return signed_width(self.codes.low + self.offset, self.codes.high + self.offset)

    @property
    def sum_bits(self) -> int:
        """Bits of a gate's sum."""
        return max(self.x_bits, STATE.bits) + 1

    @cached_property
    def table(self) -> ReadOnlyMemory:
        """Memory of a gate's table."""
        bits = self.op.output.bits if self.op.kind == "rnn" else VALUE_BITS
        return ReadOnlyMemory(bits, ENTRIES)

    def product_latency(self, *bits: int) -> int:
        """Cycles of a product of so many bits."""
        return self.device.product_latency(max(bits), min(bits))

    @property
    def gate_latency(self) -> int:
        """Cycles from the sums of a product and an input to the values of gates."""
        return 2 + self.table.latency

    @property
    def _product(self) -> int:
        return self.product_latency(VALUE_BITS, VALUE_BITS)

    @property
    def state_time(self) -> int:
        """Cycles until the state of the step before is used; of a GRU, with the new one."""
        if self.op.kind == "lstm":
            return self.gate_latency
        return self.gate_latency + self._product + 2 + self.table.latency

    @property
    def wide_time(self) -> int:
        """Cycles until the state is there, not yet rounded."""
        if self.op.kind == "lstm":
            return self.state_time + self._product + 1
        return self.state_time + 1 + self.product_latency(VALUE_BITS + 1, VALUE_BITS) + 1

    @property
    def latency(self) -> int:
        """Cycles from the operands to the units."""
        if self.op.kind == "rnn":
            return self.gate_latency
        if self.op.kind == "gru":
            return self.wide_time + RoundShift.latency
        return (self.wide_time + RoundShift.latency + 2 + self.table.latency + self._product
                + RoundShift.latency)

    @property
    def wide_bits(self) -> int:
        """Bits of the state before it is rounded."""
        return 2 * VALUE_BITS + (ONE - self.op.fraction if self.op.kind == "lstm" else 1) + 1

    def area(self) -> Area:
        """What it takes."""
        op, lanes = self.op, self.lanes
        # Sums and what is cut from them; what waits long is in shift registers.
        gate = self.sum_bits + ENTRY_BITS
        tables, adders, delays, products = op.gates, op.gates * gate, 0, []
        rounds = []
        if op.kind == "lstm":
            tables, adders = 5, adders + self.wide_bits + 2 * VALUE_BITS
            products = [(VALUE_BITS, VALUE_BITS)] * 3
            rounds = [(self.wide_bits, 2 * ONE - op.fraction, STATE),
                      (2 * VALUE_BITS, op.shift, op.output)]
            delays = VALUE_BITS * 2
        elif op.kind == "gru":
            adders += 2 * self.wide_bits
            products = [(VALUE_BITS, VALUE_BITS), (VALUE_BITS + 1, VALUE_BITS)]
            rounds = [(self.wide_bits, ONE, STATE), (self.wide_bits, op.shift, op.output)]
            delays = VALUE_BITS * 3 + self.x_bits
        state = buffer_area(VALUE_BITS * lanes, self.beats) if op.kind != "rnn" else Area()
        return total((
            state, *[self.table.area()] * (tables * lanes),
            *(self.device.area(max(p), min(p), lanes) for p in products),
            *(round_shift_area(width, (shift,) * 2, codes, lanes)
              for width, shift, codes in rounds),
        )) + logic(
            "recurrent", sum=lanes * adders, lut_delays=lanes * delays,
            counter=2 * levels(self.beats))

    def gates_payload(self, bits: int, gates: int = 0) -> data.ArrayLayout:
        """Layout of so many gates, 0: of all, of the units of a beat."""
        return data.ArrayLayout(
            data.ArrayLayout(signed(bits), gates or self.op.gates), self.lanes)

    @property
    def units_payload(self) -> data.ArrayLayout:
        """Layout of the units of a beat."""
        return data.ArrayLayout(signed(self.op.output.bits), self.lanes)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            "early": In(1), "first": In(1), "x": In(self.gates_payload(self.x_bits)),
            "v": In(self.gates_payload(STATE.bits)),
            "o": Out(stream.Signature(self.units_payload, always_ready=True)),
        })

    def create(self) -> RecurrentCell:
        return RecurrentCell(self)


class Timed(NamedTuple):
    """A value, and how many cycles after the operands it is there."""

    value: Value
    time: int


class RecurrentCell(Configured[RecurrentCellConfig]):
    """Computes the units of a step, beat by beat, and keeps their state for the next step.

    Parameters
    ----------
    config : :class:`RecurrentCellConfig`

    Members
    -------
    early : :py:`In(1)`
        A beat comes two cycles later.
    first : :py:`In(1)`
        With ``early``: the beat is of the first step of a frame.
    x, v : :py:`In(ArrayLayout(ArrayLayout(signed(bits), gates), lanes))`
        Operands of a beat: the input plus ``config.offset``, and the product with the units of the
        step before.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes), always_ready=True))`
        Units.

    Timing
    ------
    ``config.latency`` cycles from the operands to the units; one beat per cycle.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        states, write = ([], None) if config.op.kind == "rnn" else self._states(m, self.early)
        new = []
        for lane in range(config.lanes):
            x, v = ([Timed(port[lane][k], 0) for k in range(config.op.gates)]
                    for port in (self.x, self.v))
            if config.op.kind == "rnn":
                unit = self._gate(m, f"h_{lane}", 0, x[0], v[0])
            elif config.op.kind == "lstm":
                unit, state = self._lstm(m, lane, x, v, states[lane])
                new.append(state)
            else:
                unit, state = self._gru(m, lane, x, v, states[lane])
                new.append(state)
            assert unit.time == config.latency
            m.d.comb += self.o.p[lane].eq(unit.value)
        if write is not None:
            m.d.comb += write.eq(Cat(state.value for state in new))
        m.d.comb += self.o.valid.eq(delayed(m, self.early, EARLY + config.latency, "valid"))
        return m

    def _states(self, m: Module, early: Value) -> tuple[list[Timed], Signal]:
        """The memory of the states.

        Parameters
        ----------
        early : the new states are ``config.wide_time`` and a rounding behind it

        Returns
        -------
        states of the step before, and what the new ones are written from
        """
        config = self.config
        width = VALUE_BITS * config.lanes
        m.submodules.states = memory = BufferMemory(width, config.beats)
        read, write = (counter(config.beats, name=f"state_{what}") for what in ("read", "write"))
        # When the place of a state is read, and when a new one is written.
        wait = EARLY + config.state_time - STATE_LATENCY
        marks = delayed(m, Cat(self.early, self.first), wait, "state_marks")
        written = delayed(
            m, early, EARLY + config.wide_time + RoundShift.latency, "state_written")
        for place, step in ((read, marks[0]), (write, written)):
            with m.If(step):
                m.d.sync += place.eq(Mux(place == config.beats - 1, 0, place + 1))
        value = Signal(width)
        m.d.comb += [
            memory.read_en.eq(1), memory.load.eq(1), memory.read_addr.eq(read),
            memory.write_en.eq(written), memory.write_addr.eq(write), memory.write_data.eq(value),
        ]
        begin: Value = Const(0, width)
        if config.op.initial_c.any():
            rows = pack_rows(config.op.initial_c.reshape(-1, config.lanes), VALUE_BITS)
            word = read_words(m, "initial", read, rows, width, "distributed")
            begin = delayed(m, word, 1, "initial")
        before = Signal(width, reset_less=True)
        m.d.sync += before.eq(Mux(delayed(m, marks[1], 2, "state_first"), begin, memory.read_data))
        return [Timed(before[k * VALUE_BITS : (k + 1) * VALUE_BITS].as_signed(),
                       config.state_time) for k in range(config.lanes)], value

    def _later(self, m: Module, name: str, it: Timed, time: int) -> Value:
        """A value when it is wanted."""
        assert time >= it.time
        return delayed(m, it.value, time - it.time, name)

    def _kept(self, m: Module, name: str, value: Value, time: int) -> Timed:
        """A value in a register, from operands of a time."""
        register = Signal(value.shape(), name=name, reset_less=True)
        m.d.sync += register.eq(value)
        return Timed(register, time + 1)

    def _looked_up(
        self, m: Module, name: str, table: np.ndarray, it: Timed, drop: int
    ) -> Timed:
        """The entry of a table for a value, to which half an entry has been added."""
        memory, half = self.config.table, ENTRIES // 2
        down = it.value >> drop
        if len(down) > ENTRY_BITS:
            down = Mux(down > half - 1, half - 1, Mux(down < -half, -half, down))
        at = Signal(signed(ENTRY_BITS), name=f"{name}_entry", reset_less=True)
        m.d.sync += at.eq(down)
        rows = pack_rows(np.roll(table, half).reshape(-1, 1), memory.width)
        word = memory.read(m, f"{name}_table", at.as_unsigned(), rows)
        return Timed(word.as_signed(), it.time + 1 + memory.latency)

    def _gate(self, m: Module, name: str, gate: int, x: Timed, v: Timed) -> Timed:
        """The value of a gate."""
        op = self.config.op
        whole = self._kept(m, f"{name}_sum", x.value + v.value, x.time)
        return self._looked_up(m, name, op.tables[gate], whole, op.drop)

    def _product(self, m: Module, name: str, a: Timed, b: Timed) -> Timed:
        time = max(a.time, b.time)
        operands = [self._later(m, f"{name}_{k}", it, time) for k, it in enumerate((a, b))]
        wide, narrow = sorted(operands, key=len, reverse=True)
        return Timed(self.config.device.product(m, wide, narrow, name),
                      time + self.config.product_latency(len(wide), len(narrow)))

    def _rounded(
        self, m: Module, name: str, it: Timed, shift: int, codes: Quantisation
    ) -> Timed:
        m.submodules[name] = rounder = RoundShift(len(it.value), (shift,) * 2, codes)
        m.d.comb += [rounder.i.eq(it.value), rounder.shift.eq(0)]
        return Timed(rounder.o, it.time + rounder.latency)

    def _lstm(
        self, m: Module, lane: int, x: list[Timed], v: list[Timed], c: Timed
    ) -> tuple[Timed, Timed]:
        """Unit and state of an LSTM."""
        op = self.config.op
        i, o, f, g = (self._gate(m, f"{name}_{lane}", k, x[k], v[k])
                      for k, name in enumerate("iofg"))
        kept, added = self._product(m, f"kept_{lane}", f, c), self._product(
            m, f"added_{lane}", i, g)
        wide = self._kept(m, f"wide_{lane}", (kept.value << (ONE - op.fraction)) + added.value,
                          kept.time)
        assert wide.time == self.config.wide_time
        state = self._rounded(m, f"state_{lane}", wide, 2 * ONE - op.fraction, STATE)
        halves = self._kept(m, f"halves_{lane}", state.value + (1 << op.cell_drop >> 1),
                            state.time)
        cell = self._looked_up(m, f"cell_{lane}", op.cell, halves, op.cell_drop)
        unit = self._product(m, f"unit_{lane}", o, cell)
        return self._rounded(m, f"round_{lane}", unit, op.shift, op.output), state

    def _gru(
        self, m: Module, lane: int, x: list[Timed], v: list[Timed], c: Timed
    ) -> tuple[Timed, Timed]:
        """Unit and state of a GRU."""
        op = self.config.op
        z, r = (self._gate(m, f"{name}_{lane}", k, x[k], v[k]) for k, name in enumerate("zr"))
        reset = self._product(m, f"reset_{lane}", r, v[2])
        own = self._later(m, f"own_{lane}", x[2], reset.time)
        # Without bits to drop, half an entry is below the codes of the input.
        below = Const(0 if op.drop else 1 << (ONE - 1), ONE)
        whole = self._kept(m, f"new_{lane}_sum", Cat(below, own).as_signed() + reset.value,
                           reset.time)
        new = self._looked_up(m, f"new_{lane}", op.tables[2], whole, ONE + op.drop)
        return self._mixed(m, lane, z, new, c)

    def _mixed(
        self, m: Module, lane: int, z: Timed, new: Timed, c: Timed
    ) -> tuple[Timed, Timed]:
        """Unit and state of a GRU: new ones, and of the state as much as a gate says."""
        op = self.config.op
        apart = self._kept(m, f"apart_{lane}",
                           self._later(m, f"before_{lane}", c, new.time) - new.value, new.time)
        kept = self._product(m, f"kept_{lane}", z, apart)
        late = self._later(m, f"late_{lane}", new, kept.time)
        wide = self._kept(m, f"wide_{lane}", (late << ONE) + kept.value, kept.time)
        assert wide.time == self.config.wide_time
        return (self._rounded(m, f"round_{lane}", wide, op.shift, op.output),
                self._rounded(m, f"state_{lane}", wide, ONE, STATE))
