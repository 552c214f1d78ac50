"""The search for thresholds: fronts that hold, the same every time, resumed and refused."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.dse.sparse.thresholds import Space, applied, designed, search_thresholds, space
from hwgen.dse.tradeoff.front import Front, Hardware, best
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Graph
from hwgen.models.compression.pruning import channel_means, prune, threshold
from tests.networks import Builder

pytestmark = pytest.mark.network

MULTIPLIERS = 2


def network(seed: int = 0) -> Builder:
    b = Builder((6, 6, 2), seed)
    x = b.conv(b.conv("image", 8, 3, "c0"), 8, 3, "c1", stride=2)
    b.graph.outputs = [b.gemm(x, 5, "scores")]
    return b


def agreement(b: Builder):
    """Share of frames whose largest score is that of the network as given."""
    frames = b.frames(64, seed=9)
    want = b.graph.evaluate(frames)["scores"].argmax(-1)
    return lambda graph: float((graph.evaluate(frames)["scores"].argmax(-1) == want).mean())


def work(graph: Graph, frames: Mapping[str, np.ndarray]) -> Hardware:
    """A stand-in: the slowest convolution at two multipliers of nine streams, in pairs."""
    convs = [n for n in graph.nodes if isinstance(n.op, Conv)]
    values = graph.evaluate(frames, keep=[n.inputs[0] for n in convs])
    cycles = []
    for node in convs:
        assert isinstance(node.op, Conv)
        config = SparseConvConfig(
            op=node.op, tensor=graph.types[node.inputs[0]], tap_lanes=9, pe=2, skip="both",
            streams=even_streams(9, MULTIPLIERS),
        )
        done = config.work(values[node.inputs[0]]).sum(1).max(-1)
        cycles.append(np.maximum(done, config.window.steps).sum() / len(values[node.inputs[0]]))
    return Hardware(max(cycles), MULTIPLIERS * len(convs), {"slowest": int(np.argmax(cycles))})


def search(b: Builder, **options) -> Front:
    options = {"trials": 16, "hardware": work, "where": space(b.graph, pe=2), **options}
    return search_thresholds(b.graph, b.frames(4), agreement(b), **options)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_finds_faster_networks(sampler: str) -> None:
    b = network()
    lines: list[str] = []
    front = search(b, floor=0.4, sampler=sampler, progress=lines.append)
    assert len(lines) == 16
    assert front.reference.accuracy == 1.0
    assert front.reference.interval == work(b.graph, b.frames(4)).interval
    assert len(front.points) > 1
    assert front.points[0].interval < 0.85 * front.reference.interval
    for point in front.points:
        assert point.accuracy >= 0.6
        assert not any(other.beats(point) for other in (*front.points, *front.others))
        # A point can be made again.
        graph = applied(b.graph, point.choice, channel_means(b.graph, b.frames(4)))
        assert agreement(b)(graph) == point.accuracy
        found = work(graph, b.frames(4))
        assert (found.interval, found.dsp) == (point.interval, point.dsp)
        assert point.design == found.design
    chosen = best(front, 0.2)
    assert chosen.accuracy >= 0.8
    assert chosen.efficiency >= front.reference.efficiency


def test_no_design_for_what_is_too_wrong() -> None:
    b = network()
    designs = []

    def hardware(graph: Graph, frames: Mapping[str, np.ndarray]) -> Hardware:
        designs.append(agreement(b)(graph))
        return work(graph, frames)

    front = search(b, floor=0.1, trials=14, hardware=hardware)
    assert 1 < len(designs) < 14
    assert min(designs) >= 0.9
    assert all(point.accuracy >= 0.9 for point in (*front.points, *front.others))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_resumed_as_if_never_stopped(sampler: str, tmp_path: Path) -> None:
    """What the file knows is not judged again, also if the search was stopped within a trial."""
    b = network()
    tried: list[Graph] = []

    def resumed(most: int, **options) -> Front:
        tried.clear()

        def accuracy(graph: Graph) -> float:
            if len(tried) == most:
                raise KeyboardInterrupt
            tried.append(graph)
            return agreement(b)(graph)

        return search_thresholds(
            b.graph, b.frames(4), accuracy, work, where=Space({"c1": 0.9}, {"c1": 0.8}, 2),
            floor=0.4, trials=14, sampler=sampler, **options)

    whole, judged = resumed(99), len(tried)
    assert judged > 11
    file = tmp_path / "search.journal"
    with pytest.raises(KeyboardInterrupt):
        resumed(11, storage=file)
    assert resumed(99, storage=file) == whole
    assert len(tried) == judged - 11
    assert resumed(0, storage=file) == whole


@pytest.mark.parametrize("change,message", [
    ({"board": "zcu104"}, "over board 'zcu102', not 'zcu104': give another file"),
    ({"where": Space({"c1": 0.5}, {})}, "over other layers or shares"),
    ({"floor": 0.2}, "over floor 0.05, not 0.2"),
])
def test_journal_of_something_else(change: dict, message: str, tmp_path: Path) -> None:
    b = network()
    given = {"storage": tmp_path / "journal", "board": "zcu102", "trials": 1}
    search(b, **given)
    with pytest.raises(HwgenError, match=rf"journal is the journal of a search {message}"):
        search(b, **{**given, **change})


def test_journal_of_another_network(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    search(network(), storage=file, trials=1)
    with pytest.raises(HwgenError, match=r"a search over another network: give another file"):
        search(network(seed=1), storage=file, trials=1)


@pytest.mark.parametrize("options,message", [
    ({"sampler": "luck"}, "^Sampler must be one of tpe, nsga2, not 'luck'$"),
    ({"trials": 0}, "^The search needs 1 or more trials, not 0$"),
    ({"floor": -1}, "^Floor must be 0 or more, not -1$"),
    ({"floor": float("nan")}, "^Floor must be 0 or more, not nan$"),
    ({"where": Space({}, {})}, "^There is nothing that could become zero"),
    ({"where": Space({"c9": 0.5}, {})}, "^The graph has no convolution or matrix 'c9' to prune$"),
    ({"where": Space({}, {"c9": 0.5})}, "^The graph has no tensor 'c9'$"),
])
def test_refused(options: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        search(network(), **options)


def test_shares_are_of_what_is_not_zero() -> None:
    """A network that was pruned already: every share is more than it has."""
    b = network()
    pruned = prune(b.graph, {"c1": 0.6}, pe=2)
    front = search_thresholds(
        pruned, b.frames(4), lambda graph: 1.0, work, where=Space({"c1": 0.5}, {}, 2), trials=8)
    shares = [p.choice["weights"]["c1"] for p in (*front.points, *front.others)]
    assert min(share for share in shares if share) > 0.6
    assert max(shares) <= 0.8
    assert front.points[0].interval <= front.reference.interval


def test_space() -> None:
    b = network()
    b.graph.outputs.append(b.conv("c1", 8, 3, "depthwise", groups=8))
    found = space(b.graph, weights=0.5, activations=0.7, pe=6)
    assert found.weights == {"c0": 0.5, "c1": 0.5, "scores": 0.5}
    assert found.activations == {"c0": 0.7, "c1": 0.7}
    assert found.pe == {"c0": 6, "c1": 6, "scores": 5}
    assert space(b.graph, weights=0).weights == {}
    with pytest.raises(HwgenError, match=r"^The largest share of weights of 'c0' must be between"):
        Space({"c0": 1.0}, {})


def test_designed_gives_measured_statistics_to_the_search(monkeypatch) -> None:
    """The default hardware, with the modules that it needs in name only."""
    b = network()

    def measure(graph, frames):
        return "statistics", len(frames["image"])

    def fake(graph, board, *, statistics, target_fps):
        assert (statistics, target_fps, board.name) == (("statistics", 3), 5.0, "zcu102")
        resources = types.SimpleNamespace(dsp=7)
        return types.SimpleNamespace(
            timing=types.SimpleNamespace(interval=99),
            netlist=types.SimpleNamespace(resources=lambda: resources), design={"a": 1})

    for name, found in (("sparse.statistics", {"measure": measure}),
                        ("design.search", {"search": fake})):
        monkeypatch.setitem(sys.modules, f"hwgen.dse.{name}", types.SimpleNamespace(**found))
    made = designed(boards.load("zcu102"), target_fps=5.0)(b.graph, b.frames(3))
    assert made == Hardware(99, 7, {"a": 1})


def test_thresholds_of_tensors_reach_the_graph() -> None:
    b = network()
    choice = {"weights": {"c1": 0.0}, "activations": {"c0": 30}, "pe": {"c1": 2}}
    frames = b.frames(2)
    got = applied(b.graph, choice).evaluate(frames)["scores"]
    want = threshold(b.graph, {"c0": 30}, unit="codes").evaluate(frames)["scores"]
    np.testing.assert_array_equal(got, want)
