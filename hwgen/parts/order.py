"""Any order of the words of a frame: which is read, and what it frees.

Words are written to a circular buffer as they come, and read in an order that comes again after
each *period*, of a row or of a whole frame.  Where an order is a nest of loops, each with words of
its own that are added up, it is walked by a counter for each loop: what changes from a word to the
next depends on which loops are at their end, and in a loop of uneven strides on its counter.  Any
other order is a table of changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib.memory import Memory

from hwgen.device.arithmetic import counter, levels, signed_width
from hwgen.device.cost import Area, logic
from hwgen.errors import HwgenError
from hwgen.parts.memory import STYLE, ReadOnlyMemory

__all__ = ["OrderWalk", "WordOrder"]

MOST_LOOPS = 6
"""Loops of a nest that is walked by counters: a LUT has as many inputs."""
LONGEST_LOOP = 1024
"""Turns of the longest loop of uneven strides: its changes are a table in LUTs."""
LONGEST_TABLE = 1 << 16
"""Words of the longest period that is walked by a table."""


@dataclass(frozen=True, eq=False)
class WordOrder:
    """In which order words are read.

    Parameters
    ----------
    words : integer array, any shape
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
        words = self.words.ravel()
        parts = math.gcd(len(words), self.frame)
        for count in sorted((n for n in range(1, parts + 1) if parts % n == 0), reverse=True):
            if (np.diff(words.reshape(count, -1), axis=0) == self.frame // count).all():
                return len(words) // count
        return len(words)

    @property
    def advance(self) -> int:
        return self.frame * self.period // self.words.size

    @property
    def _period_words(self) -> np.ndarray:
        return self.words.ravel()[: self.period]

    @cached_property
    def read(self) -> np.ndarray:
        """Per word of a period, and for the first of the next: which word it is."""
        first = self._period_words
        return np.append(first, first[0] + self.advance)

    @cached_property
    def least(self) -> np.ndarray:
        """Per word of a period, and for the first of the next: the least that is read from then on.

        Where loops could not tell, it is that of when the outermost loop went on last.
        """
        begin = int(self._period_words.min())
        ahead = np.minimum.accumulate(self._period_words[::-1])[::-1]
        exact = np.append(np.minimum(ahead, begin + self.advance), begin + self.advance)
        if self.loops is None or self.by_loop(np.diff(exact)) is not None:
            return exact
        return np.append(np.repeat(exact[: -1 : self.period // len(self.loops[0])],
                                   self.period // len(self.loops[0])), exact[-1])

    @property
    def least_capacity(self) -> int:
        """Fewest words of a buffer with which everything can be read."""
        return int((self.read - self.least).max()) + 1

    def by_frames(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """For all words of some frames, which are read and the least behind each; counted on."""
        periods = frames * self.words.size // self.period
        begin = self.advance * np.arange(periods, dtype=np.int64)[:, None]
        return (begin + self.read[:-1]).ravel(), (begin + self.least[1:]).ravel()

    # Loops

    @cached_property
    def loops(self) -> tuple[np.ndarray, ...] | None:
        """The words of each loop, outermost first; None: it is no nest of few loops."""
        found = self._even_loops() or self._axes()
        return None if found is None or len(found) > MOST_LOOPS else found

    def _even_loops(self) -> tuple[np.ndarray, ...] | None:
        """Loops whose words are evenly spaced."""
        found: list[np.ndarray] = []
        rest = self._period_words
        while len(rest) > 1:
            steps = np.diff(rest)
            run = int(np.argmax(np.append(steps, steps[0] + 1) != steps[0])) + 1
            if len(rest) % run:
                return None
            rows = rest.reshape(-1, run)
            if (np.diff(rows, axis=1) != steps[0]).any():
                return None
            found.append(rows[0] - rows[0, 0])
            rest = rows[:, 0]
        return tuple(reversed(found)) or (np.zeros(1, np.int64),)

    def _axes(self) -> tuple[np.ndarray, ...] | None:
        """A loop for each axis of the frame, if each adds the same wherever the others are."""
        words = self._period_words
        shape = list(self.words.shape)
        while len(shape) > 1 and math.prod(shape) > self.period:
            # A period is some of the outermost axis.
            rest = math.prod(shape[1:])
            shape = [self.period // rest, *shape[1:]] if self.period % rest == 0 else shape[1:]
        if math.prod(shape) != self.period:
            return None
        words = words.reshape(shape) - words[0]
        found = []
        for axis in range(words.ndim):
            line = words[tuple(slice(None) if k == axis else 0 for k in range(words.ndim))]
            words = words - np.expand_dims(line, tuple(k for k in range(words.ndim) if k != axis))
            found.append(line)
        uneven = any(len(set(np.diff(line))) > 1 and len(line) > LONGEST_LOOP for line in found)
        if words.any() or uneven:
            return None
        return tuple(line for line in found if len(line) > 1)

    @property
    def counts(self) -> tuple[int, ...]:
        """Turns of each loop, outermost first."""
        assert self.loops is not None
        return tuple(map(len, self.loops))

    @cached_property
    def flags(self) -> np.ndarray:
        """Per word of a period a number, whose bit ``k`` is whether loop ``k``, counted from the
        innermost, is at its end."""
        found = np.zeros(self.period, np.int64)
        index = np.unravel_index(np.arange(self.period), self.counts)
        for k, (where, count) in enumerate(reversed(list(zip(index, self.counts, strict=True)))):
            found |= (where == count - 1).astype(np.int64) << k
        return found

    def by_loop(self, changes: np.ndarray) -> dict[int, int | np.ndarray] | None:
        """Changes per word of a period, as counters know them; None if they do not.

        Returns
        -------
        :class:`dict`
            By flags the change, or the changes by the counter of the loop that goes on.
        """
        index = np.unravel_index(np.arange(self.period), self.counts)[::-1]
        found: dict[int, int | np.ndarray] = {}
        for flags in np.unique(self.flags).tolist():
            here = self.flags == flags
            values = changes[here]
            if (values == values[0]).all():
                found[flags] = int(values[0])
                continue
            # The innermost loop that is not at its end.
            loop = (~flags & (flags + 1)).bit_length() - 1
            table = np.zeros(self.counts[-1 - loop], np.int64)
            table[index[loop][here]] = values
            if (table[index[loop][here]] != values).any():
                return None
            found[flags] = table
        return found

    def walk_area(self, *changes: np.ndarray) -> Area:
        """What an :class:`OrderWalk` takes that says these changes."""
        if self.period == 1:
            return Area()
        bits = sum(map(_width, changes))
        if self.loops is None:
            index = levels(self.period)
            return ReadOnlyMemory(bits, self.period).area() + logic(
                "order", one=1, ff_register=bits + index, lut_counter=index, lut_choice=bits)
        tables = 0
        for each in changes:
            cases = self.by_loop(each) or {}
            tables += _width(each) * sum(
                -(-len(case) // 64) for case in cases.values() if isinstance(case, np.ndarray))
        counters = sum(map(levels, self.counts))
        return logic("order", one=1, ff_register=bits + counters, lut_counter=counters,
                     lut_choice=bits, lut_table=tables, loop=len(self.counts))


class OrderWalk:
    """Says for the word that is being read what changes with it, one word a cycle.

    Parameters
    ----------
    m : the module
    order : which words are read
    step : whether the word is read in this cycle
    changes : by name, per word of a period a number
    name : of the memory, if changes are a table

    Members
    -------
    now : by name, that of the word being read; registers
    """

    def __init__(
        self, m: Module, order: WordOrder, step: Value, changes: Mapping[str, np.ndarray],
        name: str = "changes",
    ) -> None:
        self.now = {
            name: Signal(signed(_width(each)), name=name, init=int(each[0]))
            for name, each in changes.items()
        }
        if order.period == 1:
            return
        if order.loops is None:
            self._look_up(m, step, changes, name)
        else:
            self._count(m, order, step, changes)

    def _count(
        self, m: Module, order: WordOrder, step: Value, changes: Mapping[str, np.ndarray]
    ) -> None:
        """Count loops, one word ahead of the one being read."""
        begin = np.unravel_index(1, order.counts)
        carry: Value = step
        loops, ends = [], []
        for k, (count, init) in enumerate(zip(order.counts[::-1], begin[::-1], strict=True)):
            loop = counter(count, name=f"loop_{k}", init=int(init))
            end = loop == count - 1
            loops.append(loop)
            ends.append(end)
            with m.If(carry):
                m.d.sync += loop.eq(Mux(end, 0, loop + 1))
            carry = carry & end
        for name, each in changes.items():
            cases = order.by_loop(each)
            assert cases is not None
            with m.If(step), m.Switch(Cat(ends)):
                *others, last = cases.items()
                for flags, case in others:
                    with m.Case(flags):
                        m.d.sync += self.now[name].eq(_looked_up(flags, case, loops))
                with m.Default():
                    m.d.sync += self.now[name].eq(_looked_up(*last, loops))

    def _look_up(
        self, m: Module, step: Value, changes: Mapping[str, np.ndarray], name: str
    ) -> None:
        """Read a table, two words ahead: its output register, and the memory's own."""
        rows, begin = [0] * len(next(iter(changes.values()))), 0
        for each in changes.values():
            width = _width(each)
            rows = [row | (int(value) & ((1 << width) - 1)) << begin
                    for row, value in zip(rows, each, strict=True)]
            begin += width
        words = Cat(*self.now.values())
        m.submodules[name] = memory = Memory(
            shape=begin, depth=len(rows), init=rows,
            attrs={STYLE: ReadOnlyMemory(begin, len(rows)).kind})
        index = counter(len(rows), name="index", init=2 % len(rows))
        second = Signal(init=1)
        read = memory.read_port()
        m.d.comb += [read.addr.eq(index), read.en.eq(step)]
        with m.If(step):
            m.d.sync += [
                index.eq(Mux(index == len(rows) - 1, 0, index + 1)),
                second.eq(0), words.eq(Mux(second, rows[1], read.data)),
            ]


def _looked_up(flags: int, case: int | np.ndarray, loops: list[Signal]) -> Value | int:
    """A change, or that of the loop that goes on."""
    if isinstance(case, int):
        return case
    return Array(case.tolist())[loops[(~flags & (flags + 1)).bit_length() - 1]]


def _width(changes: np.ndarray) -> int:
    """Bits of a signed number that is any of these."""
    return signed_width(int(changes.min()), int(changes.max()))
