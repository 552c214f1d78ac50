"""A chart of what a search explored: the interval of each design against what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hwgen.device.storage import BLOCK_BITS, ULTRA_BITS

__all__ = ["Chart", "Mark", "Tick", "memory_mbit", "pareto"]

WIDTH, HEIGHT = 480.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 12.0, 14.0, 40.0
WIDEST = 20
"""Designs slower than this many times the chosen interval are left out, because they would crowd
the others."""
MOST_MARKS = 1500


@dataclass(frozen=True)
class Mark:
    """A design: where it is, whether it fits the board, and what it is called."""

    x: float
    y: float
    fits: bool
    text: str


@dataclass(frozen=True)
class Tick:
    """A line of the grid and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A chart, in the units of its drawing.

    Members
    -------
    label : what the vertical axis counts
    marks : designs explored
    frontier : corners of the line below and left of which there is no design that fits
    chosen : the design that this report is about
    limit : height at which what a design may use ends; None: above the chart
    x_ticks, y_ticks : the grid
    left_out : designs beyond the frame
    """

    label: str
    marks: list[Mark]
    frontier: list[tuple[float, float]]
    chosen: Mark
    limit: float | None
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    left_out: int
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


def memory_mbit(amounts: Mapping) -> float:
    """Capacity of some block RAMs (``bram18``) and UltraRAMs (``uram``) together, in Mbit."""
    return (amounts["bram18"] * BLOCK_BITS + amounts["uram"] * ULTRA_BITS) / 2**20


def pareto(
    label: str, interval: int, cost: float, limit: float,
    explored: Sequence[tuple[int, float, bool]],
) -> Chart:
    """Lay out a chart.

    Parameters
    ----------
    label : what the cost is
    interval, cost : cycles a frame and cost of the chosen design
    limit : the most that a design may cost
    explored : (cycles a frame, cost, whether it fits) of each design that was looked at
    """
    every = sorted(set(explored))
    shown = [e for e in every if 0 < e[0] <= WIDEST * interval and e[1] <= 2 * max(limit, cost)]
    left_out = len(every) - len(shown)
    best, frontier = math.inf, []
    for time, amount, fits in shown:
        if fits and amount < best:
            if frontier:
                frontier.append((time, best))
            frontier.append((time, amount))
            best = amount
    if len(shown) > MOST_MARKS:
        corners = set(frontier)
        step = len(shown) / MOST_MARKS
        kept = {shown[int(k * step)] for k in range(MOST_MARKS)}
        shown = [e for e in shown if e in kept or e[:2] in corners]
    times = [interval, *(e[0] for e in shown)]
    low, high = math.log10(min(times)) - 0.03, math.log10(max(times)) + 0.03
    most = max(cost, *(e[1] for e in shown), 1e-9) if shown else max(cost, 1e-9)
    if limit <= 1.3 * most:
        most = max(most, limit)
    y_step = _round_step(most / 4)
    most = y_step * math.ceil(most * 1.02 / y_step)

    def place(time: float, amount: float) -> tuple[float, float]:
        across = (math.log10(time) - low) / (high - low)
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - amount / most * (HEIGHT - TOP - BOTTOM),
        )

    def mark(time: int, amount: float, fits: bool) -> Mark:
        count = f"{amount:,.4g}" if amount < 1000 else f"{amount:,.0f}"
        return Mark(*place(time, amount), fits, f"{time:,} cycles, {count} {label}")

    return Chart(
        label=label,
        marks=[mark(*e) for e in shown],
        frontier=[place(*corner) for corner in frontier],
        chosen=mark(interval, cost, True),
        limit=place(interval, limit)[1] if limit <= most else None,
        x_ticks=[Tick(place(t, 0)[0], _short(t)) for t in _log_ticks(low, high)],
        y_ticks=[Tick(place(interval, k * y_step)[1], f"{k * y_step:,g}")
                 for k in range(round(most / y_step) + 1)],
        left_out=left_out,
    )


def _round_step(least: float) -> float:
    """The smallest number of 1, 2 or 5 times a power of ten that is at least as large."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic scale, as many as there is room for."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    choices = ((1, 2, 5), (1, 3), (1,)) if high - low > 0.5 else (
        (1, *(k / 10 for k in range(11, 100))), (1, 1.2, 1.5, *range(2, 10)), (1, 1.5, 2, 3, 5, 7),
    )
    found: list[float] = []
    for multiples in choices:
        found = [m * 10.0**p for p in powers for m in multiples if low <= math.log10(m) + p <= high]
        if len(found) <= 7:
            break
    return found


def _short(number: float) -> str:
    """A number in thousands or millions."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"
