"""Frames as AXI4-Stream: widths, ends of frames, and whole frames through both ends."""

from __future__ import annotations

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from hypothesis import given
from hypothesis import strategies as st

from hwgen.shell.streams import FrameSinkConfig, FrameSourceConfig, stream_ports
from hwgen.sim.amaranth.streams import run_streams
from tests.profiles import examples
from tests.typed import ports


class There(wiring.Component):
    """A source and a sink, back to back: beats of the port go in and come out."""

    def __init__(self, source: FrameSourceConfig, sink: FrameSinkConfig) -> None:
        self.source, self.sink = source, sink
        super().__init__({"i": In(stream.Signature(source.guard.payload)),
                          "o": Out(stream.Signature(sink.payload))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.source = source = ports(self.source.create())
        m.submodules.sink = sink = ports(self.sink.create())
        outer = ports(self)
        wiring.connect(m, wiring.flipped(outer.i), source.i)
        wiring.connect(m, source.o, sink.i)
        wiring.connect(m, sink.o, wiring.flipped(outer.o))
        return m


@given(st.integers(1, 9), st.integers(1, 7), st.integers(1, 3), st.floats(0, 0.5),
       st.integers(0, 999))
@examples(40)
def test_frames_there_and_back(
    beat_bytes: int, beats: int, frames: int, stall: float, seed: int
) -> None:
    source = FrameSourceConfig(beat_bytes=beat_bytes, beats=beats)
    sink = FrameSinkConfig(beat_bytes=beat_bytes, beats=beats)
    width, size = source.port_bytes, source.frame_bytes
    assert width >= beat_bytes
    assert width & (width - 1) == 0
    random = np.random.default_rng(seed)
    data = [random.bytes(size) for _ in range(frames)]
    going, coming = [], []
    for frame in data:
        for k in range(source.port_beats):
            last = k == source.port_beats - 1
            part = frame[k * width : (k + 1) * width]
            value = int.from_bytes(part, "little")
            keep = (1 << len(part)) - 1
            going.append(value | last << 8 * width)
            coming.append(value | keep << 8 * width | last << 9 * width)
    beats_seen = run_streams(There(source, sink), [("i", going)], [("o", len(coming))],
                             stall=stall, seed=seed)
    assert beats_seen.outputs["o"] == coming


def test_pins_have_widths_of_a_power_of_two() -> None:
    into = stream_ports("s_axis", FrameSourceConfig(beat_bytes=3, beats=5))
    out = stream_ports("m_axis_y", FrameSinkConfig(beat_bytes=5, beats=2))
    assert into["s_axis_tdata"].shape == 32
    assert into["s_axis_tlast"].flow == In
    assert out["m_axis_y_tdata"].shape == 64
    assert out["m_axis_y_tkeep"].shape == 8
