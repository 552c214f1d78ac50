"""Random configurations of blocks that work on tokens, for their resource models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.drawer import Drawer
from hwgen.blocks.attention import AttentionConfig
from hwgen.blocks.base import BlockConfig
from hwgen.blocks.layer_norm import LayerNormConfig
from hwgen.blocks.recurrent import RecurrentConfig
from hwgen.blocks.repeat import RepeatConfig
from hwgen.errors import HwgenError
from hwgen.ir import (
    Attention,
    GatherChannels,
    LayerNorm,
    Quantisation,
    Recurrent,
    TensorType,
)

__all__ = ["TOKENS"]


def _attention(d: Drawer) -> AttentionConfig:
    kv_heads, bits = d.one(1, 2, 3), d.one(8, 8, 8, 4)
    heads = kv_heads * d.one(1, 1, 2)
    windows = d.one(1, 1, 1, 2, 4)
    channels = [8 * d.whole(1, 4), 8 * d.whole(1, 4)]
    queries = d.spread(4, 64)
    causal = d.chance(0.3)
    keys = queries if causal or d.chance(0.7) else d.spread(4, 64)
    tensors = tuple(
        TensorType((windows * n, h * c), Quantisation(scale, 0, bits)) for n, h, c, scale in (
            (queries, heads, channels[0], 0.05), (keys, kv_heads, channels[0], 0.04),
            (keys, kv_heads, channels[1], 0.03)))
    bias = None
    if d.chance(0.3):
        bias = d.random.normal(0, 3, (d.one(1, windows), d.one(1, heads), queries, keys))
        bias[..., 1:][d.random.random(bias[..., 1:].shape) < d.one(0, 0.4)] = -np.inf
    op = Attention.from_types(
        heads, *tensors, d.quantisation(bits), channels[0] ** -0.5, kv_heads=kv_heads,
        causal=causal, windows=windows, bias=bias)
    pe = d.spread(1, min(keys, 12))
    value_pe = d.divisor(channels[1], 8)
    score_lanes = d.divisor(pe, 4)
    channel_lanes = d.divisor(channels[0], 8)
    value_lanes = score_lanes * d.spread(1, min(8, keys // score_lanes))
    if pe * channel_lanes > 48 or value_pe * value_lanes > 48:
        raise HwgenError("That takes long")
    return AttentionConfig(
        op=op, tensors=tensors, lanes=d.divisor(value_pe, 4), channel_lanes=channel_lanes, pe=pe,
        score_lanes=score_lanes, value_lanes=value_lanes, value_pe=value_pe,
        multiplier=d.one(*(d.multiplier,) * 4, "fabric"))


def _layer_norm(d: Drawer) -> LayerNormConfig:
    tensor = TensorType((d.spread(4, 200), 8 * d.spread(1, 96)),
                        d.quantisation(d.one(8, 8, 8, 4, 12)))
    op = LayerNorm.from_types(tensor, d.quantisation(8), 1e-5, centred=d.chance(0.6))
    return LayerNormConfig(op=op, tensor=tensor, lanes=d.divisor(tensor.channels, 8),
                           multiplier=d.one(*(d.multiplier,) * 4, "fabric"))


def _recurrent(d: Drawer) -> RecurrentConfig:
    kind, units = d.one("lstm", "lstm", "gru", "gru", "rnn"), 4 * d.spread(1, 24)
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    tensor = TensorType(
        (d.spread(2, 100), units * gates), Quantisation(2.0**-8, d.whole(-9, 9), 12))
    weight = d.random.uniform(-2, 2, (units, gates, units)) / np.sqrt(units)
    op = Recurrent.from_float(
        kind, weight, tensor, Quantisation(1 / 128), weight_bits=d.bits(),
        **({"bias": d.random.normal(0, 0.3, units)} if kind == "gru" else {}))
    lanes = d.one(1, 1, 2)
    channel_lanes, pe = lanes * d.divisor(units // lanes, 6), lanes * d.divisor(units // lanes, 4)
    if channel_lanes * pe * gates > 64:
        raise HwgenError("That takes long")
    return RecurrentConfig(
        op=op, tensor=tensor, lanes=lanes, channel_lanes=channel_lanes, pe=pe,
        multiplier=d.one(*(d.multiplier,) * 4, "fabric"))


def _repeat(d: Drawer) -> RepeatConfig:
    channels = 8 * d.spread(1, 64)
    return RepeatConfig(
        op=GatherChannels((0,) * channels),
        tensor=TensorType((d.spread(4, 200), 1), d.quantisation(d.one(8, 12, 12))),
        lanes=d.divisor(channels, 8))


TOKENS: dict[str, Callable[[Drawer], BlockConfig]] = {
    "attention": _attention,
    "layer norm": _layer_norm,
    "recurrent": _recurrent,
    "repeat": _repeat,
}
"""Blocks for tokens, features and steps of time."""
