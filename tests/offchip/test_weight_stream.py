"""WeightStream: rows of all folds in turn, what it asks a memory for, and when folds are there."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.device.storage import STYLES
from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig
from hwgen.offchip.weight_stream import WeightStreamConfig
from tests.profiles import examples

BASE = 0x5400
"""Where folds begin."""
AVAILABLE_LATENCY = 2
"""Cycles from a fold's last word until it may be taken."""

OVERHEAD_RESERVE = 6
"""Cycles by which a place is filled again sooner than is said."""


def stream(
    widths: tuple[int, ...] = (13, 9), rows: int = 5, folds: int = 4, resident: int = 1,
    data_bits: int = 32, **options,
) -> WeightStreamConfig:
    """Weights of a few folds."""
    skews = options.pop("skews", tuple(range(len(widths))))
    return WeightStreamConfig(
        widths, skews, rows, folds, resident,
        axi=AxiConfig(data_bits=data_bits, address_bits=20), **options,
    )


def random_rows(config: WeightStreamConfig, seed: int = 0) -> list[list[int]]:
    """Per port, the rows of all folds."""
    random = np.random.default_rng([seed, 3])
    return [
        [int.from_bytes(random.bytes(width // 8 + 1), "little") >> (8 - width % 8)
         for _ in range(config.folds * config.rows)]
        for width in config.widths
    ]


@st.composite
def streams(draw: st.DrawFn) -> WeightStreamConfig:
    """Rows narrower than the bus, as wide as it, or of several words; any folds."""
    data_bits = draw(st.sampled_from([32, 32, 64, 128]))
    ports = draw(st.integers(1, 4))
    size = draw(st.sampled_from([1, data_bits // 8, data_bits // 2, data_bits, 3 * data_bits]))
    widths = tuple(draw(st.integers(1, max(size // ports, 1))) for _ in range(ports))
    if size == data_bits:
        widths = (*widths[:-1], size - sum(widths[:-1]))
    steps = draw(st.lists(st.integers(1, 3), min_size=ports, max_size=ports))
    folds = draw(st.integers(1, 6))
    return stream(
        widths, draw(st.integers(1, 9)), folds, draw(st.integers(0, folds)), data_bits,
        skews=tuple(int(n) - draw(st.integers(0, 1)) for n in np.cumsum(steps)),
        ring_places=draw(st.sampled_from([2, 2, 3, 5])), burst=draw(st.sampled_from([1, 2, 3, 8])),
        style=draw(st.sampled_from(["", *STYLES])),
    )


@dataclass
class Run:
    """A reader of all rows of all folds, several times, and a memory that answers in order.

    Rows come in any order, some more than once, with pauses.  Folds are taken as soon as they are
    there, or late; at most all that there are places for.

    Parameters
    ----------
    config, rows : of the stream
    tiles : times that all folds are read
    latency : cycles from a request to its first word
    gaps : probability that the memory pauses, each cycle
    pauses : probability that the reader pauses, each cycle
    cycles : per fold; 0: as many as its rows and a few more

    Members
    -------
    requests : address and bytes of each request
    words : cycle in which each word came
    taken : cycle in which each fold was taken
    ended : cycle of the last row of each fold
    first : first cycle in which each fold could be taken, from when the one before was
    loaded : first cycle in which it was loaded
    """

    config: WeightStreamConfig
    rows: list[list[int]]
    tiles: int = 3
    latency: int = 5
    gaps: float = 0.0
    pauses: float = 0.0
    cycles: int = 0
    seed: int = 0
    requests: list[tuple[int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    loaded: int = -1

    def __post_init__(self) -> None:
        dut = self.config.create()
        simulator = Simulator(dut)
        simulator.add_clock(1e-6)

        async def drive(ctx) -> None:
            await self.drive(ctx, dut)

        simulator.add_testbench(drive)
        simulator.run()

    def plans(self, random: np.random.Generator) -> list[list[int]]:
        """Per fold, the rows to be read."""
        plans = []
        for _ in range(self.tiles * self.config.folds):
            more = self.cycles - self.config.rows if self.cycles else int(random.integers(3))
            rows = [*range(self.config.rows), *random.integers(0, self.config.rows, more).tolist()]
            plans.append(random.permutation(rows).tolist())
        return plans

    def arrived(self, cycle: int) -> int:
        """Streamed folds that had come some cycles ago, so that they may be taken."""
        words = sum(time <= cycle - AVAILABLE_LATENCY for time in self.words)
        return max(words // self.config.fold_words - self.config.resident, 0)

    async def drive(self, ctx, dut: Any) -> None:
        config, random = self.config, np.random.default_rng([self.seed, 4])
        size = config.axi.word_bytes
        memory = bytes(BASE) + config.image(self.rows)
        coming: deque[tuple[int, int]] = deque()
        # Per cycle, what each port shows, if a row was read for it.
        due: list[dict[int, int]] = [{} for _ in config.widths]
        plans = self.plans(random)
        fold, step, cycle, ready, offered = 0, 0, 0, False, None
        ctx.set(dut.base, BASE)
        end = 1 << 60
        while cycle < end:
            # The memory: the request of the cycle before, and words.
            request = dut.read.request
            asks = ctx.get(request.valid)
            what = ctx.get(request.p.address), ctx.get(request.p.bytes)
            if offered is not None:
                assert asks
                assert what == offered
            ready = random.random() >= self.gaps
            ctx.set(request.ready, int(ready))
            offered = what if asks and not ready else None
            if asks and ready:
                self.request(*what, len(self.ended))
                for begin in range(what[0], sum(what), size):
                    word = int.from_bytes(memory[begin : begin + size], "little")
                    coming.append((cycle + self.latency, word))
            comes = bool(coming) and coming[0][0] <= cycle and random.random() >= self.gaps
            ctx.set(dut.read.data.valid, int(comes))
            word = coming.popleft()[1] if comes else int(random.integers(1 << 32))
            ctx.set(dut.read.data.p, word)

            # The flags.
            loaded = len(self.words) == config.places * config.fold_words or self.loaded >= 0
            assert ctx.get(dut.loaded) == loaded
            if loaded and self.loaded < 0:
                self.loaded = cycle
            streamed = sum(not config.stays(n % config.folds) for n in range(len(self.taken)))
            there = config.stays(len(self.taken) % config.folds)
            there = loaded and (there or self.arrived(cycle) > streamed)
            assert ctx.get(dut.available) == there
            if there and len(self.first) == len(self.taken):
                self.first.append(cycle)
            if comes:
                self.words.append(cycle)

            # The reader.
            wants = len(self.taken) < len(plans)
            ahead = len(self.taken) - fold
            late = 0.5 if self.pauses else 1.0 if not ahead else 0.0
            take = bool(there and wants and random.random() < late)
            ctx.set(dut.take, int(take))
            if take:
                self.taken.append(cycle)
            reads = fold < len(self.taken) and random.random() >= self.pauses
            row = int(random.integers(config.rows))
            next = False
            if reads:
                row = plans[fold][step]
                for k, skew in enumerate(config.skews):
                    n = fold % config.folds * config.rows + row
                    due[k][cycle + config.latency + skew] = self.rows[k][n]
                next = step == len(plans[fold]) - 1
            ctx.set(dut.row, row)
            ctx.set(dut.next, int(next))
            for k, values in enumerate(due):
                if cycle in values:
                    assert ctx.get(getattr(dut, f"w_{k}")) == values.pop(cycle)
            step += reads
            if next:
                self.ended.append(cycle)
                fold, step = fold + 1, 0
                if fold == len(plans):
                    # Until all has come that is asked for.
                    end = cycle + 200 + 4 * self.latency
            await ctx.tick()
            cycle += 1
            assert cycle < 30_000, "stuck"
        assert not coming
        assert not any(due)

    def request(self, address: int, count: int, ended: int) -> None:
        """A request, which must be the next one, for a fold that there is a place for."""
        config = self.config
        fold, number = divmod(len(self.requests), config.requests)
        freed = sum(not config.stays(n % config.folds) for n in range(ended))
        assert fold < config.places + freed
        words = min(config.request_words,
                    config.fold_words - number * config.request_words)
        assert 0 < count == words * config.axi.word_bytes
        assert words <= config.burst
        # Of the image: all folds once, then those again that do not stay.
        if fold >= config.folds:
            fold = config.resident + (fold - config.folds) % config.streamed
        offset = fold * config.fold_words + number * config.request_words
        assert address == BASE + offset * config.axi.word_bytes
        self.requests.append((address, count))

    @property
    def bytes(self) -> int:
        """Bytes that were asked for."""
        return sum(count for _, count in self.requests)


@given(streams(), st.sampled_from([(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.3, 0.3)]),
       st.sampled_from([1, 3, 40]), st.integers(0, 999))
@examples(30)
def test_all_rows_in_turn(
    config: WeightStreamConfig, stall: tuple[float, float], latency: int, seed: int
) -> None:
    """Rows, flags and requests, whoever pauses; bytes are those of the places and of the tiles."""
    gaps, pauses = stall
    tiles = 3
    run = Run(config, random_rows(config, seed), tiles, latency, gaps, pauses, seed=seed)
    assert len(run.ended) == tiles * config.folds
    assert run.bytes == config.places * config.fold_bytes + tiles * config.bytes_per_tile
    assert len(run.words) * config.axi.word_bytes == run.bytes
    # Loaded in the cycle after the last word for which there is a place from the beginning.
    assert run.loaded == run.words[config.places * config.fold_words - 1] + 1


@pytest.mark.parametrize("resident, folds, stay", [
    (0, 4, [0, 0, 0, 0]), (1, 4, [0, 0, 0, 1]), (2, 5, [0, 0, 1, 0, 1]), (3, 4, [0, 1, 1, 1]),
    (3, 7, [0, 0, 1, 0, 1, 0, 1]), (4, 4, [1, 1, 1, 1]), (1, 1, [1]), (0, 1, [0]),
])
def test_folds_that_stay_are_spread_evenly(resident: int, folds: int, stay: list[int]) -> None:
    config = stream(folds=folds, resident=resident)
    assert [config.stays(n) for n in range(folds)] == stay
    assert config.streamed == folds - resident
    assert config.places == resident + (2 if resident < folds else 0)
    assert config.bytes_per_tile == config.streamed * config.fold_bytes
    run = Run(config, random_rows(config), tiles=2)
    assert run.bytes == config.places * config.fold_bytes + 2 * config.bytes_per_tile


@pytest.mark.parametrize("config", [
    stream(resident=0), stream(resident=0, skews=(2, 7)), stream((70, 30), resident=0),
    stream(resident=0, burst=2), stream((40,), resident=0, ring_places=3, folds=7),
], ids=str)
@pytest.mark.parametrize("latency", [1, 30])
def test_a_place_is_filled_again_in_time(config: WeightStreamConfig, latency: int) -> None:
    """With the cycles that are said, a reader that never pauses never waits; with fewer it does."""
    # Of a request, from the cycle that it is made to that of its last word.
    needed = config.overhead + latency + config.fold_words
    cycles = max(-(-needed // (config.ring_places - 1)), config.rows)

    def waits(cycles: int) -> list[int]:
        run = Run(config, random_rows(config), 4, latency, cycles=cycles)
        return (np.diff(run.ended) - cycles).tolist()

    assert not any(waits(cycles))
    fewer = cycles - OVERHEAD_RESERVE - 1
    if fewer >= config.rows:
        assert any(waits(fewer))


def decoded(config: WeightStreamConfig, image: bytes) -> list[list[int]]:
    """The rows in an image, by the description of its layout alone."""
    row_bits, bus = sum(config.widths), config.axi.data_bits
    share, words = 1, 1
    while 2 * share * row_bits <= bus:
        share *= 2
    while words * bus < row_bits:
        words += 1
    step = words * bus // 8
    each = -(-config.rows // share) * step
    assert len(image) == config.image_bytes == config.folds * each
    staying = [n for n in range(config.folds) if config.stays(n)]
    order = staying + [n for n in range(config.folds) if not config.stays(n)]
    rows: list[list[int]] = [[0] * (config.folds * config.rows) for _ in config.widths]
    for place, fold in enumerate(order):
        for row in range(config.rows):
            begin = place * each + row // share * step
            bits = int.from_bytes(image[begin : begin + step], "little")
            bits >>= row % share * row_bits
            for part, width in zip(rows, config.widths, strict=True):
                part[fold * config.rows + row] = bits & ((1 << width) - 1)
                bits >>= width
    return rows


@given(streams(), st.integers(0, 999))
@examples(30)
def test_image_of_any_stream(config: WeightStreamConfig, seed: int) -> None:
    rows = random_rows(config, seed)
    assert decoded(config, config.image(rows)) == rows


def test_image() -> None:
    """Folds that stay come first; several rows share a word, or a row has several."""
    config = stream((4, 8), rows=3, folds=2, resident=1, data_bits=32)
    assert (config.rows_per_word, config.columns, config.fold_words) == (2, 1, 2)
    assert [config.stays(n) for n in range(2)] == [False, True]
    rows = [[1, 2, 3, 4, 5, 6], [0x10, 0x20, 0x30, 0x40, 0x50, 0x60]]
    words = np.frombuffer(config.image(rows), "<u4").tolist()
    assert words == [0x505_404, 0x606, 0x202_101, 0x303]
    config = stream((20, 30), rows=2, folds=1, resident=0, data_bits=32)
    assert (config.rows_per_word, config.columns, config.fold_words) == (1, 2, 4)
    words = np.frombuffer(config.image([[1, 2], [3 << 28 | 5, 6]]), "<u4").tolist()
    assert words == [5 << 20 | 1, 3 << 16, 6 << 20 | 2, 0]


@pytest.mark.parametrize("widths, data_bits, shape", [
    ((8,), 64, (8, 1, [64])), ((9,), 64, (4, 1, [36])), ((16, 16), 64, (2, 1, [64])),
    ((33,), 64, (1, 1, [33])), ((64,), 64, (1, 1, [64])), ((60, 5), 64, (1, 2, [64, 1])),
    ((128, 64), 64, (1, 3, [64, 64, 64])),
])
def test_shape_of_the_memory(
    widths: tuple[int, ...], data_bits: int, shape: tuple[int, int, list[int]]
) -> None:
    config = stream(widths, 10, 3, 1, data_bits)
    share, columns, column_widths = shape
    assert (config.rows_per_word, config.columns, config.column_widths) == shape
    assert config.fold_depth == -(-10 // share)
    assert config.fold_words == columns * config.fold_depth
    assert config.fold_bytes == config.fold_words * 8
    assert config.image_bytes == 3 * config.fold_bytes
    assert config.depth == (1 + 2) * config.fold_depth
    assert config.latency == 3 + (share > 1)
    assert sum(column_widths) == sum(widths) * share


@pytest.mark.parametrize("rows, share, width", [(1, 1, 8), (2, 2, 16), (3, 4, 24), (5, 8, 40)])
def test_few_rows(rows: int, share: int, width: int) -> None:
    """The memory is no wider than all rows of a fold, however wide the bus."""
    config = stream((8,), rows, 3, 1, 64)
    assert (config.rows_per_word, config.column_widths) == (share, [width])
    assert config.fold_words == 1
    Run(config, random_rows(config), tiles=2)


@pytest.mark.parametrize("burst, requests, words", [
    (64, 1, 10), (10, 1, 10), (9, 2, 5), (4, 3, 4), (3, 4, 3), (1, 10, 1),
])
def test_requests_are_as_alike_as_they_can_be(burst: int, requests: int, words: int) -> None:
    config = stream((30,), rows=10, burst=burst)
    assert (config.fold_words, config.requests, config.request_words) == (10, requests, words)


def test_memories() -> None:
    """What the memory takes is exact in every style; only the last column may be narrower."""
    config = stream((100, 60), rows=700, data_bits=128)
    assert config.column_widths == [128, 32]
    assert config.depth == 3 * 700
    blocks, ultras = (replace(config, style=style).resources() for style in ("block", "ultra"))
    # Of 2048 words in nine bits a block, and the rest; of 72 bits an UltraRAM.
    assert (blocks.bram18, blocks.uram) == (15 + 4 + 4 + 1, 0)
    assert (ultras.bram18, ultras.uram) == (0, 2 + 1)
    assert stream(rows=3).resources().bram18 == 0


@pytest.mark.parametrize("wrong, message", [
    ({"rows": 0}, r"^rows must be positive, not 0$"),
    ({"folds": 0, "resident": 0}, r"^folds must be positive, not 0$"),
    ({"burst": 0}, r"^burst must be positive, not 0$"),
    ({"resident": -1}, r"^Resident must be between 0 and 4, not -1$"),
    ({"resident": 5}, r"^Resident must be between 0 and 4, not 5$"),
    ({"ring_places": 1}, r"^Ring places must be 2 or more, not 1$"),
    ({"burst": 1025}, r"^Burst must be at most 1024 words, not 1025$"),
    ({"burst": 257, "data_bits": 128}, r"^Burst must be at most 256 words, not 257$"),
    ({"style": "mud"}, r"^Memory style must be one of \(.*\) or empty, not 'mud'$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        stream(**wrong)
