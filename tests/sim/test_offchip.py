"""Whole designs with off-chip memory in Verilator: values, times, bytes; what fails, and recovery.

One small network has every op, several kinds of streamed weights and evicted edges; one has a
transposed convolution, weights in UltraRAM and changes of lanes behind eviction; one has nothing
but evicted edges, some of which carry several pixels a beat; one has frames in other orders.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.ir import ConvTranspose, Rearrange, Requantise
from hwgen.netlist import Netlist
from hwgen.offchip.memory_map import MemoryMap
from hwgen.sim.verilator import VerilatorModel, VerilogRun, lint
from hwgen.sim.verilator.memory import FAULTS, MemoryModel, MemoryUse
from hwgen.timing import Timing, sized
from hwgen.top import to_axi
from tests.networks import Builder, Q, every_op

pytestmark = pytest.mark.verilator

FRAMES = 5


def mixed() -> tuple[Builder, DesignPoint]:
    """Every op; of the weights of some layers all folds are streamed, of others some or none."""
    b, design = every_op()
    for name, tile, resident in (
        ("c1", 12, 0), ("c2", 3, 0), ("c3", 2, 1), ("scores", 1, 2), ("head", 1, 2),
    ):
        design.foldings[name] = replace(design.foldings[name], tile=tile, resident=resident)
    design.memories = {"add>cat2": OFF_CHIP, "c3>cat": OFF_CHIP}
    design.ports = MemoryPorts(count=2, data_bits=64, burst=8, memory_latency=160)
    return b, design


def decoder() -> tuple[Builder, DesignPoint]:
    """A transposed convolution; lanes that change behind eviction; weights that are loaded."""
    b = Builder((8, 8, 3))
    g = b.graph
    small = b.act(b.conv("image", 8, 3, "c0", stride=2), "s0")
    skip = b.conv("image", 6, 3, "skip")
    weight = b.random.integers(-127, 128, (6, 4, 4, 8))
    scale = Requantise.from_scale(b.random.uniform(0.0002, 0.001, 6))
    up = g.add(ConvTranspose(weight, b.random.integers(-999, 999, 6), scale, Q, (2, 2),
                             ((2, 0), (1, 1))), small, name="up")
    g.outputs = [b.conv(b.add(up, skip, "sum"), 5, 3, "head"), "skip"]
    design = DesignPoint(
        "zcu102", 250.0,
        {
            "c0": Folding(3, 3, 1, 2, weight_style="ultra"), "skip": Folding(3, 3, 1, 3),
            "up": Folding(4, 2, 1, 2, tile=2, resident=1),
            "head": Folding(6, 3, 1, 1, tile=4, resident=1),
        },
        {"image": 3, "skip": 3, "up": 2, "sum": 2},
        memories={"skip>sum": OFF_CHIP},
        ports=MemoryPorts(count=3, data_bits=128, burst=8, memory_latency=160),
    )
    return b, design


def evicting() -> tuple[Builder, DesignPoint]:
    """No weights off chip, so that nothing is fetched ahead; input and output are evicted."""
    b = Builder((8, 8, 3))
    a = b.conv("image", 4, 3, "c0")
    c = b.conv(b.act(a, "s0"), 4, 3, "c1")
    b.graph.outputs = [b.add(a, c, "sum")]
    pixels = dict.fromkeys(("image", "c0", "s0", "c1", "sum"), 2)
    design = DesignPoint(
        "zcu102", 250.0, {"c0": Folding(3, 3, 1, 4), "c1": Folding(4, 3, 1, 2)},
        {"image": 3, "c0": 2, "s0": 2, "c1": 2, "sum": 2}, pixels,
        memories=dict.fromkeys(("image>c0", "c0>sum", "sum>output"), OFF_CHIP),
        ports=MemoryPorts(data_bits=64, burst=8, memory_latency=160),
    )
    return b, design


def rearranging() -> tuple[Builder, DesignPoint]:
    """Frames that are put in another order off the chip, one around which a tensor waits there."""
    b = Builder((8, 6, 3))
    g = b.graph
    frame = np.arange(8 * 6 * 8)
    across = Rearrange(frame.reshape(8, 6, 8).transpose(1, 0, 2))
    back = Rearrange(frame.reshape(6, 8, 8).transpose(1, 0, 2)[::-1])
    space = Rearrange(frame.reshape(8, 6, 2, 2, 2).transpose(0, 2, 1, 3, 4).reshape(16, 12, 2))
    a = b.conv("image", 8, 3, "c0")
    turned = b.conv(g.add(across, a, name="across"), 8, 3, "c1")
    whole = b.add(a, g.add(back, turned, name="back"), "sum")
    g.outputs = [b.conv(g.add(space, whole, name="space"), 4, 3, "head")]
    design = DesignPoint(
        "zcu102", 250.0,
        {"c0": Folding(3, 3, 1, 4), "c1": Folding(8, 3, 1, 4), "head": Folding(2, 3, 1, 4),
         **dict.fromkeys(("across", "back"), Folding(window_style=OFF_CHIP)),
         "space": Folding(window_style=OFF_CHIP, pace=6)},
        {"image": 3, "c0": 4, "across": 4, "c1": 4, "back": 4, "sum": 4, "space": 2, "head": 2},
        memories={"c0>sum": OFF_CHIP},
        ports=MemoryPorts(count=4, data_bits=32, burst=8, memory_latency=160),
    )
    return b, design


NETWORKS = {
    "mixed": mixed, "decoder": decoder, "evicting": evicting, "rearranging": rearranging,
}


@dataclass
class Case:
    """A network, what it is to give, and its compiled Verilog."""

    name: str
    netlist: Netlist
    timing: Timing
    inputs: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]
    model: VerilatorModel

    def run(self, **options) -> tuple[VerilogRun, MemoryUse]:
        """A run whose values are checked."""
        run = self.model.run(self.inputs, **options)
        for name, frames in self.wanted.items():
            np.testing.assert_array_equal(run.outputs[name], frames)
        assert run.memory is not None
        return run, run.memory

    @property
    def memory_map(self) -> MemoryMap:
        """Of the off-chip memory."""
        assert self.netlist.offchip is not None
        return self.netlist.offchip

    def delivered(self) -> dict[str, int]:
        """Bytes that came from each output of a run that failed; they must be right."""
        counts = {}
        for name, stream in self.netlist.outputs.items():
            found = (self.model.directory / f"out_{name}.bin").read_bytes()
            assert to_axi(stream, self.wanted[name]).startswith(found)
            counts[name] = len(found)
        return counts


def build(name: str, folder: Path) -> Case:
    """A network, compiled."""
    b, design = NETWORKS[name]()
    _, netlist, timing = sized(b.graph, design)
    model = VerilatorModel(emit(netlist), netlist, folder, optimise=False)
    inputs = b.frames(FRAMES)
    return Case(name, netlist, timing, inputs, b.graph.evaluate(inputs), model)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each of the networks, compiled by whichever worker comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / request.param
    folder.mkdir(exist_ok=True)
    made = folder / "case"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            made.write_bytes(pickle.dumps(build(request.param, folder)))
    case: Case = pickle.loads(made.read_bytes())
    # What a run reads and writes is the worker's own.
    case.model.harness.directory = tmp_path_factory.mktemp(request.param)
    shutil.copy(folder / "memory.bin", case.model.directory)
    return case


def rate(run: VerilogRun) -> float:
    """Mean cycles from a frame's end to the next one's."""
    last = np.max(list(run.last.values()), axis=0)
    return (last[-1] - last[0]) / (FRAMES - 1)


def test_on_time(case: Case) -> None:
    """Times as predicted, no wait, and all bytes, with a memory of a board's practical bandwidth.

    Where all beats on their way have to go through off-chip memory, they are not later.
    """
    run, use = case.run(interval=case.timing.interval)
    exact = case.name not in ("evicting", "rearranging")
    for due, seen in zip(case.timing.of_frames(FRAMES), (run.first, run.last), strict=True):
        for times, name in zip(due, case.netlist.outputs, strict=True):
            found = seen[name] - run.start
            assert (found == times).all() if exact else (found <= times).all()
    if exact:
        assert (run.interval, run.latency) == (case.timing.interval, case.timing.latency)
    assert run.error == ""
    assert use.waits == 0
    assert use.bytes_read == FRAMES * case.memory_map.reads
    assert use.bytes_written == use.total_written == FRAMES * case.memory_map.writes
    ahead = sum(part.ahead for part in case.memory_map.uses.values())
    assert use.total_read == use.bytes_read + ahead
    assert bool(ahead) == (use.ready > MemoryModel().latency)


def test_fast_input(case: Case) -> None:
    """The rate is the pipeline's, and nothing waits for the memory either."""
    run, use = case.run()
    assert rate(run) == pytest.approx(case.timing.interval, rel=0.03)
    assert run.latency <= case.timing.latency
    assert use.waits == 0


