"""Parts that transformers of images and of text share.

Vaswani et al., "Attention Is All You Need" (2017), with the normalisations in front of the layers
as most later networks have them.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Attend", "Block", "Mlp", "SelfAttention", "keep_scale"]


def keep_scale(module: nn.Module) -> None:
    """Initial weights with which activations keep their scale.

    Weights are normal, with a deviation of one over the root of the inputs of a sum; embeddings
    have a deviation of 1; biases are 0, and normalisations keep theirs.  The papers draw all of
    them with a deviation of 0.02, with which all scores of an attention are, before training, much
    the same, and its mean is all that comes out.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, 0, part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif type(part) is nn.Embedding:
            nn.init.normal_(part.weight)


class Attend(nn.Module):
    """Softmax of the products of queries and keys, times the values.

    Parameters
    ----------
    heads : :class:`int`
    kv_heads : :class:`int`
        Heads of keys and values; each serves as many heads of queries.  Default as many as those.
    causal : :class:`bool`
        Whether a token sees only itself and those in front of it.

    Forward: queries ``(N, T, heads * d)``, keys and values ``(N, T, kv_heads * d)``, and perhaps
    what is added to the scores ``(N, heads, T, T)``, to ``(N, T, heads * d)``.
    """

    def __init__(self, heads: int, kv_heads: int | None = None, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.causal = heads, kv_heads or heads, causal

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        q, k, v = (self._by_head(x, heads) for x, heads in (
            (q, self.heads), (k, self.kv_heads), (v, self.kv_heads)))
        scores = q @ k.transpose(-1, -2) * int(q.shape[-1]) ** -0.5
        if bias is not None:
            scores = scores + bias
        if self.causal:
            tokens = int(q.shape[-2])
            hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)

    def _by_head(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """``(N, T, heads * d)`` as ``(N, heads, T, d)``; heads that serve more are repeated."""
        n, tokens, channels = map(int, x.shape)
        x = x.reshape(n, tokens, heads, channels // heads).transpose(1, 2)
        if heads == self.heads:
            return x
        more = self.heads // heads
        return x[:, :, None].expand(n, heads, more, tokens, channels // heads).flatten(1, 2)


class SelfAttention(nn.Module):
    """Attention of tokens to one another, with queries, keys and values of one layer."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attend = Attend(heads)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(self.attend(*self.qkv(x).chunk(3, -1)))


class Mlp(nn.Module):
    """Two dense layers with an activation, by default GELU, between them."""

    def __init__(self, channels: int, hidden: int, act: nn.Module | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = act or nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Attention and two dense layers, each behind a normalisation and beside a shortcut."""

    def __init__(
        self, channels: int, heads: int, ratio: float = 4, act: nn.Module | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps)
        self.attn = SelfAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps)
        self.mlp = Mlp(channels, int(ratio * channels), act)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))
