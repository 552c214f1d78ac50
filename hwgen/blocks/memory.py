"""The memory of queues and window buffers."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.blocks.base import block_shape, library_instance, memory_style

__all__ = ["BufferMemory"]


class BufferMemory(wiring.Component):
    """Simple dual-port memory whose words come through an output register.

    Block memories are slow to show a word, so it goes into a register and nowhere else; where a
    memory takes several blocks one after the other, each has such a register, and the choice
    among them comes after it.

    Parameters
    ----------
    width : :class:`int`
        Bits of a word.
    depth : :class:`int`
        Words.

    Members
    -------
    write_en, write_addr, write_data : In
        Write a word.
    read_en, read_addr : In
        Fetch a word; one written in the same cycle is not seen.
    load : In
        Take the word fetched before to the output register.
    read_data : Out
        The output register.

    Timing
    ------
    Two cycles from ``read_en`` to ``read_data``, with ``load`` in the second.
    """

    def __init__(self, width: int, depth: int) -> None:
        self.width = width
        self.depth = max(depth, 2)
        super().__init__({
            "write_en": In(1), "write_addr": In(range(self.depth)), "write_data": In(width),
            "read_en": In(1), "read_addr": In(range(self.depth)), "load": In(1),
            "read_data": Out(width),
        })

    def elaborate(self, platform):
        m = Module()
        part_width, part_depth = block_shape(self.width, self.depth)
        ram = library_instance(
            platform, "hwgen_ram", p_WIDTH=self.width, p_DEPTH=self.depth,
            p_ADDRESS=len(self.read_addr), p_STYLE=memory_style(self.width, self.depth),
            p_PART_WIDTH=part_width, p_PART_DEPTH=part_depth,
            i_write_en=self.write_en, i_write_addr=self.write_addr, i_write_data=self.write_data,
            i_read_en=self.read_en, i_read_addr=self.read_addr, i_load=self.load,
            o_read_data=self.read_data,
        )
        if ram is not None:
            m.submodules.ram = ram
            return m
        m.submodules.memory = memory = Memory(shape=self.width, depth=self.depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        out = Signal(self.width, reset_less=True)
        m.d.comb += [
            write.en.eq(self.write_en), write.addr.eq(self.write_addr),
            write.data.eq(self.write_data), read.en.eq(self.read_en),
            read.addr.eq(self.read_addr), self.read_data.eq(out),
        ]
        with m.If(self.load):
            m.d.sync += out.eq(read.data)
        return m
