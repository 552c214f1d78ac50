"""Attention as PyTorch's exporters and hand-written modules leave it in files."""

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
from torch.nn import functional

from hwgen.errors import HwgenError
from hwgen.ir import Attention
from hwgen.models.load import read
from tests.models.whole import compared

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


def exported(module: nn.Module, path, opset: int) -> None:
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # pyright: ignore[reportCallIssue]
    options = {"external_data": False} if opset >= 18 else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.rand(1, 3, 16, 16),), str(path),
                          dynamo=opset >= 18, opset_version=opset, **options)


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


def _scores(tmp_path, mask: np.ndarray) -> str:
    """A file whose scores have something added."""
    random = np.random.default_rng(0)
    constants = {"w": random.normal(0, 0.3, (8, 8)), "mask": mask}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["q"]),
        helper.make_node("Transpose", ["q"], ["k"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
        helper.make_node("Add", ["scores", "mask"], ["masked"], name="hides"),
        helper.make_node("Softmax", ["masked"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "q"], ["o"]),
        helper.make_node("MatMul", ["o", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", 1, [1, 5, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 5, 8])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()])
    path = tmp_path / "net.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return str(path)


@pytest.mark.parametrize("mask, message", [
    (np.linspace(0, 1, 25).reshape(5, 5), "'hides' \\(Add\\): a bias that is added to the scores"),
    (np.where(np.eye(5), 0, -1e9), "'hides' \\(Add\\): a mask of attention that is not causal"),
])
def test_refusals(mask, message, tmp_path):
    with pytest.raises(HwgenError, match=message):
        read(_scores(tmp_path, mask))


def test_one_tensor_as_queries_keys_and_values(tmp_path):
    source, decibels = compared(_scores(tmp_path, np.zeros((5, 5))))
    assert decibels > 30
    assert sum(isinstance(node.op, Attention) for node in source.graph.nodes) == 1
