"""What the tests of all blocks share: random frames and arrivals, and the two standard checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from hwgen.blocks.base import BlockConfig, Schedule
from hwgen.ir import Quantisation, Requantise, Window
from hwgen.parts.queue import queue_depth
from hwgen.sim.amaranth import TimedRun, simulate

FRAMES = 2
"""Frames of a run: one after the other shows that a frame's end leaves nothing behind."""
STALLS = ((0.3, 0.3), (0.0, 0.7), (0.7, 0.0), (0.1, 0.85))
LONGEST = 400
"""Cycles a frame that a random case may take where it has a choice."""


def random_frames(config: BlockConfig, random: np.random.Generator) -> list[np.ndarray]:
    """Frames for every input: half of the codes random, half at the ends of their range."""
    frames = []
    for stream in config.inputs:
        low, high = stream.tensor.quantisation.low, stream.tensor.quantisation.high
        shape = (FRAMES, *stream.tensor.shape)
        codes = random.integers(low, high + 1, shape)
        ends = random.choice([low, high], shape)
        frames.append(np.where(random.random(shape) < 0.5, codes, ends))
    return frames


def random_arrivals(config: BlockConfig, random: np.random.Generator) -> list[np.ndarray]:
    """Per input, times of all beats: runs without a gap, and pauses up to a tenth of a frame."""
    arrivals = []
    for stream in config.inputs:
        beats = stream.beats * FRAMES
        longest = max(config.interval // 10, 3)
        pauses = random.integers(0, longest, beats) * (random.random(beats) < 0.1)
        arrivals.append(np.cumsum(1 + pauses) - 1)
    return arrivals


def same_until_the_end(run: TimedRun, schedule: Schedule) -> bool:
    """Whether a run kept a schedule; beats that come after the last output were not awaited."""
    end = max(times[-1] for times in run.times.values())
    return all(map(np.array_equal, run.times.values(), schedule.outputs)) and all(
        np.array_equal(seen[seen < end], due[due < end])
        for seen, due in zip(run.accepts.values(), schedule.accepts, strict=True)
    )


def check_on_time(config, seed: int = 0) -> Schedule:
    """Exact values and exact times, for irregular arrivals and sinks that are always ready.

    The block's own buffer, where it has one, is what the schedule says it needs.
    """
    random = np.random.default_rng(seed)
    frames, arrivals = random_frames(config, random), random_arrivals(config, random)
    schedule = config.schedule(arrivals)
    if schedule.capacity is not None:
        config = replace(config, capacity=schedule.capacity)
    run = simulate(config.create(), *frames, arrivals=arrivals)
    for seen, expected in zip(run.outputs.values(), config.compute(*frames), strict=True):
        np.testing.assert_array_equal(seen, expected)
    for seen, expected in zip(run.times.values(), schedule.outputs, strict=True):
        np.testing.assert_array_equal(seen, expected)
    assert same_until_the_end(run, schedule)
    # The default depth is the claim: it must cover what this schedule needs.
    for claims, pops, depth in zip(
        schedule.claims, schedule.outputs, config.queue_depths, strict=True
    ):
        assert queue_depth(claims, pops) <= depth
    return schedule


def check_under_stalls(
    config: BlockConfig, seed: int = 0, stall: float | tuple[float, float] | None = None,
    depths: tuple[int, ...] = (),
) -> None:
    """Exact values, with sources and sinks that pause at random, and any depths of the queues.

    Unless it is given, who pauses how often depends on the seed: queues fill up, or run empty.
    """
    random = np.random.default_rng(seed)
    stall = STALLS[seed % len(STALLS)] if stall is None else stall
    frames = random_frames(config, random)
    run = simulate(replace(config, depths=depths).create(), *frames, stall=stall, seed=seed)
    for seen, expected in zip(run.outputs.values(), config.compute(*frames), strict=True):
        np.testing.assert_array_equal(seen, expected)


def affordable_taps(config, taps: int) -> st.SearchStrategy[int]:
    """Values of ``tap_lanes`` with which a frame is short; ``config`` has all taps in parallel."""
    longest = max(LONGEST, config.interval)
    return st.sampled_from([
        n for n in range(1, taps + 1) if replace(config, tap_lanes=n).interval <= longest
    ])


def quantisations(bits: st.SearchStrategy[int] | None = None) -> st.SearchStrategy[Quantisation]:
    """Quantisations of 4 to 8 bits, with any zero point."""
    return (st.integers(4, 8) if bits is None else bits).flatmap(
        lambda n: st.builds(
            Quantisation,
            scale=st.sampled_from([0.02, 0.05, 0.11]),
            zero_point=st.integers(-(1 << (n - 1)), (1 << (n - 1)) - 1),
            bits=st.just(n),
        )
    )


@st.composite
def windows(
    draw: st.DrawFn, dims: int, largest: int = 4, taps: int = 36, pixels: int = 60,
    outputs: int = 60,
) -> tuple[Window, tuple[int, ...]]:
    """A window, with any stride, pads and dilation, and a frame into which it fits.

    At most ``taps`` taps, ``pixels`` pixels and ``outputs`` places, wherever there is a choice.
    """
    kernel, stride, pads, dilation, spatial, places = [], [], [], [], [], []
    for _ in range(dims):
        # Always something smaller is possible: no example is thrown away.
        k = draw(st.integers(1, min(largest, taps // int(np.prod(kernel, initial=1)))))
        left = pixels // int(np.prod(spatial, initial=1))
        d = draw(st.sampled_from([1, *(d for d in (1, 2, 3) if 0 < (k - 1) * d < left)]))
        extent = (k - 1) * d + 1
        # Mostly less than the window; also cropping, or whole windows in the padding.
        most_cut = min(max((left - extent) // 2, 0), 2)
        any_pads = st.integers(0, extent - 1) | st.integers(-most_cut, extent + 1)
        before, after = draw(any_pads), draw(any_pads)
        least = max(extent - before - after, 1)
        most = max(least, min(least + 6, left))
        n = draw(st.integers(least, most))
        everywhere = n + before + after - extent + 1
        step = -(-everywhere // max(outputs // int(np.prod(places, initial=1)), 1))
        s = draw(st.integers(step, max(step, 3)))
        places.append(-(-everywhere // s))
        kernel.append(k)
        stride.append(s)
        pads.append((before, after))
        dilation.append(d)
        spatial.append(n)
    return Window(kernel, stride, pads, dilation), tuple(spatial)


def divisors(number: int) -> st.SearchStrategy[int]:
    """Divisors of a number."""
    return st.sampled_from([n for n in range(1, number + 1) if number % n == 0])


def multipliers(channels: int, spread: float, output: Quantisation, seed: int) -> Requantise:
    """Per channel a scale that takes values of this spread to the output's range, less or more."""
    random = np.random.default_rng(seed)
    ratio = 2.0**output.bits / max(spread, 1) * random.uniform(0.1, 1.5, channels)
    return Requantise.from_scale(ratio)
