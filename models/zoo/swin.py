"""Swin-tiny: attention within windows of 7x7 tokens, which every second block shifts by half.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021); named
as in the authors' release, so that its state dicts load.
"""

from __future__ import annotations

import torch
from torch import nn

from hwgen.models.zoo.layers import Layered
from hwgen.models.zoo.transformer import Attend, Mlp, keep_scale

__all__ = ["HIDDEN", "ShiftedBlock", "Swin"]

HIDDEN = -100.0
"""What is added to the score of a key that comes from the other side of the image."""


def _windows(x: torch.Tensor, side: int) -> torch.Tensor:
    """``(N, H, W, C)`` as ``(N * windows, side * side, C)``."""
    n, rows, columns, channels = map(int, x.shape)
    x = x.reshape(n, rows // side, side, columns // side, side, channels)
    return x.transpose(2, 3).reshape(-1, side * side, channels)


def _image(windows: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """What :func:`_windows` had."""
    n, rows, columns, channels = shape
    side = round(int(windows.shape[1]) ** 0.5)
    x = windows.reshape(n, rows // side, columns // side, side, side, channels)
    return x.transpose(2, 3).reshape(n, rows, columns, channels)


class _Attention(nn.Module):
    """Attention within a window; to each score is added what its distance has learned."""

    relative_position_index: torch.Tensor

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.relative_position_bias_table = nn.Parameter(
            torch.randn((2 * side - 1) ** 2, heads) / 2)
        at = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
        at = at.flatten(1)
        apart = at[:, :, None] - at[:, None, :] + side - 1
        self.register_buffer("relative_position_index", apart[0] * (2 * side - 1) + apart[1])
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attend = Attend(heads)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        tokens = self.side**2
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.reshape(1, tokens, tokens, self.heads).permute(0, 3, 1, 2)
        if hidden is not None:
            # Windows stand in the place of frames, and are the same for each frame.
            images = int(x.shape[0]) // int(hidden.shape[0])
            bias = (bias + hidden[:, None]).repeat(images, 1, 1, 1)
        return self.proj(self.attend(*self.qkv(x).chunk(3, -1), bias))


class ShiftedBlock(nn.Module):
    """Attention within windows and two dense layers, each beside a shortcut.

    An image that is no larger than a window is one window, and nothing is shifted.
    """

    def __init__(self, channels: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _Attention(channels, heads, side)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)
        # Published state dicts carry the mask, which follows from the size of the image.
        self.register_load_state_dict_pre_hook(
            lambda _, state, prefix, *rest: state.pop(f"{prefix}attn_mask", None))

    def hidden(self, rows: int, columns: int) -> torch.Tensor:
        """What hides tokens of one window that the shift has brought from two sides."""
        areas = torch.zeros(1, rows, columns, 1)
        cuts = (0, -self.side, -self.shift, None)
        parts = [slice(a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
        for k, (down, across) in enumerate((d, a) for d in parts for a in parts):
            areas[:, down, across] = k
        area = _windows(areas, self.side)[..., 0]
        return torch.where(area[:, None] == area[:, :, None], 0.0, HIDDEN)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = tuple(map(int, x.shape))
        shift = self.shift if min(shape[1:3]) > self.side else 0
        y = self.norm1(x)
        if shift:
            y = y.roll((-shift, -shift), (1, 2))
        y = self.attn(_windows(y, self.side), self.hidden(*shape[1:3]) if shift else None)
        y = _image(y, shape)
        if shift:
            y = y.roll((shift, shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class _Merge(nn.Module):
    """Makes one token of 2x2, with twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = [x[:, k::2, m::2] for m in range(2) for k in range(2)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class _Stage(nn.Module):
    """Blocks of one extent, and what halves it."""

    def __init__(self, channels: int, heads: int, depth: int, side: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ShiftedBlock(channels, heads, side, side // 2 * (k % 2)) for k in range(depth))
        self.downsample = None if last else _Merge(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class _Patches(nn.Module):
    """An image cut into squares, each projected to one token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 4, 4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Swin(Layered):
    """A Swin transformer.

    Parameters
    ----------
    channels : :class:`int`
        Of the first stage; each next one has twice as many.
    depths, heads : tuple of :class:`int`
        Blocks and heads of each stage.
    classes : :class:`int`

    Forward: images ``(N, 3, H, W)``, H and W a multiple of 224, to scores ``(N, classes)``.
    """

    def __init__(
        self, channels: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24), side: int = 7, classes: int = 1000,
    ) -> None:
        super().__init__()
        self.patch_embed = _Patches(channels)
        last = len(depths) - 1
        self.layers = nn.ModuleList(
            _Stage(channels << k, heads[k], depth, side, k == last)
            for k, depth in enumerate(depths))
        self.norm = nn.LayerNorm(channels << last)
        self.head = nn.Linear(channels << last, classes)
        keep_scale(self)

    def stacks(self) -> list[nn.ModuleList | nn.Sequential]:
        return [stage.blocks for stage in self.layers if isinstance(stage, _Stage)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        return self.head(self.norm(x).mean((1, 2)))
