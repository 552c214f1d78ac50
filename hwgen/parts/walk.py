"""The order in which windows are read, and the counters that follow it.

What a window needs, frees and reads is known when the design is made.  :class:`Course` answers it
for every window of a frame, for the timing model.  :class:`Walk` is its hardware: a pipeline that
runs a few windows ahead, so that between two registers there is only a choice among constants or
an adder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed

from hwgen.device.arithmetic import counter
from hwgen.errors import HwgenError
from hwgen.ir import Pads, Window

__all__ = ["AHEAD", "Axis", "Course", "State", "Walk"]

AHEAD = 3
"""Number of windows by which the counters of the walk are ahead of the window being read."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One spatial dimension: for each position of the window, where it starts, needs and frees.

    A position is the number of a window along the dimension; a coordinate, that of a pixel.  A
    window needs the sum over the axes of ``need``, starts at the sum of ``origin * unit``, and
    frees the sum of ``free`` up to the first axis that is not ``open``.

    Members
    -------
    size : pixels of the frame along this dimension
    unit : pixels of the stream from a coordinate to the next
    taps : coordinate of each tap within a window
    origin : per position, coordinate of the first tap
    need : per position, pixels that must have come
    free : per position, pixels before the first that this or a later position reads
    open : per position, whether no later position reads its first row; the pixels of that row
        are then freed one by one, as windows pass them
    repeat, crop : see :class:`Course`
    tile, passes : the positions of a tile are walked ``passes`` times before the next tile
    """

    size: int
    unit: int
    taps: np.ndarray
    origin: np.ndarray
    need: np.ndarray
    free: np.ndarray
    open: np.ndarray
    repeat: int
    crop: tuple[int, int]
    tile: int = 1
    passes: int = 1

    @property
    def positions(self) -> int:
        """Number of positions of the window."""
        return len(self.origin)

    @cached_property
    def index(self) -> np.ndarray:
        """Per output, the position of the window."""
        return self._order[1] // self.repeat

    @cached_property
    def again(self) -> np.ndarray:
        """Per output, the repetition."""
        return self._order[1] % self.repeat

    @cached_property
    def pass_index(self) -> np.ndarray:
        """Per output, the pass over the tile."""
        return self._order[0]

    @cached_property
    def final(self) -> np.ndarray:
        """Per output, whether its position does not come again."""
        if self.passes > 1:
            return (self.pass_index == self.passes - 1) & (self.again == self.repeat - 1)
        return np.append(np.diff(self.index) > 0, True)

    @cached_property
    def first(self) -> np.ndarray:
        """Per position, the first one of its tile."""
        return np.arange(self.positions) // self.tile * self.tile

    @cached_property
    def held(self) -> np.ndarray:
        """Per output, the position from which on pixels are kept."""
        return np.where(self.pass_index == self.passes - 1, self.index, self.first[self.index])

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Per output, the pass, and the position counted in repetitions."""
        positions = np.arange(self.crop[0], self.positions * self.repeat - self.crop[1])
        if self.passes == 1:
            return np.zeros_like(positions), positions
        tiles = positions.reshape(self.positions // self.tile, 1, self.tile * self.repeat)
        passes = np.arange(self.passes)[None, :, None]
        passes, positions = np.broadcast_arrays(passes, tiles)
        return passes.ravel(), positions.ravel()

    def inside(self, tap: int) -> np.ndarray:
        """Per position, whether a tap lies in the frame."""
        coordinate = self.origin + self.taps[tap]
        return (coordinate >= 0) & (coordinate < self.size)


@cache
def _reach(course: Course) -> int:
    # Cached because a design has many windows of few kinds.
    need, free = (np.append(bound, bound[0] + course.pixels) for bound in course.bounds())
    moves = max(abs(np.diff(need)).max(), np.diff(free).max())
    return int(moves + max((free - need).max(), 0))


@dataclass(frozen=True)
class State:
    """One window of an endless sequence of frames.

    Members
    -------
    frame : number of frames before it
    index, again, pass_index : per axis, position, repetition and pass
    held : per axis, the position from which on pixels are kept
    phase : number of the repetition over all axes, row-major
    need : pixels of the stream that must have come
    free : pixels at the beginning of the stream that neither it nor a later window reads
    base : pixel of the first tap, as if the frame had no edges
    inside : per axis, a bit for each tap, set if that tap lies in the frame
    """

    frame: int
    index: tuple[int, ...]
    again: tuple[int, ...]
    pass_index: tuple[int, ...]
    held: tuple[int, ...]
    phase: int
    need: int
    free: int
    base: int
    inside: tuple[int, ...]


@dataclass(frozen=True)
class Course:
    """The windows of a frame, in row-major order.

    Parameters
    ----------
    spatial : sequence of :class:`int`
        Extents of the frame.
    window : :class:`Window`
    repeat : sequence of :class:`int`, one per dimension
        Number of times that each window comes along each dimension.
    crop : sequence of pairs of :class:`int`, one per dimension
        Repetitions left out of the first window and of the last.
    replicate : :class:`bool`
        Whether a window outside the frame reads the nearest pixel; for windows of one tap.
    tile, passes : :class:`int`
        The windows of ``tile`` positions along the outermost dimension are walked ``passes``
        times, then those of the next ``tile`` positions.

    Raises
    ------
    :exc:`HwgenError`
        If parameters do not fit each other.
    """

    spatial: tuple[int, ...]
    window: Window
    repeat: tuple[int, ...]
    crop: Pads
    replicate: bool = False
    tile: int = 1
    passes: int = 1

    def __post_init__(self) -> None:
        positions = self.window.output(self.spatial)
        if not len(self.repeat) == len(self.crop) == len(positions):
            raise HwgenError(
                f"Repeat and crop must have {len(positions)} entries, "
                f"not {self.repeat!r} and {self.crop!r}"
            )
        if any(r < 1 for r in self.repeat):
            raise HwgenError(f"Repeat must be positive, not {self.repeat!r}")
        for n, r, cut in zip(positions, self.repeat, self.crop, strict=True):
            if not all(0 <= c < r for c in cut) or n * r <= sum(cut):
                raise HwgenError(
                    f"Crop must be less than the repetitions {self.repeat!r} and leave some, "
                    f"not {self.crop!r}"
                )
        if self.passes < 1 or self.tile < 1 or positions[0] % self.tile:
            raise HwgenError(
                f"A tile must divide the {positions[0]} rows of windows and be walked at least "
                f"once, not {self.tile!r} and {self.passes!r}"
            )
        if self.passes > 1 and any(self.crop[0]):
            raise HwgenError(f"Tiles are not cropped, not {self.crop[0]!r}")
        if self.replicate and self.window.taps > 1:
            raise HwgenError(
                f"Edges are repeated for windows of one tap, not {self.window.kernel!r}"
            )

    @cached_property
    def output(self) -> tuple[int, ...]:
        """Extents of the output; every pass counts."""
        outer, *inner = (n * r - sum(cut) for n, r, cut in zip(
            self.window.output(self.spatial), self.repeat, self.crop, strict=True
        ))
        return (outer * self.passes, *inner)

    @property
    def windows(self) -> int:
        """Number of windows per frame."""
        return math.prod(self.output)

    @property
    def pixels(self) -> int:
        """Number of pixels per frame."""
        return math.prod(self.spatial)

    @property
    def phases(self) -> int:
        """Number of repetitions of a window, over all dimensions."""
        return math.prod(self.repeat)

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """The spatial dimensions, outermost first."""
        unit, axes = 1, []
        positions = self.window.output(self.spatial)
        for d in reversed(range(len(self.spatial))):
            size, extent = self.spatial[d], self.window.extent[d]
            origin = np.arange(positions[d]) * self.window.stride[d] - self.window.pads[d][0]
            if self.replicate:
                origin = np.clip(origin, 0, size - 1)
            # At an edge that is repeated, a position shares its row with the next one.
            moves = np.diff(origin) > 0
            moves = np.append(moves, moves[-1:] if len(moves) else True)
            last = np.clip(origin + extent, 1, size)
            inner = d == len(self.spatial) - 1
            axes.append(Axis(
                size=size,
                unit=unit,
                taps=np.arange(self.window.kernel[d]) * self.window.dilation[d],
                origin=origin,
                # Everything up to the last pixel of a box: whole rows, and part of the last one.
                need=last if inner else (last - 1) * unit,
                # A position beyond the frame frees all of the frame and no more.  So the free
                # pixels never become fewer, and a frame's first window frees all frames before.
                free=np.clip(origin, 0, size) * unit,
                open=(origin >= 0) & (origin < size) & moves,
                repeat=self.repeat[d],
                crop=self.crop[d],
                tile=1 if d else self.tile,
                passes=1 if d else self.passes,
            ))
            unit *= size
        return tuple(reversed(axes))

    @cached_property
    def period(self) -> Course:
        """The shortest course that, when repeated for ever, equals this one.

        Along a *plain* dimension every pixel is a window of its own.  If the outermost dimension is
        plain, a frame is a sequence of its inner frames; if the two outermost are plain, one of
        them is enough.
        """
        window, tile = self.window, self.tile if self.passes > 1 else 1
        sides = list(zip(self.spatial, window.kernel, window.stride, window.pads, window.dilation,
                         self.repeat, self.crop, strict=True))

        def plain(_: int, kernel: int, stride: int, pads: tuple[int, int], *rest: Any) -> bool:
            return kernel == stride == rest[1] == 1 and not any(pads)

        while plain(*sides[0]):
            sides[0] = (tile, *sides[0][1:])
            if len(sides) == 1 or not (self.passes == 1 or plain(*sides[1])):
                break
            if self.passes > 1:
                tile *= sides[1][0]
            del sides[0]
        spatial, kernel, stride, pads, dilation, repeat, crop = zip(*sides, strict=True)
        return Course(spatial, Window(kernel, stride, pads, dilation), repeat, crop, self.replicate,
                      tile, self.passes)

    @property
    def reach(self) -> int:
        """Most pixels by which two counts of pixels differ, not counting those in the buffer.

        The needed and the free pixels move on from a window to the next, and a window beyond the
        frame needs fewer pixels than are free.
        """
        return _reach(self)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """``need`` and ``free`` of each window of a frame; see :class:`State`."""
        need = np.zeros(self.output, np.int64)
        free = np.zeros(self.output, np.int64)
        open_ = np.ones(self.output, bool)
        for d, axis in enumerate(self.axes):
            shape = [1] * len(self.axes)
            shape[d] = -1
            need += axis.need[axis.index].reshape(shape)
            free += np.where(open_, axis.free[axis.held].reshape(shape), 0)
            # A row that will be read again, or that lies outside, keeps all of its pixels.
            open_ = open_ & (axis.open[axis.index] & axis.final).reshape(shape)
        return need.ravel(), free.ravel()

    @cached_property
    def least_capacity(self) -> int:
        """Fewest pixels that a circular buffer must hold."""
        need, free = self.bounds()
        return max(int((need - free).max()), 1)

    def state(self, n: int) -> State:
        """Window ``n`` of an endless sequence of frames."""
        frame, window = divmod(n, self.windows)
        need = free = base = frame * self.pixels
        index, again, pass_index, held, inside, phase, open_ = [], [], [], [], [], 0, True
        for axis, p in zip(self.axes, np.unravel_index(window, self.output), strict=True):
            i, k = int(axis.index[p]), int(axis.again[p])
            need += int(axis.need[i])
            held.append(int(axis.held[p]))
            free += int(axis.free[held[-1]]) if open_ else 0
            base += int(axis.origin[i]) * axis.unit
            open_ = open_ and bool(axis.open[i] and axis.final[p])
            inside.append(sum(int(axis.inside(t)[i]) << t for t in range(len(axis.taps))))
            index.append(i)
            again.append(k)
            pass_index.append(int(axis.pass_index[p]))
            phase = phase * axis.repeat + k
        return State(frame, tuple(index), tuple(again), tuple(pass_index), tuple(held), phase,
                     need, free, base, tuple(inside))


class Walk:
    """Pipeline of counters that walks over all windows, some windows ahead of the one being read.

    It moves on by one window at a time.

    Parameters
    ----------
    m : :class:`Module`
    course : :class:`Course`
    bits : :class:`int`
        Width of the signed numbers in which pixels are counted, modulo ``2**bits``.
    depth, words : :class:`int`
        Words of the buffer, and of a pixel.
    advance : :class:`Signal`
        Whether the next window is going to be read.

    Members
    -------
    need : pixels that the window being read needs, minus those that the next one needs
    base : address of the first tap of the next window
    inside : per axis, whether each tap of the next window lies in the frame
    phase : which repetition the next window is, over all dimensions
    freed : pixels that are no longer needed once the window has been read, minus one
    """

    def __init__(
        self, m: Module, course: Course, *, bits: int, depth: int, words: int, advance: Signal
    ) -> None:
        self._m, self._advance = m, advance
        self._axes = list(enumerate(course.axes))
        pixels = course.pixels
        states = [course.state(n) for n in range(AHEAD + 1)]
        bases = [state.base * words % depth for state in states]
        self._count(states[AHEAD])

        need = self._change(
            "need_change", [-axis.need for _, axis in self._axes], -pixels, 1 << bits
        )
        (*_, self.need) = self._later(
            need.as_signed(), "need", [a.need - b.need for a, b in pairwise(states)]
        )
        self.base = counter(depth, name="next_base", init=bases[1])
        if course.windows == pixels == 1:
            # Each window is one pixel further, and the buffer holds a whole number of pixels.
            after = Mux(self.base == depth - words, 0, self.base + words)
        else:
            step = self._change(
                "base_change", [axis.origin * axis.unit * words for _, axis in self._axes],
                pixels * words, depth,
            )
            _, step, _ = self._later(
                step, "base_step", [(b - a) % depth for a, b in pairwise(bases)]
            )
            total = Signal(range(2 * depth), name="base_total")
            wrapped = Signal(signed(len(total) + 1), name="base_wrapped")
            m.d.comb += [total.eq(self.base + step), wrapped.eq(total - depth)]
            after = Mux(wrapped[-1], total, wrapped)
        with m.If(advance):
            m.d.sync += self.base.eq(after)
        self.inside = []
        for d, axis in self._axes:
            flags = Signal(len(axis.taps), name=f"flags_{d}")
            for tap in range(len(axis.taps)):
                bounds = _bounds(self._index[d], axis.inside(tap))
                m.d.comb += flags[tap].eq(Cat(bounds).all() if bounds else 1)
            _, later, _ = self._later(flags, f"inside_{d}", [s.inside[d] for s in states[:-1]])
            self.inside.append(later)
        if course.phases > 1:
            phase = Signal(range(course.phases), name="phase_ahead")
            m.d.comb += phase.eq(self._phase())
            _, self.phase, _ = self._later(phase, "phase", [s.phase for s in states[:-1]])

        # An axis counts only if the first rows of the axes outside it are not read again.
        total, open_ = Const(0), Const(1, 1)
        for d, axis in self._axes:
            term = self._free(d, axis, pixels if d == 0 else 0, bits, states[AHEAD])
            total = total + Mux(open_, term, 0)
            open_ = open_ & self._final[d] & self._last_pass[d]
            for bound in _bounds(self._index[d], axis.open):
                open_ = open_ & bound
        free, before, _ = self._later(
            total[:bits], "free", [s.free % (1 << bits) for s in states[:-1]]
        )
        self.freed = Signal(signed(bits), name="freed", init=states[1].free - states[0].free - 1)
        with m.If(advance):
            m.d.sync += self.freed.eq(free + ~before)

    def _count(self, begin: State) -> None:
        """Add the counters of positions, repetitions and passes of each axis."""
        m, axes = self._m, self._axes
        self._index = [counter(axis.positions, name=f"index_{d}", init=begin.index[d])
                       for d, axis in axes]
        # A repetition counts as many phases as the inner axes have, so that the counters add up
        # to the phase.
        repeats = [a.repeat for _, a in axes]
        self._units = [math.prod(repeats[d + 1 :]) for d, _ in axes]
        self._again = [counter((a.repeat - 1) * unit + 1, name=f"again_{d}", init=k * unit)
                       for (d, a), unit, k in zip(axes, self._units, begin.again, strict=True)]
        self._final: list[Value] = [
            again == (a.repeat - 1) * unit
            for (_, a), unit, again in zip(axes, self._units, self._again, strict=True)
        ]
        # The last pass over a tile, and the last position of a tile.
        self._last_pass: list[Value] = []
        self._tile_end: list[Value] = []
        for d, axis in axes:
            last_pass, tile_end = Const(1, 1), Const(1, 1)
            if axis.passes > 1:
                pass_index = counter(axis.passes, name=f"turn_{d}", init=begin.pass_index[d])
                last_pass = pass_index == axis.passes - 1
                tile_end = Signal(name=f"tile_end_{d}")
                ends = range(axis.tile - 1, axis.positions, axis.tile)
                m.d.comb += tile_end.eq(self._index[d].matches(*ends))
                self._pass_index = pass_index
            self._last_pass.append(last_pass)
            self._tile_end.append(tile_end)
        self._moves = []
        moves = self._advance
        for d, axis in reversed(axes):
            index, again, unit = self._index[d], self._again[d], self._units[d]
            last = index == axis.positions - 1
            before, after = axis.crop
            if after:
                self._final[d] |= last & (again == (axis.repeat - 1 - after) * unit)
            final = self._final[d]
            self._moves.insert(0, moves)
            with m.If(moves):
                begin_again = Mux(last, before * unit, 0) if before else 0
                m.d.sync += again.eq(Mux(final, begin_again, again + unit))
                with m.If(final):
                    m.d.sync += index.eq(Mux(last, 0, index + 1))
                    if axis.passes > 1:
                        with m.If(self._tile_end[d]):
                            after_pass = Mux(self._last_pass[d], 0, self._pass_index + 1)
                            m.d.sync += self._pass_index.eq(after_pass)
                            with m.If(~self._last_pass[d]):
                                m.d.sync += index.eq(index - (axis.tile - 1))
            # The next outer axis moves when this one wraps.
            carry = Signal(name=f"carry_{d}")
            m.d.comb += carry.eq(moves & final & last & self._last_pass[d])
            moves = carry

    def _phase(self) -> Value:
        """Number of the repetition over all dimensions."""
        phase: Value = Const(0)
        for again, unit in zip(reversed(self._again), reversed(self._units), strict=True):
            # What is less than a power of two needs no adder.
            phase = again | phase if unit & (unit - 1) == 0 else again + phase
        return phase

    def _later(self, value: Value, name: str, init: list[int]) -> list[Signal]:
        """The value delayed by one window, by two, …; ``init[n]`` is its value for window ``n``."""
        out = []
        for k, begin in enumerate(reversed(init)):
            later = Signal(value.shape(), name=f"{name}_{k}", init=begin)
            with self._m.If(self._advance):
                self._m.d.sync += later.eq(value)
            out.append(later)
            value = later
        return out

    def _change(self, name: str, values: list[np.ndarray], jump: int, modulus: int) -> Signal:
        """Change of a sum over the axes from a window to the next: in each case a constant.

        Parameters
        ----------
        values : per axis, the term of each position
        jump : what is added for every frame
        modulus : the change is given modulo this number
        """
        m = self._m
        out = Signal(range(max(modulus, 2)), name=name)

        def choose(d: int, before: int) -> None:
            # The inner axes all wrap, which changes the sum by `before`.
            if d < 0:
                m.d.comb += out.eq((before + jump) % modulus)
                return
            usual, others = _by_value([int(v) for v in np.diff(values[d])])
            with m.If(~self._final[d]):
                m.d.comb += out.eq(before % modulus)
            axis = self._axes[d][1]
            if axis.passes > 1:
                ends = range(axis.tile - 1, axis.positions, axis.tile)
                back, rest = _by_value([int(values[d][axis.first[k]] - values[d][k]) for k in ends])
                with m.Elif(self._tile_end[d] & ~self._last_pass[d]), m.Switch(self._index[d]):
                    for step, tiles in rest.items():
                        with m.Case(*(ends[n] for n in tiles)):
                            m.d.comb += out.eq((before + step) % modulus)
                    with m.Default():
                        m.d.comb += out.eq((before + back) % modulus)
            with m.Else():
                with m.Switch(self._index[d]):
                    for step, positions in others.items():
                        with m.Case(*positions):
                            m.d.comb += out.eq((before + step) % modulus)
                    with m.Case(len(values[d]) - 1):
                        choose(d - 1, before + int(values[d][0] - values[d][-1]))
                    with m.Default():
                        m.d.comb += out.eq((before + usual) % modulus)

        choose(len(values) - 1, 0)
        return out

    def _free(self, d: int, axis: Axis, jump: int, bits: int, begin: State) -> Signal:
        """A register that holds ``axis.free`` of the position, plus ``jump`` for every wrap."""
        m = self._m
        values = [int(v) for v in axis.free]
        usual, others = _by_value([b - a for a, b in pairwise([*values, values[0] + jump])])
        here = values[begin.held[d]] + jump * begin.frame
        register = Signal(bits, name=f"free_{d}", init=here % (1 << bits))
        step = Signal(signed(bits), name=f"free_step_{d}")
        with m.Switch(self._index[d]):
            for value, positions in others.items():
                with m.Case(*positions):
                    m.d.comb += step.eq(value)
            with m.Default():
                m.d.comb += step.eq(usual)
        # Until the last pass over a tile, the pixels of its first position are kept.
        with m.If(self._moves[d] & self._final[d] & self._last_pass[d]):
            m.d.sync += register.eq(register + step)
        return register


def _bounds(index: Signal, good: np.ndarray) -> list[Value]:
    """Conditions for an index to be in a run of good ones, without those that always hold."""
    positions = np.flatnonzero(good)
    if not len(positions):
        return [Const(0, 1)]
    low, high = int(positions[0]), int(positions[-1])
    bounds = [index >= low] if low else []
    return [*bounds, index <= high] if high < len(good) - 1 else bounds


def _by_value(steps: list[int]) -> tuple[int, dict[int, list[int]]]:
    """The most frequent of some values, and the positions of each of the others."""
    usual = max(set(steps), key=steps.count) if steps else 0
    others: dict[int, list[int]] = {}
    for position, step in enumerate(steps):
        if step != usual:
            others.setdefault(step, []).append(position)
    return usual, others


def changes(values: list[np.ndarray], jump: int, modulus: int) -> list[int]:
    """The constants among which :class:`Walk` chooses the change of an address."""
    out, before = [0], 0
    for d in reversed(range(len(values))):
        out += [int(before + step) % modulus for step in set(np.diff(values[d]).tolist())]
        before += int(values[d][0] - values[d][-1])
    return [*out, (before + jump) % modulus]
