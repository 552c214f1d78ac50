"""Attention as PyTorch's exporters and hand-written modules leave it in files."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from hwgen.errors import HwgenError
from hwgen.ir import Attention, Conv, Rearrange
from hwgen.models.load import read
from tests.models.whole import compared, exported

TOKENS, C, HEADS = 16, 24, 3


class Attends(nn.Module):
    """An image's patches attend to one another."""

    def __init__(self, attend, kv_heads: int = HEADS) -> None:
        super().__init__()
        self.attend, self.kv = attend, kv_heads * (C // HEADS)
        self.patches = nn.Conv2d(3, C, 4, 4)
        self.q, self.k, self.v = nn.Linear(C, C), nn.Linear(C, self.kv), nn.Linear(C, self.kv)
        self.last = nn.Linear(C, 6)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = (layer(x).reshape(1, TOKENS, -1, C // HEADS).transpose(1, 2)
                   for layer in (self.q, self.k, self.v))
        a = self.attend(3 * q, k, v)
        return self.last(a.transpose(1, 2).reshape(1, TOKENS, C))


def by_hand(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / (C // HEADS) ** 0.5, -1) @ v


def masked(q, k, v):
    hidden = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-1, -2) * 0.3).masked_fill(hidden, float("-inf"))
    return torch.softmax(scores, -1) @ v


def added_mask(q, k, v):
    mask = torch.full((1, 1, TOKENS, TOKENS), -1e9).triu(1)
    return torch.softmax(q @ k.transpose(-1, -2) * 0.3 + mask, -1) @ v


def without_batch(q, k, v):
    """As nn.MultiheadAttention has it: heads are the batch of a product of three axes."""
    q, k, v = (x.reshape(HEADS, TOKENS, -1) for x in (q, k, v))
    return torch.bmm(torch.softmax(torch.bmm(q * 0.4, k.transpose(1, 2)), -1), v)[None]


def shared(q, k, v):
    """Keys and values that all heads have in common."""
    k, v = (x.expand(1, HEADS, TOKENS, C // HEADS) for x in (k, v))
    return by_hand(q, k, v)


def scaled(q, k, v):
    return functional.scaled_dot_product_attention(q, k, v)


def scaled_causal(q, k, v):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


FORMS = {
    "by hand": (by_hand, HEADS, False), "masked_fill": (masked, HEADS, True),
    "added mask": (added_mask, HEADS, True), "three axes": (without_batch, HEADS, False),
    "shared keys": (shared, 1, False), "scaled": (scaled, HEADS, False),
    "scaled, causal": (scaled_causal, HEADS, True),
}


@pytest.mark.parametrize("opset", [14, 17, 20])
@pytest.mark.parametrize("form", FORMS)
def test_is_one_op(form, opset, tmp_path):
    attend, kv_heads, causal = FORMS[form]
    path = tmp_path / "net.onnx"
    exported(Attends(attend, kv_heads), path, opset)
    source, decibels = compared(path)
    assert decibels > 30
    (op,) = (node.op for node in source.graph.nodes if isinstance(node.op, Attention))
    assert (op.heads, op.kv_heads, op.causal) == (HEADS, kv_heads, causal)


def _saved(path, nodes, constants: dict[str, np.ndarray], shape, out, opset: int = 17) -> str:
    """A file with an input ``x`` and an output ``y``."""
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, out)],
        [numpy_helper.from_array(v if v.dtype == np.int64 or v.dtype == bool
                                 else v.astype(np.float32), k) for k, v in constants.items()])
    model = helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 10
    onnx.save(model, path / "net.onnx")
    return str(path / "net.onnx")


def _scores(tmp_path, mask: np.ndarray, kind: str = "Add", first: bool = False) -> str:
    """A file whose scores have something added, or are changed otherwise by a constant."""
    random = np.random.default_rng(0)
    constants = {"w": random.normal(0, 0.3, (8, 8)), "mask": mask}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["scores"], name="product"),
        helper.make_node(kind, ["mask", "scores"] if first else ["scores", "mask"], ["masked"],
                         name="hides"),
        helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "q"], ["o"]),
        helper.make_node("MatMul", ["o", "w"], ["y"]),
    ]
    return _saved(tmp_path, nodes, constants, [1, 5, 8], [1, 5, 8])


