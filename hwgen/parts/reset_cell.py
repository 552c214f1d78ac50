"""The arithmetic of a GRU whose reset gate multiplies the units in front of the matrix.

A step has two halves.  In the first one gates are looked up, and what is left of the state goes
out, to be multiplied by the matrix of the last gate.  Its product comes back in the second one,
beat by beat; what that needs of the first half lies in a memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, logic, total
from hwgen.ir.recurrent import ONE, STATE
from hwgen.parts.memory import BufferMemory, buffer_area
from hwgen.parts.recurrent_cell import EARLY, RecurrentCell, RecurrentCellConfig, Timed
from hwgen.parts.requantise import RoundShift, round_shift_area

__all__ = ["ResetCell", "ResetCellConfig"]


@dataclass(frozen=True, kw_only=True)
class ResetCellConfig(RecurrentCellConfig):
    """A cell in two halves: see :class:`RecurrentCellConfig`."""

    @property
    def state_time(self) -> int:
        return self.gate_latency

    @property
    def reset_latency(self) -> int:
        """Cycles from the operands of the first half to what is left of the state."""
        return self.state_time + self.product_latency(STATE.bits, STATE.bits) + RoundShift.latency

    @property
    def wide_time(self) -> int:
        """Cycles from the operands of the second half to the state, not yet rounded."""
        return self.gate_latency + 1 + self.product_latency(STATE.bits + 1, STATE.bits) + 1

    @property
    def latency(self) -> int:
        """Cycles from the operands of the second half to the units."""
        return self.wide_time + RoundShift.latency

    @property
    def held_bits(self) -> int:
        """Bits that a beat leaves for the second half: a gate, the state, and an input."""
        return self.lanes * (2 * STATE.bits + self.x_bits)

    def area(self) -> Area:
        op, lanes, bits = self.op, self.lanes, STATE.bits
        gates = op.gates * (self.sum_bits + self.table.depth.bit_length() - 1)
        adders, delays = gates + 2 * self.wide_bits, 3 * bits + self.x_bits
        return total((
            buffer_area(bits * lanes, self.beats), buffer_area(self.held_bits, self.beats),
            *[self.table.area()] * (op.gates * lanes),
            self.device.area(bits, bits, lanes), self.device.area(bits + 1, bits, lanes),
            round_shift_area(2 * bits, (op.shift,) * 2, op.output, lanes),
            round_shift_area(self.wide_bits, (op.shift,) * 2, op.output, lanes),
            round_shift_area(self.wide_bits, (ONE,) * 2, STATE, lanes),
        )) + logic("recurrent", sum=lanes * adders, lut_delays=lanes * delays,
                   counter=4 * levels(self.beats))

    @property
    def signature(self) -> wiring.Signature:
        units = self.units_payload
        return wiring.Signature({
            "early": In(1), "first": In(1), "x": In(self.gates_payload(self.x_bits)),
            "v": In(self.gates_payload(STATE.bits, 2)),
            "left": Out(stream.Signature(units, always_ready=True)),
            "again": In(1), "u": In(self.gates_payload(STATE.bits, 1)),
            "o": Out(stream.Signature(units, always_ready=True)),
        })

    def create(self) -> ResetCell:
        return ResetCell(self)


class ResetCell(RecurrentCell):
    """Computes the units of a step in two halves, and keeps their state for the next step.

    Parameters
    ----------
    config : :class:`ResetCellConfig`

    Members
    -------
    early, first, x, v, o : see :class:`RecurrentCell`
        ``v`` has two gates.
    left : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes), always_ready=True))`
        What the reset gate leaves of the state, in codes of the units.
    again : :py:`In(1)`
        A beat of the second half comes two cycles later.
    u : :py:`In(ArrayLayout(ArrayLayout(signed(16), 1), lanes))`
        Product of the matrix of the last gate and ``left``.

    Timing
    ------
    ``config.reset_latency`` cycles from ``x`` and ``v`` to ``left``, and ``config.latency`` from
    ``u`` to the units; one beat per cycle.  The second half of a beat begins when ``left`` is
    there, or later, and ends before the first half of the next step begins.
    """

    config: ResetCellConfig

    def elaborate(self, platform):
        m = Module()
        config, op = self.config, self.config.op
        states, write = self._states(m, self.again)
        held, held_words = [], self._held(m)
        new = []
        for lane in range(config.lanes):
            x, v = ([Timed(port[lane][k], 0) for k in range(2)] for port in (self.x, self.v))
            z, r = (self._gate(m, f"{name}_{lane}", k, x[k], v[k]) for k, name in enumerate("zr"))
            own = self._later(m, f"own_{lane}", Timed(self.x[lane][2], 0), z.time)
            held.append(Cat(z.value, states[lane].value, own))
            left = self._product(m, f"reset_{lane}", r, states[lane])
            left = self._rounded(m, f"left_{lane}", left, op.shift, op.output)
            assert left.time == config.reset_latency
            m.d.comb += self.left.p[lane].eq(left.value)
            z, c, own = held_words[1][lane]
            n = self._gate(m, f"n_{lane}", 2, own, Timed(self.u[lane][0], 0))
            unit, state = self._mixed(m, lane, z, n, c)
            assert unit.time == config.latency
            m.d.comb += self.o.p[lane].eq(unit.value)
            new.append(state.value)
        m.d.comb += [
            write.eq(Cat(new)), held_words[0].eq(Cat(held)),
            self.left.valid.eq(delayed(m, self.early, EARLY + config.reset_latency, "left_valid")),
            self.o.valid.eq(delayed(m, self.again, EARLY + config.latency, "valid")),
        ]
        return m

    def _held(self, m: Module) -> tuple[Signal, list[tuple[Timed, Timed, Timed]]]:
        """The memory of what the first half leaves for the second one.

        Returns
        -------
        what is written, when gates are there; and per lane what is read, with the product: the
        gate, the state and the input
        """
        config, bits = self.config, (STATE.bits, STATE.bits, self.config.x_bits)
        m.submodules.held = memory = BufferMemory(config.held_bits, config.beats)
        write, read = (counter(config.beats, name=f"held_{what}") for what in ("write", "read"))
        enable: Value = delayed(m, self.early, EARLY + config.gate_latency, "held_written")
        for place, step in ((write, enable), (read, self.again)):
            with m.If(step):
                m.d.sync += place.eq(Mux(place == config.beats - 1, 0, place + 1))
        value = Signal(config.held_bits)
        m.d.comb += [
            memory.read_en.eq(1), memory.load.eq(1), memory.read_addr.eq(read),
            memory.write_en.eq(enable), memory.write_addr.eq(write), memory.write_data.eq(value),
        ]
        lanes = []
        for lane in range(config.lanes):
            at, parts = lane * sum(bits), []
            for width in bits:
                parts.append(Timed(memory.read_data[at : at + width].as_signed(), 0))
                at += width
            lanes.append(tuple(parts))
        return value, lanes
