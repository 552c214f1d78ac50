"""Recurrent cells in integer ops, a Scan over the steps, and as the cells of ONNX in float."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from hwgen.ir import Node, Quantisation, Recurrent, Requantise, TensorType
from hwgen.ir.recurrent import ENTRIES, ONE, STATE
from hwgen.models.export.integer import IntegerWriter
from hwgen.models.export.qdq import QdqWriter
from hwgen.models.export.writer import Writer, writes

__all__: list[str] = []


class _Cell:
    """Writes one step of a cell, in double: all numbers stay below ``2**53``.

    Parameters
    ----------
    writer : what it writes with
    op : the cell
    """

    def __init__(self, writer: IntegerWriter, op: Recurrent) -> None:
        self.writer, self.op = writer, op

    def number(self, value, dtype=np.float64) -> str:
        return self.writer.constant(value, dtype)

    def scaled(self, value: str, power: int) -> str:
        """A number times a power of two."""
        return self.writer.op("Mul", value, self.number(2.0**power))

    def looked_up(self, table: np.ndarray, value: str, drop: int) -> str:
        """The entries of a table for values that are finer by ``drop`` bits."""
        halves = self.writer.op("Add", value, self.number(1 << drop >> 1))
        down = self.writer.op("Floor", self.scaled(halves, -drop))
        entry = self.writer.op(
            "Clip", down, self.number(-ENTRIES // 2), self.number(ENTRIES // 2 - 1))
        index = self.writer.op("Cast", self.writer.op("Add", entry, self.number(ENTRIES // 2)),
                               to=TensorProto.INT64)
        return self.writer.op("Gather", self.number(table), index)

    def rounded(self, value: str, shift: int, codes: Quantisation) -> str:
        one = Requantise(np.array([1]), np.array([shift]))
        return self.writer._requantised(value, one, codes, 2)

    def step(self, x: str, h: str, c: str) -> tuple[str, str]:
        """Units and state behind a step.

        Parameters
        ----------
        x : input of the step, ``(N, units * gates)`` in double
        h, c : units and state in front of it, ``(N, units)``
        """
        op, writer = self.op, self.writer
        xs, vs = [self.gate(x, k, op.gates) for k in range(op.gates)], self.product(0, h)
        last = 2 if op.kind == "gru" else op.gates
        gate = [self.looked_up(op.tables[k], writer.op("Add", xs[k], vs[k]), op.drop)
                for k in range(last)]
        kind = TensorProto.INT8 if op.output.bits <= 8 else TensorProto.INT16
        if op.kind == "rnn":
            return writer.op("Cast", gate[0], to=kind), c
        c = writer.op("Cast", c, to=TensorProto.DOUBLE)
        if op.kind == "lstm":
            i, o, f, g = gate
            kept = self.scaled(writer.op("Mul", f, c), ONE - op.fraction)
            wide = writer.op("Add", kept, writer.op("Mul", i, g))
            c = self.rounded(wide, 2 * ONE - op.fraction, STATE)
            real = writer.op("Cast", c, to=TensorProto.DOUBLE)
            wide = writer.op("Mul", o, self.looked_up(op.cell, real, op.cell_drop))
        else:
            z, r = gate
            drop = op.drop
            if op.reset_first:
                left = self.rounded(writer.op("Mul", r, c), op.shift, op.output)
                inner = writer.op("Add", xs[2], self.product(1, left)[0])
            else:
                inner = writer.op("Add", self.scaled(xs[2], ONE), writer.op("Mul", r, vs[2]))
                drop += ONE
            n = self.looked_up(op.tables[2], inner, drop)
            kept = writer.op("Mul", z, writer.op("Sub", c, n))
            wide = writer.op("Add", self.scaled(n, ONE), kept)
            c = self.rounded(wide, ONE, STATE)
        return self.rounded(wide, op.shift, op.output), c

    def product(self, k: int, h: str) -> list[str]:
        """Product of a matrix and units, gate by gate, in double."""
        op, writer = self.op, self.writer
        conv = op.matrices[k]
        if op.output.bits <= 8:
            sums = writer.op("MatMulInteger", h, self.number(conv.weight.T, np.int8))
        else:
            wide = writer.op("Cast", h, to=TensorProto.DOUBLE)
            sums = writer.op("MatMul", wide, self.number(conv.weight.T))
        v = writer._requantised(sums, conv.requantise, STATE, 2)
        v = writer.op("Cast", v, to=TensorProto.DOUBLE)
        gates = len(conv.weight) // op.units
        return [self.gate(v, k, gates) for k in range(gates)]

    def gate(self, value: str, k: int, gates: int) -> str:
        """The channels of one of so many gates, of all units."""
        index = np.arange(self.op.units) * gates + k
        return self.writer.op("Gather", value, self.number(index, np.int64), axis=1)


@writes(Recurrent, form=IntegerWriter)
def _scan(
    writer: IntegerWriter, node: Node, op: Recurrent, types: list[TensorType]
) -> None:
    (type,) = types
    cell, (result,) = _Cell(writer, op), op.infer(type)
    kind = TensorProto.INT8 if op.output.bits <= 8 else TensorProto.INT16
    codes = writer.op("Cast", _steps(writer, op, node.inputs[0], type), to=TensorProto.DOUBLE)
    real = writer.op("Sub", codes, cell.number(type.zero_point))
    # What the first step begins with, for each frame: (N, units).
    line = writer.op("Gather", writer.op("Gather", real, cell.number(0, np.int64), axis=0),
                     cell.number(np.zeros(op.units), np.int64), axis=1)
    zeros = writer.op("Mul", line, cell.number(0))
    first = [
        writer.op("Cast", writer.op("Add", zeros, cell.number(op.first(what))), to=to)
        for what, to in (("initial_h", kind), ("initial_c", TensorProto.INT16))]
    outside, writer._nodes = writer._nodes, []
    x, h, c = (f"{node.name}.{what}" for what in ("x", "h", "c"))
    ends = cell.step(x, h, c)
    h_end, c_end, y = (writer.op("Identity", end) for end in (*ends, ends[0]))
    inner, writer._nodes = writer._nodes, outside
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        inner, "step",
        [value(h, kind, ["N", op.units]), value(c, TensorProto.INT16, ["N", op.units]),
         value(x, TensorProto.DOUBLE, ["N", type.channels])],
        [value(h_end, kind, ["N", op.units]), value(c_end, TensorProto.INT16, ["N", op.units]),
         value(y, kind, ["N", op.units])])
    outs = [f"{node.name}.{what}" for what in ("last_h", "last_c", "steps")]
    writer._nodes.append(helper.make_node(
        "Scan", [*first, real], outs, body=body, num_scan_inputs=1))
    _frames(writer, op, outs[2], result, node.name)


def _steps(writer: Writer, op: Recurrent, tensor: str, type: TensorType) -> str:
    """``(N, C, *spatial)`` as ``(steps, N, C)``, or ``(N * steps, 1, C)`` if the state is kept."""
    flat = writer.op("Reshape", tensor, writer.constant([0, 0, -1], np.int64))
    if op.keep:
        turned = writer.op("Transpose", flat, perm=[0, 2, 1])
        return writer.op("Reshape", turned, writer.constant([-1, 1, type.channels], np.int64))
    return writer.op("Transpose", flat, perm=[2, 0, 1])


def _frames(writer: Writer, op: Recurrent, steps: str, type: TensorType, name: str) -> None:
    """What :func:`_steps` gives as ``(N, C, *spatial)``."""
    if op.keep:
        frames = writer.op("Reshape", steps, writer.constant(
            [-1, type.pixels, type.channels], np.int64))
        turned = writer.op("Transpose", frames, perm=[0, 2, 1])
    else:
        turned = writer.op("Transpose", steps, perm=[1, 2, 0])
    writer.op("Reshape", turned, writer.constant([0, 0, *type.spatial], np.int64), out=name)


@writes(Recurrent, form=QdqWriter)
def _float(writer: QdqWriter, node: Node, op: Recurrent, types: list[TensorType]) -> None:
    (type,), (result,) = types, op.infer(*types)
    units, gates = op.units, op.gates
    gains = op.gains(op.kind, op.function)
    ratio = np.ldexp(op.requantise.multiplier.astype(np.float64), -op.requantise.shift)
    scale = ratio.reshape(units, gates) * type.scale / op.output.scale / gains
    weight = (op.weight * scale[..., None]).transpose(1, 0, 2).reshape(1, -1, units)
    # The input as it is: a gate of a unit is one of its channels.
    passes = np.zeros((gates, units, units * gates))
    for k in range(gates):
        passes[k, np.arange(units), np.arange(units) * gates + k] = 1 / gains[k]
    bias = np.zeros((2, gates, units))
    if op.requantise.offset is not None:
        offset = np.ldexp(op.requantise.offset.astype(np.float64), -op.requantise.shift)
        bias[1] = (offset.reshape(units, gates) * type.scale / gains).T
    x = _steps(writer, op, writer._real(node.inputs[0], type.quantisation), type)
    # (1, N, units) of what is the same for all frames.
    line = writer.op("ReduceSum", writer.op("Gather", x, writer.constant([0], np.int64), axis=0),
                     writer.constant([2], np.int64), keepdims=1)
    zeros = writer.op("Mul", line, writer.constant(np.zeros((1, 1, units)), np.float32))
    starts = [op.first("initial_h") * op.output.scale]
    if op.kind == "lstm":
        starts.append(op.first("initial_c") * 2.0**-op.fraction)
    first = [writer.op("Add", zeros, writer.constant(start, np.float32)) for start in starts]
    options = {"linear_before_reset": int(not op.reset_first)} if op.kind == "gru" else (
        {"activations": [op.function]} if op.kind == "rnn" else {})
    y = writer.op(
        op.kind.upper(), x, writer.constant(passes.reshape(1, -1, units * gates), np.float32),
        writer.constant(weight, np.float32), writer.constant(bias.reshape(1, -1), np.float32),
        "", *first, hidden_size=units, **options)
    y = writer.op("Squeeze", y, writer.constant([1], np.int64))
    real = f"{node.name}.real"
    _frames(writer, op, y, result, real)
    writer._codes(real, op.output, out=node.name)



