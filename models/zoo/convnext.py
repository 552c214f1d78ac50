"""ConvNeXt-tiny: depthwise convolutions of 7x7 and dense layers, built as transformers are.

Liu et al., "A ConvNet for the 2020s" (2022); named as in the authors' release, so that its state
dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered
from hwgen.models.zoo.transformer import keep_scale

__all__ = ["ConvNeXt"]


class _Norm(nn.LayerNorm):
    """Normalises the channels of each pixel of ``(N, C, H, W)``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """A depthwise convolution, then two dense layers on each pixel, beside a shortcut.

    The scales of the last layer begin, in training, at a millionth; here at 1/2, so that a block
    does something.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.norm = nn.LayerNorm(channels, 1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class ConvNeXt(Layered):
    """ConvNeXt.

    Parameters
    ----------
    depths, widths : tuple of :class:`int`
        Blocks and channels of each of the four stages.
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(
        self, depths: tuple[int, ...] = (3, 3, 9, 3),
        widths: tuple[int, ...] = (96, 192, 384, 768), classes: int = 1000,
    ) -> None:
        super().__init__()
        self.downsample_layers = nn.ModuleList([
            nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), _Norm(widths[0], 1e-6)),
            *(nn.Sequential(_Norm(cin, 1e-6), nn.Conv2d(cin, cout, 2, 2))
              for cin, cout in zip(widths, widths[1:], strict=False)),
        ])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(width) for _ in range(depth)))
            for depth, width in zip(depths, widths, strict=True))
        self.norm = nn.LayerNorm(widths[-1], 1e-6)
        self.head = nn.Linear(widths[-1], classes)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [stage for stage in self.stages if isinstance(stage, nn.Sequential)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for reduces, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(reduces(x))
        return self.head(self.norm(x.mean((-2, -1))))
