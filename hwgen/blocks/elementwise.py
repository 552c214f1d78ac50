"""Blocks that work beat by beat: table lookup and addition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring

from hwgen.blocks import area
from hwgen.blocks.arithmetic import adder_tree, levels, signed_width
from hwgen.blocks.base import Area, OpConfig, counter, pack_rows
from hwgen.blocks.beat import BeatConfig, Pair, PairConfig, valid_chain
from hwgen.blocks.memory import ReadOnlyMemory, read_words
from hwgen.blocks.queue import output_queue
from hwgen.blocks.requantise import RoundShift
from hwgen.ir import Add, Table

__all__ = ["Adder", "AdderConfig", "TableLookup", "TableLookupConfig"]

PIECE_BITS = 8
"""Most bits of a code that an adder looks up in one table."""


@dataclass(frozen=True, kw_only=True)
class TableLookupConfig(BeatConfig, OpConfig):
    """A table lookup of every element.

    Parameters
    ----------
    op : :class:`hwgen.ir.Table`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Elements a beat, each with a table of its own; where the function depends on the channel,
        with those of all its channels.
    """

    kind: ClassVar[str] = "elementwise"

    op: Table

    @property
    def tables(self) -> int:
        """Functions of a lane."""
        return self.inputs[0].beats_per_site if self.op.by_channel else 1

    @property
    def memory(self) -> ReadOnlyMemory:
        """The memory of a lane."""
        return ReadOnlyMemory(self.op.output.bits, self.tables << self.tensor.bits)

    def rows(self, lane: int) -> list[int]:
        """Contents of a lane's memory; the address is the code, then the beat of the pixel."""
        values = self.op.by_address
        own = values[lane :: self.lanes] if self.op.by_channel else values
        return pack_rows(own.reshape(-1, 1), self.op.output.bits)

    @property
    def push_latency(self) -> int:
        return self.memory.latency

    def area(self) -> Area:
        return area.table_lookup(self)

    def create(self) -> TableLookup:
        return TableLookup(self)


class TableLookup(wiring.Component):
    """Looks up every element of a stream.

    Parameters
    ----------
    config : :class:`TableLookupConfig`

    Members
    -------
    i : :py:`In(stream.Signature(ArrayLayout(signed(input bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A beat accepted in cycle t is visible in t + 4, or in t + 3 + ``config.memory.latency`` where
    tables are in block memory; one beat a cycle.
    """

    def __init__(self, config: TableLookupConfig) -> None:
        self.config = config
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.queue = queue = output_queue(config)
        wiring.connect(m, queue.o, wiring.flipped(self.o))
        fire = Signal()
        m.d.comb += [
            self.i.ready.eq(queue.room),
            fire.eq(self.i.valid & self.i.ready),
            queue.reserve.eq(fire),
            queue.i.valid.eq(valid_chain(m, fire, config.push_latency)[-1]),
        ]
        table = counter(config.tables, name="table")
        if config.tables > 1:
            with m.If(fire):
                m.d.sync += table.eq(Mux(table == config.tables - 1, 0, table + 1))
        for lane in range(config.lanes):
            code = self.i.p[lane]
            address = Cat(code, table) if config.tables > 1 else code
            word = config.memory.read(m, f"table_{lane}", address, config.rows(lane))
            m.d.comb += queue.i.p[lane].eq(word)
        return m


@dataclass(frozen=True, kw_only=True)
class AdderConfig(PairConfig):
    """A sum of two tensors, each with its own scale.

    The products with the constant multipliers are tables, so no DSP is spent.  Codes of more than
    eight bits are cut in two, with a table for each half (distributed arithmetic: Croisier et
    al., US patent 3,777,130, 1973): two tables of 256 words and an adder, not one of 65,536.

    Parameters
    ----------
    op : :class:`hwgen.ir.Add`
    tensors : pair of :class:`TensorType`
        Types of the inputs.
    lanes : :class:`int`
        Elements a beat.
    """

    op: Add

    @cached_property
    def pieces(self) -> list[tuple[int, slice, np.ndarray]]:
        """What is summed: the input, bits of its code, and what each of their values adds."""
        pieces = []
        for k, (tensor, multiplier) in enumerate(
            zip(self.tensors, self.op.multipliers, strict=True)
        ):
            count = -(-tensor.bits // PIECE_BITS)
            for j in range(count):
                low, high = (tensor.bits * n // count for n in (j, j + 1))
                codes = np.arange(1 << (high - low), dtype=np.int64) << low
                if high == tensor.bits:
                    # The highest bit counts negative; the zero point goes with it.
                    codes -= (codes >> (high - 1) << high) + tensor.zero_point
                pieces.append((k, slice(low, high), multiplier * codes))
        return pieces

    @cached_property
    def product_bits(self) -> int:
        """Bits of a term of the sum."""
        low = min(int(values.min()) for _, _, values in self.pieces)
        return signed_width(low, max(int(values.max()) for _, _, values in self.pieces))

    @property
    def sum_bits(self) -> int:
        """Bits of the sum."""
        return self.product_bits + levels(len(self.pieces))

    @property
    def push_latency(self) -> int:
        return 1 + levels(len(self.pieces)) + RoundShift.latency

    def area(self) -> Area:
        return area.adder(self)

    def create(self) -> Adder:
        return Adder(self)


class Adder(Pair):
    """Adds two streams, element by element.

    Parameters
    ----------
    config : :class:`AdderConfig`

    Members
    -------
    i_0, i_1 : :py:`In(stream.Signature(ArrayLayout(signed(bits), lanes)))`
    o : :py:`Out(stream.Signature(ArrayLayout(signed(output bits), lanes)))`

    Timing
    ------
    A pair whose second was accepted in cycle t is visible in t + 11, in t + 12 where an input has
    more than eight bits; one pair a cycle.
    """

    config: AdderConfig

    def results(
        self, m: Module, valid: list[Value], a: list[Value], b: list[Value]
    ) -> list[Value]:
        config, results = self.config, []
        bits, shift = config.product_bits, config.op.shift
        for lane, codes in enumerate(zip(a, b, strict=True)):
            terms: list[tuple[Value, Value | None]] = []
            for j, (k, piece, values) in enumerate(config.pieces):
                word = read_words(
                    m, f"product_{lane}_{j}", codes[k][piece],
                    pack_rows(values[:, None], bits), bits, "distributed",
                )
                terms.append((word.as_signed(), None))
            total, _ = adder_tree(m, terms, bits, f"total_{lane}")
            m.submodules[f"round_{lane}"] = rounder = RoundShift(
                config.sum_bits, (shift, shift), config.op.output
            )
            m.d.comb += rounder.i.eq(total)
            results.append(rounder.o)
        return results
