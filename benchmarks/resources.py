"""LUTs, flip-flops, DSPs and memories of blocks: the resource model beside Yosys.

    python -m benchmarks.resources [--quick] [--fit] [--only KIND ...] [--family FAMILY]

Random configurations of every block are synthesised for UltraScale+ (``synth_xilinx -family
xcup``) or, with ``--family ecp5``, for ECP5 (``synth_ecp5``), and compared with what the model
says.  ``--fit`` fits the model's coefficients (``hwgen/device/cost.toml``, ``cost_ecp5.toml``) to
other configurations first; with ``--only`` those of some kinds of logic, while all others stay, to
the configurations that have such logic.  Counts are kept in ``synthesised.json`` and
``synthesised_ecp5.json``: only what has changed since is synthesised again.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

import hwgen.blocks
from benchmarks.random_blocks import component, draw
from benchmarks.synthesis import ECP5, ULTRASCALE, Synthesis, Target
from hwgen.device import cost
from hwgen.device.cost import Part, Resources
from hwgen.device.multiplier import FAMILIES
from hwgen.device.storage import FAMILY, FOUR_INPUTS

FIT = {
    "skid": 2, "queue": 20, "requantiser": 24, "array": 26, "window": 20, "convolution": 36,
    "convolution, several pixels a beat": 20, "pool": 20, "resize": 9, "pad": 12, "table": 20,
    "adder": 12, "product": 16, "global pool": 18, "argmax": 8, "gather": 24, "fifo": 3,
    "concatenate": 7, "splitter": 8, "lane change": 12, "eviction buffer": 8, "weight stream": 8,
    "axi port": 6, "convolution, tiled": 6, "convolution, sparse": 6, "low rank": 5,
    "rearrange": 18, "extremum": 4, "channel max": 3, "embedding": 10,
    "attention": 6, "layer norm": 6, "recurrent": 6, "repeat": 3,
    "repack": 8, "frame reader": 3, "frame writer": 3, "frame guard": 16, "shell control": 3,
}
"""Configurations that coefficients are fitted to."""
TEST = {
    "convolution": 24, "convolution, several pixels a beat": 6, "convolution, tiled": 8, "pool": 6,
    "resize": 2, "pad": 3, "table": 5, "adder": 4, "product": 5, "global pool": 5, "argmax": 3,
    "gather": 5, "fifo": 2, "eviction buffer": 6, "concatenate": 3, "splitter": 4,
    "lane change": 4, "axi port": 2, "convolution, sparse": 2, "low rank": 2, "rearrange": 5,
    "rearrange, off chip": 4, "extremum": 2, "embedding": 3,
    "attention": 1, "layer norm": 1, "recurrent": 1, "repeat": 1,
    "repack": 2, "frame reader": 1, "frame writer": 1, "frame guard": 1, "shell control": 1,
}
"""Configurations that the model is judged by."""
FIT_SEED, SPENT_SEED, TEST_SEED = 1000, 5000, 7000
"""Of what coefficients are fitted to, of a test that the features were chosen by and which is
fitted to since, and of the test."""


@dataclass(frozen=True)
class Measured:
    """A device family whose synthesis the model is compared with.

    Members
    -------
    family : one of :data:`hwgen.device.cost.COEFFICIENTS`
    target : how it is synthesised
    counts : name of the file of counts, beside this one
    share : of :data:`FIT` and :data:`TEST`, how many configurations are synthesised
    """

    family: str
    target: Target
    counts: str
    share: float = 1.0

    @property
    def synthesis(self) -> Synthesis:
        """Synthesis for it, with the counts that are kept."""
        return Synthesis(Path(__file__).with_name(self.counts), self.target)

    @property
    def coefficients(self) -> Path:
        """The file of coefficients."""
        return Path(hwgen.device.__file__).with_name(cost.COEFFICIENTS[self.family])
    def samples(self, counts: dict[str, int], seed: int) -> Iterable[tuple[str, Part]]:
        """Kinds and configurations, of each kind at least two."""
        for kind, count in counts.items():
            for k in range(seed, seed + max(min(count, 2), round(count * self.share))):
                yield kind, draw(kind, k, FAMILIES[self.family])


MEASURED = {m.family: m for m in (
    Measured(FAMILY, ULTRASCALE, "synthesised.json"),
    Measured("ecp5", ECP5, "synthesised_ecp5.json", 0.6),
)}
"""By family."""

SMALL = 25
"""LUTs or flip-flops below which an error counts less when coefficients are fitted."""
LIKELY = 0.01
"""How much the fit prefers coefficients of 1, beside what configurations say."""
LIKELY_FEW = 0.1
"""The same if only some kinds of logic are fitted, to few configurations."""


def fit(
    found: list[tuple[str, Part, Resources]], what: str, family: str, only: Collection[str] = ()
) -> dict[tuple[str, str], float]:
    """Coefficients per kind of part and feature, for the least sum of squared relative errors.

    ``only``: of these kinds of logic, if there are any; those of others are taken as they are.
    """
    others = {"lut", "lut4"} if what == "ff" else {"ff", "ff4"}
    if family not in FOUR_INPUTS:
        others |= {"lut4", "ff4"}
    rows, rest = [], []
    for _, config, counted in found:
        area = config.area()
        row: dict[tuple[str, str], float] = {}
        free = [part for part in area.logic if not only or part[0] in only]
        fixed = tuple(part for part in area.logic if only and part[0] not in only)
        for kind, features in free:
            for name, value in features.items():
                if name.partition("_")[0] not in others:
                    row[kind, name] = row.get((kind, name), 0.0) + float(value)
        rows.append(row)
        exact = replace(area, logic=fixed).resources(family)
        rest.append(getattr(counted, what) - getattr(exact, what))
    columns = sorted({key for row in rows for key in row})
    matrix = np.array([[row.get(key, 0.0) for key in columns] for row in rows])
    weight = 1 / (np.array([getattr(counted, what) for *_, counted in found]) + SMALL)
    matrix, target = matrix * weight[:, None], np.array(rest) * weight
    # Features are counts of LUTs or flip-flops: where nothing is known, one for each is likely.
    likely = np.diag(np.sqrt((LIKELY_FEW if only else LIKELY) * (matrix**2).sum(0)))
    solution, _ = nnls(np.concatenate([matrix, likely]),
                       np.concatenate([target, likely.sum(1)]), maxiter=100_000)
    return dict(zip(columns, solution, strict=True))


def write(path: Path, coefficients: dict[str, dict[tuple[str, str], float]]) -> None:
    """The file of coefficients; kinds that no configuration has stay as they were."""
    fitted = {kind for values in coefficients.values() for kind, _ in values}
    before = tomllib.loads(path.read_text()) if path.exists() else {}
    for kind, features in before.items():
        if kind not in fitted:
            for name, rates in features.items():
                for what, rate in rates.items():
                    coefficients[what][kind, name] = rate
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
    path.write_text("\n".join(lines) + "\n")
    cost.coefficients.cache_clear()


def error(predicted: int, counted: int) -> float:
    """Relative error, with its sign."""
    return (predicted - counted) / max(counted, 1)


def table(found: list[tuple[str, Part, Resources]], family: str) -> tuple[list[str], bool]:
    """Lines of a table of errors, and whether a count that must be exact is wrong."""
    lines = [
        "| block | number | LUT, median % | worst | FF, median % | worst | DSP or RAM wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = list(dict.fromkeys(kind for kind, *_ in found))
    wrong = 0
    for kind in [*kinds, "all"]:
        mine = [(config.resources(family), area) for k, config, area in found if kind in (k, "all")]
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
    parser.add_argument("--only", nargs="+", default=(), metavar="KIND",
                        help="fit the coefficients of these kinds of logic alone")
    parser.add_argument("--family", choices=MEASURED, default=FAMILY)
    options = parser.parse_args()
    family = MEASURED[options.family]
    synthesis = family.synthesis

    def measured(
        counts: dict[str, int], seed: int, only: Collection[str] = ()
    ) -> list[tuple[str, Part, Resources]]:
        return [(kind, config, synthesis.area(component(config)))
                for kind, config in family.samples(counts, seed)
                if not only or any(part in only for part, _ in config.area().logic)]

    if options.fit or options.only:
        found = measured(FIT, FIT_SEED, options.only) + measured(TEST, SPENT_SEED, options.only)
        write(family.coefficients, {
            what: fit(found, what, family.family, options.only) for what in ("lut", "ff")})
    found = measured(
        dict.fromkeys(TEST, 1) if options.quick else TEST, TEST_SEED, options.only)
    lines, wrong = table(found, family.family)
    print("\n".join(lines))
    if options.fit and not options.only and not options.quick:
        synthesis.save(forget=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
