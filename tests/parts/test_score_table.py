"""Constants beside scores: what is kept, and which word comes when."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.sim import Simulator

from hwgen.parts.score_table import ScoreTable


class Reader(Elaboratable):
    """A table whose words are read one after the other."""

    def __init__(self, table: ScoreTable) -> None:
        self.table = table
        self.step, self.row_end, self.token_end, self.last = Signal(), Signal(), Signal(), Signal()
        self.word = Signal(table.memory.width)

    def elaborate(self, platform):
        m = Module()
        word = self.table.read(
            m, "table", self.step, self.row_end, self.token_end, self.last)
        m.d.comb += self.word.eq(word)
        # A clock, whatever the table needs.
        m.d.sync += Signal(name="any").eq(1)
        return m


def words_of(values: np.ndarray, windows: int, heads: int, words, lanes: int) -> list[list[int]]:
    """The numbers of each word, in the order in which scores come."""
    values = np.broadcast_to(values, (windows, heads, *values.shape[2:]))
    found = []
    for window in values:
        for query, count in enumerate(words):
            for row in window[:, query]:
                padded = np.pad(row, (0, max(count * lanes - len(row), 0)))[: count * lanes]
                found += padded.astype(int).reshape(-1, lanes).tolist()
    return found


@pytest.mark.parametrize("windows, heads, shape", [
    (1, 1, (1, 1)), (1, 3, (1, 1)), (1, 3, (1, 3)), (4, 2, (4, 2)), (4, 2, (4, 1)), (3, 1, (1, 1)),
])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("words", [(3, 3, 3), (1, 2, 3)])
def test_words_come_in_order(windows, heads, shape, masks, words):
    random, lanes = np.random.default_rng(0), 2
    values = random.integers(-9, 9, (*shape, 3, 5))
    values = values[np.arange(len(values)) % 2]
    values = values > 0 if masks else values
    table = ScoreTable(values, heads, lanes, words)
    assert table.memory.depth == len(table.rows()) == min(len(values), 2) * shape[1] * sum(words)
    assert table.bits == (1 if masks else 5)
    wanted, got = words_of(values, windows, heads, words, lanes) * 2, []
    reader = Reader(table)

    async def run(ctx):
        ends = [(word == words[query] - 1, head == heads - 1, query == len(words) - 1)
                for _ in range(2 * windows) for query in range(len(words))
                for head in range(heads) for word in range(words[query])]
        steps: list[int | None] = []
        waits = iter(random.random(10_000) < 0.3)
        k = 0
        while len(got) < len(wanted):
            go = k < len(ends) and not next(waits)
            ctx.set(reader.step, go)
            if go:
                for port, value in zip((reader.row_end, reader.token_end, reader.last), ends[k],
                                       strict=True):
                    ctx.set(port, int(value))
                k += 1
            steps.append(k - 1 if go else None)
            await ctx.tick()
            late = len(steps) - table.latency
            if late >= 0 and steps[late] is not None:
                word = int(ctx.get(reader.word))
                got.append([word >> n * table.bits & (1 << table.bits) - 1
                            for n in range(lanes)])

    simulator = Simulator(reader)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()
    mask = (1 << table.bits) - 1
    assert got == [[n & mask for n in word] for word in wanted]


def test_what_it_takes():
    one = ScoreTable(np.arange(4 * 16 * 16).reshape(1, 4, 16, 16) - 500, 4, 4, (4,) * 16)
    more = ScoreTable(np.arange(8 * 16 * 16).reshape(2, 4, 16, 16) - 500, 4, 4, (4,) * 16)
    assert one.memory.width == 4 * one.bits
    assert more.memory.depth == 2 * one.memory.depth
    # The one is in LUTs, the other in a block.
    assert one.resources().lut > one.memory.resources().lut > 0
    assert more.resources().bram18 == more.memory.resources().bram18 > 0
