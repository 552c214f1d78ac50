"""Area of MAC arrays after synthesis for UltraScale+, beside the naive version in the same run.

    python -m benchmarks.mac_array [--quick]

DSPs and LUTs for each multiply-accumulate a cycle, as Yosys ``synth_xilinx -family xcup`` counts
them. The naive array has what one writes first: a multiplication for each weight, ``sum()`` over
the products, an accumulator.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import reduce
from operator import add

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from benchmarks.synthesis import run_yosys
from hwgen.device.arithmetic import signed_width
from hwgen.device.multiplier import Packing
from hwgen.emit.verilog import emit_component
from hwgen.parts.mac import MacArray, MacArrayConfig

PRECISIONS = [(8, 8, 127), (8, 4, 7), (4, 4, 7)]
"""Activation bits, weight bits, largest weight."""

FOLDS = [(4, 4), (8, 8), (16, 8), (8, 16), (16, 16)]
"""Products summed, outputs."""


class NaiveArray(wiring.Component):
    """The same sums without sharing, cascades or trees: activations and weights in registers."""

    def __init__(self, config: MacArrayConfig) -> None:
        self.config = config
        packing = config.packing
        weights = data.ArrayLayout(signed(packing.weight_bits), config.simd)
        super().__init__({
            "x": In(data.ArrayLayout(signed(packing.activation_bits), config.simd)),
            "w": In(data.ArrayLayout(weights, config.pe)),
            "add": In(1),
            "first": In(1),
            "acc": Out(data.ArrayLayout(signed(config.acc_bits), config.pe)),
        })

    def elaborate(self, platform):
        m = Module()
        x = Signal.like(self.x)
        m.d.sync += x.eq(self.x)
        for n in range(self.config.pe):
            w = Signal(self.w[n].shape(), name=f"w_{n}")
            total = reduce(add, (x[k] * w[k] for k in range(self.config.simd)))
            held = Signal(total.shape(), name=f"sum_{n}")
            m.d.sync += [w.eq(self.w[n]), held.eq(total)]
            with m.If(self.add):
                m.d.sync += self.acc[n].eq(Mux(self.first, 0, self.acc[n]) + held)
        return m


def area(component: wiring.Component) -> tuple[int, int]:
    """DSPs and LUTs (those used as shift registers included) after synthesis."""
    stat = run_yosys(emit_component(component), "synth_xilinx -family xcup -flatten -top top")
    cells = stat["design"]["num_cells_by_type"]
    # A shift register and INV take a LUT; a LUT6_2 would count as one.
    luts = sum(n for cell, n in cells.items() if cell.startswith(("LUT", "SRL", "INV")))
    return cells.get("DSP48E2", 0), luts


def configurations(folds: Iterable[tuple[int, int]]) -> Iterable[MacArrayConfig]:
    """Arrays of each precision and fold, for 64 sums."""
    for activation_bits, weight_bits, limit in PRECISIONS:
        packing = Packing.densest("dsp48e2", activation_bits, weight_bits, limit)
        for simd, pe in folds:
            bound = packing.bound(64 * simd)
            yield MacArrayConfig(simd=simd, pe=pe, packing=packing,
                                 acc_bits=signed_width(-bound, bound))


def main() -> int:
    parser = argparse.ArgumentParser(description="Area of MAC arrays")
    parser.add_argument("--quick", action="store_true", help="8 products and 8 outputs only")
    options = parser.parse_args()
    print("bits  simd x pe   DSP/MAC  naive   LUT/MAC  naive   LUT predicted")
    failed = False
    for config in configurations([(8, 8)] if options.quick else FOLDS):
        packing, macs = config.packing, config.simd * config.pe
        dsp, lut = area(MacArray(config))
        naive_dsp, naive_lut = area(NaiveArray(config))
        most = {8: 0.5, 4: 0.25}[packing.activation_bits]
        failed |= dsp / macs > most or dsp != config.resources().dsp
        print(f"{packing.activation_bits}x{packing.weight_bits}  {config.simd:>6} x {config.pe:<3}"
              f" {dsp / macs:>8.3f} {naive_dsp / macs:>6.3f} {lut / macs:>9.2f}"
              f" {naive_lut / macs:>6.2f} {config.resources().lut / lut:>11.2f}x", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
