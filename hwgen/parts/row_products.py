"""Products of rows with what is in the banks of a token memory: operands, sums, words of results.

The operands of a row are read again for each *fold* of its results; the word of the other operand
is in banks, of which each gives a part at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream

from hwgen.device.arithmetic import counter, delayed
from hwgen.parts.mac import MacArray, MacArrayConfig
from hwgen.parts.memory import BufferMemory
from hwgen.parts.stream import in_order
from hwgen.parts.token_banks import FRAMES, TokenBanks, TokenBanksConfig
from hwgen.parts.token_rows import HeadRows, Rows, RowShape, nested

__all__ = [
    "OPERAND_LATENCY", "RowBuffer", "RowStage", "multiplied", "row_address", "row_starts",
    "serialised", "token_address",
]

OPERAND_LATENCY = 4
"""Cycles from a step of a stage to the operands: two for the address, two for the word."""


class RowBuffer:
    """Rows of a stream, of which one is read while the next one comes.

    Parameters
    ----------
    m, name : module and prefix of signals
    port : stream of the rows
    words : beats of a row
    start : a row begins to be read
    release : it is read for the last time, a word a cycle from now on, so that its place is free

    Members
    -------
    there : the next row is complete
    take : a word of a row is accepted
    memory : memory of the rows, two of them
    """

    def __init__(
        self, m: Module, name: str, port: stream.Interface, words: int, start: Value,
        release: Value,
    ) -> None:
        width = len(port.p.as_value())
        m.submodules[f"{name}_rows"] = self.memory = memory = BufferMemory(width, 2 * words)
        # Words of the next row that are missing, less one; places that are left, less one.
        missing = Signal(signed((2 * words).bit_length() + 2), name=f"{name}_missing", init=-words)
        left = Signal(signed((2 * words).bit_length() + 2), name=f"{name}_left",
                      init=2 * words - 1)
        self.take = take = Signal(name=f"{name}_take")
        released = Signal(name=f"{name}_released")
        write = counter(2 * words, name=f"{name}_write")
        self.there = ~missing[-1]
        self.words, self.name = words, name
        m.d.comb += [
            port.ready.eq(~left[-1]), take.eq(port.valid & port.ready),
            memory.write_en.eq(take), memory.write_addr.eq(write),
            memory.write_data.eq(port.p.as_value()),
            memory.read_en.eq(1), memory.load.eq(1),
        ]
        m.d.sync += [
            missing.eq(missing + take - Mux(start, words, 0)),
            left.eq(left - take + Mux(released, words, 0)), released.eq(release),
        ]
        with m.If(take):
            m.d.sync += write.eq(Mux(write == 2 * words - 1, 0, write + 1))

    def read(self, m: Module, step: Value, row_end: Value) -> Value:
        """The words of a row, :data:`OPERAND_LATENCY` cycles after their steps."""
        m.d.comb += self.memory.read_addr.eq(
            row_address(m, self.name, self.words, step, row_end))
        return self.memory.read_data


def row_address(m: Module, name: str, words: int, step: Value, row_end: Value) -> Value:
    """Address of a step's word in a memory of two rows, which take turns; two cycles later."""
    half = Signal(name=f"{name}_half")
    local = counter(2 * words, name=f"{name}_local")
    address = Signal.like(local, name=f"{name}_address")
    m.d.sync += [local.eq(Mux(half, words, 0) + step), address.eq(local)]
    with m.If(row_end):
        m.d.sync += half.eq(~half)
    return address


def token_address(
    m: Module, name: str, banks: TokenBanksConfig, rows: HeadRows, advance: Value, last: Value,
    word: Value,
) -> Value:
    """Address of a word of a row's head in each bank, two cycles later.

    Parameters
    ----------
    advance : go on to the next token of each bank
    last : or back to the first one
    word : which of the head's words
    """
    token = counter(banks.frame_words, name=f"{name}_token")
    local = counter(banks.frame_words, name=f"{name}_local")
    address = counter(max(banks.depth, 2), name=f"{name}_address")
    m.d.sync += [local.eq(token + word), address.eq(rows.base + local)]
    with m.If(advance):
        m.d.sync += token.eq(Mux(last, 0, token + banks.token_words))
    return address


