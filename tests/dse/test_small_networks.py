"""Networks of one layer, one channel, one pixel: designs down to an interval of one cycle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import boards
from dse.search import search
from hwgen.emit.verilog import emit
from sim.verilator import VerilatorModel
from tests.networks import Builder

BOARDS = ("zedboard", "zcu102", "vcu118", "ulx3s-85f")


def dense(*widths: int, seed: int = 0):
    b = Builder((1, 1, widths[0]), seed)
    x = "image"
    for k, width in enumerate(widths[1:]):
        x = b.gemm(x, width, f"g{k}")
    b.graph.outputs = [x]
    return b


def conv(shape: tuple[int, ...], cout: int, kernel: int):
    b = Builder(shape)
    b.graph.outputs = [b.conv("image", cout, kernel, "c0")]
    return b


def table():
    b = Builder((2, 2, 3))
    b.graph.outputs = [b.act("image", "s0")]
    return b


SMALL = {
    "jets": dense(16, 64, 32, 32, 5), "one weight": dense(1, 1), "two": dense(1, 64, 1),
    "one channel": conv((5, 5, 1), 1, 3), "one pixel": conv((1, 1, 8), 8, 1),
    "row": conv((12, 2), 3, 3), "table": table(),
}


@pytest.mark.parametrize("name", BOARDS)
def test_designs_are_found(name: str) -> None:
    board = boards.load(name)
    random = np.random.default_rng(0)
    drawn = [dense(*random.integers(1, 65, random.integers(2, 6)).tolist(), seed=n)
             for n in range(4)]
    for b in (*SMALL.values(), *drawn):
        found = search(b.graph, board)
        assert 1 <= found.timing.interval <= 64
        need = found.netlist.resources()
        for key in ("dsp", "ff", "lut", "bram18", "uram"):
            assert getattr(need, key) <= getattr(board.usable, key)


@pytest.mark.parametrize("case, name", [("jets", "zedboard"), ("two", "vcu118"),
                                        ("one channel", "zcu102")])
def test_many_short_frames_at_once(case: str, name: str, tmp_path: Path) -> None:
    """A pixel stays in a window for longer than an interval: the schedule holds all the same."""
    b = SMALL[case]
    found = search(b.graph, boards.load(name))
    model = VerilatorModel(emit(found.netlist), found.netlist, tmp_path, jobs=1, optimise=False)
    frames = b.frames(24)
    wanted = b.graph.evaluate(frames)
    run = model.run(frames, interval=found.timing.interval)
    for output, values in run.outputs.items():
        np.testing.assert_array_equal(values, wanted[output])
    for times in run.last.values():
        assert (np.diff(times) == found.timing.interval).all()
    assert run.latency == found.timing.latency
