"""Attention, products of named axes and positions as one op each, written as their parts."""

from __future__ import annotations

import math

import numpy as np

from hwgen.models.onnx.fused import FusedWriter, Written, microsoft, stands_for

__all__: list[str] = []

HIDDEN = -np.inf
"""What is added to scores of keys that are hidden."""


def _by_head(writer: FusedWriter, name: str, heads: int) -> str:
    """``(N, tokens, heads * d)`` as ``(N, heads, tokens, d)``."""
    n, tokens, channels = writer.shapes[name]
    split = writer.reshaped(name, (n, tokens, heads, channels // heads))
    made = writer.op("Transpose", split, perm=[0, 2, 1, 3])
    writer.shapes[made] = (n, heads, tokens, channels // heads)
    return made


def _together(writer: FusedWriter, name: str, shape: tuple[int, ...]) -> str:
    """``(N, heads, tokens, e)`` as ``(N, tokens, heads * e)``."""
    n, heads, tokens, e = shape
    turned = writer.op("Transpose", name, perm=[0, 2, 1, 3])
    return writer.reshaped(turned, (n, tokens, heads * e))


def _shared(writer: FusedWriter, name: str, heads: int) -> str:
    """Heads of keys or values, each as many times as there are heads of queries for it."""
    n, have, tokens, d = writer.shapes[name]
    if have == heads:
        return name
    apart = writer.reshaped(name, (n, have, 1, tokens, d))
    spread = writer.op("Expand", apart, writer.number((n, have, heads // have, tokens, d),
                                                      np.int64))
    return writer.reshaped(spread, (n, heads, tokens, d))


def _of_any_frame(
    writer: FusedWriter, name: str, what: str, rank: int, frames: int = 1
) -> np.ndarray:
    """A constant that has a part for each frame if it has ``rank`` axes.

    Frames go through one by one, so parts for others than ``frames`` must be alike.
    """
    value = writer.constant(name, what)
    if value.ndim < rank or len(value) in (1, frames):
        return value
    if (value != value[:1]).any():
        raise writer.refusal(f"each frame has its own {what}: export with a batch of 1")
    return value[:1]


def _attention(
    writer: FusedWriter, q: str, k: str, v: str, scale: float, mask: str, causal: bool,
    window: tuple[int, int] = (-1, -1),
) -> tuple[str, tuple[int, ...]]:
    """Attention of operands ``(N, heads, tokens, d)``; its result, and that's shape.

    Parameters
    ----------
    mask : constant that is added to the scores; or, if it is boolean, which keys are seen
    causal : whether a query sees keys up to its own, counted from the first
    window : how many keys before and behind its own a query sees; -1: all
    """
    n, heads, queries, d = writer.shapes[q]
    keys, e = writer.shapes[k][2], writer.shapes[v][3]
    if heads % writer.shapes[k][1]:
        raise writer.refusal(f"{writer.shapes[k][1]} heads of keys do not divide {heads}")
    k, v = _shared(writer, k, heads), _shared(writer, v, heads)
    scores = writer.op("MatMul", q, writer.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = writer.op("Mul", scores, writer.number(scale or 1 / math.sqrt(d)))
    if mask:
        value = _of_any_frame(writer, mask, "mask", 4, n)
        if value.dtype == bool:
            value = np.where(value, 0.0, HIDDEN)
        scores = writer.op("Add", scores, writer.number(value))
    before, behind = window
    behind = 0 if causal else behind
    if max(before, behind) >= 0:
        seen = np.tri(queries, keys, behind if behind >= 0 else keys, dtype=bool)
        if before >= 0:
            seen &= ~np.tri(queries, keys, -before - 1, dtype=bool)
        scores = writer.op("Add", scores, writer.number(np.where(seen, 0.0, HIDDEN)))
    out = writer.op("MatMul", writer.op("Softmax", scores, axis=3), v)
    return out, (n, heads, queries, e)


@stands_for("", "Attention", shapes=True)
def _onnx_attention(writer: FusedWriter) -> Written:
    """ONNX's own, of opset 23: operands of three or of four axes."""
    at = writer.attributes
    writer.only(4)
    if at.get("softcap"):
        raise writer.refusal("scores that are bent (softcap) are not supported")
    operands = [writer.input(n) for n in range(3)]
    ranks = {len(writer.shape(name)) for name in operands}
    if ranks == {3}:
        heads = at.get("q_num_heads", 0), at.get("kv_num_heads", 0), at.get("kv_num_heads", 0)
        if not all(heads):
            raise writer.refusal("operands of three axes need q_num_heads and kv_num_heads")
        operands = [_by_head(writer, name, n) for name, n in zip(operands, heads, strict=True)]
    out, shape = _attention(writer, *operands, at.get("scale", 0.0), writer.input(3),
                            bool(at.get("is_causal")),
                            (at.get("left_window_size", -1), at.get("right_window_size", -1)))
    return {0: _together(writer, out, shape) if ranks == {3} else out}


@microsoft("MultiHeadAttention", shapes=True)
def _multi_head(writer: FusedWriter) -> Written:
    """Queries, keys and values apart, with their biases in one tensor."""
    at, heads = writer.attributes, writer.attributes["num_heads"]
    writer.only(6)
    if writer.input(4) or not writer.input(1) or not writer.input(2):
        raise writer.refusal("operands in one tensor, and masks by length, are not supported")
    operands, begin = [], 0
    for k in range(3):
        name = writer.input(k)
        shape = writer.shape(name)
        if len(shape) == 3:
            if writer.input(3):
                bias = writer.constant(writer.input(3), "bias")[begin : begin + shape[2]]
                begin += shape[2]
                name = writer.op("Add", name, writer.number(bias))
                writer.shapes[name] = shape
            name = _by_head(writer, name, heads)
        elif len(shape) != 4 or writer.input(3):
            raise writer.refusal(f"an operand of shape {list(shape)} is not supported")
        operands.append(name)
    out, shape = _attention(writer, *operands, at.get("scale", 0.0), writer.input(5),
                            bool(at.get("unidirectional")))
    return {0: _together(writer, out, shape)}


@microsoft("Attention", shapes=True)
def _with_weights(writer: FusedWriter) -> Written:
    """The layers of queries, keys and values are part of it; each is a product of its own here."""
    at, heads, x = writer.attributes, writer.attributes["num_heads"], writer.input(0)
    if writer.input(3) or writer.input(4) or at.get("do_rotary") or at.get("past_present_share"):
        raise writer.refusal("masks by length, past keys and values, and rotation are not "
                             "supported")
    writer.only(6)
    weight = writer.constant(writer.input(1), "weights")
    bias = writer.constant(writer.input(2), "bias") if writer.input(2) else None
    sizes = at.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    n, tokens, _ = writer.shape(x)
    operands, begin = [], 0
    for size in sizes:
        part = slice(begin, begin + size)
        name = writer.op("MatMul", x, writer.number(weight[:, part]))
        if bias is not None:
            name = writer.op("Add", name, writer.number(bias[part]))
        writer.shapes[name] = (n, tokens, size)
        operands.append(_by_head(writer, name, heads))
        begin += size
    out, shape = _attention(writer, *operands, at.get("scale", 0.0), writer.input(5),
                            bool(at.get("unidirectional")))
    return {0: _together(writer, out, shape)}


@stands_for("", "RotaryEmbedding", shapes=True)
@microsoft("RotaryEmbedding", shapes=True)
def _rotary(writer: FusedWriter) -> Written:
    """Pairs of channels, turned by an angle of the position: two products and a sum.

    The pairs are exchanged by a move, and the sine has the sign.
    """
    at, x = writer.attributes, writer.input(0)
    own = writer.node.domain != "com.microsoft"
    cosine, sine, where = (1, 2, 3) if own else (2, 3, 1)
    caches = [_of_any_frame(writer, writer.input(n), "cosines and sines", 3)
              for n in (cosine, sine)]
    shape = writer.shape(x)
    tokens = shape[1] if len(shape) == 3 else shape[2]
    if writer.input(where):
        at_token = _of_any_frame(writer, writer.input(where), "positions", 2)
        if at_token.size == 1:
            at_token = at_token.ravel()[0] + np.arange(tokens)
        caches = [cache[at_token.ravel()] for cache in caches]
    caches = [cache.reshape(tokens, -1) for cache in caches]
    half = caches[0].shape[1]
    heads = at.get("num_heads", 0) or (shape[1] if len(shape) == 4 else shape[2] // (
        at.get("rotary_embedding_dim", 0) or 2 * half))
    d = shape[3] if len(shape) == 4 else shape[2] // heads
    split = x if len(shape) == 4 else writer.reshaped(x, (shape[0], tokens, heads, d))
    if at.get("interleaved"):
        caches = [np.repeat(cache, 2, 1) for cache in caches]
        sign = np.tile([-1.0, 1.0], half)
        order = np.arange(2 * half).reshape(-1, 2)[:, ::-1].ravel()
    else:
        caches = [np.tile(cache, (1, 2)) for cache in caches]
        sign = np.repeat([-1.0, 1.0], half)
        order = np.roll(np.arange(2 * half), half)
    rest = d - 2 * half
    cos = np.pad(caches[0], ((0, 0), (0, rest)), constant_values=1.0)
    sin = np.pad(caches[1] * sign, ((0, 0), (0, rest)))
    order = np.r_[order, np.arange(2 * half, d)]
    if len(shape) == 3:
        cos, sin = cos[:, None], sin[:, None]
    other = writer.op("Gather", split, writer.number(order, np.int64), axis=3)
    out = writer.op("Add", writer.op("Mul", split, writer.number(cos)),
                    writer.op("Mul", other, writer.number(sin)))
    return {0: out if len(shape) == 4 else writer.reshaped(out, shape)}


@stands_for("", "Einsum", shapes=True)
def _einsum(writer: FusedWriter) -> Written:
    """A product of two tensors whose axes have names, as a product of matrices; or a sum of one."""
    text = writer.attributes["equation"].decode().replace(" ", "")
    sides, arrow, out = text.partition("->")
    parts = sides.split(",")
    if len(parts) == 1 and arrow and "." not in text:
        return _summed(writer, sides, out)
    if len(parts) != 2 or "." in text or not arrow:
        raise writer.refusal(f"the equation {text!r} is not supported: only a product of two "
                             f"tensors, or a sum of one, with its result's axes, and without an "
                             f"ellipsis")
    a, b = parts
    if any(len(set(x)) < len(x) for x in (a, b, out)) or set(out) != (set(a) | set(b)) - {
            c for c in a if c in b and c not in out} or set(out) - set(a) - set(b):
        raise writer.refusal(f"the equation {text!r} is not supported: an axis is taken twice, or "
                             f"summed over in one tensor alone")
    extent = dict(zip(a, writer.shape(writer.input(0)), strict=True))
    extent |= dict(zip(b, writer.shape(writer.input(1)), strict=True))
    batch = [c for c in out if c in a and c in b]
    summed = [c for c in a if c in b and c not in out]
    left = [c for c in out if c in a and c not in b]
    right = [c for c in out if c in b and c not in a]

    def arranged(name: str, axes: str, *order: list[str], apart: int) -> str:
        """A tensor with its axes in groups, those from ``apart`` on as one axis each."""
        flat = [c for group in order for c in group]
        turned = writer.op("Transpose", name, perm=[axes.index(c) for c in flat])
        shape = [extent[c] for group in order[:apart] for c in group]
        shape += [math.prod(extent[c] for c in group) for group in order[apart:]]
        return writer.reshaped(turned, shape)

    # Where nothing is in both but what is summed up, the first tensor keeps its axes.
    apart = 1 if batch else 2
    one = arranged(writer.input(0), a, batch, left, summed, apart=apart)
    two = arranged(writer.input(1), b, batch, summed, right, apart=1)
    product = writer.op("MatMul", one, two)
    have = [*batch, *left, *right]
    product = writer.reshaped(product, [extent[c] for c in have])
    return {0: writer.op("Transpose", product, perm=[have.index(c) for c in out])}


def _summed(writer: FusedWriter, axes: str, out: str) -> Written:
    """A tensor, summed up over the axes that its result has not, and these in another order."""
    if any(len(set(x)) < len(x) for x in (axes, out)) or set(out) - set(axes):
        raise writer.refusal(f"the equation {axes + '->' + out!r} is not supported: an axis is "
                             f"taken twice")
    tensor, gone = writer.input(0), [k for k, c in enumerate(axes) if c not in out]
    if gone:
        tensor = writer.sum(tensor, gone)
    kept = [c for c in axes if c in out]
    return {0: writer.op("Transpose", tensor, perm=[kept.index(c) for c in out])}
