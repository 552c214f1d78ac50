"""SlidingWindow: beats, flags and times against plain loops, capacities, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.ir import TensorType, Window
from hwgen.parts.queue import QUEUE_LATENCY, Queue
from hwgen.parts.stream import StreamType, pack_rows
from hwgen.parts.walk import Course
from hwgen.parts.window import READ_LATENCY, SlidingWindowConfig, WindowSchedule
from hwgen.sim.amaranth import Beats, run_streams
from tests.blocks.checks import FRAMES, STALLS, affordable_taps, divisors, quantisations, windows
from tests.profiles import examples
from tests.typed import ports


@st.composite
def repetitions(
    draw: st.DrawFn, places: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Repetitions of windows and how many of them are left out at the ends."""
    repeat, crop = [], []
    for n in places:
        r = draw(st.sampled_from([1, 1, 1, 2, 3]))
        before = draw(st.integers(0, r - 1))
        repeat.append(r)
        crop.append((before, draw(st.integers(0, min(r - 1, n * r - before - 1)))))
    return tuple(repeat), tuple(crop)


@st.composite
def window_configs(draw: st.DrawFn) -> SlidingWindowConfig:
    """Any window, repetition, order of words and folding."""
    dims = draw(st.integers(0, 3))
    largest, pixels = {0: (1, 1), 1: (6, 24), 2: (6, 36), 3: (3, 30)}[dims]
    edge = draw(st.sampled_from([False, False, True]))
    window, spatial = draw(windows(dims, 1 if edge else largest, 36, pixels))
    places = window.output(spatial) if spatial else (1,)
    repeat, crop = draw(repetitions(window.output(spatial)))
    passes = draw(st.sampled_from([1, 1, 2, 3]))
    if passes > 1:
        crop = ((0, 0), *crop[1:]) if crop else ()
    lanes, beats = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    segments = draw(st.integers(1, 2))
    segment = lanes * beats
    word_lanes = lanes * draw(st.integers(1, beats))
    words = segments * -(-segment // word_lanes)
    tensor = TensorType((*spatial, segments * segment), draw(quantisations()))
    parallel = SlidingWindowConfig(
        input=StreamType(tensor, lanes), window=window,
        fill=None if edge else draw(st.integers(-8, 7)), repeat=repeat, crop=crop,
        show_inside=draw(st.booleans()), word_lanes=word_lanes, segment=segment,
        groups=draw(divisors(words)), tap_lanes=window.taps, folds=draw(st.integers(1, 3)),
        tile=draw(divisors(places[0])), passes=passes,
        fold_cycles=draw(st.sampled_from([0, 0, 3, 7])),
    )
    # The cycles of a fold were raised to its steps with all taps in parallel.
    return replace(parallel, tap_lanes=draw(affordable_taps(parallel, window.taps)))


@st.composite
def several_columns(draw: st.DrawFn) -> SlidingWindowConfig:
    """Windows side by side, and pixels that come side by side, in all relations of the two."""
    columns, pixels = draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (1, 4), (3, 2), (4, 2)]))
    stride, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    dilation = draw(st.integers(1, 2))
    extent = (kernel - 1) * dilation + 1
    before = draw(st.integers(0, extent - 1))
    # As many windows as strides in the frame, so that both end together.
    after = extent - before - 1 - draw(st.integers(0, stride - 1))
    bank = int(np.lcm(columns * stride, pixels))
    width = bank * draw(st.integers(1, max(1, 16 // bank)))
    rows, height = draw(st.sampled_from([(1, 1), (1, 3), (2, 3), (3, 3)]))
    window = Window((rows, kernel), (draw(st.integers(1, 2)), stride),
                    ((rows // 2, rows // 2), (before, after)), (1, dilation))
    lanes, beats, segments = draw(st.tuples(*[st.integers(1, 2)] * 3))
    tensor = TensorType((height, width, segments * lanes * beats), draw(quantisations()))
    return SlidingWindowConfig(
        input=StreamType(tensor, lanes, pixels), window=window, columns=columns,
        fill=draw(st.integers(-8, 7)), word_lanes=lanes * draw(st.integers(1, beats)),
        segment=lanes * beats, groups=draw(st.sampled_from([1, segments])),
        tap_lanes=draw(st.integers(1, window.taps)), folds=draw(st.integers(1, 2)),
        tile=draw(divisors(window.output((height, width))[0])),
        passes=draw(st.sampled_from([1, 1, 2])), fold_cycles=draw(st.sampled_from([0, 0, 5])),
    )


class Windows(wiring.Component):
    """A window and a queue for its beats, with places for as many folds as may be on their way.

    Behind its words, a beat has a bit for each tap that lies in the frame, and then the phase.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, config: SlidingWindowConfig) -> None:
        self.config = config
        self.bits = (config.payload.size + config.show_inside * config.tap_lanes
                     + (config.course.phases - 1).bit_length())
        super().__init__({
            "i": wiring.In(config.input.signature),
            "o": wiring.Out(stream.Signature(self.bits)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.window = window = ports(config.create())
        cycles = READ_LATENCY + QUEUE_LATENCY + config.steps
        depth = config.steps * (-(-cycles // config.fold_cycles) + 1)
        m.submodules.queue = queue = ports(Queue(self.bits, depth, (config.steps,)))
        wiring.connect(m, wiring.flipped(self.i), window.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        parts = [window.o.p.as_value(), *([window.inside] if config.show_inside else [])]
        if config.course.phases > 1:
            phase = Signal.like(window.phase)
            m.d.sync += phase.eq(window.phase)
            parts.append(phase)
        m.d.comb += [queue.i.valid.eq(window.o.valid), queue.i.p.eq(Cat(parts))]
        m.d.comb += [window.room.eq(queue.room), queue.reserve.eq(window.start)]
        return m


def run_window(
    config: SlidingWindowConfig, frames: np.ndarray, *, stall: float | tuple[float, float] = 0.0,
    arrivals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, Beats]:
    """Beats ``(beats, tap_lanes, columns, word_lanes)``, flags and phases as a number, the run."""
    beats = len(frames) * config.windows * config.groups * config.folds * config.steps
    run = run_streams(
        Windows(config), [("i", config.input.pack(frames))], [("o", beats)], stall=stall,
        arrivals=None if arrivals is None else [arrivals],
    )
    bits = config.input.tensor.bits
    lanes = config.payload.length
    words = np.array([[(int(b) >> (bits * k)) & ((1 << bits) - 1) for k in range(lanes)]
                      for b in run.outputs["o"]])
    words -= (words >> (bits - 1)) << bits
    marks = np.array([int(b) >> config.payload.size for b in run.outputs["o"]])
    words = words.reshape(-1, config.tap_lanes, config.columns, config.word_lanes)
    return words, marks, run


def positions(config: SlidingWindowConfig) -> tuple[np.ndarray, np.ndarray]:
    """Per window of a frame and per tap, where it reads, as ``(windows, taps, dims)``; phases."""
    window = config.window
    extents = [n * r - sum(c) for n, r, c in zip(
        window.output(config.spatial), config.repeat, config.crop)]
    where, phases = [], []
    for place in product(*map(range, extents)):
        phase, first = 0, []
        for p, r, c, s, a in zip(place, config.repeat, config.crop, window.stride, window.pads):
            index, again = divmod(p + c[0], r)
            phase = phase * r + again
            first.append(index * s - a[0])
        where.append([[o + t * d for o, t, d in zip(first, tap, window.dilation)]
                      for tap in product(*map(range, window.kernel))])
        phases.append(phase)
    order = np.arange(len(where))
    if config.passes > 1:
        tile = len(where) // extents[0] * config.tile * config.repeat[0]
        order = order.reshape(-1, 1, tile).repeat(config.passes, axis=1).ravel()
    return np.array(where)[order], np.array(phases)[order]


def expected_marks(config: SlidingWindowConfig) -> np.ndarray:
    """Per beat of a frame, what :class:`Windows` has behind the words."""
    where, phases = positions(config)
    inside = np.full((len(where), config.tap_folds * config.tap_lanes), config.fill is None)
    real = ((where >= 0) & (where < config.spatial)).all(-1)
    inside[:, : config.window.taps] |= real
    flags = inside.reshape(len(where), config.tap_folds, 1, -1) @ (1 << np.arange(config.tap_lanes))
    width = config.tap_lanes if config.show_inside else 0
    marks = flags * config.show_inside + (phases[:, None, None] << width)
    shape = (len(where), config.groups * config.folds, config.tap_folds, config.words_per_group)
    return np.broadcast_to(marks[:, None], shape).ravel()


def known(config: SlidingWindowConfig) -> np.ndarray:
    """Which lanes of a word hold a channel, per beat of a group's taps; others hold anything."""
    per_segment = -(-config.segment // config.word_lanes)
    word = np.arange(config.words_per_pixel) % per_segment
    lane = word[:, None] * config.word_lanes + np.arange(config.word_lanes)
    real = (lane < config.segment).reshape(config.groups, 1, 1, -1, config.word_lanes)
    shape = (config.groups, config.folds, config.tap_folds, config.words_per_group)
    return np.broadcast_to(real, (*shape, config.word_lanes)).reshape(-1, 1, 1, config.word_lanes)


def random_frames(config: SlidingWindowConfig, seed: int) -> np.ndarray:
    q = config.input.tensor.quantisation
    random = np.random.default_rng(seed)
    return random.integers(q.low, q.high + 1, (FRAMES, *config.input.tensor.shape))


def same_beats(config: SlidingWindowConfig, seen: np.ndarray, frames: np.ndarray) -> bool:
    mask = np.tile(known(config), (FRAMES * config.windows, 1, 1, 1))
    return bool(((seen == config.compute(frames)) | ~mask).all())


@given(window_configs())
@examples(80)
def test_bounds_hold_for_every_pixel_that_is_read(config: SlidingWindowConfig) -> None:
    where, phases = positions(config)
    spatial = np.array(config.spatial)
    need, free = config.course.bounds()
    pixels = int(spatial.prod())
    if config.fill is None:
        where = np.clip(where, 0, spatial - 1)
    inside = ((where >= 0) & (where < spatial)).all(-1)
    flat = np.ravel_multi_index(tuple(np.moveaxis(np.clip(where, 0, spatial - 1), -1, 0)), spatial)
    assert (need > np.where(inside, flat, -1).max(1)).all()
    assert (need >= 1).all()
    assert (need <= pixels).all()
    first = np.where(inside, flat, pixels).min(1)
    assert (free <= np.minimum.accumulate(first[::-1])[::-1]).all()
    assert (np.diff(free) >= 0).all()
    for n in range(2 * len(where)):
        state = config.course.state(n)
        frame, k = divmod(n, len(where))
        bounds = state.need - frame * pixels, state.free - frame * pixels, state.phase
        assert bounds == (need[k], free[k], phases[k])


@given(window_configs())
@examples(80)
def test_a_period_is_walked_like_the_frame(config: SlidingWindowConfig) -> None:
    """What is needed and free, where windows start and what of them is inside, window by window."""
    course, period = config.course, config.course.period
    assert period.windows <= course.windows
    assert course.windows % period.windows == 0
    assert period.period == period
    for n in range(2 * course.windows):
        whole, short = course.state(n), period.state(n)
        assert (whole.need, whole.free, whole.base, whole.phase) == (
            short.need, short.free, short.base, short.phase)
        dropped = len(whole.inside) - len(short.inside)
        assert whole.inside[dropped:] == short.inside
        assert all(flags == 1 for flags in whole.inside[:dropped])


@pytest.mark.parametrize("kernel, stride, spatial, tile, passes, period", [
    ((1, 1), (1, 1), (6, 8), 1, 1, (1,)),
    ((1, 1), (1, 1), (6, 8), 2, 3, (16,)),
    ((1, 1, 1), (1, 1, 1), (4, 6, 8), 2, 3, (96,)),
    ((1, 3), (1, 1), (6, 8), 1, 1, (8,)),
    ((1, 3), (1, 1), (6, 8), 2, 3, (2, 8)),
    ((1, 1), (2, 2), (6, 8), 1, 1, (6, 8)),
    ((3, 1), (1, 1), (6, 8), 1, 1, (6, 8)),
])
def test_periods(
    kernel: tuple[int, ...], stride: tuple[int, ...], spatial: tuple[int, ...], tile: int,
    passes: int, period: tuple[int, ...],
) -> None:
    ones = (1,) * len(kernel)
    course = Course(spatial, Window(kernel, stride), ones, ((0, 0),) * len(kernel), False, tile,
                    passes)
    assert course.period.spatial == period


def check_beats_and_times(
    config: SlidingWindowConfig, frames: np.ndarray, seed: int
) -> tuple[WindowSchedule, np.ndarray, Beats]:
    """Beats and their times for arrivals with pauses; returns schedule, marks and the run."""
    random = np.random.default_rng(seed)
    count = config.input.beats * FRAMES
    pauses = random.integers(0, 20, count) * (random.random(count) < 0.1)
    arrivals = np.cumsum(1 + pauses) - 1
    schedule = config.schedule(arrivals)
    seen, marks, run = run_window(config.resized(schedule.capacity), frames, arrivals=arrivals)
    assert same_beats(config, seen, frames)
    fold = np.arange(config.groups * config.folds)[:, None] * config.fold_cycles
    starts = schedule.starts + READ_LATENCY + QUEUE_LATENCY
    expected = starts[:, None, None] + fold + np.arange(config.steps)
    np.testing.assert_array_equal(run.times["o"], expected.ravel())
    return schedule, marks, run


@given(several_columns(), st.integers(0, 999))
@examples(40)
def test_several_columns(config: SlidingWindowConfig, seed: int) -> None:
    frames = random_frames(config, seed)
    check_beats_and_times(config, frames, seed)
    seen, *_ = run_window(config, frames, stall=STALLS[seed % len(STALLS)])
    assert same_beats(config, seen, frames)


@given(window_configs(), st.integers(0, 999))
@examples(40)
def test_beats_and_times(config: SlidingWindowConfig, seed: int) -> None:
    schedule, marks, run = check_beats_and_times(config, random_frames(config, seed), seed)
    np.testing.assert_array_equal(marks, np.tile(expected_marks(config), FRAMES))
    end = run.times["o"][-1]
    np.testing.assert_array_equal(
        run.accepts["i"][run.accepts["i"] < end], schedule.accepts[schedule.accepts < end]
    )


@given(window_configs(), st.integers(0, 999))
@examples(30)
def test_beats_with_the_least_capacity_under_stalls(
    config: SlidingWindowConfig, seed: int
) -> None:
    frames = random_frames(config, seed)
    seen, marks, _ = run_window(config, frames, stall=STALLS[seed % len(STALLS)])
    assert same_beats(config, seen, frames)
    np.testing.assert_array_equal(marks, np.tile(expected_marks(config), FRAMES))


@given(window_configs())
@examples(30)
def test_one_pixel_less_than_the_schedule_asks_for_delays_the_input(
    config: SlidingWindowConfig,
) -> None:
    arrivals = np.arange(config.input.beats * FRAMES)
    schedule = config.schedule(arrivals)
    if schedule.capacity > config.least_capacity:
        *_, run = run_window(
            config.resized(schedule.capacity - 1), random_frames(config, 0), arrivals=arrivals
        )
        seen = run.accepts["i"]
        assert len(seen) < len(arrivals) or (seen > schedule.accepts).any()


def test_compute_against_plain_loops() -> None:
    config = SlidingWindowConfig(
        input=StreamType(TensorType((4, 5, 6)), 1), window=Window((3, 2), (2, 1), ((1, 1), (0, 1))),
        fill=-5, word_lanes=2, segment=3, groups=2, tap_lanes=4, folds=2,
    )
    frame = np.random.default_rng(0).integers(-128, 128, (1, 4, 5, 6))
    beats = iter(config.compute(frame))
    rows, columns = config.course.output
    for row, column, group, _ in product(range(rows), range(columns), range(2), range(2)):
        for first_tap, word in product((0, 4), range(2)):
            beat = next(beats)
            for tap, lane in product(range(4), range(2)):
                channel = word * 2 + lane
                dy, dx = divmod(first_tap + tap, 2)
                y, x = 2 * row - 1 + dy, column + dx
                inside = 0 <= y < 4 and 0 <= x < 5 and first_tap + tap < 6
                if channel < 3:
                    expected = frame[0, y, x, group * 3 + channel] if inside else -5
                    assert beat[tap, 0, lane] == expected
    assert next(beats, None) is None


@pytest.mark.parametrize("window, spatial, least", [
    (Window((1, 1)), (4, 5), 1),
    (Window((3, 3)), (4, 5), 2 * 5 + 3),
    (Window((3, 3), (1, 1), ((1, 1), (1, 1))), (4, 5), 2 * 5 + 2 + 1),
    (Window((4,), (4,)), (12,), 4),
    (Window((3, 3, 3)), (4, 4, 5), 2 * 20 + 2 * 5 + 3),
    (Window((3, 3), dilation=(2, 3)), (7, 9), 4 * 9 + 7),
    # Pixels that no window reads are never kept, nor any for windows that lie in the padding.
    (Window((1, 1), (3, 3)), (7, 7), 1),
    (Window((2,), pads=((-3, 4),)), (8,), 2),
    (Window((2, 2), pads=((3, 3), (0, 0))), (4, 5), 5 + 2),
])
def test_least_capacity_is_the_span_of_a_window(
    window: Window, spatial: tuple[int, ...], least: int
) -> None:
    config = SlidingWindowConfig(input=StreamType(TensorType((*spatial, 1))), window=window)
    assert config.least_capacity == least


def test_padding_takes_no_cycles() -> None:
    config = SlidingWindowConfig(
        input=StreamType(TensorType((5, 5, 1))), tap_lanes=9,
        window=Window((3, 3), (1, 1), ((1, 1), (1, 1))),
    )
    assert config.interval == 25
    schedule = config.schedule(np.arange(75))
    starts = schedule.starts.reshape(3, 25)
    np.testing.assert_array_equal(np.diff(starts, axis=0), 25)


def test_beats_are_packed_tap_by_tap() -> None:
    config = SlidingWindowConfig(
        input=StreamType(TensorType((3, 2)), 2), window=Window((2,)), word_lanes=2, tap_lanes=2,
    )
    run = run_streams(
        Windows(config), [("i", pack_rows(np.array([[1, 2], [3, 4], [5, 6]]), 8))], [("o", 2)]
    )
    assert [f"{beat:08x}" for beat in run.outputs["o"]] == ["04030201", "06050403"]


GOOD = {"input": StreamType(TensorType((5, 5, 12)), 2), "window": Window((3, 3)), "word_lanes": 2}


@pytest.mark.parametrize("wrong, message", [
    ({"segment": 5}, r"^Segment must divide the channels and be a multiple of the 2 .* not 5$"),
    ({"segment": 3}, r"^Segment must divide the channels and be a multiple .* not 3$"),
    ({"word_lanes": 3}, r"^Word lanes must be a multiple of the 2 .* at most 12, not 3$"),
    ({"word_lanes": 14}, r"^Word lanes must be a multiple .* at most 12, not 14$"),
    ({"word_lanes": 0}, r"^Word lanes must be a multiple .* not 0$"),
    ({"groups": 4}, r"^Groups must divide the 6 words of a pixel, not 4$"),
    ({"tap_lanes": 10}, r"^Tap lanes must be between 1 and 9, not 10$"),
    ({"tap_lanes": 0}, r"^Tap lanes must be between 1 and 9, not 0$"),
    ({"capacity": 12}, r"^Capacity must be at least 13 sites, not 12$"),
    ({"window": Window((3,))}, r"^A 1-dimensional window needs as many .* not \(5, 5\)$"),
    ({"window": Window((6, 1))}, r"^Window \(6, 1\) does not fit into \(5, 5\)$"),
    ({"repeat": (2,)}, r"^Repeat and crop must have 2 entries, not \(2,\) and \(\(0, 0\), "),
    ({"crop": ((0, 0),)}, r"^Repeat and crop must have 2 entries, not \(1, 1\) and "),
    ({"repeat": (2, 0)}, r"^Repeat must be positive, not \(2, 0\)$"),
    ({"repeat": (2, 2), "crop": ((0, 2), (0, 0))},
     r"^Crop must be less than the repetitions \(2, 2\) and leave some, not \(\(0, 2\), "),
    ({"window": Window((5, 5)), "repeat": (2, 2), "crop": ((1, 1), (0, 0))},
     r"^Crop must be less than the repetitions \(2, 2\) and leave some, not \(\(1, 1\), "),
    ({"columns": 2}, r"^Windows 2 at a time, 1 pixels apart, do not fit a frame 5 wide that "),
    ({"columns": 0}, r"^Columns must be positive, not 0$"),
    ({"input": StreamType(TensorType((5, 6, 2)), 2, 2), "show_inside": True,
      "window": Window((1, 1))}, r"^Windows that are repeated, repeat edges or count taps are "),
    ({"fill": None}, r"^Edges are repeated for windows of one tap, not \(3, 3\)$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        _ = SlidingWindowConfig(**{**GOOD, **wrong}).least_capacity
