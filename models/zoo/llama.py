"""A decoder like TinyLlama: RMSNorm, turned places, shared keys and values, gated dense layers.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2023); Zhang et al.,
"TinyLlama: An Open-Source Small Language Model" (2024).  Places are those of Su et al., "RoFormer"
(2021); heads that share keys and values those of Ainslie et al., "GQA" (2023); the gate that of
Shazeer, "GLU Variants Improve Transformer" (2020).  Named as in Hugging Face's transformers
(``LlamaModel``).
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered
from hwgen.models.zoo.transformer import Attend, keep_scale

__all__ = ["Llama", "RMSNorm"]

BASE = 10_000.0
"""The slowest pair of channels turns about once in so many tokens."""


class RMSNorm(nn.Module):
    """Divides each token by the root of the mean of its squares, and scales its channels."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def turned(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Turns the channels of a head, the first half with the second, by an angle of the place.

    The channels of ``(N, T, heads * d)`` are those of one head after the other.
    """
    n, tokens, channels = map(int, x.shape)
    d = channels // heads
    rate = BASE ** (-torch.arange(0, d, 2) / d)
    angle = torch.arange(tokens)[:, None] * rate
    angle = torch.cat((angle, angle), -1)[:, None]
    x = x.reshape(n, tokens, heads, d)
    first, second = x[..., : d // 2], x[..., d // 2 :]
    other = torch.cat((-second, first), -1)
    return (x * angle.cos() + other * angle.sin()).reshape(n, tokens, channels)


class _Attention(nn.Module):
    """Attention of each token to itself and those before it, with turned queries and keys."""

    def __init__(self, channels: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        shared = channels // heads * kv_heads
        self.q_proj = nn.Linear(channels, channels, bias=False)
        self.k_proj = nn.Linear(channels, shared, bias=False)
        self.v_proj = nn.Linear(channels, shared, bias=False)
        self.o_proj = nn.Linear(channels, channels, bias=False)
        self.attend = Attend(heads, kv_heads, causal=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = turned(self.q_proj(x), self.heads), turned(self.k_proj(x), self.kv_heads)
        return self.o_proj(self.attend(q, k, self.v_proj(x)))


class _Mlp(nn.Module):
    """A dense layer, another that gates it, and a third behind their product."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(channels, hidden, bias=False)
        self.up_proj = nn.Linear(channels, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, channels, bias=False)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    """Attention and gated dense layers, each behind a normalisation and beside a shortcut."""

    def __init__(self, channels: int, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _Attention(channels, heads, kv_heads)
        self.mlp = _Mlp(channels, hidden)
        self.input_layernorm = RMSNorm(channels)
        self.post_attention_layernorm = RMSNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(Layered):
    """A decoder, by default with a quarter of TinyLlama's widths and 4 of its 22 layers.

    Parameters
    ----------
    channels, heads, kv_heads, hidden, depth, words : :class:`int`
        Heads of queries, those of keys and values, and the channels between two dense layers.

    Forward: ids ``(N, T)`` to ``(N, T, channels)``.
    """

    def __init__(
        self, channels: int = 512, heads: int = 8, kv_heads: int = 2, hidden: int = 1408,
        depth: int = 4, words: int = 32000,
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(words, channels)
        self.layers = nn.ModuleList(
            _Layer(channels, heads, kv_heads, hidden) for _ in range(depth))
        self.norm = RMSNorm(channels)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [self.layers]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)
