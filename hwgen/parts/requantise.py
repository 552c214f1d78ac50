"""Requantisation in hardware: one multiplier per lane, round half to even, saturate.

The rule is that of :func:`hwgen.ir.requantise.requantise`.  Rounding half to even is rounding half
up, with bit 0 cleared on an exact tie.  It is a tie if all dropped bits are zero after half a step
was added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import delayed, signed_width, wrapped_bits
from hwgen.device.cost import Area, Part, logic, total
from hwgen.device.lookup import choice_effort
from hwgen.device.multiplier import MULTIPLIERS, Multiplier
from hwgen.errors import HwgenError
from hwgen.ir import Table
from hwgen.ir.requantise import Requantise, requantise
from hwgen.ir.types import Quantisation
from hwgen.parts.memory import ReadOnlyMemory, lookup_area
from hwgen.parts.stream import pack_rows

__all__ = ["Requantiser", "RequantiserConfig", "RoundShift", "lane_requantiser"]


def shift_width(shifts: tuple[int, int]) -> int:
    """Bits that select a shift between the smallest and the largest; at least one."""
    return max((shifts[1] - shifts[0]).bit_length(), 1)


class RoundShift(wiring.Component):
    """``clamp(zp + round_half_even((i + offset) / 2**shift))`` as a free-running pipeline.

    Parameters
    ----------
    width : :class:`int`
        Bits of the signed input.
    shifts : pair of :class:`int`
        Smallest and largest shift.
    output : :class:`Quantisation`
    half_bits : :class:`int`
        Bits of ``half``; 0: there are no offsets, and half a step is computed from the shift.

    Members
    -------
    i : :py:`In(signed(width))`
    shift : :py:`In(unsigned(bits))`
        The shift minus the smallest one.
    half : :py:`In(signed(half_bits))`, if ``half_bits`` is not 0
        The offset plus half a step of the result: ``offset + 2**(shift - 1)``.
    o : :py:`Out(signed(output.bits))`

    Timing
    ------
    Five cycles; one value per cycle.
    """

    latency = 5

    def __init__(
        self, width: int, shifts: tuple[int, int], output: Quantisation, half_bits: int = 0
    ) -> None:
        self.width = width
        self.shifts = shifts
        self.output = output
        self.half_bits = half_bits
        members: dict[str, wiring.Member] = {
            "i": In(signed(width)),
            "shift": In(shift_width(shifts)),
            "o": Out(signed(output.bits)),
        }
        if half_bits:
            members["half"] = In(signed(half_bits))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        low, high = self.shifts
        span = shift_width(self.shifts)
        coarse = max(span - 3, 0)
        # 1: add half a step.  The smallest shift is wired; a barrel shifter does the rest.
        # Half a step may be wider than the input, because a shift beyond its width gives zero.
        total = Signal(signed(max(self.width, self.half_bits, high) + 1), reset_less=True)
        shift_1 = Signal(unsigned(span), reset_less=True)
        if self.half_bits:
            half = self.half
        else:
            half = Signal(unsigned(high + 1))
            m.d.comb += half.eq(Const(1 << (low - 1), high) << self.shift)
        m.d.sync += [total.eq(self.i + half), shift_1.eq(self.shift)]
        # 2 and 3: shift by multiples of eight, then by the rest; if a 1 is dropped, it is no tie.
        by_8 = Signal(signed(max(len(total) - low, 2)), reset_less=True)
        by_1 = Signal.like(by_8, reset_less=True)
        dropped_8, dropped_1 = Signal(reset_less=True), Signal(reset_less=True)
        shift_2 = Signal(unsigned(min(span, 3)), reset_less=True)
        base = total >> low
        with m.Switch(shift_1[3:]):
            for k in range(1 << coarse):
                with m.Case(k) if coarse else m.Default():
                    m.d.sync += [
                        by_8.eq(base >> (8 * k)),
                        dropped_8.eq(total[: min(low + 8 * k, len(total))].any()),
                    ]
        m.d.sync += shift_2.eq(shift_1[:3])
        with m.Switch(shift_2):
            for k in range(1 << len(shift_2)):
                with m.Case(k) if len(shift_2) else m.Default():
                    m.d.sync += [
                        by_1.eq(by_8 >> k),
                        dropped_1.eq(dropped_8 | (by_8[: min(k, len(by_8))].any() if k else 0)),
                    ]
        # 4: clear bit 0 on a tie, add the zero point; 5: saturate.
        placed = Signal(signed(max(len(by_1), self.output.bits) + 1), reset_less=True)
        even = Signal.like(by_1)
        m.d.comb += even.eq(by_1)
        with m.If(~dropped_1):
            m.d.comb += even[0].eq(0)
        m.d.sync += placed.eq(even + self.output.zero_point)
        m.d.sync += self.o.eq(
            Mux(placed > self.output.high, self.output.high,
                Mux(placed < self.output.low, self.output.low, placed))
        )
        return m


def round_shift_area(
    width: int, shifts: tuple[int, int], output, count: int = 1, half_bits: int = 0
) -> Area:
    """Area of ``count`` :class:`RoundShift`.

    Parameters
    ----------
    width : bits of the input
    shifts : the smallest and the largest shift
    output : quantisation of the result
    half_bits : bits of an offset that is added with half a step; 0: there are no offsets
    """
    low, high = shifts
    whole = max(width, high, half_bits) + 1
    kept = max(whole - low, 2)
    span = (high - low).bit_length()
    by_1 = {0: 0, 1: 1, 2: 1}.get(span, 2.5)
    by_8 = 0 if span <= 3 else (1 << span - 3) // 2
    return logic(
        "round", ff_register=count * (whole + 3 * kept + output.bits + 3 + span + min(span, 3)),
        lut_one=count, lut_kept=count * kept, lut_by_1=count * kept * by_1,
        lut_by_8=count * kept * by_8, lut_dropped=count * low / 5,
        lut_output=count * output.bits * 1.5,
        lut_zero=count * kept * (output.zero_point != 0),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class RequantiserConfig(Part):
    """Requantisation of a stream of accumulators, channel after channel.

    There may be several *sets* of parameters, one of which is chosen for every beat.

    Parameters
    ----------
    requantise : :class:`Requantise`
        Multipliers and shifts per channel: the same for all sets, or those of one set after the
        other.
    bias : integer array, shape ``(C,)`` or ``(sets, C)``
        Added before the multiplication.
    output : :class:`Quantisation`
    acc_range : pair of :class:`int`
        Smallest and largest accumulator, with and without bias.
    lanes : :class:`int`
        Channels per beat; divides C.
    pixels : :class:`int`
        Pixels per beat, which share the parameters.
    multiplier : :class:`str`
        One of :data:`hwgen.device.multiplier.MULTIPLIERS`.
    folded : :class:`bool`
        Whether channels come in folds, each several times before the next one.
    lookup : :class:`Table` or None
        A function that is applied to the results, the same for all channels.
    """

    requantise: Requantise
    bias: np.ndarray
    output: Quantisation
    acc_range: tuple[int, int]
    lanes: int = 1
    pixels: int = 1
    multiplier: str = "dsp48e2"
    folded: bool = False
    lookup: Table | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", np.atleast_2d(self.bias))
        if len(self.requantise) not in (self.channels, self.bias.size):
            raise HwgenError(
                f"Bias {self.bias.shape!r} does not fit {len(self.requantise)} multipliers"
            )
        if self.lanes < 1 or self.channels % self.lanes:
            raise HwgenError(f"Lanes must divide {self.channels} channels, not {self.lanes!r}")
        if self.lookup is not None and self.lookup.values.shape != (1 << self.output.bits,):
            raise HwgenError(
                f"Table must have {1 << self.output.bits} entries, for all channels, "
                f"not the shape {self.lookup.values.shape!r}"
            )

    @property
    def result_bits(self) -> int:
        """Bits of a result."""
        return (self.lookup or self).output.bits

    @property
    def lookup_memory(self) -> ReadOnlyMemory:
        """Memory of the table; there is one for each lane and pixel."""
        return ReadOnlyMemory(self.result_bits, 1 << self.output.bits)

    @property
    def acc_bits(self) -> int:
        """Bits of an accumulator."""
        return signed_width(*self.acc_range)

    @property
    def channels(self) -> int:
        """Number of channels, which come one after the other."""
        return self.bias.shape[1]

    @property
    def sets(self) -> int:
        """Number of sets of parameters."""
        return len(self.bias)

    @property
    def rows(self) -> int:
        """Number of rows in the parameter memory: for each beat of a pixel, one of each set."""
        return self.channels // self.lanes * self.sets

    @property
    def shifts(self) -> tuple[int, int]:
        """Smallest and largest shift."""
        return int(self.requantise.shift.min()), int(self.requantise.shift.max())

    @property
    def latency(self) -> int:
        """Cycles from an accumulator to its result."""
        product = self.device.product_latency(*self._operands)
        table = self.lookup_memory.latency if self.lookup is not None else 0
        return 3 + self.choice_latency + product + RoundShift.latency + table

    @property
    def choice_latency(self) -> int:
        """Cycles to compute the address of the parameters of a set."""
        return int(self.sets > 1)

    @property
    def device(self) -> Multiplier:
        """The multiplier."""
        return MULTIPLIERS[self.multiplier]

    @property
    def _operands(self) -> tuple[int, int]:
        """Bits of the multiplication's operands, the wider first."""
        bits = self.acc_bits, self.requantise.multiplier_bits + 1
        return max(bits), min(bits)

    @cached_property
    def _scales(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Multipliers, shifts and offsets, ``(sets, C)``."""
        rule = self.requantise
        offset = np.zeros_like(rule.shift) if rule.offset is None else rule.offset
        multiplier, shift, offset = (
            np.broadcast_to(a.reshape(-1, self.channels), self.bias.shape)
            for a in (rule.multiplier, rule.shift, offset))
        return multiplier, shift, offset

    @cached_property
    def _halves(self) -> np.ndarray:
        """Offsets plus half a step of the result, ``(sets, C)``."""
        _, shift, offset = self._scales
        return offset + (np.int64(1) << (shift - 1))

    @property
    def half_bits(self) -> int:
        """Bits of an offset plus half a step of the result; 0: there are no offsets."""
        if self.requantise.offset is None:
            return 0
        return signed_width(int(self._halves.min()), int(self._halves.max()))

    @cached_property
    def _table(self) -> tuple[tuple[int, int, int, int], np.ndarray]:
        """Widths of bias, multiplier, shift and half a step; bits of the rows of their memory."""
        low, _ = self.shifts
        bias_bits = signed_width(int(self.bias.min()), int(self.bias.max()))
        widths = (bias_bits, self.requantise.multiplier_bits, shift_width(self.shifts),
                  self.half_bits)
        multiplier, shift, _ = self._scales
        columns = self.bias, multiplier, shift - low, self._halves
        bits = [(c[..., None] >> np.arange(w)) & 1 for c, w in zip(columns, widths, strict=True)]
        table = np.concatenate(bits, axis=-1).reshape(self.sets, -1, self.lanes * sum(widths))
        return widths, table.transpose(1, 0, 2).reshape(self.rows, -1)

    def area(self) -> Area:
        """What the requantisers take."""
        count = self.lanes * self.pixels
        (bias, scale, *_), table = self._table
        table = table.reshape(self.rows, self.lanes, -1)
        some = self.rows > 1

        def different(columns: np.ndarray) -> int:
            """Number of bits that differ from row to row; equal ones of few rows count once."""
            columns = columns.reshape(self.rows, -1)
            varying = np.any(columns != columns[:1], axis=0)
            if self.rows > 12 or not varying.any():
                return int(varying.sum())
            return np.unique(columns[:, varying], axis=1).shape[1]

        live: np.ndarray = np.any(table[:, 0, bias : bias + scale], axis=0)
        wide, narrow = self._operands
        signed_live = [*live.tolist(), False]
        if self.acc_bits >= len(signed_live):
            digits = [sum(signed_live[k : k + 2]) for k in range(0, narrow, 2)]
            a, b = wide, narrow
        else:
            digits, a, b = (), int(live.sum()) + 1, narrow
        blocks, blocks4 = -(-self.rows // 64), -(-self.rows // 16)
        differing, moved = different(table), different(table[:, :, bias:])
        # Without a bias, the three registers that are left become a shift register.
        plain = bool(table[:, :, :bias].any())
        scales = table[:, :, bias : bias + scale]
        constant = not (scales != scales[:1]).any()
        out = self.device.area(a, b, count, digits, "constant " if constant else "")
        if self.lookup is not None:
            out += lookup_area([self.lookup.by_address], self.lookup_memory, count)
        return out + total((
            logic(
                "requantiser", one=1, ff_latency=self.latency,
                address=(max(self.rows, 2) - 1).bit_length() * some,
                lut_wrap=wrapped_bits(self.rows) * some,
                sets=self.choice_latency * (max(self.rows, 2) - 1).bit_length(),
                lut_table=differing * blocks, lut_choices=differing * choice_effort(blocks),
                ff_bias=different(table[:, :, :bias]), moved=moved,
                ff_few=moved * (self.rows < 16),
                ff_acc=count * self.acc_bits * (plain + 2 * (self.sets == 1) * plain),
                lut_acc=count * self.acc_bits * plain,
                lut_late=count * self.acc_bits * (self.sets > 1 or not plain),
                ff4_late=count * self.acc_bits * (self.sets > 1 or not plain),
                lut4_table=differing * blocks4, lut4_choices=differing * (blocks4 - 1),
                lut4_adders=count,
            ),
            round_shift_area(wide + narrow - 1, self.shifts, self.output, count, self.half_bits),
        ))

    def compute(self, acc: np.ndarray, set: np.ndarray | int = 0) -> np.ndarray:
        """Golden model, for accumulators ``(..., C)`` without bias and sets ``(...)``."""
        multiplier, shift, offset = self._scales
        result = requantise(
            acc + self.bias[set], multiplier[set], shift[set], self.output, offset[set])
        return result if self.lookup is None else self.lookup.values[result - self.output.low]

    def create(self) -> Requantiser:
        return Requantiser(self)


def lane_requantiser(
    requantise: Requantise, output: Quantisation, *, lanes: int, acc_range: tuple[int, int],
    multiplier: str, bias: int = 0, entry: Sequence[int] = (0,),
) -> RequantiserConfig:
    """Requantisers, one for each lane, whose multiplier does not depend on the channel.

    ``entry`` is, for each set of parameters, the number of its multiplier and shift.
    """
    if multiplier not in MULTIPLIERS:
        raise HwgenError(f"Multiplier must be one of {', '.join(MULTIPLIERS)}, not {multiplier!r}")
    rows = np.asarray(entry)
    offset = requantise.offset
    return RequantiserConfig(
        requantise=Requantise(
            np.repeat(requantise.multiplier[rows], lanes), np.repeat(requantise.shift[rows], lanes),
            requantise.multiplier_bits,
            None if offset is None else np.repeat(offset[rows], lanes),
        ),
        bias=np.full((len(rows), lanes), bias), output=output, acc_range=acc_range, lanes=lanes,
        multiplier=multiplier,
    )


class Requantiser(wiring.Component):
    """Free-running pipeline of ``lanes * pixels`` requantisers, which all channels share.

    Parameters
    ----------
    config : :class:`RequantiserConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(acc_bits), lanes * pixels), always_ready=True))`
        Accumulators in the order of channels; those of the pixels of a beat are adjacent.
    set : :py:`In(range(sets))`, if there are several
        With each beat: the number of its set of parameters.
    end, again : :py:`In(1)`, if ``config.folded``
        Whether the beat is the last of a fold, and whether the same fold comes again.
    o : :py:`Out(stream.Signature(ArrayLayout(signed(result_bits), lanes * pixels), \
        always_ready=True))`

    Timing
    ------
    ``config.latency`` cycles; one beat per cycle.
    """

    def __init__(self, config: RequantiserConfig) -> None:
        self.config = config
        count = config.lanes * config.pixels
        acc = data.ArrayLayout(signed(config.acc_bits), count)
        out = data.ArrayLayout(signed(config.result_bits), count)
        members: dict[str, wiring.Member] = {
            "i": In(stream.Signature(acc, always_ready=True)),
            "o": Out(stream.Signature(out, always_ready=True)),
        }
        if config.sets > 1:
            members["set"] = In(range(config.sets))
        if config.folded:
            members |= {"end": In(1), "again": In(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        (bias_bits, scale_bits, shift_bits, half_bits), rows = config._table
        row = data.StructLayout({
            "bias": signed(bias_bits), "multiplier": unsigned(scale_bits),
            "shift": unsigned(shift_bits),
            **({"half": signed(half_bits)} if half_bits else {}),
        })
        m.submodules.parameters = memory = Memory(
            shape=row.size * config.lanes, depth=max(config.rows, 2), init=pack_rows(rows, 1),
        )
        read = memory.read_port()
        # The row of the first set for these channels; those of the other sets follow.
        first = read.addr
        if config.sets > 1:
            first = Signal.like(read.addr, name="first")
            m.d.sync += read.addr.eq(first + self.set)
        after = Signal.like(first, name="after")
        m.d.comb += after.eq(Mux(first == config.rows - config.sets, 0, first + config.sets))
        with m.If(self.i.valid):
            m.d.sync += first.eq(after)
            if config.folded:
                fold = Signal.like(first, name="fold")
                with m.If(self.end & self.again):
                    m.d.sync += first.eq(fold)
                with m.Elif(self.end):
                    m.d.sync += fold.eq(after)
        valid = self.i.valid
        for k in range(config.latency):
            later = Signal(name=f"valid_{k}")
            m.d.sync += later.eq(valid)
            valid = later
        m.d.comb += self.o.valid.eq(valid)
        latency = config.device.product_latency(*config._operands)
        for lane in range(config.lanes):
            parameter = data.View(row, read.data[lane * row.size : (lane + 1) * row.size])
            # The memory has a slow output, so it goes directly into a register.
            read_2 = Signal(row, name=f"parameter_{lane}", reset_less=True)
            scale = Signal(signed(scale_bits + 1), name=f"scale_{lane}", reset_less=True)
            shift_1 = Signal(shift_bits, name=f"shift_1_{lane}", reset_less=True)
            m.d.sync += [
                read_2.eq(parameter), scale.eq(read_2.multiplier), shift_1.eq(read_2.shift)
            ]
            shift_2 = delayed(m, shift_1, latency, f"shift_{lane}")
            if half_bits:
                half = delayed(m, read_2.half, latency + 1, f"half_{lane}")
            for k in range(lane * config.pixels, (lane + 1) * config.pixels):
                acc = delayed(m, self.i.p[k], config.choice_latency + 2, f"acc_{k}")
                biased = Signal(signed(config.acc_bits), name=f"biased_{k}", reset_less=True)
                m.d.sync += biased.eq(acc + read_2.bias)
                wide, narrow = (biased, scale) if len(biased) >= len(scale) else (scale, biased)
                # The multiplier is unsigned, so the highest bit of the product is redundant.
                product = config.device.product(m, wide, narrow, f"product_{k}")[:-1].as_signed()
                m.submodules[f"round_{k}"] = rounder = RoundShift(
                    len(product), config.shifts, config.output, half_bits
                )
                if half_bits:
                    m.d.comb += rounder.half.eq(half)
                result: Value = rounder.o
                if config.lookup is not None:
                    rows = pack_rows(config.lookup.by_address[:, None], config.result_bits)
                    result = config.lookup_memory.read(m, f"table_{k}", result, rows)
                m.d.comb += [
                    rounder.i.eq(product), rounder.shift.eq(shift_2), self.o.p[k].eq(result)
                ]
        return m
