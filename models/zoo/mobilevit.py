"""MobileViT-XXS: inverted residuals, and transformers over the pixels of 2x2 squares.

Mehta & Rastegari, "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision
Transformer" (2021); named as timm names it, so that the state dicts that are published there load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered, round_channels
from hwgen.models.zoo.transformer import Block, keep_scale

__all__ = ["MobileViT"]

SIDE = 2
"""Height and width of a square; its pixels of one place attend to those of other squares."""


class _Unit(nn.Module):
    """Convolution, batch normalisation and SiLU."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1,
                 act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout)
        self.act = nn.SiLU() if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class _Inverted(nn.Module):
    """Twice the channels, a depthwise convolution, and back; with a shortcut where it can be."""

    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        hidden = round_channels(2 * cin)
        self.shortcut = stride == 1 and cin == cout
        self.conv1_1x1 = _Unit(cin, hidden)
        self.conv2_kxk = _Unit(hidden, hidden, 3, stride, hidden)
        self.conv3_1x1 = _Unit(hidden, cout, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv3_1x1(self.conv2_kxk(self.conv1_1x1(x)))
        return x + y if self.shortcut else y


class _Global(nn.Module):
    """A convolution, a transformer in which far pixels meet, and a convolution of both maps."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.conv_kxk = _Unit(channels, channels, 3)
        self.conv_1x1 = nn.Conv2d(channels, width, 1, bias=False)
        self.transformer = nn.Sequential(
            *(Block(width, 4, 2, nn.SiLU(), 1e-5) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.conv_proj = _Unit(width, channels)
        self.conv_fusion = _Unit(2 * channels, channels, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv_1x1(self.conv_kxk(x))
        n, width, rows, columns = map(int, y.shape)
        down, across = rows // SIDE, columns // SIDE
        # Pixels of one place in their square are a text of their own.
        y = y.reshape(n, width, down, SIDE, across, SIDE).permute(0, 3, 5, 2, 4, 1)
        y = self.norm(self.transformer(y.reshape(-1, down * across, width)))
        y = y.reshape(n, SIDE, SIDE, down, across, width).permute(0, 5, 3, 1, 4, 2)
        y = self.conv_proj(y.reshape(n, width, rows, columns))
        return self.conv_fusion(torch.cat((x, y), 1))


class _Head(nn.Module):
    """Scores of the mean of a map."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((-2, -1)))


class MobileViT(Layered):
    """MobileViT of the smallest size.

    Parameters
    ----------
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)``, H and W a multiple of 64, to scores ``(N, classes)``.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = _Unit(3, 16, 3, 2)
        self.stages = nn.Sequential(
            nn.Sequential(_Inverted(16, 16)),
            nn.Sequential(_Inverted(16, 24, 2), _Inverted(24, 24), _Inverted(24, 24)),
            nn.Sequential(_Inverted(24, 48, 2), _Global(48, 64, 2)),
            nn.Sequential(_Inverted(48, 64, 2), _Global(64, 80, 4)),
            nn.Sequential(_Inverted(64, 80, 2), _Global(80, 96, 3)),
        )
        self.final_conv = _Unit(80, 320)
        self.head = _Head(320, classes)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [part.transformer for part in self.modules() if isinstance(part, _Global)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.final_conv(self.stages(self.stem(x))))
