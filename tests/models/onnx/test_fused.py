"""Ops that stand for several: those of onnxruntime's domain, and of newer operator sets."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.ir import Attention
from hwgen.models.load import read
from tests.models.whole import compared

N = helper.make_node
MS = {"domain": "com.microsoft"}
TOKENS, C, HEADS = 6, 12, 3
RANDOM = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RANDOM.normal(0, shape[0] ** -0.5, shape)


LAYERS = {name: weights(C, C) for name in ("wq", "wk", "wv", "wo")}
LAYERS |= {"bias": RANDOM.normal(0, 0.3, 3 * C), "gamma": RANDOM.uniform(0.5, 1.5, C),
           "beta": RANDOM.normal(0, 0.2, C)}
QKV = [N("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"]
LAST = [N("MatMul", ["a", "wo"], ["y"])]


def saved(path, nodes, constants, opset: int = 17, shape=(1, TOKENS, C)) -> str:
    """A file with an input ``x`` and an output ``y``."""
    used = {name for node in nodes for name in node.input}
    arrays = [numpy_helper.from_array(
        v if v.dtype in (np.int64, np.bool_, np.int32) else v.astype(np.float32), k)
        for k, v in (LAYERS | constants).items() if k in used]
    graph = helper.make_graph(
        nodes, "net", [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)], arrays)
    model = helper.make_model(graph, opset_imports=[
        helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)])
    model.ir_version = 10
    onnx.save(model, path / "net.onnx")
    return str(path / "net.onnx")


def split(name: str, heads: int, out: str) -> list[onnx.NodeProto]:
    """A tensor with an axis for its heads, of which there are as many as a constant says."""
    return [N("Reshape", [name, f"shape{heads}"], [f"{name}_split"]),
            N("Transpose", [f"{name}_split"], [out], perm=[0, 2, 1, 3])]


SHAPES = {f"shape{h}": np.array([1, TOKENS, h, -1]) for h in (1, HEADS)} | {
    "flat": np.array([1, TOKENS, C])}
JOINED = [N("Transpose", ["o"], ["turned"], perm=[0, 2, 1, 3]),
          N("Reshape", ["turned", "flat"], ["a"])]
SEEN = np.tri(TOKENS, dtype=bool)
FAR = -0.2 * abs(np.subtract.outer(np.arange(TOKENS), np.arange(TOKENS)))[None, None]

ATTENTION = {
    "three axes": (23, [*QKV, N("Attention", ["q", "k", "v"], ["a"], q_num_heads=HEADS,
                                kv_num_heads=HEADS), *LAST], {}, (HEADS, HEADS, False)),
    "causal, scaled": (23, [*QKV, N("Attention", ["q", "k", "v"], ["a"], q_num_heads=HEADS,
                                    kv_num_heads=HEADS, is_causal=1, scale=0.4), *LAST], {},
                       (HEADS, HEADS, True)),
    "shared keys": (23, [
        *QKV[:1], N("MatMul", ["x", "wk1"], ["k"]), N("MatMul", ["x", "wv1"], ["v"]),
        N("Attention", ["q", "k", "v"], ["a"], q_num_heads=HEADS, kv_num_heads=1), *LAST],
        {"wk1": weights(C, C // HEADS), "wv1": weights(C, C // HEADS)}, (HEADS, 1, False)),
    "four axes, mask": (23, [
        *QKV, *split("q", HEADS, "qh"), *split("k", HEADS, "kh"), *split("v", HEADS, "vh"),
        N("Attention", ["qh", "kh", "vh", "seen"], ["o"]), *JOINED, *LAST],
        {"seen": SEEN}, (HEADS, HEADS, True)),
    "bias": (23, [*QKV, N("Attention", ["q", "k", "v", "far"], ["a"], q_num_heads=HEADS,
                          kv_num_heads=HEADS), *LAST], {"far": FAR}, (HEADS, HEADS, False)),
    "window": (25, [*QKV, N("Attention", ["q", "k", "v"], ["a"], q_num_heads=HEADS,
                            kv_num_heads=HEADS, left_window_size=1, right_window_size=2), *LAST],
               {}, (HEADS, HEADS, False)),
    "window behind": (25, [*QKV, N("Attention", ["q", "k", "v"], ["a"], q_num_heads=HEADS,
                                   kv_num_heads=HEADS, left_window_size=2, is_causal=1), *LAST],
                      {}, (HEADS, HEADS, True)),
    "MultiHeadAttention": (17, [
        *QKV, N("MultiHeadAttention", ["q", "k", "v", "bias"], ["a"], num_heads=HEADS, **MS),
        *LAST], {}, (HEADS, HEADS, False)),
    "MultiHeadAttention with a bias of scores": (17, [
        *QKV, N("MultiHeadAttention", ["q", "k", "v", "", "", "far"], ["a"], num_heads=HEADS,
                unidirectional=1, scale=0.5, **MS), *LAST],
        {"far": np.broadcast_to(FAR, (1, HEADS, TOKENS, TOKENS))}, (HEADS, HEADS, True)),
    "Attention of onnxruntime": (17, [
        N("Attention", ["x", "wqkv", "bias"], ["a"], num_heads=HEADS, **MS), *LAST],
        {"wqkv": weights(C, 3 * C)}, (HEADS, HEADS, False)),
    "Einsum": (17, [
        *QKV, *(N("Reshape", [n, "shape3"], [f"{n}h"]) for n in "qkv"),
        N("Einsum", ["qh", "kh"], ["scores"], equation="bihd,bjhd->bhij"),
        N("Mul", ["scores", "scale"], ["scaled"]), N("Softmax", ["scaled"], ["p"], axis=-1),
        N("Einsum", ["p", "vh"], ["o"], equation="bhij,bjhd->bihd"),
        N("Einsum", ["o", "wout"], ["y"], equation="bihd,hdc->bic")],
        {"scale": np.array(0.5), "wout": weights(C, C).reshape(HEADS, C // HEADS, C)},
        (HEADS, HEADS, False)),
    "guarded": (17, [
        *QKV, N("Transpose", ["k"], ["kt"], perm=[0, 2, 1]), N("MatMul", ["q", "kt"], ["scores"]),
        N("Softmax", ["scores"], ["p"], axis=-1), N("IsNaN", ["p"], ["nan"]),
        N("Where", ["nan", "zero", "p"], ["good"]), N("MatMul", ["good", "v"], ["a"]), *LAST],
        {"zero": np.array(0.0)}, (1, 1, False)),
}


@pytest.mark.parametrize("form", ATTENTION)
def test_attention(form, tmp_path):
    opset, nodes, constants, (heads, kv_heads, causal) = ATTENTION[form]
    source, decibels = compared(saved(tmp_path, nodes, SHAPES | constants, opset))
    assert decibels > 28
    (op,) = (node.op for node in source.graph.nodes if isinstance(node.op, Attention))
    assert (op.heads, op.kv_heads, op.causal) == (heads, kv_heads, causal)
    assert (op.bias is not None) == ("bias" in form)
    assert (op.hidden is not None) == ("window" in form)


SKIP = [N("MatMul", ["x", "wq"], ["q"])]
ROUND = {
    "SkipLayerNormalization": (17, [
        *SKIP, N("SkipLayerNormalization", ["x", "q", "gamma", "beta", "beta"],
                 ["n", "", "", "sum"], epsilon=1e-4, **MS),
        N("MatMul", ["n", "wk"], ["k"]), N("Add", ["k", "sum"], ["a"]), *LAST]),
    "SkipSimplifiedLayerNormalization": (17, [
        *SKIP, N("SkipSimplifiedLayerNormalization", ["x", "q", "gamma", "beta"], ["a"], **MS),
        *LAST]),
    "LayerNormalization of onnxruntime": (13, [
        *SKIP, N("LayerNormalization", ["q", "gamma", "beta"], ["a"], axis=-1, epsilon=1e-5),
        *LAST]),
    "SimplifiedLayerNormalization": (13, [
        *SKIP, N("SimplifiedLayerNormalization", ["q", "gamma"], ["a"], axis=-1, epsilon=1e-5),
        *LAST]),
    "BiasGelu": (17, [*SKIP, N("BiasGelu", ["q", "beta"], ["a"], **MS), *LAST]),
    "Gelu": (17, [*SKIP, N("Gelu", ["q"], ["a"], **MS), *LAST]),
    "FastGelu": (17, [*SKIP, N("FastGelu", ["q", "beta"], ["a"], **MS), *LAST]),
    "QuickGelu": (17, [*SKIP, N("QuickGelu", ["q"], ["a"], alpha=1.5, **MS), *LAST]),
    "FusedMatMul": (17, [
        *SKIP, N("FusedMatMul", ["q", "wk"], ["a"], transB=1, alpha=0.5, **MS), *LAST]),
}


@pytest.mark.parametrize("form", ROUND)
def test_what_is_around_attention(form, tmp_path):
    opset, nodes = ROUND[form]
    _, decibels = compared(saved(tmp_path, nodes, {}, opset))
    assert decibels > 30


ANGLES = np.arange(TOKENS)[:, None] / 10.0 ** np.linspace(0, 2, C // HEADS // 2)
POSITIONS = {"cos": np.cos(ANGLES), "sin": np.sin(ANGLES), "at": np.arange(TOKENS)[None],
             "first": np.zeros(1, np.int64)}


def by_parts(name: str, out: str) -> list[onnx.NodeProto]:
    """Positions as PyTorch's exporter writes them: x * cos + cat(-second, first) * sin."""
    return [
        N("Split", [name], [f"{name}1", f"{name}2"], axis=-1, num_outputs=2),
        N("Neg", [f"{name}2"], [f"{name}n"]),
        N("Concat", [f"{name}n", f"{name}1"], [f"{name}r"], axis=-1),
        N("Mul", [name, "cos2"], [f"{name}c"]), N("Mul", [f"{name}r", "sin2"], [f"{name}s"]),
        N("Add", [f"{name}c", f"{name}s"], [out])]


