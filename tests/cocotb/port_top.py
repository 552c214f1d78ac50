"""An AxiPort as a design of its own: its AXI4 master at flat pins, its clients at the others."""

from __future__ import annotations

from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.offchip.bus import AxiConfig, axi_ports, connect_axi
from hwgen.offchip.port import AxiPortConfig
from tests.typed import ports

CONFIG = AxiPortConfig(
    axi=AxiConfig(), readers=3, writers=2, outstanding=4, timeout=300,
)
"""What the tests in cocotb have."""


class PortTop(wiring.Component):
    """A port whose AXI4 master has pins."""

    base: Value
    error: Value
    idle: Value

    def __init__(self, config: AxiPortConfig) -> None:
        self.config = config
        super().__init__({
            **axi_ports(config.axi, "m_axi_0"),
            **{name: In(config.axi.read_client) for name in config.read_ports},
            **{name: In(config.axi.write_client) for name in config.write_ports},
            "base": In(config.axi.address_bits), "error": Out(3), "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.port = port = ports(self.config.create())
        connect_axi(m, self.config.axi, port.axi, self, "m_axi_0")
        for name in (*self.config.read_ports, *self.config.write_ports):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(port, name))
        m.d.comb += [
            port.base.eq(self.base), self.error.eq(port.error), self.idle.eq(port.idle)
        ]
        return m