def multiplied(
    m: Module, name: str, config: MacArrayConfig, flags: Value, packed: Value,
    shared: Value, bits: int,
) -> tuple[list[Value], Value]:
    """Products of packed words, which are side by side, with operands that they share.

    Returns
    -------
    whether sums are complete, last when they are there, and in each cycle before; and the sums
    """
    array = MacArray(config)
    m.submodules[f"{name}_array"] = array
    marks = [flags]
    for k in range(OPERAND_LATENCY + config.latency):
        marks.append(Signal(len(flags), name=f"{name}_flags_{k}"))
        m.d.sync += marks[-1].eq(marks[-2])
    m.d.comb += [
        Cat(array.add, array.first).eq(marks[OPERAND_LATENCY + config.sum_latency][:2]),
        array.x.as_value().eq(packed),
    ]
    skew, wide = config.columns[0].skew, config.w_bits
    operands = [shared[k * bits : (k + 1) * bits] for k in range(config.simd)]
    for k, late in enumerate(config.skews):
        mine = [operands[n].as_signed() for n, s in enumerate(skew)
                if s == sorted(set(skew))[k]]
        sized = []
        for value in mine:
            word = Signal(signed(wide), name=f"{name}_operand_{k}_{len(sized)}")
            m.d.comb += word.eq(value)
            sized.append(word)
        m.d.comb += getattr(array, f"w_{k}").eq(
            delayed(m, Cat(sized), late, f"{name}_shared_{k}"))
    return [mark[2] for mark in marks], array.acc.as_value()


def serialised(
    m: Module, name: str, done: Value, acc: Value, words: int, count: Value | None = None
) -> tuple[Value, Value]:
    """Results of a fold, word by word: the word, and whether there is one.

    Parameters
    ----------
    words : in the results of a fold
    count : how many of them are wanted; None: all
    """
    held = Signal(len(acc), name=f"{name}_held", reset_less=True)
    left = Signal(range(words + 1), name=f"{name}_left")
    bits = len(acc) // words
    valid = left != 0
    with m.If(done):
        m.d.sync += [held.eq(acc), left.eq(words if count is None else count)]
    with m.Elif(valid):
        m.d.sync += [held.eq(held >> bits), left.eq(left - 1)]
    return held[:bits], valid


