"""Memories: those of queues and window buffers, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.blocks.arithmetic import delayed, levels
from hwgen.blocks.base import Resources, block_shape, library_instance, memory_style

__all__ = ["BufferMemory", "ReadOnlyMemory", "read_words"]


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


@dataclass(frozen=True)
class ReadOnlyMemory:
    """A table in LUTs or in block memory, whichever is cheaper.

    A block memory is slow to show a word, so it goes into a register and nowhere else; of several
    one after the other each has that register, and the choice comes after it, four at a time.

    Parameters
    ----------
    width : :class:`int`
        Bits of a word.
    depth : :class:`int`
        Words.
    """

    width: int
    depth: int

    @property
    def style(self) -> str:
        """``"distributed"`` or ``"block"``."""
        return memory_style(self.width, self.depth)

    @property
    def part_depth(self) -> int:
        """Words of each of several block memories, a power of two."""
        return block_shape(self.width, self.depth)[1]

    @property
    def parts(self) -> int:
        """Memories one after the other."""
        return -(-self.depth // self.part_depth) if self.style == "block" else 1

    @property
    def latency(self) -> int:
        """Cycles from address to word."""
        return 1 if self.style == "distributed" else 2 + -(-levels(self.parts) // 2)

    def resources(self) -> Resources:
        """What it takes."""
        if self.style == "distributed":
            return Resources(lut=self.width * max(1, -(-self.depth // 64)), ff=self.width)
        choices = self.width * (self.parts - 1)
        return Resources.memory(self.width, self.depth) + Resources(
            lut=choices, ff=self.width * self.parts + choices // 3
        )

    def read(self, m: Module, name: str, address: Value, rows: Sequence[int]) -> Value:
        """The word at an address, ``latency`` cycles later."""
        if self.style == "distributed":
            return read_words(m, name, address, rows, self.width, self.style)
        low = self.part_depth.bit_length() - 1
        words: list[Value] = []
        for k in range(self.parts):
            part = rows[k << low : (k + 1) << low]
            word = read_words(m, f"{name}_{k}", address[:low], part, self.width, self.style)
            words.append(delayed(m, word, 1, f"{name}_{k}"))
        choice, level = address[low:], 0
        while len(words) > 1:
            choice = delayed(m, choice, 1 if level else 2, f"{name}_choice_{level}")
            chosen: list[Value] = []
            for k in range(0, len(words), 4):
                group = words[k : k + 4]
                word = Signal(self.width, name=f"{name}_{level}_{k // 4}", reset_less=True)
                with m.Switch(choice[:2]):
                    for j, candidate in enumerate(group):
                        with m.Case(j) if j < len(group) - 1 else m.Default():
                            m.d.sync += word.eq(candidate)
                chosen.append(word)
            words, choice, level = chosen, choice[2:], level + 1
        return words[0]


def read_words(
    m: Module, name: str, address: Value, rows: Sequence[int], width: int, style: str
) -> Value:
    """Word of one read-only memory of this width, a cycle later."""
    m.submodules[name] = memory = Memory(
        shape=width, depth=max(len(rows), 2), init=rows, attrs={"rom_style": style}
    )
    read = memory.read_port()
    m.d.comb += read.addr.eq(address)
    return read.data
