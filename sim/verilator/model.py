"""The Verilog of a netlist: its schedule says when it is stuck, its edges whose the queues are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwgen.emit.verilog import Rtl
from hwgen.netlist import Netlist
from hwgen.sim.verilator.harness import MEMORY_PATIENCE, Harness, VerilogRun
from hwgen.sim.verilator.memory import MemoryModel
from hwgen.timing import analyse

__all__ = ["VerilatorModel"]


class VerilatorModel:
    """A compiled simulation of an emitted netlist.

    Parameters
    ----------
    rtl : :class:`hwgen.emit.verilog.Rtl`
    netlist : the netlist it was emitted from
    directory : where to build; files stay there
    jobs, monitor, optimise, preload : see :class:`Harness`

    Members
    -------
    harness : :class:`Harness`

    Raises
    ------
    :exc:`HwgenError`
        If Verilator or the compiler fails.
    """

    def __init__(self, rtl: Rtl, netlist: Netlist, directory: Path, *, jobs: int = 2,
                 monitor: bool = False, optimise: bool = True,
                 preload: bool | None = None) -> None:
        self.netlist = netlist
        self.harness = Harness(rtl, netlist, directory, jobs=jobs, monitor=monitor,
                               optimise=optimise, preload=preload)

    @property
    def directory(self) -> Path:
        """Where inputs and outputs are."""
        return self.harness.directory

    @property
    def rtl_directory(self) -> Path:
        """Where the Verilog is."""
        return self.harness.rtl_directory

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        interval: int = 0,
        stall: float = 0.0,
        seed: int = 0,
        idle_limit: int | None = None,
        memory: MemoryModel | None = None,
        recover: bool = False,
    ) -> VerilogRun:
        """Run frames, one after the other; see :meth:`Harness.run`.

        ``idle_limit`` is four times what the schedule says, unless it is given.
        """
        if idle_limit is None:
            idle_limit = self._patience(interval)
        run = self.harness.run(inputs, idle_limit=idle_limit, interval=interval, stall=stall,
                               seed=seed, memory=memory, recover=recover)
        return replace(run, peaks=self._by_edge(run.peaks))

    def _patience(self, interval: int) -> int:
        expected = analyse(self.netlist, max(interval, self.netlist.interval))
        limit = 4 * (expected.latency + expected.interval) + 10_000
        return limit + (MEMORY_PATIENCE if self.netlist.offchip is not None else 0)

    def _by_edge(self, peaks: Mapping[str, int]) -> dict[str, int]:
        """High-water marks by edge, from those by the path of a queue's memory."""
        names = {}
        for edge in self.netlist.edges:
            block, port = edge.source
            if block is not None:
                outputs = self.netlist.blocks[block].output_ports
                for queue in ("queue", f"queue_{port}", f"queue_{outputs[port]}"):
                    names[block, queue] = edge.name
        found = {}
        for path, peak in peaks.items():
            parts = path.split(".")
            if "queue" in parts[-3]:
                found[names[parts[-4], parts[-3]]] = peak
        return found
