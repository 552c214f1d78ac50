"""LSTM, GRU and RNN as exporters leave them in files: cells of the integer graph, or refused."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from hwgen.errors import HwgenError
from hwgen.ir import Rearrange, Recurrent
from hwgen.models.export import to_integer, to_onnx_layout
from hwgen.models.load import read
from hwgen.models.onnx.session import session
from tests.models.whole import compared

T, F, H = 12, 5, 8


class Classifier(nn.Module):
    """A recurrent layer or several, and a linear one behind what is taken of them."""

    def __init__(self, kind: str, take: str, **options) -> None:
        super().__init__()
        self.take = take
        self.cells = getattr(nn, kind)(F, H, batch_first=True, **options)
        self.last = nn.Linear(H * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x):
        y, h = self.cells(x)
        h = h[0] if isinstance(h, tuple) else h
        if self.take == "states":
            return self.last(h[-1] if self.last.in_features == H else torch.cat([h[-2], h[-1]], -1))
        return self.last(y[:, -1] if self.take == "last" else y)


def exported(module: nn.Module, path, opset: int, shape=(1, T, F)):
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # pyright: ignore[reportCallIssue]
    options = {"external_data": False} if opset >= 18 else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.rand(*shape),), str(path), dynamo=opset >= 18,
                          opset_version=opset, **options)
    return path


TWO = {"num_layers": 2, "bidirectional": True}


@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("take,options", [("last", {}), ("all", TWO), ("states", TWO)])
def test_files_of_pytorch(kind, take, options, opset, tmp_path):
    path = exported(Classifier(kind, take, **options), tmp_path / "net.onnx", opset)
    source, decibels = compared(path)
    assert decibels > 30
    cells = [node.op for node in source.graph.nodes if isinstance(node.op, Recurrent)]
    assert [op.kind for op in cells] == [kind.lower()] * (4 if options else 1)
    turns = sum(isinstance(node.op, Rearrange) for node in source.graph.nodes)
    # Backwards: in front of both cells, and behind those of which all steps are used.
    assert turns == (0 if not options else 4 if take == "all" else 3)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_plain_cells(nonlinearity, tmp_path):
    module = Classifier("RNN", "last", nonlinearity=nonlinearity)
    source, decibels = compared(exported(module, tmp_path / "net.onnx", 17))
    assert decibels > 30
    (op,) = (node.op for node in source.graph.nodes if isinstance(node.op, Recurrent))
    assert op.function.lower() == nonlinearity


def test_integer_onnx_of_a_file(tmp_path):
    graph = read(str(exported(Classifier("GRU", "all", **TWO), tmp_path / "n.onnx", 17))).graph
    ((name, type),) = graph.inputs.items()
    frames = np.random.default_rng(0).integers(-128, 128, (3, *type.shape))
    mine = graph.evaluate({name: frames}, keep=list(graph.types))
    names = [n for n in graph.types if n not in graph.inputs]
    theirs = session(to_integer(graph)).run(names, {name: to_onnx_layout(frames).astype(np.int8)})
    for tensor, value in zip(names, theirs, strict=True):
        np.testing.assert_array_equal(value, to_onnx_layout(mine[tensor]), tensor)


def file(path, kind="LSTM", inputs=None, outputs=("y",), constants=None, shape=(1, T, F), **more):
    """A file as TensorFlow's exporters write it: transposed around, with one cell and a layer."""
    random, gates = np.random.default_rng(0), {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    dirs = 2 if more.get("direction") == "bidirectional" else 1
    values = {
        "w": random.normal(0, 0.4, (dirs, gates * H, F)),
        "r": random.normal(0, 0.3, (dirs, gates * H, H)),
        "b": random.normal(0, 0.2, (dirs, 2 * gates * H)),
        "d": random.normal(0, 0.4, (dirs * H, 3)), **(constants or {}),
    }
    take = "y_h" if "y_h" in outputs else "y"
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(kind, inputs or ["t", "w", "r", "b"], list(outputs), name="cell",
                         hidden_size=H, **more),
    ]
    if take == "y":
        nodes.append(helper.make_node("Transpose", ["y"], ["u"], perm=[2, 0, 1, 3]))
        values["s"] = np.array([1, T, dirs * H], np.int64)
    else:
        nodes.append(helper.make_node("Transpose", ["y_h"], ["u"], perm=[1, 0, 2]))
        values["s"] = np.array([1, dirs * H], np.int64)
    nodes += [helper.make_node("Reshape", ["u", "s"], ["v"]),
              helper.make_node("MatMul", ["v", "d"], ["z"])]
    if "y_c" in outputs:
        nodes.append(helper.make_node("Squeeze", ["y_c"], ["c"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, shape)],
        [onnx.ValueInfoProto(name=n) for n in ["z", *(["c"] if "y_c" in outputs else [])]],
        [numpy_helper.from_array(
            v if v.dtype.kind == "i" else v.astype(np.float32), k)
         for k, v in values.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)])
    model.ir_version = 8
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


