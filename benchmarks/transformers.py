"""DeiT-tiny at full size on two boards: the designs that the search finds, beside a published one.

    python -m benchmarks.transformers [--quick] [--simulate]

Each network is read, made integer and searched for, as ``python -m hwgen.build --report-only``
does it; the figures are predictions.  Printed are cycles an image, images a second at the board's
clock, DSPs, and the products that a DSP makes in a cycle: of all products, and of those alone that
DSPs make, for LUTs multiply, too.  ``--quick`` takes two layers and images of 64x64.

``--simulate`` takes two layers of each network at full width and size instead, folded so that they
are quick to simulate, and runs an image through their Verilog, evenly paced, without a gap and with
random stalls.  Exits with 1 if an output or a time is not as predicted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from hwgen.flow import Built, build
from hwgen.options import Options

DESIGNS = (("deit-tiny", "w4a4", "u250"), ("deit-tiny", "w8a8", "zcu102"))
"""Network, precision and board of each design."""
PUBLISHED = ("HG-PIPE", "w3a3", "VCK190", 57_624)
"""Guo et al., "HG-PIPE: Vision Transformer Acceleration with Hybrid-Grained Pipeline" (2024): what
it is, precision, board, and cycles an image of DeiT-tiny."""
LAYERS = 2
"""Of the network that is simulated."""
FRAMES_A_SECOND = 1_000
"""What the network that is simulated is folded for."""


def designs(size: int | None, layers: int | None) -> Table:
    """A table of designs, and of the published one."""
    table = Table(box=None, pad_edge=False)
    for name in ("network", "precision", "board"):
        table.add_column(name, no_wrap=True)
    for name in ("MACs", "cycles an image", "images/s", "DSP", "LUT", "MAC/DSP/cycle", "by DSPs",
                 "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    for model, precision, board in DESIGNS:
        begin = time.perf_counter()
        built = build(Options(model, board, precision=precision, size=size, layers=layers,
                              report_only=True))
        report = built.report
        whole = report["mac_per_dsp_cycle"]
        table.add_row(
            model, precision, board, f"{report['macs'] / 1e6:,.1f} M",
            f"{report['interval_cycles']:,}", f"{report['fps']:,.0f}", f"{report['dsp']:,}",
            f"{report['lut']:,}", f"{whole:.2f}", f"{whole * report['dsp_mac_share']:.2f}",
            f"{time.perf_counter() - begin:.0f}")
    name, precision, board, cycles = PUBLISHED
    table.add_row(name, precision, board, "", f"{cycles:,}")
    return table


def simulate(size: int | None) -> bool:
    """Run an image through the Verilog of a few layers of each network; is all as predicted?"""
    right = True
    for model, precision, board in DESIGNS:
        begin = time.perf_counter()
        built = build(Options(model, board, precision=precision, size=size, layers=LAYERS,
                              target_fps=FRAMES_A_SECOND, simulate=1))
        right &= _as_predicted(built)
        assert built.simulated is not None
        print(f"{model}, {LAYERS} layers, {precision}, {board}: "
              f"{built.report['macs']:,} MACs, {built.report['dsp']:,} DSPs, "
              f"{built.simulated.mismatches} mismatches, first output at "
              f"{built.simulated.first_output:,} cycles, predicted "
              f"{built.found.timing.first_output:,}, last at {built.simulated.latency:,}, "
              f"predicted {built.found.timing.latency:,}; {time.perf_counter() - begin:.0f} s",
              flush=True)
    return right


def _as_predicted(built: Built) -> bool:
    """Whether the Verilog gave what it should, when it should."""
    proof, timing = built.simulated, built.found.timing
    assert proof is not None
    return not proof.mismatches and (proof.latency, proof.first_output) == (
        timing.latency, timing.first_output)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="DeiT-tiny on two boards")
    parser.add_argument("--quick", action="store_true", help="two layers, images of 64x64")
    parser.add_argument("--simulate", action="store_true",
                        help="run an image through the Verilog of two layers instead")
    options = parser.parse_args(argv)
    size, layers = (64, LAYERS) if options.quick else (None, None)
    if options.simulate:
        return 0 if simulate(size) else 1
    Console(width=None if sys.stdout.isatty() else 140).print(designs(size, layers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
