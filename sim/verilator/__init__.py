"""The emitted Verilog in Verilator: numpy frames in, numpy frames out, and the cycles they took."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined

from hwgen import children
from hwgen.emit.verilog import WEIGHTS, Rtl, element_bytes, from_axi, to_axi
from hwgen.errors import HwgenError
from hwgen.netlist import Netlist
from hwgen.parts.stream import StreamType
from hwgen.parts.weights import LOAD_BITS
from hwgen.sim.verilator.memory import MemoryModel, MemoryUse
from hwgen.timing import analyse

__all__ = ["MemoryModel", "MemoryUse", "Simulation", "VerilatorModel", "compile_verilog", "lint"]

WORD_BYTES = LOAD_BITS // 8
LONG_LOAD = 1 << 20
"""Bytes of weights above which a simulation does not wait until they are loaded."""

MEMORY_BASE = 0x1000_0000
"""Where a design finds its region of off-chip memory, if its addresses reach so far."""

MEMORY_PATIENCE = 1 << 17
"""Cycles without any answer after which memory counts as dead.  A design's own time-out is
shorter, and says more.
"""

CFLAGS = "-std=gnu++20 -DVL_TIME_CONTEXT -fno-strict-aliasing"
RUNTIME = ("verilated.o", "verilated_threads.o")
"""Parts of Verilator's runtime, the same in every program: compiled once, then kept."""
PART, LONG = ".part", 3600.0
"""Ending of a file that is being written, and the seconds after which nobody still does."""


@dataclass(frozen=True)
class Simulation:
    """What a run through the Verilog gave.

    Members
    -------
    outputs : name to integer array ``(frames, *shape)``
    start : cycle of the first input beat
    first, last : per output name, cycle of each frame's first and last beat
    cycles : cycles simulated
    seconds : wall-clock time of the run
    peaks : edge name to the most beats that its queue's memory held, if the model monitors them
    memory : what moved to and from off-chip memory, if the design uses any
    error : what the design said of the memory before it was reset, if it was
    """

    outputs: dict[str, np.ndarray]
    start: int
    first: dict[str, np.ndarray]
    last: dict[str, np.ndarray]
    cycles: int
    seconds: float
    peaks: dict[str, int]
    memory: MemoryUse | None = None
    error: str = ""

    @property
    def latency(self) -> int:
        """Cycles from the first input beat to the last beat of the last output, of the first
        frame."""
        return max(int(n[0]) for n in self.last.values()) - self.start

    @property
    def first_output(self) -> int:
        """Cycles from the first input beat to the first output beat."""
        return min(int(f[0]) for f in self.first.values()) - self.start

    @property
    def interval(self) -> int:
        """Cycles between the last two frames, at the slowest output; 0 for a single frame."""
        return max((int(n[-1] - n[-2]) for n in self.last.values() if len(n) > 1), default=0)


def _verilator(arguments: Sequence[str], cwd: Path) -> str:
    """Run Verilator; returns what it printed."""
    environment = dict(os.environ, MAKEFLAGS="")
    result = children.run(
        [sys.executable, "-m", "verilator", *arguments], cwd=cwd, env=environment)
    if result.returncode:
        text = (result.stderr + result.stdout).strip()
        raise HwgenError(f"Verilator failed in {cwd}: {text[-2000:]}")
    return result.stderr


def lint(rtl: Rtl, directory: Path) -> None:
    """``verilator --lint-only -Wall`` with the one waiver file, over files already written.

    Raises
    ------
    :exc:`HwgenError`
        If there is any warning that the waiver file does not accept.
    """
    waivers = str(files("hwgen.emit").joinpath("waivers.vlt"))
    _verilator(["--lint-only", "-Wall", "--top-module", rtl.top, waivers, *rtl.verilog], directory)


