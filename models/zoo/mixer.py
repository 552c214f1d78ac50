"""MLP-Mixer S/16: dense layers over the patches of each channel, and over the channels of each.

Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision" (2021); named as timm names it,
so that the state dicts that are published there load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered
from hwgen.models.zoo.transformer import Mlp, keep_scale
from hwgen.models.zoo.vit import Patches

__all__ = ["Mixer"]


class _Mixes(nn.Module):
    """Mixes patches, and then channels, each behind a normalisation and beside a shortcut."""

    def __init__(self, channels: int, patches: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, 1e-6)
        self.mlp_tokens = Mlp(patches, channels // 2)
        self.norm2 = nn.LayerNorm(channels, 1e-6)
        self.mlp_channels = Mlp(channels, 4 * channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Mixer(Layered):
    """MLP-Mixer for images of 224x224 alone: its weights are those of 196 patches.

    Parameters
    ----------
    channels, depth : :class:`int`
    classes : :class:`int`

    Forward: images ``(N, 3, 224, 224)`` to scores ``(N, classes)``.
    """

    def __init__(self, channels: int = 512, depth: int = 8, classes: int = 1000) -> None:
        super().__init__()
        self.stem = Patches(channels, 16)
        self.blocks = nn.ModuleList(_Mixes(channels, 14**2) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [self.blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
