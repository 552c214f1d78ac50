"""ONNX's own backend node tests: which pass, which are refused and why.

    python -m benchmarks.conformance [--quick]

Each test of ``onnx.backend.test.case.node`` for an op that hwgen knows is read as a network of its
own: weights and parameters become constants, the other inputs are streams whose frames are the
rows of the batch.  The integer graph must come within one step of 8 bits of the op itself on the
same (dequantised) inputs, a little more where weights or what is in between are rounded to 8 bits,
and every op must have its block.  What is not supported must be refused with one line.  The table
goes into docs/conformance.md; ``--quick`` only prints it.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases

from hwgen.design import DesignPoint
from hwgen.errors import HwgenError, HwgenWarning
from hwgen.models.lowering import Lowering
from hwgen.models.lowering.regions import ELEMENTWISE
from hwgen.models.onnx.division import BEGINS
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.reader import normalise
from hwgen.models.onnx.recurrent import CELLS
from hwgen.models.onnx.session import session
from hwgen.models.quantisation.calibrate import statistics
from hwgen.models.quantisation.precision import Precision
from hwgen.plan import plan

OPS = {
    "ArgMax", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "ConvTranspose",
    "DepthToSpace", "Elu", "Flatten", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Mish", "Mul", "Add",
    "Sub", "Div", "PRelu", "Pad", "ReduceMean", "ReduceMax", "Relu", "Reshape", "Resize",
    "Sigmoid", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Squeeze",
    "Sum", "Swish", "Tanh", "Transpose", "Unsqueeze", "Upsample", "Dropout", "Selu", "Celu",
    "ThresholdedRelu", "Shrink", "Abs", "Neg", "Exp", "Sqrt", "Erf", "Max", "Min", "Pow",
    "Reciprocal", "Floor", "Ceil", "Round", "Sign", "QuantizeLinear", "DequantizeLinear",
    "Acos", "Asin", "Asinh", "Atan", "Atanh", "Attention", "Cos", "Cosh", "Einsum", "Expand", "GRU",
    "Gather", "GroupNormalization", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization",
    "Log", "LpNormalization", "Mean", "MeanVarianceNormalization", "RMSNormalization", "RNN",
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMin", "ReduceSum",
    "ReduceSumSquare", "RotaryEmbedding", "Sin", "Sinh", "Tan",
}
STREAMS = {"Add", "Sub", "Mul", "Div", "Sum", "Concat", "Max", "Min", "Mean", "Einsum"}
"""Ops all of whose inputs are streams."""
FIRST = {"Attention": 3}
"""Of how many inputs streams are made, if not of all or of one."""
STEPS = {
    "Attention", "Einsum", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "RMSNormalization", "RotaryEmbedding",
}
"""Ops that several blocks carry out, or one that rounds what is in between."""
ONE = {"Attention", "RotaryEmbedding"}
"""Ops whose constants have a row for each frame: of these tests the first frame is taken."""
WRITTEN = {"Attention", "Einsum", "GroupNormalization", "RotaryEmbedding", *CELLS}
"""Ops that are written as several, of which the last may only move data."""
PAGE = Path(__file__).parent.parent / "docs" / "conformance.md"


HEAD = """# Conformance

`python -m benchmarks.conformance` makes this page, and a test checks that it is up to date. It runs
ONNX's own backend node tests, each as a network of its own: weights and parameters are constants,
and the other inputs are streams. A test passes if three things hold: the network as read gives the
test's own outputs in float; the integer graph is within one step of 8 bits of the op on the same
inputs (and 2 % of the largest value where 8-bit weights are rounded, or where the op is carried out
in steps that round, as attention and normalisations are); and every op has its block. Of
LayerNormalization the statistics that only training needs are left out, cells have a Transpose in
front that brings the batch there, and of attention and positions the first frame is taken, because
masks and angles differ by frame.

{} tests: {} passed, {} refused, {} wrong.

| op | passed | refused | why |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Row:
    """A test: its op, its name, and how it ended; ``why`` is empty if it passed."""

    op: str
    name: str
    outcome: str
    why: str = ""


