"""Memories of queues and window buffers, and read-only memories."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import delayed, levels
from hwgen.device.cost import Area, Part, Resources, counted, logic, memory, total
from hwgen.device.lookup import table_features
from hwgen.device.platform import library_instance
from hwgen.device.storage import (
    FAMILY,
    STYLES,
    block_width,
    memory_part,
    memory_style,
    rom_luts,
    table_count,
    table_cut,
    table_style,
)
from hwgen.errors import HwgenError

__all__ = ["STYLE", "BufferMemory", "ReadOnlyMemory", "check_style", "choice_area",
           "choice_latency", "choose_word", "read_words"]

STYLE = "hwgen_style"
"""Attribute that tells :mod:`hwgen.emit` the style of a table.

It is not ``rom_style``, because the values of that attribute differ from tool to tool.  If Amaranth
alone converts a design, the synthesis tool chooses the memory.
"""


def check_style(style: str) -> None:
    """Raise :exc:`HwgenError` unless a style is one of :data:`STYLES`, or empty."""
    if style not in ("", *STYLES):
        raise HwgenError(f"Memory style must be one of {STYLES} or empty, not {style!r}")


class BufferMemory(wiring.Component):
    """Simple dual-port memory with an output register.

    Block memories and UltraRAMs have slow outputs, so their words go directly into a register.  If
    a memory consists of several of them one after the other, each has its own register, and the
    word is chosen among these.

    Parameters
    ----------
    width : :class:`int`
        Bits of a word.
    depth : :class:`int`
        Number of words.
    style : :class:`str`
        One of :data:`hwgen.device.storage.STYLES`; ``""``: LUTs or block memory, whichever is
        cheaper.

    Members
    -------
    write_en, write_addr, write_data : In
        Write a word.
    read_en, read_addr : In
        Fetch a word; one that is written in the same cycle is not seen.
    load : In
        Load the word that was fetched into the output register.
    read_data : Out
        The output register.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such style.

    Timing
    ------
    Two cycles from ``read_en`` to ``read_data``, with ``load`` in the second.
    """

    def __init__(self, width: int, depth: int, style: str = "") -> None:
        check_style(style)
        self.width = width
        self.depth = max(depth, 2)
        self.style = memory_style(width, self.depth, style)
        super().__init__({
            "write_en": In(1), "write_addr": In(range(self.depth)), "write_data": In(width),
            "read_en": In(1), "read_addr": In(range(self.depth)), "load": In(1),
            "read_data": Out(width),
        })

    def elaborate(self, platform):
        m = Module()
        part_width, part_depth = memory_part(self.width, self.depth, self.style)
        last_width = part_width
        if self.style == "block":
            last_width = int(block_width(self.depth % part_depth))
        ram = library_instance(
            platform, "hwgen_ram", p_WIDTH=self.width, p_DEPTH=self.depth,
            p_ADDRESS=len(self.read_addr), p_STYLE=self.style,
            p_PART_WIDTH=part_width, p_PART_DEPTH=part_depth, p_LAST_WIDTH=last_width,
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


def buffer_area(width: int, depth: int, style: str = "", copies: int = 1) -> Area:
    """Area of ``copies`` of a :class:`BufferMemory`, without their registers."""
    depth = max(depth, 2)
    style = memory_style(width, depth, style)
    parts = -(-depth // 64) if style == "distributed" else 1
    # Blocks of an ECP5 do not return the old word when a read and a write collide: extra registers
    # keep it, and the addresses are compared.
    blocks = copies * -(-depth // memory_part(width, depth, style)[1]) * (style == "block")
    return total([memory(width, depth, style)] * copies) + logic(
        "buffer", lut_choice=copies * width * (parts - 1),
        lut4_block=width * blocks, ff4_block=width * blocks,
        lut4_address=levels(depth) * blocks, ff4_address=levels(depth) * blocks,
    )


def buffer_registers(width: int, depth: int, style: str = "") -> int:
    """Number of flip-flops at the output of a :class:`BufferMemory`."""
    depth = max(depth, 2)
    style = memory_style(width, depth, style)
    if style == "distributed":
        return 2 * width
    parts = -(-depth // memory_part(width, depth, style)[1])
    return width * parts + 2 * levels(parts)


def choice_latency(parts: int) -> int:
    """Latency of :func:`choose_word` in cycles."""
    return -(-levels(parts) // 2)


def choose_word(
    m: Module, name: str, words: Sequence[Value], choice: Value, latency: int
) -> Value:
    """Choose one of several words, by a tree of registered four-to-one multiplexers.

    ``choice`` must come ``latency`` cycles before the words.
    """
    words, level = list(words), 0
    while len(words) > 1:
        choice = delayed(m, choice, 1 if level else latency, f"{name}_choice_{level}")
        chosen: list[Value] = []
        for k in range(0, len(words), 4):
            group = words[k : k + 4]
            word = Signal(len(group[0]), name=f"{name}_{level}_{k // 4}", reset_less=True)
            with m.Switch(choice[:2]):
                for j, candidate in enumerate(group):
                    with m.Case(j) if j < len(group) - 1 else m.Default():
                        m.d.sync += word.eq(candidate)
            chosen.append(word)
        words, choice, level = chosen, choice[2:], level + 1
    return words[0]


def choice_area(width: int, parts: int) -> Area:
    """Area of :func:`choose_word`."""
    choices, registers, others = 0, 0, parts - 1
    while parts > 1:
        choices += -(-(parts - 1) // 4)  # a single word that is left over is only delayed
        parts = -(-parts // 4)
        registers += parts
    flops = width * registers
    # A LUT with six inputs chooses among four words, one with four inputs among two.
    return counted(Resources(lut=width * others, ff=flops), lut=width * choices, ff=flops)


@dataclass(frozen=True)
class ReadOnlyMemory(Part):
    """A table in LUTs or in block memory.

    A block memory has a slow output, so its word goes directly into a register.  If the table
    consists of several of them one after the other, each has its own register, and the word is
    chosen among these, four at a time.  If it takes fewer blocks, the parts lie side by side in one
    wide memory, and the word is chosen among those of a row.

    Parameters
    ----------
    width : :class:`int`
        Bits of a word.
    depth : :class:`int`
        Number of words.
    style : :class:`str`
        ``"distributed"`` or ``"block"``; ``""``: whichever is cheaper.
    bare : :class:`bool`
        Whether the user of the words puts them straight into registers, so that a table in a
        single block memory needs no register of its own.
    """

    width: int
    depth: int
    style: str = ""
    bare: bool = False

    def __post_init__(self) -> None:
        check_style(self.style)
        if self.style == "ultra":
            raise HwgenError("UltraRAM cannot hold a table: it has no initial contents")

    @property
    def kind(self) -> str:
        """The style in which it is built."""
        return self.style or table_style(self.width, self.depth)

    @property
    def part_depth(self) -> int:
        """Number of words in each part in block memory; a power of two."""
        return table_cut(self.width, self.depth)[0]

    @property
    def parts(self) -> int:
        """Number of parts one after the other."""
        return -(-self.depth // self.part_depth) if self.kind == "block" else 1

    @property
    def registers(self) -> int:
        """Number of registers at the output of each part, besides that of its memory."""
        return int(self.kind == "block" and not (self.bare and self.parts == 1))

    @property
    def latency(self) -> int:
        """Cycles from address to word."""
        return 1 + self.registers + choice_latency(self.parts)

    def area(self) -> Area:
        """What it takes."""
        return _table_area(self)

    def read(self, m: Module, name: str, address: Value, rows: Sequence[int]) -> Value:
        """The word at an address, ``latency`` cycles later."""
        if self.kind == "distributed":
            return read_words(m, name, address, rows, self.width, self.kind)
        low = self.part_depth.bit_length() - 1
        parts = [list(rows[k << low : (k + 1) << low]) for k in range(self.parts)]
        if table_cut(self.width, self.depth)[1]:
            folded = [
                sum(row << (k * self.width) for k, row in enumerate(side))
                for side in itertools.zip_longest(*parts, fillvalue=0)
            ]
            wide = read_words(m, name, address[:low], folded, self.width * self.parts, self.kind)
            words = [wide.word_select(k, self.width) for k in range(self.parts)]
        else:
            words = [
                read_words(m, f"{name}_{k}", address[:low], _filled(part), self.width, self.kind)
                for k, part in enumerate(parts)
            ]
        late = [delayed(m, w, self.registers, f"{name}_{k}") for k, w in enumerate(words)]
        return choose_word(m, name, late, address[low:], 1 + self.registers)


@cache
def _table_area(table: ReadOnlyMemory) -> Area:
    width, depth, parts = table.width, table.depth, table.parts
    if table.kind == "distributed":
        six, four = (int(rom_luts(width, depth, family)) for family in (FAMILY, "ecp5"))
        return counted(Resources(lut=four, ff=width), lut=six, ff=width)
    return choice_area(width, parts) + counted(
        bram18=int(table_count(width, depth)), ff=table.registers * width * parts
    )


def _filled(rows: list[int]) -> list[int]:
    """Rows of a part, filled up if synthesis would otherwise cut the memory in another way.

    Three memories of 512 words side by side would take fewer blocks than one of 2048 words, but
    also need a multiplexer.
    """
    return rows + [0] * (1537 - len(rows)) if 1024 < len(rows) <= 1536 else rows


def read_words(
    m: Module, name: str, address: Value, rows: Sequence[int], width: int, style: str
) -> Value:
    """Word at an address of a new read-only memory, a cycle later."""
    m.submodules[name] = memory = Memory(
        shape=width, depth=max(len(rows), 2), init=rows, attrs={STYLE: style}
    )
    read = memory.read_port()
    m.d.comb += read.addr.eq(address)
    return read.data


def lookup_area(tables: Sequence[np.ndarray], memory, lanes: int) -> Area:
    """Area of the lookup tables of some lanes.

    Parameters
    ----------
    tables : contents of each lane's table, or of the one that all lanes have
    memory : the :class:`ReadOnlyMemory` of each table
    lanes : number of lanes
    """
    if memory.kind != "distributed":
        return total([memory.area()] * lanes)
    columns = [(t.reshape(-1, 1) >> np.arange(memory.width)) & 1 for t in tables]
    return logic("words", **table_features(columns, lanes // len(tables)))
