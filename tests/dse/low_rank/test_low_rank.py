"""What searches over decompositions share: choices, judging, and the file that keeps it."""

import json

import numpy as np
import pytest

from hwgen import boards
from hwgen.build import main
from hwgen.dse.low_rank.problem import Problem, chosen, designed, save
from hwgen.dse.low_rank.ranks import busy, fit
from hwgen.dse.low_rank.ways import LayerChoice, rich_ranks, ways
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models.compression.decomposition import Decomposition, cost
from hwgen.models.compression.layers import layers
from hwgen.models.compression.rewrite import decompose
from hwgen.models.load import read
from tests.models.float_networks import N, constants_of, network, noise

pytestmark = pytest.mark.network

NET = network(
    [N("Conv", ["x", "w"], ["c"], name="one", pads=[1, 1, 1, 1]), N("Relu", ["c"], ["r"]),
     N("Conv", ["r", "v"], ["d"], name="two", pads=[1, 1, 1, 1]), N("Relu", ["d"], ["y"])],
    constants_of(w=(8, 3, 3, 3), v=(16, 8, 3, 3)), {"x": (1, 3, 8, 8)})
FRAMES = noise(NET, 4)
CHOICE = {"two": Decomposition("svd_spatial", 4)}


def problem(**options):
    """The accuracy counts what is judged, so that a test knows how often that was."""
    asked = []

    def accuracy(graph: Graph) -> float:
        asked.append(graph)
        return 1.0 if len(graph.nodes) == 2 else 0.5

    return Problem(NET, FRAMES, accuracy, designed(boards.load("zedboard"), target_fps=20_000),
                   **options), asked


def test_judge(tmp_path):
    """Every choice is judged once, also by a later program; another problem is refused."""
    path = tmp_path / "journal.jsonl"
    first, asked = problem()
    judge = Judge(first, path, "zedboard")
    point = judge(CHOICE)
    assert judge(CHOICE) is point
    assert len(asked) == 2
    assert point.accuracy == 0.5
    assert point.interval <= 6250
    assert chosen(point) == CHOICE
    front = judge.front({"seed": 1})
    assert front.reference == judge.reference
    assert judge.reference in front.points
    assert front.meta["seed"] == 1

    second, asked = problem()
    again = Judge(second, path, "zedboard")
    assert again(CHOICE) == point
    assert asked == []
    assert again.front({"seed": 1}) == front

    # A last line that was cut off is judged anew.
    text = path.read_text()
    path.write_text(text[:-20])
    third, asked = problem()
    assert Judge(third, path, "zedboard")(CHOICE) == point
    assert len(asked) == 1
    assert path.read_text() == text

    for options, board, message in (
        ({}, "zcu104", "over board 'zedboard', not 'zcu104'"),
        ({"precision": "w4a8"}, "zedboard", "precision 'w8a8', not 'w4a8'"),
    ):
        with pytest.raises(HwgenError, match=message):
            Judge(problem(**options)[0], path, board)
    path.write_text("{}\n")
    with pytest.raises(HwgenError, match="not the journal of a search"):
        Judge(first, path, "zedboard")
    with pytest.raises(HwgenError, match="cannot be opened"):
        Judge(first, tmp_path / "none" / "journal.jsonl")


def test_floor():
    """What is too wrong gets no design."""
    given, _ = problem()
    judge = Judge(given, floor=0.1)
    point = judge(CHOICE)
    assert point.design is None
    assert (point.interval, point.dsp) == (judge.reference.interval, judge.reference.dsp)
    with pytest.raises(HwgenError, match="no design"):
        save(judge, point, None)
    with pytest.raises(HwgenError, match="Floor must be 0 or more"):
        Judge(given, floor=-1)


