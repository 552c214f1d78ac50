"""YOLOv8: C2f backbone and neck, SPPF, anchor-free heads with a distribution for each side.

Written from the published description (Ultralytics YOLOv8, 2023; the distribution is that of
Li et al., "Generalized Focal Loss", 2020); modules are numbered and named as there, so that
published state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import SPPF, ConvUnit

__all__ = ["BINS", "YoloV8"]

BINS = 16
"""Values of the distribution of one side of a box."""


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a residual if ``shortcut``."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = ConvUnit(channels, channels, 3)
        self.cv2 = ConvUnit(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """Half of the channels runs through bottlenecks; the result of each is concatenated."""

    def __init__(self, cin: int, cout: int, depth: int, shortcut: bool = False) -> None:
        super().__init__()
        self.hidden = hidden = cout // 2
        self.cv1 = ConvUnit(cin, 2 * hidden)
        self.cv2 = ConvUnit((2 + depth) * hidden, cout)
        self.m = nn.ModuleList(Bottleneck(hidden, shortcut) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.cv1(x).split(self.hidden, 1))
        for bottleneck in self.m:
            parts.append(bottleneck(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class Expectation(nn.Module):
    """The constant weights 0, 1, ... with which the host makes a side of its distribution."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.arange(bins).reshape(1, bins, 1, 1))


class Detect(nn.Module):
    """Three convolutions to the boxes, and three to the classes, of each scale."""

    def __init__(self, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        box = max(16, channels[0] // 4, 4 * BINS)
        label = max(channels[0], min(classes, 100))

        def branch(cin: int, hidden: int, cout: int) -> nn.Sequential:
            return nn.Sequential(ConvUnit(cin, hidden, 3), ConvUnit(hidden, hidden, 3),
                                 nn.Conv2d(hidden, cout, 1))

        self.cv2 = nn.ModuleList(branch(c, box, 4 * BINS) for c in channels)
        self.cv3 = nn.ModuleList(branch(c, label, classes) for c in channels)
        # Not used here, but part of published state dicts and parameter counts.
        self.dfl = Expectation(BINS)

    def forward(self, features: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(
            head(x) for boxes, labels, x in zip(self.cv2, self.cv3, features, strict=True)
            for head in (boxes, labels)
        )


class YoloV8(nn.Module):
    """YOLOv8 without the decoding of its heads.

    Parameters
    ----------
    width, depth : :class:`float`
        Multiples of channels and of bottlenecks (n: 0.25, 0.33; s: 0.5, 0.33).
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` in 0..1 to six maps, boxes ``(N, 64, H/s, W/s)`` (left, top,
    right, bottom, 16 bins each) and classes ``(N, classes, H/s, W/s)``, for s in 8, 16, 32.
    """

    def __init__(self, width: float, depth: float, classes: int = 80) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (round(c * width) for c in (64, 128, 256, 512, 1024))
        n1, n2 = (max(round(n * depth), 1) for n in (3, 6))
        up, join = nn.Upsample(scale_factor=2, mode="nearest"), nn.Identity()
        self.model = nn.ModuleList([
            ConvUnit(3, c1, 3, 2), ConvUnit(c1, c2, 3, 2), C2f(c2, c2, n1, True),
            ConvUnit(c2, c3, 3, 2), C2f(c3, c3, n2, True), ConvUnit(c3, c4, 3, 2),
            C2f(c4, c4, n2, True), ConvUnit(c4, c5, 3, 2), C2f(c5, c5, n1, True), SPPF(c5, c5),
            up, join, C2f(c5 + c4, c4, n1), up, join, C2f(c4 + c3, c3, n1),
            ConvUnit(c3, c3, 3, 2), join, C2f(c3 + c4, c4, n1),
            ConvUnit(c4, c4, 3, 2), join, C2f(c4 + c5, c5, n1),
            Detect((c3, c4, c5), classes),
        ])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        layers = self.model
        for layer in layers[:5]:
            x = layer(x)
        p3, x = x, layers[6](layers[5](x))
        p4, x = x, layers[9](layers[8](layers[7](x)))
        p5 = x
        p4 = layers[12](torch.cat((layers[10](p5), p4), 1))
        head3 = layers[15](torch.cat((layers[13](p4), p3), 1))
        head4 = layers[18](torch.cat((layers[16](head3), p4), 1))
        head5 = layers[21](torch.cat((layers[19](head4), p5), 1))
        return layers[22]((head3, head4, head5))
