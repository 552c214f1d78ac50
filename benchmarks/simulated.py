"""A point that a search found, in Verilog: what the benchmarks of compression end with."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hwgen.design import DesignPoint
from hwgen.dse.tradeoff.front import Point
from hwgen.emit.verilog import emit
from hwgen.ir import Graph
from hwgen.plan import plan
from hwgen.sim.verilator import VerilatorModel

__all__ = ["as_predicted"]


def as_predicted(graph: Graph, point: Point, inputs: Mapping[str, np.ndarray]) -> bool:
    """Run integer inputs through the Verilog of a point; print a line, and say whether values are
    those of the graph, and the interval that of the point.

    Parameters
    ----------
    graph : of the point
    point : with its design
    inputs : by name, ``(frames, *shape)``
    """
    assert point.design is not None
    begin = time.perf_counter()
    netlist = plan(graph, DesignPoint.parse(point.design))
    wanted = graph.evaluate(inputs)
    with tempfile.TemporaryDirectory() as folder:
        run = VerilatorModel(emit(netlist), netlist, Path(folder)).run(inputs)
    wrong = sum(int((run.outputs[name] != value).sum()) for name, value in wanted.items())
    frames = len(next(iter(inputs.values())))
    print(f"    {frames} frames in Verilog: {run.interval:,} cycles each, predicted "
          f"{point.interval:,}; {wrong} of {sum(v.size for v in wanted.values()):,} values wrong; "
          f"{time.perf_counter() - begin:.0f} s", flush=True)
    return not wrong and run.interval == point.interval
