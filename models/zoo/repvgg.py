"""RepVGG: trained with three branches, deployed as plain 3x3 convolutions.

Ding et al., "RepVGG: Making VGG-style ConvNets Great Again" (2021); named as the authors' release,
so that its state dicts (those with training branches) load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import initialise

__all__ = ["RepVGG", "RepVGGBlock", "deploy"]


class _ConvNorm(nn.Module):
    """Convolution and batch normalisation."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


def _folded(weight: torch.Tensor, norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """A convolution's weights and bias with the normalisation behind it."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    scale = norm.weight / torch.sqrt(var + norm.eps)
    return weight * scale[:, None, None, None], norm.bias - mean * scale


class RepVGGBlock(nn.Module):
    """The sum of a 3x3 convolution, a 1x1 convolution and, where shapes agree, the input itself.

    Each is normalised by itself; a ReLU follows the sum. :meth:`fuse` gives the one convolution
    that does the same (section 3.3 of the paper).
    """

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.rbr_dense = _ConvNorm(cin, cout, 3, stride)
        self.rbr_1x1 = _ConvNorm(cin, cout, 1, stride)
        same = stride == 1 and cin == cout
        self.rbr_identity = nn.BatchNorm2d(cin) if same else None
        self.nonlinearity = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.rbr_dense(x) + self.rbr_1x1(x)
        return self.nonlinearity(y if self.rbr_identity is None else y + self.rbr_identity(x))

    @torch.no_grad()
    def fuse(self) -> nn.Sequential:
        """The block in its deployed form."""
        dense = self.rbr_dense.conv.weight
        weight, bias = _folded(dense, self.rbr_dense.bn)
        point = nn.functional.pad(self.rbr_1x1.conv.weight, (1, 1, 1, 1))
        branches = [_folded(point, self.rbr_1x1.bn)]
        if self.rbr_identity is not None:
            same = torch.zeros_like(dense)
            nn.init.dirac_(same)
            branches.append(_folded(same, self.rbr_identity))
        for more, offset in branches:
            weight, bias = weight + more, bias + offset
        cout, cin = dense.shape[:2]
        conv = nn.Conv2d(cin, cout, 3, self.stride, 1)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
        return nn.Sequential(conv, nn.ReLU())


class RepVGG(nn.Module):
    """RepVGG with its training branches.

    Parameters
    ----------
    depths : tuple of :class:`int`
        Blocks of the four stages behind the first block.
    widths : tuple of :class:`int`
        Channels of the first block and of the four stages.
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)`` to scores ``(N, classes)``.
    """

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...],
                 classes: int = 1000) -> None:
        super().__init__()
        self.stage0 = RepVGGBlock(3, widths[0], 2)
        stages = []
        for depth, cin, cout in zip(depths, widths, widths[1:], strict=False):
            stages.append(nn.Sequential(
                RepVGGBlock(cin, cout, 2), *(RepVGGBlock(cout, cout, 1) for _ in range(depth - 1))
            ))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[-1], classes)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stage0(x)))))
        return self.linear(torch.flatten(self.gap(x), 1))


def deploy(network: nn.Module) -> nn.Module:
    """Replace the branches of every block, in place, by the one convolution they amount to."""
    for name, block in list(network.named_modules()):
        if isinstance(block, RepVGGBlock):
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, block.fuse())
    return network
