"""Bytes in beats of one size as beats of another: bus words to beats of a frame, and back.

A frame begins with a beat on both sides.  Where its bytes do not fill the last beat, the rest of
that beat is padding: dropped at the input, zero at the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter
from hwgen.device.cost import Area, Part, logic
from hwgen.device.storage import choice_luts
from hwgen.errors import HwgenError
from hwgen.parts.component import Configured
from hwgen.parts.queue import Skid, skid_area

__all__ = ["Repack", "RepackConfig"]


@dataclass(frozen=True, kw_only=True)
class RepackConfig(Part):
    """Sizes of beats and frames, in bytes.

    Parameters
    ----------
    in_bytes, out_bytes : :class:`int`
        Bytes of a beat at the input, and at the output.
    frame_bytes : :class:`int`
        Bytes of a frame; both sides begin a new beat with each frame.

    Raises
    ------
    :exc:`HwgenError`
        If a size is not positive.
    """

    in_bytes: int
    out_bytes: int
    frame_bytes: int

    def __post_init__(self) -> None:
        for name in ("in_bytes", "out_bytes", "frame_bytes"):
            if getattr(self, name) < 1:
                raise HwgenError(f"{name} must be positive, not {getattr(self, name)!r}")

    @property
    def unit(self) -> int:
        """Bytes that move together."""
        return math.gcd(self.in_bytes, self.out_bytes)

    @property
    def in_beats(self) -> int:
        """Beats of a frame at the input."""
        return -(-self.frame_bytes // self.in_bytes)

    @property
    def out_beats(self) -> int:
        """Beats of a frame at the output."""
        return -(-self.frame_bytes // self.out_bytes)

    @property
    def taken(self) -> int:
        """Units of an input beat."""
        return self.in_bytes // self.unit

    @property
    def given(self) -> int:
        """Units of an output beat."""
        return self.out_bytes // self.unit

    @property
    def last_taken(self) -> int:
        """Units that the last input beat of a frame counts for, so that output beats fill up."""
        return self.out_beats * self.given - (self.in_beats - 1) * self.taken

    @property
    def places(self) -> int:
        """Units that are held at most."""
        return self.given - 1 + max(self.taken, self.last_taken)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            "i": In(stream.Signature(8 * self.in_bytes)),
            "o": Out(stream.Signature(8 * self.out_bytes)),
        })

    def area(self) -> Area:
        """What it takes: each unit comes from the input at one of several places, or moves up."""
        skid = skid_area(8 * self.out_bytes)
        if self.in_bytes == self.out_bytes:
            return skid
        width, places = 8 * self.unit, min(self.given, self.places)
        return skid + logic(
            "repack", one=1, counter=(self.in_beats - 1).bit_length(),
            lut_fill=self.places.bit_length(), lut_move=width * self.places,
            lut_choice=int(choice_luts(width * self.taken, places)),
            ff_register=width * self.places + 2 * self.places.bit_length(),
        )

    def create(self) -> Repack:
        """The hardware."""
        return Repack(self)


class Repack(Configured[RepackConfig]):
    """Turns beats of one size into beats of another.

    Parameters
    ----------
    config : :class:`RepackConfig`

    Members
    -------
    i : :py:`In(stream.Signature(8 * in_bytes))`
    o : :py:`Out(stream.Signature(8 * out_bytes))`

    Timing
    ------
    Whichever side has more beats moves one a cycle.
    """

    def elaborate(self, platform):
        m = Module()
        config, width = self.config, 8 * self.config.unit
        m.submodules.skid = skid = Skid(8 * config.out_bytes)
        wiring.connect(m, skid.o, wiring.flipped(self.o))
        if config.in_bytes == config.out_bytes:
            wiring.connect(m, wiring.flipped(self.i), skid.i)
            return m
        held = Signal(width * config.places, reset_less=True)
        # Units that are held, and how many would be left without those of an output beat.
        most = config.places + 1
        fill, rest = Signal(range(most)), Signal(range(most))
        few, last = Signal(init=1), Signal(init=config.in_beats == 1)
        enough, after_few = Signal(), Signal()
        index = counter(config.in_beats, name="index")
        give, take = Signal(), Signal()
        at, size, now = Signal(range(most)), Signal(range(most)), Signal(range(most))
        m.d.comb += [
            skid.i.p.eq(held[: 8 * config.out_bytes]), skid.i.valid.eq(enough),
            give.eq(enough & skid.i.ready),
            # There is room if what is left is less than an output beat.
            self.i.ready.eq(few | (give & after_few)),
            take.eq(self.i.valid & self.i.ready),
            at.eq(Mux(give, rest, fill)), size.eq(Mux(last, config.last_taken, config.taken)),
            now.eq(at + Mux(take, size, 0)),
        ]
        m.d.sync += [
            fill.eq(now), rest.eq(now - config.given), few.eq(now < config.given),
            enough.eq(now >= config.given), after_few.eq(now < 2 * config.given),
        ]
        moved = held >> 8 * config.out_bytes
        m.d.sync += held.eq(Mux(give, moved, held))
        with m.If(take):
            with m.Switch(at):
                for place in range(min(config.given, config.places)):
                    with m.Case(place):
                        m.d.sync += held[place * width :].eq(Cat(self.i.p, Const(0, 1)))
            if config.in_beats > 1:
                m.d.sync += [
                    index.eq(Mux(last, 0, index + 1)), last.eq(index == config.in_beats - 2)]
        return m
