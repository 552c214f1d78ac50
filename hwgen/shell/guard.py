"""Frames whose ends somebody else marks: a lost or an extra beat shifts nothing after it."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter, levels
from hwgen.device.cost import Area, Part, logic
from hwgen.errors import HwgenError
from hwgen.parts.component import Configured
from hwgen.parts.queue import Skid, skid_area

__all__ = ["FrameGuard", "FrameGuardConfig"]


@dataclass(frozen=True, kw_only=True)
class FrameGuardConfig(Part):
    """A stream of frames of so many beats.

    Parameters
    ----------
    beat_bytes : :class:`int`
        Bytes of a beat.
    beats : :class:`int`
        Beats of a frame.

    Raises
    ------
    :exc:`HwgenError`
        If a number is not positive.
    """

    beat_bytes: int
    beats: int

    def __post_init__(self) -> None:
        for name in ("beat_bytes", "beats"):
            if getattr(self, name) < 1:
                raise HwgenError(f"{name} must be positive, not {getattr(self, name)!r}")

    @property
    def payload(self) -> StructLayout:
        """Shape of a beat at the input: its bytes, and whether it ends a frame."""
        return StructLayout({"data": 8 * self.beat_bytes, "last": 1})

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            "i": In(stream.Signature(self.payload)),
            "o": Out(stream.Signature(8 * self.beat_bytes)),
            "early": Out(1), "late": Out(1),
        })

    def area(self) -> Area:
        """What it takes."""
        return skid_area(8 * self.beat_bytes + 1) + logic(
            "frame guard", one=1, counter=levels(self.beats), lut_choice=8 * self.beat_bytes)

    def create(self) -> FrameGuard:
        """The hardware."""
        return FrameGuard(self)


class FrameGuard(Configured[FrameGuardConfig]):
    """Gives whole frames, whatever comes.

    A frame that ends too early is filled up with zeros, and one that goes on too long is cut off:
    what follows it is dropped up to its end.  So each end at the input is one at the output, and
    the next frame is right.

    Parameters
    ----------
    config : :class:`FrameGuardConfig`

    Members
    -------
    i : :py:`In(stream.Signature(payload))`
    o : :py:`Out(stream.Signature(8 * beat_bytes))`
    early, late : :py:`Out(1)`
        A frame ended too early, or too late; they stay 1 until reset.

    Timing
    ------
    A beat accepted in cycle t is visible in t + 1; one beat a cycle.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.skid = skid = Skid(config.payload)
        wiring.connect(m, wiring.flipped(self.i), skid.i)
        beat = counter(config.beats, name="beat")
        final = Signal(init=config.beats == 1)
        filling, dropping = Signal(), Signal()
        take = Signal()
        m.d.comb += [
            self.o.valid.eq(filling | (skid.o.valid & ~dropping)),
            self.o.p.eq(Mux(filling, 0, skid.o.p.data)),
            skid.o.ready.eq(Mux(dropping, 1, self.o.ready & ~filling)),
            take.eq(skid.o.valid & skid.o.ready),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [
                beat.eq(Mux(final, 0, beat + 1)),
                final.eq(Mux(final, config.beats == 1, beat == config.beats - 2)),
            ]
            with m.If(final):
                m.d.sync += filling.eq(0)
        with m.If(take & ~dropping):
            with m.If(skid.o.p.last & ~final):
                m.d.sync += [self.early.eq(1), filling.eq(1)]
            with m.Elif(~skid.o.p.last & final):
                m.d.sync += [self.late.eq(1), dropping.eq(1)]
        with m.If(take & dropping & skid.o.p.last):
            m.d.sync += dropping.eq(0)
        return m
