"""Modules that several families share."""

from __future__ import annotations

import torch
from torch import nn

__all__ = [
    "SPPF", "AnchorHeads", "ConvUnit", "Layered", "Normalise", "WholePool", "initialise",
    "round_channels",
]


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` that is not below nine tenths of ``channels``.

    From the MobileNet papers; X3D rounds alike.
    """
    near = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * channels else near


def initialise(module: nn.Module) -> None:
    """Initial weights that keep the size of activations through ReLUs without normalisation.

    Convolutions: He et al., "Delving Deep into Rectifiers" (2015), by fan-out; dense layers: a
    normal distribution of 0.01 (Simonyan & Zisserman, 2014); biases 0; normalisations keep theirs.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0, 0.01)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)


class Layered(nn.Module):
    """A network of blocks that are alike, of which the first can be kept alone."""

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        """The blocks of each stage."""
        raise NotImplementedError

    def keep(self, layers: int) -> None:
        """Leave at most the first ``layers`` blocks of each stage."""
        for stack in self.stacks():
            del stack[layers:]


class Normalise(nn.Module):
    """What published weights expect: subtracts the mean of an image, and divides by the deviation.

    Parameters
    ----------
    mean, std : of each colour
    dimensions : behind the colours: 2 for images, 3 for clips
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], dimensions: int) -> None:
        super().__init__()
        shape = (-1, *(1,) * dimensions)
        # Not persistent: state dicts stay as they are published.
        self.register_buffer("mean", torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(shape), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.std

    def before(self, network: nn.Module) -> None:
        """Let a network do this to its input first.

        A hook, not a module around the network: that would change the names of all layers.
        """
        network.add_module("normalise", self)
        network.register_forward_pre_hook(lambda _, inputs: (self(*inputs),))


class WholePool(nn.Module):
    """Adaptive average pooling of square maps to ``extent``, for whole factors alone.

    A map that is a multiple of ``extent`` is averaged by blocks, one that divides it is repeated,
    and one of that extent passes: exactly what adaptive pooling does, but in ops that every
    accelerator knows. :mod:`hwgen.models.zoo` refuses sizes that lead to other maps.
    """

    def __init__(self, extent: int) -> None:
        super().__init__()
        self.extent = extent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        have = int(x.shape[-1])
        if have % self.extent and self.extent % have:
            raise ValueError(f"A map of {have} and an extent of {self.extent} have no whole factor")
        if have > self.extent:
            return nn.functional.avg_pool2d(x, have // self.extent)
        if have < self.extent:
            return nn.functional.interpolate(x, scale_factor=float(self.extent // have))
        return x


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, SiLU: the unit of the YOLO families."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1,
                 pad: int | None = None) -> None:
        super().__init__()
        pad = kernel // 2 if pad is None else pad
        self.conv = nn.Conv2d(cin, cout, kernel, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.bn(self.conv(x)))


class SPPF(nn.Module):
    """Spatial pyramid pooling: three 5x5 maxima one after the other, all concatenated."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.cv1 = ConvUnit(cin, cin // 2)
        self.cv2 = ConvUnit(cin // 2 * 4, cout)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        a = self.pool(x)
        b = self.pool(a)
        return self.cv2(torch.cat((x, a, b, self.pool(b)), 1))


class AnchorHeads(nn.Module):
    """One 1x1 convolution a head; decoding is the host's work (:mod:`hwgen.models.host.detect`)."""

    def __init__(self, channels: tuple[int, ...], classes: int, anchors: int = 3) -> None:
        super().__init__()
        self.m = nn.ModuleList(nn.Conv2d(c, anchors * (classes + 5), 1) for c in channels)
        # Published state dicts carry the anchor boxes; decoding takes them from the zoo.
        self.register_buffer("anchors", torch.zeros(len(channels), anchors, 2))
        # Some (YOLOv5 v6.0) carry them a second time, in another unit.
        self.register_load_state_dict_pre_hook(
            lambda _, state, prefix, *rest: state.pop(f"{prefix}anchor_grid", None))

    def forward(self, features: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(conv(x) for conv, x in zip(self.m, features, strict=True))
