"""Verilator and the C++ compiler: Verilog to a program, and what both make of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path

from hwgen import children
from hwgen.emit.verilog import Rtl
from hwgen.errors import HwgenError

__all__ = ["RUNTIME", "compile_verilog", "lint"]

CFLAGS = "-std=gnu++20 -DVL_TIME_CONTEXT -fno-strict-aliasing"
RUNTIME = ("verilated.o", "verilated_threads.o")
"""Parts of Verilator's runtime, the same in every program: compiled once, then kept."""
PART, LONG = ".part", 3600.0
"""Ending of a file that is being written, and the seconds after which nobody still does."""


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

    Parameters
    ----------
    rtl : :class:`hwgen.emit.verilog.Rtl`
    directory : where it was written

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
    """Compile Verilog and the C++ that drives it.

    Parameters
    ----------
    verilog : names of Verilog files in ``directory``
    top : name of the top module
    sources : C++ files, one of them with ``main``
    directory : where the Verilog is; the program is built in ``obj`` below it
    jobs : compilers at work at once
    optimise : False compiles sooner and simulates slower
    flags : further arguments of Verilator

    Returns
    -------
    :class:`Path`
        The program.

    Raises
    ------
    :exc:`HwgenError`
        If Verilator or the compiler fails.
    """
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
