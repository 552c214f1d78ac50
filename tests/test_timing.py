"""The schedule of whole pipelines is what the Amaranth simulator sees, to the cycle."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen.design import DesignPoint, Folding
from hwgen.errors import HwgenError
from hwgen.plan import plan
from hwgen.sim.amaranth import simulate_netlist
from hwgen.timing import analyse, arrivals, sized
from tests.networks import Builder


def residual():
    """Two branches of very different length that meet again, and a stride."""
    b = Builder((6, 6, 3))
    a = b.conv("image", 4, 3, "c0")
    c = b.conv(b.act(b.conv(a, 4, 1, "c1"), "s1"), 4, 3, "c2")
    b.graph.outputs = [b.conv(b.add(a, c, "sum"), 3, 3, "head", stride=2), "sum"]
    design = DesignPoint("zcu102", 250.0, {"c0": Folding(3, 2, 1, 3), "c2": Folding(3, 3, 1, 2)},
                         {"image": 3})
    return b, design


@pytest.mark.slow
def test_prediction_is_exact():
    b, design = residual()
    full, netlist, timing = sized(b.graph, design)
    frames = b.frames(3)
    want = b.graph.evaluate(frames)
    pace = arrivals(36, timing.interval, 3)
    run = simulate_netlist(netlist, frames, arrivals={"image": pace})
    first, last = timing.of_frames(3)
    for k, name in enumerate(netlist.outputs):
        assert (run.outputs[name] == want[name]).all()
        assert (run.first[name] == first[k]).all()
        assert (run.last[name] == last[k]).all()
    assert timing.first_output == run.first_output
    assert timing.latency == run.latency
    assert timing.interval == run.interval
    assert full.depths == timing.depths
    # The short branch waits for the long one in its queue.
    assert timing.depths["c0>sum"] > 50


@pytest.mark.slow
@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_fast_input_and_stalls_do_not_deadlock(stall):
    b, design = residual()
    _, netlist, timing = sized(b.graph, design)
    frames = b.frames(3)
    want = b.graph.evaluate(frames)
    run = simulate_netlist(netlist, frames, stall=stall, seed=5)
    for name in netlist.outputs:
        assert (run.outputs[name] == want[name]).all()
        if not stall:
            assert run.last[name][2] - run.last[name][1] == timing.interval


@pytest.mark.slow
def test_queue_of_many_frames():
    """A short branch beside one whose latency is many intervals holds as many frames."""
    b = Builder((4, 4, 2))
    x = "image"
    for k in range(5):
        x = b.conv(x, 2, 3, f"c{k}")
    b.graph.outputs = [b.add("image", x, "sum")]
    folding = Folding(channel_lanes=2, tap_lanes=9, pe=2)
    layers = [f"c{k}" for k in range(5)]
    design = DesignPoint("zcu102", 250.0, dict.fromkeys(layers, folding),
                         dict.fromkeys(["image", *layers, "sum"], 2))
    _, netlist, timing = sized(b.graph, design)
    assert timing.interval == 16
    assert timing.latency > 4 * timing.interval
    assert timing.depths["image>sum"] > 4 * 16
    frames = b.frames(12)
    run = simulate_netlist(netlist, frames, arrivals={"image": arrivals(16, 16, 12)})
    assert (run.outputs["sum"] == b.graph.evaluate(frames)["sum"]).all()
    first, last = timing.of_frames(12)
    assert (run.first["sum"] == first[0]).all()
    assert (run.last["sum"] == last[0]).all()


def test_slower_pace_needs_no_more():
    b, design = residual()
    netlist = plan(b.graph, design)
    fast, slow = analyse(netlist), analyse(netlist, 3 * netlist.interval)
    assert slow.interval == 3 * fast.interval
    assert all((np.diff(last) == slow.interval).all() for last in slow.last)


def test_refusals():
    b, design = residual()
    netlist = plan(b.graph, design)
    with pytest.raises(HwgenError, match=f"Interval must be at least {netlist.interval}"):
        analyse(netlist, 5)
    for change, message in [
        ({"foldings": {"nope": Folding()}}, "folds 'nope', which is not in the graph"),
        ({"lanes": {"nope": 2}}, "sets lanes of 'nope'"),
        ({"depths": {"nope>x": 2}}, "sets the depth of 'nope>x', which is not an edge"),
        ({"foldings": {"c1": Folding(5)}}, "Node 'c1': Channel lanes must be between 1 and 4"),
        ({"lanes": {"c0": 3}}, "Node 'c0': "),
    ]:
        with pytest.raises(HwgenError, match=message):
            plan(b.graph, replace(design, **change))
    with pytest.raises(HwgenError, match="pe must be a positive integer"):
        Folding(pe=0)


def test_design_file(tmp_path):
    b, design = residual()
    full, _, _ = sized(b.graph, design)
    full.save(tmp_path / "design.json")
    assert DesignPoint.load(tmp_path / "design.json") == full
    (tmp_path / "design.json").write_text("{}")
    with pytest.raises(HwgenError, match="is not a design point"):
        DesignPoint.load(tmp_path / "design.json")
