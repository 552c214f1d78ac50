"""Random files: accelerator and host against onnxruntime on the original file.

    python -m benchmarks.random_files [--quick] [--files N] [--seed S]

ONNX files as exporters write them, small and float: convolutions (grouped, depthwise, transposed),
normalisations with gammas of either sign, some next to nothing, channels that are dead but for
their bias, weights of tiny scale, pools with ``ceil_mode``, residual sums, gates, concatenations,
activations, reshapes and rankings at the end.  Each is read at 8 bits; its integer graph and its
``host.onnx`` must give the file's outputs, in shape, type and, but for rounding, value.

A file is wrong if its worst layer is: what a layer makes of exact inputs must be as near to
onnxruntime's as rounding alone explains.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.models.accuracy import decibels, measure
from hwgen.models.host.model import host_model, input_name
from hwgen.models.lowering import Lowering
from hwgen.models.onnx.reader import normalise
from hwgen.models.onnx.session import session
from hwgen.models.quantisation.calibrate import statistics
from hwgen.models.quantisation.precision import Precision

FEWEST = 10.0
"""Decibels of a layer of its own below which it is wrong, if rounding does not explain that."""
ACTIVATIONS = ("Relu", "Sigmoid", "HardSwish", "LeakyRelu", "Tanh", "Clip", "Elu")


class Drawer:
    """Draws a file node by node.

    Parameters
    ----------
    seed : :class:`int`
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {
            "x": (1, int(self.random.integers(1, 5)), *self.random.integers(8, 15, 2).tolist())}
        self.last = "x"

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def whole(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high + 1))

    def constant(self, value) -> str:
        name = f"k{len(self.constants)}"
        array = np.asarray(value)
        self.constants[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        return name

    def op(self, kind: str, *inputs: str, shape: tuple[int, ...], **attributes) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        self.shapes[name] = shape
        self.last = name
        return name

    def weights(self, shape: tuple[int, ...], axis: int = 0) -> np.ndarray:
        """Normal weights; now and then tiny ones, and dead channels."""
        value = self.random.normal(0, 1 / np.sqrt(max(np.prod(shape[1:]), 1)), shape)
        if self.chance(0.2):
            value *= 10.0 ** -self.whole(1, 9)
        if self.chance(0.3):
            moved = np.moveaxis(value, axis, 0)
            moved[self.whole(0, len(moved) - 1)] *= 0 if self.chance(0.5) else 1e-7
        return value

    def conv(self) -> None:
        source = self.last
        _, cin, height, width = self.shapes[source]
        kernel = [self.whole(1, min(3, n)) for n in (height, width)]
        stride = [self.whole(1, 2) for _ in kernel]
        groups = cin if self.chance(0.3) else 1
        cout = groups * self.whole(1, 3) if groups > 1 else self.whole(1, 8)
        pads = [self.whole(0, k - 1) for k in (*kernel, *kernel)]
        inputs = [source]
        if self.chance(0.15):
            inputs.append(self.constant(self.weights((cin, cout // groups, *kernel), 1)))
            out = [(n - 1) * s + k - pads[a] - pads[2 + a] for a, (n, s, k) in enumerate(
                zip((height, width), stride, kernel, strict=True))]
            if min(out) < 1 or max(out) > 20:
                return
            kind = "ConvTranspose"
        else:
            inputs.append(self.constant(self.weights((cout, cin // groups, *kernel))))
            out = [(n + pads[a] + pads[2 + a] - k) // s + 1 for a, (n, s, k) in enumerate(
                zip((height, width), stride, kernel, strict=True))]
            if min(out) < 1:
                return
            kind = "Conv"
        if self.chance(0.7):
            inputs.append(self.constant(self.random.normal(0, 0.5, cout)))
        self.op(kind, *inputs, shape=(1, cout, *out), strides=stride, pads=pads, group=groups)
        if self.chance(0.6):
            self.norm()

    def norm(self) -> None:
        channels = self.shapes[self.last][1]
        gain = self.random.normal(0, 1, channels)
        if self.chance(0.4):
            small = 0 if self.chance(0.3) else 10.0 ** -self.whole(2, 9)
            gain[self.whole(0, channels - 1)] *= small
        values = (gain, self.random.normal(0, 1, channels), self.random.normal(0, 0.5, channels),
                  self.random.uniform(0.01, 2, channels))
        self.op("BatchNormalization", self.last, *map(self.constant, values),
                shape=self.shapes[self.last])

    def activation(self) -> None:
        kind = str(self.random.choice(ACTIVATIONS))
        bounds = [self.constant(np.float32(v)) for v in (0, 6)] if kind == "Clip" else []
        self.op(kind, self.last, *bounds, shape=self.shapes[self.last])

    def pool(self) -> None:
        _, channels, *extents = self.shapes[self.last]
        kernel = [self.whole(1, min(4, n)) for n in extents]
        stride = [self.whole(1, 3) for _ in kernel]
        pads = [self.whole(0, k - 1) for k in (*kernel, *kernel)]
        ceil = int(self.chance(0.7))
        out = []
        for a, (n, k, s) in enumerate(zip(extents, kernel, stride, strict=True)):
            room = n + pads[a] + pads[2 + a] - k
            count = (-(-room // s) if ceil else room // s) + 1
            out.append(count - (ceil and (count - 1) * s >= n + pads[a]))
        kind = "MaxPool" if self.chance(0.6) else "AveragePool"
        if min(out) < 1:
            return
        self.op(kind, self.last, shape=(1, channels, *out), kernel_shape=kernel, strides=stride,
                pads=pads, ceil_mode=ceil)

    def branch(self) -> None:
        """A sum, product or concatenation with what a convolution of one tap makes of the same."""
        source = self.last
        _, channels, *extents = self.shapes[source]
        weights = self.constant(self.weights((channels, channels, 1, 1)))
        other = self.op("Conv", source, weights, shape=self.shapes[source])
        kind = str(self.random.choice(["Add", "Sub", "Mul", "Concat"]))
        if kind == "Concat":
            self.op(kind, source, other, shape=(1, 2 * channels, *extents), axis=1)
        else:
            self.op(kind, source, other, shape=self.shapes[source])

    def gate(self) -> None:
        source = self.last
        _, channels, *extents = self.shapes[source]
        mean = self.op("GlobalAveragePool", source, shape=(1, channels, 1, 1))
        weights = self.constant(self.weights((channels, channels, 1, 1)))
        self.op("Conv", mean, weights, shape=(1, channels, 1, 1))
        gate = self.op("Sigmoid", self.last, shape=(1, channels, 1, 1))
        self.op("Mul", source, gate, shape=(1, channels, *extents))

    def end(self) -> None:
        """What files end with."""
        _, channels, *extents = self.shapes[self.last]
        pixels = int(np.prod(extents))
        pick = self.whole(0, 6)
        if pick == 0:
            self.op("Reshape", self.last, self.constant(np.array([1, channels, -1])),
                    shape=(1, channels, pixels))
        elif pick == 1:
            self.op("Transpose", self.last, perm=[0, 2, 3, 1], shape=(1, *extents, channels))
        elif pick == 2:
            self.op("Reshape", self.last, self.constant(np.array([1, channels, -1])),
                    shape=(1, channels, pixels))
            self.op("Mul", self.last, self.constant(np.float32(0.5)), shape=(1, channels, pixels))
            self.op("Relu", self.last, shape=(1, channels, pixels))
        elif pick in (3, 4):
            flat = self.op("Flatten", self.last, shape=(1, channels * pixels))
            classes = self.whole(2, 9)
            weights = self.constant(self.weights((classes, channels * pixels)))
            bias = self.constant(self.random.normal(0, 1, classes))
            self.op("Gemm", flat, weights, bias, shape=(1, classes), transB=1)
            if pick == 4:
                self.op("Softmax", self.last, shape=(1, classes), axis=1)

    def file(self) -> bytes:
        """The file."""
        steps = (self.conv, self.conv, self.activation, self.pool, self.branch, self.gate,
                 self.norm)
        self.conv()
        for _ in range(self.whole(1, 6)):
            steps[self.whole(0, len(steps) - 1)]()
        self.end()
        extents = [f"d{k}" for k in range(len(self.shapes[self.last]))]
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shapes["x"])],
            [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, extents)],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return model.SerializeToString()


def check(seed: int) -> str:
    """What is wrong with the file of a seed, in a line; nothing if it is right."""
    drawer = Drawer(seed)
    data = drawer.file()
    if not drawer.nodes:
        return ""
    random = np.random.default_rng(seed)
    feeds = [{"x": random.random(drawer.shapes["x"], np.float32)} for _ in range(3)]
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        whole = onnxruntime.InferenceSession(data, settings)
    except Exception:  # its shape inference errs at pools that it would run rightly
        return ""
    try:
        network = normalise(data, f"file {seed}", None)
        with warnings.catch_warnings():
            # A dead layer is nothing but that.
            warnings.simplefilter("ignore", HwgenWarning)
            lowered = Lowering(network, statistics(network, feeds).ranges,
                               Precision.parse("w8a8"), {})
    except HwgenError as error:
        return f"refused: {error}"
    graph = lowered.graph
    host = session(host_model(network.model, network.host, network.constants, network.shapes,
                              lowered.outputs, graph))
    (source,) = graph.inputs
    type = graph.inputs[source]
    want = got = np.zeros(0)
    for feed in feeds:
        want = np.asarray(whole.run(None, feed)[0])
        frame = type.quantisation.quantise(np.moveaxis(feed["x"], 1, -1))
        codes = graph.evaluate({source: frame})
        given = {input_name(t): codes[t] for t in graph.outputs}
        got = np.asarray(host.run(None, given)[0])
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"gives {got.dtype} {got.shape} for {want.dtype} {want.shape}"
    # Sums and products of rounded operands may be anything where these cancel, or are nothing.
    rows = [r for r in measure(network, graph, feeds).rows if r.op not in ("Input", "Add", "Mul")]
    worst = min(rows, key=lambda row: row.own_db, default=None)
    if worst is not None and worst.own_db < FEWEST and worst.cause == "other":
        return f"{worst.tensor} ({worst.op}) has {worst.own_db:.1f} dB: {worst.hint}"
    real = graph.types[graph.outputs[0]]
    signal, noise = np.square(want).sum(), np.square(want - got).sum()
    if drawer.nodes[-1].op_type != "Softmax" and decibels(signal, noise) < 0 and (
            abs(want - got).max() > real.scale):
        return f"has {decibels(signal, noise):.1f} dB end to end"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Random files against onnxruntime")
    parser.add_argument("--quick", action="store_true", help="40 files")
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    count = 40 if options.quick else options.files
    begin, wrong, refused = time.time(), 0, 0
    for seed in range(options.seed, options.seed + count):
        found = check(seed)
        refused += found.startswith("refused")
        wrong += bool(found) and not found.startswith("refused")
        if found:
            print(f"file {seed} {found}")
    print(f"{count} files: {wrong} wrong, {refused} refused; {time.time() - begin:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