def cases() -> list:
    """The node tests of the ops above, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    kept = []
    for case in found:
        model = case.model
        if model is not None and len(model.graph.node) == 1 and not model.functions:
            (node,) = model.graph.node
            if node.op_type in OPS and node.domain in ("", "ai.onnx"):
                kept.append((node.op_type, case.name, case))
    return [case for _, _, case in sorted(kept, key=lambda k: k[:2])]


def _arrays(values: Iterable) -> list:
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def _as_network(case) -> tuple[Network, dict[str, np.ndarray]]:
    """The test as a network, and its streams."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    (node,) = model.graph.node
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        # onnxruntime has no newer ones; these have more types only.
        model.opset_import[0].version = min(model.opset_import[0].version, 23)
    if node.op_type == "LayerNormalization":
        del node.output[1:], model.graph.output[1:]
    inputs, _ = case.data_sets[0]
    values = dict(zip((i.name for i in model.graph.input), _arrays(inputs), strict=True))
    if node.op_type in CELLS and not any(a.name == "layout" for a in node.attribute):
        _batch_in_front(model, values)
    if node.op_type in ONE:
        _first_frame(model, values)
    count = len(values) if node.op_type in STREAMS else FIRST.get(node.op_type, 1)
    streams = dict(list(values.items())[:count])
    kept = [i for i in model.graph.input if i.name in streams]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for name, value in values.items():
        if name not in streams:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    vectors = set()
    for info in model.graph.input:
        value = streams[info.name]
        if not isinstance(value, np.ndarray) or value.ndim < 1:
            raise HwgenError(f"Input {info.name!r} is no tensor")
        if value.ndim == 1 and node.op_type in ELEMENTWISE | STREAMS - {"Concat"}:
            vectors.add(info.name)
    if vectors == set(streams):
        # A vector is one frame.
        streams = {name: value[None] for name, value in streams.items()}
        for info in (*model.graph.input, *model.graph.output):
            info.type.tensor_type.shape.dim.insert(0, onnx.TensorShapeProto.Dimension(dim_value=1))
    with warnings.catch_warnings():
        # That of a batch a frame is computed.
        warnings.simplefilter("ignore", HwgenWarning)
        # What only moves data is otherwise left to the host.
        moves = node.op_type in (BEGINS | WRITTEN) - {"Softmax", "LogSoftmax"}
        outputs = [o.name for o in model.graph.output] if moves else ()
        return normalise(model.SerializeToString(), "the test", None, outputs), streams


