"""Vision transformers: ViT-B/16, and DeiT-tiny and -small, which are alike but narrower.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2020); Touvron et al., "Training data-efficient
image transformers & distillation through attention" (2020), without the token for distillation;
named as DeiT's release names them, so that its state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered
from hwgen.models.zoo.transformer import Block, keep_scale

__all__ = ["Patches", "VisionTransformer"]


class Patches(nn.Module):
    """An image cut into squares, each projected to one token, row by row.

    Forward: ``(N, 3, H, W)`` to ``(N, H/s * W/s, channels)``.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, side, side)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(Layered):
    """A vision transformer whose class token gives the scores.

    Positions are learned for images of 224x224; for others they are interpolated, as DeiT's
    authors do.

    Parameters
    ----------
    channels, heads, depth : :class:`int`
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, channels: int, heads: int, depth: int = 12, classes: int = 1000) -> None:
        super().__init__()
        self.side, self.grid = 16, 14
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + self.grid**2, channels) / 2)
        self.patch_embed = Patches(channels, self.side)
        self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.head = nn.Linear(channels, classes)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [self.blocks]

    def positions(self, rows: int, columns: int) -> torch.Tensor:
        """What is added to the class token and to patches of ``rows`` and ``columns``."""
        if (rows, columns) == (self.grid, self.grid):
            return self.pos_embed
        first, others = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        field = others.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        field = nn.functional.interpolate(
            field, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat((first, field.flatten(2).transpose(1, 2)), 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, rows, columns = int(x.shape[0]), int(x.shape[2]), int(x.shape[3])
        patches = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(n, -1, -1), patches), 1)
        x = x + self.positions(rows // self.side, columns // self.side)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
