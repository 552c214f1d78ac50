"""Line buffers off the chip: windows split into rows, whose queues are evicted, in Verilator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.emit.verilog import emit
from hwgen.ir import Graph
from hwgen.ir.rows import row_edges, split_rows
from hwgen.netlist import Netlist
from hwgen.plan import plan
from hwgen.sim.verilator import VerilatorModel
from hwgen.sim.verilator.memory import MemoryModel
from hwgen.timing import Timing, sized
from tests.networks import Builder

pytestmark = pytest.mark.verilator

HEIGHT, WIDTH, CHANNELS, FRAMES = 6, 192, 8, 3
ROW = WIDTH * CHANNELS
LANES = 2


def network() -> Builder:
    """Something in front; its interval is a third of that of a convolution behind it."""
    b = Builder((HEIGHT, WIDTH, 4))
    b.conv("image", CHANNELS, 1, "first")
    return b


def split(builder: Builder, *names: str) -> tuple[Graph, DesignPoint]:
    """The graph with some windows split, and a design with their rows off the chip."""
    graph = builder.graph
    for name in names:
        graph = split_rows(graph, name)
    evicted = [edge for name in names for edge in row_edges(graph, name)[:-1]]
    # The row that is not shifted comes as it is: no change of lanes behind its queue.
    lanes = {name: LANES for name in graph.types if name == "first" or name.startswith("whole_")}
    return graph, DesignPoint(
        "zcu102", 250.0, {"first": Folding(4, pe=LANES), "whole": Folding(3 * CHANNELS)},
        {"image": 4, **lanes},
        memories=dict.fromkeys(evicted, OFF_CHIP), ports=MemoryPorts(1, 64, 4, 128),
    )


def check(builder: Builder, netlist: Netlist, timing: Timing, folder: Path) -> None:
    """Values and bytes, whatever the memory does; interval and latency with one as is promised."""
    frames = builder.frames(FRAMES)
    (output,) = builder.graph.outputs
    want = builder.graph.evaluate(frames)[output]
    assert netlist.offchip is not None
    model = VerilatorModel(emit(netlist), netlist, folder, optimise=False)
    for memory, options in (
        (MemoryModel(), {"interval": timing.interval}),
        (MemoryModel(), {}),
        (MemoryModel(latency=80, back_pressure=0.2, jitter=20), {"stall": 0.2}),
    ):
        run = model.run(frames, memory=memory, **options)
        assert (run.outputs[output] == want).all()
        assert run.memory is not None
        assert run.memory.bytes_read == run.memory.bytes_written == FRAMES * netlist.offchip.reads
        if "stall" not in options:
            # The memory is faster than what the schedule allows it; filling up is no steady state.
            assert run.latency <= timing.latency
            assert run.interval <= timing.interval
        if "interval" in options:
            assert run.interval == timing.interval


def test_as_scheduled(tmp_path: Path) -> None:
    """A convolution that never rests: depths of the schedule."""
    b = network()
    b.graph.outputs = [b.conv("first", CHANNELS, 3, "whole")]
    graph, design = split(b, "whole")
    design, netlist, timing = sized(graph, design)
    assert netlist.blocks["whole"].interval == timing.interval == 3 * HEIGHT * ROW
    # Both rows are written and read once; the oldest one is late by two rows, the next by one.
    assert netlist.offchip is not None
    assert netlist.offchip.reads == netlist.offchip.writes == 2 * HEIGHT * ROW
    oldest, middle, newest = row_edges(graph, "whole")
    row = ROW // LANES
    assert 2 * row <= design.depths[f"{oldest}:{OFF_CHIP}"] < 2.2 * row
    assert row <= design.depths[f"{middle}:{OFF_CHIP}"] < 1.1 * row
    # A row of padding comes at once.
    assert design.depths[newest] > row // 2
    assert design.foldings["whole"].capacity > WIDTH // 2
    check(b, netlist, timing, tmp_path)


def test_with_little_memory(tmp_path: Path) -> None:
    """The schedule lets nobody wait, so that window and newest queue have room for padding.

    But it may wait: the pipeline is as fast if the window has room for two windows, and the queue
    for what comes while an evicted beat is away.  Behind it one with stride and groups: its rows
    come by fits and starts, so it needs what the schedule says.
    """
    b = network()
    b.conv("first", CHANNELS, 3, "whole")
    b.graph.outputs = [b.conv("whole", CHANNELS, 3, "depthwise", stride=2, groups=CHANNELS)]
    graph, design = split(b, "whole", "depthwise")
    design, netlist, timing = sized(graph, design)
    window = netlist.blocks["whole"]
    assert isinstance(window, FoldedConvConfig)
    assert window.window.sites > 10 * window.window.least_capacity
    small = replace(design.foldings["whole"], capacity=2 * window.window.least_capacity)
    design.foldings["whole"] = small
    *_, middle, newest = row_edges(graph, "whole")
    away = netlist.blocks[f"evict_{middle.replace('>', '_')}"].least_depths[0]
    assert design.depths[newest] > 1.5 * away
    design.depths[newest] = away
    netlist = plan(graph, design)
    assert netlist.offchip is not None
    assert netlist.offchip.reads == 2 * HEIGHT * ROW + 2 * HEIGHT // 2 * ROW
    check(b, netlist, timing, tmp_path)