def compile_verilog(
    verilog: Sequence[str], top: str, sources: Sequence[Path], directory: Path, *, jobs: int = 2,
    optimise: bool = True, flags: Sequence[str] = (),
) -> Path:
    """A program of Verilog files (names in ``directory``) and C++ sources; see Verilator."""
    fast = "-O2" if optimise else "-O0"
    build = directory.resolve() / "obj"
    build.mkdir(parents=True, exist_ok=True)
    runtime = _runtime_cache()
    kept = [name for name in RUNTIME if (runtime / name).exists()]
    for name in kept:
        shutil.copyfile(runtime / name, build / name)
    # "-o": make is not to build these anew.
    made = "".join(f" -o {name}" for name in kept)
    _verilator([
        "--cc", "--exe", "--build", "-j", str(jobs), "-O3", "-Wno-fatal", "-Wno-lint",
        "--x-assign", "fast", "--x-initial", "fast", "--no-timing",
        "--output-split", "20000", "--output-split-cfuncs", "2000",
        "--top-module", top, "--Mdir", str(build), "-o", "harness",
        "-CFLAGS", CFLAGS,
        "-MAKEFLAGS", f"CFG_CXXFLAGS_PCH_I=-include OPT_FAST={fast} OPT_SLOW=-O0{made}",
        "-LDFLAGS", "-pthread", *flags, *verilog, *(str(source.resolve()) for source in sources),
    ], directory)
    for name in RUNTIME:
        _keep(build / name, runtime / name)
    return build / "harness"


def _runtime_cache() -> Path:
    """Where compiled parts of Verilator's runtime are kept, by all that they depend on."""
    compiler = children.run(["c++", "--version"]).stdout
    key = f"{metadata.version('verilator')} {CFLAGS} {platform.machine()} {compiler}"
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hwgen" / f"verilator-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _keep(file: Path, place: Path) -> None:
    """Put a file into the cache, whole or not at all; a cache that is not writable is no fault."""
    if place.exists():
        return
    with contextlib.suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        for dead in place.parent.glob(f"*{PART}"):
            if time.time() - dead.stat().st_mtime > LONG:
                dead.unlink()
        with tempfile.NamedTemporaryFile(dir=place.parent, suffix=PART, delete=False) as new:
            new.write(file.read_bytes())
        Path(new.name).replace(place)


