"""Whole pipelines with off-chip memory in Amaranth's simulator, and what the memory refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.errors import HwgenError
from hwgen.netlist import Netlist
from hwgen.offchip.bus import AxiConfig
from hwgen.sim.amaranth import simulate_netlist
from hwgen.sim.amaranth.axi_memory import AxiMemory
from hwgen.timing import Timing, arrivals, sized
from tests.networks import Builder

FRAMES = 2


def residual(streamed: bool = True) -> tuple[Builder, Netlist, Timing]:
    """A skip connection off chip, beside weights that are streamed and others that are loaded."""
    b = Builder((6, 6, 3))
    a = b.conv("image", 4, 3, "c0")
    c = b.conv(b.act(a, "s0"), 4, 3, "c1")
    b.graph.outputs = [b.conv(b.add(a, c, "sum"), 3, 3, "head", stride=2), "sum"]
    foldings = {"c0": Folding(3, 2, 1, 3), "c1": Folding(3, 3, 1, 2), "head": Folding(4, 3)}
    if streamed:
        foldings = {
            "c0": Folding(3, 2, 1, 3, weight_style="ultra"),
            "c1": Folding(3, 3, 1, 1, tile=3, resident=1), "head": Folding(4, 3, tile=3),
        }
    design = DesignPoint(
        "zcu102", 250.0, foldings, {"image": 3}, memories={"c0>sum": OFF_CHIP},
        ports=MemoryPorts(count=2, data_bits=64, burst=4, memory_latency=60),
    )
    _, netlist, timing = sized(b.graph, design)
    return b, netlist, timing


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_on_time(streamed: bool) -> None:
    """Cycles count from when everything is there that comes ahead of the frames.

    With all weights on chip the skip connection is what is waited for, and comes sooner than it
    might.
    """
    b, netlist, timing = residual(streamed)
    frames = b.frames(FRAMES)
    wanted = b.graph.evaluate(frames)
    pace = arrivals(netlist.inputs["image"].beats, timing.interval, FRAMES)
    run = simulate_netlist(netlist, frames, arrivals={"image": pace})
    for name, first, last in zip(netlist.outputs, *timing.of_frames(FRAMES), strict=True):
        np.testing.assert_array_equal(run.outputs[name], wanted[name])
        for found, due in ((run.first[name], first), (run.last[name], last)):
            assert (found == due).all() if streamed else (found <= due).all()
    assert run.start == 0


@pytest.mark.slow
@pytest.mark.parametrize("stall, back_pressure, latency, seed", [
    (0.0, 0.0, 200, 0), (0.3, 0.7, 1, 1),
])
def test_stalls(stall: float, back_pressure: float, latency: int, seed: int) -> None:
    b, netlist, _ = residual()
    frames = b.frames(FRAMES)
    wanted = b.graph.evaluate(frames)
    run = simulate_netlist(netlist, frames, stall=stall, back_pressure=back_pressure,
                           latency=latency, seed=seed)
    for name in netlist.outputs:
        np.testing.assert_array_equal(run.outputs[name], wanted[name])


class Master(wiring.Component):
    """Asks once for a write of two words and a read of one, and sends words that are all the last.

    Parameters
    ----------
    write, read : where, from the base of the memory
    """

    axi_0: Any
    memory_base: Value

    def __init__(self, axi: AxiConfig, write: int, read: int) -> None:
        self.write = write
        self.read = read
        super().__init__({"axi_0": Out(axi.signature), "memory_base": In(axi.address_bits)})

    def elaborate(self, platform):
        m = Module()
        axi = self.axi_0
        m.d.comb += [axi.aw.p.len.eq(1), axi.w.valid.eq(1), axi.w.p.last.eq(1)]
        for channel, place in ((axi.aw, self.write), (axi.ar, self.read)):
            asked = Signal()
            m.d.comb += [channel.valid.eq(~asked), channel.p.addr.eq(self.memory_base + place)]
            with m.If(channel.ready):
                m.d.sync += asked.eq(1)
        return m


@pytest.mark.parametrize("write, read, message", [
    (64, 0, r"A write of 16 bytes at 0x40 is outside the 64 bytes of the memory"),
    (0, 60, r"A read of 8 bytes at 0x3c is outside the 64 bytes of the memory"),
    (16, 24, r"A read of 8 bytes at 0x18 overlaps one in the other direction that is not over"),
    (0, 32, r"The last word of a write is not marked, or another one"),
])
def test_violations(write: int, read: int, message: str) -> None:
    axi = AxiConfig(data_bits=64)
    master = Master(axi, write, read)
    simulator = Simulator(master)
    simulator.add_clock(1e-6)
    for process in AxiMemory(axi, b"", 64).processes([master.axi_0], master.memory_base):
        simulator.add_testbench(process)
    with pytest.raises(HwgenError, match=f"^{message}$"):
        simulator.run_until(1e-4)
