"""Decomposed networks in Verilator: every scheme, and a residual block, under random stalls."""

import numpy as np
import pytest

from hwgen import boards
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.models.compression.decomposition import Decomposition
from hwgen.models.compression.rewrite import decompose
from hwgen.models.lowering import lower
from hwgen.models.quantisation.calibrate import statistics
from hwgen.models.quantisation.precision import Precision
from hwgen.sim.verilator import VerilatorModel
from tests.models.float_networks import N, constants_of, network, noise

pytestmark = pytest.mark.verilator

CHOICES = {
    "spatial": Decomposition("svd_spatial", 6),
    "spatial_groups": Decomposition("svd_spatial", 3, 2),
    "last": Decomposition("svd_last", 5, bits=4),
    "last_groups": Decomposition("svd_last", 2, 3),
    "first": Decomposition("svd_first", 4),
    "first_groups": Decomposition("svd_first", 2, 4, bits=6),
    "cpd": Decomposition("cpd", 7),
    "branches": Decomposition("svd_first", 2, residual=Decomposition("svd_spatial", 3)),
    "sparse": Decomposition("svd_spatial", 3, residual=Decomposition("sparse", density=0.2)),
    "matrix": Decomposition("svd_last", 4),
}


def chain():
    """A convolution for each scheme; a sum around the first two makes them a residual block."""
    nodes, shapes, tensor = [], {}, "x"
    for k, name in enumerate(list(CHOICES)[:-1]):
        shapes[f"w_{name}"], shapes[f"b_{name}"] = (12, 12, 3, 3), (12,)
        nodes.append(N("Conv", [tensor, f"w_{name}", f"b_{name}"], [f"c_{name}"], name=name,
                       pads=[1, 1, 1, 1]))
        tensor = f"c_{name}"
        if k == 1:
            nodes.append(N("Add", [tensor, "x"], ["s"]))
            tensor = "s"
        nodes.append(N("Relu", [tensor], [f"r_{name}"]))
        tensor = f"r_{name}"
    shapes["m"] = (10, 12)
    nodes += [N("GlobalAveragePool", [tensor], ["g"]), N("Flatten", ["g"], ["f"]),
              N("Gemm", ["f", "m"], ["y"], name="matrix", transB=1)]
    return network(nodes, constants_of(**shapes), {"x": (1, 12, 6, 7)})


def test_every_scheme(tmp_path):
    """Bit-exact, at the interval that was predicted."""
    net = decompose(chain(), CHOICES, allow_growth=True)
    feeds = noise(net, 8)
    graph = lower(net, statistics(net, feeds).ranges, Precision.parse("w8a8"), None)
    found = search(graph, boards.load("zcu104"), target_fps=100_000)
    inputs = {name: np.stack([type.quantisation.quantise(np.moveaxis(feed["x"][0], 0, -1))
                              for feed in feeds[:3]]) for name, type in graph.inputs.items()}
    wanted = graph.evaluate(inputs)
    model = VerilatorModel(emit(found.netlist), found.netlist, tmp_path)
    for options in ({"interval": found.timing.interval}, {}, {"stall": 0.3, "seed": 5}):
        run = model.run(inputs, **options)
        for name, value in wanted.items():
            np.testing.assert_array_equal(run.outputs[name], value)
        if not options:
            assert run.interval == found.timing.interval
