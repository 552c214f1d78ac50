"""An accelerator with its shell: AXI4-Lite for control, AXI4 for frames, and an interrupt.

The shape is that of a kernel for XRT or PYNQ: software writes where frames are and where results
go, starts, and waits; see :mod:`hwgen.shell.registers`.  Where a DMA engine or a camera is there
already, frames may come and go as streams instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from amaranth.hdl import (
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
    DomainRenamer,
    Module,
    Mux,
    ResetSignal,
    Signal,
)
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter
from hwgen.device.cost import Area, Resources
from hwgen.device.platform import add_module, add_shared
from hwgen.errors import HwgenError
from hwgen.netlist import Netlist
from hwgen.offchip.bus import AxiConfig, axi_ports, connect_axi
from hwgen.offchip.port import AxiPortConfig
from hwgen.parts.weights import LOAD_BITS
from hwgen.shell.control import LITE_PINS, ControlConfig, lite_ports
from hwgen.shell.mover import FrameReaderConfig, FrameWriterConfig
from hwgen.shell.registers import Argument, arguments
from hwgen.shell.sequencer import Sequencer
from hwgen.shell.streams import FrameSinkConfig, FrameSourceConfig, stream_ports
from hwgen.top import WEIGHTS, AxiTop, beat_bytes, input_ports, memory_port, output_ports

__all__ = ["ACCELERATOR", "CONTROL_PORT", "FRAMES_PORT", "Shell", "ShellConfig", "room"]

CONTROL_PORT, FRAMES_PORT = "s_axi_control", "m_axi_frames"
ACCELERATOR = "accelerator"
"""The module with the pipeline: it has the ports of :class:`hwgen.top.AxiTop`."""
FRAMES = ("memory", "streams")
"""Where frames may be."""


@dataclass(frozen=True, kw_only=True)
class ShellConfig:
    """A netlist and what surrounds it.

    Parameters
    ----------
    netlist : :class:`Netlist`
    axi : :class:`AxiConfig`
        The port through which frames go.
    identification : :class:`int`
        64 bits by which software knows the design.
    frames : :class:`str`
        Where frames come from and go to: ``memory``, or ``streams``.
    address_bits : :class:`int`
        Bits of addresses at the pins, of which the highest are 0; 0: those of the ports.  XRT wants
        64 (UG1393, "Kernel Interface Requirements").

    Raises
    ------
    :exc:`HwgenError`
        If ``frames`` is neither.
    """

    netlist: Netlist
    axi: AxiConfig = field(default_factory=AxiConfig)
    identification: int = 0
    frames: str = "memory"
    address_bits: int = 0

    def __post_init__(self) -> None:
        if self.frames not in FRAMES:
            raise HwgenError(f"Frames must be in {' or '.join(FRAMES)}, not {self.frames!r}")

    @property
    def sources(self) -> dict[str, FrameSourceConfig]:
        """What takes the frames of each input from a stream."""
        return {} if self.frames == "memory" else {
            name: FrameSourceConfig(beat_bytes=beat_bytes(each), beats=each.beats)
            for name, each in self.netlist.inputs.items()}

    @property
    def sinks(self) -> dict[str, FrameSinkConfig]:
        """What gives the frames of each output to a stream."""
        return {} if self.frames == "memory" else {
            name: FrameSinkConfig(beat_bytes=beat_bytes(each), beats=each.beats)
            for name, each in self.netlist.outputs.items()}

    def pins(self) -> dict[str, wiring.Member]:
        """The pins of all AXI4 and AXI4-Stream ports."""
        netlist, ports = self.netlist, {}
        if self.port is not None:
            ports[FRAMES_PORT] = self.axi
        if netlist.offchip is not None:
            ports |= {memory_port(k): netlist.offchip.axi for k in range(netlist.offchip.ports)}
        found: dict[str, wiring.Member] = {}
        for name, axi in ports.items():
            bits = max(self.address_bits, axi.address_bits)
            found |= axi_ports(replace(axi, address_bits=bits), name)
        for port, each in zip(input_ports(netlist.inputs), self.sources.values(), strict=False):
            found |= stream_ports(port, each)
        for port, each in zip(output_ports(netlist.outputs), self.sinks.values(), strict=False):
            found |= stream_ports(port, each)
        return found

    @property
    def readers(self) -> dict[str, FrameReaderConfig]:
        """What reads the frames of each input, and the weights under an empty name."""
        found = {} if self.frames != "memory" else {name: FrameReaderConfig(
            axi=self.axi, beat_bytes=beat_bytes(each), frame_bytes=each.beats * beat_bytes(each))
            for name, each in self.netlist.inputs.items()}
        if self.netlist.loading:
            size = LOAD_BITS // 8
            found[""] = FrameReaderConfig(
                axi=self.axi, beat_bytes=size, frame_bytes=size * len(self.netlist.load_words()))
        return found

    @property
    def writers(self) -> dict[str, FrameWriterConfig]:
        """What writes the frames of each output."""
        return {} if self.frames != "memory" else {name: FrameWriterConfig(
            axi=self.axi, beat_bytes=beat_bytes(each), frame_bytes=each.beats * beat_bytes(each))
            for name, each in self.netlist.outputs.items()}

    @property
    def port(self) -> AxiPortConfig | None:
        """The port to frames and weights; None if there are none in memory."""
        readers, writers = len(self.readers), len(self.writers)
        return AxiPortConfig(axi=self.axi, readers=readers, writers=writers) if (
            readers + writers) else None

    @property
    def arguments(self) -> list[Argument]:
        """What a run is told."""
        return arguments([*filter(None, self.readers), *self.writers],
                         memory=self.netlist.offchip is not None,
                         weights=bool(self.netlist.loading))

    @property
    def control(self) -> ControlConfig:
        """The registers."""
        return ControlConfig(arguments=tuple(self.arguments), identification=self.identification)

    def area(self) -> Area:
        """What the shell takes, without the pipeline."""
        parts = [*self.readers.values(), *self.writers.values(), *self.sources.values(),
                 *self.sinks.values(), *filter(None, [self.port])]
        return sum((part.area() for part in parts), self.control.area())


def room(inputs: int, outputs: int, axi: AxiConfig, frames: str, family: str) -> Resources:
    """More than a shell takes, whatever the lanes of a design's ports are.

    Parameters
    ----------
    inputs, outputs : how many there are
    axi : :class:`AxiConfig`
        The port through which frames go.
    frames : ``memory``, or ``streams``
    family : of the device
    """
    ports = [f"port_{k}" for k in range(inputs + outputs)]
    control = ControlConfig(arguments=tuple(arguments(ports, memory=True, weights=True)),
                            identification=0)
    whole = control.area()
    # Beats that do not divide words take most; wider beats than words no memory can fill.
    beat = axi.word_bytes - 1
    if frames == "memory":
        sizes = {"axi": axi, "beat_bytes": beat, "frame_bytes": beat << 20}
        parts = [AxiPortConfig(axi=axi, readers=inputs + 1, writers=outputs),
                 *[FrameReaderConfig(**sizes)] * (inputs + 1),
                 *[FrameWriterConfig(**sizes)] * outputs]
    else:
        parts = [*[FrameSourceConfig(beat_bytes=beat, beats=1 << 20)] * inputs,
                 *[FrameSinkConfig(beat_bytes=beat, beats=1 << 20)] * outputs]
    return sum((part.area() for part in parts), whole).resources(family)


class Shell(wiring.Component):
    """A pipeline that software controls, and that fetches and stores its frames itself.

    Parameters
    ----------
    config : :class:`ShellConfig`

    Members
    -------
    aclk, aresetn : :py:`In(1)`
        Clock; reset, active low, synchronous; it goes into a register first.
    s_axi_control_awaddr, … : AXI4-Lite, 32 bits; see :class:`hwgen.shell.control.Control`
    m_axi_frames_awaddr, … : AXI4, to where frames and weights are, if any are in memory
    s_axis_tdata, _tvalid, _tready, _tlast : if frames are in streams, the input (``s_axis_NAME_…``
        if several); its width is a power of two, and ``tlast`` must mark the end of each frame
    m_axis_NAME_tdata, _tvalid, _tready, _tlast, _tkeep : likewise each output
    m_axi_0_awaddr, … : if there is off-chip memory, the pins of each AXI4 port
    interrupt : :py:`Out(1)`

    Runs
    ----
    A run takes ``frames`` frames of each input and writes as many of each output; it is done when
    all are in memory.  After an error nothing more is delivered; a soft reset, which lets what is
    under way at the memories come to its end, makes all as it was after reset but for the
    arguments.  Weights that are loaded are fetched before the first run after a reset.
    """

    def __init__(self, config: ShellConfig) -> None:
        self.config = config
        super().__init__({
            "aclk": In(1), "aresetn": In(1), "interrupt": Out(1), **lite_ports(CONTROL_PORT),
            **config.pins(),
        })

    def elaborate(self, platform):
        m = Module()
        # Members made from a signature, which no type checker sees.
        outer: Any = self
        config, netlist = self.config, self.config.netlist
        hard, clear = Signal(2, init=3), Signal(init=1)
        m.domains.start = ClockDomain(reset_less=True)
        m.domains.control = ClockDomain()
        m.domains.sync = ClockDomain()
        m.d.comb += [
            ClockSignal("start").eq(outer.aclk), ClockSignal("control").eq(outer.aclk),
            ClockSignal().eq(outer.aclk), ResetSignal("control").eq(hard[1]),
            ResetSignal().eq(clear),
        ]
        reset = Signal()
        m.d.start += [hard.eq(Cat(~outer.aresetn, hard[0])), clear.eq(hard[0] | reset)]

        control: Any = config.control.create()
        m.submodules.control = DomainRenamer("control")(control)
        for pin, (flow, _) in LITE_PINS.items():
            inside = getattr(control, f"lite_{pin}")
            outside = getattr(self, f"{CONTROL_PORT}_{pin}")
            m.d.comb += inside.eq(outside) if flow == In else outside.eq(inside)
        m.d.comb += outer.interrupt.eq(control.interrupt)

        accelerator: Any = add_module(m, ACCELERATOR, AxiTop(netlist), platform)
        stop, idle, port = Signal(), Const(1), None
        if config.port is not None:
            port = add_shared(m, "port", config.port, platform)
            connect_axi(m, config.axi, port.axi, self, FRAMES_PORT)
            m.d.comb += [port.stop.eq(stop), control.errors[:3].eq(port.error)]
            idle = port.idle
        movers = self._movers(m, port, accelerator, platform)
        self._streams(m, control, movers, clear, platform)
        m.d.comb += [
            accelerator.aclk.eq(outer.aclk), accelerator.aresetn.eq(~clear),
        ]
        if netlist.offchip:
            for k in range(netlist.offchip.ports):
                for name, member in axi_ports(netlist.offchip.axi, memory_port(k)).items():
                    inside, outside = getattr(accelerator, name), getattr(self, name)
                    m.d.comb += outside.eq(inside) if member.flow == Out else inside.eq(outside)
            m.d.comb += [
                accelerator.memory_base.eq(control.arg_memory), accelerator.memory_stop.eq(stop),
                control.errors[3:6].eq(accelerator.memory_error),
            ]
            idle &= accelerator.memory_idle
        self._count(m, control, accelerator)
        self._sequence(m, control, movers, idle, stop, reset)
        return m

    def _movers(self, m: Module, port, accelerator, platform) -> dict[str, Any]:
        """Add what moves frames, between the port and the accelerator; returns it by name."""
        config, movers = self.config, {}
        for k, (name, each) in enumerate(config.readers.items()):
            mover: Any = add_shared(m, f"reader_{name}" if name else "loader", each, platform)
            wiring.connect(m, mover.read, getattr(port, f"read_{k}"))
            movers[name] = mover
        for k, (name, each) in enumerate(config.writers.items()):
            mover = add_shared(m, f"writer_{name}", each, platform)
            wiring.connect(m, mover.write, getattr(port, f"write_{k}"))
            movers[name] = mover
        for name, each in (*config.sources.items(), *config.sinks.items()):
            movers[name] = add_shared(m, f"stream_{name}", each, platform)
        into = dict(zip(config.netlist.inputs, input_ports(config.netlist.inputs), strict=True))
        if config.netlist.loading:
            into[""] = WEIGHTS
        for name, pins in into.items():
            beats, (data, valid, ready) = movers[name].o, _pins(accelerator, pins)
            m.d.comb += [data.eq(beats.p), valid.eq(beats.valid), beats.ready.eq(ready)]
        for name, pins in zip(config.netlist.outputs, output_ports(config.netlist.outputs),
                              strict=True):
            beats, (data, valid, ready) = movers[name].i, _pins(accelerator, pins)
            m.d.comb += [beats.p.eq(data), beats.valid.eq(valid), ready.eq(beats.ready)]
        return movers

    def _streams(self, m: Module, control, movers: dict[str, Any], clear, platform) -> None:
        """Wire frames that are streams to their pins."""
        config = self.config
        early, late = Const(0), Const(0)
        for port, name in zip(input_ports(config.netlist.inputs), config.sources, strict=False):
            source, pin = movers[name], lambda what, port=port: getattr(self, f"{port}_{what}")
            m.d.comb += [
                source.i.p.data.eq(pin("tdata")), source.i.p.last.eq(pin("tlast")),
                # A beat that is offered during a reset waits for its end.
                source.i.valid.eq(pin("tvalid") & ~clear),
                pin("tready").eq(source.i.ready & ~clear),
            ]
            early, late = early | source.early, late | source.late
        for port, name in zip(output_ports(config.netlist.outputs), config.sinks, strict=False):
            sink, pin = movers[name], lambda what, port=port: getattr(self, f"{port}_{what}")
            m.d.comb += [
                pin("tdata").eq(sink.o.p.data), pin("tlast").eq(sink.o.p.last),
                pin("tkeep").eq(sink.o.p.keep), pin("tvalid").eq(sink.o.valid),
                sink.o.ready.eq(pin("tready")),
            ]
        m.d.comb += control.errors[6:].eq(Cat(early, late))

    def _sequence(self, m: Module, control, movers: dict[str, Any], idle, stop, reset) -> None:
        """Let runs begin and end, and errors stop all, until a soft reset."""
        config = self.config
        sizes = {name: each.frame_words for name, each in
                 (*config.readers.items(), *config.writers.items()) if name}
        sequencer: Any = Sequencer(tuple(sizes.values()), weights=bool(config.netlist.loading))
        m.submodules.sequencer = DomainRenamer("control")(sequencer)
        busy = Cat(movers[name].busy for name in sizes).any()
        if config.sinks:
            # Frames of the run that have not come out yet, of the output that is last.
            left = {name: Signal(32, name=f"left_{name}") for name in config.sinks}
            for name, count in left.items():
                with m.If(sequencer.begin):
                    m.d.sync += count.eq(control.arg_frames)
                with m.Elif((count != 0) & movers[name].ended):
                    m.d.sync += count.eq(count - 1)
            busy = Cat(count != 0 for count in left.values()).any()
        m.d.comb += [
            sequencer.start.eq(control.start), sequencer.frames.eq(control.arg_frames),
            sequencer.clear.eq(control.clear), sequencer.failed.eq(control.errors.any()),
            sequencer.memory_idle.eq(idle), stop.eq(sequencer.stop), reset.eq(sequencer.reset),
            sequencer.busy.eq(busy),
            control.idle.eq(sequencer.idle), control.finished.eq(sequencer.finished),
            control.clearing.eq(sequencer.clearing),
        ]
        for k, name in enumerate(sizes):
            mover, stride = movers[name], getattr(control, f"arg_stride_{name}")
            # Frames without a gap between them are one run of words.
            dense = stride == 0
            m.d.comb += [
                mover.start.eq(sequencer.begin), mover.stride.eq(stride),
                mover.address.eq(getattr(control, f"arg_address_{name}")),
                mover.words.eq(Mux(dense, getattr(sequencer, f"words_{k}"), sizes[name])),
                mover.runs.eq(Mux(dense, 1, control.arg_frames)),
            ]
        if config.netlist.loading:
            loader = movers[""]
            m.d.comb += [
                loader.start.eq(sequencer.load), loader.address.eq(control.arg_weights),
                loader.words.eq(config.readers[""].frame_words), loader.runs.eq(1),
                sequencer.loaded.eq(~loader.busy),
            ]

    def _count(self, m: Module, control, accelerator) -> None:
        """Count frames, their cycles, and cycles in which an end stood still.

        Of several inputs and outputs, the first ones are counted.
        """
        netlist = self.config.netlist
        stream = next(iter(netlist.inputs.values()))
        _, *into = _pins(accelerator, next(iter(input_ports(netlist.inputs))))
        _, *out = _pins(accelerator, next(iter(output_ports(netlist.outputs))))
        result = next(iter(netlist.outputs.values()))
        now, before, cycles = Signal(32), Signal(32), Signal(32)
        m.d.sync += now.eq(now + 1)
        m.d.comb += control.frame_cycles.eq(cycles)
        ends = {}
        for (valid, ready), beats, what in (
                (into, stream.beats, "frames_in"), (out, result.beats, "frames_out")):
            beat, total = counter(beats, name=f"{what}_beat"), Signal(32, name=what)
            ends[what] = end = Signal(name=f"{what}_end")
            moved = Signal(name=f"{what}_moved")
            m.d.comb += [getattr(control, what).eq(total), end.eq(moved & (beat == beats - 1))]
            m.d.sync += [moved.eq(valid & ready), total.eq(total + end)]
            with m.If(moved):
                m.d.sync += beat.eq(Mux(beat == beats - 1, 0, beat + 1))
        with m.If(ends["frames_out"]):
            m.d.sync += [before.eq(now), cycles.eq(now - before)]
        for what, condition in (
                ("input_waits", into[0] & ~into[1]),
                ("input_starves", into[1] & ~into[0]),
                ("output_waits", out[0] & ~out[1])):
            register = Signal(32, name=what)
            m.d.comb += getattr(control, what).eq(register)
            m.d.sync += register.eq(register + condition)


def _pins(accelerator, port: str) -> list[Any]:
    """Data, valid and ready of an AXI4-Stream port."""
    return [getattr(accelerator, f"{port}_{pin}") for pin in ("tdata", "tvalid", "tready")]
