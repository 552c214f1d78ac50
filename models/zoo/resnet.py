"""Residual networks: ResNet-18 and ResNet-50 for ImageNet, ResNet-8 for CIFAR-10.

He et al., "Deep Residual Learning for Image Recognition" (2015), with the stride of a bottleneck
in its 3x3 convolution as in later implementations ("v1.5"); named as in torchvision, so that
published state dicts load.  ResNet-8 is that of Banbury et al., "MLPerf Tiny Benchmark" (2021).
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import initialise

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "ResNet8"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, cin: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; four times ``width`` channels come out."""

    expansion = 4

    def __init__(self, cin: int, width: int, stride: int, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet for ImageNet.

    Parameters
    ----------
    block : :class:`str`
        ``basic`` or ``bottleneck``.
    depths : tuple of :class:`int`
        Blocks of each of the four stages.
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, block: str, depths: tuple[int, ...], classes: int = 1000) -> None:
        super().__init__()
        make = {"basic": BasicBlock, "bottleneck": Bottleneck}[block]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        cin = 64
        stages = []
        for k, depth in enumerate(depths):
            blocks = []
            width = 64 << k
            cout = width * make.expansion
            for j in range(depth):
                stride = 2 if k and not j else 1
                down = None if stride == 1 and cin == cout else nn.Sequential(
                    nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
                )
                blocks.append(make(cin, width, stride, down))
                cin = cout
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(cin, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class _SameConv(nn.Sequential):
    """Convolution that pads like Keras: where an odd number is needed, more after than before."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int) -> None:
        total = kernel - stride if kernel > 1 else 0
        before = total // 2
        super().__init__(
            nn.ZeroPad2d((before, total - before) * 2), nn.Conv2d(cin, cout, kernel, stride)
        )


class _Block8(nn.Module):
    """Two 3x3 convolutions; the shortcut of a block with a stride has no normalisation."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _SameConv(cin, cout, 3, stride)
        self.bn1 = nn.BatchNorm2d(cout, eps=1e-3)
        self.conv2 = _SameConv(cout, cout, 3, 1)
        self.bn2 = nn.BatchNorm2d(cout, eps=1e-3)
        self.relu = nn.ReLU()
        self.downsample = nn.Identity() if stride == 1 else nn.Conv2d(cin, cout, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class ResNet8(nn.Module):
    """ResNet-8 of MLPerf Tiny: three blocks of 16, 32 and 64 channels.

    Keras counts 78,666 parameters, with the running mean and variance of the normalisations;
    without these 480 it is 78,186.

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``, without the softmax.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = _SameConv(3, 16, 3, 1)
        self.bn1 = nn.BatchNorm2d(16, eps=1e-3)
        self.relu = nn.ReLU()
        self.layer1 = _Block8(16, 16, 1)
        self.layer2 = _Block8(16, 32, 2)
        self.layer3 = _Block8(32, 64, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))
