"""Recurrent networks as PyTorch exports them, from file to Verilog: values and times."""

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from hwgen import boards
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.ir import Graph, Recurrent
from hwgen.models.load import read
from hwgen.sim.verilator import VerilatorModel
from tests.models.lowering.test_recurrent import exported, file

pytestmark = pytest.mark.verilator


class Stack(nn.Module):
    """A bidirectional LSTM, a GRU behind it, and a layer behind the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
        self.second = nn.GRU(8, 6, batch_first=True)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.second(self.first(x)[0])[0][:, -1])


def test_verilog_is_right_and_on_time(tmp_path):
    graph = read(str(exported(Stack(), tmp_path / "net.onnx", 17, (1, 7, 3)))).graph
    assert sum(isinstance(node.op, Recurrent) for node in graph.nodes) == 3
    check(graph, tmp_path)


def test_a_gru_that_resets_in_front_of_its_matrix(tmp_path):
    graph = read(str(file(tmp_path / "net.onnx", "GRU", direction="bidirectional"))).graph
    assert [node.op.reset_first for node in graph.nodes if isinstance(node.op, Recurrent)] == [
        True, True]
    check(graph, tmp_path)


def check(graph: Graph, tmp_path: Path) -> None:
    """Its Verilog gives the codes of the reference, at the times of the schedule."""
    found = search(graph, boards.load("zcu104"), target_fps=200_000)
    netlist, timing = found.netlist, found.timing
    model = VerilatorModel(emit(netlist), netlist, tmp_path / "model", optimise=False)
    ((name, type),), count = graph.inputs.items(), 4
    x = {name: np.random.default_rng(0).integers(-128, 128, (count, *type.shape))}
    (output,), wanted = graph.outputs, graph.evaluate(x)
    paced = model.run(x, interval=timing.interval)
    for run in (paced, model.run(x), model.run(x, stall=0.3, seed=1)):
        np.testing.assert_array_equal(run.outputs[output], wanted[output])
    (first,), (last,) = timing.of_frames(count)
    np.testing.assert_array_equal(paced.first[output], first)
    np.testing.assert_array_equal(paced.last[output], last)
