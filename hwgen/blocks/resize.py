"""Blocks whose output pixels are input pixels, read from a sliding window of one pixel.

They are :class:`NearestResize` and :class:`hwgen.blocks.pad.Pad`, which differ only in the geometry
of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring

from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.cost import Area
from hwgen.ir import Resize, Window
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.window import READ_LATENCY, SlidingWindow, SlidingWindowConfig

__all__ = ["NearestResize", "NearestResizeConfig", "PixelReader", "PixelReaderConfig"]


@dataclass(frozen=True, kw_only=True)
class PixelReaderConfig(OpConfig):
    """Base of the configurations of such blocks; a subclass has the geometry of the window.

    Parameters
    ----------
    op : :class:`hwgen.ir.Op`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat, at both ports.
    capacity : :class:`int`
        Number of pixels in the buffer; 0: the fewest with which it works.
    window_style : :class:`str`
        Style of the memory of the buffer.
    pace : :class:`int`
        Least number of cycles per pixel, so that added pixels do not come all at once; 0: as many
        as its beats.
    """

    capacity: int = 0
    window_style: str = ""
    pace: int = 0

    def __post_init__(self) -> None:
        _ = self.outputs, self.window

    @property
    def window(self) -> SlidingWindowConfig:
        """The sliding window from which pixels are read."""
        raise NotImplementedError

    def reader(self, window: Window, **geometry) -> SlidingWindowConfig:
        """A sliding window that sends pixels beat by beat."""
        return SlidingWindowConfig(
            input=self.inputs[0], window=window, word_lanes=self.lanes,
            groups=self.beats // self.claim, capacity=self.capacity,
            style=self.window_style, fold_cycles=self.pace if self.pace > self.beats else 0,
            **geometry,
        )

    @property
    def beats(self) -> int:
        """Number of beats per pixel."""
        return self.tensor.channels // self.lanes

    @property
    def claim(self) -> int:
        """Number of beats that are claimed and sent together: one, or with a pace a pixel's."""
        return self.beats if self.pace > self.beats else 1

    @property
    def interval(self) -> int:
        return self.window.interval

    @property
    def least_depths(self) -> tuple[int, ...]:
        late = READ_LATENCY + QUEUE_LATENCY + self.claim
        return (self.claim * (late // self.window.fold_cycles + 1),)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        window = self.window.schedule(arrivals[0])
        starts = window.starts[:, None] + np.arange(self.window.groups) * self.window.fold_cycles
        claims = np.repeat(starts.ravel(), self.claim)
        beat = np.tile(np.arange(self.claim), starts.size)
        out = claims + beat + READ_LATENCY + QUEUE_LATENCY
        return Schedule((window.accepts,), (out,), (claims,), window.capacity)

    def area(self) -> Area:
        return self.window.area() + self.queues_area()


class PixelReader(Configured[PixelReaderConfig]):
    """Sends pixels of a sliding window.

    Parameters
    ----------
    config : :class:`PixelReaderConfig`

    Members
    -------
    i, o : :py:`stream.Signature(ArrayLayout(signed(bits), lanes))`

    Timing
    ------
    One beat per cycle at the output, or one pixel every ``config.pace`` cycles if that is slower.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.window = window = SlidingWindow(config.window)
        m.submodules.queue = queue = output_queue(config, 0, (config.claim,))
        wiring.connect(m, wiring.flipped(self.i), window.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        m.d.comb += [window.room.eq(queue.room), queue.reserve.eq(window.start)]
        wiring.connect(m, window.o, queue.i)
        return m


@dataclass(frozen=True, kw_only=True)
class NearestResizeConfig(PixelReaderConfig):
    """Nearest-neighbour enlargement by whole factors.

    Parameters
    ----------
    op : :class:`hwgen.ir.Resize`
    tensor, lanes, capacity : see :class:`PixelReaderConfig`
    """

    large: ClassVar[bool] = True

    op: Resize

    @cached_property
    def window(self) -> SlidingWindowConfig:
        return self.reader(Window((1,) * len(self.op.factors)), repeat=self.op.factors)

    def create(self) -> NearestResize:
        return NearestResize(self)


class NearestResize(PixelReader):
    """Repeats every pixel along each dimension; see :class:`PixelReader`."""


@carries_out(Resize)
def _resize(request: BlockRequest) -> NearestResizeConfig:
    return NearestResizeConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                               **request.folded(NearestResizeConfig))
