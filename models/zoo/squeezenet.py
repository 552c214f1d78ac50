"""SqueezeNet 1.1.

Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and < 0.5 MB model
size" (2016), in the authors' release 1.1; named as in torchvision, so that published state dicts
load.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["SqueezeNet"]


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, cin: int, few: int, half: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(cin, few, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(few, half, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(few, half, 3, 1, 1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.squeeze_activation(self.squeeze(x))
        return torch.cat((self.expand1x1_activation(self.expand1x1(x)),
                          self.expand3x3_activation(self.expand3x3(x))), 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1.

    Initial weights: He et al. (2015), uniform; those of the last convolution normal, 0.01.

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool, Fire(64, 16, 64), Fire(128, 16, 64),
            pool, Fire(128, 32, 128), Fire(256, 32, 128),
            pool, Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256),
        )
        last = nn.Conv2d(512, classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.5), last, nn.ReLU())
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                if part is last:
                    nn.init.normal_(part.weight, 0, 0.01)
                else:
                    nn.init.kaiming_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).mean((2, 3))
