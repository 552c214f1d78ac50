"""Networks with sparse convolutions in Verilator: values at any stalls, rate as from the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.design import DesignPoint, Folding, Sparse
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation
from hwgen.plan import plan
from hwgen.sim.verilator import VerilatorModel, lint
from hwgen.timing import sized
from tests.networks import Builder

FRAMES = 6
RELU = Quantisation(0.1, -128)
"""What is below zero becomes the zero point."""


def residual() -> tuple[Builder, DesignPoint]:
    """A residual block whose convolutions are sparse but for one; grouped, strided, 1x1, Gemm."""
    b = Builder((12, 12, 4))
    g = b.graph
    stem = b.conv("image", 16, 3, "stem", output=RELU)
    x = b.conv(stem, 16, 3, "c0", output=RELU)
    x = b.conv(x, 16, 3, "c1", output=RELU)
    b.conv(b.add(x, stem, "sum"), 12, 1, "point", output=RELU)
    b.conv("point", 12, 3, "grouped", groups=3, stride=2, output=RELU)
    g.outputs = [b.gemm("grouped", 10, "scores")]
    design = DesignPoint("zcu102", 250.0, {
        "stem": Folding(4, 3, 1, 8),
        "c0": Folding(8, 3, 1, 8, sparse=Sparse(even_streams(24, 8), queue=40)),
        "c1": Folding(
            4, 3, 1, 16, weight_style="ultra", sparse=Sparse(even_streams(12, 4), "both")),
        "point": Folding(16, 1, 1, 3, sparse=Sparse(even_streams(16, 3), "activation")),
        "grouped": Folding(4, 1, 1, 2, sparse=Sparse(even_streams(4, 1), "weight")),
        "scores": Folding(12, 1, 1, 1, multiplier="fabric",
                          sparse=Sparse(even_streams(12, 3), queue=40)),
    }, {"image": 4, "stem": 4, "c0": 4, "c1": 4, "sum": 4, "point": 3, "grouped": 2})
    return b, design


def measured(b: Builder, design: DesignPoint, inputs: dict[str, np.ndarray]) -> DesignPoint:
    """The design with the cycles of each fold that frames make it take."""
    names = [node.inputs[0] for node in b.graph.nodes]
    values = b.graph.evaluate(inputs, keep=names)
    netlist = plan(b.graph, design)
    for node in b.graph.nodes:
        config, folding = netlist.blocks[node.name], design.foldings.get(node.name)
        if isinstance(config, SparseConvConfig) and folding and folding.sparse:
            cycles = config.mean_cycles(values[node.inputs[0]])
            design.foldings[node.name] = replace(
                folding, sparse=replace(folding.sparse, cycles=cycles)
            )
    return design


@pytest.mark.verilator
def test_network(tmp_path: Path) -> None:
    b, design = residual()
    inputs = b.frames(FRAMES)
    design = measured(b, design, inputs)
    _, netlist, timing = sized(b.graph, design)
    assert netlist.sparse == ["c0", "c1", "point", "grouped", "scores"]
    rtl = emit(netlist)
    rtl.write(tmp_path)
    lint(rtl, tmp_path)
    model = VerilatorModel(rtl, netlist, tmp_path / "run", optimise=False)
    wanted = b.graph.evaluate(inputs)
    run = model.run(inputs)
    np.testing.assert_array_equal(run.outputs["scores"], wanted["scores"])
    last = run.last["scores"]
    assert (last[-1] - last[0]) / (FRAMES - 1) == pytest.approx(timing.interval, rel=0.03)
    for seed in range(4):
        run = model.run(inputs, stall=0.1 * seed, seed=seed)
        np.testing.assert_array_equal(run.outputs["scores"], wanted["scores"])


def test_saved(tmp_path: Path) -> None:
    """A design keeps its sparse foldings; what is not legal is refused by name."""
    _, design = residual()
    path = tmp_path / "design.json"
    design.save(path)
    assert DesignPoint.load(path) == design
    text = path.read_text()
    for old, new, message in (
        ('"skip": "both"', '"skip": "all"', "op 'c1': skip must be one of"),
        ('"queue": 40', '"queue": -1', "op 'c0': queue must be an integer, 0 or more"),
    ):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(HwgenError, match=message):
            DesignPoint.load(path)


@pytest.mark.parametrize(("change", "message"), [
    ({"tile": 2}, "tile must be 0, not 2, for a SparseConv does not use it"),
    ({"sparse": Sparse(((0, 1), (1, 2, 3)))}, "divided among the multipliers, each once"),
    ({"sparse": Sparse(((0, 1),))}, "Streams must be the 4 of channel lanes times tap lanes"),
    ({"sparse": Sparse(even_streams(4, 2), queue=2)}, "Depth must be at least the 9 beats"),
])
def test_refused(change: dict, message: str) -> None:
    b, design = residual()
    design.foldings["grouped"] = replace(design.foldings["grouped"], **change)
    with pytest.raises(HwgenError, match=message):
        plan(b.graph, design)
