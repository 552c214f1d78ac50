"""The time that a sparse layer takes, for any folding, from a sample of its windows.

The sample is kept bit by bit and in order, so that the cycles of a folding can be computed from it
for any division of streams among multipliers and any depth of the queues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np

from hwgen.blocks.sparse_conv import (
    RETURN,
    SparseConvConfig,
    even_streams,
    fold_ends,
    usual_queue,
)
from hwgen.errors import HwgenError
from hwgen.ir import Conv, TensorType
from hwgen.parts.sparse_mac import SKIPS, check_streams

__all__ = ["SHORTEST", "Depth", "SparseLayer"]

SHORTEST = 16
"""Windows side by side, at least, where not all are kept or looked at."""
MOST_FOLDS = 8192
"""Folds that the time of a folding is computed from."""
TRIES = 400
"""Exchanges that are tried to balance multipliers."""

Streams = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Depth:
    """How deep a queue must be.

    Members
    -------
    queue : beats for each multiplier, :class:`SparseConvConfig`'s ``queue``
    cycles, endless : cycles of a fold on average, with this queue and with an endless one
    """

    queue: int
    cycles: float
    endless: float

    @property
    def lost(self) -> float:
        """Share of the cycles that an endless queue would not take."""
        return 1 - self.endless / self.cycles


@dataclass(frozen=True, eq=False)
class SparseLayer:
    """What was measured of a convolution.

    Members
    -------
    name : of its node
    op, tensor : the convolution, and the type of its input
    density : share of the activations that are not zero over all windows, padding included, shape
        ``(taps, channels)``
    sample : which activations of some windows are not zero, shape ``(taps, channels, samples)``:
        runs of consecutive windows, one run after the other
    places : numbers of these windows, counted through all frames, shape ``(samples,)``
    """

    name: str
    op: Conv
    tensor: TensorType
    density: np.ndarray
    sample: np.ndarray
    places: np.ndarray
    _found: dict = field(default_factory=dict, repr=False)

    @property
    def windows(self) -> int:
        """Windows of a frame."""
        return self.op.infer(self.tensor)[0].pixels

    @property
    def mean_density(self) -> float:
        """Share of the activations of all windows that are not zero."""
        return float(self.density.mean())

    @property
    def bits(self) -> np.ndarray:
        """The sample, window by window: boolean array ``(samples, taps, channels)``."""
        return np.moveaxis(self.sample, -1, 0).astype(bool)

    @property
    def frames(self) -> np.ndarray:
        """The frame of each window of the sample."""
        return self.places // self.windows

    def remember(self, key: tuple, make: Callable[[], Any]) -> Any:
        """The value of a key, which is made once and kept as long as the layer."""
        if key not in self._found:
            self._found[key] = make()
        return self._found[key]

    # What the papers plot

    def histogram(self, channel_lanes: int, tap_lanes: int) -> np.ndarray:
        """Count beats by their activations that are not zero: 0, 1, … channel times tap lanes."""
        counts = [part.sum(1, dtype=np.int64).ravel()
                  for part in self._beats(channel_lanes, tap_lanes)]
        return np.bincount(np.concatenate(counts), minlength=channel_lanes * tap_lanes + 1)

    def moving_average(self, length: int) -> np.ndarray:
        """Density over ``length`` consecutive windows, wherever there are as many in a run.

        Raises
        ------
        :exc:`HwgenError`
            If no run is as long.
        """
        each = self.sample.mean((0, 1))
        ends = np.flatnonzero(np.diff(self.places) != 1) + 1
        runs = [run for run in np.split(each, ends) if len(run) >= length]
        if length < 1 or not runs:
            raise HwgenError(f"Layer {self.name!r}: no run of {length!r} windows was sampled")
        return np.concatenate([np.convolve(run, np.full(length, 1 / length), "valid")
                               for run in runs])

    def correlation(self, channel_lanes: int, tap_lanes: int) -> np.ndarray:
        """Correlation of the streams with each other, shape ``(streams, streams)``; that with a
        constant stream is 0."""
        parts = [part.swapaxes(0, 1).reshape(channel_lanes * tap_lanes, -1)
                 for part in self._beats(channel_lanes, tap_lanes)]
        beats = np.concatenate(parts, 1).astype(np.float32)
        beats -= beats.mean(1, keepdims=True)
        spread = np.sqrt((beats**2).sum(1))
        scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
        return (beats @ beats.T) * scale * scale[:, None]

    # What a folding takes

    def cycles(
        self, channel_lanes: int, tap_lanes: int, pe: int, streams: Streams,
        skip: str = "activation", *, lanes_out: int = 0, queue: int = 0,
    ) -> float:
        """Cycles of a fold on average, nearly :attr:`SparseConvConfig.mean_cycles` of the sample.

        It is quick: a fold is taken to last as long as its multiplier with the most products, and
        the window to run ahead as far as queues let it, in folds and parts of folds.  That is too
        low for a queue that is shorter than usual.

        Parameters
        ----------
        channel_lanes, tap_lanes, pe, streams, skip, lanes_out, queue :
            See :class:`SparseConvConfig`; without ``lanes_out``, nothing waits for the output.
        """
        times, folds = self._times(channel_lanes, tap_lanes, pe, streams, skip, lanes_out, queue)
        return float(times.sum() / (len(times) * folds))

    def interval(
        self, channel_lanes: int, tap_lanes: int, pe: int, streams: Streams,
        skip: str = "activation", *, lanes_out: int = 0, queue: int = 0,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
    ) -> tuple[int, ...]:
        """Quantiles of the cycles that a frame takes, over the frames that were measured.

        Parameters
        ----------
        channel_lanes, tap_lanes, pe, streams, skip, lanes_out, queue : see :meth:`cycles`
        quantiles : shares, 0..1
        """
        times, _ = self._times(channel_lanes, tap_lanes, pe, streams, skip, lanes_out, queue)
        if skip == "weight":
            return (ceil(self.windows * times.sum()),) * len(quantiles)
        frames, runs = self.frames[self._chosen(pe, skip)], self._runs(pe, skip)
        each = [times.reshape(-1, runs)[frames == frame].sum(1).mean()
                for frame in np.unique(frames)]
        return tuple(ceil(n * self.windows) for n in np.quantile(each, quantiles))

    def balanced(
        self, channel_lanes: int, tap_lanes: int, multipliers: int, *,
        skip: str = "activation", pe: int = 1,
    ) -> Streams:
        """Deal streams out to multipliers so that none has much more to do than the others.

        Streams go, those with the most products first, to the multiplier that then has the fewest.
        Then streams are exchanged as long as that lowers the mean of the cycles of a fold, which
        on the sample is never above that of :func:`even_streams`.

        Parameters
        ----------
        channel_lanes, tap_lanes, skip, pe : see :class:`SparseConvConfig`
        multipliers : number of multipliers

        Raises
        ------
        :exc:`HwgenError`
            If there are more multipliers than streams.
        """
        self._check(channel_lanes, tap_lanes, pe, skip)
        count = channel_lanes * tap_lanes
        if not 1 <= multipliers <= count:
            raise HwgenError(f"Multipliers must be between 1 and {count}, not {multipliers!r}")
        key = channel_lanes, tap_lanes, skip, pe if skip != "activation" else 1, multipliers
        return self.remember(("balanced", *key), lambda: _balanced(
            self._work(channel_lanes, tap_lanes, pe, skip).astype(np.int32), multipliers,
            self._steps(channel_lanes, tap_lanes),
        ))

    def work(self, config: SparseConvConfig, windows: int | None = None) -> np.ndarray:
        """Products of each beat for windows of the sample, as :meth:`SparseConvConfig.work`.

        If ``windows`` are fewer than there are, they are runs from all over the sample.
        """
        which = self._spread(len(self.places) if windows is None else windows)
        self._check_config(config)
        keep = config.keep.reshape(self.op.groups, config.channel_folds, -1, config.count)
        parts = [
            part[..., which].transpose(2, 0, 1)[:, None].astype(bool) & keep[group]
            if config.skip != "weight" else
            np.broadcast_to(keep[group], (len(which), *keep[group].shape))
            for group, part in enumerate(self._beats(config.channel_lanes, config.tap_lanes))
        ]
        beats = np.stack(parts, 1).reshape(-1, *keep.shape[2:])
        return np.stack([beats[..., list(members)].sum(-1) for members in config.streams], -1)

    def exact_cycles(
        self, config: SparseConvConfig, windows: int | None = None, queue: int = 0
    ) -> float:
        """Cycles of a fold on average, by :func:`fold_ends`, which is exact for the sample.

        Parameters
        ----------
        config : a folding
        windows : number of windows of the sample, more or less; None: all
        queue : beats that wait for each multiplier; 0: as configured
        """
        return _mean_of(self.work(config, windows), config, queue or config.mac.depth)

    def depth_for(self, config: SparseConvConfig, stall: float, folds: int = 1024) -> Depth:
        """The shortest queue that wastes at most a share ``stall`` of the cycles.

        Parameters
        ----------
        config : a folding; its ``queue`` does not matter
        stall : share of the cycles, 0..1
        folds : number of consecutive folds that are looked at

        Raises
        ------
        :exc:`HwgenError`
            If the share is not between 0 and 1, or the folding is of another layer.
        """
        if not 0 <= stall < 1:
            raise HwgenError(f"Stall must be between 0 and 1, not {stall!r}")
        work = self.work(config, max(2, ceil(folds / len(config.fold_results))))
        steps, endless = config.window.steps, work.shape[0] * work.shape[1]
        best = _mean_of(work, config, endless)

        def good(depth: int) -> bool:
            return 1 - best / _mean_of(work, config, depth) <= stall

        low, high = steps - 1, usual_queue(steps)
        while high < endless and not good(high):
            low, high = high, 2 * high
        high = min(high, endless)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if good(middle) else (middle, high)
        return Depth(high, _mean_of(work, config, high), best)

    # Windows as a folding meets them

    def _check(self, channel_lanes: int, tap_lanes: int, pe: int, skip: str) -> None:
        cin, cout = self.op.weight.shape[-1], self.op.cout // self.op.groups
        for what, value, most in (("Channel lanes", channel_lanes, cin), ("Pe", pe, cout),
                                  ("Tap lanes", tap_lanes, self.op.window.taps)):
            if not 1 <= value <= most:
                raise HwgenError(f"Layer {self.name!r}: {what} must be between 1 and {most}, "
                                 f"not {value!r}")
        if skip not in SKIPS:
            raise HwgenError(f"Skip must be one of {', '.join(SKIPS)}, not {skip!r}")

    def _check_config(self, config: SparseConvConfig) -> None:
        if (config.op.weight.shape, config.op.groups, config.op.window) != (
                self.op.weight.shape, self.op.groups, self.op.window):
            raise HwgenError(f"Statistics of layer {self.name!r} are of another convolution")

    def _steps(self, channel_lanes: int, tap_lanes: int) -> int:
        taps, cin = self.op.window.taps, self.op.weight.shape[-1]
        return ceil(taps / tap_lanes) * ceil(cin / channel_lanes)

    def _folds(self, pe: int) -> int:
        return ceil(self.op.cout // self.op.groups / pe)

    def _runs(self, pe: int, skip: str) -> int:
        """Number of times that are computed for a window; folds that see the same zeros are one."""
        return self.op.groups * (1 if skip == "activation" else self._folds(pe))

    def _chosen(self, pe: int, skip: str) -> np.ndarray:
        """Indices of the windows that are looked at, so that folds are not too many."""
        return self._spread(MOST_FOLDS // self._runs(pe, skip))

    def _spread(self, windows: int) -> np.ndarray:
        """Indices of so many windows of the sample, more or less: runs from all over it."""
        total, blocks = len(self.places), max(1, windows // SHORTEST)
        if total <= blocks * SHORTEST:
            return np.arange(total)
        starts = np.linspace(0, total - SHORTEST, blocks).astype(int)
        return np.unique(starts[:, None] + np.arange(SHORTEST))

    def _beats(self, channel_lanes: int, tap_lanes: int, which=slice(None)) -> Iterator[np.ndarray]:
        """For each group, which activations are not zero, shape ``(steps, streams, windows)``."""
        self._check(channel_lanes, tap_lanes, 1, "activation")
        sample, cin = self.sample[..., which], self.op.weight.shape[-1]
        for group in range(self.op.groups):
            yield _fold(sample[:, group * cin : (group + 1) * cin], channel_lanes, tap_lanes)

    def kept(self, pe: int) -> np.ndarray:
        """Which weights are not all zero in a fold, shape ``(groups, folds, taps, channels)``."""
        def found() -> np.ndarray:
            groups, cin, folds = self.op.groups, self.op.weight.shape[-1], self._folds(pe)
            there = self.op.weight.reshape(groups, -1, self.op.window.taps, cin) != 0
            there = np.pad(there, ((0, 0), (0, folds * pe - there.shape[1]), (0, 0), (0, 0)))
            return np.asarray(there.reshape(groups, folds, pe, -1, cin).any(2))

        return self.remember(("kept", pe), found)

    def _work(self, channel_lanes: int, tap_lanes: int, pe: int, skip: str) -> np.ndarray:
        """Products of each stream in consecutive folds, shape ``(streams, folds)``."""
        key = "work", channel_lanes, tap_lanes, skip, pe if skip != "activation" else 0
        return self.remember(key, lambda: self._counted(channel_lanes, tap_lanes, pe, skip))

    def _counted(self, channel_lanes: int, tap_lanes: int, pe: int, skip: str) -> np.ndarray:
        count, steps = channel_lanes * tap_lanes, self._steps(channel_lanes, tap_lanes)
        kind = np.uint8 if steps < 256 else np.uint16 if steps < 1 << 16 else np.uint32
        keep = None if skip == "activation" else self.kept(pe)
        if keep is not None and keep.all() and skip == "both":
            # Nothing is pruned: all folds are alike.
            found = self._work(channel_lanes, tap_lanes, pe, "activation").reshape(
                count, -1, self.op.groups)[:, self._chosen(pe, skip)]
            found = np.repeat(found, self._folds(pe), 2)
        else:
            parts = []
            which = self._chosen(pe, skip) if skip == "both" else slice(None)
            for group, beats in enumerate(self._beats(channel_lanes, tap_lanes, which)):
                if keep is None:
                    parts.append(beats.sum(0, dtype=kind)[:, :, None])
                    continue
                mask = _fold(np.moveaxis(keep[group], 0, -1), channel_lanes, tap_lanes)
                if skip == "weight":
                    parts.append(mask.sum(0, dtype=kind)[:, None])
                else:
                    mask = mask.transpose(1, 2, 0).astype(np.float32)
                    both = mask @ beats.swapaxes(0, 1).astype(np.float32)
                    parts.append(both.swapaxes(1, 2).astype(kind))
            found = np.stack(parts, 2)
        return found.reshape(count, -1)

    def _times(
        self, channel_lanes: int, tap_lanes: int, pe: int, streams: Streams, skip: str,
        lanes_out: int, queue: int,
    ) -> tuple[np.ndarray, int]:
        """Times of runs of equal folds.

        Returns
        -------
        times, folds
            The cycles of each run, and the number of folds in a run.
        """
        self._check(channel_lanes, tap_lanes, pe, skip)
        check_streams(streams)
        count, steps = channel_lanes * tap_lanes, self._steps(channel_lanes, tap_lanes)
        if sum(map(len, streams)) != count:
            raise HwgenError(f"Streams must be {count}, not {streams!r}")
        work, spacing = self._work(channel_lanes, tap_lanes, pe, skip), 1
        if skip == "activation" and len(self.places) != len(which := self._chosen(pe, skip)):
            work = work.reshape(count, -1, self.op.groups)[:, which].reshape(count, -1)
        if lanes_out:
            spacing = max(1, min(pe, self.op.cout // self.op.groups) // lanes_out)
        most = np.full(work.shape[1], spacing, np.int64)
        for members in streams:
            np.maximum(most, work[list(members)].sum(0, dtype=np.int32), out=most)
        folds = self._folds(pe) if skip == "activation" else 1
        # Of the fold that is being worked at, half of the places are free again.
        room = ((queue or usual_queue(steps)) - RETURN) / steps - 0.5
        return np.array(_run_ahead(most.tolist(), folds, steps, max(room, 0.0))), folds


def _fold(taps: np.ndarray, channel_lanes: int, tap_lanes: int) -> np.ndarray:
    """Fold an array of shape ``(taps, channels, …)`` into beats, ``(steps, streams, …)``."""
    folds, words = -(-taps.shape[0] // tap_lanes), -(-taps.shape[1] // channel_lanes)
    short = folds * tap_lanes - taps.shape[0], words * channel_lanes - taps.shape[1]
    if any(short):
        taps = np.pad(taps, ((0, short[0]), (0, short[1]), (0, 0)))
    taps = taps.reshape(folds, tap_lanes, words, channel_lanes, -1).swapaxes(1, 2)
    return taps.reshape(folds * words, tap_lanes * channel_lanes, -1)


def _run_ahead(most: list[int], folds: int, steps: int, room: float) -> list[float]:
    """Cycles of runs of equal folds.

    Parameters
    ----------
    most : cycles that the multipliers take for each fold of a run
    folds : number of folds in a run
    steps : cycles that the window takes for a fold
    room : folds that the window may be ahead
    """
    ahead, times = 0.0, []
    for each in most:
        time = max(folds * each, (folds - ahead) * steps)
        ahead = min(room, ahead + time / steps - folds)
        times.append(time)
    return times


def _mean_of(work: np.ndarray, config: SparseConvConfig, depth: int) -> float:
    ends = fold_ends(work, config.fold_beats, depth, config._keep_latency)
    return float(ends[-1] - ends[0]) / max(len(ends) - 1, 1)


def _balanced(work: np.ndarray, multipliers: int, least: int) -> Streams:
    """See :meth:`SparseLayer.balanced`.

    Parameters
    ----------
    work : products of each stream, shape ``(streams, folds)``
    multipliers : number of multipliers
    least : cycles that a fold takes anyhow
    """
    owners = [[] for _ in range(multipliers)]
    loads = [(0, 0, k) for k in range(multipliers)]
    totals = work.sum(1)
    for stream in np.argsort(-totals, kind="stable").tolist():
        load, size, k = min(loads)
        owners[k].append(stream)
        loads[k] = load + int(totals[stream]), size + 1, k

    def sums(streams: Sequence[Sequence[int]]) -> np.ndarray:
        return np.stack([work[list(members)].sum(0) for members in streams])

    def cost(sums: np.ndarray) -> float:
        return float(np.maximum(sums.max(0), least).mean())

    even = [list(members) for members in even_streams(len(work), multipliers)]
    have = sums(owners)
    if cost(sums(even)) < cost(have):
        owners, have = even, sums(even)
    best, random = cost(have), np.random.default_rng(0)
    for _ in range(TRIES if multipliers > 1 else 0):
        # From the busiest multiplier of a fold to the idlest one.
        fold = int(random.integers(have.shape[1]))
        high, low = int(have[:, fold].argmax()), int(have[:, fold].argmin())
        give = random.choice(owners[high])
        take = random.choice([*owners[low], -1] if len(owners[high]) > 1 else owners[low])
        change = work[give] - (work[take] if take >= 0 else 0)
        have[high] -= change
        have[low] += change
        if (new := cost(have)) < best:
            best = new
            owners[high].remove(give)
            owners[low].append(int(give))
            if take >= 0:
                owners[low].remove(take)
                owners[high].append(int(take))
        else:
            have[high] += change
            have[low] -= change
    return tuple(tuple(sorted(members)) for members in owners)