def _first_frame(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> None:
    """Take the first row of what has a row for each frame."""
    frames = len(next(iter(values.values())))
    for info in (*model.graph.input, *model.graph.output):
        if info.name not in values:
            info.type.tensor_type.ClearField("shape")
        elif len(values[info.name]) == frames:
            values[info.name] = values[info.name][:1]
            info.type.tensor_type.shape.dim[0].dim_value = 1


def _batch_in_front(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> None:
    """Turn the input of a cell, whose batch is its second axis, as exporters do."""
    node, info = model.graph.node[0], model.graph.input[0]
    steps, batch, _ = info.type.tensor_type.shape.dim
    batch.dim_value = steps.dim_value
    steps.dim_value = 1
    values[info.name] = values[info.name].swapaxes(0, 1)
    turn = helper.make_node("Transpose", [info.name], ["turned"], perm=[1, 0, 2])
    node.input[0] = "turned"
    model.graph.node.insert(0, turn)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def check(case) -> Row:
    """Run one test."""
    op = case.model.graph.node[0].op_type
    name = case.name.removeprefix("test_")
    try:
        network, streams = _as_network(case)
        rows = max((len(v) for v in streams.values()), default=1)
        if any(len(v) not in (1, rows) for v in streams.values()):
            raise HwgenError("The inputs have different batches")
        expected = _arrays(case.data_sets[0][1])
        if network.nodes[0].op_type == "Transpose" and op in CELLS:
            # The batch is behind steps and directions.
            expected = [np.moveaxis(want, -2, 0) for want in expected]
        if op in ONE:
            expected = [want[:1] for want in expected]
        if op == "Slice" and any(len(want) != rows for want in expected):
            raise HwgenError("The first axis is no batch: it is sliced")
        streams = {k: network.integer_inputs[k].real(v) if k in network.integer_inputs else v
                   for k, v in streams.items()}
        feeds = [{k: np.asarray(v[min(n, len(v) - 1)][None], np.float32)
                  for k, v in streams.items()} for n in range(rows)]
        with warnings.catch_warnings():
            # Some tests have operands of zeros.
            warnings.simplefilter("ignore", HwgenWarning)
            lowered = Lowering(
                network, statistics(network, feeds).ranges, Precision.parse("w8a8"), {})
        graph = lowered.graph
        plan(graph, DesignPoint())
    except HwgenError as error:
        return Row(op, name, "refused", _short(str(error)))
    runner = session(network.model)
    # What was read must compute what the test says; only then is the integer graph compared.
    floats = [runner.run(network.outputs, feed) for feed in feeds]
    for want, *rows_of in zip(expected, *floats):
        found = np.concatenate([np.ravel(row) for row in rows_of])
        if op == "QuantizeLinear":
            # The network has what the integers stand for.
            _, scale, *zero = _arrays(case.data_sets[0][0])
            want = (np.asarray(want, np.float64) - (zero[0] if zero else 0)) * scale
        # bfloat16 has eight bits.
        rough = 1e-2 if np.asarray(want).dtype.name == "bfloat16" else 1e-3
        if found.size != np.size(want) or not np.allclose(
                found, np.ravel(want).astype(np.float64), rtol=rough, atol=rough / 10):
            return Row(op, name, "wrong", "the network that was read differs from the test")
    worst = 0.0
    for feed in feeds:
        codes, real = {}, {}
        for tensor, ours in zip(network.inputs, graph.inputs, strict=True):
            type = graph.types[ours]
            axis = min(graph.meta["axes"][ours], feed[tensor].ndim - 1)
            frame = np.moveaxis(feed[tensor], axis, -1)
            codes[ours] = type.quantisation.quantise(frame.reshape(type.shape))[None]
            real[tensor] = np.moveaxis(
                type.quantisation.dequantise(codes[ours]).reshape(frame.shape), -1, axis)
        got = graph.evaluate(codes)
        wanted = runner.run(network.outputs, real)
        for output, want in zip(network.outputs, wanted, strict=True):
            view = lowered.outputs[output]
            type = graph.types[view.tensor]
            value = type.quantisation.dequantise(got[view.tensor])[0]
            # In the file's order, as the host has it.
            value = np.moveaxis(value, -1, 0) if view.positions is None else (
                value.ravel()[view.positions])
            want = np.asarray(want, np.float64)
            if op == "ArgMax":
                same = value.ravel() == want.ravel()
                worst = max(worst, float(not same.all()))
                continue
            if value.size != want.size:
                return Row(op, name, "wrong", f"shape {value.shape} instead of {want.shape}")
            value = value.reshape(want.shape)
            # Beyond the calibrated range it saturates, as it is meant to.
            ends = type.quantisation.dequantise(
                np.array([type.quantisation.low, type.quantisation.high]))
            want = np.clip(want, *ends)
            # Weights of 8 bits are off by up to half a step each, and so is what is in between.
            slack = 0.02 * np.abs(want).max() if _rounds(case.model.graph.node[0]) else 0.0
            if op == "Attention":
                # Values become codes of 7 bits and a sign.
                of = graph.types[list(graph.inputs)[-1]].quantisation
                slack += np.abs(of.dequantise(np.array([of.low, of.high]))).max() / 127 / 2
            error = np.abs(value - want).max()
            # Some results have more bits, which nobody has asked for.
            step = type.scale * 2 ** max(type.bits - 8, 0)
            worst = max(worst, error / (1.01 * step + slack))
    return Row(op, name, "passed") if worst <= 1 else Row(op, name, "wrong", f"{worst:.2f} steps")


def _rounds(node: onnx.NodeProto) -> bool:
    """Whether weights of 8 bits stand for those of a node, or it is carried out in steps."""
    if node.op_type == "Resize":
        return any(a.name == "mode" and a.s != b"nearest" for a in node.attribute)
    return node.op_type in CELLS or node.op_type in STEPS | {
        "Conv", "ConvTranspose", "Gemm", "MatMul"}


def _short(text: str) -> str:
    """A reason without names and numbers of the one test, so that like ones are together."""
    text = re.sub(r"^the test:? ?", "", text)
    text = re.sub(r"^Node '[^']*'(?: \(\w+\))?: ", "", text)
    text = re.sub(r"; (supported are|docs/conformance).*| \(.*?\)$", "", text)
    return re.sub(r"\[[^\]]*\]|\d+(?:\.\d+)?", "…", re.sub(r"'[^']*'", "'…'", text))[:160]


def page(rows: list[Row]) -> str:
    """The table as Markdown."""
    total = Counter(row.outcome for row in rows)
    lines = [*HEAD.format(len(rows), *(total[k] for k in ("passed", "refused", "wrong")))
             .splitlines()]
    for op in sorted({row.op for row in rows}):
        mine = [row for row in rows if row.op == op]
        counts = Counter(row.outcome for row in mine)
        reasons = Counter(row.why for row in mine if row.outcome == "refused")
        why = "; ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
        lines.append(f"| {op} | {counts['passed']} | {counts['refused']} | {why} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="ONNX's backend node tests")
    parser.add_argument("--quick", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    rows = [check(case) for case in cases()]
    text = page(rows)
    print(text)
    for row in rows:
        if row.outcome == "wrong":
            print(f"wrong: {row.op} {row.name}: {row.why}")
    if not options.quick:
        PAGE.write_text(text)
    return 1 if any(row.outcome == "wrong" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
