"""U-Net with padded convolutions and batch normalisation.

Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015); as in
most later implementations convolutions are padded, so that the mask is as large as the image, and
normalised. Named as the widely used PyTorch release (milesial), so that its state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["UNet"]


class DoubleConv(nn.Module):
    """Twice 3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, cin: int, cout: int, middle: int | None = None) -> None:
        super().__init__()
        middle = cout if middle is None else middle
        self.double_conv = nn.Sequential(
            nn.Conv2d(cin, middle, 3, 1, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(),
            nn.Conv2d(middle, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """Maximum of 2x2, then two convolutions."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(cin, cout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Enlargement by two, concatenation with the map of that extent, two convolutions."""

    def __init__(self, cin: int, cout: int, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.conv = DoubleConv(cin, cout, cin // 2)
        else:
            self.up = nn.ConvTranspose2d(cin, cin // 2, 2, 2)
            self.conv = DoubleConv(cin, cout)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat((skip, self.up(x)), 1))


class OutConv(nn.Module):
    """1x1 convolution to the classes."""

    def __init__(self, cin: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class UNet(nn.Module):
    """U-Net of five levels, 64 to 1024 channels.

    Parameters
    ----------
    bilinear : :class:`bool`
        Enlarge with bilinear interpolation and half as many channels, else with transposed
        convolutions. Samples lie at pixel centres; the release aligns corners, which makes every
        row another filter.
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` in 0..1 to scores ``(N, classes, H, W)``.
    """

    def __init__(self, bilinear: bool, classes: int = 2) -> None:
        super().__init__()
        share = 2 if bilinear else 1
        self.inc = DoubleConv(3, 64)
        self.down1 = Down(64, 128)
        self.down2 = Down(128, 256)
        self.down3 = Down(256, 512)
        self.down4 = Down(512, 1024 // share)
        self.up1 = Up(1024, 512 // share, bilinear)
        self.up2 = Up(512, 256 // share, bilinear)
        self.up3 = Up(256, 128 // share, bilinear)
        self.up4 = Up(128, 64, bilinear)
        self.outc = OutConv(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.inc(x)
        b = self.down1(a)
        c = self.down2(b)
        d = self.down3(c)
        x = self.up2(self.up1(self.down4(d), d), c)
        return self.outc(self.up4(self.up3(x, b), a))
