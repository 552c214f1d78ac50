"""VGG-11 and VGG-16, without batch normalisation.

Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition" (2014),
configurations A and D; named as in torchvision, so that published state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import WholePool, initialise

__all__ = ["VGG"]


class VGG(nn.Module):
    """VGG.

    Parameters
    ----------
    depths : tuple of :class:`int`
        3x3 convolutions in front of each of the five pools.
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, depths: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        for depth, cout in zip(depths, (64, 128, 256, 512, 512), strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(cin, cout, 3, 1, 1), nn.ReLU()]
                cin = cout
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = WholePool(7)
        self.classifier = nn.Sequential(
            nn.Linear(7 * 7 * cin, 4096), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4096, classes),
        )
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
