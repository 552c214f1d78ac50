"""Decoders of text: GPT-2 and OPT, as they give what their last normalisation gives.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), the smallest of four;
Zhang et al., "OPT: Open Pre-trained Transformer Language Models" (2022); named as in Hugging Face's
transformers (``GPT2Model``, ``OPTModel``), so that published state dicts load.  The scores of words
are the products of that with their embeddings, and the host's work.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered
from hwgen.models.zoo.transformer import Attend, keep_scale

__all__ = ["GPT2", "OPT", "Product"]


class Product(nn.Module):
    """A dense layer that holds its weights as ``(inputs, outputs)``, as GPT-2's release does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class _Attention(nn.Module):
    """Attention of each token to itself and those before it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.c_attn = Product(channels, 3 * channels)
        self.attend = Attend(heads, causal=True)
        self.c_proj = Product(channels, channels)
        # Published state dicts carry the mask, and what it puts in the place of a hidden score.
        self.register_load_state_dict_pre_hook(lambda _, state, prefix, *rest: [
            state.pop(f"{prefix}{name}", None) for name in ("bias", "masked_bias")])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.attend(*self.c_attn(x).chunk(3, -1)))


class _Mlp(nn.Module):
    """Two dense layers with GELU, in the form with a hyperbolic tangent, between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c_fc = Product(channels, 4 * channels)
        self.act = nn.GELU("tanh")
        self.c_proj = Product(4 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


class _Block(nn.Module):
    """Attention and two dense layers, each behind a normalisation and beside a shortcut."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(channels)
        self.attn = _Attention(channels, heads)
        self.ln_2 = nn.LayerNorm(channels)
        self.mlp = _Mlp(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2(Layered):
    """GPT-2.

    Parameters
    ----------
    channels, heads, depth, words, places : :class:`int`
        The last two are the rows of the embeddings of words and of places.

    Forward: ids ``(N, T)``, T at most ``places``, to ``(N, T, channels)``.
    """

    def __init__(
        self, channels: int = 768, heads: int = 12, depth: int = 12, words: int = 50257,
        places: int = 1024,
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(words, channels)
        self.wpe = nn.Embedding(places, channels)
        self.h = nn.ModuleList(_Block(channels, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(channels)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [self.h]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids) + self.wpe.weight[: int(ids.shape[1])]
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class _Projected(nn.Module):
    """Attention of each token to itself and those before it; each operand has its own layer."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (
            nn.Linear(channels, channels) for _ in range(4))
        self.attend = Attend(heads, causal=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.attend(self.q_proj(x), self.k_proj(x), self.v_proj(x)))


class _Layer(nn.Module):
    """Attention and two dense layers with a ReLU, each normalised and beside a shortcut."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.self_attn = _Projected(channels, heads)
        self.self_attn_layer_norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(4 * channels, channels)
        self.final_layer_norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(self.relu(self.fc1(self.final_layer_norm(x))))


class _Decoder(nn.Module):
    """Embeddings, layers and the last normalisation; the first two places are no tokens."""

    def __init__(self, channels: int, heads: int, depth: int, words: int, places: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(words, channels)
        self.embed_positions = nn.Embedding(places + 2, channels)
        self.final_layer_norm = nn.LayerNorm(channels)
        self.layers = nn.ModuleList(_Layer(channels, heads) for _ in range(depth))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(ids) + self.embed_positions.weight[2 : 2 + int(ids.shape[1])]
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class OPT(Layered):
    """OPT, of 125 million parameters by default.

    Parameters
    ----------
    channels, heads, depth, words, places : :class:`int`
        The last two are the words and the tokens that have an embedding.

    Forward: ids ``(N, T)``, T at most ``places``, to ``(N, T, channels)``.
    """

    def __init__(
        self, channels: int = 768, heads: int = 12, depth: int = 12, words: int = 50272,
        places: int = 2048,
    ) -> None:
        super().__init__()
        self.decoder = _Decoder(channels, heads, depth, words, places)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [self.decoder.layers]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.decoder(ids)
