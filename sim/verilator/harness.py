"""Verilog with AXI ports as a program that runs frames: of the design only its outside is known."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined, Template

from hwgen import children
from hwgen.emit.verilog import Rtl
from hwgen.errors import HwgenError
from hwgen.parts.stream import StreamType
from hwgen.parts.weights import LOAD_BITS
from hwgen.sim.run import Run
from hwgen.sim.simulated import Simulated
from hwgen.sim.verilator.compiler import compile_verilog
from hwgen.sim.verilator.memory import MemoryModel, MemoryUse
from hwgen.top import WEIGHTS, beat_bytes, from_axi, input_ports, memory_port, output_ports, to_axi

__all__ = ["MEMORY_PATIENCE", "Harness", "VerilogRun", "template"]

WORD_BYTES = LOAD_BITS // 8
LONG_LOAD = 1 << 20
"""Bytes of weights above which a simulation does not wait until they are loaded."""

MEMORY_BASE = 0x1000_0000
"""Where a design finds its region of off-chip memory, if its addresses reach so far."""

MEMORY_PATIENCE = 1 << 17
"""Cycles without any answer after which memory counts as dead.  A design's own time-out is
shorter, and says more.
"""


@dataclass(frozen=True)
class VerilogRun(Run):
    """What a run through the Verilog gave.

    Members
    -------
    seconds : wall-clock time of the run
    memory : what moved to and from off-chip memory, if the design uses any
    error : what the design said of the memory before it was reset, if it was
    peaks : the most beats that the memory of each queue held, if they are monitored, by the edge
        whose queue it is (of a :class:`Harness`: by its path in the hierarchy)
    """

    seconds: float
    memory: MemoryUse | None = None
    error: str = ""
    peaks: dict[str, int] = field(default_factory=dict)


class Harness:
    """A compiled simulation of Verilog whose ports are those of :class:`hwgen.top.AxiTop`.

    Parameters
    ----------
    rtl : the Verilog, and what its memories begin with
    design : its streams and its ports to off-chip memory
    directory : where to build; files stay there
    jobs : compilers at work at once
    monitor : measure how full every queue becomes
    preload : weights that would be loaded after reset are there from the beginning; default: if
        loading them would take long
    optimise : False compiles sooner and simulates slower, which pays for small designs

    Members
    -------
    directory, rtl_directory : where inputs and outputs are, and where the Verilog is

    Raises
    ------
    :exc:`HwgenError`
        If Verilator or the compiler fails, or if addresses do not reach all of the memory.
    """

    def __init__(self, rtl: Rtl, design: Simulated, directory: Path, *, jobs: int = 2,
                 monitor: bool = False, optimise: bool = True,
                 preload: bool | None = None) -> None:
        self.design = design
        if preload is None:
            preload = len(rtl.weights) > LONG_LOAD
        self.directory = directory = Path(directory).resolve()
        self.rtl_directory = directory / "rtl"
        rtl.write(self.rtl_directory)
        if design.offchip is not None:
            header = files("hwgen.sim.verilator").joinpath("memory.hpp").read_text()
            (directory / "memory.hpp").write_text(header)
            (directory / "memory.bin").write_bytes(rtl.memory)
        (directory / "harness.cpp").write_text(_program(rtl, design, preload))
        (directory / "hierarchy.vlt").write_text(
            "`verilator_config\n" + "".join(f'no_inline -module "{n}"\n' for n in rtl.large)
        )
        self.program = compile_verilog(
            rtl.verilog, rtl.top, [directory / "harness.cpp"], self.rtl_directory, jobs=jobs,
            optimise=optimise, flags=(
                str(directory / "hierarchy.vlt"), *(["-DHWGEN_MONITOR"] if monitor else []),
                *(["-DHWGEN_PRELOAD"] if preload else []),
            ),
        )

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        *,
        idle_limit: int,
        interval: int = 0,
        stall: float = 0.0,
        seed: int = 0,
        memory: MemoryModel | None = None,
        recover: bool = False,
    ) -> VerilogRun:
        """Run frames, one after the other.

        Parameters
        ----------
        inputs : input name to integer array ``(frames, *shape)``
        idle_limit : cycles without output after which the design counts as stuck
        interval : cycles between frames at the input, beats evenly spaced; 0: without a gap
        stall : probability that a source or a sink pauses, each cycle
        seed : of the pauses
        memory : how off-chip memory behaves; default: ``MemoryModel()``; of no effect on a design
            that uses none
        recover : after an error of the memory, reset the design and begin again, with a memory
            that has no fault

        Raises
        ------
        :exc:`HwgenError`
            If the design is stuck, if it breaks the stream protocol or that of AXI4, or if it
            reports an error of the memory.  What it had delivered by then is in ``out_NAME.bin``.
        """
        design, directory = self.design, self.directory
        frames = len(next(iter(inputs.values())))
        for name, stream in design.inputs.items():
            (directory / f"in_{name}.bin").write_bytes(to_axi(stream, inputs[name]))
        outs = {name: directory / f"out_{name}.bin" for name in design.outputs}
        arguments = [frames, interval, stall, seed, idle_limit,
                     *(directory / f"in_{name}.bin" for name in design.inputs), *outs.values()]
        if design.offchip is not None:
            settings = directory / "memory.txt"
            text = (memory or MemoryModel()).settings()
            settings.write_text(text + "recover 1\n" * recover)
            arguments += [settings, directory / "memory.bin"]
        begin = time.perf_counter()
        result = children.run([self.program, *map(str, arguments)], cwd=self.rtl_directory)
        seconds = time.perf_counter() - begin
        if result.returncode:
            raise HwgenError(f"Simulation failed: {result.stderr.strip()[-2000:]}")
        *monitored, last_line = result.stdout.strip().splitlines()
        report = json.loads(last_line)
        times = dict(zip(design.outputs, report["outputs"], strict=True))
        return VerilogRun(
            outputs={name: from_axi(design.outputs[name], path.read_bytes())
                     for name, path in outs.items()},
            start=report["start"],
            first={name: np.array(t["first"]) for name, t in times.items()},
            last={name: np.array(t["last"]) for name, t in times.items()},
            cycles=report["cycles"],
            seconds=seconds,
            memory=MemoryUse.of_report(report["memory"]) if "memory" in report else None,
            error=result.stderr.strip(),
            peaks={path: int(peak) for _, path, peak in (line.split() for line in monitored)},
        )


def template(name: str) -> Template:
    """A template of this package, which may include others."""
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, loader=FunctionLoader(
            lambda name: files("hwgen.sim.verilator").joinpath(name).read_text()))
    return environment.get_template(name)


def _program(rtl: Rtl, design: Simulated, preload: bool) -> str:
    """The C++ that drives the Verilog."""
    offchip = design.offchip
    return template("harness.cpp.j2").render(
        top=rtl.top,
        slaves=[_port(name, stream) for name, stream in input_ports(design.inputs).items()],
        masters=[_port(name, stream) for name, stream in output_ports(design.outputs).items()],
        weights=WEIGHTS if rtl.weights and not preload else "",
        words=len(rtl.weights) // WORD_BYTES, word_bytes=WORD_BYTES,
        memory=None if offchip is None else {
            "pins": [memory_port(k) for k in range(offchip.ports)],
            "word_bytes": offchip.axi.word_bytes,
            "base": _memory_base(offchip.size, offchip.axi.address_bits),
            "size": offchip.size, "patience": MEMORY_PATIENCE,
        },
    )


def _memory_base(size: int, address_bits: int) -> int:
    """A base of a region, a multiple of 4 KB: not 0, if addresses leave any choice."""
    base = min(MEMORY_BASE, ((1 << address_bits) - size) // 4096 * 4096)
    if base < 0:
        raise HwgenError(f"size of off-chip memory must be at most what {address_bits} bits of "
                         f"address reach, not {size!r}")
    return base


def _port(name: str, stream: StreamType) -> dict[str, object]:
    return {"name": name, "bytes": beat_bytes(stream), "beats": stream.beats}