@pytest.mark.parametrize("form", ["op", "interleaved", "three axes", "onnxruntime", "parts"])
def test_positions(form, tmp_path):
    """Queries and keys turned by their positions, in front of an attention."""
    heads = [*split("q", HEADS, "qh"), *split("k", HEADS, "kh"), *split("v", HEADS, "vh")]
    attends = [N("Attention", ["qr", "kr", "vh"], ["o"]), *JOINED]
    constants = dict(POSITIONS)
    if form == "parts":
        constants |= {f"{n}2": np.tile(POSITIONS[n], (1, 2)) for n in ("cos", "sin")}
        turns = [*by_parts("qh", "qr"), *by_parts("kh", "kr")]
    elif form == "three axes":
        heads, attends = [], [N("Attention", ["qr", "kr", "v"], ["a"], q_num_heads=HEADS,
                                kv_num_heads=HEADS)]
        turns = [N("RotaryEmbedding", [n, "cos", "sin", "at"], [f"{n}r"], num_heads=HEADS)
                 for n in "qk"]
    elif form == "onnxruntime":
        turns = [N("RotaryEmbedding", [f"{n}h", "first", "cos", "sin"], [f"{n}r"], **MS)
                 for n in "qk"]
    else:
        turns = [N("RotaryEmbedding", [f"{n}h", "cos", "sin", "at"], [f"{n}r"],
                   interleaved=int(form == "interleaved")) for n in "qk"]
    nodes = [*QKV, *heads, *turns, *attends, *LAST]
    source, decibels = compared(saved(tmp_path, nodes, SHAPES | constants, 23))
    assert decibels > 28
    assert sum(isinstance(node.op, Attention) for node in source.graph.nodes) == 1


