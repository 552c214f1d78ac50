"""Repack: all ratios of sizes, padding, stalls, and a beat a cycle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.shell.repack import RepackConfig
from hwgen.sim.amaranth import Beats, run_streams
from tests.profiles import examples

SIZES = [1, 2, 3, 4, 5, 6, 8, 9, 12, 16]


def beats_of(frames: np.ndarray, size: int) -> list[int]:
    """Beats of ``size`` bytes; each frame of ``(N, bytes)`` begins a new one, padded with zeros."""
    padded = np.pad(frames, ((0, 0), (0, -frames.shape[1] % size)))
    return [int.from_bytes(each.tobytes(), "little") for each in padded.reshape(-1, size)]


def run(config: RepackConfig, frames: np.ndarray, **options: Any) -> Beats:
    """What goes through, compared with what should."""
    wanted = beats_of(frames, config.out_bytes)
    found = run_streams(config.create(), [("i", beats_of(frames, config.in_bytes))],
                        [("o", len(wanted))], **options)
    assert found.outputs["o"] == wanted
    return found


@pytest.mark.parametrize("in_bytes", SIZES)
@pytest.mark.parametrize("out_bytes", SIZES)
def test_all_ratios(in_bytes: int, out_bytes: int) -> None:
    """Bus words to beats and back, frames that fill the last beat of one side or of none."""
    random = np.random.default_rng([in_bytes, out_bytes])
    for frame_bytes in {in_bytes, out_bytes, 3 * in_bytes, 3 * out_bytes, in_bytes + out_bytes}:
        config = RepackConfig(in_bytes=in_bytes, out_bytes=out_bytes, frame_bytes=frame_bytes)
        frames = random.integers(0, 256, (4, frame_bytes), np.uint8)
        run(config, frames, stall=float(random.choice([0, 0.5])), seed=in_bytes)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 70), st.floats(0, 0.8),
       st.floats(0, 0.8), st.integers(0, 999))
@examples(40)
def test_any_sizes_under_stalls(
    in_bytes: int, out_bytes: int, frame_bytes: int, source: float, sink: float, seed: int
) -> None:
    config = RepackConfig(in_bytes=in_bytes, out_bytes=out_bytes, frame_bytes=frame_bytes)
    frames = np.random.default_rng(seed).integers(0, 256, (5, frame_bytes), np.uint8)
    run(config, frames, stall=(source, sink), seed=seed)


def test_what_pads_a_frame_at_the_input_is_dropped() -> None:
    """A frame of memory may be followed by anything."""
    config = RepackConfig(in_bytes=16, out_bytes=3, frame_bytes=21)
    frames = np.random.default_rng(0).integers(0, 256, (4, 21), np.uint8)
    words = [word | 0xAB << 120 if k % 2 else word for k, word in enumerate(beats_of(frames, 16))]
    wanted = beats_of(frames, 3)
    assert run_streams(config.create(), [("i", words)], [("o", len(wanted))]).outputs["o"] == wanted


@pytest.mark.parametrize("in_bytes, out_bytes, frame_bytes", [
    (16, 3, 48), (3, 16, 48), (16, 5, 45), (5, 16, 45), (4, 1, 7), (1, 4, 7), (8, 8, 20),
    (16, 12, 96), (12, 16, 96), (2, 3, 2),
])
def test_the_side_with_more_beats_moves_one_a_cycle(
    in_bytes: int, out_bytes: int, frame_bytes: int
) -> None:
    config = RepackConfig(in_bytes=in_bytes, out_bytes=out_bytes, frame_bytes=frame_bytes)
    frames = np.random.default_rng(0).integers(0, 256, (20, frame_bytes), np.uint8)
    found = run(config, frames)
    more = max(config.in_beats, config.out_beats)
    (last,) = found.times["o"].reshape(20, -1)[-1:, -1]
    (fifth,) = found.times["o"].reshape(20, -1)[4:5, -1]
    assert last - fifth == 15 * more


@pytest.mark.parametrize("name", ["in_bytes", "out_bytes", "frame_bytes"])
def test_sizes_are_positive(name: str) -> None:
    with pytest.raises(HwgenError, match=rf"^{name} must be positive, not 0$"):
        RepackConfig(**{"in_bytes": 2, "out_bytes": 3, "frame_bytes": 6} | {name: 0})


def test_area() -> None:
    """Sizes that are the same take no more than the registers behind them."""
    same = RepackConfig(in_bytes=8, out_bytes=8, frame_bytes=64).area().resources()
    other = RepackConfig(in_bytes=8, out_bytes=12, frame_bytes=64).area().resources()
    assert same.ff > 0
    assert same.lut < other.lut

