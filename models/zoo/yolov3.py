"""YOLOv3-tiny: seven convolutions and pools, two anchor heads.

Redmon & Farhadi, "YOLOv3: An Incremental Improvement" (2018), and its tiny configuration; units
with SiLU and modules numbered as Ultralytics publish it, so that their state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import AnchorHeads, ConvUnit

__all__ = ["YoloV3Tiny"]


class _LatePad(torch.autograd.Function):
    """2x2 maximum with stride 1; windows at the right and lower edge are cut off."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(x, (0, 1, 0, 1), value=float("-inf"))
        return nn.functional.max_pool2d(padded, 2, 1)

    @staticmethod
    def symbolic(g, x):
        """One ONNX node, which may pad one side alone, where torch needs two."""
        return g.op("MaxPool", x, kernel_shape_i=[2, 2], strides_i=[1, 1], pads_i=[0, 0, 1, 1])


class EdgePool(nn.Module):
    """2x2 maximum with stride 1 that keeps the extent of the map.

    As in Darknet, what lies outside counts for nothing; Ultralytics pad with zeros, which differs
    in the last row and column where all values are negative.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _LatePad.apply(x)


class YoloV3Tiny(nn.Module):
    """YOLOv3-tiny without the decoding of its heads.

    Parameters
    ----------
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` in 0..1 to two maps ``(N, 3 * (classes + 5), H/s, W/s)``
    for s in 16, 32.
    """

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        pool, join = nn.MaxPool2d(2, 2), nn.Identity()
        self.model = nn.ModuleList([
            ConvUnit(3, 16, 3), pool, ConvUnit(16, 32, 3), pool, ConvUnit(32, 64, 3), pool,
            ConvUnit(64, 128, 3), pool, ConvUnit(128, 256, 3), pool, ConvUnit(256, 512, 3),
            nn.Identity(), EdgePool(),
            ConvUnit(512, 1024, 3), ConvUnit(1024, 256), ConvUnit(256, 512, 3),
            ConvUnit(256, 128), nn.Upsample(scale_factor=2, mode="nearest"), join,
            ConvUnit(128 + 256, 256, 3),
            AnchorHeads((256, 512), classes),
        ])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        layers = self.model
        for layer in layers[:9]:
            x = layer(x)
        p4 = x
        for layer in layers[9:15]:
            x = layer(x)
        up = layers[17](layers[16](x))
        return layers[20]((layers[19](torch.cat((up, p4), 1)), layers[15](x)))
