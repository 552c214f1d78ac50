"""LSTM, GRU and RNN of ONNX in one form: layers for the inputs, and cells of one direction.

What the inputs contribute to the gates is an ordinary layer over all steps, written in front of the
cell as a MatMul and an Add; the cell keeps the product with its own units.  It takes the sums as
they are, unit after unit with all gates of each, by input weights that only pass them on.  So the
file still computes the same, by ops of ONNX, and calibration sees the sums.  Directions that go
backwards turn the steps round, in front of the cell and behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.ir import Recurrent
from hwgen.models.onnx.nodes import attributes, reads
from hwgen.models.onnx.shapes import infer_shapes

__all__ = ["CELLS", "cell_tensors", "refuse_steps_first", "write_cells"]

CELLS = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Ops, and how many gates they have."""
ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def refuse_steps_first(model: onnx.ModelProto, name: str) -> None:
    """Refuse inputs whose first axis is that of the steps: it would be taken for the batch.

    Raises
    ------
    :exc:`HwgenError`
        The input is named.
    """
    inputs = {value.name: value for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type in CELLS and node.input[0] in inputs and not attributes(node).get("layout"):
            dims = inputs[node.input[0]].type.tensor_type.shape.dim
            if len(dims) and dims[0].dim_value != 1:
                raise HwgenError(
                    f"{name}: input {node.input[0]!r} has its steps in front, where the batch is "
                    f"of other networks: export with the batch in front (batch_first=True)")


def cell_tensors(nodes: Sequence[onnx.NodeProto]) -> tuple[set[str], set[str]]:
    """Sums of gates in front of cells, and tensors around cells, which may have steps in front.

    Parameters
    ----------
    nodes : in the form that :func:`write_cells` leaves
    """
    makers = {out: node for node in nodes for out in node.output}
    sums: set[str] = set()
    around: set[str] = set()
    for node in nodes:
        if node.op_type not in CELLS:
            continue
        name = node.input[0]
        sums.update((name, makers[name].input[0]) if name in makers else (name,))
        around.update(node.output)
        while name in makers and makers[name].op_type in ("Add", "Gather", "MatMul", "Transpose"):
            around.add(name)
            name = makers[name].input[0]
        around.add(name)
    return sums, around


@dataclass(frozen=True)
class _Parameters:
    """Of one direction: ``W``, ``R`` and biases ``(gates, units, …)``, and where it begins."""

    w: np.ndarray
    r: np.ndarray
    wb: np.ndarray
    rb: np.ndarray
    h: np.ndarray
    c: np.ndarray


def write_cells(model: onnx.ModelProto, keep: bool = False) -> None:
    """Write LSTM, GRU and RNN in the form that the lowering knows, in place.

    Parameters
    ----------
    model : with constants folded and shapes inferred; its shapes are inferred once more
    keep : whether cells keep their states from frame to frame

    Raises
    ------
    :exc:`HwgenError`
        If there is a form of one that is not supported; the node is named.
    """
    graph = model.graph
    if not any(node.op_type in CELLS for node in graph.node):
        return
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and "value" in attributes(node):
            constants[node.output[0]] = numpy_helper.to_array(attributes(node)["value"])
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
              for v in (*graph.input, *graph.value_info, *graph.output)}
    _part_states(graph, constants, shapes)
    used = {i for node in graph.node for i in reads(node)} | {o.name for o in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in CELLS:
            nodes.append(node)
            continue
        try:
            writer = _CellWriter(model, node, constants, shapes, used)
            if keep and attributes(node).get("direction", b"forward") != b"forward":
                raise HwgenError("it reads a frame from its end, so that no state can go on to the "
                                 "next one: leave out --keep-state")
            writer.write()
        except HwgenError as error:
            raise HwgenError(f"Node {node.name or next(filter(None, node.output))!r} "
                             f"({node.op_type}): {error}") from None
        nodes += writer.nodes
        graph.initializer.extend(
            numpy_helper.from_array(value, key) for key, value in writer.constants.items())
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    have = {value.name for value in graph.value_info}
    graph.value_info.extend(
        value for value in infer_shapes(model).graph.value_info if value.name not in have)


def _part_states(
    graph: onnx.GraphProto, constants: dict[str, np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Let who takes a state of one layer take it from that layer, in place.

    Exporters join the last states of all layers, along what would be the batch elsewhere, and take
    parts of them again.
    """
    states = {out for node in graph.node if node.op_type in CELLS for out in node.output[1:]}
    joined = {node.output[0]: node for node in graph.node if node.op_type == "Concat"
              and not attributes(node)["axis"] and states.intersection(node.input)}
    for node in graph.node:
        whole = joined.get(node.input[0]) if node.input else None
        if whole is None or node.op_type != "Gather" or attributes(node).get("axis", 0) or (
                node.input[1] not in constants):
            continue
        ends = np.cumsum([shapes[part][0] for part in whole.input])
        index = constants[node.input[1]]
        index = np.where(index < 0, index + ends[-1], index)
        parts = np.unique(np.searchsorted(ends, index, side="right"))
        if len(parts) == 1:
            (part,) = parts
            name = f"{node.output[0]}.index"
            constants[name] = np.asarray(index - (ends[part - 1] if part else 0), np.int64)
            graph.initializer.append(numpy_helper.from_array(constants[name], name))
            node.input[0], node.input[1] = whole.input[part], name
    read = {i for node in graph.node for i in reads(node)} | {o.name for o in graph.output}
    for name, node in joined.items():
        if name not in read:
            graph.node.remove(node)


class _CellWriter:
    """Writes the nodes in place of one."""

    def __init__(
        self, model: onnx.ModelProto, node: onnx.NodeProto, constants: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, ...]], used: set[str],
    ) -> None:
        self.node, self.known, self.shapes = node, constants, shapes
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.at = attributes(node)
        self.gates = CELLS[node.op_type]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.base = next(filter(None, node.output))
        outputs = [*node.output, "", "", ""][:3]
        self.y, self.y_h, self.y_c = (out if out in used else "" for out in outputs)

    def op(self, kind: str, *inputs: str, out: str = "", **at) -> str:
        out = out or f"{self.base}.{kind.lower()}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **at))
        return out

    def constant(self, value, dtype=np.float32) -> str:
        key = f"{self.base}.constant.{len(self.nodes)}.{len(self.constants)}"
        self.constants[key] = np.ascontiguousarray(value, dtype)
        return key

    def given(self, k: int, what: str) -> np.ndarray | None:
        """A constant input, if there is one."""
        name = self.node.input[k] if len(self.node.input) > k else ""
        if not name:
            return None
        if name not in self.known:
            raise HwgenError(f"{what} ({name!r}) must be constant: a stream of states is not "
                             f"supported")
        return self.known[name].astype(np.float64)

    def check(self) -> tuple[int, list[str], str]:
        """Number of steps, the directions, and the function of a plain cell.

        Raises
        ------
        :exc:`HwgenError`
            If the op asks for what is not supported.
        """
        kind, at = self.node.op_type, self.at
        shape = self.shapes.get(self.node.input[0], ())
        if len(shape) != 3 or not all(shape):
            raise HwgenError("the number of steps and of inputs must be fixed: export with fixed "
                             "shapes")
        if at.get("layout"):
            raise HwgenError("layout = 1 is not supported: export with layout 0, and with "
                             "transpositions around it")
        if shape[1] != 1:
            raise HwgenError(f"it takes {shape[1]} sequences at once: export with a batch of 1")
        direction = at.get("direction", b"forward").decode()
        directions = {"forward": ["forward"], "reverse": ["reverse"],
                      "bidirectional": ["forward", "reverse"]}[direction]
        if at.get("clip"):
            raise HwgenError("clip is not supported: export without it")
        if at.get("input_forget"):
            raise HwgenError("input_forget = 1, coupled gates, is not supported: export without it")
        if at.get("activation_alpha") or at.get("activation_beta"):
            raise HwgenError("activations with parameters are not supported")
        wanted = ACTIVATIONS[kind]
        names = [a.decode().capitalize() for a in at.get("activations", ())] or (
            wanted * len(directions))
        mine = names[: len(wanted)]
        if names != mine * len(directions) or (mine != wanted and (
                kind != "RNN" or mine != ["Relu"])):
            also = ", or Relu" if kind == "RNN" else ""
            raise HwgenError(f"activations {', '.join(names)} are not supported, only "
                             f"{', '.join(wanted)}{also}")
        lengths = self.given(4, "sequence_lens")
        if lengths is not None and (lengths != shape[0]).any():
            raise HwgenError(f"sequence_lens must be all {shape[0]} steps, not "
                             f"{lengths.astype(int).tolist()}")
        peepholes = self.given(7, "P") if kind == "LSTM" else None
        if peepholes is not None and peepholes.any():
            raise HwgenError("peepholes (P) are not supported: train without them")
        if self.y_c:
            raise HwgenError(f"the state {self.y_c!r} (Y_c) is used, which is not supported, only "
                             f"Y and Y_h are")
        return shape[0], directions, mine[0]

    def parameters(self, direction: int, count: int) -> _Parameters:
        """Weights, biases and states of a direction."""
        w, r = self.given(1, "W"), self.given(2, "R")
        assert w is not None
        assert r is not None
        units, gates = r.shape[-1], self.gates
        b, h, c = self.given(3, "B"), self.given(5, "initial_h"), None
        if self.node.op_type == "LSTM":
            c = self.given(6, "initial_c")
        b = np.zeros((count, 2 * gates * units)) if b is None else b
        h, c = (np.zeros((count, 1, units)) if a is None else a for a in (h, c))
        wb, rb = b[direction].reshape(2, gates, units)
        return _Parameters(w[direction].reshape(gates, units, -1),
                           r[direction].reshape(gates, units, units), wb, rb,
                           h[direction].ravel(), c[direction].ravel())

    def write(self) -> None:
        """Write the nodes.

        Raises
        ------
        :exc:`HwgenError`
            If the op asks for what is not supported.
        """
        steps, directions, function = self.check()
        x = self.op("Transpose", self.node.input[0], perm=[1, 0, 2])
        turned = {"forward": x}
        if "reverse" in directions:
            turned["reverse"] = self.taken(x, range(steps)[::-1])
        whole, last = [], []
        for k, direction in enumerate(directions):
            y, units = self.cell(turned[direction], self.parameters(k, len(directions)), function)
            # (1, steps, units)
            y = self.op("Reshape", self.op("Transpose", y, perm=[1, 2, 0, 3]),
                        self.constant([1, steps, units], np.int64))
            if self.y_h:
                last.append(self.taken(y, [steps - 1]))
            if self.y:
                back = direction == "reverse"
                whole.append(self.taken(y, range(steps)[::-1]) if back else y)
        count = len(directions)
        if self.y:
            y = self.op("Concat", *whole, axis=2) if count > 1 else whole[0]
            split = self.op("Reshape", y, self.constant([1, steps, count, -1], np.int64))
            self.op("Transpose", split, out=self.y, perm=[1, 2, 0, 3])
        if self.y_h:
            h = self.op("Concat", *last, axis=2) if count > 1 else last[0]
            split = self.op("Reshape", h, self.constant([1, count, -1], np.int64))
            self.op("Transpose", split, out=self.y_h, perm=[1, 0, 2])

    def cell(self, x: str, p: _Parameters, function: str) -> tuple[str, int]:
        """Write a direction; returns its output, ``(steps, 1, 1, units)``, and the units."""
        kind, gates, units = self.node.op_type, self.gates, p.r.shape[-1]
        linear = self.at.get("linear_before_reset", 0)
        gains = Recurrent.gains(kind.lower(), function)
        inside = np.zeros((gates, units))
        if kind == "GRU" and linear:
            # The reset gate multiplies this bias too.
            inside[2] = p.rb[2]
        weight = (p.w * gains[:, None, None]).transpose(1, 0, 2).reshape(units * gates, -1)
        bias = ((p.wb + p.rb - inside) * gains[:, None]).T.ravel()
        sums = self.op("Add", self.op("MatMul", x, self.constant(weight.T)), self.constant(bias))
        passes = np.zeros((gates, units, units * gates))
        for k in range(gates):
            passes[k, np.arange(units), np.arange(units) * gates + k] = 1 / gains[k]
        biases = np.concatenate([np.zeros(gates * units), inside.ravel()])
        starts = [self.constant(v[None, None]) for v in (p.h, p.c)[: 2 if kind == "LSTM" else 1]]
        options = {"linear_before_reset": linear} if kind == "GRU" else (
            {"activations": [function]} if kind == "RNN" else {})
        return self.op(
            kind, self.op("Transpose", sums, perm=[1, 0, 2]),
            self.constant(passes.reshape(1, -1, units * gates)),
            self.constant(p.r.reshape(1, -1, units)), self.constant(biases[None]), "", *starts,
            hidden_size=units, **options), units

    def taken(self, x: str, order: Sequence[int]) -> str:
        """Steps of ``(1, steps, channels)``, in any order."""
        return self.op("Gather", x, self.constant(order, np.int64), axis=1)
