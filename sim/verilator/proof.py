"""A build proven by simulation: the Verilog against the integer graph, frame by frame."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwgen.boards import Board
from hwgen.emit.verilog import Rtl
from hwgen.ir import Graph
from hwgen.netlist import Netlist
from hwgen.sim.verilator.harness import VerilogRun
from hwgen.sim.verilator.memory import MemoryModel
from hwgen.sim.verilator.model import VerilatorModel

__all__ = ["Proof", "Trial", "prove"]

STALL = 0.2
"""Probability of a pause, where there are some."""


@dataclass(frozen=True)
class Trial:
    """One run of all frames.

    Members
    -------
    mode : how inputs came and outputs were taken: ``paced``, ``back to back``, ``random stalls``
    frames : how many there were
    mismatches : elements of all outputs that differ from the reference
    run : :class:`VerilogRun`
    """

    mode: str
    frames: int
    mismatches: int
    run: VerilogRun

    @property
    def interval(self) -> int | None:
        """Cycles between the last two frames; None if there was one only."""
        return self.run.interval if self.frames > 1 else None

    @property
    def cycles_per_second(self) -> float:
        """Speed of the simulation."""
        return self.run.cycles / self.run.seconds

    def plain(self) -> dict[str, Any]:
        """As plain data, for ``report.json``; bytes are those of a frame."""
        use = self.run.memory
        moved = {} if use is None else {"memory": {
            "waits": use.waits, "held": use.held, "bytes_read": use.bytes_read // self.frames,
            "bytes_written": use.bytes_written // self.frames,
        }}
        return {
            **moved,
            "mode": self.mode,
            "interval_cycles": self.interval,
            "latency_cycles": self.run.latency,
            "first_output_cycles": self.run.first_output,
            "mismatches": self.mismatches,
            "cycles": self.run.cycles,
            "cycles_per_second": self.cycles_per_second,
        }


@dataclass(frozen=True)
class Proof:
    """What simulations of a build showed.

    Members
    -------
    frames : how many went through in each run
    trials : the runs: evenly paced first, then without a gap, then with random stalls
    """

    frames: int
    trials: tuple[Trial, ...]

    @property
    def mismatches(self) -> int:
        """Elements that differed, in all runs together; 0: the build is exact for these frames."""
        return sum(trial.mismatches for trial in self.trials)

    @property
    def interval(self) -> int | None:
        """Cycles between two frames when they are paced; None for a single frame."""
        return self.trials[0].interval

    @property
    def latency(self) -> int:
        """Cycles from first input to last output when frames are paced."""
        return self.trials[0].run.latency

    @property
    def first_output(self) -> int:
        """Cycles from first input to first output when frames are paced."""
        return self.trials[0].run.first_output

    def plain(self) -> dict[str, Any]:
        """As plain data, for ``report.json``."""
        return {
            "frames": self.frames,
            "interval_cycles": self.interval,
            "latency_cycles": self.latency,
            "first_output_cycles": self.first_output,
            "mismatches": self.mismatches,
            "cycles_per_second": float(np.mean([t.cycles_per_second for t in self.trials])),
            "runs": [trial.plain() for trial in self.trials],
        }


def prove(
    inputs: Mapping[str, np.ndarray], graph: Graph, netlist: Netlist, rtl: Rtl, *, board: Board,
    clock_mhz: float | None = None, interval: int = 0, seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Run frames through the Verilog of a build and compare all outputs with the integer graph.

    They go through three times: evenly paced, without a gap, and with random stalls at all inputs
    and outputs.

    Parameters
    ----------
    inputs : input name to integer array ``(frames, *shape)``
    graph : the reference
    netlist : the design
    rtl : its Verilog
    board : its off-chip memory is beside the design, if the design uses any
    clock_mhz : the design's clock, which says how much the memory moves in a cycle; default: the
        board's
    interval : cycles between paced frames; 0: those that the design needs
    seed : of the stalls
    progress : called with what is being done

    Raises
    ------
    :exc:`HwgenError`
        If Verilator fails, or if the design is stuck or breaks a protocol.
    """
    frames = len(next(iter(inputs.values())))
    memory = MemoryModel.of_board(board, clock_mhz) if netlist.offchip else None
    progress("reference")
    wanted = graph.evaluate(inputs)
    trials = []
    with tempfile.TemporaryDirectory(prefix="hwgen-") as folder:
        progress("compiling the Verilog")
        model = VerilatorModel(rtl, netlist, Path(folder))
        for mode, options in (
            ("paced", {"interval": interval or netlist.interval}),
            ("back to back", {}),
            ("random stalls", {"stall": STALL, "seed": seed}),
        ):
            progress(mode)
            run = model.run(inputs, memory=memory, **options)
            wrong = int(sum((run.outputs[name] != wanted[name]).sum() for name in wanted))
            trials.append(Trial(mode, frames, wrong, run))
    return Proof(frames, tuple(trials))
