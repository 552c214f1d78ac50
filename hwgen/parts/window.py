"""The sliding window: a circular buffer of pixels, read window by window.

Padding is done by the read address (a tap outside the frame reads the fill value, or the nearest
pixel), so it costs no cycles.  A window is read again for every fold of the consumer, so no second
buffer is needed.  Enlargement by whole factors and the phases of a transposed convolution read
pixels again in the same way.

Several windows side by side can be sent together, because adjacent pixels lie in separate memories,
the *banks*: whatever the tap, each of these windows reads a different bank.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring

from hwgen.device.arithmetic import add_carry, counter, delayed, levels
from hwgen.device.cost import Area, Part, logic, shift_or_registers
from hwgen.device.storage import memory_style
from hwgen.errors import HwgenError
from hwgen.ir import Pads, Window
from hwgen.parts.memory import BufferMemory, buffer_area, buffer_registers
from hwgen.parts.queue import queue_depth
from hwgen.parts.stream import StreamType, in_order
from hwgen.parts.walk import Course, Walk, changes

__all__ = ["READ_LATENCY", "SlidingWindow", "SlidingWindowConfig", "WindowSchedule"]

WRITE_LATENCY = 2
"""Cycles from accepting the last beat of a pixel to the first window that can use it."""
READ_LATENCY = 7
"""Cycles from issuing a step to its beat at the output."""
RELEASE_LATENCY = 6
"""Cycles from a window's last beat until the places of its pixels are free."""


@dataclass(frozen=True)
class WindowSchedule:
    """Times of a window buffer, and the number of pixels that it holds.

    Members
    -------
    accepts : cycle in which each input beat is accepted
    starts : cycle in which each window starts; its beats come :data:`READ_LATENCY` cycles later
    capacity : most sites that the buffer holds at once
    """

    accepts: np.ndarray
    starts: np.ndarray
    capacity: int


