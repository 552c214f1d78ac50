"""Encoders of text: BERT-mini, and MiniLM of six layers.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
(2018), of the size of Turc et al., "Well-Read Students Learn Better" (2019), and of Wang et al.,
"MiniLM: Deep Self-Attention Distillation" (2020); named as in Hugging Face's transformers
(``BertModel``), so that published state dicts load.  A text is one sentence, which fills all
tokens: there is neither a mask nor a second type of token.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered
from hwgen.models.zoo.transformer import Attend, keep_scale

__all__ = ["Bert"]

EPS = 1e-12


class _Embeddings(nn.Module):
    """Words, places and the type of a token, added up and normalised."""

    def __init__(self, channels: int, words: int, places: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(words, channels)
        self.position_embeddings = nn.Embedding(places, channels)
        self.token_type_embeddings = nn.Embedding(2, channels)
        self.LayerNorm = nn.LayerNorm(channels, EPS)
        # Some state dicts carry the numbers of the places.
        self.register_load_state_dict_pre_hook(
            lambda _, state, prefix, *rest: state.pop(f"{prefix}position_ids", None))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        fixed = self.position_embeddings.weight[: int(ids.shape[1])]
        fixed = fixed + self.token_type_embeddings.weight[:1]
        return self.LayerNorm(self.word_embeddings(ids) + fixed)


class _Operands(nn.Module):
    """Attention of all tokens to one another."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.attend = Attend(heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attend(self.query(x), self.key(x), self.value(x))


class _Output(nn.Module):
    """A dense layer, added to what stood before, and normalised."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, channels)
        self.LayerNorm = nn.LayerNorm(channels, EPS)

    def forward(self, x: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dense(x) + shortcut)


class _Layer(nn.Module):
    """Attention and two dense layers, each beside a shortcut and in front of a normalisation."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({
            "self": _Operands(channels, heads), "output": _Output(channels, channels)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(channels, 4 * channels)})
        self.act = nn.GELU()
        self.output = _Output(4 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.attention["output"](self.attention["self"](x), x)
        return self.output(self.act(self.intermediate["dense"](x)), x)


class Bert(Layered):
    """BERT.

    Parameters
    ----------
    channels, heads, depth, words, places : :class:`int`
        The last two are the rows of the embeddings of words and of places.

    Forward: ids ``(N, T)``, T at most ``places``, to what stands for each token
    ``(N, T, channels)``, and to what stands for the text, made of the first token
    ``(N, channels)``.
    """

    def __init__(
        self, channels: int, heads: int, depth: int, words: int = 30522, places: int = 512,
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(channels, words, places)
        self.encoder = nn.ModuleDict({
            "layer": nn.ModuleList(_Layer(channels, heads) for _ in range(depth))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(channels, channels)})
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        layers = self.encoder["layer"]
        assert isinstance(layers, nn.ModuleList)
        return [layers]

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embeddings(ids)
        (layers,) = self.stacks()
        for layer in layers:
            x = layer(x)
        return x, self.pooler["dense"](x[:, 0]).tanh()
