"""Sparse multiply-accumulate: products with a zero are skipped, the others share multipliers.

Each beat brings N activations, one for each of N *streams*, and belongs to a row of weights.  The
streams are divided among k multipliers.  Each multiplier computes those products of its streams
that are not zero, one per cycle; a beat without such a product takes it no cycle at all.
Multipliers run ahead of each other within a sum and wait for each other at its end, so a sum takes
as many cycles as the busiest multiplier has products.

PASS (Montgomerie-Corcoran et al., "PASS: Exploiting Post-Activation Sparsity in Streaming
Architectures for CNN Acceleration", 2023) and HASS (Yu et al., "HASS: Hardware-Aware Sparsity
Search for Dataflow DNN Accelerator", 2024) have an arbiter and a crossbar from N pairs to k
multipliers for every output channel.  Here

- all output channels share the test of the activations and the choice among them, and two output
  channels can share a DSP, as in a dense layer;
- each multiplier has its own streams, and therefore its own weights: its memory is read at the
  address of the weight that it needs, so weights need no crossbar;
- the weights that are zero for all output channels are known in advance, and are skipped as zero
  activations are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter, delayed, signed_width
from hwgen.errors import HwgenError
from hwgen.parts.mac import MacArray, MacArrayConfig
from hwgen.parts.queue import QUEUE_LATENCY, Queue

__all__ = ["SKIPS", "SparseMac", "SparseMacConfig", "centred_bits", "check_streams"]

SKIPS = ("activation", "weight", "both")
"""Which zeros are skipped: those of activations, of weights, or of both."""

END_LATENCY = 2 + QUEUE_LATENCY + 1
"""Cycles from a sum's last beat to the end of the sum, if no products are waiting."""

ADDRESS_LATENCY = 2
"""Cycles from the end of a sum to the addresses of its last weights."""


@dataclass(frozen=True, kw_only=True)
class SparseMacConfig:
    """Shape of a sparse multiply-accumulate.

    Parameters
    ----------
    bits, zero : :class:`int`
        Bits of an activation, and the activation that counts as zero.
    tested : :class:`bool`
        Whether activations are compared with ``zero`` at all.
    streams : sequence of sequences of :class:`int`
        For each multiplier, the streams that it serves: a partition of 0..N-1.
    rows : :class:`int`
        Number of rows of weights; each beat takes the next row, cyclically.
    steps : :class:`int`
        Number of beats in a sum.
    spacing : :class:`int`
        Least number of cycles from the end of a sum to the end of the next one.
    depth : :class:`int`
        Number of beats that can wait for each multiplier; at least ``steps``.
    array : :class:`MacArrayConfig`
        The multipliers: ``simd`` of them in each column.
    weight_latency : :class:`int`
        Cycles from the address of weights to the weights.

    Raises
    ------
    :exc:`HwgenError`
        If the streams are not a partition, or if the beats of a sum do not fit ``depth``.
    """

    bits: int
    zero: int
    tested: bool = True
    streams: tuple[tuple[int, ...], ...]
    rows: int
    steps: int
    spacing: int
    depth: int
    array: MacArrayConfig
    weight_latency: int

    def __post_init__(self) -> None:
        check_streams(self.streams)
        if self.depth < self.steps:
            raise HwgenError(
                f"Depth must be at least the {self.steps} beats of a sum, not {self.depth!r}"
            )

    @property
    def count(self) -> int:
        """Number of streams."""
        return sum(map(len, self.streams))

    @property
    def x(self) -> data.ArrayLayout:
        """Shape of a beat."""
        return data.ArrayLayout(signed(self.bits), self.count)

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Per multiplier, the words of its memory: one for each of its streams and each row."""
        return tuple(len(members) * self.rows for members in self.streams)

    @property
    def latency(self) -> int:
        """Least number of cycles from a sum's last beat until its accumulators are visible."""
        return END_LATENCY + self._latency

    @property
    def _latency(self) -> int:
        return ADDRESS_LATENCY + self.weight_latency + self.array.latency

    def create(self) -> SparseMac:
        return SparseMac(self)


