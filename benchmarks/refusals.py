"""Networks that the search refuses: whether every refusal is true, and names what is short.

    python -m benchmarks.refusals [--quick] [--networks N ...] [--boards N ...] [--precisions N ...]
                                  [--size N] [--results FILE]

Each network of the zoo is searched on each board at each precision, with seeded weights and without
emission.  Where the search refuses, three things must hold: at a rate far below, nothing fits
either; with more of the named resources alone, the board is large enough or short of something
else; with more of all others, it still refuses.  Results are kept in a file, line by line, and
what is in it is not run again.  The exit status is 1 if a refusal is wrong.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

from hwgen import boards
from hwgen.boards import Board
from hwgen.dse.design.search import search
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.models import zoo
from hwgen.models.load import read

PRECISIONS = ("w8a8", "w4a8", "w4a4")
QUICK = ("resnet8", "mobilenetv2"), ("zedboard", "ulx3s-85f")
RATE = 0.01
"""Frames a second that any board reaches, if it reaches any."""
MORE = 1000
"""Times as much of a resource as there is, to see whether it was what is short."""
KINDS = ("dsp", "ff", "lut", "bram18", "uram", "bandwidth")


def refusal(graph: Graph, board: Board, rate: float = 0.0) -> tuple[str, dict]:
    """Why nothing fits; empty if something does, then with its figures."""
    try:
        found = search(graph, board, target_fps=rate)
    except HwgenError as error:
        return str(error), {}
    return "", {"interval": found.timing.interval, "limit": found.limit}


def named(message: str) -> set[str]:
    """The resources that a refusal names as short."""
    return {kind for kind in KINDS if re.search(rf"\b{kind}\b", message)}


def more_of(board: Board, kinds: set[str]) -> Board:
    """A board with much more of some resources."""
    more = {kind: MORE * max(getattr(board, kind), 100) for kind in kinds - {"bandwidth"}}
    if "bandwidth" in kinds:
        more["memory"] = tuple(
            replace(memory, gbps=MORE * memory.gbps, ports=64) for memory in board.memory)
    return replace(board, **more)


def judge(graph: Graph, board: Board, message: str) -> list[str]:
    """What is wrong with a refusal."""
    short = named(message)
    if not short:
        return ["names no resource"]
    wrong = []
    if not refusal(graph, board, RATE)[0]:
        wrong.append(f"fits at {RATE} frames a second")
    after = refusal(graph, more_of(board, short))[0]
    if after and named(after) & short:
        wrong.append(f"still short of {' and '.join(sorted(named(after) & short))} with more of it")
    # What there is none of is not added: a device with UltraRAM keeps its memories elsewhere.
    others = {kind for kind in KINDS if getattr(board, kind, board.memory)} - short
    if not refusal(graph, more_of(board, others))[0]:
        wrong.append(f"fits with more of {' and '.join(sorted(others))}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether refusals are true")
    parser.add_argument("--quick", action="store_true", help="two networks on two boards")
    parser.add_argument("--networks", nargs="+", metavar="NAME", choices=zoo.names())
    parser.add_argument("--boards", nargs="+", metavar="NAME", choices=boards.names())
    parser.add_argument("--precisions", nargs="+", metavar="NAME", default=PRECISIONS)
    parser.add_argument("--size", type=int, help="pixels of an edge; the network's own if left out")
    parser.add_argument("--results", type=Path, help="file that keeps results")
    options = parser.parse_args()
    networks = options.networks or (QUICK[0] if options.quick else zoo.names())
    places = options.boards or (QUICK[1] if options.quick else boards.names())
    known = {}
    if options.results and options.results.exists():
        lines = map(json.loads, options.results.read_text().splitlines())
        known = {line["case"]: line for line in lines}
    print("| network | board | precision | s | result | wrong |\n|---|---|---|---|---|---|")
    bad = 0
    for network in networks:
        for precision in options.precisions:
            graph = None
            for place in places:
                case = f"{network} {options.size or ''} {place} {precision}"
                if case not in known:
                    if graph is None:
                        graph = read(network, size=options.size, precision=precision).graph
                    begin = time.perf_counter()
                    board = boards.load(place)
                    message, figures = refusal(graph, board)
                    seconds = round(time.perf_counter() - begin, 1)
                    wrong = judge(graph, board, message) if message else []
                    known[case] = {"case": case, "seconds": seconds, "refusal": message,
                                   "wrong": wrong, **figures}
                    if options.results:
                        with options.results.open("a") as file:
                            file.write(json.dumps(known[case]) + "\n")
                line = known[case]
                bad += bool(line["wrong"])
                what = line["refusal"] or f"{line['interval']:,} cycles, limited by {line['limit']}"
                print(f"| {network} | {place} | {precision} | {line['seconds']} | {what} | "
                      f"{'; '.join(line['wrong'])} |", flush=True)
    print(f"\n{bad} refusals are wrong.")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
