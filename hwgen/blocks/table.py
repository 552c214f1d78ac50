"""Table lookup, beat by beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring

from hwgen.blocks.base import OpConfig
from hwgen.blocks.beat import BeatConfig, valid_chain
from hwgen.blocks.output import output_queue
from hwgen.blocks.registry import BlockRequest, carries_out
from hwgen.device.arithmetic import counter, levels, wrapped_bits
from hwgen.device.cost import Area, logic
from hwgen.ir import Table
from hwgen.parts.component import Configured
from hwgen.parts.memory import ReadOnlyMemory, lookup_area
from hwgen.parts.stream import pack_rows

__all__ = ["TableLookup", "TableLookupConfig"]


@dataclass(frozen=True, kw_only=True)
class TableLookupConfig(BeatConfig, OpConfig):
    """Table lookup of every element.

    Parameters
    ----------
    op : :class:`hwgen.ir.Table`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Elements per beat.  Each lane has its own memory; if the function depends on the channel,
        the memory holds the tables of all channels of the lane.
    """

    kind: ClassVar[str] = "elementwise"

    op: Table

    @property
    def tables(self) -> int:
        """Number of tables in the memory of a lane."""
        return self.inputs[0].beats_per_site if self.op.by_channel else 1

    @property
    def memory(self) -> ReadOnlyMemory:
        """The memory of a lane."""
        return ReadOnlyMemory(self.op.output.bits, self.tables << self.tensor.bits)

    def rows(self, lane: int) -> list[int]:
        """Contents of a lane's memory; the address is the code, and above it the pixel's beat."""
        values = self.op.by_address
        own = values[lane :: self.lanes] if self.op.by_channel else values
        return pack_rows(own.reshape(-1, 1), self.op.output.bits)

    @property
    def push_latency(self) -> int:
        return self.memory.latency

    def area(self) -> Area:
        memory = self.memory
        values = self.op.by_address
        tables = [values[k :: self.lanes] for k in range(self.lanes)] if (
            self.op.by_channel) else [values]
        return self.queues_area() + lookup_area(tables, memory, self.lanes) + logic(
            "table", one=1, valid=self.push_latency,
            counter=levels(self.tables), wrap=wrapped_bits(self.tables) if self.tables > 1 else 0,
        )

    def create(self) -> TableLookup:
        return TableLookup(self)


class TableLookup(Configured[TableLookupConfig]):
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
    A beat accepted in cycle t is visible in t + 4, or in t + 3 + ``config.memory.latency`` if
    tables are in block memory; one beat per cycle.
    """

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


def _by_pixel(op: Table, pixels: int) -> Table:
    return replace(op, values=np.repeat(op.values, pixels, axis=0)) if op.by_channel else op


@carries_out(Table, pixels=_by_pixel)
def _table(request: BlockRequest) -> TableLookupConfig:
    return TableLookupConfig(op=request.op, tensor=request.tensor, lanes=request.lanes)
