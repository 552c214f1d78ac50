"""YOLOv5 (v6.0 topology): 6x6 stem, C3 backbone, SPPF, PAN neck, three anchor heads.

Written from the published description (Ultralytics YOLOv5, v6.0 release notes and model yaml);
modules are numbered and named as there, so that published state dicts load.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hwgen.models.zoo.layers import SPPF, AnchorHeads, ConvUnit

__all__ = ["YoloV5"]


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolutions, with a residual if ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = ConvUnit(channels, channels)
        self.cv2 = ConvUnit(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C3(nn.Module):
    """Cross-stage partial block with ``depth`` bottlenecks on half of the channels."""

    def __init__(self, cin: int, cout: int, depth: int, shortcut: bool = True) -> None:
        super().__init__()
        hidden = cout // 2
        self.cv1 = ConvUnit(cin, hidden)
        self.cv2 = ConvUnit(cin, hidden)
        self.cv3 = ConvUnit(2 * hidden, cout)
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class YoloV5(nn.Module):
    """YOLOv5 without the decoding of its heads.

    Parameters
    ----------
    width, depth : :class:`float`
        Multiples of channels and of bottlenecks (n: 0.25, 0.33; s: 0.5, 0.33).
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` in 0..1 to three maps ``(N, 3 * (classes + 5), H/s, W/s)``
    for s in 8, 16, 32.
    """

    def __init__(self, width: float, depth: float, classes: int = 80) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (math.ceil(c * width / 8) * 8 for c in (64, 128, 256, 512, 1024))
        n1, n2, n3 = (max(round(n * depth), 1) for n in (3, 6, 9))
        up, join = nn.Upsample(scale_factor=2, mode="nearest"), nn.Identity()
        self.model = nn.ModuleList([
            ConvUnit(3, c1, 6, 2, 2), ConvUnit(c1, c2, 3, 2), C3(c2, c2, n1),
            ConvUnit(c2, c3, 3, 2), C3(c3, c3, n2), ConvUnit(c3, c4, 3, 2), C3(c4, c4, n3),
            ConvUnit(c4, c5, 3, 2), C3(c5, c5, n1), SPPF(c5, c5),
            ConvUnit(c5, c4), up, join, C3(2 * c4, c4, n1, False),
            ConvUnit(c4, c3), up, join, C3(2 * c3, c3, n1, False),
            ConvUnit(c3, c3, 3, 2), join, C3(2 * c3, c4, n1, False),
            ConvUnit(c4, c4, 3, 2), join, C3(2 * c4, c5, n1, False),
            AnchorHeads((c3, c4, c5), classes),
        ])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        layers = self.model
        for layer in layers[:5]:
            x = layer(x)
        p3, x = x, layers[6](layers[5](x))
        p4, x = x, layers[9](layers[8](layers[7](x)))
        p5 = layers[10](x)
        x = layers[13](torch.cat((layers[11](p5), p4), 1))
        p4 = layers[14](x)
        head3 = layers[17](torch.cat((layers[15](p4), p3), 1))
        head4 = layers[20](torch.cat((layers[18](head3), p4), 1))
        head5 = layers[23](torch.cat((layers[21](head4), p5), 1))
        return layers[24]((head3, head4, head5))