@dataclass(frozen=True, kw_only=True)
class SlidingWindowConfig(Part):
    """Geometry and folding of a sliding window.

    Windows (or sets of ``columns`` windows side by side) are sent in row-major order.  For each
    window, the loops are, outermost first: *groups* of words, ``folds`` repetitions, sets of
    ``tap_lanes`` taps, words of the group.  Each step sends one beat of ``tap_lanes * columns``
    words.  After the beats of a fold the buffer rests until ``fold_cycles`` have passed.

    Parameters
    ----------
    input : :class:`StreamType`
    window : :class:`Window`
    fill : :class:`int` or None
        What a tap outside the frame reads.  None: the nearest pixel; for windows of one tap.
    repeat : sequence of :class:`int`, one per spatial dimension
        Number of times that each window is sent along each dimension.
    crop : sequence of pairs of :class:`int`, one per spatial dimension
        Repetitions left out of the first window and of the last along each dimension.
    show_inside : :class:`bool`
        Whether the component says which taps lie in the frame.
    word_lanes : :class:`int`
        Channels in a word of the buffer; a multiple of the input's lanes.
    segment : :class:`int`
        Number of channels after which a new word begins (0: all channels).
    groups : :class:`int`
        Number of runs into which the words of a pixel are divided; the runs are sent one after
        the other.  It divides the words of a pixel.
    tap_lanes : :class:`int`
        Taps read in parallel, each from its own copy of the buffer.
    columns : :class:`int`
        Windows side by side that are sent together.  With more than one, or with several pixels
        per input beat, the frame must be as wide as the strides of all windows of a row together.
    folds : :class:`int`
        Number of times that each group is sent.
    tile, passes : :class:`int`
        The windows of ``tile`` rows (positions along the outermost dimension; ``tile`` divides
        them) are sent ``passes`` times, then those of the next rows.
    fold_cycles : :class:`int`
        Cycles of a fold, if more than its beats.
    capacity : :class:`int`
        Number of sites (of ``banks`` pixels side by side) that the buffer holds; 0: the fewest
        with which it works.
    style : :class:`str`
        Style of the memory of the buffer: see :class:`hwgen.parts.memory.BufferMemory`.

    Raises
    ------
    :exc:`HwgenError`
        If parameters do not fit each other.
    """

    input: StreamType
    window: Window
    fill: int | None = 0
    repeat: tuple[int, ...] = ()
    crop: Pads = ()
    show_inside: bool = False
    word_lanes: int = 1
    segment: int = 0
    groups: int = 1
    tap_lanes: int = 1
    columns: int = 1
    folds: int = 1
    tile: int = 1
    passes: int = 1
    fold_cycles: int = 0
    capacity: int = 0
    style: str = ""

    def __post_init__(self) -> None:
        segment = self.segment or self.input.tensor.channels
        object.__setattr__(self, "segment", segment)
        if not self.input.tensor.spatial:
            object.__setattr__(self, "window", Window((1,)))
        dims = len(self.window.kernel)
        object.__setattr__(self, "repeat", self.repeat or (1,) * dims)
        object.__setattr__(self, "crop", self.crop or ((0, 0),) * dims)
        lanes = self.input.lanes
        if self.input.tensor.channels % segment or segment % lanes:
            raise HwgenError(
                f"Segment must divide the channels and be a multiple of the {lanes} input lanes, "
                f"not {segment!r}"
            )
        if self.word_lanes % lanes or not lanes <= self.word_lanes <= segment:
            raise HwgenError(
                f"Word lanes must be a multiple of the {lanes} input lanes and at most {segment}, "
                f"not {self.word_lanes!r}"
            )
        if self.words_per_pixel % self.groups:
            raise HwgenError(
                f"Groups must divide the {self.words_per_pixel} words of a pixel, "
                f"not {self.groups!r}"
            )
        if not 1 <= self.tap_lanes <= self.window.taps:
            raise HwgenError(
                f"Tap lanes must be between 1 and {self.window.taps}, not {self.tap_lanes!r}"
            )
        self._check_columns()
        _ = self.course
        object.__setattr__(self, "fold_cycles", max(self.fold_cycles, self.steps))
        if 0 < self.capacity < self.least_capacity:
            raise HwgenError(
                f"Capacity must be at least {self.least_capacity} sites, not {self.capacity!r}"
            )

    def _check_columns(self) -> None:
        if self.columns < 1:
            raise HwgenError(f"Columns must be positive, not {self.columns!r}")
        if self.columns == self.input.pixels == 1:
            return
        width, stride = self.spatial[-1], self.window.stride[-1]
        if (width % self.banks
                or self.window.output(self.spatial)[-1] * stride != width):
            raise HwgenError(
                f"Windows {self.columns} at a time, {stride} pixels apart, do not fit a frame "
                f"{width} wide that comes {self.input.pixels} pixels a beat"
            )
        if math.prod(self.repeat) > 1 or self.fill is None or self.show_inside:
            raise HwgenError(
                "Windows that are repeated, repeat edges or count taps are sent one at a time, "
                f"of pixels that come one at a time, not {self.columns!r} and {self.input.pixels!r}"
            )

    @cached_property
    def spatial(self) -> tuple[int, ...]:
        """Extents of the input; ``(1,)`` if it has none."""
        return self.input.tensor.spatial or (1,)

    @property
    def banks(self) -> int:
        """Number of adjacent pixels at one address, each in a memory of its own."""
        if self.columns == self.input.pixels == 1:
            return 1
        return math.lcm(self.input.pixels, self._advance)

    @property
    def _advance(self) -> int:
        """Pixels from one set of windows that are sent together to the next set."""
        return self.columns * self.window.stride[-1]

    @property
    def visits(self) -> int:
        """Number of sets of windows that begin in the same site, one set after the other."""
        return 1 if self.banks == 1 else self.banks // self._advance

    @cached_property
    def _reach(self) -> tuple[int, int]:
        """First and last site that is read by the windows of a site, relative to that site."""
        window = self.window
        first, last = -window.pads[-1][0], self.banks - window.stride[-1]
        return first // self.banks, (first + last + window.extent[-1] - 1) // self.banks

    @cached_property
    def course(self) -> Course:
        """The course of the windows in sites; windows that begin in one site are repetitions."""
        window = self.window
        if self.banks == 1:
            return Course(self.spatial, window, self.repeat, self.crop, self.fill is None,
                          self.tile, self.passes)
        first, last = self._reach
        return Course(
            (*self.spatial[:-1], self.spatial[-1] // self.banks),
            Window((*window.kernel[:-1], last - first + 1), (*window.stride[:-1], 1),
                   (*window.pads[:-1], (-first, last)), (*window.dilation[:-1], 1)),
            (*self.repeat[:-1], self.visits), self.crop, tile=self.tile, passes=self.passes,
        )

    @property
    def walked(self) -> Course:
        """The course that the hardware walks: the shortest that comes again and again."""
        return self.course.period

    @cached_property
    def taps(self) -> list[list[list[tuple[tuple[int, ...], int]]]]:
        """Per visit of a site and tap, for each column: the tap of the walk, and the bank."""
        # A dimension that is not walked has one tap.
        taps = [tap[-len(self.walked.spatial):] for tap in np.ndindex(*self.window.kernel)]
        if self.banks == 1:
            return [[[(tap, 0)] for tap in taps]]
        stride, dilation = self.window.stride[-1], self.window.dilation[-1]
        first, _ = self._reach
        visits = []
        for visit in range(self.visits):
            by_tap = []
            for *outer, inner in taps:
                begin = visit * self._advance + inner * dilation - self.window.pads[-1][0]
                pixels = [divmod(begin + k * stride, self.banks) for k in range(self.columns)]
                by_tap.append([((*outer, site - first), bank) for site, bank in pixels])
            visits.append(by_tap)
        return visits

    @property
    def words_per_pixel(self) -> int:
        """Number of words of a pixel in its bank."""
        return self.input.tensor.channels // self.segment * math.ceil(
            self.segment / self.word_lanes
        )

    @property
    def words_per_group(self) -> int:
        """Words that are sent for each tap."""
        return self.words_per_pixel // self.groups

    @property
    def tap_folds(self) -> int:
        """Number of beats in which all taps of a word are sent."""
        return math.ceil(self.window.taps / self.tap_lanes)

    @property
    def steps(self) -> int:
        """Number of beats in a fold."""
        return self.tap_folds * self.words_per_group

    @property
    def window_cycles(self) -> int:
        """Cycles from one window to the next."""
        return self.groups * self.folds * self.fold_cycles

    @property
    def windows(self) -> int:
        """Number of windows per frame; those that are sent together count as one."""
        return self.course.windows

    @property
    def interval(self) -> int:
        """Fewest cycles between two frames."""
        return max(self.input.beats, self.windows * self.window_cycles)

    @property
    def payload(self) -> data.ArrayLayout:
        """Shape of a beat: for each tap, for each column, the channels of a word."""
        return data.ArrayLayout(
            signed(self.input.tensor.bits), self.tap_lanes * self.columns * self.word_lanes
        )

    @property
    def beats_per_site(self) -> int:
        """Number of input beats for a site of the buffer."""
        return self.input.beats_per_site * self.banks // self.input.pixels

    @property
    def least_capacity(self) -> int:
        """Fewest sites that the buffer must hold."""
        return self.course.least_capacity

    def schedule(self, arrivals: np.ndarray, window_cycles: float = 0) -> WindowSchedule:
        """Timing for arrivals of whole frames.

        It is exact if the consumer never stalls.

        Parameters
        ----------
        arrivals : cycle in which each input beat arrives
        window_cycles : cycles of a window on average, if the consumer stalls; 0: it does not
        """
        pace = max(window_cycles, self.window_cycles)
        accepts = in_order(arrivals)
        sites = self.course.pixels
        frames = len(arrivals) // self.input.beats
        need, free = self.course.bounds()
        offset = np.repeat(np.arange(frames, dtype=np.int64) * sites, self.windows)
        need = np.tile(need, frames) + offset
        by_site = accepts.reshape(-1, self.beats_per_site)
        ready = by_site[:, -1] + WRITE_LATENCY
        fires = in_order(ready[need - 1], pace, self.windows)
        rest = self.fold_cycles - self.steps
        releases = fires + math.ceil(pace) - 1 - rest + RELEASE_LATENCY
        # Once window w has been read, all that window w + 1 does not need is free.
        freed = np.append(np.tile(free, frames) + offset, frames * sites + free[0])
        frees = np.repeat(np.append(-1, releases), np.diff(freed, prepend=0))
        capacity = queue_depth(by_site[:, 0] + 1, frees)
        return WindowSchedule(accepts, fires, max(capacity, self.least_capacity))

    def area(self, behind: int | None = 0) -> Area:
        """What the buffer and its address generators take.

        Parameters
        ----------
        behind : number of registers that follow each output in the surrounding block; None: that
            block counts the output registers itself
        """
        course, stream = self.walked, self.input
        bits, depth = self.position_bits, self.depth
        width = self.word_lanes * stream.tensor.bits
        address = max(depth - 1, 1).bit_length()
        words = self.words_per_pixel
        axes, phases = course.axes, course.phases
        need = changes([-a.need for a in axes], -course.pixels, 1 << bits)
        step = changes([a.origin * a.unit * words for a in axes], course.pixels * words, depth)
        need_bits, step_bits = _distinct(need, bits), _distinct(step, address)
        inside = sum(not a.inside(t).all() for a in axes for t in range(len(a.taps)))
        bounds = sum(levels(a.positions) for a in axes
                     for t in range(len(a.taps)) if not a.inside(t).all())
        index = sum(levels(a.positions) for a in axes)
        per_word = self.word_lanes // stream.lanes
        per_segment = self.segment // stream.lanes
        input_sites = self.banks // stream.pixels
        steps = (self.groups, self.folds, self.tap_folds, self.words_per_group,
                 self.fold_cycles - self.steps + 1)
        beats = {stream.beats_per_site, per_segment, per_word}
        counters = [*steps, *beats, input_sites]
        banks = [len(self._banks_read(tap)) for tap in range(self.tap_lanes)]
        copies = sum(banks)
        folds, outs = self.tap_folds * self.visits, self.tap_lanes * self.columns
        word_bits = levels(words)
        filled = self.fill is not None and inside > 0
        choices = (folds - 1) * address if folds > 1 else 0
        last = self.last_registers
        register = buffer_registers(width, depth, self.style) if last == 1 else 0
        ends = {} if behind is None else shift_or_registers(last + behind, outs * width)
        return buffer_area(width, depth, self.style, copies) + logic(
            "window", lut_one=1,
            ff_register=bits * (7 + len(axes)) + 3 * need_bits + 3 * step_bits + 4 * inside + index
            + width * stream.pixels + 4 * address + sum(map(levels, counters)) + 14 + word_bits,
            ff_axes=len(axes),
            lut_position=bits * (5 + len(axes)), lut_base=3 * address, lut_index=2 * index,
            lut_counters=sum(map(levels, counters)), lut_need=need_bits * len(set(need)),
            lut_step=step_bits * len(set(step)), lut_bounds=bounds,
            lut_enables=per_word * (per_word > 1), phases=levels(phases) * (phases > 1),
            lut_release=bits, lut4_adders=8 + len(axes), lut4_counters=len(counters),
        ) + logic(
            "tap", ff_register=copies * (3 * address + 1 + register)
            + (copies * address if folds > 1 else 0) + ends.get("ff_register", 0),
            lut_shift=ends.get("lut_shift", 0), ff4_shift=ends.get("ff4_shift", 0),
            lut_address=copies * address, lut_one=copies, lut_offset=copies * choices,
            lut_fill=outs * width * filled,
            lut_banks=self.columns * width * sum(n - 1 for n in banks),
            ff_choice=5 * levels(self.banks) * sum(n > 1 for n in banks),
            lut_word=copies * word_bits, ff_flag=copies,
        )

    @property
    def last_registers(self) -> int:
        """Number of registers in a row at each output of the window.

        They include those of the memory, if there is no multiplexer after it.
        """
        if self.fill is not None or len(self._banks_read(0)) > 1:
            return 1
        width = self.word_lanes * self.input.tensor.bits
        if memory_style(width, max(self.depth, 2), self.style) == "distributed":
            return 3
        return 2 if buffer_registers(width, self.depth, self.style) == width else 1

    def _banks_read(self, tap: int) -> set[int]:
        """Banks of a copy of the buffer that are read; synthesis removes the others."""
        folds = range(tap, self.tap_folds * self.tap_lanes, self.tap_lanes)
        return {bank for taps in self.taps for k in folds if k < len(taps) for _, bank in taps[k]}

    @property
    def sites(self) -> int:
        """Number of sites that the buffer holds."""
        return self.capacity or self.least_capacity

    @property
    def depth(self) -> int:
        """Number of words in a bank."""
        return self.sites * self.words_per_pixel

    @property
    def position_bits(self) -> int:
        """Bits of a signed distance in the endless stream of sites."""
        return (self.walked.reach + self.sites).bit_length() + 1

    def compute(self, frames: np.ndarray) -> np.ndarray:
        """Golden model: the beats, ``(beats, tap_lanes, columns, word_lanes)``.

        Channels that fill up a word are 0.
        """
        frames = frames.reshape(-1, *self.spatial, self.input.tensor.channels).astype(np.int64)
        views = np.stack(self.window.views(frames, self.fill), axis=-2)
        for axis, (times, (before, after)) in enumerate(zip(self.repeat, self.crop), start=1):
            views = np.repeat(views, times, axis=axis)
            views = np.take(views, range(before, views.shape[axis] - after), axis=axis)
        if self.passes > 1:
            tiles = (-1, 1, self.tile * self.repeat[0], *views.shape[2:])
            views = np.repeat(views.reshape(len(views), *tiles), self.passes, axis=2)
        views = views.reshape(-1, self.columns, self.window.taps, self.input.tensor.channels)
        extra = self.tap_folds * self.tap_lanes - self.window.taps
        views = np.pad(views, ((0, 0), (0, 0), (0, extra), (0, 0)), constant_values=self.fill or 0)
        split = views.reshape(*views.shape[:3], -1, self.segment)
        words = math.ceil(self.segment / self.word_lanes)
        split = np.pad(split, ((0, 0),) * 4 + ((0, words * self.word_lanes - self.segment),))
        beats = split.reshape(
            len(views), self.columns, self.tap_folds, self.tap_lanes, self.groups,
            self.words_per_group, self.word_lanes,
        ).transpose(0, 4, 2, 5, 3, 1, 6)
        beats = np.repeat(beats[:, :, None], self.folds, axis=2)
        return beats.reshape(-1, self.tap_lanes, self.columns, self.word_lanes)

    def create(self) -> SlidingWindow:
        return SlidingWindow(self)

    def resized(self, capacity: int) -> SlidingWindowConfig:
        """The same window with another capacity."""
        return replace(self, capacity=capacity)


