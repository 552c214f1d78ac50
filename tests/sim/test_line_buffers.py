"""Line buffers off the chip: windows split into rows, whose queues are evicted, in Verilator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.design import OFF_CHIP, DesignPoint, Folding, MemoryPorts
from hwgen.emit.verilog import emit
from hwgen.ir import Graph
from hwgen.ir.rows import row_edges, split_rows
from hwgen.pipeline import Netlist, plan
from sim.memory import MemoryModel
from sim.timing import Timing, sized
from sim.verilator import VerilatorModel
from tests.networks import Builder

SIZE, CHANNELS, FRAMES = 24, 8, 3
ROW = SIZE * CHANNELS


def split(builder: Builder, *names: str) -> tuple[Graph, DesignPoint, dict[str, list[str]]]:
    """The graph with some windows split; a design with their rows off the chip; the edges."""
    graph = builder.graph
    for name in names:
        graph = split_rows(graph, name)
    rows = {name: row_edges(graph, name) for name in names}
    evicted = [edge for edges in rows.values() for edge in edges[:-1]]
    # The row that is not shifted comes as it is: no change of lanes behind its queue.
    lanes = {name: 2 for name in graph.types if name == "first" or name.startswith("whole_")}
    return graph, DesignPoint(
        "zcu102", 250.0, {"first": Folding(4, pe=2), "whole": Folding(3 * CHANNELS)},
        {"image": 4, **lanes},
        memories=dict.fromkeys(evicted, OFF_CHIP), ports=MemoryPorts(1, 64, 16, 128),
    ), rows


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
    b = Builder((SIZE, SIZE, 4))
    b.conv("image", CHANNELS, 1, "first")
    b.graph.outputs = [b.conv("first", CHANNELS, 3, "whole")]
    graph, design, rows = split(b, "whole")
    design, netlist, timing = sized(graph, design)
    assert netlist.blocks["whole"].interval == timing.interval == 3 * SIZE * ROW
    # Both rows are written and read once; the oldest one is late by two rows, the next by one.
    assert netlist.offchip is not None
    assert netlist.offchip.reads == netlist.offchip.writes == 2 * SIZE * ROW
    depths = [design.depths[f"{edge}:{OFF_CHIP}"] for edge in rows["whole"][:-1]]
    assert depths[0] > depths[1] >= ROW // 2
    check(b, netlist, timing, tmp_path)


def test_with_small_windows(tmp_path: Path) -> None:
    """The schedule lets nobody wait, so a window has room for a row of padding, which comes at
    once.  With room for two windows the pipeline is as fast, with stride and groups too.
    """
    b = Builder((SIZE, SIZE, 4))
    b.conv("image", CHANNELS, 1, "first")
    b.conv("first", CHANNELS, 3, "whole")
    b.graph.outputs = [b.conv("whole", CHANNELS, 3, "depthwise", stride=2, groups=CHANNELS)]
    graph, design, _ = split(b, "whole", "depthwise")
    design, netlist, timing = sized(graph, design)
    # Only behind the place where the rows come together: queues before it wait for each other.
    for name, sites in (("whole", 3), ("depthwise_window", 9)):
        config = netlist.blocks[name]
        assert isinstance(config, FoldedConvConfig)
        assert config.window.least_capacity == sites
        assert config.window.sites > 2 * sites
        design.foldings[name] = replace(design.foldings[name], capacity=2 * sites)
    netlist = plan(graph, design)
    assert netlist.offchip is not None
    assert netlist.offchip.reads == 2 * SIZE * ROW + 2 * SIZE // 2 * ROW
    check(b, netlist, timing, tmp_path)