STARTS = {"h": np.linspace(-0.3, 0.4, H).reshape(1, 1, H), "c": np.full((1, 1, H), -0.7)}
FULL = ["t", "w", "r", "b", "l", "h", "c"]


@pytest.mark.parametrize("options", [
    {"direction": "reverse"}, {"kind": "GRU", "linear_before_reset": 1, "outputs": ("", "y_h")},
    {"kind": "GRU", "linear_before_reset": 1, "direction": "reverse", "outputs": ("", "y_h")},
    {"inputs": FULL, "constants": {**STARTS, "l": np.array([T], np.int32)}, "outputs": ("", "y_h")},
    {"kind": "GRU", "linear_before_reset": 1, "inputs": ["t", "w", "r", "b", "", "h"],
     "constants": STARTS},
    {"kind": "GRU"}, {"kind": "GRU", "direction": "bidirectional", "outputs": ("", "y_h")},
    {"kind": "GRU", "inputs": ["t", "w", "r", "b", "", "h"], "constants": STARTS},
    {"inputs": ["t", "w", "r"], "outputs": ("y", "y_h")},
    {"kind": "RNN", "activations": ["Relu"], "direction": "reverse"},
])
def test_forms_of_files(options, tmp_path):
    _, decibels = compared(file(tmp_path / "net.onnx", **options))
    assert decibels > 28


@pytest.mark.parametrize("opset", [7, 9, 14, 22])
def test_opsets(opset, tmp_path):
    path = file(tmp_path / "net.onnx", direction="bidirectional")
    model = onnx.load(path)
    model.opset_import[0].version = opset
    onnx.save(model, path)
    _, decibels = compared(path)
    assert decibels > 30


@pytest.mark.parametrize("options,message", [
    ({"clip": 3.0}, "'cell' \\(LSTM\\): clip is not supported"),
    ({"input_forget": 1}, "input_forget = 1"),
    ({"activations": ["HardSigmoid", "Tanh", "Tanh"]}, "activations Hardsigmoid, Tanh, Tanh are"),
    ({"inputs": ["t", "w", "r", "b", "l"], "constants": {"l": np.array([T - 1], np.int32)}},
     f"sequence_lens must be all {T} steps, not \\[{T - 1}\\]"),
    ({"inputs": [*FULL, "p"], "constants": {
        **STARTS, "l": np.array([T], np.int32), "p": np.ones((1, 3 * H))}}, "peepholes \\(P\\)"),
    ({"outputs": ("y", "", "y_c")}, "the state 'y_c' \\(Y_c\\) is used"),
    ({"kind": "GRU", "linear_before_reset": 1, "inputs": ["t", "w", "r", "b", "", "h"],
      "constants": {"h": np.full((1, 1, H), 2.0)}}, "initial_h must be within -1..1"),
])
def test_refusals(options, message, tmp_path):
    with pytest.raises(HwgenError, match=message):
        read(str(file(tmp_path / "net.onnx", **options)))


class StepsFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.last = nn.LSTM(F, H), nn.Linear(H, 3)

    def forward(self, x):
        return self.last(self.cells(x)[0])


class StepsFirstInside(StepsFirst):
    def forward(self, x):
        return super().forward(x.transpose(0, 1))


def test_steps_in_front_are_refused(tmp_path):
    with pytest.raises(HwgenError, match=r"has its steps in front.*batch_first"):
        read(str(exported(StepsFirst(), tmp_path / "net.onnx", 17, (T, 1, F))))
    with pytest.raises(HwgenError, match=r"has its steps in front.*batch_first"):
        read(str(exported(StepsFirstInside(), tmp_path / "net.onnx", 17)))
