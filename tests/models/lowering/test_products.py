"""Products of two streams outside of attention, as modules of others have them."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.ir import Conv, MatMul, Rearrange
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout
from hwgen.models.load import Source
from hwgen.models.onnx.session import session
from tests.models.whole import compared

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


def exported(module: nn.Module, path, opset: int = 17) -> None:
    """Write a module with seeded weights."""
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # pyright: ignore[reportCallIssue]
    options = {"external_data": False} if opset >= 18 else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.rand(1, 3, 16, 16),), str(path),
                          dynamo=opset >= 18, opset_version=opset, **options)


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