class VerilatorModel:
    """A compiled simulation of an emitted design.

    Parameters
    ----------
    rtl : :class:`hwgen.emit.verilog.Rtl`
    netlist : the netlist it was emitted from
    directory : where to build; files stay there
    jobs : compilers at work at once
    monitor : measure how full every queue becomes
    preload : weights that would be loaded after reset are there from the beginning; default: if
        loading them would take long
    optimise : False compiles sooner and simulates slower, which pays for small designs

    Raises
    ------
    :exc:`HwgenError`
        If Verilator or the compiler fails.
    """

    def __init__(self, rtl: Rtl, netlist: Netlist, directory: Path, *, jobs: int = 2,
                 monitor: bool = False, optimise: bool = True,
                 preload: bool | None = None) -> None:
        self.netlist = netlist
        if preload is None:
            preload = len(rtl.weights) > LONG_LOAD
        directory = Path(directory).resolve()
        self.directory = directory
        self.rtl_directory = directory / "rtl"
        rtl.write(self.rtl_directory)
        one = len(netlist.inputs) == 1
        template = files("hwgen.sim.verilator").joinpath("harness.cpp.j2").read_text()
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        self.offchip = getattr(netlist, "offchip", None)
        if self.offchip is not None:
            header = files("hwgen.sim.verilator").joinpath("memory.hpp").read_text()
            (directory / "memory.hpp").write_text(header)
            (directory / "memory.bin").write_bytes(getattr(rtl, "memory", b""))
        (directory / "harness.cpp").write_text(environment.from_string(template).render(
            top=rtl.top,
            slaves=[_port("s_axis" if one else f"s_axis_{n}", s)
                    for n, s in netlist.inputs.items()],
            masters=[_port(f"m_axis_{n}", s) for n, s in netlist.outputs.items()],
            weights=WEIGHTS if rtl.weights and not preload else "",
            words=len(rtl.weights) // WORD_BYTES, word_bytes=WORD_BYTES,
            memory=None if self.offchip is None else {
                "ports": self.offchip.ports, "word_bytes": self.offchip.axi.data_bits // 8,
                "base": _memory_base(self.offchip.size, self.offchip.axi.address_bits),
                "size": self.offchip.size, "patience": MEMORY_PATIENCE,
            },
        ))
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
        interval: int = 0,
        stall: float = 0.0,
        seed: int = 0,
        idle_limit: int | None = None,
        memory: MemoryModel | None = None,
        recover: bool = False,
    ) -> Simulation:
        """Run frames back to back.

        Parameters
        ----------
        inputs : name to integer array ``(frames, *shape)``
        interval : cycles between frames at the input, beats evenly spaced; 0: without a gap
        stall : probability that a source or a sink pauses, each cycle
        seed : of the pauses
        idle_limit : cycles without output after which the design counts as stuck; default: four
            times what the schedule says
        memory : how off-chip memory behaves; default: ``MemoryModel()``; of no effect on a design
            that uses none
        recover : after an error of the memory, reset the design and begin again, with a memory
            that has no fault

        Raises
        ------
        :exc:`HwgenError`
            If the design is stuck, or breaks the stream protocol or that of AXI4, or if it reports
            an error of the memory.  What it had delivered, until nothing moved any more, is in
            ``out_NAME.bin``, then.
        """
        netlist = self.netlist
        frames = len(next(iter(inputs.values())))
        paths = []
        for name, stream in netlist.inputs.items():
            path = self.directory / f"in_{name}.bin"
            path.write_bytes(to_axi(stream, inputs[name]))
            paths.append(path)
        outs = [self.directory / f"out_{name}.bin" for name in netlist.outputs]
        if idle_limit is None:
            expected = analyse(netlist, max(interval, netlist.interval))
            idle_limit = 4 * (expected.latency + expected.interval) + 10_000
            idle_limit += MEMORY_PATIENCE if self.offchip is not None else 0
        arguments = [str(a) for a in (frames, interval, stall, seed, idle_limit, *paths, *outs)]
        if self.offchip is not None:
            settings = self.directory / "memory.txt"
            text = (memory or MemoryModel()).settings()
            settings.write_text(text + "recover 1\n" * recover)
            arguments += [str(settings), str(self.directory / "memory.bin")]
        begin = time.perf_counter()
        result = children.run([self.program, *arguments], cwd=self.rtl_directory)
        seconds = time.perf_counter() - begin
        if result.returncode:
            raise HwgenError(f"Simulation failed: {result.stderr.strip()[-2000:]}")
        *monitored, last_line = result.stdout.strip().splitlines()
        report = json.loads(last_line)
        outputs = {}
        for (name, stream), path in zip(netlist.outputs.items(), outs, strict=True):
            outputs[name] = from_axi(stream, path.read_bytes())
        times = dict(zip(netlist.outputs, report["outputs"], strict=True))
        return Simulation(
            outputs=outputs,
            start=report["start"],
            first={name: np.array(t["first"]) for name, t in times.items()},
            last={name: np.array(t["last"]) for name, t in times.items()},
            cycles=report["cycles"],
            seconds=seconds,
            peaks=self._peaks(monitored),
            memory=MemoryUse.of_report(report["memory"]) if "memory" in report else None,
            error=result.stderr.strip(),
        )

    def _peaks(self, lines: Sequence[str]) -> dict[str, int]:
        """High-water marks by edge, from what the memories of the queues print at the end."""
        names = {}
        for edge in self.netlist.edges:
            block, port = edge.source
            if block is not None:
                outputs = self.netlist.blocks[block].output_ports
                for queue in ("queue", f"queue_{port}", f"queue_{outputs[port]}"):
                    names[block, queue] = edge.name
        found = {}
        for line in lines:
            _, path, peak = line.split()
            parts = path.split(".")
            if "queue" in parts[-3]:
                found[names[parts[-4], parts[-3]]] = int(peak)
        return found


def _memory_base(size: int, address_bits: int) -> int:
    """A base of a region, a multiple of 4 KB: not 0, if addresses leave any choice."""
    base = min(MEMORY_BASE, ((1 << address_bits) - size) // 4096 * 4096)
    if base < 0:
        raise HwgenError(f"size of off-chip memory must be at most what {address_bits} bits of "
                         f"address reach, not {size!r}")
    return base


def _port(name: str, stream: StreamType) -> dict[str, object]:
    return {
        "name": name, "bytes": element_bytes(stream) * stream.elements, "beats": stream.beats
    }