class RowStage:
    """The first stage of a pipeline of rows: it starts them, and steps through their folds.

    A row starts once it and all tokens of its window are there, its results have places, and the
    row before is as far ahead as it must be.  Nothing stops it then.

    Parameters
    ----------
    m, name : module and prefix of signals
    port : stream of the rows
    shape : of the rows
    words : beats of a row
    banks : memory that the stage reads
    head_words : words of a head there
    fold_cycles, folds : of a row, at most
    gap : cycles from the start of a row to the next one, less one, at most
    gap_of, folds_of : those of a row and its number of folds, less one; None: always the most
    start : is set while a row starts
    room : its results have places
    also : further memories that rows need

    Members
    -------
    go, step, fold, fold_end, last_fold, row_end : where the stage is
    rows : the row that it is at
    flags : of a product: whether it is one, whether it is the first of a sum, whether the last
    """

    def __init__(
        self, m: Module, name: str, port: stream.Interface, shape: RowShape, *, words: int,
        banks: TokenBanks, head_words: int, fold_cycles: int, folds: int, gap: int,
        start: Value, room: Value, gap_of: Callable[[Rows], Value] | None = None,
        folds_of: Callable[[Rows], Value] | None = None, also: Sequence[TokenBanks] = (),
    ) -> None:
        rest = counter(gap + 1, name=f"{name}_rest")
        busy, release = Signal(name=f"{name}_busy"), Signal(name=f"{name}_release")
        self.go, self.row_end = Signal(name=f"{name}_go"), Signal(name=f"{name}_row_end")
        self.buffer = RowBuffer(m, name, port, words, start, release)
        self.rows = HeadRows(m, name, shape, banks.config, head_words, self.row_end)
        starts = Rows(m, f"{name}_start", shape, start)
        first = Signal(name=f"{name}_first", init=1)
        """The row that starts next is the first of a window."""
        with m.If(start):
            m.d.sync += [rest.eq(gap if gap_of is None else gap_of(starts)), first.eq(starts.last)]
        with m.Elif(rest != 0):
            m.d.sync += rest.eq(rest - 1)
        self.step, self.fold_end, self.fold, self.last_fold = nested(
            m, name, self.go, (fold_cycles, folds),
            (Const(fold_cycles - 1), Const(folds - 1) if folds_of is None else folds_of(self.rows)))
        full: Value = banks.full
        for each in also:
            full = full & each.full
        freed = Signal(name=f"{name}_freed")
        m.d.sync += freed.eq(self.row_end & self.rows.last)
        m.d.comb += [
            start.eq((rest == 0) & room & self.buffer.there & (~first | full)),
            self.go.eq(start | busy), self.row_end.eq(self.go & self.fold_end & self.last_fold),
            release.eq(self.go & self.last_fold & (self.step == 0)), banks.free.eq(freed),
            *(each.begin.eq(start & first) for each in (banks, *also)),
        ]
        with m.If(self.go):
            m.d.sync += busy.eq(~self.row_end)
        live = Signal(name=f"{name}_live")
        m.d.comb += live.eq(self.go & (self.step < words))
        self.flags = Cat(live, self.step == 0, live & (self.step == words - 1))

    def operands(self, m: Module) -> Value:
        """The words of the row, :data:`OPERAND_LATENCY` cycles after their steps."""
        return self.buffer.read(m, self.step, self.row_end)


def row_starts(
    arrivals: Sequence[np.ndarray], words: int, gaps: np.ndarray, release: np.ndarray,
    banks: Sequence[tuple[int, int]] = (), late: int = 1,
) -> tuple[list[np.ndarray], np.ndarray]:
    """When beats are accepted and rows start, exactly: the model of :class:`RowStage`.

    Parameters
    ----------
    arrivals : of the beats of the rows, and of those in each memory
    words : beats of a row
    gaps : per row of a window, least cycles to the start of the next one
    release : per row of a window, cycles from its start until its place is free
    banks : per memory, beats of a window, and cycles from the start of a window's last row until
        its place is free
    late : cycles from a row's last beat to its start, at least

    Returns
    -------
    cycles in which beats are accepted, per input; and in which rows start
    """
    rows, windows = len(gaps), len(arrivals[0]) // (words * len(gaps))
    accepts = [np.zeros_like(times) for times in arrivals]
    starts = np.zeros(windows * rows, np.int64)
    free = np.zeros(len(starts), np.int64)
    waits, after = gaps.tolist(), release.tolist()
    # Per row, when its last word comes if there is always a place for it.
    last = ((arrivals[0].reshape(-1, words) - np.arange(words)).max(1) + words - 1).tolist()
    time = before = -1
    for window in range(windows):
        ready = 0
        for k, (beats, end) in enumerate(banks, 1):
            own = slice(window * beats, (window + 1) * beats)
            times = arrivals[k][own]
            if window:
                times = np.maximum(times, accepts[k][own.start - 1] + 1)
            if window >= FRAMES:
                times = np.maximum(times, starts[(window - FRAMES + 1) * rows - 1] + end)
            accepts[k][own] = in_order(times)
            ready = max(ready, int(accepts[k][own.stop - 1]) + 1)
        for row in range(window * rows, (window + 1) * rows):
            place = int(starts[row - 2]) + after[(row - 2) % rows] if row >= 2 else 0
            free[row] = place
            time = max(time + words, place + words - 1, last[row])
            start = max(ready, time + late, before)
            starts[row] = start
            before = start + waits[row % rows]
    accepts[0] = in_order(np.maximum(arrivals[0], np.repeat(free, words)))
    return accepts, starts