@pytest.mark.parametrize("kind, mask, first, message", [
    ("Mul", np.linspace(1, 2, 25).reshape(5, 5), False,
     "'product' \\(MatMul\\): the scores of an attention are multiplied by constants that differ"),
    ("Mul", np.array([-1.0]), False, "or are not positive"),
    ("Sub", np.array([1.0]), True, "or are not positive"),
    ("Add", np.where(np.arange(5)[:, None] == 2, -np.inf, np.zeros((5, 5))), False,
     "infinite or NaN on the calibration frames"),
])
def test_refusals(kind, mask, first, message, tmp_path):
    with pytest.raises(HwgenError, match=message):
        read(_scores(tmp_path, mask, kind, first))


@pytest.mark.parametrize("kind, mask, causal, biased, hides", [
    ("Add", np.linspace(0, 3, 25).reshape(5, 5), False, True, False),
    ("Sub", np.linspace(0, 3, 25).reshape(1, 5, 5), False, True, False),
    ("Add", np.where(np.eye(5), 0, -1e9), True, False, True),
    ("Add", np.where(np.eye(5)[::-1], 0, -np.inf), False, False, True),
    ("Add", np.where(np.eye(5)[::-1], 0, -100.0), False, False, True),
    ("Add", np.where(np.tri(5), -0.3 * abs(np.subtract.outer(range(5), range(5))), -np.inf), True,
     True, False),
    ("Add", np.where(np.tri(5), 0, -1e4), True, False, False),
    ("Add", np.full((5, 5), 3.0), False, False, False),
])
def test_what_is_added_to_scores(kind, mask, causal, biased, hides, tmp_path):
    source, decibels = compared(_scores(tmp_path, mask, kind))
    assert decibels > 30
    (op,) = (node.op for node in source.graph.nodes if isinstance(node.op, Attention))
    assert (op.causal, op.bias is not None, op.hidden is not None) == (causal, biased, hides)


def test_one_tensor_as_queries_keys_and_values(tmp_path):
    source, decibels = compared(_scores(tmp_path, np.zeros((5, 5))))
    assert decibels > 30
    assert sum(isinstance(node.op, Attention) for node in source.graph.nodes) == 1


