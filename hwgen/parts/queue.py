"""The queue at every block's output: a FIFO whose places are claimed before they are filled.

A block claims a place when it starts the work whose result will fill it.  Therefore its pipeline
never has to stop, and no enable fans out into the data path (credit-based flow control, as in
network routers; Dally and Towles, "Principles and Practices of Interconnection Networks", ch. 13).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from amaranth.hdl import Module, Mux, Shape, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import add_carry, wrapped_bits
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.parts.memory import BufferMemory, buffer_area, buffer_registers

__all__ = ["QUEUE_LATENCY", "Queue", "Skid", "queue_depth"]

QUEUE_LATENCY = 3
"""Cycles from a push until the beat is visible at the output."""


def queue_depth(claims: np.ndarray, pops: np.ndarray) -> int:
    """Least depth with which no claim has to wait.

    Parameters
    ----------
    claims : cycle in which each beat's place is claimed, in order
    pops : cycle in which the consumer takes each beat
    """
    def enough(depth: int, step: int = 1) -> bool:
        """Whether every claim comes after its place was freed."""
        return bool((pops[: max(len(claims) - depth, 0) : step] < claims[depth::step]).all())

    # Some of the claims give a first estimate, which is rarely much too small.
    depth = 1
    while not enough(depth, 64):
        depth *= 2
    depth = _least(depth // 2, depth, lambda middle: enough(middle, 64))
    low, step = depth - 1, 1
    while not enough(depth):
        low, depth, step = depth, depth + step, 2 * step
    return _least(low, depth, enough)


def _least(low: int, high: int, good: Callable[[int], bool]) -> int:
    """The least number for which ``good`` holds, by bisection: false for ``low``, true for
    ``high``."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


class Queue(wiring.Component):
    """FIFO whose places are claimed ahead.

    Parameters
    ----------
    shape : shape-like
        Payload.
    depth : :class:`int`
        Number of places, 1 or more.
    claims : sequence of :class:`int`
        Numbers of places that may be claimed at once, each at most ``depth``.
    style : :class:`str`
        Style of the memory; see :class:`BufferMemory`.
    cancels : :class:`bool`
        Whether claimed places may be given back empty.

    Members
    -------
    i : :py:`In(stream.Signature(shape, always_ready=True))`
        Beats that fill claimed places, no more than were claimed.
    cancel : :py:`In(1)`, if ``cancels``
        Give back a claimed place in this cycle.
    room : :py:`Out(len(claims))`
        Bit ``k``: ``claims[k]`` places are free; a register.
    reserve : :py:`In(len(claims))`
        Bit ``k``: claim ``claims[k]`` places in this cycle.  At most one bit may be set, and only
        if its bit of ``room`` is.
    o : :py:`Out(stream.Signature(shape))`

    Raises
    ------
    :exc:`HwgenError`
        If ``depth`` or ``claims`` is out of range.

    Timing
    ------
    A push is visible at ``o`` three cycles later; one beat per cycle.  A place that is popped is
    free in the next cycle; with ``cancels``, one that is popped or given back is free a cycle
    later than that.
    """

    def __init__(
        self, shape, depth: int, claims: tuple[int, ...] = (1,), style: str = "",
        cancels: bool = False,
    ) -> None:
        if depth < 1:
            raise HwgenError(f"Queue depth must be positive, not {depth!r}")
        if not all(1 <= claim <= depth for claim in claims):
            raise HwgenError(
                f"Queue claims must be between 1 and the depth {depth}, not {claims!r}"
            )
        self.shape = shape
        self.depth = depth
        self.claims = claims
        self.style = style
        self.cancels = cancels
        super().__init__({
            **({"cancel": In(1)} if cancels else {}),
            "i": In(stream.Signature(shape, always_ready=True)),
            "room": Out(len(claims)),
            "reserve": In(len(claims)),
            "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = BufferMemory(
            Shape.cast(self.shape).width, self.depth, self.style
        )
        stored = Signal(range(self.depth + 1))
        pop, fetch = Signal(), Signal()
        fetched, move = Signal(), Signal()
        m.d.comb += [
            pop.eq(self.o.valid & self.o.ready),
            move.eq(~self.o.valid | self.o.ready),
            fetch.eq((stored != 0) & (~fetched | move)),
            memory.write_en.eq(self.i.valid),
            memory.write_data.eq(self.i.p),
            memory.read_en.eq(fetch),
            memory.load.eq(move),
            self.o.p.eq(memory.read_data),
        ]
        # For each claim, the places that would be left; the sign says whether there is room.
        taken, back = Signal(signed(max(self.depth.bit_length(), 2 * self.cancels) + 1)), 0
        if self.cancels:
            back = Signal(2)
            m.d.sync += back.eq(pop + self.cancel)
            m.d.comb += taken.eq(back)
        for k, claim in enumerate(self.claims):
            with m.If(self.reserve[k]):
                m.d.comb += taken.eq(back - claim)
            left = Signal(taken.shape(), name=f"left_{k}", init=self.depth - claim)
            m.d.comb += self.room[k].eq(~left[-1])
            m.d.sync += left.eq(left + taken if self.cancels else add_carry(left, taken, pop))
        m.d.sync += [
            stored.eq(stored + self.i.valid - fetch),
            fetched.eq(fetch | (fetched & ~move)),
        ]
        with m.If(move):
            m.d.sync += self.o.valid.eq(fetched)
        for name, step in (("write", self.i.valid), ("read", fetch)):
            address = Signal.like(memory.read_addr, name=f"{name}_addr")
            m.d.comb += getattr(memory, f"{name}_addr").eq(address)
            with m.If(step):
                m.d.sync += address.eq(Mux(address == self.depth - 1, 0, address + 1))
        return m


class Skid(wiring.Component):
    """Skid buffer: two registers between streams, so no combinational path leads through it.

    Parameters
    ----------
    shape : shape-like
        Payload.

    Members
    -------
    i : :py:`In(stream.Signature(shape))`
    o : :py:`Out(stream.Signature(shape))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 1; one beat per cycle.
    """

    def __init__(self, shape) -> None:
        self.shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        out = Signal(Shape.cast(self.shape), reset_less=True)
        spare = Signal(Shape.cast(self.shape), reset_less=True)
        full = Signal()
        m.d.comb += [self.i.ready.eq(~full), self.o.p.eq(out)]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(self.i.valid | full), full.eq(0),
                out.eq(Mux(full, spare, self.i.p)),
            ]
        with m.Elif(self.i.valid & ~full):
            m.d.sync += [full.eq(1), spare.eq(self.i.p)]
        return m


def queue_area(width: int, depth: int, claims: int = 1, style: str = "") -> Area:
    """Area of a :class:`Queue` with ``claims`` numbers of places to claim."""
    bits = depth.bit_length()
    return buffer_area(width, depth, style) + logic(
        "queue", one=1, bits=bits, address=2 * (max(depth, 2) - 1).bit_length(),
        lut_wrap=2 * wrapped_bits(depth), lut_five=min(bits, 5), claim=claims * (bits + 1),
        lut4_claims=claims,
        ff_register=buffer_registers(width, depth, style),
    )


def skid_area(width: int) -> Area:
    """Area of a :class:`Skid`."""
    return logic("skid", one=1, width=width)
