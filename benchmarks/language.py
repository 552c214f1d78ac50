"""A small language model whose linear layers are the accelerator's: what low_rank.py compresses.

    python -m benchmarks.language [--quick] [--board zcu104] [--dsp N] [--lut N] [--bytes N]

The text is Python's documentation as it comes with Python: the topics of ``help()`` and the
docstrings of the standard library.  Tokens are bytes.  The model is a transformer of the GPT kind,
trained here; training takes minutes, and its result is kept in ``build/language``.

The accelerator computes the linear layers alone.  They are cut into segments, three for each block:
``block0.qkv`` and ``block0.out`` are one layer each, ``block0.mlp`` is two with a GELU between
them.  What is between segments stays float, on the host: embeddings, layer normalisation, attention
itself (products of queries, keys and values, and the softmax), the sums of the residual stream, and
the head, whose weights are the embedding's.

Printed is what quantisation alone does: perplexity of held-out text, a byte, with linear layers as
integers, and the shortest interval within some DSPs, a frame being as many tokens as the model's
context.  Inputs and outputs of segments have 8 bits throughout, so bits of activations are those
within a segment.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import math
import platform
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from pydoc_data import topics

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn
from torch.nn import functional as F

from hwgen import boards
from hwgen.boards import Board
from hwgen.dse.design.found import Found
from hwgen.dse.design.search import search
from hwgen.ir import Graph
from hwgen.models.frames.samples import Feed, Feeds
from hwgen.models.lowering import lower
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.reader import normalise
from hwgen.models.quantisation.calibrate import TensorStatistics, statistics
from hwgen.models.quantisation.precision import Precision, Rule
from hwgen.models.training.repeatable import repeatable

__all__ = [
    "FULL", "QUICK", "IntegerLinears", "LanguageModel", "Linears", "Settings", "Text", "board_of",
    "calibration", "integer", "linear_network", "perplexity", "precision_of", "text", "train",
    "trained", "windows",
]

Linears = Callable[[str, Tensor], Tensor]
"""From the name of a segment and its input ``(..., inputs)`` to its output ``(..., outputs)``."""

FOLDER = Path("build/language")
BLOCK, HELD = 4096, 10
"""Bytes of a block of text, and of how many blocks one is held out."""
CALIBRATION = 256
"""Sequences of the training text that ranges are taken from."""
PRECISIONS = "w8a8", "w6a8", "w5a8", "w4a8", "w4a4"
CACHED = 256
"""Tokens at a time whose accumulators stay in a processor's cache."""


# The text

@dataclass(frozen=True)
class Text:
    """Bytes to train on, and others.

    Members
    -------
    training, held : uint8, one dimension
    digest : of both
    """

    training: np.ndarray
    held: np.ndarray
    digest: str


@cache
def text() -> Text:
    """Python's documentation, every tenth block of it held out."""
    parts = [topics.topics[name] for name in sorted(topics.topics)]
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        parts += _docstrings(path)
    data = "\n\n".join(parts).encode()
    whole = np.frombuffer(data, np.uint8)
    held = np.arange(len(whole)) // BLOCK % HELD == HELD - 1
    training, held = whole[~held], whole[held]
    digest = hashlib.sha256(training.tobytes() + held.tobytes()).hexdigest()
    return Text(training, held, digest)


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module, and of all that it defines, as they come."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                yield docstring


def windows(data: np.ndarray, context: int, count: int | None = None) -> np.ndarray:
    """Sequences ``(N, context + 1)``, int64, evenly spread: inputs, and one byte on the targets.

    Without ``count`` they follow each other, so that each byte is a target once.
    """
    most = (len(data) - 1) // context
    starts = np.arange(most) * context
    if count is not None and count < most:
        starts = np.linspace(0, len(data) - 1 - context, count).astype(np.int64)
    return data[starts[:, None] + np.arange(context + 1)].astype(np.int64)


# The model

@dataclass(frozen=True)
class Settings:
    """Of a model and its training.

    Parameters
    ----------
    width : of the residual stream; a multiple of ``heads``
    blocks, heads, context : number of blocks, of attention heads, of tokens that are seen
    steps, batch : of the training; sequences a step
    rate, decay : learning rate at its peak, weight decay
    seed : of the weights and the order of the text
    """

    width: int = 192
    blocks: int = 3
    heads: int = 6
    context: int = 128
    steps: int = 3000
    batch: int = 8
    rate: float = 3e-3
    decay: float = 0.1
    seed: int = 0


FULL = Settings()
QUICK = Settings(width=64, blocks=2, heads=2, steps=600, batch=4, rate=6e-3)


