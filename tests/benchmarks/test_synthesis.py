"""Counts of cells by device family."""

from __future__ import annotations

import pytest

from benchmarks.synthesis import ECP5, ULTRASCALE
from hwgen.device.cost import Resources
from hwgen.errors import HwgenError


def _netlist(*cells: tuple[str, dict[str, list]]) -> dict:
    """A netlist as Yosys writes it."""
    return {"cells": {
        f"cell {k}": {
            "type": kind, "connections": ports,
            "port_directions": {
                name: "output" if name in ("COUT", "Z", "Q") else "input" for name in ports
            },
        }
        for k, (kind, ports) in enumerate(cells)
    }}


def test_luts_of_ecp5_are_those_of_the_placer() -> None:
    """Of two chains the first has two links, and its carry goes out to a LUT too."""
    area = ECP5.counted(_netlist(
        ("CCU2C", {"CIN": ["0"], "COUT": [1]}), ("CCU2C", {"CIN": [1], "COUT": [2]}),
        ("CCU2C", {"CIN": ["1"], "COUT": [3]}), ("LUT4", {"A": [2], "Z": [4]}),
        ("TRELLIS_DPR16X4", {}), ("TRELLIS_FF", {"Q": [5]}), ("MULT18X18D", {}), ("DP16KD", {}),
        ("$scopeinfo", {}),
    ))
    # Three links, four ends of chains, a LUT, and a memory with its write port.
    assert area == Resources(dsp=1, lut=3 * 2 + 4 * 2 + 1 + 6, ff=1, bram18=1)


def test_a_carry_that_leaves_in_the_middle_of_a_chain() -> None:
    cells = (("CCU2C", {"CIN": ["0"], "COUT": [1]}), ("CCU2C", {"CIN": [1], "COUT": [2]}))
    whole = ECP5.counted(_netlist(*cells)).lut
    assert ECP5.counted(_netlist(*cells, ("TRELLIS_FF", {"DI": [1], "Q": [9]}))).lut == whole + 2


def test_cells_of_ultrascale() -> None:
    area = ULTRASCALE.counted(_netlist(("LUT6", {}), ("SRL16E", {}), ("RAMB36E2", {}),
                                       ("FDRE", {}), ("CARRY8", {}), ("URAM288", {})))
    assert area == Resources(lut=2, ff=1, bram18=2, uram=1)


@pytest.mark.parametrize("target", [ECP5, ULTRASCALE])
def test_unknown_cells_are_refused(target) -> None:
    with pytest.raises(HwgenError, match="cells that nobody counts: MYSTERY"):
        target.counted(_netlist(("MYSTERY", {})))
