"""Weights that are streamed from off-chip memory, while some of them stay on the chip.

A layer that uses a fold of its weights once for a whole tile of its output needs each fold only
rarely.  Most folds are fetched shortly before they are used, into a ring with a few places; some
are resident, that is, they stay (AutoWS, Yu and Bouganis, 2023, streams parts of a layer's weights,
but again for every pixel).  The resident folds are spread evenly among the others, so that the
stream is even.  After reset all folds come over the same port, so new weights need no new hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import counter, delayed, levels
from hwgen.device.cost import Area, Part, Resources, counted, logic
from hwgen.device.storage import FAMILY, choice_luts, memory_part, memory_style
from hwgen.errors import HwgenError
from hwgen.offchip.bus import BURST, AxiConfig
from hwgen.parts.component import Configured
from hwgen.parts.memory import BufferMemory, buffer_area, buffer_registers, check_style

__all__ = ["WeightStream", "WeightStreamConfig"]


@dataclass(frozen=True)
class WeightStreamConfig(Part):
    """Folds of weights, some on chip and some in off-chip memory.

    Parameters
    ----------
    widths : sequence of :class:`int`
        Bits of each port of weights.
    skews : sequence of :class:`int`
        Cycles by which each port is delayed; ascending.
    rows : :class:`int`
        Number of rows in a fold.
    folds : :class:`int`
        Number of folds.
    resident : :class:`int`
        Number of folds that stay on the chip.
    ring_places : :class:`int`
        Number of places for the other folds; at least 2.
    axi : :class:`AxiConfig`
    burst : :class:`int`
        Most words in a request.
    style : :class:`str`
        Style of the memory; see :class:`BufferMemory`.

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is out of range.
    """

    widths: tuple[int, ...]
    skews: tuple[int, ...]
    rows: int
    folds: int
    resident: int
    axi: AxiConfig
    ring_places: int = 2
    burst: int = BURST
    style: str = ""

    def __post_init__(self) -> None:
        check_style(self.style)
        for name in ("rows", "folds", "burst"):
            if getattr(self, name) < 1:
                raise HwgenError(f"{name} must be positive, not {getattr(self, name)!r}")
        if not 0 <= self.resident <= self.folds:
            raise HwgenError(f"Resident must be between 0 and {self.folds}, not {self.resident!r}")
        if self.ring_places < 2:
            raise HwgenError(f"Ring places must be 2 or more, not {self.ring_places!r}")
        if self.burst * self.axi.word_bytes > 4096:
            raise HwgenError(
                f"Burst must be at most {4096 // self.axi.word_bytes} words, not {self.burst!r}"
            )

    @property
    def row_bits(self) -> int:
        """Bits of a row, over all ports."""
        return sum(self.widths)

    @cached_property
    def rows_per_word(self) -> int:
        """Number of rows for which a bus word has room: a power of two, a fold at most."""
        fits = max((self.axi.data_bits // self.row_bits).bit_length() - 1, 0)
        return 1 << min(fits, levels(self.rows))

    @property
    def columns(self) -> int:
        """Number of bus words for a row, or for the rows that share a word."""
        return -(-self.row_bits * self.rows_per_word // self.axi.data_bits)

    @property
    def fold_depth(self) -> int:
        """Number of addresses that a fold takes."""
        return -(-self.rows // self.rows_per_word)

    @property
    def fold_words(self) -> int:
        """Number of bus words for a fold."""
        return self.fold_depth * self.columns

    @property
    def fold_bytes(self) -> int:
        """Bytes of a fold in off-chip memory."""
        return self.fold_words * self.axi.word_bytes

    @property
    def requests(self) -> int:
        """Number of requests for a fold; their sizes are as equal as possible."""
        return -(-self.fold_words // self.burst)

    @property
    def request_words(self) -> int:
        """Number of words in a request; the last one of a fold may have fewer."""
        return -(-self.fold_words // self.requests)

    @property
    def streamed(self) -> int:
        """Number of folds that are fetched again and again."""
        return self.folds - self.resident

    @property
    def places(self) -> int:
        """Number of folds for which there is room."""
        return self.resident + (self.ring_places if self.streamed else 0)

    @property
    def depth(self) -> int:
        """Number of addresses of the memory."""
        return self.places * self.fold_depth

    @property
    def column_widths(self) -> list[int]:
        """Number of bits that are used of each bus word of a row."""
        bits = self.row_bits * min(self.rows_per_word, self.rows)
        word = self.axi.data_bits
        return [min(word, bits - low) for low in range(0, bits, word)]

    @property
    def latency(self) -> int:
        """Cycles from the number of a row to the row, without the skew."""
        return 3 + (self.rows_per_word > 1)

    @property
    def overhead(self) -> int:
        """Cycles from ``next`` to a new fold in the same place, without those of the memory."""
        return self.skews[-1] + 8

    @property
    def bytes_per_tile(self) -> int:
        """Bytes fetched for each tile: all folds that are not resident."""
        return self.streamed * self.fold_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes that all folds take in off-chip memory."""
        return self.folds * self.fold_bytes

    def stays(self, fold: int) -> bool:
        """Whether a fold is resident."""
        return (fold + 1) * self.resident // self.folds > fold * self.resident // self.folds

    def image(self, rows: Sequence[Sequence[int]]) -> bytes:
        """Contents of off-chip memory: the resident folds, then the others.

        Parameters
        ----------
        rows : per port, ``folds * rows`` integers
        """
        offsets = np.cumsum([0, *self.widths]).tolist()
        size = self.columns * self.axi.word_bytes

        def fold(n: int) -> bytes:
            out = []
            for first in range(n * self.rows, (n + 1) * self.rows, self.rows_per_word):
                word = 0
                for k in range(min(self.rows_per_word, (n + 1) * self.rows - first)):
                    for part, offset in zip(rows, offsets, strict=False):
                        word |= part[first + k] << (offset + k * self.row_bits)
                out.append(word.to_bytes(size, "little"))
            return b"".join(out)

        order = sorted(range(self.folds), key=lambda n: (not self.stays(n), n))
        return b"".join(fold(n) for n in order)

    @property
    def shares(self) -> list[list[tuple[int, int, int]]]:
        """Per column, the shares of the ports in it: port, first bit of the row, and end."""
        offsets, word = np.cumsum([0, *self.widths]).tolist(), self.axi.data_bits
        bounds = list(enumerate(pairwise(offsets)))
        return [
            [(k, max(low, begin), min(high, begin + word)) for k, (low, high) in bounds
             if low < begin + word and high > begin]
            for begin in range(0, self.row_bits, word)
        ]

    def area(self) -> Area:
        """What the weights take; LUTs and flip-flops are estimates."""
        place, address = levels(self.places + 1), levels(max(self.depth, 2))
        asked = place + levels(self.requests) + levels(self.folds)
        asked += levels(self.image_bytes) - self.axi.word_shift
        came = place + levels(self.fold_depth) + 2 * address
        read = levels(self.ring_places + 1)
        read += address * (1 + (self.streamed > 0) + (self.resident > 1))
        stays = levels(self.folds + self.resident) * (self.resident not in (0, self.folds))
        counters = logic(
            "weight stream", one=1, lut_asked=asked, lut_read=read,
            ff_register=asked + came + read + 2 * stays + max(self.column_widths)
            + 2 * self.columns + self.skews[-1],
        )
        return counters + self._memories() + self._delays()

    def _memories(self) -> Area:
        """Area of the memories, and of the choice among the rows of a word."""
        depth, parts = max(self.depth, 2), 1
        out = Area()
        for width in self.column_widths:
            out += buffer_area(width, depth, self.style)
        if self.rows_per_word > 1:
            style = memory_style(width, depth, self.style)
            if style != "distributed":
                # The same LUTs choose among the parts of a memory and among the rows of a word.
                parts = -(-depth // memory_part(width, depth, style)[1])
            rows = min(self.rows_per_word, self.rows) * parts
            six, four = (
                int(choice_luts(self.row_bits, rows, family) - choice_luts(width, parts, family))
                for family in (FAMILY, "ecp5")
            )
            out += counted(Resources(lut=four), lut=six)
        return out

    def _delays(self) -> Area:
        """Area of the registers behind the memories and in front of them."""
        luts = flops = shifted = 0

        def delay(bits: int, cycles: int) -> None:
            nonlocal luts, flops, shifted
            # Three or more become a shift register if LUTs can be one.
            if cycles > 2:
                luts, shifted = luts + bits, shifted + bits * cycles
            else:
                flops += bits * cycles

        read = []
        for width, shares in zip(self.column_widths, self.shares, strict=True):
            first = self.skews[shares[0][0]]
            read.append(first)
            # The memory's registers join those behind it if there is no multiplexer between them.
            registers = buffer_registers(width, self.depth, self.style)
            behind, choice = divmod(registers, width)
            if self.rows_per_word > 1:
                flops, behind = flops + registers, 1
                delay(levels(self.rows_per_word), first + 3)
            elif choice or behind > 2:
                flops, behind = flops + registers, 0
            for k, low, high in shares:
                delay(high - low, behind + self.skews[k] - first)
        for before, after in pairwise([0, *sorted(set(read))]):
            delay(levels(max(self.depth, 2)), after - before)
        return logic("delays", ff_register=flops, lut_shift=luts, ff4_shift=shifted)

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component."""
        return wiring.Signature({
            "read": Out(self.axi.read_client),
            "base": In(self.axi.address_bits),
            "available": Out(1),
            "loaded": Out(1),
            "take": In(1),
            "row": In(range(max(self.rows, 2))),
            "next": In(1),
            **{f"w_{k}": Out(width) for k, width in enumerate(self.widths)},
        })

    def create(self) -> WeightStream:
        return WeightStream(self)


class WeightStream(Configured[WeightStreamConfig]):
    """Memory of weights that refills itself.

    Parameters
    ----------
    config : :class:`WeightStreamConfig`

    Members
    -------
    read : :py:`Out(config.axi.read_client)`
    base : :py:`In(address_bits)`
        Byte address of :meth:`WeightStreamConfig.image`, relative to the base of the port.
    loaded : :py:`Out(1)`
        Since reset, all resident folds and the first of the others have come.
    available : :py:`Out(1)`
        The next fold to be taken has come.
    take : :py:`In(1)`
        Take that fold, because it is going to be read.
    row : :py:`In(range(rows))`
        Number of the row to be read of the current fold.
    next : :py:`In(1)`
        With the last row that is read of a fold: continue with the next fold.
    w_0, w_1, … : :py:`Out(widths[k])`
        The row, ``config.latency + config.skews[k]`` cycles later.

    Timing
    ------
    One row per cycle.  The place of a fold is free a few cycles after ``next``.  Since there are
    ``ring_places`` places, a fold has the time of ``ring_places - 1`` folds to come.
    """

    def elaborate(self, platform):
        m = Module()
        config = self.config
        free, fetch = Signal(), Signal()
        self._request(m, free)
        memories = [BufferMemory(width, config.depth, config.style)
                    for width in config.column_widths]
        for k, memory in enumerate(memories):
            m.submodules[f"column_{k}"] = memory
            m.d.comb += [memory.read_en.eq(1), memory.load.eq(1)]
        self._fill(m, memories, fetch)
        self._read(m, memories, free)
        # Streamed folds that have come and have not been taken.
        ready = Signal(range(config.ring_places + 1))
        stays = self._stays(m, "taken", self.take)
        used = self.take & ~stays
        m.d.comb += self.available.eq(self.loaded & (stays | (ready != 0)))
        m.d.sync += ready.eq(ready + fetch - used)
        return m

    def _stays(self, m: Module, name: str, advance: Value) -> Value:
        """Whether the current fold is resident; ``advance`` goes on to the next one."""
        resident, folds = self.config.resident, self.config.folds
        if resident in (0, folds):
            return Const(int(resident > 0), 1)
        share = Signal(range(folds + resident), name=f"{name}_share", init=resident)
        stays = Signal(name=f"{name}_stays")
        m.d.comb += stays.eq(share >= folds)
        with m.If(advance):
            m.d.sync += share.eq(share + Mux(stays, resident - folds, resident))
        return stays

    def _request(self, m: Module, free: Value) -> None:
        """Request a fold for every free place."""
        config = self.config
        places = Signal(range(config.places + 1), init=config.places)
        request = counter(config.requests, name="request")
        last = request == config.requests - 1
        word = config.axi.word_bytes
        full = config.request_words * word
        rest = config.fold_bytes - (config.requests - 1) * full
        fold = counter(config.folds, name="fold")
        offset = Signal(range(max(config.image_bytes, 2)), name="offset")
        out = self.read.request
        done = out.valid & out.ready
        m.d.comb += [
            out.p.address.eq(self.base + offset),
            out.p.bytes.eq(Mux(last, rest, full)),
            out.valid.eq(places != 0),
        ]
        m.d.sync += places.eq(places + free - (done & last))
        with m.If(done):
            m.d.sync += [
                request.eq(Mux(last, 0, request + 1)), offset.eq(offset + out.p.bytes),
            ]
            with m.If(last):
                m.d.sync += fold.eq(fold + 1)
                with m.If(fold == config.folds - 1):
                    # Resident folds are fetched only once.
                    m.d.sync += [
                        fold.eq(config.resident % config.folds),
                        offset.eq(config.resident % config.folds * config.fold_bytes),
                    ]

    def _fill(self, m: Module, memories: Sequence[BufferMemory], fetch: Signal) -> None:
        """Write words as they come, column by column; ``fetch`` pulses for each streamed fold."""
        config = self.config
        column = Signal(config.columns, init=1)
        row, place = counter(config.fold_depth, name="fill_row"), counter(config.places)
        address = counter(config.depth, name="fill_address")
        row_end, fold_end = Signal(), Signal()
        valid = self.read.data.valid
        m.d.comb += [row_end.eq(valid & column[-1]),
                     fold_end.eq(row_end & (row == config.fold_depth - 1))]
        with m.If(valid):
            m.d.sync += column.eq(column.rotate_left(1))
        with m.If(row_end):
            m.d.sync += [row.eq(Mux(fold_end, 0, row + 1)), address.eq(address + 1)]
        last = place == config.places - 1
        with m.If(fold_end):
            m.d.sync += place.eq(place + 1)
            with m.If(last):
                m.d.sync += [
                    place.eq(config.resident % config.places),
                    address.eq(config.resident % config.places * config.fold_depth),
                    self.loaded.eq(1),
                ]
        # Resident folds, which come first, are not counted.
        counts = Signal(init=config.resident == 0)
        if config.streamed:
            with m.If(fold_end & (place == config.resident - 1)):
                m.d.sync += counts.eq(1)
            m.d.sync += fetch.eq(fold_end & counts)
        # The words go to all columns, so a register gives them time to travel.
        word = Signal(config.axi.data_bits, reset_less=True)
        write_address = Signal.like(address, name="write_address", reset_less=True)
        enables = Signal(config.columns)
        m.d.sync += [
            word.eq(self.read.data.p), write_address.eq(address),
            enables.eq(Mux(valid, column, 0)),
        ]
        for k, memory in enumerate(memories):
            m.d.comb += [
                memory.write_en.eq(enables[k]), memory.write_addr.eq(write_address),
                memory.write_data.eq(word[: memory.width]),
            ]

    def _read(self, m: Module, memories: Sequence[BufferMemory], free: Signal) -> None:
        """Read rows of the current fold, each port with its skew."""
        config = self.config
        stays = self._stays(m, "read", self.next)
        low = config.rows_per_word.bit_length() - 1
        kept = counter(max(config.resident, 1) * config.fold_depth, name="kept")
        ring = counter(config.depth, name="ring",
                       init=config.resident * config.fold_depth % config.depth)
        if config.resident:
            with m.If(self.next & stays):
                end = kept == (config.resident - 1) * config.fold_depth
                m.d.sync += kept.eq(Mux(end, 0, kept + config.fold_depth))
        if config.streamed:
            with m.If(self.next & ~stays):
                end = ring == (config.places - 1) * config.fold_depth
                m.d.sync += ring.eq(
                    Mux(end, config.resident * config.fold_depth, ring + config.fold_depth)
                )
        address = counter(config.depth, name="read_address", reset_less=True)
        m.d.sync += address.eq(Mux(stays, kept, ring) + (self.row >> low))
        skews = config.skews
        over: Value = self.next & ~stays
        for k in range(skews[-1] + 1):
            later = Signal(name=f"over_{k}")
            m.d.sync += later.eq(over)
            over = later
        m.d.comb += free.eq(over)
        addresses: list[Value] = [address]
        for k in range(skews[-1]):
            addresses.append(Signal.like(address, name=f"read_address_{k + 1}"))
            m.d.sync += addresses[-1].eq(addresses[-2])
        if low:
            m.d.comb += memories[0].read_addr.eq(addresses[skews[0]])
            which = delayed(m, self.row[:low], skews[0] + 3, "which")
            row = Signal(config.row_bits, reset_less=True)
            m.d.sync += row.eq(
                memories[0].read_data.word_select(which, config.row_bits)
            )
            for k, start, stop in config.shares[0]:
                m.d.comb += getattr(self, f"w_{k}").eq(
                    delayed(m, row[start:stop], skews[k] - skews[0], f"late_{k}")
                )
            return
        # A column is read with the skew of the first of its ports, and delayed for the others.
        offsets = np.cumsum([0, *config.widths]).tolist()
        for n, (memory, shares) in enumerate(zip(memories, config.shares, strict=True)):
            begin, first = n * config.axi.data_bits, skews[shares[0][0]]
            m.d.comb += memory.read_addr.eq(addresses[first])
            for k, start, stop in shares:
                part = memory.read_data[start - begin : stop - begin]
                m.d.comb += getattr(self, f"w_{k}")[start - offsets[k] : stop - offsets[k]].eq(
                    delayed(m, part, skews[k] - first, f"late_{n}_{k}")
                )
