"""MobileNetV2 and MobileNetV3: inverted residuals, squeeze and excitation.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018); Howard et al.,
"Searching for MobileNetV3" (2019); named as in torchvision, so that published state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import initialise, round_channels

__all__ = ["MobileNetV2", "MobileNetV3"]


class _Unit(nn.Sequential):
    """Convolution, batch normalisation, and a non-linearity unless None."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, groups: int,
                 norm: dict[str, float], act: type[nn.Module] | None) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(cout, **norm), *([] if act is None else [act()]),
        )


class _Inverted2(nn.Module):
    """Expansion, depthwise convolution, linear projection; a residual where shapes agree."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = cin * expand
        parts = [] if expand == 1 else [_Unit(cin, wide, 1, 1, 1, {}, nn.ReLU6)]
        self.conv = nn.Sequential(
            *parts, _Unit(wide, wide, 3, stride, wide, {}, nn.ReLU6),
            nn.Conv2d(wide, cout, 1, bias=False), nn.BatchNorm2d(cout),
        )
        self.residual = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


# Table 2 of the paper: expansion, channels, blocks, stride of the first.
_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
       (6, 320, 1, 1))


class MobileNetV2(nn.Module):
    """MobileNetV2 of width 1.

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Unit(3, 32, 3, 2, 1, {}, nn.ReLU6)]
        cin = 32
        for expand, cout, depth, stride in _V2:
            for k in range(depth):
                layers.append(_Inverted2(cin, cout, 1 if k else stride, expand))
                cin = cout
        self.features = nn.Sequential(*layers, _Unit(cin, 1280, 1, 1, 1, {}, nn.ReLU6))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class _SqueezeExcitation(nn.Module):
    """Channels are scaled by a function of all their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = round_channels(channels // 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(inner, channels, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return x * self.scale_activation(scale)


_NORM = {"eps": 1e-3, "momentum": 0.01}

# Tables 1 and 2 of the paper: kernel, expanded channels, channels, squeeze and excitation, hard
# swish (else ReLU), stride.
_ROWS = {
    "large": (
        (3, 16, 16, 0, 0, 1), (3, 64, 24, 0, 0, 2), (3, 72, 24, 0, 0, 1), (5, 72, 40, 1, 0, 2),
        (5, 120, 40, 1, 0, 1), (5, 120, 40, 1, 0, 1), (3, 240, 80, 0, 1, 2), (3, 200, 80, 0, 1, 1),
        (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1),
        (3, 672, 112, 1, 1, 1), (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 1),
        (5, 960, 160, 1, 1, 1),
    ),
    "small": (
        (3, 16, 16, 1, 0, 2), (3, 72, 24, 0, 0, 2), (3, 88, 24, 0, 0, 1), (5, 96, 40, 1, 1, 2),
        (5, 240, 40, 1, 1, 1), (5, 240, 40, 1, 1, 1), (5, 120, 48, 1, 1, 1), (5, 144, 48, 1, 1, 1),
        (5, 288, 96, 1, 1, 2), (5, 576, 96, 1, 1, 1), (5, 576, 96, 1, 1, 1),
    ),
}


class _Inverted3(nn.Module):
    """As in V2, with squeeze and excitation in front of the projection."""

    def __init__(self, cin: int, kernel: int, wide: int, cout: int, squeeze: int, hard: int,
                 stride: int) -> None:
        super().__init__()
        act = nn.Hardswish if hard else nn.ReLU
        parts: list[nn.Module] = []
        if wide != cin:
            parts.append(_Unit(cin, wide, 1, 1, 1, _NORM, act))
        parts.append(_Unit(wide, wide, kernel, stride, wide, _NORM, act))
        if squeeze:
            parts.append(_SqueezeExcitation(wide))
        self.block = nn.Sequential(*parts, _Unit(wide, cout, 1, 1, 1, _NORM, None))
        self.residual = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MobileNetV3(nn.Module):
    """MobileNetV3 of width 1.

    Parameters
    ----------
    variant : :class:`str`
        ``large`` or ``small``.
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, variant: str, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Unit(3, 16, 3, 2, 1, _NORM, nn.Hardswish)]
        cin = 16
        for row in _ROWS[variant]:
            layers.append(_Inverted3(cin, *row))
            cin = row[2]
        wide, last = 6 * cin, {"large": 1280, "small": 1024}[variant]
        self.features = nn.Sequential(*layers, _Unit(cin, wide, 1, 1, 1, _NORM, nn.Hardswish))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(wide, last), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(last, classes)
        )
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
