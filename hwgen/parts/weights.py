"""Memories of weights: tables, or UltraRAM that is loaded after reset.

UltraRAM has no initial contents.  Its words come over a chain through all such memories of a
design; each memory takes its own words and passes on the rest.  An UltraRAM has two ports, so two
columns, each a word wide and at most 2048 rows deep, share one and are read in the same cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter
from hwgen.device.cost import Area, Part, counted, logic
from hwgen.device.lookup import choice_effort
from hwgen.device.platform import library_instance
from hwgen.device.storage import ULTRA_SHAPE, ultra_weights
from hwgen.errors import HwgenError
from hwgen.parts.memory import ReadOnlyMemory, check_style, choice_area, choice_latency, choose_word

__all__ = ["LOAD_BITS", "WeightMemory", "WeightMemoryConfig"]

LOAD_BITS, PART_DEPTH = ULTRA_SHAPE


@dataclass(frozen=True)
class WeightMemoryConfig(Part):
    """A memory of weights, with one row at each address.

    Parameters
    ----------
    width : :class:`int`
        Bits of a row.
    depth : :class:`int`
        Number of rows.
    style : :class:`str`
        ``"ultra"``, or the style of a :class:`ReadOnlyMemory`.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such style, or if there are no bits or rows.
    """

    width: int
    depth: int
    style: str = ""

    def __post_init__(self) -> None:
        check_style(self.style)
        for name in ("width", "depth"):
            if getattr(self, name) < 1:
                raise HwgenError(f"{name} must be positive, not {getattr(self, name)!r}")

    @property
    def table(self) -> ReadOnlyMemory:
        """The table, if the memory is not UltraRAM.

        It is ``bare`` because rows go straight into registers of DSPs.
        """
        return ReadOnlyMemory(self.width, self.depth, self.style, bare=True)

    @property
    def columns(self) -> int:
        """Number of words that a row takes in UltraRAM."""
        return -(-self.width // LOAD_BITS)

    @property
    def parts(self) -> int:
        """Number of UltraRAMs one after the other."""
        return -(-self.depth // PART_DEPTH)

    @property
    def latency(self) -> int:
        """Cycles from address to row."""
        return 2 + choice_latency(self.parts) if self.style == "ultra" else self.table.latency

    @property
    def loads(self) -> int:
        """Number of words to be loaded."""
        return self.columns * self.depth if self.style == "ultra" else 0

    def load_words(self, rows: Sequence[int]) -> list[int]:
        """The words to be loaded for these rows: column by column, and in each row by row."""
        if not self.loads:
            return []
        rows = [*rows, *(0 for _ in range(self.depth - len(rows)))]
        low, mask = range(0, self.width, LOAD_BITS), (1 << LOAD_BITS) - 1
        return [(row >> shift) & mask for shift in low for row in rows]

    def area(self) -> Area:
        """What it takes."""
        if self.style != "ultra":
            if self.table.kind == "distributed":
                depth = max(self.depth, 2)
                blocks, blocks4 = -(-depth // 64), -(-depth // 16)
                return logic(
                    "weights", lut_words=self.width * blocks,
                    lut_choices=self.width * choice_effort(blocks), ff_words=self.width,
                    lut4_words=self.width * blocks4, lut4_choices=self.width * (blocks4 - 1),
                )
            return self.table.area()
        # LUTs: address, row counter, write enables.  Flip-flops: counter, columns, chain register.
        bits = (self.depth - 1).bit_length()
        ultra = counted(uram=int(ultra_weights(self.width, self.depth)))
        return choice_area(self.width, self.parts) + ultra + logic(
            "loaded weights", one=1, lut_address=bits, lut_enable=self.columns * (self.parts + 1),
            ff_register=bits + self.columns + LOAD_BITS,
        )

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        members = {"address": In(range(max(self.depth, 2))), "data": Out(self.width)}
        if self.loads:
            words = stream.Signature(LOAD_BITS, always_ready=True)
            members |= {"load": In(words), "next": Out(words), "loaded": Out(1)}
        return wiring.Signature(members)

    def create(self, rows: Sequence[int]) -> WeightMemory:
        """The hardware, with these rows in it."""
        return WeightMemory(self, rows)


class WeightMemory(wiring.Component):
    """Memory of weights.

    Parameters
    ----------
    config : :class:`WeightMemoryConfig`
    rows : sequence of :class:`int`
        Contents, as :func:`hwgen.parts.stream.pack_rows` returns them.  UltraRAM has these contents
        only in simulations that do not wait until it is loaded (``HWGEN_PRELOAD``).

    Members
    -------
    address : :py:`In(range(depth))`
    data : :py:`Out(width)`
    load : :py:`In(stream.Signature(LOAD_BITS, always_ready=True))`, if ``config.loads``
        Words to be loaded: first those of this memory, then those of others.
    next : :py:`Out(stream.Signature(LOAD_BITS, always_ready=True))`, if ``config.loads``
        The words of others, a cycle later.
    loaded : :py:`Out(1)`, if ``config.loads``
        All rows may be read; a register.
    Timing
    ------
    ``config.latency`` cycles from address to row; one row per cycle.  ``loaded`` is 1 from the
    cycle after the last word of this memory on; rows that are read earlier are undefined.
    """

    def __init__(self, config: WeightMemoryConfig, rows: Sequence[int]) -> None:
        self.config = config
        self.rows = rows
        super().__init__(config.signature)

    def elaborate(self, platform):
        m = Module()
        config = self.config
        if not config.loads:
            m.d.comb += self.data.eq(config.table.read(m, "rows", self.address, self.rows))
            return m
        # Row and column (one bit for each) in which the next word of this memory is written.
        row, last_row = counter(config.depth, name="row"), Signal()
        column = Signal(config.columns, init=1)
        full, preloaded, take = Signal(), Signal(), Signal()
        m.d.comb += [
            self.loaded.eq(full | preloaded),
            take.eq(self.load.valid & ~self.loaded),
            last_row.eq(row == config.depth - 1),
        ]
        with m.If(take):
            m.d.sync += row.eq(Mux(last_row, 0, row + 1))
            with m.If(last_row):
                m.d.sync += [column.eq(column << 1), full.eq(column[-1])]
        word = Signal(LOAD_BITS, reset_less=True)
        m.d.sync += [word.eq(self.load.p), self.next.valid.eq(self.load.valid & self.loaded)]
        m.d.comb += self.next.p.eq(word)

        address = Signal.like(self.address)
        m.d.comb += address.eq(Mux(self.loaded, self.address, row))
        low = PART_DEPTH.bit_length() - 1
        words = []
        for part in range(config.parts):
            write = Signal(config.columns, name=f"write_{part}")
            m.d.comb += write.eq(Mux(take & (row[low:] == part), column, 0))
            rows = self.rows[part << low : (part + 1) << low]
            depth = max(min(config.depth - (part << low), PART_DEPTH), 2)
            name, known = f"part_{part}", preloaded if part == 0 else Signal(name=f"_{part}")
            words.append(self._part(m, platform, name, rows, depth, write, address[:low], known))
        m.d.comb += self.data.eq(choose_word(m, "row", words, self.address[low:], 2))
        return m

    def _part(
        self, m: Module, platform, name: str, rows: Sequence[int], depth: int, write: Signal,
        address: Value, preloaded: Signal,
    ) -> Signal:
        """Output register of the part that holds these rows."""
        width = self.config.width
        data = Signal(width, name=f"{name}_data", reset_less=True)
        address = address[: (depth - 1).bit_length()]
        if hasattr(platform, "library_instance"):
            m.submodules[name] = library_instance(
                platform, "hwgen_uram", p_WIDTH=width, p_DEPTH=depth, p_ADDRESS=len(address),
                p_COLUMNS=self.config.columns, p_FILE=platform.image(width, depth, rows),
                i_write=write, i_write_data=self.load.p, i_address=address, o_data=data,
                o_preloaded=preloaded,
            )
            return data
        m.submodules[name] = memory = Memory(
            shape=self.config.columns * LOAD_BITS, depth=depth, init=[]
        )
        write_port, read_port = memory.write_port(granularity=LOAD_BITS), memory.read_port()
        m.d.comb += [
            write_port.en.eq(write), write_port.addr.eq(address), read_port.addr.eq(address),
            write_port.data.eq(self.load.p.replicate(self.config.columns)),
        ]
        m.d.sync += data.eq(read_port.data)
        return data
