"""Whole designs with off-chip memory in Verilator: values, times, bytes; what fails, and recovery.

One small network has every op, several kinds of streamed weights and evicted edges; one has a
transposed convolution, weights in UltraRAM and changes of lanes behind eviction; one has nothing
but evicted edges, some of which carry several pixels a beat.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.emit.verilog import emit, to_axi
from hwgen.errors import HwgenError
from hwgen.ir import ConvTranspose, Requantise
from hwgen.pipeline import Netlist
from sim.memory import MemoryModel
from sim.timing import Timing, sized
from sim.verilator import Simulation, VerilatorModel, lint
from tests.networks import Builder, Q, every_op

FRAMES = 5


def mixed() -> tuple[Builder, DesignPoint]:
    """Every op; of the weights of some layers all folds are streamed, of others some or none."""
    b, design = every_op()
    for name, tile, resident in (
        ("c1", 12, 0), ("c2", 3, 0), ("c3", 2, 1), ("scores", 1, 2), ("head", 1, 2),
    ):
        design.foldings[name] = replace(design.foldings[name], tile=tile, resident=resident)
    design.memories = {"add>cat2": OFF_CHIP, "c3>cat": OFF_CHIP}
    design.ports = MemoryPorts(count=2, data_bits=64, burst=16, latency=160)
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
            "c0": Folding(3, 3, 1, 2, weights="ultra"), "skip": Folding(3, 3, 1, 3),
            "up": Folding(4, 2, 1, 2, tile=2, resident=1),
            "head": Folding(6, 3, 1, 1, tile=4, resident=1),
        },
        {"image": 3, "skip": 3, "up": 2, "sum": 2},
        memories={"skip>sum": OFF_CHIP, "s0>up": OFF_CHIP},
        ports=MemoryPorts(count=3, data_bits=128, burst=8, latency=160),
    )
    return b, design


def evicting() -> tuple[Builder, DesignPoint]:
    """No weights off chip, so that nothing is fetched ahead; the input and an output are evicted."""
    b = Builder((8, 8, 3))
    a = b.conv("image", 4, 3, "c0")
    c = b.conv(b.act(a, "s0"), 4, 3, "c1")
    b.graph.outputs = [b.add(a, c, "sum")]
    pixels = dict.fromkeys(("image", "c0", "s0", "c1", "sum"), 2)
    design = DesignPoint(
        "zcu102", 250.0, {"c0": Folding(3, 3, 1, 4), "c1": Folding(4, 3, 1, 2)},
        {"image": 3, "c0": 2, "s0": 2, "c1": 2, "sum": 2}, pixels,
        memories=dict.fromkeys(("image>c0", "c0>sum", "sum>output"), OFF_CHIP),
        ports=MemoryPorts(data_bits=64, burst=4, latency=160),
    )
    return b, design


NETWORKS = {"mixed": mixed, "decoder": decoder, "evicting": evicting}


@dataclass
class Case:
    """A network, what it is to give, and its compiled Verilog."""

    netlist: Netlist
    timing: Timing
    inputs: dict[str, np.ndarray]
    wanted: dict[str, np.ndarray]
    model: VerilatorModel

    def run(self, **options) -> Simulation:
        """A run whose values are checked."""
        run = self.model.run(self.inputs, **options)
        for name, frames in self.wanted.items():
            np.testing.assert_array_equal(run.outputs[name], frames)
        return run

    def delivered(self) -> dict[str, int]:
        """Bytes that came from each output of a run that failed; they must be right."""
        counts = {}
        for name, stream in self.netlist.outputs.items():
            found = (self.model.directory / f"out_{name}.bin").read_bytes()
            assert to_axi(stream, self.wanted[name]).startswith(found)
            counts[name] = len(found)
        return counts


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    """Compiles a network when it is asked for first."""
    cases: dict[str, Case] = {}

    def build(name: str) -> Case:
        if name not in cases:
            b, design = NETWORKS[name]()
            _, netlist, timing = sized(b.graph, design)
            rtl = emit(netlist)
            model = VerilatorModel(rtl, netlist, tmp_path_factory.mktemp(name), optimise=False)
            lint(rtl, model.rtl_directory)
            inputs = b.frames(FRAMES)
            cases[name] = Case(netlist, timing, inputs, b.graph.evaluate(inputs), model)
        return cases[name]

    return build
