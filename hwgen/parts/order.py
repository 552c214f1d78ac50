"""Any order of the words of a frame: which is read, whether it is there, what it frees.

Words are written to a circular buffer as they come, and read in an order that comes again after
each *period*, of a row or of a whole frame.  An order that is a nest of loops, each with a count
and a stride, is walked by counters: what changes from a word to the next depends on which loops
are at their last value, so each change is a table of so many inputs.  Any other order is a table of
changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hwgen.device.arithmetic import counter, levels, signed_width
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.parts.memory import STYLE, ReadOnlyMemory

__all__ = ["OrderWalk", "WordOrder"]

MOST_LOOPS = 6
"""Loops of a nest that is walked by counters: a LUT has as many inputs."""
LONGEST_TABLE = 1 << 16
"""Words of the longest period that is walked by a table."""


@dataclass(frozen=True, eq=False)
class WordOrder:
    """In which order words are read.

    Parameters
    ----------
    words : integer array
        Per word that is read of a frame, which of the frame's it is.
    frame : :class:`int`
        Words that are written of a frame.

    Raises
    ------
    :exc:`HwgenError`
        If the order is no nest of loops, and too long for a table.

    Members
    -------
    period : words that are read until the order comes again
    advance : words that are written meanwhile
    """

    words: np.ndarray
    frame: int

    def __post_init__(self) -> None:
        if self.loops is None and self.period > LONGEST_TABLE:
            raise HwgenError(
                f"an order of {self.period} words that is no nest of at most {MOST_LOOPS} loops "
                f"is too long: a table may have {LONGEST_TABLE}"
            )

    @cached_property
    def period(self) -> int:
        parts = math.gcd(len(self.words), self.frame)
        for count in sorted((n for n in range(1, parts + 1) if parts % n == 0), reverse=True):
            rows = self.words.reshape(count, -1)
            if (np.diff(rows, axis=0) == self.frame // count).all():
                return rows.shape[1]
        return len(self.words)

    @property
    def advance(self) -> int:
        return self.frame * self.period // len(self.words)

    @cached_property
    def read(self) -> np.ndarray:
        """Per word of a period, and for the first of the next: which word it is."""
        first = self.words[: self.period]
        return np.append(first, first[0] + self.advance)

    @cached_property
    def loops(self) -> tuple[int, ...] | None:
        """Counts of the loops, outermost first; None: it is no nest of few loops."""
        counts: list[int] = []
        rest = self.words[: self.period]
        while len(rest) > 1:
            steps = np.diff(rest)
            run = int(np.argmax(np.append(steps, steps[0] + 1) != steps[0])) + 1
            if len(rest) % run:
                return None
            rows = rest.reshape(-1, run)
            if (np.diff(rows, axis=1) != steps[0]).any():
                return None
            counts.append(run)
            rest = rows[:, 0]
        return tuple(reversed(counts or [1])) if len(counts) <= MOST_LOOPS else None

    @cached_property
    def least(self) -> np.ndarray:
        """Per word of a period, and for the first of the next: the least that is read from then on.

        Where loops could not tell, it is that of the period's beginning until its end.
        """
        exact = self._exact_least
        if self.loops is None or self._by_flags(np.diff(exact)) is not None:
            return exact
        return np.append(np.full(self.period, exact[0]), exact[-1])

    @property
    def _exact_least(self) -> np.ndarray:
        begin = int(self.words[: self.period].min())
        ahead = np.minimum.accumulate(self.read[:-1][::-1])[::-1]
        return np.append(np.minimum(ahead, begin + self.advance), begin + self.advance)

    @property
    def least_capacity(self) -> int:
        """Fewest words of a buffer with which everything can be read."""
        return int((self.read - self.least).max()) + 1

    def by_frames(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """For all words of some frames, which are read and the least behind each; counted on."""
        periods = frames * len(self.words) // self.period
        begin = self.advance * np.arange(periods, dtype=np.int64)[:, None]
        return (begin + self.read[:-1]).ravel(), (begin + self.least[1:]).ravel()

    # Loops

    @cached_property
    def flags(self) -> np.ndarray:
        """Per word of a period: bit ``k`` is whether loop ``k``, from the innermost, is at its end."""
        assert self.loops is not None
        index = np.unravel_index(np.arange(self.period), self.loops)
        ends = [where == count - 1 for where, count in zip(index, self.loops, strict=True)]
        return sum((end.astype(np.int64) << k for k, end in enumerate(reversed(ends))),
                   np.zeros(self.period, np.int64))

    def _by_flags(self, changes: np.ndarray) -> dict[int, int] | None:
        """Changes by the flags; None if they differ where flags are alike."""
        found: dict[int, int] = {}
        for flags in np.unique(self.flags):
            values = np.unique(changes[self.flags == flags])
            if len(values) > 1:
                return None
            found[int(flags)] = int(values[0])
        return found

    def walk_area(self, *changes: np.ndarray) -> Area:
        """What an :class:`OrderWalk` takes that says these changes."""
        widths = [_width(each) for each in changes]
        bits = sum(len(np.unique((each[:, None] >> np.arange(width)) & 1, axis=1).T)
                   for each, width in zip(changes, widths, strict=True))
        if self.period == 1:
            return Area()
        if self.loops is None:
            table = ReadOnlyMemory(sum(widths), self.period)
            index = levels(self.period)
            return table.area() + logic("order", one=1, ff_register=bits + index,
                                        lut_counter=index, lut_table=bits)
        counters = sum(map(levels, self.loops))
        return logic("order", one=1, ff_register=bits + counters, lut_counter=counters,
                     lut_table=bits, loop=len(self.loops))


class OrderWalk:
    """Says for the word that is being read what changes with it, one word a cycle.

    Parameters
    ----------
    m : the module
    order : which words are read
    step : whether the word is read in this cycle
    changes : by name, per word of a period a number

    Members
    -------
    now : by name, that of the word being read; registers
    """

    def __init__(
        self, m: Module, order: WordOrder, step: Value, **changes: np.ndarray
    ) -> None:
        self.now = {
            name: Signal(signed(_width(each)), name=name, init=int(each[0]))
            for name, each in changes.items()
        }
        if order.period == 1:
            return
        words = Cat(*self.now.values())
        rows = [sum((int(each[k]) & ((1 << _width(each)) - 1)) << begin
                    for each, begin in zip(changes.values(), _begins(changes), strict=True))
                for k in range(order.period)]
        if order.loops is None:
            self._look_up(m, step, words, rows)
        else:
            self._count(m, order, step, words, rows)

    def _count(
        self, m: Module, order: WordOrder, step: Value, words: Value, rows: list[int]
    ) -> None:
        """Loops, one word ahead: the changes are a function of which are at their end."""
        assert order.loops is not None
        begin = np.unravel_index(1, order.loops)
        carry: Value = step
        ends = []
        for k, (count, init) in enumerate(reversed(list(zip(order.loops, begin, strict=True)))):
            loop = counter(count, name=f"loop_{k}", init=int(init))
            end = loop == count - 1
            ends.append(end)
            with m.If(carry):
                m.d.sync += loop.eq(Mux(end, 0, loop + 1))
            carry = carry & end
        byflags = dict(zip(order.flags.tolist(), rows, strict=True))
        with m.If(step), m.Switch(Cat(ends)):
            *others, last = byflags.items()
            for flags, row in others:
                with m.Case(flags):
                    m.d.sync += words.eq(row)
            with m.Default():
                m.d.sync += words.eq(last[1])

    def _look_up(self, m: Module, step: Value, words: Value, rows: list[int]) -> None:
        """A table, two words ahead: its output register, and the memory's own."""
        style = ReadOnlyMemory(len(words), len(rows)).kind
        m.submodules.changes = memory = Memory(
            shape=len(words), depth=len(rows), init=rows, attrs={STYLE: style})
        index = counter(len(rows), name="index", init=2 % len(rows))
        second = Signal(init=1)
        read = memory.read_port()
        m.d.comb += [read.addr.eq(index), read.en.eq(step)]
        with m.If(step):
            m.d.sync += [
                index.eq(Mux(index == len(rows) - 1, 0, index + 1)),
                second.eq(0), words.eq(Mux(second, rows[1], read.data)),
            ]


def _width(changes: np.ndarray) -> int:
    """Bits of a signed number that is any of these."""
    return signed_width(int(changes.min()), int(changes.max()))


def _begins(changes: dict[str, np.ndarray]) -> list[int]:
    """Where each of several numbers begins that lie side by side in a word."""
    return np.cumsum([0, *map(_width, changes.values())])[:-1].tolist()