def centred_bits(bits: int, zero: int) -> int:
    """Bits of an activation minus the one that counts as zero."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return signed_width(low - zero, high - zero)


def check_streams(streams: Sequence[Sequence[int]]) -> None:
    """Raise :exc:`HwgenError` unless each stream belongs to exactly one multiplier."""
    count = sum(map(len, streams))
    if not all(streams) or sorted(n for members in streams for n in members) != [*range(count)]:
        raise HwgenError(
            f"Streams must be divided among the multipliers, each once, not {streams!r}"
        )


class SparseMac(wiring.Component):
    """Accumulates sums of products; those with a zero take no multiplier.

    Parameters
    ----------
    config : :class:`SparseMacConfig`

    Members
    -------
    room : :py:`Out(1)`
        There are places for the beats of a sum.
    reserve : :py:`In(1)`
        Claim these places, before the first beat; only with room.
    valid, last : :py:`In(1)`
        Whether there is a beat, and whether it is the last of a sum.
    x : :py:`In(ArrayLayout(signed(bits), streams))`
    keep : :py:`In(streams)`
        With each beat: the streams whose weights are not all zero.
    address_0, address_1, … : :py:`Out(range(depths[k]))`
        Address of the weights that each multiplier needs; weights lie row by row, and within a
        row stream by stream.
    w_0, w_1, … : :py:`In(array.weight_widths[k])`
        Weights, ``weight_latency`` plus the array's skew cycles after their addresses.
    done : :py:`Out(1)`
        A sum is visible at ``acc``.
    acc : :py:`Out(ArrayLayout(signed(acc_bits), pe))`

    Timing
    ------
    A sum takes ``max(1, spacing, most products of a multiplier)`` cycles, if its beats have come.
    It is visible ``config.latency`` cycles after its last beat at the earliest.
    """

    def __init__(self, config: SparseMacConfig) -> None:
        self.config = config
        super().__init__({
            "room": Out(1), "reserve": In(1),
            "valid": In(1), "last": In(1),
            "x": In(config.x), "keep": In(config.count),
            **{f"address_{k}": Out(range(max(depth, 2)))
               for k, depth in enumerate(config.depths)},
            **{f"w_{k}": In(width) for k, width in enumerate(config.array.weight_widths)},
            "done": Out(1),
            "acc": Out(data.ArrayLayout(signed(config.array.acc_bits), config.array.pe)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self.config
        # Which products are not zero.
        beat, kept = Signal(config.x, reset_less=True), Signal(config.count, reset_less=True)
        fire, last, row = Signal(), Signal(reset_less=True), counter(config.rows)
        test = Cat(x != config.zero for x in self.x) if config.tested else ~0
        m.d.sync += [
            fire.eq(self.valid), last.eq(self.last), beat.eq(self.x), kept.eq(self.keep & test),
        ]
        with m.If(fire):
            m.d.sync += row.eq(Mux(row == config.rows - 1, 0, row + 1))
        bases = {size: self._base(m, size, fire, row) for size in set(map(len, config.streams))}
        # Each multiplier works until the end of a sum, where it waits for the others.
        lanes = []
        for k, members in enumerate(config.streams):
            lane = _Lane(config, members)
            m.submodules[f"lane_{k}"] = lane
            m.d.comb += [
                lane.reserve.eq(self.reserve), lane.fire.eq(fire), lane.last.eq(last),
                lane.x.eq(Cat(beat[n] for n in members)),
                lane.kept.eq(Cat(kept[n] for n in members)),
                lane.base.eq(bases[len(members)]),
                getattr(self, f"address_{k}").eq(lane.address),
            ]
            lanes.append(lane)
        end, spaced = Signal(), Signal(init=1)
        m.d.comb += [
            self.room.eq(Cat(lane.room for lane in lanes).all()),
            end.eq(Cat(lane.final for lane in lanes).all() & spaced),
            *(lane.end.eq(end) for lane in lanes),
        ]
        if config.spacing > 1:
            left = counter(config.spacing)
            m.d.sync += [
                left.eq(Mux(end, config.spacing - 1, Mux(left == 0, 0, left - 1))),
                spaced.eq(~end & ~left[1:].any()),
            ]
        self._array(m, lanes, end)
        return m

    def _base(self, m: Module, size: int, fire: Signal, row: Signal) -> Signal:
        """Address of the first weight of a row, for a multiplier with ``size`` streams."""
        if size == 1:
            return row
        base = counter(size * self.config.rows, name=f"base_{size}")
        with m.If(fire):
            m.d.sync += base.eq(Mux(row == self.config.rows - 1, 0, base + size))
        return base

    def _array(self, m: Module, lanes: list[_Lane], end: Signal) -> None:
        config = self.config
        m.submodules.array = array = MacArray(config.array)
        # A cycle without a product adds zero.
        late = ADDRESS_LATENCY + config.weight_latency
        begin = Signal(init=1)
        m.d.sync += begin.eq(end)
        late_begin = delayed(m, begin, late + config.array.sum_latency, "begin")
        m.d.comb += [
            array.add.eq(1), array.first.eq(late_begin),
            self.done.eq(delayed(m, end, late + config.array.latency, "end")),
            self.acc.eq(array.acc),
            *(getattr(array, f"w_{k}").eq(getattr(self, f"w_{k}"))
              for k in range(len(config.array.skews))),
            *(array.x[0][k].eq(delayed(m, lane.product, config.weight_latency, f"x_{k}"))
              for k, lane in enumerate(lanes)),
        ]


class _Lane(wiring.Component):
    """The streams of a multiplier: a queue of beats, from which products come one per cycle.

    A beat without products is dropped.  The newest beat with products is held back until the next
    one comes or the sum ends.  Therefore the last beat of a sum is known as such, and the end
    takes no extra cycle.
    """

    def __init__(self, config: SparseMacConfig, streams: Sequence[int]) -> None:
        self.config = config
        self.count = count = len(streams)
        self.entry = data.StructLayout({
            "kept": count, "last": 1, "base": range(max(config.rows * count, 2)),
            "x": config.bits * count,
        })
        super().__init__({
            "room": Out(1), "reserve": In(1),
            "fire": In(1), "last": In(1), "x": In(config.bits * count), "kept": In(count),
            "base": In(range(max(config.rows * count, 2))),
            "final": Out(1), "end": In(1),
            "address": Out(range(max(config.rows * count, 2))),
            "product": Out(signed(centred_bits(config.bits, config.zero))),
        })

    def elaborate(self, platform):
        m = Module()
        config, count = self.config, self.count
        m.submodules.queue = queue = Queue(
            self.entry, config.depth, (config.steps,), cancels=True
        )
        # The beat that is held back.
        held, valid = Signal(self.entry, reset_less=True), Signal()
        empty, mine = ~self.kept.any(), valid & ~held.last
        new, ends = Signal(), Signal()
        m.d.comb += [
            ends.eq(self.fire & self.last & empty & mine),
            new.eq(self.fire & (~empty | (self.last & ~mine))),
            queue.i.valid.eq(valid & (held.last | (self.fire & ~empty))),
            queue.i.p.eq(held),
            queue.cancel.eq(self.fire & ~new),
            queue.reserve.eq(self.reserve),
            self.room.eq(queue.room),
        ]
        with m.If(new):
            m.d.sync += [
                held.kept.eq(self.kept), held.last.eq(self.last), held.base.eq(self.base),
                held.x.eq(self.x), valid.eq(1),
            ]
        with m.Elif(ends):
            m.d.sync += held.last.eq(1)
        with m.Elif(queue.i.valid):
            m.d.sync += valid.eq(0)
        # The beat whose products are computed; of those that are left, the first is next.
        head, there, single = Signal(self.entry, reset_less=True), Signal(), Signal()
        pick = [head.kept[n] & ~head.kept[:n].any() for n in range(count)]
        rest = Cat(head.kept[n] & ~pick[n] for n in range(count))
        progress, over = Signal(), Signal()
        m.d.comb += [
            self.final.eq(there & head.last & single),
            progress.eq(there & ~(head.last & single)),
            over.eq(self.end | (there & single & ~head.last)),
            queue.o.ready.eq(~there | over),
        ]
        next_kept = queue.o.p.kept
        with m.If(queue.o.ready):
            m.d.sync += [
                there.eq(queue.o.valid), head.eq(queue.o.p), single.eq(_one_at_most(next_kept)),
            ]
        with m.Elif(progress):
            m.d.sync += [head.kept.eq(rest), single.eq(_one_at_most(rest))]
        # Its activation and the address of its weight.
        chosen = Signal(count, reset_less=True)
        x = Signal(config.bits * count, reset_less=True)
        base = Signal.like(self.base, name="chosen_base", reset_less=True)
        m.d.sync += [
            chosen.eq(Mux(progress | self.end, Cat(pick), 0)), x.eq(head.x), base.eq(head.base),
        ]
        words = (x[n * config.bits : (n + 1) * config.bits] for n in range(count))
        value = _any_of(word & chosen[n].replicate(config.bits) for n, word in enumerate(words))
        index = _any_of(Mux(chosen[n], n, 0) for n in range(count))
        m.d.sync += [
            self.address.eq(base + index),
            self.product.eq(Mux(chosen.any(), value.as_signed() - config.zero, 0)),
        ]
        return m


def _one_at_most(bits: Value) -> Value:
    """Whether at most one bit is set."""
    pairs = [bits[n] & bits[:n].any() for n in range(1, len(bits))]
    return ~Cat(pairs).any() if pairs else Const(1, 1)


def _any_of(terms: Iterable[Value]) -> Value:
    """Or of terms of which at most one is not zero."""
    return reduce(or_, terms)