@pytest.mark.parametrize("equation", ["btc->bt", "btc->bc", "btc->bct"])
def test_einsum_of_one_tensor(equation, tmp_path):
    behind = {"bt": ["e"], "bc": ["e"], "bct": []}[equation[5:]]
    nodes = [*SKIP, N("Einsum", ["q"], ["e"], equation=equation)]
    nodes += [N("MatMul", [name, "m"], ["y"]) for name in behind] or [
        N("Transpose", ["e"], ["a"], perm=[0, 2, 1]), *LAST]
    m = weights(TOKENS if equation.endswith("bt") else C, 4)
    _, decibels = compared(saved(tmp_path, nodes, {"m": m}))
    assert decibels > 30


FRAMES = 2
TURNED = [*QKV, N("RotaryEmbedding", ["q", "cos", "sin", "at"], ["qr"], num_heads=HEADS),
          N("Attention", ["qr", "k", "v"], ["a"], q_num_heads=HEADS, kv_num_heads=HEADS), *LAST]
MASKED = [*QKV, N("Attention", ["q", "k", "v", "far"], ["a"], q_num_heads=HEADS,
                  kv_num_heads=HEADS), *LAST]


@pytest.mark.parametrize("nodes, constants", [
    (TURNED, {"at": np.tile(np.arange(TOKENS), (FRAMES, 1))}),
    (MASKED, {"far": np.tile(FAR, (FRAMES, 1, 1, 1))}),
])
def test_constants_of_each_frame(nodes, constants, tmp_path):
    """They may be alike for all frames of a batch; else the file is refused."""
    constants = SHAPES | POSITIONS | constants
    path = saved(tmp_path, nodes, constants, 23, (FRAMES, TOKENS, C))
    with pytest.warns(HwgenWarning, match="has a batch of 2"):
        assert read(path).graph.inputs
    (name,) = {"at", "far"} & {i for node in nodes for i in node.input}
    other = constants[name].copy()
    other[1] = other[1][..., ::-1]
    with pytest.warns(HwgenWarning), pytest.raises(HwgenError, match="each frame has its own"):
        read(saved(tmp_path, nodes, constants | {name: other}, 23, (FRAMES, TOKENS, C)))


