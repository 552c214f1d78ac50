"""Which words of memory a transfer of frames asks for: one run, or runs at even distances."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.offchip.bus import REQUEST_LIMIT, AxiConfig

__all__ = ["COUNT_BITS", "STRIDE_BITS", "WORD_BITS", "Runs", "claims"]

COUNT_BITS, STRIDE_BITS, WORD_BITS = 32, 32, 40
"""Bits of numbers of frames, of the bytes between them, and of numbers of words."""
CHUNK = 64
"""Most words of a request."""


def claims(axi: AxiConfig) -> tuple[int, ...]:
    """Words that a request may be of, largest first; any number of words is a sum of these."""
    return min(CHUNK, REQUEST_LIMIT // axi.word_bytes), 8, 1


class Runs(wiring.Component):
    """Makes the requests of a transfer, each as soon as there is room for it.

    Parameters
    ----------
    axi : :class:`AxiConfig`
    claims : sequence of :class:`int`
        Words that a request may be of, largest first, 1 last.

    Members
    -------
    start : :py:`In(1)`
        Begin, with what the next four say.
    address : :py:`In(address_bits)`
        Of the first run, a multiple of the bus word.
    words, runs, stride : :py:`In(...)`
        Bus words of a run, runs, and bytes from one to the next.
    room : :py:`In(len(claims))`
        Bit ``k``: a request of ``claims[k]`` words may be made.
    reserve : :py:`Out(len(claims))`
        Bit ``k``, for a cycle: one of ``claims[k]`` words is made.
    request : :py:`Out(stream.Signature(request_layout))`
    busy : :py:`Out(1)`

    Timing
    ------
    Four cycles a request, if there is room and the request is taken at once.
    """

    def __init__(self, axi: AxiConfig, claims: Sequence[int]) -> None:
        self.axi, self.claims = axi, tuple(claims)
        super().__init__({
            "start": In(1), "address": In(axi.address_bits), "words": In(WORD_BITS),
            "runs": In(COUNT_BITS), "stride": In(STRIDE_BITS), "room": In(len(self.claims)),
            "reserve": Out(len(self.claims)), "request": Out(stream.Signature(axi.request_layout)),
            "busy": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        axi, count = self.axi, len(self.claims)
        begin, at = Signal(axi.address_bits), Signal(axi.address_bits)
        left, more = Signal(WORD_BITS), Signal(COUNT_BITS)
        fits, choice = Signal(count), Signal(count)
        m.d.comb += self.request.p.address.eq(at)
        for k, words in enumerate(self.claims):
            with m.If(choice[k]):
                m.d.comb += self.request.p.bytes.eq(words * axi.word_bytes)
        with m.FSM() as fsm:
            with m.State("IDLE"), m.If(self.start & (self.runs != 0)):
                m.d.sync += [begin.eq(self.address), at.eq(self.address), left.eq(self.words),
                             more.eq(self.runs)]
                m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += [fits[k].eq(left >= words) for k, words in enumerate(self.claims)]
                m.next = "CHOOSE"
            with m.State("CHOOSE"):
                first = [fits[k] & ~fits[:k].any() if k else fits[0] for k in range(count)]
                m.d.sync += choice.eq(Cat(first))
                with m.If(fits.any()):
                    m.next = "ASK"
                with m.Else():
                    m.d.sync += more.eq(more - 1)
                    m.next = "NEXT"
            with m.State("ASK"), m.If((choice & self.room).any()):
                m.d.comb += self.reserve.eq(choice)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.d.sync += at.eq(at + self.request.p.bytes)
                    for k, words in enumerate(self.claims):
                        with m.If(choice[k]):
                            m.d.sync += left.eq(left - words)
                    m.next = "LOOK"
            with m.State("NEXT"):
                m.d.sync += [begin.eq(begin + self.stride), at.eq(begin + self.stride),
                             left.eq(self.words)]
                m.next = "IDLE"
                with m.If(more != 0):
                    m.next = "LOOK"
        m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m