@pytest.mark.parametrize("choice, steps", [
    (CHOICE, 5), ({"two": Decomposition("svd_last", 4, bits=4)}, 0),
])
def test_found_point_is_built(choice, steps, tmp_path):
    """A point that is saved goes to the command line, with its design, and to the Verilog."""
    given, _ = problem(steps=steps)
    judge = Judge(given)
    point = judge(choice)
    save(judge, point, tmp_path / "point")
    saved = Graph.load(tmp_path / "point" / "graph.npz")
    assert len(saved.nodes) == 3
    out = tmp_path / "out"
    arguments = [str(tmp_path / "point" / "graph.npz"), "--board", "zedboard", "--out", str(out)]
    design = ["--design", str(tmp_path / "point" / "design.json")]
    assert main([*arguments, *design, "--simulate", "2"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["simulated"]["mismatches"] == 0
    assert report["interval_cycles"] == report["simulated"]["interval_cycles"] == point.interval
    assert report["dsp"] == point.dsp


def test_graph_of_its_own(tmp_path):
    """A graph that was made by hand, of which nothing but its tensors is known, has frames too."""
    given, _ = problem()
    graph = given.graph({})
    graph.meta.clear()
    graph.save(tmp_path / "graph.npz")
    source = read(str(tmp_path / "graph.npz"))
    for frames in (source.calibration(3), source.frames(3)):
        (rows,) = frames.values()
        assert rows.shape == (3, *graph.inputs["x"].shape)
        assert np.ptp(rows) > 0


def test_ways():
    given, _ = problem()
    layer = given.layers["two"]
    found = ways(layer, groups=(1, 2), ranks=3, bits=(None, 4))
    assert found[-1].decomposition is None
    costs = [way.cost.macs for way in found]
    assert costs == sorted(costs)
    assert max(costs[:-1]) < costs[-1] == cost(layer).macs
    made = [way.decomposition for way in found if way.decomposition is not None]
    kinds = {(d.scheme, d.groups, d.bits) for d in made}
    assert kinds == {(s, g, b) for s in ("svd_spatial", "svd_last", "svd_first") for g in (1, 2)
                     for b in (None, 4)} | {("cpd", 1, None)}
    for way in found[:-1]:
        assert way.cost == cost(layer, way.decomposition)
    with pytest.raises(HwgenError, match=r"Schemes must be of .*, not 'tucker'"):
        ways(layer, schemes=["tucker"])
    with pytest.raises(HwgenError, match="1 or more ranks"):
        ways(layer, ranks=0)


@pytest.mark.parametrize("budget", ["macs", "parameters"])
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 0, 0, 0]])
def test_every_way_is_smaller(budget, pads):
    """In weights and in MACs, of which a layer with strides may save one and not the other."""
    net = network([N("Conv", ["x", "w"], ["y"], name="one", strides=[2, 2], pads=pads)],
                  constants_of(w=(12, 16, 3, 3)), {"x": (1, 16, 8, 8)})
    found = ways(layers(net)["one"], groups=(1, 2), budget=budget)
    assert len(found) > 10
    for way in found[:-1]:
        decompose(net, {"one": way.decomposition})


def test_rich_ranks():
    assert rich_ranks(100, 5) == [24, 36, 60, 84, 96]
    assert rich_ranks(3, 8) == [1, 2, 3]
    assert rich_ranks(0, 4) == []


def test_no_frames():
    with pytest.raises(HwgenError, match="needs frames"):
        Problem(NET, [], lambda graph: 0.0, lambda graph: (0, 0))


def test_choice_is_one_whatever_its_order():
    given, asked = problem()
    judge = Judge(given)
    other = {"one": Decomposition("svd_last", 2), **CHOICE}
    assert judge(other) is judge(dict(reversed(other.items())))
    assert len(asked) == 2
    assert np.isfinite(judge(other).interval)


def dense(graph: Graph) -> tuple[float, int]:
    """Hardware of 16 DSPs, all busy all the time, two products each."""
    return graph.macs / 32, 16


def rank_problem(**options) -> Problem:
    return Problem(NET, FRAMES, lambda graph: 1 / len(graph.nodes), dense, **options)


def test_fit():
    """Each limit holds, and is used; the least error is with it."""
    judge = Judge(rank_problem())
    front = fit(judge, limits=(0.8, 0.6))
    reference = judge.reference.interval
    points = list(judge.points.values())[1:]
    assert [point.interval / reference for point in points] == pytest.approx([0.8, 0.6], abs=0.1)
    assert all(p.interval <= limit * reference for p, limit in zip(points, (0.8, 0.6)))
    assert all(point in (judge.reference, *points) for point in front.points)
    # A layer of which much counts stays as it is.
    heavy = Judge(rank_problem())
    fit(heavy, limits=(0.9,), sensitivity={"one": 1e9, "two": 1.0})
    (choice,) = [chosen(p) for p in heavy.points.values() if p.choice["layers"]]
    assert list(choice) == ["two"]


def test_fit_goes_on(tmp_path):
    """What was measured and judged is known to a later program."""
    path = tmp_path / "journal.jsonl"
    first = fit(Judge(rank_problem(), path), limits=(0.7,))
    text = path.read_text()
    again = fit(Judge(rank_problem(), path), limits=(0.7,))
    assert again == first
    assert path.read_text() == text


def test_bits_are_cheaper():
    """Integers of 4 bits share a DSP in threes."""
    given = rank_problem()
    layer = given.layers["two"]
    eight, four = (LayerChoice.of(layer, Decomposition("svd_last", 4, bits=bits))
                   for bits in (8, 4))
    assert busy(layer, four, given) == pytest.approx(busy(layer, eight, given) * 2 / 3, rel=0.01)
    assert busy(layer, LayerChoice.of(layer), given) == 500 * layer.weight.size * 64


def test_fit_errors():
    judge = Judge(rank_problem())
    with pytest.raises(HwgenError, match="Limits must be above 0"):
        fit(judge, limits=(1.5,))
    with pytest.raises(HwgenError, match="No choice needs at most"):
        fit(judge, limits=(0.001,))
    with pytest.raises(HwgenError, match="No layer can become smaller"):
        fit(judge, {"one": [LayerChoice.of(judge.problem.layers["one"])]})
