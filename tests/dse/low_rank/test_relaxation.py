"""The search by gradient descent: budgets hold, a search goes on, the obvious is found."""

import numpy as np
import pytest

from hwgen.dse.low_rank.problem import Problem, chosen
from hwgen.dse.low_rank.relaxation import relax
from hwgen.dse.low_rank.ways import ways
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models.compression.decomposition import Decomposition
from hwgen.models.compression.rewrite import factorise, reconstruct
from tests.models.float_networks import N, constants_of, network, noise

pytestmark = pytest.mark.network

SHAPES = {"w": (16, 3, 3, 3), "v": (16, 16, 3, 3), "u": (16, 16, 3, 3)}


def problem() -> Problem:
    """Of three layers the last is of rank 6, exactly; accuracy is nearness to the network."""
    constants = constants_of(**SHAPES)
    constants["u"] = reconstruct(
        factorise(constants["u"], Decomposition("svd_spatial", 6))).astype(np.float32)
    net = network(
        [N("Conv", ["x", "w"], ["c"], name="one", pads=[1, 1, 1, 1]), N("Relu", ["c"], ["r"]),
         N("Conv", ["r", "v"], ["d"], name="two", pads=[1, 1, 1, 1]), N("Relu", ["d"], ["s"]),
         N("Conv", ["s", "u"], ["y"], name="three", pads=[1, 1, 1, 1])],
        constants, {"x": (1, 3, 8, 8)})
    frames = noise(net, 8)
    given = Problem(net, frames, lambda graph: 0.0, dense)
    (name, type), = given.graph({}).inputs.items()
    codes = {name: np.stack([type.quantisation.quantise(np.moveaxis(f["x"][0], 0, -1))
                             for f in frames])}
    reference = given.graph({}).evaluate(codes)["y"].astype(float)

    def nearness(graph: Graph) -> float:
        lost = np.square(graph.evaluate(codes)["y"] - reference).mean()
        return float(1 / (1 + lost / np.square(reference).mean()))

    return Problem(net, frames, nearness, dense)


def dense(graph: Graph) -> tuple[float, int]:
    """Hardware of 16 DSPs, all busy all the time, two products each."""
    return graph.macs / 32, 16


def offered(given: Problem):
    return {name: ways(layer, schemes=("svd_spatial",), ranks=8)
            for name, layer in given.layers.items()}


def test_relax(tmp_path):
    """Budgets hold; the layer that loses nothing goes first; the same again from a file."""
    given = problem()
    path = tmp_path / "journal.jsonl"
    options = {"budgets": (0.8, 0.5), "steps": 40, "tries": 1}
    judge = Judge(given, path)
    front = relax(judge, offered(given), **options)
    points = [p for p in judge.points.values() if p.choice["layers"]]
    most = judge.reference.interval
    assert [p.interval <= b * most for p, b in zip(points, (0.8, 0.5))] == [True, True]
    assert "three" in chosen(points[0])
    assert chosen(points[0])["three"].rank >= 6
    assert points[0].accuracy > points[1].accuracy
    # A search that was stopped after the first budget goes on.
    other = tmp_path / "other.jsonl"
    relax(Judge(given, other), offered(given), **{**options, "budgets": (0.8,)})
    assert relax(Judge(given, other), offered(given), **options) == front
    assert relax(Judge(given, path), offered(given), **options) == front


@pytest.mark.parametrize("options, message", [
    ({"budgets": (0.0,)}, "Budgets must be above 0"),
    ({"steps": 0}, "Steps must be 1 or more"),
    ({"tries": 0}, "Tries must be 1 or more"),
])
def test_errors(options, message):
    given = problem()
    with pytest.raises(HwgenError, match=message):
        relax(Judge(given), offered(given), **options)
