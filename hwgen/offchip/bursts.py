"""Bursts of an AXI4 master: their addresses, in either direction, and the words of writes.

These are parts of :class:`hwgen.offchip.port.AxiPort`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter
from hwgen.parts.queue import Queue, Skid

if TYPE_CHECKING:
    from hwgen.offchip.bus import AxiConfig

__all__ = ["BurstIssuer", "BurstWriter", "burst_layout"]


def burst_layout(axi: AxiConfig, clients: int) -> StructLayout:
    """What is kept of an issued burst.

    ``len`` is its number of words minus one, ``tail`` the number of bytes in the last word of its
    request minus one, and ``final`` whether it is the last burst of its request.
    """
    return StructLayout({
        "client": range(max(clients, 2)), "len": 8, "tail": axi.word_shift, "final": 1,
    })


class BurstIssuer(wiring.Component):
    """Takes requests of clients, round-robin, and issues their bursts in one direction.

    Parameters
    ----------
    axi : :class:`hwgen.offchip.bus.AxiConfig`
    clients : :class:`int`
    outstanding : :class:`int`
        Most bursts in flight.

    Members
    -------
    request_0, … : In
        Requests of the clients.
    base : :py:`In(address_bits)`
        Byte address that is added to those of the clients.
    stop : :py:`In(1)`
        Issue no more bursts.
    complete : :py:`In(1)`
        A burst has been completed.
    a : Out
        AW or AR.
    issued, burst : Out
        Whether a burst is issued in this cycle, and what is kept of it.
    busy : :py:`Out(1)`
        Bursts are in flight.
    """

    def __init__(self, axi: AxiConfig, clients: int, outstanding: int) -> None:
        self.axi = axi
        self.clients = clients
        self.outstanding = outstanding
        super().__init__({
            **{f"request_{k}": In(stream.Signature(axi.request_layout)) for k in range(clients)},
            "base": In(axi.address_bits), "stop": In(1), "complete": In(1),
            "a": Out(stream.Signature(axi.address_layout)),
            "issued": Out(1), "burst": Out(burst_layout(axi, clients)), "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        axi, shift, low = self.axi, self.axi.word_shift, self.axi.burst_bits
        requests = [getattr(self, f"request_{k}") for k in range(self.clients)]

        # The request that is being issued: the first word of its next burst, the number of words
        # left minus one, and the number of bytes in the last word minus one.
        held = Signal()
        word = Signal(axi.address_bits - shift)
        left = Signal(12 - shift)
        tail = Signal(shift)
        client = counter(self.clients)

        # Round-robin: the next client after the last one, or the first if none after it asks.
        grant, after = Signal(self.clients), Signal(self.clients)
        asks = Cat(request.valid for request in requests)
        chosen = Signal(self.clients)
        m.d.comb += chosen.eq(Mux((asks & after).any(), _first(asks & after), _first(asks)))
        m.d.sync += grant.eq(0)
        with m.If(~held & ~grant.any()):
            m.d.sync += grant.eq(chosen)
            with m.If(asks.any()):
                m.d.sync += after.eq(~(chosen | (chosen - 1)))
        for k, request in enumerate(requests):
            m.d.comb += request.ready.eq(grant[k])
        asked = Signal(axi.request_layout)
        m.d.comb += asked.eq(_or_all(
            Value.cast(request.p) & grant[k].replicate(len(Value.cast(request.p)))
            for k, request in enumerate(requests)
        ))
        size = Signal(12)
        m.d.comb += size.eq(asked.bytes - 1)
        with m.If(grant.any()):
            m.d.sync += [
                held.eq(1), word.eq(self.base[shift:] + asked.address[shift:]),
                left.eq(size[shift:]), tail.eq(size[:shift]),
                client.eq(_or_all(Mux(grant[k], k, 0) for k in range(self.clients))),
            ]

        # A burst ends with the request, or at the next boundary.  The number of words up to the
        # boundary, minus one, is the inverse of the word's offset in its block.
        flight = Signal(range(self.outstanding + 1))
        before = Signal(low)
        m.d.comb += [
            before.eq(~word[:low]),
            self.burst.client.eq(client), self.burst.tail.eq(tail),
            self.burst.final.eq(left <= before),
            self.burst.len.eq(Mux(self.burst.final, left, before)),
            self.issued.eq(
                held & ~self.a.valid & (flight != self.outstanding) & ~self.stop
            ),
            self.busy.eq(flight != 0),
        ]
        m.d.sync += flight.eq(flight + self.issued - self.complete)
        with m.If(self.issued):
            m.d.sync += [
                self.a.valid.eq(1), self.a.p.addr.eq(word << shift), self.a.p.id.eq(client),
                self.a.p.len.eq(self.burst.len), held.eq(~self.burst.final),
                # The first word after the boundary.
                word.eq((word | ((1 << low) - 1)) + 1), left.eq(left - before - 1),
            ]
        with m.Elif(self.a.ready):
            m.d.sync += self.a.valid.eq(0)
        return m


class BurstWriter(wiring.Component):
    """Sends the words of issued bursts, in the order of the bursts.

    Parameters
    ----------
    axi : :class:`hwgen.offchip.bus.AxiConfig`
    clients : :class:`int`
    outstanding : :class:`int`
        Most bursts in flight.

    Members
    -------
    data_0, … : In
        Words of the clients.
    issued, burst : In
        From the :class:`BurstIssuer`.
    stop : :py:`In(1)`
        Take no more words from clients, and complete bursts with words that write nothing.
    w : Out

    Timing
    ------
    Five cycles from the issue of a burst to its first word at ``w``; one word per cycle.
    """

    def __init__(self, axi: AxiConfig, clients: int, outstanding: int) -> None:
        self.axi = axi
        self.clients = clients
        self.outstanding = outstanding
        super().__init__({
            **{f"data_{k}": In(stream.Signature(axi.data_bits)) for k in range(clients)},
            "issued": In(1), "burst": In(burst_layout(axi, clients)), "stop": In(1),
            "w": Out(stream.Signature(axi.write_layout)),
        })

    def elaborate(self, platform):
        m = Module()
        axi = self.axi
        layout = self.burst.shape()
        # It always has room, because it is as deep as there can be bursts in flight.
        m.submodules.order = order = Queue(layout, self.outstanding)
        m.submodules.skid = skid = Skid(axi.write_layout)
        wiring.connect(m, skid.o, wiring.flipped(self.w))
        m.d.comb += [
            order.i.p.eq(self.burst), order.i.valid.eq(self.issued), order.reserve.eq(self.issued),
        ]
        active, last = Signal(), Signal()
        burst = Signal(layout)
        word, offered = Signal(axi.data_bits), Signal()
        with m.Switch(burst.client):
            for k in range(self.clients):
                data = getattr(self, f"data_{k}")
                with m.Case(k) if k < self.clients - 1 else m.Default():
                    m.d.comb += [
                        word.eq(data.p), offered.eq(data.valid),
                        data.ready.eq(active & skid.i.ready & ~self.stop),
                    ]
        partial = last & burst.final
        covered = Cat(
            C(1), *(~partial | (burst.tail >= k) for k in range(1, axi.word_bytes))
        )
        moved = skid.i.valid & skid.i.ready
        m.d.comb += [
            skid.i.valid.eq(active & (offered | self.stop)),
            skid.i.p.data.eq(word), skid.i.p.strb.eq(Mux(self.stop, 0, covered)),
            skid.i.p.last.eq(last), order.o.ready.eq(~active | (moved & last)),
        ]
        with m.If(order.o.ready):
            m.d.sync += [
                active.eq(order.o.valid), burst.eq(order.o.p), last.eq(order.o.p.len == 0)
            ]
        with m.Elif(moved):
            m.d.sync += [burst.len.eq(burst.len - 1), last.eq(burst.len == 1)]
        return m


def _first(bits: Value) -> Value:
    """The lowest bit that is set; all others are cleared."""
    return (bits & -bits)[: len(bits)]


def _or_all(values: Iterable[Value]) -> Value:
    """Bitwise or of the values."""
    return reduce(or_, values)
