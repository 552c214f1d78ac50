"""Off-chip memory through AXI4: several clients share a port, through which they read and write.

A client requests up to 4096 bytes at once, and reads or writes them as a plain stream of words.
The port does all that AXI4 demands of a master: bursts that stay within 4 KB and 256 beats,
identifiers, responses, bursts in flight, and errors of the memory (AMBA AXI and ACE protocol
specification, ARM IHI 0022: A3.2 handshakes, A3.4 bursts, A5.3 order by identifier).

No ``valid`` waits for the memory to be ready.  All reads of a client have the same identifier, so
their words come back in order, as do the responses to its writes.  After an error, all bursts that
were issued are completed, because an interconnect cannot drop them, but nothing more reaches a
client.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Module, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import levels
from hwgen.device.cost import Area, Part, logic
from hwgen.errors import HwgenError
from hwgen.offchip.bursts import BurstIssuer, BurstWriter, burst_layout
from hwgen.offchip.bus import AxiConfig
from hwgen.parts.component import Configured
from hwgen.parts.queue import queue_area, skid_area

__all__ = ["OUTSTANDING", "REQUEST_CYCLES", "AxiPort", "AxiPortConfig"]

OUTSTANDING = 8
"""Default for the most bursts in flight in each direction."""

REQUEST_CYCLES = 3
"""Cycles between requests, if they are bursts so short that these are more than their words."""


@dataclass(frozen=True, kw_only=True)
class AxiPortConfig(Part):
    """An AXI4 master with clients.

    Parameters
    ----------
    axi : :class:`AxiConfig`
    readers, writers : :class:`int`
        Number of clients that read, and that write.  There must be at least one client, and no
        more of either kind than identifiers.
    outstanding : :class:`int`
        Most bursts in flight in each direction.
    timeout : :class:`int`
        Most cycles without a transfer in a direction that has bursts in flight.

    Raises
    ------
    :exc:`HwgenError`
        If there are no clients, or more than identifiers, or if a number is not positive.
    """

    axi: AxiConfig
    readers: int
    writers: int
    outstanding: int = OUTSTANDING
    timeout: int = 1 << 16

    def __post_init__(self) -> None:
        for what, count in (("Readers", self.readers), ("Writers", self.writers)):
            if not 0 <= count <= 1 << self.axi.id_bits:
                raise HwgenError(
                    f"{what} must be between 0 and the {1 << self.axi.id_bits} identifiers, "
                    f"not {count!r}"
                )
        if not self.readers + self.writers:
            raise HwgenError("An AXI port must have at least one client")
        if self.outstanding < 1:
            raise HwgenError(f"Outstanding bursts must be positive, not {self.outstanding!r}")
        if self.timeout < 1:
            raise HwgenError(f"AXI timeout must be positive, not {self.timeout!r}")

    @property
    def read_ports(self) -> tuple[str, ...]:
        """Names of the clients that read."""
        return tuple(f"read_{k}" for k in range(self.readers))

    @property
    def write_ports(self) -> tuple[str, ...]:
        """Names of the clients that write."""
        return tuple(f"write_{k}" for k in range(self.writers))

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        axi = self.axi
        return wiring.Signature({
            **{name: In(axi.read_client) for name in self.read_ports},
            **{name: In(axi.write_client) for name in self.write_ports},
            "axi": Out(axi.signature), "base": In(axi.address_bits), "stop": In(1),
            "error": Out(3), "idle": Out(1),
        })

    def area(self) -> Area:
        """What the port takes."""
        axi, flight = self.axi, self.outstanding.bit_length()
        timer = self.timeout.bit_length()
        out = Area()
        for clients in filter(None, (self.readers, self.writers)):
            index = (clients - 1).bit_length()
            out += logic(
                # One-hot choice among requests; base and next address; length; counters.
                "axi requests", one=1,
                lut_choice=(axi.address_bits + 12) * max(clients - 2, 0), client=clients,
                lut_address=axi.address_bits - axi.word_shift, lut_flight=flight, lut_timer=timer,
                ff_register=2 * (axi.address_bits + index) + flight + timer,
            )
        if self.readers:
            out += logic("axi reads", client=self.readers, ff_register=axi.data_bits)
        if self.writers:
            width = Shape.cast(burst_layout(axi, self.writers)).width
            out += queue_area(width, self.outstanding) + skid_area(
                Shape.cast(axi.write_layout).width
            )
            out += logic(
                "axi writes", one=1, lut_choice=axi.data_bits * -(-(self.writers - 1) // 3),
                lut_bytes=axi.word_bytes, lut_flight=self.writers * flight, client=self.writers,
                place=self.writers * self.outstanding, ff_register=width + self.writers * flight,
            )
        return out

    def create(self) -> AxiPort:
        """The hardware."""
        return AxiPort(self)


class AxiPort(Configured[AxiPortConfig]):
    """AXI4 master that takes its clients' requests round-robin, separately for reads and writes.

    Parameters
    ----------
    config : :class:`AxiPortConfig`

    Members
    -------
    read_0, … : :py:`In(axi.read_client)`
    write_0, … : :py:`In(axi.write_client)`
        The clients.  The ``address`` of a request is a multiple of the word; ``bytes`` is 1 to
        4096.
    axi : :py:`Out(axi.signature)`
        Addresses are the sum of ``base`` and that of the client; the identifier is the number of
        the client.
    base : :py:`In(address_bits)`
        Byte address, a multiple of the word; it must not change while clients make requests.
    stop : :py:`In(1)`
        Another port had an error: behave as after an own error.  It must stay 1 until reset.
    error : :py:`Out(3)`
        Bit 0: a response was SLVERR (or EXOKAY, although no access was exclusive); bit 1: a
        response was DECERR; bit 2: nothing moved for ``timeout`` cycles in a direction with bursts
        in flight.  Bits stay set until reset.
    idle : :py:`Out(1)`
        No burst is in flight.

    Errors
    ------
    From the first bad response on, no more words reach a client (not even the word of that
    response), no request is reported as done, and no burst is issued.  An address that is offered
    stays until it is taken, bursts that were issued are completed with words that write nothing,
    and responses are dropped.  When ``idle`` is 1, a reset returns the port to its initial state.

    Timing
    ------
    A request takes three cycles to its address on the bus, if no other request is in the way.
    There are three cycles between requests, and two more for each further burst of a request, so
    bursts of four words or more follow each other without a gap.  The words of a write follow four
    or more cycles after its address.  There is one cycle from R to a client, and from B to
    ``done``.  All outputs are registers, or registers followed by a few gates; there is no
    combinational path through the port.
    """

    def elaborate(self, platform):
        m = Module()
        config, axi = self.config, self.axi
        failed, busy = Signal(), []
        m.d.comb += [failed.eq(self.error.any() | self.stop), axi.r.ready.eq(1), axi.b.ready.eq(1)]
        if config.readers:
            busy.append(self._read(m, failed))
        if config.writers:
            busy.append(self._write(m, failed))
        m.d.comb += self.idle.eq(~Cat(busy).any())
        return m

    def _issuer(self, m: Module, kind: str, ports: tuple[str, ...], failed: Value) -> BurstIssuer:
        config = self.config
        m.submodules[kind] = issuer = BurstIssuer(config.axi, len(ports), config.outstanding)
        m.d.comb += [issuer.base.eq(self.base), issuer.stop.eq(failed)]
        for k, port in enumerate(ports):
            wiring.connect(
                m, wiring.flipped(getattr(self, port).request), getattr(issuer, f"request_{k}")
            )
        return issuer

    def _watch(self, m: Module, kind: str, issuer: BurstIssuer, answer, moved: Value) -> Value:
        """Set the error bits of a direction.

        Returns
        -------
        whether there is an answer without an error
        """
        good = answer.p.resp == 0
        with m.If(answer.valid & ~good):
            with m.If(answer.p.resp == 3):
                m.d.sync += self.error[1].eq(1)
            with m.Else():
                m.d.sync += self.error[0].eq(1)
        still = Signal(range(self.config.timeout + 1), name=f"{kind}_still")
        m.d.sync += still.eq(still + 1)
        with m.If(moved | ~issuer.busy):
            m.d.sync += still.eq(0)
        with m.If(still == self.config.timeout):
            m.d.sync += [self.error[2].eq(1), still.eq(0)]
        return answer.valid & good

    def _read(self, m: Module, failed: Value) -> Value:
        ar, r = self.axi.ar, self.axi.r
        issuer = self._issuer(m, "reads", self.config.read_ports, failed)
        wiring.connect(m, issuer.a, wiring.flipped(ar))
        m.d.comb += issuer.complete.eq(r.valid & r.p.last)
        good = self._watch(m, "read", issuer, r, r.valid | (ar.valid & ar.ready))
        word = Signal(self.config.axi.data_bits, reset_less=True)
        m.d.sync += word.eq(r.p.data)
        for k, port in enumerate(self.config.read_ports):
            data = getattr(self, port).data
            m.d.comb += data.p.eq(word)
            m.d.sync += data.valid.eq(good & (r.p.id == k) & ~failed)
        return issuer.busy

    def _write(self, m: Module, failed: Value) -> Value:
        config = self.config
        aw, w, b = self.axi.aw, self.axi.w, self.axi.b
        issuer = self._issuer(m, "writes", config.write_ports, failed)
        m.submodules.writer = writer = BurstWriter(config.axi, config.writers, config.outstanding)
        wiring.connect(m, issuer.a, wiring.flipped(aw))
        wiring.connect(m, writer.w, wiring.flipped(w))
        m.d.comb += [
            issuer.complete.eq(b.valid), writer.issued.eq(issuer.issued),
            writer.burst.eq(issuer.burst), writer.stop.eq(failed),
        ]
        moved = b.valid | (aw.valid & aw.ready) | (w.valid & w.ready)
        good = self._watch(m, "write", issuer, b, moved)
        index = max(levels(config.outstanding), 1)
        for k, port in enumerate(config.write_ports):
            client = getattr(self, port)
            wiring.connect(m, wiring.flipped(client.data), getattr(writer, f"data_{k}"))
            # Which of the client's bursts in flight end a request, newest first.
            final = Signal(config.outstanding, name=f"final_{k}")
            oldest = Signal(signed(index + 1), name=f"oldest_{k}", init=-1)
            issued = issuer.issued & (issuer.burst.client == k)
            answered = b.valid & (b.p.id == k)
            with m.If(issued):
                m.d.sync += final.eq(Cat(issuer.burst.final, final))
            m.d.sync += [
                oldest.eq(oldest + issued - answered),
                client.done.eq(
                    good & answered & ~failed & final.bit_select(oldest[:index], 1)
                ),
            ]
        return issuer.busy
