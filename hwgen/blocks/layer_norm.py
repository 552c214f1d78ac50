"""Normalisation of each pixel over its channels: sums while it comes, a product while it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring

from hwgen import ir
from hwgen.blocks.base import OpConfig, Schedule
from hwgen.blocks.beat import most_claims, valid_chain
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import adder_tree, delayed, levels, signed_width
from hwgen.device.cost import Area, logic, shift_or_registers, total
from hwgen.device.multiplier import MULTIPLIERS, Multiplier
from hwgen.errors import HwgenError
from hwgen.ir.norm import ENTRIES, FIRST_ENTRY, ROOT_BITS
from hwgen.parts.component import Configured
from hwgen.parts.memory import ReadOnlyMemory
from hwgen.parts.queue import QUEUE_LATENCY, Queue, queue_area
from hwgen.parts.requantise import RoundShift, round_shift_area
from hwgen.parts.stream import in_order
from hwgen.parts.turns import last_of

__all__ = ["LayerNorm", "LayerNormConfig"]

ENTRY_BITS = (FIRST_ENTRY + ENTRIES - 1).bit_length()
"""Highest bits of a variance that choose a reciprocal root."""


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(OpConfig):
    """LayerNorm or RMSNorm of each pixel.

    Parameters
    ----------
    op : :class:`hwgen.ir.LayerNorm`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat, at both ports.
    multiplier : :class:`str`
        Multiplier of squares and results, one of :data:`hwgen.device.multiplier.MULTIPLIERS`.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such multiplier.
    """

    kind: ClassVar[str] = "elementwise"

    op: ir.LayerNorm
    multiplier: str = "dsp48e2"

    def __post_init__(self) -> None:
        if self.multiplier not in MULTIPLIERS:
            raise HwgenError(f"Multiplier must be one of {', '.join(MULTIPLIERS)}, not "
                             f"{self.multiplier!r}")
        super().__post_init__()

    @property
    def device(self) -> Multiplier:
        """The multiplier."""
        return MULTIPLIERS[self.multiplier]

    @property
    def beats(self) -> int:
        """Beats of a pixel."""
        return self.inputs[0].beats_per_site

    # Widths

    @property
    def span(self) -> tuple[int, int]:
        """The smallest and the largest operand: a code, less the zero point without centring."""
        q, offset = self.tensor.quantisation, self.op.offset(self.tensor)
        return q.low - offset, q.high - offset

    @property
    def x_bits(self) -> int:
        """Bits of an operand."""
        return signed_width(*self.span)

    @property
    def sum_bits(self) -> int:
        """Bits of the sum of a pixel's operands."""
        return signed_width(*(self.tensor.channels * end for end in self.span))

    @property
    def square_bits(self) -> int:
        """Bits of the sum of a pixel's squares, with a sign."""
        return signed_width(0, self.tensor.channels * max(end * end for end in self.span))

    @property
    def variance_bits(self) -> int:
        """Bits of a variance without its sign, an even number, as many as its root is chosen by."""
        bits = max(self.op.variance_bits(self.tensor), ENTRY_BITS + 1)
        return bits + bits % 2

    @property
    def product_bits(self) -> int:
        """Bits of the sum of squares times the number of channels, and of the sum's square."""
        return max(self.square_bits + levels(self.tensor.channels + 1), 2 * self.sum_bits)

    @property
    def difference_bits(self) -> int:
        """Bits of an operand times the number of channels, less the sum."""
        low, high = self.span
        most = self.tensor.channels * (high - low if self.op.centred else max(high, -low))
        return signed_width(-most, most)

    @property
    def exponents(self) -> tuple[int, int]:
        """The smallest and the largest half exponent of a variance."""
        return ((self.op.epsilon.bit_length() - 1) // 2,
                (self.op.variance_bits(self.tensor) - 1) // 2)

    @property
    def shifts(self) -> tuple[int, int]:
        """The smallest and the largest shift of a result."""
        low, high = self.exponents
        return self.op.shift + low, self.op.shift + high

    @property
    def statistics(self) -> data.StructLayout:
        """What is known of a pixel when it goes."""
        low, high = self.exponents
        return data.StructLayout({
            "root": unsigned(ROOT_BITS), "exponent": range(max(high - low + 1, 2)),
            **({"sum": signed(self.sum_bits)} if self.op.centred else {})})

    @cached_property
    def roots(self) -> ReadOnlyMemory:
        """The table of reciprocal roots, at the bits of the mantissa."""
        return ReadOnlyMemory(ROOT_BITS, FIRST_ENTRY + ENTRIES)

    # Times

    @property
    def offset_latency(self) -> int:
        """Cycles to subtract the zero point."""
        return int(self.op.offset(self.tensor) != 0)

    @property
    def scaled_latency(self) -> int:
        """Cycles to multiply with the number of channels, and to subtract a sum."""
        return _scaled_latency(self.tensor.channels, self.op.centred)

    @property
    def normalising_steps(self) -> int:
        """Steps in which a variance is moved up until its highest bits are not both 0."""
        return levels(self.variance_bits // 2)

    @property
    def square_latency(self) -> int:
        """Cycles from a beat's operands to its squares."""
        return self.device.product_latency(self.x_bits, self.x_bits)

    @property
    def sum_latency(self) -> int:
        """Cycles from the last beat of a pixel to its sums."""
        return 1 + self.offset_latency + self.square_latency + levels(self.lanes) + 1

    @property
    def variance_latency(self) -> int:
        """Cycles from the sums to the variance."""
        scaled = _scaled_latency(self.tensor.channels, False)
        if not self.op.centred:
            return scaled + 1
        return max(scaled, self.device.product_latency(self.sum_bits, self.sum_bits)) + 2

    @property
    def statistics_latency(self) -> int:
        """Cycles from the last beat of a pixel until what is known of it is visible."""
        return (self.sum_latency + self.variance_latency + self.normalising_steps
                + self.roots.latency + QUEUE_LATENCY)

    @property
    def push_latency(self) -> int:
        """Cycles from taking a beat again to pushing its result."""
        return (self.offset_latency + self.scaled_latency
                + self.device.product_latency(*self.product_operands) + RoundShift.latency)

    @property
    def product_operands(self) -> tuple[int, int]:
        """Bits of a difference and of a reciprocal root, the wider first."""
        bits = self.difference_bits, ROOT_BITS + 1
        return max(bits), min(bits)

    @property
    def waiting_beats(self) -> int:
        """Beats that wait for the sums of their pixels."""
        return self.beats + self.statistics_latency

    @property
    def waiting_pixels(self) -> int:
        """Pixels of which something is known, or soon will be, and that have not gone."""
        return most_claims(self.waiting_beats, 1, self.beats)

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (self.push_latency + QUEUE_LATENCY + 1,)

    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        accept = in_order(arrivals[0])
        begin = accept[self.beats - 1 :: self.beats] + self.statistics_latency
        again = (begin[:, None] + np.arange(self.beats)).ravel()
        return Schedule((accept,), (again + self.push_latency + QUEUE_LATENCY,), (again,))

    # Resources

    def parts(self) -> dict[str, Area]:
        a, b = self.product_operands
        channels = self.tensor.channels
        root_sum = self.device.area(self.sum_bits, self.sum_bits) if self.op.centred else Area()
        table = self.roots.area()
        return {
            "queue": self.queues_area(),
            "waiting": queue_area(self.inputs[0].width, self.waiting_beats, 1, "")
            + queue_area(self.statistics.size, self.waiting_pixels, 1, ""),
            "sums": self.device.area(self.x_bits, self.x_bits, self.lanes)
            + _adders(self.lanes + 1, self.square_bits)
            + (_adders(self.lanes + 1, self.sum_bits) if self.op.centred else Area()),
            "root": root_sum + table + _adders(
                len(_digits(channels)) + 1, self.product_bits)
            + logic("layer norm", moved=self.normalising_steps * (
                self.variance_bits + levels(self.variance_bits // 2))),
            "results": self.device.area(a, b, self.lanes) + round_shift_area(
                a + b - 1, self.shifts, self.op.output, self.lanes)
            + total([_adders(len(_digits(channels)) + self.op.centred,
                             self.difference_bits)] * self.lanes),
        }

    def area(self) -> Area:
        flags = self.statistics_latency + self.push_latency + 2 * self.sum_latency
        return total(self.parts().values()) + self._delays + logic(
            "layer norm", one=1, counter=2 * levels(self.beats), ff_flags=flags,
            offset=2 * self.lanes * self.x_bits * self.offset_latency)

    @property
    def _delays(self) -> Area:
        """What waits for something else."""
        low, high = self.exponents
        exponent = levels(high - low + 1)
        known = self.offset_latency + self.scaled_latency
        waits = [(1, self.lanes * self.tensor.bits), (self.roots.latency, exponent),
                 (known, ROOT_BITS),
                 (known + self.device.product_latency(*self.product_operands), exponent)]
        if self.op.centred:
            late = self.variance_latency + self.normalising_steps + self.roots.latency
            apart = _scaled_latency(self.tensor.channels, False) - self.device.product_latency(
                self.sum_bits, self.sum_bits)
            waits += [(self.square_latency, self.sum_bits), (late, self.sum_bits),
                      (abs(apart), self.product_bits), (self.offset_latency, self.sum_bits)]
        return total(logic("delays", **shift_or_registers(*wait)) for wait in waits)

    def figures(self) -> dict[str, Any]:
        return {"centred": self.op.centred}

    def create(self) -> LayerNorm:
        return LayerNorm(self)


class LayerNorm(Configured[LayerNormConfig]):
    """Sums a pixel's channels and their squares while it comes, and scales it while it goes.

    The beats wait in a queue until the reciprocal root is known, which takes a few dozen cycles;
    meanwhile those of the next pixels come.  Nothing in it ever stops but the queue's two ends.

    Parameters
    ----------
    config : :class:`LayerNormConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    One beat per cycle.  If the last beat of a pixel is accepted in cycle t, the pixel's first
    result is visible in t + 3 + ``config.statistics_latency`` + ``config.push_latency``.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        m.submodules.waiting = waiting = Queue(
            config.inputs[0].payload, config.waiting_beats)
        m.submodules.statistics = statistics = Queue(config.statistics, config.waiting_pixels)
        fire = Signal()
        last = last_of(m, config.beats, fire, "beats_left") if config.beats > 1 else Const(1)
        m.d.comb += [
            self.i.ready.eq(waiting.room & (~last | statistics.room)),
            fire.eq(self.i.valid & self.i.ready),
            waiting.reserve.eq(fire), waiting.i.valid.eq(fire), waiting.i.p.eq(self.i.p),
            statistics.reserve.eq(fire & last),
        ]
        self._known(m, fire, fire & last, statistics)
        # Results, beat after beat of a pixel that is known.
        step = Signal()
        over = last_of(m, config.beats, step, "again_left") if config.beats > 1 else 1
        m.d.comb += [
            step.eq(waiting.o.valid & statistics.o.valid & queue.room),
            waiting.o.ready.eq(step), statistics.o.ready.eq(step & over),
            queue.reserve.eq(step),
            queue.i.valid.eq(valid_chain(m, step, config.push_latency)[-1]),
        ]
        known = data.View(config.statistics, statistics.o.p)
        self._results(m, [waiting.o.p[lane] for lane in range(config.lanes)], known, queue)
        return m

    def _operands(self, m: Module, codes: Sequence[Value], name: str) -> list[Value]:
        """Codes less what is subtracted from them, ``config.offset_latency`` cycles later."""
        config = self.config
        offset = config.op.offset(config.tensor)
        operands: list[Value] = []
        for lane, code in enumerate(codes):
            x: Value = code
            if offset:
                x = Signal(signed(config.x_bits), name=f"{name}_{lane}", reset_less=True)
                m.d.sync += x.eq(code - offset)
            operands.append(x)
        return operands

    def _known(self, m: Module, fire: Value, ends: Value, statistics: Queue) -> None:
        """From the beats of a pixel to what is known of it."""
        config = self.config
        op, device, channels = config.op, config.device, config.tensor.channels
        codes = [delayed(m, self.i.p[lane], 1, f"x_{lane}") for lane in range(config.lanes)]
        operands = self._operands(m, codes, "operand")
        chain = valid_chain(m, ends, config.statistics_latency - QUEUE_LATENCY)
        begins = Signal(init=1)
        with m.If(fire):
            m.d.sync += begins.eq(ends)
        at = config.sum_latency - 1
        live = valid_chain(m, fire, at)[-1]
        first = valid_chain(m, fire & begins, at)[-1]

        def summed(values: list[Value], bits: int, late: int, name: str) -> Value:
            tree, _ = adder_tree(m, [(v, None) for v in values], len(values[0]), name)
            acc = Signal(signed(bits), name=f"{name}_sum", reset_less=True)
            tree = delayed(m, tree, late, name)
            with m.If(live & first):
                m.d.sync += acc.eq(tree)
            with m.Elif(live):
                m.d.sync += acc.eq(acc + tree)
            return acc

        squares: list[Value] = [
            device.product(m, x, x, f"square_{lane}") for lane, x in enumerate(operands)]
        square = summed(squares, config.square_bits, 0, "squares")
        scaled, late = _scaled(m, square, channels, config.product_bits, "scaled_squares")
        if op.centred:
            sum = summed(operands, config.sum_bits, config.square_latency, "codes")
            product = device.product(m, sum, sum, "square_of_sum")
            wait = device.product_latency(config.sum_bits, config.sum_bits)
            variance = Signal(signed(config.product_bits + 1), reset_less=True)
            m.d.sync += variance.eq(
                delayed(m, scaled, max(wait - late, 0), "scaled_squares")
                - delayed(m, product, max(late - wait, 0), "square_of_sum"))
            scaled = variance
        moved = Signal(unsigned(config.variance_bits), name="variance", reset_less=True)
        m.d.sync += moved.eq(scaled + op.epsilon)
        # A variance is moved up by pairs of bits, until one of the highest two is 1.
        exponent: Value = Const(config.variance_bits // 2 - 1)
        for k in reversed(range(config.normalising_steps)):
            pairs = 1 << k
            up = Signal.like(moved, name=f"variance_{k}", reset_less=True)
            less = Signal(Const(config.variance_bits // 2).shape(), name=f"exponent_{k}",
                          reset_less=True)
            zero = moved[-2 * pairs:] == 0
            m.d.sync += [up.eq(Mux(zero, moved << 2 * pairs, moved)),
                         less.eq(Mux(zero, exponent - pairs, exponent))]
            moved, exponent = up, less
        rows = [0] * FIRST_ENTRY + op.roots.tolist()
        known = data.View(config.statistics, statistics.i.p)
        m.d.comb += [
            statistics.i.valid.eq(chain[-1]),
            known.root.eq(config.roots.read(m, "roots", moved[-ENTRY_BITS:], rows)),
            known.exponent.eq(delayed(
                m, exponent - config.exponents[0], config.roots.latency, "exponent")),
        ]
        if op.centred:
            late = config.variance_latency + config.normalising_steps + config.roots.latency
            m.d.comb += known.sum.eq(delayed(m, sum, late, "sum"))

    def _results(self, m: Module, codes: Sequence[Value], known: data.View, queue: Queue) -> None:
        """From beats that are taken again, and what is known of their pixel, to results."""
        config = self.config
        late = config.offset_latency + config.scaled_latency
        root = delayed(m, known.root, late, "root")
        product_latency = config.device.product_latency(*config.product_operands)
        shift = delayed(m, known.exponent, late + product_latency, "shift")
        less = None
        if config.op.centred:
            less = delayed(m, known.sum, config.offset_latency, "sum")
        for lane, x in enumerate(self._operands(m, codes, "again")):
            difference, _ = _scaled(
                m, x, config.tensor.channels, config.difference_bits, f"difference_{lane}", less)
            wide, narrow = sorted(
                (difference, Cat(root, 0).as_signed()), key=len, reverse=True)
            product = config.device.product(m, wide, narrow, f"product_{lane}")[:-1].as_signed()
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                len(product), config.shifts, config.op.output)
            m.d.comb += [rounder.i.eq(product), rounder.shift.eq(shift),
                         queue.i.p[lane].eq(rounder.o)]


def _digits(count: int) -> list[tuple[int, int]]:
    """A number as few powers of two, each added or subtracted: exponents, and 1 or -1.

    (Reitwiesner's canonical signed digits.)
    """
    digits, place = [], 0
    while count:
        if count % 2:
            digit = 2 - count % 4
            digits.append((place, digit))
            count -= digit
        count, place = count // 2, place + 1
    return digits


def _scaled_latency(count: int, less: bool) -> int:
    """Cycles of :func:`_scaled`."""
    added, taken = (sum(digit == sign for _, digit in _digits(count)) for sign in (1, -1))
    taken += less
    return max(levels(added), levels(taken) if taken else 0) + 1 if taken else max(levels(added), 1)


def _scaled(
    m: Module, value: Value, count: int, bits: int, name: str, less: Value | None = None
) -> tuple[Value, int]:
    """A value times a number, less another value: a tree of what is added, one of what is taken.

    Returns
    -------
    the result, a register of ``bits`` bits, and the cycles that it takes
    """
    latency = _scaled_latency(count, less is not None)
    added, taken = (
        [value << place for place, digit in _digits(count) if digit == sign] for sign in (1, -1))
    if less is not None:
        taken.append(less)

    def tree(terms: list[Value], cycles: int, label: str) -> Value:
        total, _ = adder_tree(m, [(term, None) for term in terms],
                              max(map(len, terms)), f"{name}_{label}")
        return delayed(m, total, cycles - levels(len(terms)), f"{name}_{label}")

    if not taken:
        return tree(added, latency, "added")[:bits].as_signed(), latency
    result = Signal(signed(bits), name=name, reset_less=True)
    m.d.sync += result.eq(tree(added, latency - 1, "added") - tree(taken, latency - 1, "taken"))
    return result, latency


def _adders(terms: int, bits: int) -> Area:
    """Area of registered adders of so many terms."""
    return logic("layer norm", lut_sum=max(terms - 1, 0) * bits, ff_sum=max(terms - 1, 1) * bits)


@carries_out(ir.LayerNorm)
def _normalisation(request: BlockRequest) -> LayerNormConfig:
    return LayerNormConfig(op=request.op, tensor=request.tensor, lanes=request.lanes,
                               **request.folded(LayerNormConfig))
