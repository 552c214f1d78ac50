"""Small networks, down to one layer, one channel, one pixel and one cycle: all get a design."""

import numpy as np
import pytest

from hwgen import boards
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.models.lowering import lower
from hwgen.models.quantisation.calibrate import statistics
from hwgen.models.quantisation.precision import Precision
from hwgen.sim.verilator import VerilatorModel
from tests.models.float_networks import N, network, noise


def dense(*widths):
    """Fully connected layers with ReLU between."""
    random = np.random.default_rng(len(widths))
    nodes, constants, last = [], {}, "x"
    for k, (cin, cout) in enumerate(zip(widths, widths[1:])):
        constants[f"w{k}"] = random.normal(0, cin**-0.5, (cout, cin)).astype(np.float32)
        constants[f"b{k}"] = random.normal(0, 0.2, cout).astype(np.float32)
        nodes.append(N("Gemm", [last, f"w{k}", f"b{k}"], [f"g{k}"], transB=1))
        last = f"g{k}"
        if k < len(widths) - 2:
            nodes.append(N("Relu", [last], [f"r{k}"]))
            last = f"r{k}"
    nodes[-1].output[0] = "y"
    return network(nodes, constants, {"x": (1, widths[0])})


def conv(shape, *weights, kind="Conv", **attributes):
    """A convolution of an input."""
    random = np.random.default_rng(0)
    w = random.normal(0, 0.3, weights).astype(np.float32)
    return network([N(kind, ["x", "w"], ["y"], **attributes)], {"w": w}, {"x": shape})


def single(kind, shape=(1, 4, 6, 6), **attributes):
    """A convolution of one tap, and an op."""
    w = np.random.default_rng(0).normal(0, 0.5, (shape[1], shape[1], 1, 1)).astype(np.float32)
    return network([N("Conv", ["x", "w"], ["c"]), N(kind, ["c"], ["y"], **attributes)], {"w": w},
                   {"x": shape})


NETWORKS = {
    "jet tagging": dense(16, 64, 32, 32, 5),
    "one weight": dense(1, 1),
    "one input": dense(1, 64),
    "one output": dense(64, 1),
    "odd widths": dense(7, 13, 3),
    "narrow waist": dense(32, 1, 32),
    "wide and narrow": dense(2, 61, 2, 64, 1),
    "there and back": dense(1, 64, 1),
    "one pixel": conv((1, 8, 1, 1), 4, 8, 1, 1),
    "one channel": conv((1, 1, 9, 9), 1, 1, 3, 3),
    "one of all": conv((1, 1, 1, 1), 1, 1, 1, 1),
    "whole frame": conv((1, 3, 4, 4), 5, 3, 4, 4),
    "one dimension": conv((1, 2, 12), 3, 2, 3),
    "depthwise": conv((1, 6, 5, 5), 6, 1, 3, 3, group=6),
    "transposed": conv((1, 2, 3, 3), 2, 4, 2, 2, kind="ConvTranspose", strides=[2, 2]),
    "pool": single("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    "mean": single("GlobalAveragePool"),
    "mean of one pixel": single("GlobalAveragePool", (1, 3, 1, 1)),
    "table": single("Sigmoid"),
}
BOARDS = ("zcu102", "vcu118", "zedboard", "u50", "ulx3s-85f")
PRECISIONS = ("w8a8", "w6a6", "w2a2")


def lowered(name, precision):
    net = NETWORKS[name]
    return lower(net, statistics(net, noise(net)).ranges, Precision.parse(precision))


@pytest.mark.network
@pytest.mark.parametrize("name", NETWORKS)
def test_every_board_and_precision_has_a_design(name):
    for precision in PRECISIONS:
        graph = lowered(name, precision)
        for board in BOARDS:
            found = search(graph, boards.load(board))
            assert found.timing.interval >= 1
            assert found.timing.interval >= found.bounds.stream
        # A target far below is met with no more multipliers.
        slow = search(graph, boards.load(board), target_fps=1000.0)
        assert slow.netlist.resources().dsp <= max(found.netlist.resources().dsp, 1)


def test_the_jet_tagger_takes_one_cycle():
    graph = lowered("jet tagging", "w6a6")
    assert search(graph, boards.load("zcu102")).timing.interval == 1
    assert search(graph, boards.load("vcu118")).timing.interval == 1
    assert search(graph, boards.load("zedboard")).timing.interval <= 8


@pytest.mark.verilator
@pytest.mark.parametrize("name, precision, board", [
    ("jet tagging", "w6a6", "zedboard"), ("there and back", "w8a8", "vcu118"),
    ("one channel", "w8a8", "zcu102")])
def test_many_short_frames_at_once(name, precision, board, tmp_path):
    """A pixel stays in a window for longer than an interval: the schedule holds all the same."""
    graph = lowered(name, precision)
    found = search(graph, boards.load(board))
    model = VerilatorModel(emit(found.netlist), found.netlist, tmp_path, jobs=1, optimise=False)
    random = np.random.default_rng(0)
    frames = {
        key: random.integers(type.quantisation.low, type.quantisation.high + 1, (24, *type.shape))
        for key, type in graph.inputs.items()}
    wanted = graph.evaluate(frames)
    run = model.run(frames, interval=found.timing.interval)
    for output, values in run.outputs.items():
        np.testing.assert_array_equal(values, wanted[output])
    for times in run.last.values():
        assert (np.diff(times) == found.timing.interval).all()
    assert run.latency == found.timing.latency
