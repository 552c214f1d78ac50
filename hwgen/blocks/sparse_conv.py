"""Sparse convolution: sliding window, sparse multiply-accumulate, shared requantisers.

A convolution like that of :mod:`hwgen.blocks.conv`, but products with a zero take no multiplier
(:mod:`hwgen.parts.sparse_mac`).  Its time depends on the data; schedules use the average that was
measured.  No data can make it stop for good.

Activations are counted from their zero point, because a zero then adds nothing to a sum.  Taps in
the padding are zeros, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring

from hwgen.blocks.base import Schedule
from hwgen.blocks.conv_base import ConvolutionConfig, lanes_taken, serialise, weight_memories
from hwgen.blocks.output import fold_beats, fold_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, logic, total
from hwgen.device.multiplier import Packing
from hwgen.errors import HwgenError
from hwgen.ir import Convolution, ConvTranspose, Gemm
from hwgen.parts.component import Configured
from hwgen.parts.mac import MacArrayConfig
from hwgen.parts.memory import ReadOnlyMemory
from hwgen.parts.queue import QUEUE_LATENCY, queue_area
from hwgen.parts.requantise import Requantiser, RequantiserConfig
from hwgen.parts.sparse_mac import SKIPS, SparseMac, SparseMacConfig, centred_bits, check_streams
from hwgen.parts.stream import StreamType, pack_rows
from hwgen.parts.weights import WeightMemoryConfig
from hwgen.parts.window import READ_LATENCY, SlidingWindow, SlidingWindowConfig

__all__ = ["RETURN", "SparseConv", "SparseConvConfig", "even_streams", "fold_ends", "usual_queue"]

RETURN = 16
"""Cycles from the start of a fold until its first beat may have left its place, with a margin."""


def usual_queue(steps):
    """Usual number of beats that can wait for each multiplier: two folds, and those on their way.

    The argument is an integer or an integer array.
    """
    return 2 * steps + RETURN


def even_streams(streams: int, multipliers: int) -> tuple[tuple[int, ...], ...]:
    """Divide streams evenly among multipliers: stream ``n`` goes to number ``n % multipliers``."""
    return tuple(tuple(range(k, streams, multipliers)) for k in range(multipliers))


@dataclass(frozen=True, kw_only=True)
class SparseConvConfig(ConvolutionConfig):
    """A convolution, its folding, and which zeros are skipped.

    Parameters
    ----------
    op : :class:`hwgen.ir.Convolution`
        The op, which must not be transposed.  Groups are computed one after the other.
    pe : :class:`int`
        Output channels in parallel, in each group; they share the test for zeros.
    channel_lanes, tap_lanes : :class:`int`
        Input channels and kernel taps that are tested in parallel.  Stream
        ``tap * channel_lanes + channel`` carries that channel of that tap.
    streams : sequence of sequences of :class:`int`
        The streams of each multiplier; see :class:`SparseMacConfig`.
    skip : :class:`str`
        One of :data:`SKIPS`.  Skipped are products of activations that are zero, of weights that
        are zero for all ``pe`` output channels, or both.
    queue : :class:`int`
        Number of beats that can wait for each multiplier; 0: :func:`usual_queue`.
    cycles : :class:`float`
        Average cycles per fold, as measured, on which schedules are based; 0: as if nothing were
        zero.

    Raises
    ------
    :exc:`HwgenError`
        If the folding does not fit the op.
    """

    streams: tuple[tuple[int, ...], ...]
    skip: str = "activation"
    queue: int = 0
    cycles: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.window, self.mac

    def _check_folding(self) -> None:
        if isinstance(self.op, ConvTranspose):
            raise HwgenError("A transposed convolution is computed dense, not sparse")
        if self.skip not in SKIPS:
            raise HwgenError(f"Skip must be one of {', '.join(SKIPS)}, not {self.skip!r}")
        check_streams(self.streams)
        if sum(map(len, self.streams)) != self.count:
            raise HwgenError(
                f"Streams must be the {self.count} of channel lanes times tap lanes, "
                f"not {self.streams!r}"
            )
        if not 0 <= self.cycles < 1 << 40:
            raise HwgenError(f"Cycles must be a number, 0 or more, not {self.cycles!r}")

    depends_on_data: ClassVar[bool] = True

    def figures(self) -> dict[str, Any]:
        folds = self.window.windows * len(self.fold_results)
        return {
            **super().figures(),
            "pairs_tested": self.count, "multipliers": self.multipliers,
            "dense_cycles": folds * self.window.steps * max(map(len, self.streams)),
            "mean_fold_cycles": self.fold_cycles,
        }

    @property
    def folding_fields(self) -> tuple[str, ...]:
        return (*super().folding_fields, "sparse")

    @property
    def multipliers(self) -> int:
        """Number of multipliers for each output channel."""
        return len(self.streams)

    @cached_property
    def window(self) -> SlidingWindowConfig:
        """The sliding window."""
        cin, _ = self.group_channels
        return SlidingWindowConfig(
            input=self.inputs[0], window=self.op.window, fill=self.tensor.zero_point,
            word_lanes=self.channel_lanes, segment=cin, groups=self.op.groups,
            tap_lanes=self.tap_lanes, folds=self.channel_folds, capacity=self.capacity,
            style=self.window_style,
        )

    @cached_property
    def requantiser(self) -> RequantiserConfig:
        """The requantisers; biases are for activations that are counted from their zero point."""
        zero, quantisation = self.tensor.zero_point, self.tensor.quantisation
        flat = self.op.weight.reshape(self.op.cout, -1).astype(np.int64)
        bias = self.op.bias + zero * flat.sum(1)
        positive, negative = np.maximum(flat, 0).sum(1), np.minimum(flat, 0).sum(1)
        low, high = quantisation.low - zero, quantisation.high - zero
        least, most = positive * low + negative * high, positive * high + negative * low
        sums = np.concatenate([[0], bias, least, most, least + bias, most + bias])
        return RequantiserConfig(
            requantise=self.op.requantise, bias=bias, output=self.op.output,
            acc_range=(int(sums.min()), int(sums.max())), lanes=self.lanes_out,
            multiplier=self.requantiser_multiplier or self.multiplier, lookup=self.lookup,
        )

    @cached_property
    def array(self) -> MacArrayConfig:
        return MacArrayConfig(
            simd=self.multipliers, pe=self.pe, packing=self.packing,
            acc_bits=self.requantiser.acc_bits,
        )

    @cached_property
    def mac(self) -> SparseMacConfig:
        """The multipliers, and the logic that chooses their products."""
        return SparseMacConfig(
            bits=self.tensor.bits, zero=self.tensor.zero_point, streams=self.streams,
            rows=self.weight_rows, tested=self.skip != "weight", steps=self.window.steps,
            spacing=self.fold_beats,
            depth=self.queue or usual_queue(self.window.steps), array=self.array,
            weight_latency=self.weight_latency,
        )

    @cached_property
    def packing(self) -> Packing:
        """Packing of the weights of several output channels in a multiplier."""
        bits = centred_bits(self.tensor.bits, self.tensor.zero_point)
        key = bits, self.op.weight_bits, self.op.weight_limit
        products = self.products or Packing.densest(self.multiplier, *key).products
        return Packing(self.multiplier, min(products, self.pe), *key)

    @property
    def weight_rows(self) -> int:
        """Number of rows of weights: one for each beat of a window."""
        return self.op.groups * self.channel_folds * self.window.steps

    @cached_property
    def weights(self) -> tuple[WeightMemoryConfig, ...]:
        """Weight memories, one for each multiplier."""
        bits = self.packing.word_bits
        return tuple(
            WeightMemoryConfig(self.pe * bits, len(members) * self.weight_rows, self.weight_style)
            for members in self.streams
        )

    @cached_property
    def table(self) -> np.ndarray:
        """Weights ``(rows, streams, pe)``; 0 beyond the last tap or channel."""
        cin, cout = self.group_channels
        taps, words = self.window.tap_folds, self.window.words_per_group
        groups, folds = self.op.groups, self.channel_folds
        weight = self.op.weight.reshape(groups, cout, self.op.window.taps, cin)
        weight = np.pad(weight, (
            (0, 0), (0, folds * self.pe - cout),
            (0, taps * self.tap_lanes - self.op.window.taps),
            (0, words * self.channel_lanes - cin),
        ))
        weight = weight.reshape(
            groups, folds, self.pe, taps, self.tap_lanes, words, self.channel_lanes,
        ).transpose(0, 1, 3, 5, 4, 6, 2)
        return weight.reshape(self.weight_rows, -1, self.pe)

    @cached_property
    def memory_rows(self) -> list[list[int]]:
        """Contents of the weight memories."""
        packing, most = self.array.packing, self.array.packing.products
        found = []
        for members in self.streams:
            rows = self.table[:, list(members)].reshape(-1, self.pe)
            words = [packing.words(rows[:, k : k + most]) for k in range(0, self.pe, most)]
            found.append(pack_rows(np.concatenate(words, axis=1), self.array.w_bits))
        return found

    @cached_property
    def keep(self) -> np.ndarray:
        """Products that are computed unless the activation is skipped, ``(rows, streams)``."""
        if self.skip != "activation":
            return np.asarray(self.table.any(-1))
        # Streams beyond the last tap or channel have no product.
        there = _beats(np.ones((1, self.op.window.taps, self.group_channels[0]), bool), self)[0]
        return np.tile(there, (self.op.groups * self.channel_folds, 1))

    @property
    def count(self) -> int:
        """Number of streams."""
        return self.channel_lanes * self.tap_lanes

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes_in),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.result, self.lanes_out),)

    @property
    def fold_cycles(self) -> float:
        """Average cycles per fold."""
        most = max(map(len, self.streams)) * self.window.steps
        return max(self.cycles or most, self.window.steps, self.fold_beats)

    @property
    def interval(self) -> int:
        """Average cycles between two frames, if the data are like those that were measured."""
        folds = self.window.windows * len(self.fold_results)
        return max(self.inputs[0].beats, math.ceil(folds * self.fold_cycles))

    @property
    def _delay(self) -> int:
        """Least number of cycles from the start of a fold until its first result is visible."""
        return (READ_LATENCY + self.window.steps - 1 + self._keep_latency + self.mac.latency + 1
                + self.requantiser.latency + QUEUE_LATENCY)

    @property
    def _keep_latency(self) -> int:
        """Cycles for which beats wait for the bits that tell which of their weights are zero."""
        return 0 if self.keep.all() else self._keep_memory.latency

    @cached_property
    def _keep_memory(self) -> ReadOnlyMemory:
        return ReadOnlyMemory(self.count, self.weight_rows)

    @cached_property
    def least_depths(self) -> tuple[int, ...]:
        # A place is claimed when its fold begins, and freed when its beat is taken.
        folds = math.ceil((self._delay + self.fold_beats + 1) / self.window.fold_cycles) + 1
        return ((folds + self.mac.depth // self.window.steps) * self.fold_beats,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        """Timing if every fold takes the average number of cycles."""
        each = self.fold_cycles
        window = self.window.schedule(arrivals[0], len(self.fold_results) * each)
        fold = np.repeat((np.arange(len(self.beats)) * each).astype(np.int64), self.beats)
        beat = np.concatenate([np.arange(n) for n in self.beats])
        claims = (window.starts[:, None] + fold).ravel()
        # A fold takes `each` cycles, instead of as many as it has steps.
        late = self._delay + math.ceil(each) - self.window.steps
        out = (window.starts[:, None] + (fold + beat + late)).ravel()
        return Schedule((window.accepts,), (out,), (claims,), window.capacity)

    def work(self, frames: np.ndarray) -> np.ndarray:
        """Number of products of each beat that are computed.

        Parameters
        ----------
        frames : integer array, shape ``(frames, *shape)``

        Returns
        -------
        integer array, shape ``(frames * windows * folds, steps, multipliers)``
        """
        x = np.asarray(frames).reshape(-1, *self.window.spatial, self.tensor.channels)
        zero, (cin, _) = self.tensor.zero_point, self.group_channels
        views = np.stack(self.op.window.views(x, zero), axis=-2)
        views = views.reshape(-1, self.op.window.taps, self.op.groups, cin)
        kept = np.ones(views.shape, bool) if self.skip == "weight" else views != zero
        beats = _beats(kept.swapaxes(1, 2).reshape(-1, self.op.window.taps, cin), self)
        beats = beats.reshape(-1, self.op.groups, 1, self.window.steps, self.count)
        keep = self.keep.reshape(self.op.groups, self.channel_folds, self.window.steps, self.count)
        beats = (beats & keep).reshape(-1, self.window.steps, self.count)
        return np.stack([beats[..., list(members)].sum(-1) for members in self.streams], -1)

    def fold_ends(self, frames: np.ndarray) -> np.ndarray:
        """Cycles in which folds end, counted from the start, if frames come without a pause."""
        return fold_ends(self.work(frames), self.fold_beats, self.mac.depth, self._keep_latency)

    def mean_cycles(self, frames: np.ndarray) -> float:
        """Average cycles per fold, if frames come without a pause."""
        ends = self.fold_ends(frames)
        return float(ends[-1] - ends[0]) / max(len(ends) - 1, 1)

    def area(self) -> Area:
        """What the convolution takes."""
        results, mac = int(self.fold_results.max()), self.mac
        held = self.requantiser.acc_bits * results
        out = self.window.area() + self.requantiser.area()
        out += self.queues_area(len({int(n) for n in self.fold_results}))
        out += self.array.area() + total(memory.area() for memory in self.weights)
        if not self.keep.all():
            out += self._keep_memory.area()
        for members in mac.streams:
            count, address = len(members), levels(len(members) * mac.rows)
            entry = count * (mac.bits + 1) + address + 1
            out += queue_area(entry, mac.depth)
            out += logic("sparse lane", one=1, lut_test=count * mac.bits, lut_stream=count,
                         lut_address=address, lut_value=mac.bits,
                         ff_register=3 * entry + address + mac.bits)
        return out + logic(
            "sparse convolution", one=1, lut_held=held * (results > self.lanes_out),
            lut_stream=self.count, ff_register=held + self.count * (mac.bits + 1),
        )

    def create(self) -> SparseConv:
        return SparseConv(self)


def _beats(taps: np.ndarray, config: SparseConvConfig) -> np.ndarray:
    """Values per tap and channel ``(windows, taps, channels)`` as beats ``(…, steps, streams)``."""
    window = config.window
    folds, words = window.tap_folds, window.words_per_group
    taps = np.pad(taps, (
        (0, 0), (0, folds * config.tap_lanes - taps.shape[1]),
        (0, words * config.channel_lanes - taps.shape[2]),
    ))
    taps = taps.reshape(len(taps), folds, config.tap_lanes, words, config.channel_lanes)
    return taps.transpose(0, 1, 3, 2, 4).reshape(len(taps), folds * words, -1)


def fold_ends(work: np.ndarray, spacing: int, depth: int, late: int = 0) -> np.ndarray:
    """Cycles in which folds end, counted from the start of the first one's window.

    It is a max-plus recurrence over folds, for which the beats of each fold are summed up
    beforehand.  It is exact if the window never waits for pixels and results are always taken.

    Parameters
    ----------
    work : number of products of each beat, ``(folds, steps, multipliers)``
    spacing, depth : see :class:`SparseMacConfig`
    late : cycles for which beats wait behind the window
    """
    folds, steps, lanes = work.shape
    ends = np.empty(folds, np.int64)
    kept = -(-depth // steps) + 1
    # A beat with products is held back until the next beat with products sends it.  For each beat:
    # number of products of the beat that is held, and of those before it.
    index, some = np.arange(steps)[:, None], work > 0
    newest = np.maximum.accumulate(np.where(some, index, -1), axis=1)
    held = np.take_along_axis(work, np.maximum(newest, 0), 1) * (newest >= 0)
    before = work.cumsum(1, dtype=np.int64) - held
    sent, done = np.zeros_like(some), np.zeros_like(before)
    sent[:, 1:] = some[:, 1:] & (newest[:, :-1] >= 0)
    done[:, 1:] = before[:, :-1]
    # Cycles after the arrival of the first beat, besides those of products, because a multiplier
    # had to wait for a beat.
    wait = np.maximum.accumulate(np.where(sent, index - done, -(1 << 40)), axis=1)
    wait_last = np.maximum(wait[:, -1], steps - before[:, -1])
    first, last = some.argmax(1), np.maximum(held[:, -1], 1)
    # Cycles in which claimed places became free, fold by fold.
    freed = np.zeros((folds, steps, lanes), np.int64)
    start, end = -steps, -spacing
    for fold in range(folds):
        over, start = max(end, 0), start + steps
        if (need := steps * (fold + 1) - depth) > 0:
            oldest = max(fold - kept, 0)
            rank = need - 1 - oldest * steps
            recent = freed[oldest:fold].reshape(-1, lanes)
            start = max(start, int(np.partition(recent, rank, axis=0)[rank].max()) + 2)
        arrive = start + READ_LATENCY + late + 1
        taken = done[fold] + np.maximum(arrive + QUEUE_LATENCY + wait[fold], over)
        freed[fold] = np.where(sent[fold], taken, arrive + index)
        # The last beat is sent by the end of the sum.  A fold has as many places as beats; those
        # of beats that were not sent became free at once, and their order does not matter.
        taken = before[fold, -1] + np.maximum(arrive + QUEUE_LATENCY + wait_last[fold], over)
        freed[fold, first[fold], np.arange(lanes)] = taken
        end = max(int((taken + last[fold]).max()), end + spacing)
        ends[fold] = end
    return ends


class SparseConv(Configured[SparseConvConfig]):
    """Sparse convolution with requantisation.

    Parameters
    ----------
    config : :class:`SparseConvConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes_in)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(bits), lanes_out)))`
    load, next : see :class:`hwgen.parts.weights.WeightMemory`, if weights are loaded

    Timing
    ------
    Each fold of an output pixel takes as many cycles as the busiest multiplier has products, if
    its queue keeps it busy, and at least as many as the fold has beats at the window or at the
    output.  On average these are ``config.mean_cycles(frames)`` cycles.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.window = window = SlidingWindow(config.window)
        m.submodules.mac = mac = SparseMac(config.mac)
        m.submodules.requantiser = requantiser = Requantiser(config.requantiser)
        # A fold starts when there are places for its beats, and for its results.
        queue, room = fold_queue(m, config, config.beats, window.start)
        wiring.connect(m, wiring.flipped(self.i), window.i)
        wiring.connect(m, requantiser.o, queue.i)
        wiring.connect(m, queue.o, wiring.flipped(self.o))

        loaded = self._weights(m, mac)
        m.d.comb += [window.room.eq(room & mac.room & loaded), mac.reserve.eq(window.start)]
        step = counter(config.window.steps)
        last = step == config.window.steps - 1
        with m.If(window.o.valid):
            m.d.sync += step.eq(Mux(last, 0, step + 1))
        beat = Cat(window.o.valid, window.o.valid & last, window.o.p.as_value())
        if config.keep.all():
            m.d.comb += mac.keep.eq(~0)
        else:
            m.d.comb += mac.keep.eq(self._keep(m, window.o.valid))
            for _ in range(config._keep_latency):
                later = Signal.like(beat, name="later")
                m.d.sync += later.eq(beat)
                beat = later
        m.d.comb += Cat(mac.valid, mac.last, mac.x.as_value()).eq(beat)

        # Serialise the results of a fold, lanes_out per cycle.
        beats = fold_beats(m, "done", config.beats, mac.done)
        serialise(m, config, mac.acc.as_value(), mac.done, beats, requantiser)
        return m

    def _keep(self, m: Module, fire: Value) -> Value:
        """Which products of a beat are not known to be zero in advance."""
        config = self.config
        row = counter(config.weight_rows, name="keep_row")
        with m.If(fire):
            m.d.sync += row.eq(Mux(row == config.weight_rows - 1, 0, row + 1))
        rows = [int.from_bytes(bits, "little") for bits in
                (np.packbits(kept, bitorder="little").tobytes() for kept in config.keep)]
        return config._keep_memory.read(m, "keep", row, rows)

    def _weights(self, m: Module, mac: SparseMac) -> Value:
        """Connect the memories of the weights.

        Returns
        -------
        whether all of them are loaded
        """
        config, array = self.config, self.config.array
        skew = array.columns[0].skew
        words, loaded = weight_memories(m, self, config, lambda k, late: delayed(
            m, getattr(mac, f"address_{k}"), skew[k] + late, f"address_{k}"))
        # Each port has the words of the multipliers with one skew, column by column.
        bits, most = array.w_bits, array.packing.products
        for n, late in enumerate(array.skews):
            together = [k for k, s in enumerate(skew) if s == late]
            m.d.comb += getattr(mac, f"w_{n}").eq(Cat(
                words[k][start * bits : min(start + most, config.pe) * bits]
                for start in range(0, config.pe, most) for k in together
            ))
        return loaded


@carries_out(Convolution, Gemm, when=lambda folding: folding.sparse is not None, own_pixels=True)
def _sparse_conv(request: BlockRequest) -> SparseConvConfig:
    sparse, stream = request.folding.sparse, request.streams[0]
    assert sparse is not None
    if (stream.pixels, request.pixels) != (1, 1):
        raise HwgenError(f"A sparse convolution takes one pixel a beat, not {stream.pixels!r} and "
                         f"{request.pixels!r}")
    return SparseConvConfig(
        op=request.op.as_conv(stream.tensor), tensor=stream.tensor, lanes_in=lanes_taken(request),
        lanes_out=request.lanes, lookup=request.table, **request.folded(SparseConvConfig),
        **vars(sparse),
    )
