"""The search for thresholds: fronts that hold, the same every time, resumed and refused."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from hwgen import boards
from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.dse.tradeoff.front import Front, Point, best, pareto
from hwgen.dse.tradeoff.thresholds import (
    Hardware,
    Space,
    applied,
    designed,
    search_thresholds,
    space,
)
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


@pytest.mark.parametrize("name", ["study.db", "study.journal"])
def test_resumed_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    b = network()
    options = {"floor": 0.4, "where": Space({"c1": 0.9}, {"c1": 0.8}, 2)}
    whole = search(b, trials=13, **options)
    tried = []

    def stops(graph: Graph) -> float:
        tried.append(graph)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return agreement(b)(graph)

    file = tmp_path / name
    first = search(b, storage=file, trials=11, **options)
    assert first.meta["trials"] == 11
    calls: list[str] = []
    resumed = search(b, storage=file, trials=13, progress=calls.append, **options)
    assert len(calls) == 2
    assert resumed == whole
    # Interrupted within a trial, it goes on, too.
    with pytest.raises(KeyboardInterrupt):
        search_thresholds(b.graph, b.frames(4), stops, work, storage=file, trials=30, **options)
    assert search(b, storage=file, trials=16, **options).meta["trials"] == 16


@pytest.mark.parametrize("change,message", [
    ({"board": "zcu104"}, "is a study of board 'zcu102', not 'zcu104': give another file"),
    ({"where": Space({"c1": 0.5}, {})}, "is a study of other layers or shares"),
    ({"floor": 0.2}, "is a study of floor 0.05, not 0.2"),
])
def test_study_of_something_else(change: dict, message: str, tmp_path: Path) -> None:
    b = network()
    given = {"storage": tmp_path / "study", "board": "zcu102", "trials": 1}
    search(b, **given)
    with pytest.raises(HwgenError, match=message):
        search(b, **{**given, **change})


def test_study_of_another_network(tmp_path: Path) -> None:
    file = tmp_path / "study"
    search(network(), storage=file, trials=1)
    with pytest.raises(HwgenError, match=r"study is a study of another network: give another"):
        search(network(seed=1), storage=file, trials=1)
    (tmp_path / "damaged.db").write_text("no database, " * 100)
    (tmp_path / "damaged").write_text("no journal\n" * 100)
    for name in ("damaged.db", "damaged"):
        with pytest.raises(HwgenError, match=f"{name} is not a study that can be opened: "):
            search(network(), storage=tmp_path / name, trials=1)
    with pytest.raises(HwgenError, match="is not a directory"):
        search(network(), storage=tmp_path / "none" / "study.db", trials=1)


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


# Fronts

def point(accuracy: float, interval: float, dsp: int) -> Point:
    return Point({"n": interval}, accuracy, interval, dsp)


FRONT = Front.of(
    [point(0.9, 100, 10), point(0.9, 100, 10), point(0.895, 50, 10), point(0.7, 10, 10),
     point(0.89, 60, 10), point(0.9, 200, 4)],
    point(0.9, 100, 10), {"network": "n"},
)


def test_pareto() -> None:
    assert FRONT.points == (point(0.7, 10, 10), point(0.895, 50, 10), point(0.9, 100, 10),
                            point(0.9, 200, 4))
    assert len(FRONT.others) == 2
    assert pareto([]) == ()


def test_best_for_a_loss() -> None:
    assert best(FRONT) == point(0.895, 50, 10)
    assert best(FRONT, 0.0) == point(0.9, 200, 4)
    assert best(FRONT, 0.5) == point(0.7, 10, 10)
    assert best(FRONT, 0.0).efficiency == 1250
    for loss in (-0.1, float("nan")):
        with pytest.raises(HwgenError, match=r"^Loss must be 0 or more, not "):
            best(FRONT, loss)


def test_saved_and_drawn(tmp_path: Path) -> None:
    FRONT.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json") == FRONT
    png, svg = FRONT.plot(tmp_path / "front", "A network", 250.0)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in svg.read_text()
    for text in ("{}", "[", json.dumps({"format": "other"}), "3"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(HwgenError, match=r"bad\.json is not the front of a search"):
            Front.load(tmp_path / "bad.json")
    with pytest.raises(HwgenError, match=r"none\.json cannot be read"):
        Front.load(tmp_path / "none.json")
