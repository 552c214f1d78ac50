"""States that stay on the device from frame to frame: files for streams, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwgen import boards
from hwgen.dse.design.search import search
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.ir import Recurrent
from hwgen.models.load import read
from hwgen.models.onnx.session import session
from hwgen.sim.verilator import VerilatorModel

T, F, H = 4, 5, 8


class Stream(nn.Module):
    """A layer behind each step of recurrent layers, whose states come and go."""

    def __init__(self, kind: str, layers: int) -> None:
        super().__init__()
        self.cells = getattr(nn, kind)(F, H, num_layers=layers, batch_first=True)
        self.last = nn.Linear(H, 3)

    def forward(self, x, *states):
        first, *others = states
        y, after = self.cells(x, (first, *others) if others else first)
        after = after if isinstance(after, tuple) else (after,)
        return (self.last(y), *after)


def export(module: nn.Module, inputs: tuple[torch.Tensor, ...], path: Path, **names) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, str(path), dynamo=False, opset_version=17, **names)
    return path


def streaming(path: Path, kind: str = "LSTM", layers: int = 1) -> Path:
    """A file for streams, and beside it the frames that its ranges are of."""
    torch.manual_seed(0)
    count = 2 if kind == "LSTM" else 1
    states = torch.zeros(count, layers, 1, H)
    names = ["h", "c"][:count]
    export(
        Stream(kind, layers), (torch.zeros(1, T, F), *states), path,
        input_names=["x", *names], output_names=["y", *(f"{n}_after" for n in names)])
    np.save(path.with_suffix(".npy"), frames(32))
    return path


def frames(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 1, T, F), np.float32)[:, 0]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_stream_in_frames(kind, layers, tmp_path):
    """States go from frame to frame as if the user handed them on."""
    path = streaming(tmp_path / "net.onnx", kind, layers)
    source = read(str(path), calibration=path.with_suffix(".npy"), keep_state=True)
    graph = source.graph
    assert (len(graph.inputs), len(graph.outputs)) == (1, 1)
    assert [n.op.keep for n in graph.nodes if isinstance(n.op, Recurrent)] == [True] * layers
    assert graph.meta["keep_state"]
    runner, x = session(onnx.load(path)), frames(24)
    states = [np.zeros((layers, 1, H), np.float32)] * (2 if kind == "LSTM" else 1)
    wanted = []
    for frame in x:
        y, *states = runner.run(None, dict(zip("xhc", (frame[None], *states))))
        wanted.append(y)
    ((name, type),), (output,) = graph.inputs.items(), graph.outputs
    got = graph.evaluate({name: type.quantisation.quantise(x)})[output]
    real = graph.types[output].quantisation.dequantise(got)
    assert np.sqrt(np.mean(np.square(real - np.concatenate(wanted)))) < 0.015
    anew = graph.evaluate({name: type.quantisation.quantise(x[-1:])})[output]
    assert (anew != got[-1]).any()


@pytest.mark.verilator
def test_in_verilog(tmp_path):
    path = streaming(tmp_path / "net.onnx", "LSTM", 2)
    graph = read(str(path), calibration=path.with_suffix(".npy"), keep_state=True).graph
    found = search(graph, boards.load("zcu104"), target_fps=100_000)
    ((name, type),), (output,), count = graph.inputs.items(), graph.outputs, 6
    x = {name: type.quantisation.quantise(frames(count))}
    model = VerilatorModel(emit(found.netlist), found.netlist, tmp_path / "model", optimise=False)
    wanted = graph.evaluate(x)[output]
    paced = model.run(x, interval=found.timing.interval)
    # Each run begins with a reset.
    for run in (paced, model.run(x), model.run(x, stall=0.3, seed=1)):
        np.testing.assert_array_equal(run.outputs[output], wanted)
    assert paced.interval == found.timing.interval
    (last,) = found.timing.of_frames(count)[1]
    np.testing.assert_array_equal(paced.last[output], last)


def test_a_file_whose_frames_begin_with_zeros(tmp_path):
    """Without inputs for states, too; nothing of them is asked for."""
    torch.manual_seed(0)

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.GRU(F, H, batch_first=True)

        def forward(self, x):
            return self.cells(x)[0]

    path = export(Plain(), (torch.zeros(1, T, F),), tmp_path / "net.onnx")
    for keep in (False, True):
        graph = read(str(path), keep_state=keep).graph
        (cell,) = (n.op for n in graph.nodes if isinstance(n.op, Recurrent))
        assert cell.keep == keep
    # No frame is long enough to show how far its units go.
    assert cell.output.scale == pytest.approx(1 / 127, rel=1e-6)


def test_refusals(tmp_path):
    path = streaming(tmp_path / "net.onnx")
    with pytest.raises(HwgenError, match=r"input 'h' is a state in front.*: give --keep-state"):
        read(str(path))
    with pytest.raises(HwgenError, match=r"resnet8 has no recurrent cell.*leave out --keep-state"):
        read("resnet8", keep_state=True)
    model = onnx.load(path)
    state = next(node for node in model.graph.node if node.op_type == "LSTM").input[5]
    model.graph.node.append(onnx.helper.make_node("Relu", [state], ["more"], name="relu"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("more", 1, (1, 1, H)))
    onnx.save(model, path)
    with pytest.raises(HwgenError, match=r"node 'relu' \(Relu\) reads the state 'h'"):
        read(str(path), keep_state=True)
    both = export(nn.GRU(F, H, batch_first=True, bidirectional=True), (torch.zeros(1, T, F),),
                  tmp_path / "both.onnx")
    with pytest.raises(HwgenError, match=r"it reads a frame from its end.*leave out --keep-state"):
        read(str(both), keep_state=True)