class SlidingWindow(wiring.Component):
    """Circular pixel buffer, read window by window.

    Parameters
    ----------
    config : :class:`SlidingWindowConfig`

    Members
    -------
    i : :py:`In(stream.Signature(input payload))`
    room : :py:`In(1, init=1)`
        The consumer has places for the results of the next fold.
    ready : :py:`Out(1)`
        A fold would start if there were room.
    start : :py:`Out(1)`
        A fold starts, and claims those places.
    o : :py:`Out(stream.Signature(payload, always_ready=True))`
        Beats, ``ArrayLayout(signed(bits), tap_lanes * columns * word_lanes)``.
    phase : :py:`Out(range(prod(repeat)))`, if that is more than 1
        In the cycle before each beat: the number of the window's repetition, row-major.
    inside : :py:`Out(tap_lanes)`, if ``show_inside``
        With each beat: whether each tap belongs to the kernel and lies in the frame.

    Timing
    ------
    A window starts two cycles after its last pixel was accepted, once the window before it has had
    its ``window_cycles`` and there is room.  Its first beat is at the output seven cycles later.
    A fold that has started is never stopped: a consumer that held up beats on their way would keep
    the gaps between them, and so be later than one that has room from the beginning.
    """

    def __init__(self, config: SlidingWindowConfig) -> None:
        self.config = config
        members: dict[str, wiring.Member] = {
            "i": wiring.In(config.input.signature),
            "room": wiring.In(1, init=1),
            "ready": wiring.Out(1),
            "start": wiring.Out(1),
            "o": wiring.Out(stream.Signature(config.payload, always_ready=True)),
        }
        if config.walked.phases > 1:
            members["phase"] = wiring.Out(range(config.walked.phases))
        if config.show_inside:
            members["inside"] = wiring.Out(config.tap_lanes)
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bits = config.position_bits
        width = config.word_lanes * config.input.tensor.bits
        memories = []
        for tap in range(config.tap_lanes):
            banks = [BufferMemory(width, config.depth, config.style) for _ in range(config.banks)]
            for k, bank in enumerate(banks):
                m.submodules[f"buffer_{tap}_{k}"] = bank
            memories.append(banks)
        # Whether a site is complete; the number of sites that are freed, minus one.
        complete, freed = Signal(), Signal(signed(bits), init=-1)
        self._write(m, memories, complete, freed)
        self._read(m, memories, complete, freed)
        return m

    def _write(
        self, m: Module, memories: list[list[BufferMemory]], complete: Signal, freed: Signal
    ) -> None:
        """Collect beats into words, and write the words into the circular buffer."""
        config = self.config
        stream = config.input
        per_word = config.word_lanes // stream.lanes
        per_segment = config.segment // stream.lanes
        # The sites of the input come one after the other until a site of the buffer is complete.
        input_sites = config.banks // stream.pixels
        # Places left after the next site; the sign says whether there is a place for it.
        left = Signal(
            signed(config.position_bits), init=config.sites + config.walked.state(0).free - 1
        )
        fire = Signal()
        # Segments, words and pixels of equal length share a counter.
        counts = {n: counter(n, name=name) for n, name in (
            (per_word, "slot"), (per_segment, "in_segment"), (stream.beats_per_site, "beat"))}
        in_word, in_segment, beat = (
            counts[n] for n in (per_word, per_segment, stream.beats_per_site))
        input_site = counter(input_sites, name="turn")
        words = [Signal(config.word_lanes * stream.tensor.bits, name=f"word_{k}", reset_less=True)
                 for k in range(stream.pixels)]
        address = counter(config.depth)
        enable, again = Signal(input_sites), Signal()
        input_end, segment_end = beat == stream.beats_per_site - 1, in_segment == per_segment - 1
        word_end = (in_word == per_word - 1) | segment_end
        site_end = input_end & (input_site == input_sites - 1)
        m.d.comb += [
            self.i.ready.eq(~left[-1]),
            fire.eq(self.i.valid & self.i.ready),
        ]
        m.d.sync += [
            enable.eq(Mux(fire & word_end, 1 << input_site, 0)),
            complete.eq(fire & site_end),
            left.eq(add_carry(left, freed, ~(fire & site_end))),
        ]
        with m.If(fire):
            ends = {per_word: word_end, per_segment: segment_end, stream.beats_per_site: input_end}
            m.d.sync += [count.eq(Mux(ends[n], 0, count + 1)) for n, count in counts.items()]
            if input_sites > 1:
                m.d.sync += again.eq(input_end & ~site_end)
                with m.If(input_end):
                    m.d.sync += input_site.eq(Mux(site_end, 0, input_site + 1))
            bits = stream.tensor.bits
            size = stream.lanes * bits
            for pixel, word in enumerate(words):
                part = Cat(self.i.p[lane * stream.pixels + pixel].as_unsigned()
                           for lane in range(stream.lanes))
                for k in range(per_word):
                    with m.If(in_word == k):
                        m.d.sync += word[k * size : (k + 1) * size].eq(part)
        with m.If(enable.any()):
            # The next pixels of a site are written to the same addresses, in other banks.
            m.d.sync += address.eq(
                Mux(again, address - (config.words_per_pixel - 1),
                    Mux(address == config.depth - 1, 0, address + 1))
            )
        for banks in memories:
            for k, memory in enumerate(banks):
                m.d.comb += [
                    memory.write_en.eq(enable[k // stream.pixels]),
                    memory.write_addr.eq(address),
                    memory.write_data.eq(words[k % stream.pixels]),
                ]

    def _read(
        self, m: Module, memories: list[list[BufferMemory]], complete: Signal, freed: Signal
    ) -> None:
        """Issue the steps of each window and send them through the address pipeline."""
        config = self.config
        step = _Steps(m, config)
        walk = Walk(m, config.walked, bits=config.position_bits, depth=config.depth,
                    words=config.words_per_pixel, advance=step.load)
        m.d.comb += [
            self.ready.eq(step.fold_first & ~(step.first & step.missing[-1])),
            self.start.eq(self.ready & self.room),
            step.go.eq(self.start | ~step.fold_first),
            step.load.eq(step.go & step.last),
        ]
        m.d.sync += step.missing.eq(
            add_carry(step.missing, Mux(step.load, walk.need, 0), complete)
        )
        with m.If(step.load):
            m.d.sync += [
                step.base.eq(walk.base),
                *(a.eq(b) for a, b in zip(step.inside, walk.inside, strict=True)),
            ]
        if config.walked.phases > 1:
            with m.If(step.load):
                m.d.sync += step.phase.eq(walk.phase)
            m.d.comb += self.phase.eq(delayed(m, step.phase, READ_LATENCY - 1, "phase"))
        # Stage 1: tap offsets; 2: sum; 3: wrap; 4: address; 5: data; 6: register; 7: output.
        active = [Signal(name=f"active_{k}") for k in range(1, 7)]
        final = [Signal(name=f"final_{k}") for k in range(1, 5)]
        release = [Signal.like(freed, name=f"release_{k}", reset_less=True) for k in range(1, 5)]
        m.d.sync += freed.eq(Mux(final[3], release[3], -1))
        words = [counter(config.words_per_pixel, name=f"word_{k}", reset_less=True)
                 for k in range(1, 4)]
        base = Signal.like(step.base, reset_less=True)
        m.d.sync += [
            active[0].eq(step.go & step.beat),
            final[0].eq(step.go & step.done),
            release[0].eq(walk.freed),
            words[0].eq(step.word),
            base.eq(step.base),
            self.o.valid.eq(active[5]),
        ]
        for stages in (active, final, release, words):
            m.d.sync += [b.eq(a) for a, b in pairwise(stages)]
        for tap, banks in enumerate(memories):
            # Per fold and visit what the columns read; nothing for a tap beyond the kernel's last.
            folds = range(tap, config.tap_folds * config.tap_lanes, config.tap_lanes)
            reads = [[taps[k] if k < len(taps) else [] for taps in config.taps] for k in folds]
            words_read = [
                self._read_bank(m, f"{tap}_{k}", memory, k, step, base, words[2], reads)
                for k, memory in enumerate(banks)
            ]
            self._choose(m, tap, step, reads, words_read)

    def _read_bank(
        self, m: Module, name: str, memory: BufferMemory, bank: int, step: _Steps, base: Signal,
        word: Signal, reads: _Reads,
    ) -> tuple[Value, Signal]:
        """Read a bank for whichever column needs it.

        Returns
        -------
        word : the word that is read
        inside : whether its tap lies in the frame
        """
        config = self.config
        offset = counter(config.depth, name=f"offset_{name}", reset_less=True)
        inside = [Signal(name=f"inside_{name}_{k}", reset_less=True) for k in range(1, 7)]
        address = counter(config.depth, name=f"address_{name}", reset_less=True)
        m.d.comb += [
            memory.read_addr.eq(address), memory.read_en.eq(1), memory.load.eq(1),
        ]
        found = set()
        for columns in step.each(m, reads):
            tap = next((tap for tap, k in columns if k == bank), None)
            away = sum(int(axis.taps[t]) * axis.unit
                       for t, axis in zip(tap or (), config.walked.axes))
            found.add(away * config.words_per_pixel % config.depth)
            flags = [step.inside[d][t] for d, t in enumerate(tap)] if tap else [Const(0)]
            m.d.sync += [
                offset.eq(away * config.words_per_pixel % config.depth),
                inside[0].eq(Cat(flags).all()),
            ]
        pixel = (delayed(m, base, 2, f"pixel_{name}") if found == {0}
                 else self._moved(m, name, base, offset))
        m.d.sync += address.eq(pixel + word)
        m.d.sync += [b.eq(a) for a, b in pairwise(inside)]
        return memory.read_data, inside[5]

    def _moved(self, m: Module, name: str, base: Signal, offset: Signal) -> Signal:
        """An address plus an offset, modulo the depth of the buffer, two cycles later."""
        depth = self.config.depth
        total = Signal(range(2 * depth), name=f"total_{name}", reset_less=True)
        wrapped = Signal(signed(len(total) + 1), name=f"wrapped_{name}")
        moved = counter(depth, name=f"pixel_{name}", reset_less=True)
        m.d.comb += wrapped.eq(total - depth)
        m.d.sync += [total.eq(base + offset), moved.eq(Mux(wrapped[-1], total, wrapped))]
        return moved

    def _choose(
        self, m: Module, tap: int, step: _Steps, reads: _Reads, words: list[tuple[Value, Signal]],
    ) -> None:
        """Send each column the word of its bank, or the fill value."""
        config = self.config
        # The bank of the first column, in the cycle before the beat.
        first = counter(config.banks, name=f"first_{tap}", reset_less=True)
        if config.banks > 1:
            for columns in step.each(m, reads):
                m.d.sync += first.eq(columns[0][1] if columns else 0)
            first = delayed(m, first, 5, f"first_{tap}")
        for column in range(config.columns):
            banks = sorted({read[column][1] for visits in reads for read in visits if read})
            out = Signal(len(words[0][0]), name=f"out_{tap}_{column}", reset_less=True)
            flag = Signal(name=f"flag_{tap}_{column}", reset_less=True)
            start = column * config.window.stride[-1]
            with m.Switch(first):
                for k, bank in enumerate(banks):
                    word, inside = words[bank]
                    if config.fill is not None:
                        fill = Const(config.fill, signed(config.input.tensor.bits))
                        word = Mux(inside, word, Cat(fill for _ in range(config.word_lanes)))
                    last = k == len(banks) - 1
                    with m.Default() if last else m.Case((bank - start) % config.banks):
                        m.d.sync += [out.eq(word), flag.eq(inside)]
            if config.show_inside:
                m.d.comb += self.inside[tap].eq(flag)
            begin = (tap * config.columns + column) * config.word_lanes
            m.d.comb += Cat(self.o.p[begin + k] for k in range(config.word_lanes)).eq(out)


_Reads = list[list[list[tuple[tuple[int, ...], int]]]]
"""Per fold of taps and visit of a site, for each column: a tap of the course, and its bank."""


class _Steps:
    """State of the window being read: its address, and the counters of its steps."""

    def __init__(self, m: Module, config: SlidingWindowConfig) -> None:
        self.go, self.load = Signal(), Signal()
        begin = config.walked.state(0)
        # Pixels that have come, minus those that the window needs: negative if some are missing.
        self.missing = Signal(signed(config.position_bits), init=-begin.need)
        self.base = counter(
            config.depth, init=begin.base * config.words_per_pixel % config.depth
        )
        self.phase = counter(config.walked.phases, init=begin.phase)
        self.inside = [Signal(k, name=f"inside_{d}", init=flags)
                       for d, (k, flags) in enumerate(
                           zip(config.walked.window.kernel, begin.inside, strict=True))]
        # Outermost first: group, fold, tap fold, word; then the rest of the fold.
        counts = (config.groups, config.folds, config.tap_folds, config.words_per_group)
        self.visits = config.visits
        group, fold, tap, word = (
            counter(n, name=name)
            for n, name in zip(counts, ("group", "fold", "tap", "word"), strict=True)
        )
        base = counter(config.words_per_pixel, name="group_word")
        rest = counter(config.fold_cycles - config.steps + 1)
        idle = config.fold_cycles - config.steps
        self.tap = tap
        self.word = counter(config.words_per_pixel)
        self.beat = rest == 0
        # First cycle of the window, and of the fold.
        self.first, self.fold_first = Signal(init=1), Signal(init=1)
        # Last beat of the window, and its last cycle, which is later if a fold ends with a rest.
        self.done, self.last = Signal(), Signal()
        ends = [counter == n - 1 for counter, n in
                zip((group, fold, tap, word), counts, strict=True)]
        fold_end = Signal()
        m.d.comb += self.word.eq(base + word)
        if idle:
            m.d.comb += fold_end.eq(rest == idle)
        else:
            m.d.comb += fold_end.eq(ends[2] & ends[3])
        m.d.comb += [
            self.done.eq(self.beat & Cat(ends).all()),
            self.last.eq(fold_end & ends[0] & ends[1]),
        ]
        with m.If(self.go):
            m.d.sync += [self.first.eq(self.last), self.fold_first.eq(fold_end)]
            with m.If(rest == 0):
                m.d.sync += word.eq(Mux(ends[3], 0, word + 1))
                with m.If(ends[3]):
                    m.d.sync += tap.eq(Mux(ends[2], 0, tap + 1))
            if idle:
                with m.If((rest != 0) | (ends[2] & ends[3])):
                    m.d.sync += rest.eq(Mux(fold_end, 0, rest + 1))
            with m.If(fold_end):
                m.d.sync += fold.eq(Mux(ends[1], 0, fold + 1))
                with m.If(ends[1]):
                    m.d.sync += [
                        group.eq(Mux(ends[0], 0, group + 1)),
                        base.eq(Mux(ends[0], 0, base + config.words_per_group)),
                    ]

    def each(self, m: Module, reads: _Reads) -> Iterator[list[tuple[tuple[int, ...], int]]]:
        """Iterate over folds of taps and visits, each inside the ``Case`` that selects it.

        Yields
        ------
        what each column reads in that case
        """
        with m.Switch(self.tap):
            for k, visits in enumerate(reads):
                with m.Default() if k == len(reads) - 1 else m.Case(k):
                    if self.visits == 1:
                        yield visits[0]
                        continue
                    with m.Switch(self.phase):
                        for visit, columns in enumerate(visits):
                            with m.Default() if visit == self.visits - 1 else m.Case(visit):
                                yield columns


def _distinct(values, bits: int) -> int:
    """Number of different bit columns in a choice among constants, without constant columns."""
    columns = (np.array(sorted(set(values)))[:, None] >> np.arange(bits)) & 1
    columns ^= columns[:1]
    return len({column.tobytes() for column in columns.T if column.any()})
