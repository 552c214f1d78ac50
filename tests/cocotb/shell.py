"""cocotb's tests of an emitted shell; ``test_shell.py`` builds and runs them.

Control is cocotbext-axi's AXI4-Lite master, memory is its AxiRam; all of their channels pause.  The
folder that they run in holds what the network is, and frames with their results.
"""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge, with_timeout
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam

from hwgen.driver import Manifest
from tests.cocotb.axi_port import pauses

SEEDS = 6
MIDDLES = (1, 40, 200, 600)
"""Cycles after a start until a soft reset."""
SIZE = 1 << 16
FRAMES = "frames.npz"
CONTROL, GLOBAL_INTERRUPT, INTERRUPT_ENABLE, INTERRUPT_STATUS = 0, 4, 8, 12


class Bench:
    """Software, in cocotb."""

    def __init__(self, dut, seed: int) -> None:
        self.dut, self.manifest = dut, Manifest.load(".")
        self.random = np.random.default_rng(seed)
        self.data = dict(np.load(FRAMES))
        reset = {"reset": dut.aresetn, "reset_active_level": False}
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi_frames"), dut.aclk, size=SIZE, **reset)
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), dut.aclk, **reset)
        for each in (self.ram, self.lite):
            assert each.write_if is not None
            assert each.read_if is not None
            for channel in (each.write_if.aw_channel, each.write_if.w_channel,
                            each.write_if.b_channel, each.read_if.ar_channel,
                            each.read_if.r_channel):
                generator = np.random.default_rng(self.random.integers(1 << 30))
                channel.set_pause_generator(pauses(generator))

    async def start(self) -> None:
        """Clock and reset; then it must be the design that the files say."""
        cocotb.start_soon(Clock(self.dut.aclk, 10, "ns").start())
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 5)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 5)
        found = [await self.lite.read_dword(self.manifest.register(name))
                 for name in ("id_low", "id_high", "version")]
        assert found[0] | found[1] << 32 == self.manifest.identification
        assert found[2] == self.manifest.data["version"]
        await self.lite.write_dword(GLOBAL_INTERRUPT, 1)
        await self.lite.write_dword(INTERRUPT_ENABLE, 1)

    async def argument(self, name: str, value: int) -> None:
        offset, bits = self.manifest.argument(name)
        for k in range(bits // 32):
            await self.lite.write_dword(offset + 4 * k, value >> 32 * k & 0xFFFFFFFF)

    async def begin(self, count: int, gap: int) -> dict[str, tuple[int, int]]:
        """Start a run; returns where each input and output begins, and its stride."""
        places, place = {}, int(self.random.integers(16)) * 16
        self.ram.write(0, self.random.bytes(SIZE))
        for name, port in {**self.manifest.inputs, **self.manifest.outputs}.items():
            stride = port.stride + 16 * gap
            places[name] = (place, stride)
            await self.argument(f"address_{name}", place)
            await self.argument(f"stride_{name}", stride if gap else 0)
            if name in self.manifest.inputs:
                for k, row in enumerate(port.pack(self.data[name][:count])):
                    self.ram.write(place + k * stride, row.tobytes())
            place += count * stride + int(self.random.integers(9)) * 16
        assert place <= SIZE
        await self.argument("frames", count)
        await self.lite.write_dword(CONTROL, 1)
        return places

    async def run(self, count: int, gap: int) -> None:
        """A run, all bytes of its results, and nothing written beside them."""
        places = await self.begin(count, gap)
        before = bytearray(self.ram.read(0, SIZE))
        if not int(self.dut.interrupt.value):
            await with_timeout(RisingEdge(self.dut.interrupt), 500, "us")
        assert await self.lite.read_dword(CONTROL) & 2
        await self.lite.write_dword(INTERRUPT_STATUS, 1)
        await ClockCycles(self.dut.aclk, 3)
        assert not int(self.dut.interrupt.value)
        for name, port in self.manifest.outputs.items():
            place, stride = places[name]
            for k, row in enumerate(port.pack(self.data[name][:count])):
                before[place + k * stride : place + k * stride + len(row)] = row.tobytes()
        assert self.ram.read(0, SIZE) == before
        assert await self.lite.read_dword(self.manifest.register("errors")) == 0


@cocotb.test()
@cocotb.parametrize(seed=range(SEEDS))
async def runs(dut, seed: int) -> None:
    """Frames side by side and at distances, a run after the other."""
    bench = Bench(dut, seed)
    await bench.start()
    for _ in range(3):
        await bench.run(int(bench.random.integers(1, 6)), int(bench.random.integers(3)))


@cocotb.test()
@cocotb.parametrize(cycles=MIDDLES)
async def soft_reset(dut, cycles: int) -> None:
    """In the middle of a run; the next one is right."""
    bench = Bench(dut, cycles)
    await bench.start()
    await bench.begin(5, 1)
    await ClockCycles(dut.aclk, cycles)
    reset = bench.manifest.register("reset")
    await bench.lite.write_dword(reset, 1)
    while await bench.lite.read_dword(reset):
        pass
    assert await bench.lite.read_dword(CONTROL) == 4
    await bench.lite.write_dword(INTERRUPT_STATUS,
                                 await bench.lite.read_dword(INTERRUPT_STATUS))
    await bench.run(4, 0)
