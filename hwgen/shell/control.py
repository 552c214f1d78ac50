"""Control and status behind AXI4-Lite (ARM IHI 0022, B1), with the registers that XRT expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.cost import Area, Part, logic
from hwgen.parts.component import Configured
from hwgen.shell.registers import (
    ADDRESS_BITS,
    CONTROL,
    ERRORS,
    GLOBAL_INTERRUPT,
    INTERRUPT_ENABLE,
    INTERRUPT_STATUS,
    RESET,
    VERSION,
    Argument,
    status,
)

__all__ = ["LITE_PINS", "Control", "ControlConfig", "lite_ports"]

LITE_PINS: dict[str, tuple[wiring.Flow, int]] = {
    "awaddr": (In, ADDRESS_BITS), "awvalid": (In, 1), "awready": (Out, 1),
    "wdata": (In, 32), "wstrb": (In, 4), "wvalid": (In, 1), "wready": (Out, 1),
    "bresp": (Out, 2), "bvalid": (Out, 1), "bready": (In, 1),
    "araddr": (In, ADDRESS_BITS), "arvalid": (In, 1), "arready": (Out, 1),
    "rdata": (Out, 32), "rresp": (Out, 2), "rvalid": (Out, 1), "rready": (In, 1),
}
"""Pins of an AXI4-Lite port, seen from the side that answers."""

COUNTERS = {"frames_in", "frames_out", "frame_cycles", "input_waits", "input_starves",
            "output_waits"}
"""Registers that the shell counts in."""


def lite_ports(name: str) -> dict[str, wiring.Member]:
    """Members for the pins of an AXI4-Lite port, such as ``s_axi_control_awaddr``."""
    return {f"{name}_{pin}": flow(width) for pin, (flow, width) in LITE_PINS.items()}


@dataclass(frozen=True, kw_only=True)
class ControlConfig(Part):
    """The register bank.

    Parameters
    ----------
    arguments : sequence of :class:`Argument`
        What a run is told.
    identification : :class:`int`
        64 bits by which software knows the design.
    """

    arguments: tuple[Argument, ...]
    identification: int

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            **lite_ports("lite"),
            **{f"arg_{each.name}": Out(each.bits) for each in self.arguments},
            **{name: In(32) for name in sorted(COUNTERS)},
            "errors": In(len(ERRORS)), "start": Out(1), "finished": In(1), "idle": In(1),
            "clear": Out(1), "clearing": In(1), "interrupt": Out(1),
        })

    def area(self) -> Area:
        """What it takes."""
        bits = sum(each.bits for each in self.arguments)
        words = sum(each.bits // 32 for each in self.arguments) + len(COUNTERS) + 4
        return logic("control", one=1, word=words, ff_register=bits)

    def create(self) -> Control:
        """The hardware."""
        return Control(self)


class Control(Configured[ControlConfig]):
    """Registers behind AXI4-Lite.

    Parameters
    ----------
    config : :class:`ControlConfig`

    Members
    -------
    lite_awaddr, … : the pins of the port
    arg_NAME : :py:`Out(32 or 64)`
        Each argument.
    frames_in, … : :py:`In(32)`
        What is counted.
    errors : :py:`In(len(ERRORS))`
        Bits that stay set until a soft reset.
    start : :py:`Out(1)`
        For a cycle: begin a run.
    finished : :py:`In(1)`
        For a cycle: the run has ended well.
    idle : :py:`In(1)`
        A run may begin.
    clear, clearing : :py:`Out(1)`, :py:`In(1)`
        A soft reset is asked for, for a cycle; it goes on.
    interrupt : :py:`Out(1)`

    Registers
    ---------
    0x00 control: bit 0 start (reads 1 until the run ends), bit 1 done and bit 3 ready (they clear
    when they are read), bit 2 idle.  0x04: bit 0 enables the interrupt.  0x08 and 0x0C: enable and
    status (which a written 1 turns) of: bit 0 done, bit 1 ready, bit 2 an error.  All others are
    those of :mod:`hwgen.shell.registers`.  An address without a register reads 0.

    Timing
    ------
    A write is done two cycles after its address and data are there; a read is answered after two.
    """

    def elaborate(self, platform):
        m = Module()
        address, data, strobes, write = self._writes(m)
        running, done, ready = Signal(), Signal(), Signal()
        enable, mask, flags = Signal(), Signal(3), Signal(3)
        outer: Any = self
        failed = Signal()
        m.d.sync += [failed.eq(outer.errors.any()), outer.start.eq(0), outer.clear.eq(0)]
        registers = self._registers(running, done, ready, enable, mask, flags)
        read, asked = self._reads(m, registers)
        with m.If(asked & (read == CONTROL >> 2)):
            m.d.sync += [done.eq(0), ready.eq(0)]
        with m.If(write):
            with m.Switch(address):
                with m.Case(CONTROL >> 2), m.If(data[0] & strobes[0] & outer.idle & ~running):
                    m.d.sync += [running.eq(1), outer.start.eq(1)]
                with m.Case(GLOBAL_INTERRUPT >> 2), m.If(strobes[0]):
                    m.d.sync += enable.eq(data[0])
                with m.Case(INTERRUPT_ENABLE >> 2), m.If(strobes[0]):
                    m.d.sync += mask.eq(data)
                with m.Case(INTERRUPT_STATUS >> 2), m.If(strobes[0]):
                    m.d.sync += flags.eq(flags ^ data[:3])
                with m.Case(status()[RESET] >> 2):
                    m.d.sync += outer.clear.eq(data[0] & strobes[0])
                for each in self.config.arguments:
                    argument = getattr(self, f"arg_{each.name}")
                    for k in range(each.bits // 32):
                        with m.Case((each.offset >> 2) + k):
                            for byte in range(4):
                                part = argument.word_select(4 * k + byte, 8)
                                with m.If(strobes[byte]):
                                    m.d.sync += part.eq(data.word_select(byte, 8))
        with m.If(outer.finished):
            m.d.sync += [running.eq(0), done.eq(1), ready.eq(1)]
        before = Signal()
        m.d.sync += before.eq(failed)
        events = Cat(outer.finished, outer.finished, failed & ~before)
        for k in range(3):
            with m.If(events[k] & mask[k]):
                m.d.sync += flags[k].eq(1)
        with m.If(outer.clearing):
            m.d.sync += [running.eq(0), done.eq(0), ready.eq(0)]
        m.d.sync += outer.interrupt.eq(enable & flags.any())
        return m

    def _registers(self, running, done, ready, enable, mask, flags) -> dict[int, Any]:
        """What reading gives, by word."""
        outer: Any = self
        where, identification = status(), self.config.identification
        given = {
            CONTROL: Cat(running, done, outer.idle & ~running, ready), GLOBAL_INTERRUPT: enable,
            INTERRUPT_ENABLE: mask, INTERRUPT_STATUS: flags,
            where["id_low"]: identification & 0xFFFFFFFF, where["id_high"]: identification >> 32,
            where["version"]: VERSION, where["errors"]: outer.errors,
            where[RESET]: outer.clearing,
            **{where[name]: getattr(self, name) for name in COUNTERS},
        }
        for each in self.config.arguments:
            for k in range(each.bits // 32):
                given[each.offset + 4 * k] = getattr(self, f"arg_{each.name}").word_select(k, 32)
        return {offset >> 2: value for offset, value in given.items()}

    def _writes(self, m: Module):
        """Take addresses and data, in any order; returns both, and when they are to be written."""
        outer: Any = self
        address, data = Signal(ADDRESS_BITS - 2), Signal(32)
        strobes, has_address, has_data, write = Signal(4), Signal(), Signal(), Signal()
        m.d.comb += [
            outer.lite_awready.eq(~has_address), outer.lite_wready.eq(~has_data),
            write.eq(has_address & has_data & ~outer.lite_bvalid),
        ]
        with m.If(outer.lite_awvalid & ~has_address):
            m.d.sync += [address.eq(outer.lite_awaddr >> 2), has_address.eq(1)]
        with m.If(outer.lite_wvalid & ~has_data):
            m.d.sync += [data.eq(outer.lite_wdata), strobes.eq(outer.lite_wstrb), has_data.eq(1)]
        with m.If(outer.lite_bvalid & outer.lite_bready):
            m.d.sync += outer.lite_bvalid.eq(0)
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_data.eq(0), outer.lite_bvalid.eq(1)]
        return address, data, strobes, write

    def _reads(self, m: Module, registers: dict[int, Any]):
        """Answer reads; returns the word, and when it is looked at."""
        outer: Any = self
        address, asked = Signal(ADDRESS_BITS - 2), Signal()
        m.d.comb += outer.lite_arready.eq(~asked & ~outer.lite_rvalid)
        with m.If(outer.lite_rvalid & outer.lite_rready):
            m.d.sync += outer.lite_rvalid.eq(0)
        with m.If(outer.lite_arvalid & outer.lite_arready):
            m.d.sync += [address.eq(outer.lite_araddr >> 2), asked.eq(1)]
        with m.If(asked):
            m.d.sync += [asked.eq(0), outer.lite_rvalid.eq(1), outer.lite_rdata.eq(0)]
            with m.Switch(address):
                for word, value in registers.items():
                    with m.Case(word):
                        m.d.sync += outer.lite_rdata.eq(value)
        return address, asked
