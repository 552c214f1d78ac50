"""A frame that waits for its own statistics, off the chip: in the queues of a normalisation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen import boards
from hwgen.design import OFF_CHIP, MemoryPorts
from hwgen.dse.design.search import design_for
from hwgen.emit.verilog import emit
from hwgen.models.load import read
from hwgen.sim.verilator import VerilatorModel
from hwgen.timing import sized
from tests.models.float_networks import N
from tests.models.host.test_model import C, file
from tests.models.whole import CONV, LAST, weights

pytestmark = pytest.mark.verilator

FRAMES = 4
BOARD = boards.load("zcu102")


def test_a_norm_over_a_frame(tmp_path: Path) -> None:
    """Mean and deviation are made of a frame that waits twice: values and times stay what they are.
    """
    nodes = [CONV, N("InstanceNormalization", ["c", "s", "b"], ["t"]), LAST]
    constants = {"w": C["w"], "s": 1 + weights(8), "b": weights(8), "e": weights(4, 8, 1, 1)}
    graph = read(str(file(tmp_path, nodes, constants))).graph
    design = design_for(graph, BOARD, 6000)
    on_chip, _, timing = sized(graph, design)
    # The frame, and its difference from its mean.
    waiting = [edge for edge, depth in on_chip.depths.items() if depth > 400]
    assert len(waiting) == 2
    design = replace(design, memories=dict.fromkeys(waiting, OFF_CHIP),
                     ports=MemoryPorts(data_bits=64, burst=8, memory_latency=160))
    _, netlist, evicted = sized(graph, design)
    assert (evicted.interval, evicted.latency) == (timing.interval, timing.latency)
    (name, type), = graph.inputs.items()
    codes = np.random.default_rng(0).integers(
        type.quantisation.low, type.quantisation.high + 1, (FRAMES, *type.shape))
    model = VerilatorModel(emit(netlist), netlist, tmp_path, optimise=False)
    for options in ({"interval": timing.interval}, {}, {"stall": 0.2, "seed": 1}):
        run = model.run({name: codes}, **options)
        for output, frames in graph.evaluate({name: codes}).items():
            np.testing.assert_array_equal(run.outputs[output], frames)
        if "interval" in options:
            assert (run.interval, run.latency) == (timing.interval, timing.latency)
            assert run.memory is not None
            assert run.memory.waits == 0