class Block(nn.Module):
    """Layers of a transformer's block; the model says how they are connected."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class LanguageModel(nn.Module):
    """A decoder-only transformer over bytes, normalised in front of its layers.

    Positions turn queries and keys (Su et al., "RoFormer: Enhanced Transformer with Rotary Position
    Embedding", 2021).

    Parameters
    ----------
    settings : :class:`Settings`

    Members
    -------
    segments : names of the segments, in their order
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        width = settings.width
        self.embedding = nn.Embedding(256, width)
        turns = _turns(settings.context, width // settings.heads)
        self.register_buffer("turns", torch.stack([turns.cos(), turns.sin()]), persistent=False)
        self.blocks = nn.ModuleList(Block(width) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(width)
        self.segments = tuple(f"block{k}.{part}" for k in range(settings.blocks)
                              for part in ("qkv", "out", "mlp"))
        for name, value in self.named_parameters():
            if value.ndim > 1:
                # Each block adds twice to the residual stream.
                last = name.endswith(("out.weight", "fc2.weight"))
                spread = 0.5 / math.sqrt(value.shape[1])
                nn.init.normal_(value, std=spread / math.sqrt(2 * settings.blocks if last else 1))
        nn.init.normal_(self.embedding.weight, std=0.1)

    def forward(self, tokens: Tensor, linears: Linears | None = None) -> Tensor:
        """Logits ``(B, T, 256)`` of the bytes that follow.

        Parameters
        ----------
        tokens : int64, ``(B, T)``, T at most the context
        linears : computes the segments instead of :meth:`linear`; gradients pass through it
        """
        linears = linears or self.linear
        x = self.embedding(tokens)
        for k, block in enumerate(self.blocks):
            qkv = linears(f"block{k}.qkv", block.first(x))
            x = x + linears(f"block{k}.out", self._attention(qkv))
            x = x + linears(f"block{k}.mlp", block.second(x))
        return self.norm(x) @ self.embedding.weight.T

    def linear(self, name: str, x: Tensor) -> Tensor:
        """A segment, in float."""
        block, part = name.split(".")
        layers = self.blocks[int(block.removeprefix("block"))]
        if part == "mlp":
            return layers.fc2(F.gelu(layers.fc1(x)))
        return getattr(layers, part)(x)

    def _attention(self, qkv: Tensor) -> Tensor:
        """What each token takes from those before it, and itself; ``(B, T, width)``."""
        query, key, value = (part.unflatten(-1, (self.settings.heads, -1)).transpose(1, 2)
                             for part in qkv.chunk(3, -1))
        mixed = F.scaled_dot_product_attention(
            self._turned(query), self._turned(key), value, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)

    def _turned(self, x: Tensor) -> Tensor:
        """Queries or keys ``(B, heads, T, D)`` with pairs of channels turned by their position."""
        cos, sin = self.turns[:, : x.shape[2]]
        real, imaginary = x.chunk(2, -1)
        return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], -1)


def _turns(context: int, width: int) -> Tensor:
    """Angles ``(context, width / 2)`` of rotary positions."""
    pace = 1000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.arange(context)[:, None] * pace


def train(
    settings: Settings, data: np.ndarray, progress: Callable[[str], None] = lambda _: None
) -> LanguageModel:
    """A model trained on random sequences of ``data``: the same one whenever settings are.

    AdamW with a warm-up, and then half a cosine down to a hundredth of the rate.
    """
    with repeatable(settings.seed, threads=2):
        model = LanguageModel(settings).train()
        order = np.random.default_rng(settings.seed)
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        optimiser = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.decay},
             {"params": vectors, "weight_decay": 0.0}], settings.rate, (0.9, 0.98), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _share(
            step, settings.steps))
        reach = np.arange(settings.context + 1)
        begin = time.perf_counter()
        for step in range(settings.steps):
            starts = order.integers(len(data) - settings.context, size=(settings.batch, 1))
            tokens = torch.from_numpy(data[starts + reach].astype(np.int64))
            loss = _loss(model(tokens[:, :-1]), tokens)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step % 100 == 99:
                progress(f"step {step + 1}: {math.exp(loss.item()):.3f} a byte, "
                         f"{time.perf_counter() - begin:.0f} s")
    return model.eval()


def _share(step: int, steps: int) -> float:
    """Of the learning rate."""
    warm = max(steps // 20, 1)
    fall = 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1)))
    return min((step + 1) / warm, fall)


def _loss(logits: Tensor, tokens: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction=reduction)


def trained(
    settings: Settings = FULL, progress: Callable[[str], None] = lambda _: None
) -> LanguageModel:
    """The model that :func:`train` makes of :func:`text`, kept as a file once it is made."""
    key = repr((settings, platform.python_version(), torch.__version__, text().digest))
    name = f"w{settings.width}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.pt"
    path = FOLDER / name
    if path.exists():
        model = LanguageModel(settings)
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    model = train(settings, text().training, progress)
    FOLDER.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(model.state_dict(), part)
    part.replace(path)
    return model


