"""The pipeline: the hardware of a netlist, all blocks connected; see :mod:`hwgen.plan`."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module
from amaranth.lib import stream, wiring

from hwgen.device.platform import add_shared
from hwgen.errors import HwgenError
from hwgen.netlist import Netlist
from hwgen.offchip.memory_map import MemoryMap
from hwgen.parts.weights import LOAD_BITS

__all__ = ["Pipeline"]


LOAD = "load"
"""Port for weights that are loaded."""


class Pipeline(wiring.Component):
    """All blocks of a netlist, connected.

    Parameters
    ----------
    netlist : :class:`Netlist`

    Members
    -------
    i, or i_0, i_1, … : :py:`In(stream.Signature(payload))`
        One for each input of the graph.
    o, or o_0, o_1, … : :py:`Out(stream.Signature(payload))`
        One for each output of the graph.
    load : :py:`In(stream.Signature(LOAD_BITS, always_ready=True))`, if weights are loaded
        :meth:`Netlist.load_words`, once after reset, before blocks with such weights start.
    axi_0, axi_1, … : :py:`Out(axi.signature)`, if there is off-chip memory
        See :class:`hwgen.offchip.port.AxiPort`.
    memory_base : :py:`In(address_bits)`, if there is off-chip memory
        Where it begins, a multiple of 4 KB.
    memory_stop : :py:`In(1)`, if there is off-chip memory
        Begin nothing more there, as after an error; it must stay 1 until reset.
    memory_error, memory_idle : :py:`Out(3)`, :py:`Out(1)`, if there is off-chip memory
        The ports' errors together; whether all are idle.  After an error no port begins anything:
        once both are up, a reset is clean.
    memory_ready, memory_waits : :py:`Out(1)`, if there is off-chip memory
        All that is fetched ahead has come; something waited for the memory in the cycle before.

    Timing
    ------
    See :mod:`hwgen.timing`.
    """

    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        self.inputs = tuple(netlist.inputs.values())
        self.outputs = tuple(netlist.outputs.values())
        self.input_ports = _port_names("i", len(self.inputs))
        self.output_ports = _port_names("o", len(self.outputs))
        members = {n: wiring.In(t.signature)
                   for n, t in zip(self.input_ports, self.inputs, strict=True)}
        members |= {n: wiring.Out(t.signature)
                    for n, t in zip(self.output_ports, self.outputs, strict=True)}
        if netlist.loading:
            members[LOAD] = wiring.In(stream.Signature(LOAD_BITS, always_ready=True))
        if netlist.offchip:
            axi = netlist.offchip.axi
            members |= {f"axi_{k}": wiring.Out(axi.signature) for k in range(netlist.offchip.ports)}
            members |= {
                "memory_base": wiring.In(axi.address_bits), "memory_stop": wiring.In(1),
                "memory_error": wiring.Out(3),
                "memory_idle": wiring.Out(1), "memory_ready": wiring.Out(1),
                "memory_waits": wiring.Out(1),
            }
        super().__init__(members)

    @property
    def memory_ports(self) -> list:
        """The AXI4 ports ``axi_0``, ``axi_1``, …; none if there is no off-chip memory."""
        memory_map = self.netlist.offchip
        return [getattr(self, f"axi_{k}") for k in range(memory_map.ports if memory_map else 0)]

    def elaborate(self, platform):
        m = Module()
        blocks = {}
        for name, config in self.netlist.blocks.items():
            blocks[name] = add_shared(m, name, config, platform)
        if self.netlist.loading:
            load = wiring.flipped(getattr(self, LOAD))
            for name in self.netlist.loading:
                wiring.connect(m, load, blocks[name].load)
                load = blocks[name].next
        if self.netlist.offchip:
            self._connect_memory(m, blocks, self.netlist.offchip, platform)
        for edge in self.netlist.edges:
            (source, out), (sink, into) = edge.source, edge.sink
            if source is None:
                port = wiring.flipped(getattr(self, self.input_ports[out]))
                sent = self.inputs[out]
            else:
                config = self.netlist.blocks[source]
                port = getattr(blocks[source], config.output_ports[out])
                sent = config.outputs[out]
            if sink is None:
                end = wiring.flipped(getattr(self, self.output_ports[into]))
                wanted = self.outputs[into]
            else:
                config = self.netlist.blocks[sink]
                end = getattr(blocks[sink], config.input_ports[into])
                wanted = config.inputs[into]
            # Amaranth compares widths only.  Shapes may differ: a Gemm flattens its input.
            if (sent.payload, sent.beats) != (wanted.payload, wanted.beats):
                raise HwgenError(f"Edge {edge.name!r} joins {sent} and {wanted}")
            wiring.connect(m, port, end)
        return m

    def _connect_memory(self, m: Module, blocks: dict, memory_map: MemoryMap, platform) -> None:
        """Add the ports to off-chip memory, and connect the blocks that use them."""
        # Members made from a signature, which no type checker sees.
        outer: Any = self
        ports: list[Any] = []
        for k, (config, names, outside) in enumerate(
            zip(memory_map.port_configs, memory_map.clients, self.memory_ports, strict=True)
        ):
            port: Any = add_shared(m, f"port_{k}", config, platform)
            ports.append(port)
            wiring.connect(m, port.axi, wiring.flipped(outside))
            m.d.comb += port.base.eq(outer.memory_base)
            for n, name in enumerate(names):
                wiring.connect(m, blocks[name].read, getattr(port, f"read_{n}"))
            for n, name in enumerate(memory_map.writers(names)):
                wiring.connect(m, blocks[name].write, getattr(port, f"write_{n}"))
        ready = [blocks[name].loaded for name, use in memory_map.uses.items() if use.ahead]
        waits = Cat(blocks[name].waits for name in memory_map.uses)
        m.d.comb += [blocks[name].base.eq(offset) for name, offset in memory_map.offsets.items()]
        m.d.sync += [outer.memory_ready.eq(Cat(ready).all()), outer.memory_waits.eq(waits.any())]
        error = ports[0].error
        for port in ports[1:]:
            error |= port.error
        # By the time that the error is seen, all ports have stopped: idle is idle until reset.
        m.d.sync += outer.memory_error.eq(error)
        m.d.comb += [
            *(port.stop.eq(outer.memory_error.any() | outer.memory_stop) for port in ports),
            outer.memory_idle.eq(Cat(port.idle for port in ports).all()),
        ]


def _port_names(prefix: str, count: int) -> tuple[str, ...]:
    return (prefix,) if count == 1 else tuple(f"{prefix}_{k}" for k in range(count))
