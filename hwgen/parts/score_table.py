"""Constants for the scores of an attention, read word by word beside these: biases, hidden keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Array, Module, Mux, Value

from hwgen.device.arithmetic import counter, levels, signed_width
from hwgen.device.cost import Area, Part, logic
from hwgen.parts.memory import ReadOnlyMemory

__all__ = ["ScoreTable"]


@dataclass(frozen=True, eq=False)
class ScoreTable(Part):
    """A number for each score, in the order in which scores come: query, head, key.

    What is the same for several windows, or for all heads, is kept once.  Words of a row begin one
    after the other, so the address is a counter.

    Parameters
    ----------
    values : integer or boolean array, shape ``(windows, heads, queries, keys)``
        Either of the first two extents may be 1.
    heads : :class:`int`
        Rows of each query.
    lanes : :class:`int`
        Scores in a word.
    words : sequence of :class:`int`
        Per query, words of its rows; what is beyond its keys may be any number.
    """

    values: np.ndarray
    heads: int
    lanes: int
    words: tuple[int, ...]

    @property
    def bits(self) -> int:
        """Bits of a number; a boolean has one."""
        if self.values.dtype == bool:
            return 1
        return signed_width(int(self.values.min()), int(self.values.max()))

    @cached_property
    def _distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """Windows that differ, and which of them each window is."""
        flat = self.values.reshape(len(self.values), -1)
        _, first, of = np.unique(flat, axis=0, return_index=True, return_inverse=True)
        return self.values[first], of.ravel()

    @property
    def window_words(self) -> int:
        """Words of a window."""
        return sum(self.words) * self.values.shape[1]

    @property
    def memory(self) -> ReadOnlyMemory:
        """The memory of the numbers."""
        return ReadOnlyMemory(self.bits * self.lanes, len(self._distinct[0]) * self.window_words)

    @property
    def latency(self) -> int:
        """Cycles from a step to its word."""
        return self.memory.latency

    def rows(self) -> list[int]:
        """The words of the memory."""
        found: list[int] = []
        mask = (1 << self.bits) - 1
        for window in self._distinct[0]:
            for query, words in enumerate(self.words):
                row = np.zeros((len(window), words * self.lanes), np.int64)
                keys = min(row.shape[1], window.shape[2])
                row[:, :keys] = window[:, query, :keys]
                for word in row.reshape(-1, self.lanes).tolist():
                    found.append(sum((n & mask) << k * self.bits for k, n in enumerate(word)))
        return found

    def area(self) -> Area:
        """What it takes."""
        depth = self.memory.depth
        return self.memory.area() + logic(
            "attention", counter=2 * levels(depth) + levels(len(self.values)))

    def read(
        self, m: Module, name: str, step: Value, row_end: Value, token_end: Value, last: Value
    ) -> Value:
        """The words, ``latency`` cycles after each step.

        Parameters
        ----------
        m, name : module and prefix of signals
        step : a word of the scores is there
        row_end : it is the last of its row
        token_end : the row is the last of its query
        last : the query is the last of its window
        """
        distinct, of = self._distinct
        first = int(of[0]) * self.window_words
        address = counter(self.memory.depth, name=f"{name}_address", init=first)
        token = counter(self.memory.depth, name=f"{name}_token", init=first)
        begin: Value | int = 0
        if len(distinct) > 1:
            window = counter(len(of), name=f"{name}_window")
            begin = Array((np.roll(of, -1) * self.window_words).tolist())[window]
            with m.If(step & row_end & token_end & last):
                m.d.sync += window.eq(Mux(window == len(of) - 1, 0, window + 1))
        following = counter(self.memory.depth, name=f"{name}_next")
        again = self.heads > 1 and self.values.shape[1] == 1
        m.d.comb += following.eq(address + 1)
        with m.If(row_end & token_end & last):
            m.d.comb += following.eq(begin)
        if again:
            with m.If(row_end & ~token_end):
                m.d.comb += following.eq(token)
        with m.If(step):
            m.d.sync += address.eq(following)
            if again:
                with m.If(row_end & token_end):
                    m.d.sync += token.eq(following)
        return self.memory.read(m, f"{name}_table", address, self.rows())
