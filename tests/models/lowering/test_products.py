"""Products of two streams outside of attention, as modules of others have them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.ir import Conv, MatMul, Rearrange, Softmax
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout
from hwgen.models.load import Source
from hwgen.models.onnx.session import session
from tests.models.whole import compared, exported

C, HEADS, SIDE = 24, 3, 4


class Tokens(nn.Module):
    """Patches of an image as tokens, whose queries, keys and values meet in some way."""

    def __init__(self, meet, channels_first: bool = False, **parts: nn.Module) -> None:
        super().__init__()
        self.meet, self.channels_first, self.parts = meet, channels_first, nn.ModuleDict(parts)
        self.patches = nn.Conv2d(3, C, 4, 4)
        self.qkv = nn.Conv2d(C, 3 * C, 1) if channels_first else nn.Linear(C, 3 * C)
        self.last = nn.Conv2d(C, 6, 1) if channels_first else nn.Linear(C, 6)

    def forward(self, x):
        x = self.patches(x)
        if self.channels_first:
            q, k, v = self.qkv(x).reshape(1, HEADS, -1, SIDE * SIDE).chunk(3, 2)
            return self.last(self.meet(q, k, v, self.parts).reshape(1, C, SIDE, SIDE))
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(1, -1, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        return self.last(self.meet(q, k, v, self.parts).transpose(1, 2).reshape(1, -1, C))


def linear(q, k, v, parts):
    """Linear attention, Katharopoulos et al. (2020), without its division."""
    return q.relu() @ (k.relu().transpose(-1, -2) @ v * 0.07)


def lite(q, k, v, parts):
    """The same with channels in front, as EfficientViT has it (Cai et al., 2023)."""
    return (v @ k.relu().transpose(-1, -2)) @ q.relu()


def mixed(q, k, v, parts):
    """Scores whose heads a layer mixes."""
    return parts["mix"](q @ k.transpose(-1, -2) * 0.3) @ v


def batched(q, k, v, parts):
    """Heads in the place of the batch."""
    q, k, v = (x.squeeze(0) for x in (q, k, v))
    return torch.bmm(torch.bmm(q, k.transpose(1, 2)), v)[None]


def check_integers(source: Source) -> None:
    """The integer graph and integer ONNX are the same at every tensor."""
    graph = source.graph
    random = np.random.default_rng(0)
    feed = {name: random.integers(t.quantisation.low, t.quantisation.high + 1, (2, *t.shape))
            for name, t in graph.inputs.items()}
    graph.outputs = [node.name for node in graph.nodes]
    runner = session(to_integer(graph))
    found = dict(zip(graph.outputs, runner.run(graph.outputs, {
        name: to_onnx_layout(x).astype(graph.types[name].quantisation.dtype)
        for name, x in feed.items()}), strict=True))
    for name, value in graph.evaluate(feed).items():
        np.testing.assert_array_equal(from_onnx_layout(found[name]), value, name)


PRODUCTS = {
    "linear": (Tokens(linear), 1), "lite": (Tokens(lite, True), 1), "batched": (Tokens(batched), 0),
    "mixed": (Tokens(mixed, mix=nn.Conv2d(HEADS, HEADS, 1)), 2),
}


@pytest.mark.parametrize("opset", [17, 20])
@pytest.mark.parametrize("form", PRODUCTS)
def test_two_streams_are_multiplied(form, opset, tmp_path):
    module, moved = PRODUCTS[form]
    exported(module, tmp_path / "net.onnx", opset)
    source, decibels = compared(tmp_path / "net.onnx")
    assert decibels > 30
    kinds = Counter(type(node.op) for node in source.graph.nodes)
    assert kinds[MatMul] == 2
    assert kinds[Rearrange] <= moved
    products = [node.op for node in source.graph.nodes if isinstance(node.op, MatMul)]
    assert [op.heads for op in products] == [HEADS, HEADS]
    check_integers(source)


def test_a_factor_behind_a_product_is_part_of_it(tmp_path):
    exported(Tokens(linear), tmp_path / "net.onnx")
    source, _ = compared(tmp_path / "net.onnx")
    kinds = Counter(type(node.op).__name__ for node in source.graph.nodes)
    # A ReLU of queries, and one of keys.
    assert kinds["Table"] == 2
    assert kinds[Conv.__name__] == 5


def talking(q, k, v, parts):
    """Talking heads (Shazeer et al., 2020): layers mix heads in front of the softmax and behind."""
    scores = parts["before"]((q @ k.transpose(-1, -2)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    weights = parts["behind"](scores.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return weights @ v


def placed(q, k, v, parts):
    """Scores with positions that a query asks for, as in BoTNet (Srinivas et al., 2021)."""
    return (q @ k.transpose(-1, -2) * 0.35 + parts["positions"](q)).softmax(-1) @ v


def mixture(q, k, v, parts):
    """Two softmaxes, of which each query takes some of each."""
    both = (q @ k.transpose(-1, -2)).softmax(-1), (k @ q.transpose(-1, -2)).softmax(-1)
    gate = torch.sigmoid(parts["gate"](q))
    return (gate * both[0] + (1 - gate) * both[1]) @ v


def contexts(q, k, v, parts):
    """A softmax over tokens for keys and one over channels for queries (Shen et al., 2018)."""
    return q.softmax(-1) @ (k.softmax(-2).transpose(-1, -2) @ v)


SOFTMAXES = {
    "talking": Tokens(talking, before=nn.Linear(HEADS, HEADS), behind=nn.Linear(HEADS, HEADS)),
    "placed": Tokens(placed, positions=nn.Linear(C // HEADS, SIDE * SIDE, bias=False)),
    "mixture": Tokens(mixture, gate=nn.Linear(C // HEADS, 1)),
}


@pytest.mark.parametrize("opset", [12, 17, 20])
@pytest.mark.parametrize("form", SOFTMAXES)
def test_softmax_outside_of_attention(form, opset, tmp_path):
    exported(SOFTMAXES[form], tmp_path / "net.onnx", opset)
    source, decibels = compared(tmp_path / "net.onnx")
    assert decibels > 30
    kinds = Counter(type(node.op) for node in source.graph.nodes)
    assert kinds[Softmax] == (2 if form == "mixture" else 1)
    assert kinds[MatMul] == (3 if form == "mixture" else 2)
    for node in source.graph.nodes:
        if isinstance(node.op, Softmax):
            # What it reads is fine, and it has as many elements as there are tokens.
            assert source.graph.types[node.inputs[0]].bits == 12
            assert source.graph.types[node.name].channels == node.op.groups * SIDE * SIDE
    check_integers(source)


class Pooled(nn.Module):
    """Global context (Cao et al., 2019), and as in MobileViT v2: a softmax over tokens."""

    def __init__(self, product: bool) -> None:
        super().__init__()
        self.product = product
        self.patches, self.ask = nn.Conv2d(3, C, 4, 4), nn.Conv2d(C, 1, 1)
        self.last = nn.Conv2d(C, 5, 1)

    def forward(self, x):
        x = self.patches(x)
        weights = (3 * self.ask(x).flatten(2)).softmax(-1)
        values = x.flatten(2)
        context = values @ weights.transpose(1, 2) if self.product else (
            (values * weights).sum(-1, keepdim=True))
        return self.last(x * context[..., None])


@pytest.mark.parametrize("product", [False, True])
def test_over_tokens(product, tmp_path):
    exported(Pooled(product), tmp_path / "net.onnx")
    source, decibels = compared(tmp_path / "net.onnx")
    assert decibels > 30
    (op,) = (node.op for node in source.graph.nodes if isinstance(node.op, Softmax))
    assert op.groups == 1
    check_integers(source)


def test_over_channels_and_over_tokens(tmp_path):
    exported(Tokens(contexts), tmp_path / "net.onnx")
    source, decibels = compared(tmp_path / "net.onnx")
    assert decibels > 28
    # Of those over the eight channels of a head exponentials and their sum are written out.
    assert sum(isinstance(node.op, Softmax) for node in source.graph.nodes) == 1
    check_integers(source)