class Windows(nn.Module):
    """Pixels of an image attend to one another within windows, as in Swin and MaxViT.

    Parameters
    ----------
    size : pixels on each side of a window
    roll : by how many pixels the image is rolled, so that windows cross the borders of the last
    grid : whether a window takes every few pixels of all the image
    """

    def __init__(self, size: int = 4, roll: int = 0, grid: bool = False) -> None:
        super().__init__()
        self.size, self.roll, self.grid = size, roll, grid
        self.patches = nn.Conv2d(3, C, 2, 2)
        self.norm = nn.LayerNorm(C)
        self.qkv, self.out = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.last = nn.Conv2d(C, 4, 1)
        side = size * size
        self.bias = nn.Parameter(torch.randn(HEADS, side, side))
        number = torch.arange(8 // size).repeat_interleave(size)
        number = torch.where((torch.arange(8) >= 8 - roll), 9, number)
        region = 16 * number[:, None] + number[None]
        windows = region.reshape(8 // size, size, 8 // size, size).transpose(1, 2).reshape(-1, side)
        mask = torch.where(windows[:, :, None] == windows[:, None], 0.0, -100.0)
        self.register_buffer("mask", mask if roll else None)

    def parted(self, x):
        n, s = 8 // self.size, self.size
        if self.grid:
            return x.view(1, s, n, s, n, C).permute(0, 2, 4, 1, 3, 5).reshape(-1, s * s, C)
        return x.view(1, n, s, n, s, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, C)

    def joined(self, x):
        n, s = 8 // self.size, self.size
        if self.grid:
            x = x.view(1, n, n, s, s, C).permute(0, 3, 1, 4, 2, 5)
        else:
            x = x.view(1, n, n, s, s, C).permute(0, 1, 3, 2, 4, 5)
        return x.reshape(1, 8, 8, C)

    def forward(self, x):
        x = whole = self.patches(x).permute(0, 2, 3, 1)
        x = torch.roll(self.norm(x), (-self.roll, -self.roll), (1, 2)) if self.roll else (
            self.norm(x))
        x = self.parted(x)
        qkv = self.qkv(x).reshape(len(x), -1, 3, HEADS, C // HEADS).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        scores = q * 0.35 @ k.transpose(-2, -1) + self.bias
        if self.mask is not None:
            scores = scores.view(1, len(x), HEADS, *scores.shape[-2:]) + self.mask[None, :, None]
            scores = scores.view(-1, HEADS, *scores.shape[-2:])
        x = (torch.softmax(scores, -1) @ v).transpose(1, 2).reshape(x.shape)
        x = self.joined(self.out(x))
        x = torch.roll(x, (self.roll, self.roll), (1, 2)) if self.roll else x
        return self.last((whole + x).permute(0, 3, 1, 2))


@pytest.mark.parametrize("opset", [14, 17, 20])
@pytest.mark.parametrize("form", [{}, {"roll": 2}, {"grid": True}, {"size": 2}])
def test_windows(form, opset, tmp_path):
    path = tmp_path / "net.onnx"
    exported(Windows(**form), path, opset)
    source, decibels = compared(path)
    assert decibels > 30
    (op,) = (node.op for node in source.graph.nodes if isinstance(node.op, Attention))
    size = form.get("size", 4)
    assert (op.windows, op.heads) == (64 // size**2, HEADS)
    assert op.bias is not None
    assert op.bias.shape == (1, HEADS, size**2, size**2)
    assert (op.hidden is not None) == bool(form.get("roll"))
    # The frame is put in another order once in front, and once behind.
    orders = [node for node in source.graph.nodes if isinstance(node.op, Rearrange)]
    assert len(orders) == 2
    # Queries, keys and values have a layer each.
    layers = [node for node in source.graph.nodes if node.inputs == (orders[0].name,)]
    assert [layer.op.cout for layer in layers if isinstance(layer.op, Conv)] == [C, C, C]


@pytest.mark.parametrize("form", ["channels first", "over channels", "scales by head", "pixels"])
def test_other_forms(form, tmp_path):
    """Operands as they come where tokens are pixels, or the channels of a head."""
    path = tmp_path / "net.onnx"
    exported(Turned(form), path, 17)
    source, decibels = compared(path)
    assert decibels > 30
    (op,) = (node.op for node in source.graph.nodes if isinstance(node.op, Attention))
    assert (op.windows, op.heads) == {
        "channels first": (1, 3), "over channels": (3, 1), "scales by head": (1, 3),
        "pixels": (4, 3)}[form]
    assert len(op.step) == (3 if form in ("scales by head", "over channels") else 1)


class Turned(nn.Module):
    """Attention with operands whose axes stand otherwise."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.qkv = nn.Conv2d(3, C, 4, 4), nn.Conv2d(C, 3 * C, 1)
        self.last = nn.Conv2d(C, 5, 1)
        self.scale = nn.Parameter(torch.tensor([0.2, 0.5, 0.9])[None, :, None, None])

    def forward(self, x):
        x = self.first(x)
        n = 4 if self.form == "pixels" else 1
        if n > 1:
            # As in MobileViT: pixels of a patch attend to those at the same place of others.
            x = x.reshape(C * 2, 2, 2, 2).transpose(1, 2).reshape(1, C, 4, 4).transpose(1, 3)
            x = x.reshape(4, 4, C).transpose(1, 2)
            q, k, v = (x.reshape(4, HEADS, 8, 4) * s for s in (1.0, 1.5, 1.0))
            p = torch.softmax(k.transpose(-1, -2) @ q, -2)
            x = (v @ p).reshape(4, C, 4).transpose(1, 2).reshape(1, 4, 4, C).transpose(1, 3)
            return self.last(x.reshape(1, C, 4, 4))
        q, k, v = self.qkv(x).reshape(1, 3, HEADS, C // HEADS, 16).unbind(1)
        if self.form == "channels first":
            p = torch.softmax(q.transpose(-1, -2) @ k * 0.4, -1)
            out = v @ p.transpose(-1, -2)
        elif self.form == "over channels":
            out = torch.softmax(q @ k.transpose(-1, -2) * self.scale, -1) @ v
        else:
            q, k, v = (t.transpose(-1, -2) for t in (q, k, v))
            out = (torch.softmax(q * self.scale @ k.transpose(-1, -2), -1) @ v).transpose(-1, -2)
        return self.last(out.reshape(1, C, 4, 4))
