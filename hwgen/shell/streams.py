"""Frames that come and go as AXI4-Stream, as a DMA engine or a camera has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter, levels
from hwgen.device.cost import Area, Part, logic
from hwgen.device.platform import add_shared
from hwgen.parts.component import Configured
from hwgen.shell.guard import FrameGuardConfig
from hwgen.shell.repack import RepackConfig

__all__ = ["FrameSink", "FrameSinkConfig", "FrameSource", "FrameSourceConfig", "stream_ports"]


@dataclass(frozen=True, kw_only=True)
class StreamConfig(Part):
    """Frames on an AXI4-Stream port, whose width is a power of two.

    Parameters
    ----------
    beat_bytes : :class:`int`
        Bytes of a beat of the accelerator.
    beats : :class:`int`
        Beats of a frame of the accelerator.
    """

    beat_bytes: int
    beats: int

    @property
    def port_bytes(self) -> int:
        """Bytes of a beat of the port."""
        return 1 << (self.beat_bytes - 1).bit_length()

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame."""
        return self.beats * self.beat_bytes

    @property
    def port_beats(self) -> int:
        """Beats of a frame at the port."""
        return -(-self.frame_bytes // self.port_bytes)

    @property
    def keep(self) -> int:
        """Which bytes of the last beat of a frame belong to it."""
        return (1 << (self.frame_bytes - (self.port_beats - 1) * self.port_bytes)) - 1


@dataclass(frozen=True, kw_only=True)
class FrameSourceConfig(StreamConfig):
    """Frames from a stream; see :class:`StreamConfig`."""

    @property
    def guard(self) -> FrameGuardConfig:
        """What makes whole frames."""
        return FrameGuardConfig(beat_bytes=self.port_bytes, beats=self.port_beats)

    @property
    def repack(self) -> RepackConfig:
        """From beats of the port to those of the accelerator."""
        return RepackConfig(in_bytes=self.port_bytes, out_bytes=self.beat_bytes,
                            frame_bytes=self.frame_bytes)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            "i": In(stream.Signature(self.guard.payload)),
            "o": Out(stream.Signature(8 * self.beat_bytes)), "early": Out(1), "late": Out(1),
        })

    def area(self) -> Area:
        """What it takes."""
        return self.guard.area() + self.repack.area()

    def create(self) -> FrameSource:
        """The hardware."""
        return FrameSource(self)


@dataclass(frozen=True, kw_only=True)
class FrameSinkConfig(StreamConfig):
    """Frames to a stream; see :class:`StreamConfig`."""

    @property
    def repack(self) -> RepackConfig:
        """From beats of the accelerator to those of the port."""
        return RepackConfig(in_bytes=self.beat_bytes, out_bytes=self.port_bytes,
                            frame_bytes=self.frame_bytes)

    @property
    def payload(self) -> StructLayout:
        """Shape of a beat at the output."""
        return StructLayout({"data": 8 * self.port_bytes, "keep": self.port_bytes, "last": 1})

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            "i": In(stream.Signature(8 * self.beat_bytes)),
            "o": Out(stream.Signature(self.payload)), "ended": Out(1),
        })

    def area(self) -> Area:
        """What it takes."""
        return self.repack.area() + logic("frame guard", one=1, counter=levels(self.port_beats))

    def create(self) -> FrameSink:
        """The hardware."""
        return FrameSink(self)


def stream_ports(name: str, config: StreamConfig) -> dict[str, wiring.Member]:
    """Members for the pins of a frame source or sink."""
    into, out = (In, Out) if isinstance(config, FrameSourceConfig) else (Out, In)
    members = {f"{name}_tdata": into(8 * config.port_bytes), f"{name}_tvalid": into(1),
               f"{name}_tready": out(1), f"{name}_tlast": into(1)}
    return members if into is In else {**members, f"{name}_tkeep": Out(config.port_bytes)}


class FrameSource(Configured[FrameSourceConfig]):
    """Whole frames of the accelerator from frames at the port.

    Parameters
    ----------
    config : :class:`FrameSourceConfig`

    Members
    -------
    i, early, late : see :class:`hwgen.shell.guard.FrameGuard`
    o : :py:`Out(stream.Signature(8 * beat_bytes))`
    """

    def elaborate(self, platform):
        m = Module()
        guard: Any = add_shared(m, "guard", self.config.guard, platform)
        repack: Any = add_shared(m, "repack", self.config.repack, platform)
        wiring.connect(m, wiring.flipped(self.i), guard.i)
        wiring.connect(m, guard.o, repack.i)
        wiring.connect(m, repack.o, wiring.flipped(self.o))
        m.d.comb += [self.early.eq(guard.early), self.late.eq(guard.late)]
        return m


class FrameSink(Configured[FrameSinkConfig]):
    """Frames at the port from those of the accelerator.

    Parameters
    ----------
    config : :class:`FrameSinkConfig`

    Members
    -------
    i : :py:`In(stream.Signature(8 * beat_bytes))`
    o : :py:`Out(stream.Signature(payload))`
        ``last`` marks the end of a frame; ``keep`` the bytes that belong to it.
    ended : :py:`Out(1)`
        For a cycle: a frame was taken whole.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        repack: Any = add_shared(m, "repack", config.repack, platform)
        wiring.connect(m, wiring.flipped(self.i), repack.i)
        beat, last = counter(config.port_beats, name="beat"), Signal(init=config.port_beats == 1)
        m.d.comb += [
            self.o.p.data.eq(repack.o.p), self.o.p.last.eq(last),
            self.o.p.keep.eq(Mux(last, config.keep, (1 << config.port_bytes) - 1)),
            self.o.valid.eq(repack.o.valid), repack.o.ready.eq(self.o.ready),
        ]
        moved = self.o.valid & self.o.ready
        m.d.sync += self.ended.eq(moved & last)
        with m.If(moved):
            m.d.sync += [
                beat.eq(Mux(last, 0, beat + 1)),
                last.eq(Mux(last, config.port_beats == 1, beat == config.port_beats - 2)),
            ]
        return m
