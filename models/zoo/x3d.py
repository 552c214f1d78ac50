"""X3D: an image network expanded in time, width, depth and resolution, for video.

Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition" (2020), size M;
named as the PyTorchVideo release, so that its state dicts load.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hwgen.models.zoo.layers import initialise, round_channels

__all__ = ["X3D"]


class _SqueezeExcitation(nn.Module):
    """Channels are scaled by a function of all their means over time and space."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        inner = round_channels(channels * ratio)
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.block = nn.Sequential(
            nn.Conv3d(channels, inner, 1), nn.ReLU(), nn.Conv3d(inner, channels, 1), nn.Sigmoid()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.block(self.pool(x))


class _Bottleneck(nn.Module):
    """1x1x1 expansion, 3x3x3 depthwise convolution, 1x1x1 projection."""

    def __init__(self, cin: int, inner: int, cout: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        self.conv_a = nn.Conv3d(cin, inner, 1, bias=False)
        self.norm_a = nn.BatchNorm3d(inner)
        self.act_a = nn.ReLU()
        self.conv_b = nn.Conv3d(inner, inner, 3, (1, stride, stride), 1, groups=inner, bias=False)
        self.norm_b = nn.Sequential(
            nn.BatchNorm3d(inner), _SqueezeExcitation(inner, 1 / 16) if squeeze else nn.Identity()
        )
        self.act_b = nn.SiLU()
        self.conv_c = nn.Conv3d(inner, cout, 1, bias=False)
        self.norm_c = nn.BatchNorm3d(cout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act_a(self.norm_a(self.conv_a(x)))
        x = self.act_b(self.norm_b(self.conv_b(x)))
        return self.norm_c(self.conv_c(x))


class _Block(nn.Module):
    """A bottleneck beside a shortcut, which is normalised only where channels change."""

    def __init__(self, cin: int, inner: int, cout: int, stride: int, squeeze: bool) -> None:
        super().__init__()
        change = cin != cout
        self.branch1_conv = (
            nn.Conv3d(cin, cout, 1, (1, stride, stride), bias=False)
            if change or stride != 1 else None
        )
        self.branch1_norm = nn.BatchNorm3d(cout) if change else None
        self.branch2 = _Bottleneck(cin, inner, cout, stride, squeeze)
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for part in (self.branch1_conv, self.branch1_norm):
            y = y if part is None else part(y)
        return self.activation(y + self.branch2(x))


class _Stage(nn.Module):
    """Blocks with the stride in the first, squeeze and excitation in every second."""

    def __init__(self, depth: int, cin: int, inner: int, cout: int) -> None:
        super().__init__()
        self.res_blocks = nn.ModuleList(
            _Block(cout if k else cin, inner, cout, 1 if k else 2, k % 2 == 0)
            for k in range(depth)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.res_blocks:
            x = block(x)
        return x


class _StemConv(nn.Module):
    """A convolution in space, then one in time; the release has the two names the other way."""

    def __init__(self, cout: int) -> None:
        super().__init__()
        self.conv_t = nn.Conv3d(3, cout, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv_xy = nn.Conv3d(cout, cout, (5, 1, 1), 1, (2, 0, 0), groups=cout, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_xy(self.conv_t(x))


class _Stem(nn.Module):
    def __init__(self, cout: int) -> None:
        super().__init__()
        self.conv = _StemConv(cout)
        self.norm = nn.BatchNorm3d(cout)
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activation(self.norm(self.conv(x)))


class _Pool(nn.Module):
    """Global pool between two 1x1x1 convolutions."""

    def __init__(self, cin: int, inner: int, cout: int) -> None:
        super().__init__()
        self.pre_conv = nn.Conv3d(cin, inner, 1, bias=False)
        self.pre_norm = nn.BatchNorm3d(inner)
        self.pre_act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.post_conv = nn.Conv3d(inner, cout, 1, bias=False)
        self.post_act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.pre_act(self.pre_norm(self.pre_conv(x))))
        return self.post_act(self.post_conv(x))


class _Head(nn.Module):
    def __init__(self, cin: int, inner: int, wide: int, classes: int) -> None:
        super().__init__()
        self.pool = _Pool(cin, inner, wide)
        self.dropout = nn.Dropout(0.5)
        self.proj = nn.Linear(wide, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(self.dropout(torch.flatten(self.pool(x), 1)))


class X3D(nn.Module):
    """X3D of the width, depth and bottleneck factors of size M.

    Forward: clips ``(N, 3, T, H, W)`` to scores ``(N, classes)``, without the softmax.
    """

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        width, depth, bottleneck = 2.0, 2.2, 2.25
        cin = round_channels(12 * width)
        blocks: list[nn.Module] = [_Stem(cin)]
        inner = cin
        for channels, count in ((12, 1), (24, 2), (48, 5), (96, 3)):
            cout = round_channels(channels * width)
            inner = int(bottleneck * cout)
            blocks.append(_Stage(math.ceil(depth * count), cin, inner, cout))
            cin = cout
        self.blocks = nn.ModuleList([*blocks, _Head(cin, inner, 2048, classes)])
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x
