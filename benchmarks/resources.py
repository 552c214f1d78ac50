"""LUTs, flip-flops, DSPs and memories of blocks: the resource model beside Yosys.

    python -m benchmarks.resources [--quick] [--fit]

Random configurations of every block are synthesised for UltraScale+ (``synth_xilinx -family
xcup``) and compared with what the model says.  ``--fit`` fits the model's coefficients
(``hwgen/blocks/cost.toml``) to other configurations first.  Counts are kept in
``synthesised.json``: only what has changed since is synthesised again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

import hwgen.blocks
from benchmarks.random_blocks import component, draw
from benchmarks.synthesis import Synthesis
from hwgen.blocks import cost
from hwgen.blocks.base import Resources

COUNTS = Path(__file__).with_name("synthesised.json")
COEFFICIENTS = Path(hwgen.blocks.__file__).with_name("cost.toml")

FIT = {
    "skid": 2, "queue": 20, "requantiser": 24, "array": 26, "window": 20, "convolution": 36,
    "convolution, several pixels a beat": 20, "pool": 20, "resize": 9, "pad": 12, "table": 20,
    "adder": 12, "product": 16, "global pool": 18, "argmax": 8, "gather": 24, "fifo": 3,
    "concatenate": 7, "splitter": 8, "lane change": 12,
}
"""Configurations that coefficients are fitted to."""
TEST = {
    "convolution": 24, "convolution, several pixels a beat": 6, "convolution, tiled": 8, "pool": 6,
    "resize": 2, "pad": 3, "table": 5, "adder": 4, "product": 5, "global pool": 5, "argmax": 3,
    "gather": 5, "fifo": 2, "eviction buffer": 6, "concatenate": 3, "splitter": 4,
    "lane change": 4,
}
"""Configurations that the model is judged by."""
FIT_SEED, SPENT_SEED, TEST_SEED = 1000, 5000, 7000
"""Of what coefficients are fitted to, of a test that the features were chosen by and which is
fitted to since, and of the test."""
SMALL = 25
"""LUTs or flip-flops below which an error counts less when coefficients are fitted."""
LIKELY = 0.01
"""How much the fit prefers coefficients of 1, beside what configurations say."""


def samples(counts: dict[str, int], seed: int) -> Iterable[tuple[str, int, object]]:
    """Kinds, seeds and configurations."""
    for kind, count in counts.items():
        for k in range(seed, seed + count):
            yield kind, k, draw(kind, k)


def fit(found: list[tuple[str, object, Resources]], what: str) -> dict[tuple[str, str], float]:
    """Coefficients per kind of part and feature, for the least sum of squared relative errors."""
    rows, rest = [], []
    for _, config, area in found:
        with cost.noted() as parts:
            exact = config.resources()
        row: dict[tuple[str, str], float] = {}
        for kind, features in parts:
            for name, value in features.items():
                if name.partition("_")[0] not in {"lut", "ff"} - {what}:
                    row[kind, name] = row.get((kind, name), 0.0) + float(value)
        rows.append(row)
        fitted = sum(round(cost.estimate(kind, what, **features)) for kind, features in parts)
        rest.append(getattr(area, what) - (getattr(exact, what) - fitted))
    columns = sorted({key for row in rows for key in row})
    matrix = np.array([[row.get(key, 0.0) for key in columns] for row in rows])
    weight = 1 / (np.array([getattr(area, what) for *_, area in found]) + SMALL)
    matrix, target = matrix * weight[:, None], np.array(rest) * weight
    # Features are counts of LUTs or flip-flops: where nothing is known, one for each is likely.
    likely = np.diag(np.sqrt(LIKELY * (matrix**2).sum(0)))
    solution, _ = nnls(np.concatenate([matrix, likely]),
                       np.concatenate([target, likely.sum(1)]), maxiter=100_000)
    return dict(zip(columns, solution, strict=True))


def write(coefficients: dict[str, dict[tuple[str, str], float]]) -> None:
    """The file of coefficients."""
    lines = ["# Written by `python -m benchmarks.resources --fit`.  See cost.py."]
    last = ""
    for kind, name in sorted({key for values in coefficients.values() for key in values}):
        rates = {what: round(values.get((kind, name), 0.0), 3)
                 for what, values in coefficients.items()}
        if kind != last:
            lines += ["", f"[{kind!r}]".replace("'", '"')]
            last = kind
        if any(rates.values()):
            inside = ", ".join(f"{what} = {rate}" for what, rate in rates.items() if rate)
            lines.append(f"{name} = {{ {inside} }}")
    COEFFICIENTS.write_text("\n".join(lines) + "\n")
    cost.coefficients.cache_clear()


def error(predicted: int, counted: int) -> float:
    """Relative error, with its sign."""
    return (predicted - counted) / max(counted, 1)


def table(found: list[tuple[str, object, Resources]]) -> tuple[list[str], bool]:
    """Lines of a table of errors, and whether a count that must be exact is wrong."""
    lines = [
        "| block | number | LUT, median % | worst | FF, median % | worst | DSP or RAM wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = list(dict.fromkeys(kind for kind, *_ in found))
    wrong = 0
    for kind in [*kinds, "all"]:
        mine = [(config.resources(), area) for k, config, area in found if kind in (k, "all")]
        cells = []
        for what in ("lut", "ff"):
            errors = 100 * np.abs([error(getattr(p, what), getattr(a, what)) for p, a in mine])
            cells += [f"{np.median(errors):.1f}", f"{errors.max():.1f}"]
        wrong = sum((p.dsp, p.bram18, p.uram) != (a.dsp, a.bram18, a.uram) for p, a in mine)
        lines.append(f"| {kind} | {len(mine)} | {' | '.join(cells)} | {wrong} |")
    return lines, bool(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(description="The resource model beside synthesis")
    parser.add_argument("--quick", action="store_true", help="one block of each kind")
    parser.add_argument("--fit", action="store_true", help="fit the coefficients first")
    options = parser.parse_args()
    synthesis = Synthesis(COUNTS)

    def measured(counts: dict[str, int], seed: int) -> list[tuple[str, object, Resources]]:
        return [(kind, config, synthesis.area(component(config)))
                for kind, _, config in samples(counts, seed)]

    if options.fit:
        found = measured(FIT, FIT_SEED) + measured(TEST, SPENT_SEED)
        write({what: fit(found, what) for what in ("lut", "ff")})
    found = measured(dict.fromkeys(TEST, 1) if options.quick else TEST, TEST_SEED)
    lines, wrong = table(found)
    print("\n".join(lines))
    if options.fit and not options.quick:
        synthesis.save(forget=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
