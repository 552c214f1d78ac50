"""Random networks: Verilog against reference, simulated time against prediction.

    python -m benchmarks.random_networks [--quick] [--networks N]

Hypothesis draws small networks of every op (branches, residuals, gates, concatenations, splits,
shuffles, strides, dilation, any padding, grouped, depthwise and transposed convolutions, folds that
do not divide) with random foldings and lanes, 4- and 8-bit weights, and the multipliers of every
device.  Each is emitted and run in
Verilator: evenly paced, where every frame's first and last beat must come in the predicted cycle;
without gaps, where no frame may come later; and with random stalls, where it must not deadlock.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hwgen.design import DesignPoint, Folding
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.emit.verilog import emit
from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    ArgMax,
    Attention,
    AveragePool,
    ChannelMax,
    Concat,
    Conv,
    Convolution,
    ConvTranspose,
    Embedding,
    Extremum,
    GatherChannels,
    GlobalAveragePool,
    GlobalMaxPool,
    Graph,
    LayerNorm,
    MatMul,
    MaxPool,
    Mul,
    Pad,
    Quantisation,
    Rearrange,
    Recurrent,
    Requantise,
    Resize,
    Softmax,
    Split,
    Table,
    TensorType,
)
from hwgen.sim.verilator import VerilatorModel
from hwgen.timing import sized

Q = Quantisation(0.1, 3)
LARGEST = 14
"""Most rows and columns that an enlargement may reach."""


class _Drawer:
    """Draws a network node by node."""

    def __init__(self, draw) -> None:
        self.draw = draw
        self.graph = Graph()
        self.design = DesignPoint("zcu102", 250.0)
        self.random = np.random.default_rng(draw(st.integers(0, 2**32)))
        self.multiplier = self.pick(sorted(MULTIPLIERS))
        spatial = [draw(st.integers(4, 9)) for _ in range(2)]
        self.graph.add_input("image", TensorType((*spatial, draw(st.integers(1, 4))), Q))
        self.design.lanes["image"] = self.pick(_divisors(self.graph.types["image"].channels))
        self.unused = ["image"]
        self.done: list[str] = []

    def pick(self, options):
        return self.draw(st.sampled_from(list(options)))

    def take(self) -> str:
        """A tensor to read, more likely one that nothing reads yet."""
        known = [n for n in self.graph.types if n not in self.done]
        name = self.pick(self.unused if self.unused and self.draw(st.integers(0, 3)) else known)
        if name in self.unused:
            self.unused.remove(name)
        return name

    def put(self, op, inputs, count: int = 1) -> str:
        """Add an op, with lanes that all its tensors can have."""
        number = len(self.graph.nodes)
        names = [f"t{number}_{k}" if count > 1 else f"t{number}" for k in range(count)]
        self.graph.add_node(op, inputs, names)
        if isinstance(op, ArgMax):
            self.design.lanes[names[0]] = 1
        elif isinstance(op, Rearrange | ChannelMax | Attention | Embedding | MatMul
                        | Recurrent):
            self.design.lanes[names[0]] = self.pick(_divisors(self.graph.types[names[0]].channels))
        elif not isinstance(op, Convolution):
            channels = [self.graph.types[t].channels for t in (*inputs, *names)]
            lanes = self.pick(_divisors(math.gcd(*channels)))
            self.design.lanes.update(dict.fromkeys(names, lanes))
        self.unused += names
        return names[0]

    def conv(
        self, source: str, cout: int | None = None, spatial: bool = True, transposed: bool = False
    ) -> str:
        """A convolution with any folding; ``spatial``: it may change the extents."""
        tensor = self.graph.types[source]
        cin, draw = tensor.channels, self.draw
        kernel = tuple(draw(st.integers(1, min(3, n))) for n in tensor.spatial)
        dilation = tuple(draw(st.integers(1, 2)) if spatial and 2 * k - 1 <= n else 1
                         for k, n in zip(kernel, tensor.spatial, strict=True))
        if not spatial:
            kernel = tuple(k | 1 if k | 1 <= n else 1
                           for k, n in zip(kernel, tensor.spatial, strict=True))
        stride = tuple(draw(st.integers(1, 2)) if spatial else 1 for _ in kernel)
        pads = tuple(
            (draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) if spatial else (k // 2,) * 2
            for k in kernel
        )
        groups = self.pick({1, self.pick(_divisors(cin))}) if cout is None else 1
        cout = groups * draw(st.integers(1, 6)) if cout is None else cout
        bits = self.pick([4, 8, 8])
        limit = (1 << (bits - 1)) - 1
        low = -limit - draw(st.integers(0, 1))
        weight = self.random.integers(low, limit + 1, (cout, *kernel, cin // groups))
        ratio = self.random.uniform(0.002, 0.02, cout) / math.sqrt(weight[0].size) * 127 / limit
        bias = self.random.integers(-9999, 9999, cout)
        rule = Requantise.from_scale(ratio, self.pick([17, 17, 24, 32]))
        if draw(st.booleans()):
            # Biases that lie between two accumulators, as a file's normalisations make them.
            offset = self.random.integers(-(1 << 20), 1 << rule.multiplier_bits, cout)
            rule = replace(rule, offset=offset)
        if transposed:
            pads = tuple((a if s * (n - 1) + k > a + b else 0, b if s * (n - 1) + k > a + b else 0)
                         for (a, b), s, n, k in zip(
                             pads, stride, tensor.spatial, kernel, strict=True))
            op: Convolution = ConvTranspose(weight, bias, rule, Q, stride, pads, groups, bits)
        else:
            op = Conv(weight, bias, rule, Q, stride, pads, groups, bits, dilation)
        group_lanes = draw(st.integers(1, groups)) if draw(st.booleans()) else 1
        each = cout // groups
        taps = draw(st.integers(1, op.window.taps))
        if group_lanes > 1:
            folding = Folding(cin // groups, taps, group_lanes, each,
                              multiplier=self.multiplier)
            results = (group_lanes * each, groups % group_lanes * each)
        else:
            folding = Folding(draw(st.integers(1, cin // groups)), taps, 1,
                              draw(st.integers(1, each)), multiplier=self.multiplier)
            results = (folding.pe, each % folding.pe)
        name = self.put(op, [source])
        self.design.foldings[name] = folding
        self.design.lanes[name] = self.pick(_divisors(math.gcd(*results)))
        return name

    def mean(self, tensor: TensorType) -> GlobalAveragePool:
        """The mean over a tensor's pixels."""
        return GlobalAveragePool(Requantise.from_scale(1 / tensor.pixels), Q)

    def order(self, tensor: TensorType) -> np.ndarray:
        """A frame in another order, with two spatial axes as all have here."""
        frame = np.arange(tensor.size).reshape(tensor.shape)
        kind = self.pick(["axes", "reflect", "roll", "space to depth", "any"])
        if kind == "axes":
            return frame.transpose(self.draw(st.permutations(range(3))))
        if kind == "reflect":
            return np.pad(frame, [*((min(n - 1, 1),) * 2 for n in tensor.spatial), (0, 0)],
                          mode="reflect")
        if kind == "roll":
            return np.roll(frame, self.draw(st.integers(1, 3)), self.draw(st.integers(0, 2)))
        height, width = tensor.spatial
        if kind == "space to depth" and height % 2 == width % 2 == 0:
            blocks = frame.reshape(height // 2, 2, width // 2, 2, -1).transpose(0, 2, 1, 3, 4)
            return blocks.reshape(height // 2, width // 2, -1)
        return self.random.permutation(frame.reshape(-1, tensor.channels)).reshape(tensor.shape)

    def attention(self, source: str) -> None:
        """Pixels that attend to one another, with any folding."""
        draw, tensor = self.draw, self.graph.types[source]
        plain = Quantisation(0.05, 0)
        operands = [self.put(Table(self.random.integers(-128, 128, 256), plain), [source])
                    for _ in range(3)]
        for name in operands:
            self.unused.remove(name)
        heads = self.pick(_divisors(tensor.channels))
        types = [self.graph.types[name] for name in operands]
        windows = self.pick(_divisors(tensor.pixels))
        keys, channels = tensor.pixels // windows, tensor.channels // heads
        bias = None
        if draw(st.booleans()):
            alike = self.pick([1, windows]), self.pick([1, heads])
            bias = self.random.normal(0, 2, (*alike, keys, keys))
            bias[self.random.random(bias.shape) < self.pick([0.0, 0.3])] = -np.inf
            bias[..., 0] = 0.0
        scale = self.random.uniform(0.1, 0.5, (self.pick([1, windows]), self.pick([1, heads])))
        op = Attention.from_types(heads, *types, Q, scale, causal=draw(st.booleans()),
                                  windows=windows, bias=bias)
        pe, value_pe = draw(st.integers(1, keys)), self.pick(_divisors(channels))
        score_lanes = self.pick(_divisors(pe))
        name = self.put(op, operands)
        self.design.lanes[name] = self.pick(_divisors(value_pe))
        self.design.foldings[name] = Folding(
            channel_lanes=self.pick(_divisors(channels)), pe=pe, score_lanes=score_lanes,
            value_lanes=self.pick(range(score_lanes, keys + 1, score_lanes)), value_pe=value_pe,
            multiplier=self.multiplier)

    def product(self, source: str) -> None:
        """Products of pixels with one another, and often of these with pixels again."""
        tensor, plain = self.graph.types[source], Quantisation(0.05, 0)
        count = 3 if self.draw(st.booleans()) else 2
        operands = [self.put(Table(self.random.integers(-128, 128, 256), plain), [source])
                    for _ in range(count)]
        for name in operands:
            self.unused.remove(name)
        heads, windows = self.pick(_divisors(tensor.channels)), self.pick(_divisors(tensor.pixels))
        tokens, each = tensor.pixels // windows, tensor.channels // heads
        scores = self._product("scores", operands[:2], heads, windows, each, tokens, plain)
        if count == 3:
            self.unused.remove(scores)
            self._product("values", [scores, operands[2]], heads, windows, tokens, each, Q)

    def _product(
        self, form: str, operands: list[str], heads: int, windows: int, summed: int, results: int,
        output: Quantisation,
    ) -> str:
        """A product of two streams with any folding, and often with multipliers by channel."""
        ratio = self.random.uniform(0.5, 2, heads * results) / 128 / math.sqrt(summed)
        scale = Requantise.from_scale(ratio if self.draw(st.booleans()) else ratio[:1])
        name = self.put(MatMul(heads, form, scale, output, windows), operands)
        lanes = self.pick(_divisors(results))
        sides = [n for n in range(lanes, results + 1, lanes)
                 if form == "scores" or results % n == 0]
        self.design.lanes[name] = lanes
        self.design.foldings[name] = Folding(
            channel_lanes=self.pick(_divisors(summed)), pe=self.pick(sides),
            multiplier=self.multiplier)
        return name

    def softmax(self, source: str) -> None:
        """A softmax of groups of channels."""
        tensor = self.graph.types[source]
        groups = self.pick(_divisors(tensor.channels))
        out = Quantisation(1 / 255, -128)
        scale = self.random.uniform(0.1, 2)
        lanes = self.pick(_divisors(tensor.channels // groups))
        name = self.put(Softmax.from_types(groups, tensor, out, scale), [source])
        self.design.lanes[name] = lanes
        self.design.foldings[name] = Folding(multiplier=self.multiplier)

    def layer_norm(self, source: str) -> None:
        """A normalisation of each pixel."""
        draw, tensor = self.draw, self.graph.types[source]
        op = LayerNorm.from_types(tensor, Q, draw(st.sampled_from([1e-5, 1.0])),
                                  centred=draw(st.booleans()))
        name = self.put(op, [source])
        self.design.foldings[name] = Folding(multiplier=self.multiplier)

    def recurrent(self, source: str) -> None:
        """A cell whose steps are the pixels, with any folding."""
        draw, kind = self.draw, self.pick(["lstm", "gru", "rnn"])
        units, gates = draw(st.integers(1, 6)), {"lstm": 4, "gru": 3, "rnn": 1}[kind]
        sums = self.conv(source, gates * units, spatial=False)
        self.unused.remove(sums)
        weight = self.random.uniform(-1.5, 1.5, (units, gates, units)) / math.sqrt(units)
        starts = {}
        if draw(st.booleans()):
            starts["initial_h"] = self.random.uniform(-0.9, 0.9, units)
        if kind == "gru":
            starts["bias"] = self.random.normal(0, 0.5, units)
        name = self.put(Recurrent.from_float(
            kind, weight, self.graph.types[sums], Quantisation(1 / 128),
            function=self.pick(["Tanh", "Relu"]), weight_bits=self.pick([4, 8]),
            reset_first=kind == "gru" and draw(st.booleans()), keep=draw(st.booleans()),
            **starts), [sums])
        lanes = self.design.lanes[name]
        sides = list(range(lanes, units + 1, lanes))
        self.design.foldings[name] = Folding(
            channel_lanes=self.pick(sides), pe=self.pick(sides), multiplier=self.multiplier)
        if draw(st.booleans()):
            self.unused.remove(name)
            self.put(Table(self.random.integers(-128, 128, 256), Q), [name])

    def embedding(self, source: str) -> None:
        """The largest channel of each pixel as a number; rows for it, in any memory."""
        count, width = self.draw(st.integers(129, 256)), self.draw(st.integers(1, 6))
        largest = self.put(ChannelMax(), [source])
        codes = Table(self.random.integers(-128, 128, 256), Embedding.ids(count))
        ids = self.put(codes, [largest])
        for used in (largest, ids):
            self.unused.remove(used)
        rows = self.random.integers(-128, 128, (count, width))
        name = self.put(Embedding(rows, Q), [ids])
        self.design.foldings[name] = Folding(
            weight_style=self.pick(["", "block", "distributed", "ultra"]))

    def step(self) -> None:
        """Add one or a few nodes."""
        draw, source = self.draw, self.take()
        tensor = self.graph.types[source]
        kind = self.pick(["conv", "conv", "table", "max", "average", "residual", "concat", "split",
                          "resize", "transposed", "gate", "global", "gather", "pad", "argmax",
                          "rearrange", "rearrange", "extremum", "channel max", "attention",
                          "layer norm", "recurrent", "embedding", "product", "softmax"])
        if kind == "table":
            shape = (256,) if draw(st.booleans()) else (tensor.channels, 256)
            self.put(Table(self.random.integers(-128, 128, shape), Q), [source])
        elif kind == "transposed" and 2 * max(tensor.spatial) + 2 <= LARGEST:
            self.conv(source, transposed=True)
        elif kind == "gate":
            # Squeeze and excite: every pixel times a factor for its channel.
            mean = self.put(self.mean(tensor), [source])
            gate = self.conv(mean, tensor.channels)
            wide = self.put(Resize(tensor.spatial), [gate])
            for used in (mean, gate, wide):
                self.unused.remove(used)
            self.put(Mul(Requantise.from_scale(0.05), Q), [source, wide])
        elif kind == "global":
            self.put(self.mean(tensor) if draw(st.booleans()) else GlobalMaxPool(), [source])
        elif kind == "gather":
            order = draw(st.lists(st.integers(0, tensor.channels - 1), min_size=1, max_size=8))
            self.put(GatherChannels(tuple(order)), [source])
        elif kind == "pad":
            pads = tuple((draw(st.integers(1 - n, 2)), draw(st.integers(0, 2)))
                         for n in tensor.spatial)
            fill = draw(st.one_of(st.none(), st.integers(-128, 127)))
            self.put(Pad(pads, fill, tuple(draw(st.integers(1, 2)) for _ in pads)), [source])
        elif kind == "rearrange":
            self.put(Rearrange(self.order(tensor)), [source])
        elif kind == "attention" and tensor.pixels <= 36:
            self.attention(source)
        elif kind == "softmax" and tensor.pixels <= 36:
            self.softmax(source)
        elif kind == "product" and tensor.pixels <= 36:
            self.product(source)
        elif kind == "layer norm":
            self.layer_norm(source)
        elif kind == "recurrent" and tensor.pixels <= 36:
            self.recurrent(source)
        elif kind == "embedding":
            self.embedding(source)
        elif kind == "channel max":
            self.put(ChannelMax(), [source])
        elif kind == "extremum":
            other = self.conv(source, tensor.channels, spatial=False)
            self.unused.remove(other)
            if tensor.quantisation == self.graph.types[other].quantisation:
                self.put(Extremum(draw(st.booleans())), [source, other])
        elif kind == "argmax" and tensor.channels > 1:
            name = self.put(ArgMax(), [source])
            self.done.append(name)
            self.unused.remove(name)
        elif kind in ("max", "average"):
            kernel = tuple(draw(st.integers(1, min(3, n))) for n in tensor.spatial)
            stride = tuple(draw(st.integers(1, 2)) for _ in kernel)
            pads = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
            counted = draw(st.booleans())
            taps = math.prod(kernel)
            scale = Requantise.from_scale(1 / taps if counted else 1 / np.arange(1, taps + 1))
            name = self.put(MaxPool(kernel, stride, pads) if kind == "max"
                            else AveragePool(kernel, scale, Q, stride, pads, counted), [source])
            self.design.foldings[name] = Folding(
                tap_lanes=draw(st.integers(1, math.prod(kernel))),
                **({} if kind == "max" else {"multiplier": self.multiplier}))
        elif kind == "residual":
            other = self.conv(source, tensor.channels, spatial=False)
            self.unused.remove(other)
            self.put(Add.from_types(Q, Q, Q, self.pick([1, -1])), [source, other])
        elif kind == "concat" and tensor.quantisation == Q:
            other = self.conv(source, draw(st.integers(1, 4)), spatial=False)
            self.unused.remove(other)
            orders = [[source, other], [other, source], [other, source, other]]
            self.put(Concat(), self.pick(orders))
        elif kind == "split" and tensor.channels > 1:
            first = draw(st.integers(1, tensor.channels - 1))
            self.put(Split((first, tensor.channels - first)), [source], 2)
        elif kind == "resize" and 2 * max(tensor.spatial) <= LARGEST:
            self.put(Resize((draw(st.integers(1, 2)), draw(st.integers(1, 2)))), [source])
        else:
            self.conv(source)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def networks(draw, nodes: int = 8) -> tuple[Graph, DesignPoint]:
    """A random network and a random design for it."""
    drawer = _Drawer(draw)
    for _ in range(draw(st.integers(1, nodes))):
        drawer.step()
    drawer.graph.outputs = [n for n in (*drawer.done, *drawer.unused) if n != "image"]
    return drawer.graph, drawer.design


def check(graph: Graph, design: DesignPoint, frames: int = 3) -> str:
    """What is wrong with a design's Verilog; empty if nothing is."""
    _, netlist, timing = sized(graph, design)
    x = np.random.default_rng(0).integers(-128, 128, (frames, *graph.inputs["image"].shape))
    wanted = graph.evaluate({"image": x})
    with tempfile.TemporaryDirectory() as folder:
        model = VerilatorModel(emit(netlist), netlist, Path(folder), jobs=1, optimise=False)
        try:
            paced = model.run({"image": x}, interval=timing.interval)
            runs = [paced, model.run({"image": x}), model.run({"image": x}, stall=0.3, seed=1)]
        except HwgenError as error:
            return str(error)
    for run in runs:
        for name, value in wanted.items():
            if (run.outputs[name] != value).any():
                return f"{name} differs from the reference"
    for name, first, last in zip(netlist.outputs, *timing.of_frames(frames), strict=True):
        if (paced.first[name] != first).any() or (paced.last[name] != last).any():
            return f"{name} does not come when predicted"
        if (runs[1].last[name] > last).any():
            return f"{name} comes later than predicted without gaps"
    return ""


def drawn(count: int) -> list[tuple[Graph, DesignPoint]]:
    """The first ``count`` networks that hypothesis draws; always the same."""
    found: list[tuple[Graph, DesignPoint]] = []

    @settings(max_examples=count, derandomize=True, deadline=None, database=None,
              phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(networks())
    def collect(network: tuple[Graph, DesignPoint]) -> None:
        found.append(network)

    collect()
    return found[:count]


def main() -> int:
    parser = argparse.ArgumentParser(description="Random networks in Verilator")
    parser.add_argument("--quick", action="store_true", help="8 networks")
    parser.add_argument("--networks", type=int, default=200)
    options = parser.parse_args()
    cases = drawn(8 if options.quick else options.networks)
    begin = time.perf_counter()
    wrong = 0
    with ProcessPoolExecutor(2) as pool:
        results = pool.map(check, *zip(*cases, strict=True))
        for k, (fault, (graph, _)) in enumerate(zip(results, cases, strict=True)):
            wrong += bool(fault)
            if k % 20 == 19:
                print(f"{k + 1} networks, {wrong} wrong, {time.perf_counter() - begin:.0f} s",
                      flush=True)
            if fault:
                print(f"network {k} ({', '.join(type(n.op).__name__ for n in graph.nodes)}): "
                      f"{fault}", flush=True)
    nodes = sum(len(graph.nodes) for graph, _ in cases)
    print(f"{len(cases)} networks with {nodes} ops: {wrong} wrong in value, time or liveness; "
          f"{time.perf_counter() - begin:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
