"""The search alone: how long it takes, what it finds, and how far that is from the bound.

    python -m benchmarks.search [--quick] [--sparse] [MODEL SIZE BOARD ...]

Networks with seeded weights; times are of the search, without reading the network.  With
``--sparse`` each is searched again with the statistics of its zeros.
"""

from __future__ import annotations

import argparse
import sys

from hwgen import boards
from hwgen.dse.design.search import search
from hwgen.dse.sparse.statistics import measure
from hwgen.models.load import read

CASES = (
    ("yolov5n", 640, "zcu104"), ("yolov5n", 640, "zcu102"), ("resnet50", 224, "u250"),
    ("mobilenetv3-large", 224, "u250"), ("mobilenetv2", 224, "zcu111"), ("resnet18", 224, "u250"),
    ("resnet8", 32, "zcu104"), ("resnet8", 32, "zedboard"),
)
QUICK = (("resnet8", 32, "zcu104"), ("resnet8", 32, "zedboard"), ("mobilenetv2", 224, "zcu111"))

COLUMNS = (
    "network", "board", "search, s", "interval", "bound", "gap", "of DSPs alone", "gap",
    "limited by", "DSP", "BRAM18",
    "URAM", "LUT", "MAC/DSP/cycle",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="The search alone")
    parser.add_argument("--quick", action="store_true", help="three small networks")
    parser.add_argument("--sparse", action="store_true", help="also with sparse convolutions")
    parser.add_argument("cases", nargs="*", metavar="MODEL SIZE BOARD")
    options = parser.parse_args()
    given = options.cases
    if len(given) % 3:
        parser.error("give a model, a size and a board for each case")
    cases = list(zip(given[::3], map(int, given[1::3]), given[2::3], strict=True))
    print(f"| {' | '.join(COLUMNS)} |")
    print("|" + "---|" * len(COLUMNS))
    for model, size, name in cases or (QUICK if options.quick else CASES):
        source = read(model, size=size)
        graph, board = source.graph, boards.load(name)
        ways = {"": None}
        if options.sparse:
            ways[", sparse"] = measure(graph, source.calibration())
        for what, statistics in ways.items():
            found = search(graph, board, statistics=statistics)
            need, interval = found.netlist.resources(), found.timing.interval
            print(f"| {model} {size}{what} | {name} | {found.seconds:.1f} | {interval:,} | "
                  f"{found.bounds.cycles:,} | {found.gap:+.1%} | {found.bounds.dsp_cycles:,} | "
                  f"{found.dsp_gap:+.1%} | {found.limit} | {need.dsp:,} | "
                  f"{need.bram18:,} | {need.uram:,} | {need.lut:,} | "
                  f"{graph.macs / interval / max(need.dsp, 1):.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