# Its linear layers

def linear_network(model: LanguageModel, tokens: int) -> Network:
    """The linear layers alone, as a float network.

    It has an input for each segment, named after it, ``(1, tokens, inputs)``, and an output named
    ``SEGMENT.result``; both are in the order of :attr:`LanguageModel.segments`.  Nodes are called
    ``block0/qkv``, ``block0/out``, ``block0/fc1``, ``block0/gelu`` and ``block0/fc2``; those that
    add biases have ``/bias`` behind the name.

    Parameters
    ----------
    model : whose layers
    tokens : of a frame
    """
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def layer(name: str, linear: nn.Linear, source: str, target: str) -> None:
        weight = linear.weight.detach().numpy().T
        constants.append(numpy_helper.from_array(np.ascontiguousarray(weight), f"{name}.weight"))
        constants.append(numpy_helper.from_array(linear.bias.detach().numpy(), f"{name}.bias"))
        nodes.append(helper.make_node(
            "MatMul", [source, f"{name}.weight"], [f"{name}.product"], name=name))
        nodes.append(helper.make_node(
            "Add", [f"{name}.product", f"{name}.bias"], [target], name=f"{name}/bias"))

    inputs, outputs = [], []
    for segment in model.segments:
        block, part = segment.split(".")
        layers = model.blocks[int(block.removeprefix("block"))]
        result = f"{segment}.result"
        if part == "mlp":
            layer(f"{block}/fc1", layers.fc1, segment, f"{block}/fc1.result")
            nodes.append(helper.make_node(
                "Gelu", [f"{block}/fc1.result"], [f"{block}/gelu.result"], name=f"{block}/gelu"))
            layer(f"{block}/fc2", layers.fc2, f"{block}/gelu.result", result)
            first, last = layers.fc1, layers.fc2
        else:
            first = last = getattr(layers, part)
            layer(f"{block}/{part}", first, segment, result)
        for values, name, extent in ((inputs, segment, first.in_features),
                                     (outputs, result, last.out_features)):
            values.append(helper.make_tensor_value_info(
                name, TensorProto.FLOAT, [1, tokens, extent]))
    graph = helper.make_graph(nodes, "linear_layers", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return normalise(made.SerializeToString(), "language", None)


def calibration(model: LanguageModel, network: Network, sequences: np.ndarray) -> Feeds:
    """Inputs of the segments, as the float model has them: one frame each, made when asked for.

    Parameters
    ----------
    model : whose
    network : its :func:`linear_network`, or what has the same inputs
    sequences : of tokens, ``(N, T)``; T is a multiple of a frame's tokens
    """
    tokens = network.shapes[network.inputs[0]][1]
    each = _frames_of(sequences.shape[1], tokens)

    @cache
    def recorded() -> list[Feed]:
        return [
            {name: value[k : k + 1] for name, value in frames.items()}
            for part in torch.from_numpy(sequences).split(16)
            for frames in [_inputs(model, part, tokens)]
            for k in range(len(part) * each)
        ]

    return Feeds(len(sequences) * each, lambda k: recorded()[k])


def _frames_of(length: int, tokens: int) -> int:
    """Frames that hold a sequence."""
    if length % tokens:
        raise ValueError(f"Sequences must be a multiple of {tokens} tokens, not {length!r}")
    return length // tokens


def _inputs(model: LanguageModel, sequences: Tensor, tokens: int) -> dict[str, np.ndarray]:
    """Inputs of all segments, ``(frames, tokens, inputs)``."""
    found: dict[str, np.ndarray] = {}

    def linears(name: str, x: Tensor) -> Tensor:
        found[name] = x.reshape(-1, tokens, x.shape[-1]).numpy()
        return model.linear(name, x)

    with torch.no_grad():
        model(sequences, linears)
    return found


def integer(
    network: Network, found: TensorStatistics, precision: str, corrected: bool = True
) -> Graph:
    """The integer graph of the linear layers.

    Parameters
    ----------
    network : of :func:`linear_network`, or what became of it
    found : by :func:`hwgen.models.quantisation.calibrate.statistics`
    precision : see :func:`precision_of`
    corrected : biases make up for the rounding of weights
    """
    return lower(network, found.ranges, precision_of(network, precision),
                 found.means if corrected else None)


def precision_of(network: Network, precision: str) -> Precision:
    """Such as ``w4a8``; inputs and outputs of segments have 8 bits all the same."""
    default = Precision.parse(precision).rules[0]
    ends = [Rule(name, activations=8) for name in (*network.inputs, *network.outputs)]
    return Precision((default, *ends), precision)


class IntegerLinears:
    """Linear layers as the hardware computes them, bit by bit: codes in, codes out.

    Parameters
    ----------
    segments : their names, in the order of the graph's inputs and outputs
    graph : of :func:`integer`
    """

    def __init__(self, segments: Sequence[str], graph: Graph) -> None:
        self.parts = {segment: _part(graph, input, output) for segment, input, output in zip(
            segments, graph.inputs, graph.outputs, strict=True)}

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """A segment; the tokens are a multiple of a frame's."""
        part = self.parts[name]
        ((input, taken),), (output,) = part.inputs.items(), part.outputs
        frames = x.detach().numpy().reshape(-1, *taken.shape)
        few = max(CACHED // taken.pixels, 1)
        # Products this small take several threads longer than one.
        with _libraries().limit(limits=1, user_api="blas"):
            results = [
                part.evaluate({input: taken.quantisation.quantise(frames[k : k + few])})[output]
                for k in range(0, len(frames), few)
            ]
        given = part.types[output].quantisation.dequantise(np.concatenate(results))
        return torch.from_numpy(given).reshape(*x.shape[:-1], -1)


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _part(graph: Graph, input: str, output: str) -> Graph:
    """What makes an output of an input."""
    part = Graph(outputs=[output])
    part.add_input(input, graph.inputs[input])
    for node in graph.nodes:
        if all(name in part.types for name in node.inputs):
            part.add_node(node.op, node.inputs, node.outputs)
    return part


def perplexity(
    model: LanguageModel, data: np.ndarray, linears: Linears | Graph | None = None,
    batch: int = 32,
) -> float:
    """Perplexity of a text, a byte: e to the mean cross entropy.

    Parameters
    ----------
    model : judged
    data : uint8, one dimension; or sequences of :func:`windows`
    linears : what computes the segments, default the model itself; an integer graph as hardware
        would
    batch : sequences at a time
    """
    if isinstance(linears, Graph):
        linears = IntegerLinears(model.segments, linears)
    sequences = data if data.ndim == 2 else windows(data, model.settings.context)
    total = 0.0
    with torch.no_grad():
        for tokens in torch.from_numpy(sequences).split(batch):
            total += _loss(model(tokens[:, :-1], linears), tokens, "sum").item()
    return math.exp(total / sequences[:, 1:].size)


# What quantisation alone does

def board_of(name: str, dsp: int, lut: int | None = None) -> Board:
    """A board with so many DSPs, all of which a design may take, and LUTs in proportion to them.

    With more LUTs the fabric would multiply, too, and DSPs would not be what designs are short of.
    """
    board = boards.load(name)
    luts = board.lut * dsp // board.dsp if lut is None else lut
    return replace(board, dsp=dsp, lut=luts, shares=replace(board.shares, dsp=1.0))


def _row(name: str, perplexity: float, seconds: float, found: Found | None = None) -> str:
    line = f"{name:<8}{perplexity:10.4f}{seconds:8.1f}"
    if found is not None:
        line += (f"{found.timing.interval:12,}{found.netlist.resources().dsp:6}"
                 f"{found.netlist.resources().lut:9,}{found.bounds.dsp:12,}  {found.limit}")
    return line


def main() -> int:
    parser = argparse.ArgumentParser(description="A language model, its linear layers quantised")
    parser.add_argument("--quick", action="store_true", help="a smaller model")
    parser.add_argument("--board", default="zcu104")
    parser.add_argument("--dsp", type=int, default=256, help="that the design may take")
    parser.add_argument("--lut", type=int, help="of the board; default as many a DSP as it has")
    parser.add_argument("--bytes", type=int, default=40_000, help="of held-out text")
    options = parser.parse_args()
    torch.set_num_threads(2)

    settings = QUICK if options.quick else FULL
    begin = time.perf_counter()
    model = trained(settings, lambda line: print(line, flush=True))
    print(f"{len(text().training):,} bytes to train on, {len(text().held):,} held out; model of "
          f"{sum(p.numel() for p in model.parameters()):,} weights, ready after "
          f"{time.perf_counter() - begin:.0f} s")
    held = windows(text().held, settings.context, options.bytes // settings.context)
    network = linear_network(model, settings.context)
    sequences = windows(text().training, settings.context, CALIBRATION)[:, :-1]
    found = statistics(network, calibration(model, network, sequences))
    board = board_of(options.board, options.dsp, options.lut)
    print("        perplexity       s    interval   DSP     LUTs   DSP bound  limit")
    begin = time.perf_counter()
    print(_row("float", perplexity(model, held), time.perf_counter() - begin), flush=True)
    for precision in PRECISIONS:
        graph = integer(network, found, precision)
        begin = time.perf_counter()
        quality = perplexity(model, held, graph)
        seconds = time.perf_counter() - begin
        print(_row(precision, quality, seconds, search(graph, board)), flush=True)
    macs = graph.macs // settings.context
    print(f"{macs:,} multiplications a token in the linear layers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
