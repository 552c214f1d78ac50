"""What nextpnr reports, and how it stands beside what was predicted."""

from __future__ import annotations

from benchmarks.place import reported, row
from hwgen.device.cost import Resources


def _step(kind: str, delay: float, net: str) -> dict:
    return {"type": kind, "delay": delay, "net": net, "from": {"cell": f"{net}_driver"}}


def test_report_of_nextpnr() -> None:
    """LUTs are all that take their place; of paths, the slowest between registers is named."""
    placed = reported({
        "utilization": {
            name: {"used": used, "available": 99}
            for name, used in (("TRELLIS_COMB", 40), ("TRELLIS_FF", 30), ("TRELLIS_RAMW", 5),
                               ("MULT18X18D", 2), ("DP16KD", 3))
        },
        "fmax": {"clk": {"achieved": 99.5}},
        "critical_paths": [
            {"from": "<async>", "to": "<async>", "path": [_step("routing", 9, "outside")]},
            {"from": "posedge clk", "to": "posedge clk", "path": [
                _step("clk-to-q", 0.5, "q"), _step("routing", 3, "slow"), _step("setup", 0, "end"),
            ]},
            {"from": "posedge clk", "to": "posedge clk", "path": [_step("routing", 2, "quick")]},
        ],
    })
    assert placed.resources == Resources(dsp=2, lut=40, ff=30, bram18=3)
    assert placed.clock == 99.5
    assert placed.path == ("slow", "end")


def test_row() -> None:
    """Predicted, placed, and their ratio where there is one."""
    line = row("net", Resources(dsp=2, lut=1100, ff=90), Resources(dsp=2, lut=1000, ff=100), "80")
    assert line == "| net | 1,100 / 1,000 (1.10) | 90 / 100 (0.90) | 2 / 2 (1.00) | 0 / 0 | 80 |"