@pytest.mark.parametrize("nodes, constants, opset, message", [
    ([*QKV, N("Attention", ["q", "k", "v"], ["a"], q_num_heads=3, kv_num_heads=3, softcap=2.0),
      *LAST], {}, 23, r"\(Attention\): scores that are bent"),
    ([*QKV, N("Attention", ["q", "k", "v"], ["a"]), *LAST], {}, 23, "need q_num_heads"),
    ([*QKV, N("Attention", ["q", "k", "v", "x"], ["a"], q_num_heads=3, kv_num_heads=3), *LAST],
     {}, 23, "its mask must be constant"),
    ([*QKV, N("MultiHeadAttention", ["q", "k", "v", "", "length"], ["a"], num_heads=3, **MS),
      *LAST], {"length": np.array([6], np.int32)}, 17, "masks by length"),
    ([*QKV, N("Einsum", ["q", "k", "v"], ["a"], equation="bic,bjc,bjd->bid"), *LAST], {}, 17,
     "only a product of two"),
    ([*QKV, N("Einsum", ["q", "k"], ["a"], equation="bic,bid->bc"), *LAST], {}, 17,
     "summed over in one tensor alone"),
    ([*SKIP, N("Einsum", ["q"], ["a"], equation="bii->bi"), *LAST], {}, 17,
     "an axis is taken twice"),
    ([*SKIP, N("LayerNormalization", ["q", "gamma"], ["a"], axis=1), *LAST], {}, 13,
     "only a normalisation along the last axis"),
])
def test_refusals(nodes, constants, opset, message, tmp_path):
    with pytest.raises(HwgenError, match=message):
        read(saved(tmp_path, nodes, constants, opset))


def test_the_scale_is_that_of_the_head(tmp_path):
    """One over the root of the channels of a head, if no scale is stated."""
    opset, nodes, constants, _ = ATTENTION["three axes"]
    source, _ = compared(saved(tmp_path, nodes, constants, opset))
    (pattern,) = source.network.attention.values()
    np.testing.assert_allclose(pattern.scale, 1 / math.sqrt(C // HEADS), rtol=1e-6)
