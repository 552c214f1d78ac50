"""AlexNet, the variant for one device.

Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks" (2012), with
the channels of Krizhevsky, "One weird trick for parallelizing convolutional neural networks"
(2014), without response normalisation; named as in torchvision, so that published state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import WholePool, initialise

__all__ = ["AlexNet"]


class AlexNet(nn.Module):
    """AlexNet.

    Initial weights are those of VGG: the paper's own leave, before training, little of the image
    beside the biases.

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        )
        self.avgpool = WholePool(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), nn.Linear(6 * 6 * 256, 4096), nn.ReLU(),
            nn.Dropout(0.5), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes),
        )
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
