"""The top of an accelerator: a pipeline behind AXI4-Stream and AXI4 ports, and its beats as bytes.

An element of a beat takes whole bytes, sign-extended.  Of a beat, the lanes of the first pixel come
lowest, then those of the next one: whole pixels a beat are a frame as it lies in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.netlist import Netlist
from hwgen.offchip.bus import axi_ports, connect_axi
from hwgen.parts.stream import StreamType
from hwgen.parts.weights import LOAD_BITS
from hwgen.pipeline import Pipeline

__all__ = [
    "WEIGHTS", "AxiTop", "beat_bytes", "from_axi", "input_ports", "memory_port", "output_ports",
    "to_axi",
]

WEIGHTS = "s_axis_weights"
"""Port for weights that are loaded."""


def input_ports(streams: Mapping[str, StreamType]) -> dict[str, StreamType]:
    """AXI4-Stream ports of the inputs: ``s_axis``, or ``s_axis_NAME`` if there are several."""
    return {"s_axis" if len(streams) == 1 else f"s_axis_{name}": stream
            for name, stream in streams.items()}


def output_ports(streams: Mapping[str, StreamType]) -> dict[str, StreamType]:
    """AXI4-Stream ports of the outputs: ``m_axis_NAME``."""
    return {f"m_axis_{name}": stream for name, stream in streams.items()}


def memory_port(number: int) -> str:
    """What the pins of an AXI4 port begin with: ``m_axi_0``, ``m_axi_1``, …"""
    return f"m_axi_{number}"


def _element_bytes(stream: StreamType) -> int:
    return -(-stream.tensor.bits // 8)


def beat_bytes(stream: StreamType) -> int:
    """Bytes of a beat on its AXI4-Stream port."""
    return _element_bytes(stream) * stream.elements


def to_axi(stream: StreamType, frames: np.ndarray) -> bytes:
    """Frames ``(frames, *shape)`` as the bytes of all beats, one after the other."""
    split = np.asarray(frames).reshape(-1, stream.pixels, stream.beats_per_site, stream.lanes)
    return split.swapaxes(1, 2).astype(f"<i{_element_bytes(stream)}").tobytes()


def from_axi(stream: StreamType, raw: bytes) -> np.ndarray:
    """Inverse of :func:`to_axi`."""
    flat = np.frombuffer(raw, f"<i{_element_bytes(stream)}")
    split = flat.reshape(-1, stream.beats_per_site, stream.pixels, stream.lanes)
    frames = split.swapaxes(1, 2).reshape(-1, *stream.tensor.shape)
    return frames.astype(stream.tensor.quantisation.dtype)


def _elements(stream: StreamType) -> Iterator[tuple[int, int]]:
    """For each element of a payload, its index there and its place in a beat of the port."""
    for lane in range(stream.lanes):
        for pixel in range(stream.pixels):
            yield lane * stream.pixels + pixel, pixel * stream.lanes + lane


class AxiTop(wiring.Component):
    """A pipeline with the ports of AXI4-Stream and AXI4.

    Parameters
    ----------
    netlist : :class:`hwgen.netlist.Netlist`

    Members
    -------
    aclk, aresetn : :py:`In(1)`
        Clock; reset, active low, synchronous.
    s_axis_tdata, s_axis_tvalid, s_axis_tready : the input (``s_axis_NAME_…`` if several)
    m_axis_NAME_tdata, _tvalid, _tready, _tlast : one set for each output
        ``tlast`` marks the last beat of a frame.
    s_axis_weights_tdata, _tvalid, _tready : if weights are loaded
        After reset, the words of ``weights.bin``, 9 bytes each.
    m_axi_0_awaddr, … : if there is off-chip memory, the pins of each AXI4 port
    memory_base, memory_stop, memory_error, memory_idle, memory_ready, memory_waits : see
        :class:`Pipeline`
        ``memory.bin`` is in the memory, from ``memory_base`` on, before reset ends.

    Timing
    ------
    No registers: beats take as long as in the :class:`Pipeline`.
    """

    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        self.inputs = input_ports(netlist.inputs)
        self.outputs = output_ports(netlist.outputs)
        members: dict[str, wiring.Member] = {"aclk": In(1), "aresetn": In(1)}
        for name, stream in self.inputs.items():
            members |= {f"{name}_tdata": In(8 * beat_bytes(stream)),
                        f"{name}_tvalid": In(1), f"{name}_tready": Out(1)}
        for name, stream in self.outputs.items():
            members |= {f"{name}_tdata": Out(8 * beat_bytes(stream)),
                        f"{name}_tvalid": Out(1), f"{name}_tready": In(1), f"{name}_tlast": Out(1)}
        if netlist.loading:
            members |= {f"{WEIGHTS}_tdata": In(LOAD_BITS), f"{WEIGHTS}_tvalid": In(1),
                        f"{WEIGHTS}_tready": Out(1)}
        if netlist.offchip:
            axi = netlist.offchip.axi
            for k in range(netlist.offchip.ports):
                members |= axi_ports(axi, memory_port(k))
            members |= {"memory_base": In(axi.address_bits), "memory_stop": In(1),
                        "memory_error": Out(3), "memory_idle": Out(1),
                        "memory_ready": Out(1), "memory_waits": Out(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        # Members made from a signature, which no type checker sees.
        outer: Any = self
        m.domains.sync = ClockDomain()
        m.d.comb += [ClockSignal().eq(outer.aclk), ResetSignal().eq(~outer.aresetn)]
        pipeline: Any = Pipeline(self.netlist)
        m.submodules.pipeline = pipeline
        for port, (name, stream) in zip(pipeline.input_ports, self.inputs.items(), strict=True):
            self._take(m, getattr(pipeline, port), name, stream)
        if self.netlist.loading:
            m.d.comb += [
                pipeline.load.p.eq(getattr(self, f"{WEIGHTS}_tdata")),
                pipeline.load.valid.eq(getattr(self, f"{WEIGHTS}_tvalid")),
                getattr(self, f"{WEIGHTS}_tready").eq(1),
            ]
        if self.netlist.offchip:
            for k, port in enumerate(pipeline.memory_ports):
                connect_axi(m, self.netlist.offchip.axi, port, self, memory_port(k))
            m.d.comb += [
                pipeline.memory_base.eq(outer.memory_base),
                pipeline.memory_stop.eq(outer.memory_stop),
                outer.memory_error.eq(pipeline.memory_error),
                outer.memory_idle.eq(pipeline.memory_idle),
                outer.memory_ready.eq(pipeline.memory_ready),
                outer.memory_waits.eq(pipeline.memory_waits),
            ]
        for port, (name, stream) in zip(pipeline.output_ports, self.outputs.items(), strict=True):
            self._give(m, getattr(pipeline, port), name, stream)
        return m

    def _take(self, m: Module, inner, name: str, stream: StreamType) -> None:
        """Wire an input of the pipeline to its port."""
        size = 8 * _element_bytes(stream)
        data = getattr(self, f"{name}_tdata")
        m.d.comb += [
            inner.valid.eq(getattr(self, f"{name}_tvalid")),
            getattr(self, f"{name}_tready").eq(inner.ready),
            *(inner.p[k].eq(data[n * size : n * size + stream.tensor.bits].as_signed())
              for k, n in _elements(stream)),
        ]

    def _give(self, m: Module, inner, name: str, stream: StreamType) -> None:
        """Wire an output of the pipeline to its port, with the mark of a frame's last beat."""
        size = 8 * _element_bytes(stream)
        data = getattr(self, f"{name}_tdata")
        beat = Signal(range(stream.beats), name=f"{name}_beat")
        last = Signal(name=f"{name}_last", init=stream.beats == 1)
        m.d.comb += [
            getattr(self, f"{name}_tvalid").eq(inner.valid),
            getattr(self, f"{name}_tlast").eq(last),
            inner.ready.eq(getattr(self, f"{name}_tready")),
            *(data[n * size : (n + 1) * size].eq(inner.p[k]) for k, n in _elements(stream)),
        ]
        if stream.beats > 1:
            with m.If(inner.valid & inner.ready):
                m.d.sync += [beat.eq(beat + 1), last.eq(beat == stream.beats - 2)]
                with m.If(last):
                    m.d.sync += beat.eq(0)
