"""A single block in both simulators, and both give the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.blocks.evict import EvictionConfig
from hwgen.blocks.fifo import FifoConfig
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, TensorType, Window
from hwgen.offchip.bus import AxiConfig
from hwgen.parts.stream import StreamType
from hwgen.sim.amaranth import simulate, simulate_netlist
from hwgen.sim.simulated import alone
from hwgen.sim.verilator import VerilatorModel
from tests.blocks.test_conv import make_conv

STREAM = StreamType(TensorType((4, 4, 4), Quantisation(0.1, 3)), 2)


@pytest.mark.verilator
@pytest.mark.parametrize("config", [
    FifoConfig(stream=STREAM, branches=2),
    FoldedConvConfig(op=make_conv(Window((3, 3), (1, 1), ((1, 1), (1, 1))), 4, 6),
                     tensor=STREAM.tensor, channel_lanes=2, tap_lanes=3, pe=2,
                     lanes_out=2).at_full_speed(),
], ids=lambda config: config.title)
def test_a_block(config, tmp_path: Path) -> None:
    """As a component, as a netlist and as Verilog: the same values in the same cycles."""
    frames = np.random.default_rng(0).integers(-128, 128, (3, 4, 4, 4))
    netlist = alone(config)
    model = VerilatorModel(emit(netlist), netlist, tmp_path, optimise=False)
    runs = [simulate(config.create(), frames), simulate_netlist(netlist, {"i": frames}),
            model.run({"i": frames})]
    for run in runs:
        assert list(run.outputs) == list(config.output_ports)
        for seen, wanted in zip(run.outputs.values(), config.compute(frames), strict=True):
            assert seen.dtype == np.int8
            np.testing.assert_array_equal(seen, wanted)
        assert (run.start, run.latency, run.first_output, run.interval, run.cycles) == (
            runs[0].start, runs[0].latency, runs[0].first_output, runs[0].interval,
            runs[0].cycles)
        for name in run.outputs:
            np.testing.assert_array_equal(run.first[name], runs[0].first[name])
            np.testing.assert_array_equal(run.last[name], runs[0].last[name])
    assert runs[0].interval == config.interval


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_a_block_that_writes_needs_a_port() -> None:
    axi = AxiConfig(data_bits=64)
    config = EvictionConfig(stream=STREAM, axi=axi, burst=8, memory_latency=60)
    frames = np.random.default_rng(0).integers(-128, 128, (3, 4, 4, 4))
    with pytest.raises(HwgenError, match=r"^Eviction writes to off-chip memory, so it must be"):
        simulate(config.create(), frames)
    run = simulate_netlist(alone(config, axi), {"i": frames}, stall=0.2)
    np.testing.assert_array_equal(run.outputs["o"], frames)
