"""Padding, cropping and strided slices: pixels read from a sliding window of one pixel.

The read address does this, so added pixels cost no memory, and no cycles but their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hwgen import ir
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.blocks.resize import PixelReader, PixelReaderConfig
from hwgen.parts.window import SlidingWindowConfig

__all__ = ["Pad", "PadConfig"]


@dataclass(frozen=True, kw_only=True)
class PadConfig(PixelReaderConfig):
    """Addition of pixels around a frame, or removal of pixels.

    Parameters
    ----------
    op : :class:`hwgen.ir.Pad`
    tensor, lanes, capacity : see :class:`hwgen.blocks.resize.PixelReaderConfig`
    """

    op: ir.Pad

    @cached_property
    def window(self) -> SlidingWindowConfig:
        return self.reader(self.op.window, fill=self.op.fill)

    def create(self) -> Pad:
        return Pad(self)


class Pad(PixelReader):
    """Adds or removes pixels; see :class:`hwgen.blocks.resize.PixelReader`."""


@carries_out(ir.Pad)
def _pad(request: BlockRequest) -> PadConfig:
    return PadConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                     **request.folded(PadConfig))
