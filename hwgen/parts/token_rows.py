"""Rows of products of tokens: a *row* is a token of one head, head after head of each token.

Stages of a pipeline are at rows of their own, so each counts for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from amaranth.hdl import Array, Const, Module, Mux, Signal, Value

from hwgen.device.arithmetic import counter, delayed
from hwgen.parts.token_banks import TokenBanksConfig

__all__ = ["HeadRows", "RowShape", "Rows", "nested"]


@dataclass(frozen=True)
class RowShape:
    """Rows of a frame.

    Parameters
    ----------
    queries : tokens of a window
    heads : rows of each
    sharing : heads that follow one another and read the same head of the other operand
    windows : how often that comes in a frame
    """

    queries: int
    heads: int
    sharing: int = 1
    windows: int = 1

    @property
    def groups(self) -> int:
        """Heads of the other operand."""
        return self.heads // self.sharing

    @property
    def window_rows(self) -> int:
        """Rows of a window."""
        return self.queries * self.heads


class Rows:
    """Which row of a window a stage is at.

    Parameters
    ----------
    m, name : module and prefix of signals
    shape : of the rows
    step : whether the row is done in this cycle

    Members
    -------
    query : which query of the window the row is of
    group_end : the row is the last of those that share a head of keys and values
    token_end : the row is the last of its query
    last : the row is the last of its window
    """

    def __init__(self, m: Module, name: str, shape: RowShape, step: Value) -> None:
        self.m, self.name, self.shape, self.step = m, name, shape, step
        shared, head = (counter(n, name=f"{name}_{what}") for n, what in (
            (shape.sharing, "shared"), (shape.groups, "head")))
        self.query = query = counter(shape.queries, name=f"{name}_query")
        self.group_end = shared == shape.sharing - 1
        self.token_end, self.last = Signal(name=f"{name}_token_end"), Signal(name=f"{name}_last")
        m.d.comb += [
            self.token_end.eq(self.group_end & (head == shape.groups - 1)),
            self.last.eq(self.token_end & (query == shape.queries - 1)),
        ]
        with m.If(step):
            m.d.sync += shared.eq(Mux(self.group_end, 0, shared + 1))
            with m.If(self.group_end):
                m.d.sync += head.eq(Mux(self.token_end, 0, head + 1))
            with m.If(self.token_end):
                m.d.sync += query.eq(Mux(self.last, 0, query + 1))

    def of_query(self, values: np.ndarray) -> Value:
        """That of a number per query which is the row's."""
        if (values == values[0]).all():
            return Const(int(values[0]))
        return Array(values.tolist())[self.query]

    def of_row(self, values: np.ndarray, late: int) -> Value:
        """That of some numbers which was the row's a few cycles ago; none is negative.

        Parameters
        ----------
        values : shape ``(windows, heads)``, or with extents of 1
        late : cycles
        """
        if (values == values.flat[0]).all():
            return Const(int(values.flat[0]))
        m = self.m
        lines: list[Value] = []
        for line in values.tolist():
            lines.append(Array(line)[self._head] if len(line) > 1 else Const(line[0]))
        found = Signal(range(int(values.max()) + 1), name=f"{self.name}_of_row_now")
        m.d.comb += found.eq(Array(lines)[self._window] if len(lines) > 1 else lines[0])
        return delayed(m, found, late, f"{self.name}_of_row")

    @cached_property
    def _head(self) -> Signal:
        """Which row of its query the row is."""
        head = counter(self.shape.heads, name=f"{self.name}_of_query")
        with self.m.If(self.step):
            self.m.d.sync += head.eq(Mux(self.token_end, 0, head + 1))
        return head

    @cached_property
    def _window(self) -> Signal:
        """Which window of the frame the row is of."""
        window = counter(self.shape.windows, name=f"{self.name}_window")
        with self.m.If(self.step & self.last):
            self.m.d.sync += window.eq(
                Mux(window == self.shape.windows - 1, 0, window + 1))
        return window


class HeadRows(Rows):
    """Where the words of a row's head begin in a memory of tokens.

    Parameters
    ----------
    m, name, shape, step : see :class:`Rows`
    banks : the memory
    words : words of a head

    Members
    -------
    base : address of the row's first words, two cycles after ``step``
    """

    def __init__(
        self, m: Module, name: str, shape: RowShape, banks: TokenBanksConfig, words: int,
        step: Value,
    ) -> None:
        super().__init__(m, name, shape, step)
        frame, offset = Signal(name=f"{name}_frame"), counter(
            banks.token_words, name=f"{name}_offset")
        self.base = counter(banks.depth, name=f"{name}_base")
        with m.If(step):
            with m.If(self.group_end):
                m.d.sync += offset.eq(Mux(self.token_end, 0, offset + words))
            with m.If(self.last):
                m.d.sync += frame.eq(~frame)
        m.d.sync += self.base.eq(Mux(frame, banks.frame_words, 0) + offset)


def nested(
    m: Module, name: str, go: Value, most: tuple[int, int], last: tuple[Value, Value],
) -> tuple[Signal, Value, Signal, Value]:
    """Two nested counters: the inner and the outer one, and whether each is at its end.

    Parameters
    ----------
    go : whether they go on in this cycle
    most : most turns of each
    last : the last turn of each, for the row that they are at
    """
    one, two = counter(most[0], name=f"{name}_step"), counter(most[1], name=f"{name}_fold")
    one_end, two_end = one == last[0], two == last[1]
    with m.If(go):
        m.d.sync += one.eq(Mux(one_end, 0, one + 1))
        with m.If(one_end):
            m.d.sync += two.eq(Mux(two_end, 0, two + 1))
    return one, one_end, two, two_end
