"""Blocks whose output pixels are input pixels, read again from a sliding window of one pixel.

:class:`NearestResize` is one, :class:`hwgen.blocks.pad.Pad` another: they differ in the geometry
of the window alone.
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
from hwgen.blocks.registry import Request, carries_out
from hwgen.device.cost import Area
from hwgen.ir import Resize, Window
from hwgen.parts.component import Configured
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.window import READ_LATENCY, SlidingWindow, SlidingWindowConfig

__all__ = ["NearestResize", "NearestResizeConfig", "PixelReader", "PixelReaderConfig"]


@dataclass(frozen=True, kw_only=True)
class PixelReaderConfig(OpConfig):
    """What such blocks share; the subclass knows the window.

    Parameters
    ----------
    op : :class:`hwgen.ir.Op`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels a beat, at both ports.
    capacity : :class:`int`
        Pixels in the buffer; 0: the fewest with which it works.
    window_style : :class:`str`
        Memory of the buffer.
    pace : :class:`int`
        Cycles of a pixel, at least, so that added pixels do not come in a burst; 0: as many as its
        beats.
    """

    capacity: int = 0
    window_style: str = ""
    pace: int = 0

    def __post_init__(self) -> None:
        _ = self.outputs, self.window

    @property
    def window(self) -> SlidingWindowConfig:
        """The buffer from which pixels are read."""
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
        """Beats of a pixel."""
        return self.tensor.channels // self.lanes

    @property
    def claim(self) -> int:
        """Beats that are sent, and claimed, together: one, or with a pace all of a pixel."""
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
    One beat a cycle at the output, one pixel every ``config.pace`` cycles if that is more.
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
def _resize(request: Request) -> NearestResizeConfig:
    return NearestResizeConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                               **request.folded(NearestResizeConfig))
