"""A queue that reorders sites whose parts arrive separately, tile by tile.

A layer that uses each part of its weights once for a whole tile of its output computes the first
part of every site of the tile before the second part of any.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Module, Mux, Shape, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.device.arithmetic import add_carry, counter, levels
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.parts.memory import BufferMemory
from hwgen.parts.stream import in_order

__all__ = ["ReorderQueue", "TileOrder"]


@dataclass(frozen=True)
class TileOrder:
    """The order in which the beats of sites arrive.

    Parameters
    ----------
    sites : :class:`int`
        Number of sites in a tile.
    parts : sequence of :class:`int`
        Number of beats in each part of a site: all equal, except that the last may have fewer.

    Raises
    ------
    :exc:`HwgenError`
        If there are no sites or parts, or if parts differ in another way.
    """

    sites: int
    parts: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.sites < 1:
            raise HwgenError(f"Sites of a tile must be positive, not {self.sites!r}")
        if not self.parts or len({*self.parts[:-1]}) > 1 or not (
            1 <= self.parts[-1] <= self.parts[0]
        ):
            raise HwgenError(f"Parts must be equal, the last at most as large, not {self.parts!r}")

    @property
    def beats(self) -> int:
        """Number of beats in a site."""
        return sum(self.parts)

    @property
    def tile_beats(self) -> int:
        """Number of beats in a tile."""
        return self.sites * self.beats

    def whole(self, depth: int) -> int:
        """The least number of beats that are whole sites, a tile or more, and ``depth`` or more."""
        return -(-max(depth, self.tile_beats) // self.beats) * self.beats

    def times(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """When places are claimed and when their beats can be read, in the order of the output.

        Parameters
        ----------
        starts : cycle in which each part of a site starts, in the order in which the parts come

        Returns
        -------
        claims, ready : ``(tiles * tile_beats,)``
            The places of a site are claimed when its first part starts.  From the start of its
            last part on, the site can be read, a beat per cycle.
        """
        by_tile = starts.reshape(-1, len(self.parts), self.sites)
        claims = np.repeat(by_tile[:, 0].ravel(), self.beats)
        ready = np.repeat(by_tile[:, -1].ravel(), self.beats)
        return claims, in_order(ready)


class ReorderQueue(wiring.Component):
    """Queue whose sites are filled part by part and read in order.

    Parameters
    ----------
    shape : shape-like
        Payload.
    depth : :class:`int`
        Number of places, in beats: whole sites, and at least a tile.
    order : :class:`TileOrder`
    style : :class:`str`
        Style of the memory; see :class:`BufferMemory`.

    Members
    -------
    i : :py:`In(stream.Signature(shape, always_ready=True))`
        Beats, part after part; those of one part of a site come one after the other.
    room : :py:`Out(1)`
        There are places for a site; a register.
    reserve : :py:`In(1)`
        Claim the places of a site in this cycle, before its first part comes; only with room.
    o : :py:`Out(stream.Signature(shape))`

    Raises
    ------
    :exc:`HwgenError`
        If the depth does not fit the order.

    Timing
    ------
    Three cycles after the first beat of a site's last part has come, the first beat of the site is
    visible; the others follow, one beat per cycle.
    """

    def __init__(self, shape, depth: int, order: TileOrder, style: str = "") -> None:
        if depth != order.whole(depth):
            raise HwgenError(
                f"Depth must be at least the {order.tile_beats} beats of a tile and a multiple of "
                f"the {order.beats} of a site, not {depth!r}"
            )
        self.shape = shape
        self.depth = depth
        self.order = order
        self.style = style
        super().__init__({
            "i": In(stream.Signature(shape, always_ready=True)),
            "room": Out(1),
            "reserve": In(1),
            "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = BufferMemory(
            Shape.cast(self.shape).width, self.depth, self.style
        )
        beats = self.order.beats
        complete = self._write(m, memory)
        stored = Signal(range(self.depth + 1))
        pop, fetch = Signal(), Signal()
        fetched, move = Signal(), Signal()
        m.d.comb += [
            pop.eq(self.o.valid & self.o.ready),
            move.eq(~self.o.valid | self.o.ready),
            fetch.eq((stored != 0) & (~fetched | move)),
            memory.read_en.eq(fetch),
            memory.load.eq(move),
            self.o.p.eq(memory.read_data),
        ]
        # Places left after the next site; the sign says whether there is room for it.
        left = Signal(signed(self.depth.bit_length() + 1), init=self.depth - beats)
        m.d.comb += self.room.eq(~left[-1])
        m.d.sync += [
            left.eq(add_carry(left, Mux(self.reserve, -beats, 0), pop)),
            stored.eq(stored + Mux(complete, beats, 0) - fetch),
            fetched.eq(fetch | (fetched & ~move)),
        ]
        with m.If(move):
            m.d.sync += self.o.valid.eq(fetched)
        address = Signal.like(memory.read_addr, name="read_addr")
        m.d.comb += memory.read_addr.eq(address)
        with m.If(fetch):
            m.d.sync += address.eq(Mux(address == self.depth - 1, 0, address + 1))
        return m

    def _write(self, m: Module, memory: BufferMemory) -> Signal:
        """Write beats into the places of their sites.

        Returns
        -------
        whether the last part of a site begins
        """
        order = self.order
        beats, parts = order.beats, order.parts
        beat, site, part = (counter(n, name=name) for n, name in (
            (parts[0], "beat"), (order.sites, "site"), (len(parts), "part")))
        last_part, part_end = Signal(init=len(parts) == 1), Signal()
        last_site = site == order.sites - 1
        # First place of the site, and of the tile; the next place within the site, and the first
        # one of the part.
        begin, tile = (counter(self.depth, name=name) for name in ("begin", "tile"))
        place, first = counter(beats, name="place"), counter(beats, name="first")
        after = Signal.like(begin)
        complete = Signal()
        m.d.comb += [
            part_end.eq(beat == Mux(last_part, parts[-1], parts[0]) - 1),
            after.eq(Mux(begin == self.depth - beats, 0, begin + beats)),
            complete.eq(self.i.valid & last_part & (beat == 0)),
            memory.write_en.eq(self.i.valid),
            memory.write_addr.eq(begin + place),
            memory.write_data.eq(self.i.p),
        ]
        with m.If(self.i.valid):
            m.d.sync += [beat.eq(beat + 1), place.eq(place + 1)]
            with m.If(part_end):
                m.d.sync += [
                    beat.eq(0), place.eq(first), begin.eq(after),
                    site.eq(Mux(last_site, 0, site + 1)),
                ]
                with m.If(last_site):
                    behind = first + parts[0]
                    m.d.sync += [
                        place.eq(Mux(last_part, 0, behind)), first.eq(Mux(last_part, 0, behind)),
                        begin.eq(Mux(last_part, after, tile)),
                        part.eq(Mux(last_part, 0, part + 1)),
                        last_part.eq(Mux(last_part, int(len(parts) == 1), part == len(parts) - 2)),
                    ]
                    with m.If(last_part):
                        m.d.sync += tile.eq(after)
        return complete


def reorder_area(order: TileOrder, depth: int) -> Area:
    """Area of a :class:`ReorderQueue` besides that of a queue, with the counters of sites."""
    first, parts, sites = order.parts[0], levels(len(order.parts)), levels(order.sites)
    # Counters of where beats are written: site, part, place in the site, first place of the part.
    places = levels(order.beats) * (2 if first > 1 else 1)
    write = levels(depth) + sites + parts + levels(first) + places + 2
    counters = 4 * sites + parts + 2
    return logic("reorder", lut_counter=write + counters, ff_register=write + counters)