@pytest.mark.parametrize("seed", range(6))
def test_stalls(case: Case, seed: int) -> None:
    """Pauses of everybody, and a memory that may be slower than the design expects."""
    random = np.random.default_rng(seed)
    model = MemoryModel(
        back_pressure=float(random.choice([0.1, 0.3, 0.6])),
        jitter=int(random.choice([0, 30, 300])), gbps=float(random.choice([4, 20, 150])), seed=seed,
    )
    interval = int(random.choice([0, case.timing.interval]))
    stall = float(random.choice([0, 0.1, 0.4]))
    _, use = case.run(memory=model, interval=interval, stall=stall, seed=seed)
    assert use.bytes_written == FRAMES * case.memory_map.writes


def test_slow_memory(case: Case) -> None:
    """A memory of two thirds of the bandwidth that it takes: later, and right."""
    taken = (case.memory_map.reads + case.memory_map.writes) / case.timing.interval
    model = MemoryModel(gbps=taken * 2 * 2 / 3, efficiency=1, refresh_cycles=0)
    assert model.bytes_per_cycle == pytest.approx(taken * 2 / 3)
    slow, use = case.run(memory=model)
    assert use.waits > 0
    fast, _ = case.run()
    assert slow.cycles > 1.1 * fast.cycles


@pytest.mark.parametrize("share", [0, 0.3, 0.9])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults(case: Case, fault: str, share: float) -> None:
    """What fails is named; what was delivered is right; a reset mends it."""
    memory_map, request = case.memory_map, 8 * case.memory_map.axi.word_bytes
    moved = {"read": memory_map.reads, "write": memory_map.writes}
    moved["silent"] = sum(moved.values())
    # Requests are at most so long: there are more of them.
    at = int(share * FRAMES * moved[fault.split("_")[0]] / request)
    model = MemoryModel(fault=f"{fault}:{at}", seed=at)
    options: dict[str, Any] = {"interval": case.timing.interval}
    if at % 2:
        model = replace(model, back_pressure=0.3, jitter=40)
        options = {"stall": 0.2, "seed": at}
    name = {"slverr": "SLVERR", "decerr": "DECERR", "silent": "time-out"}[fault[-6:]]
    idle = "not idle" if fault == "silent" else "idle"
    message = f"memory error: {name}; {idle} [0-9]+ cycles later; [0-9]+ of "
    with pytest.raises(HwgenError, match=f"^Simulation failed: {message}"):
        case.model.run(case.inputs, memory=model, **options)
    delivered = case.delivered()
    if share > 0.5:
        assert max(delivered.values()) > 0
    run, use = case.run(memory=model, recover=True, **options)
    assert re.match(message, run.error)
    if not at % 2:
        assert run.latency <= case.timing.latency
        assert use.waits == 0
        assert use.bytes_read == FRAMES * memory_map.reads


def test_verilog_is_clean(tmp_path: Path) -> None:
    b, design = decoder()
    _, netlist, _ = sized(b.graph, design)
    rtl = emit(netlist)
    rtl.write(tmp_path)
    lint(rtl, tmp_path)
    assert netlist.offchip is not None
    assert (tmp_path / "memory.bin").read_bytes() == netlist.offchip.image(netlist.blocks)
