"""The accuracy report: ratios of signal to noise by tensor, what limits them, and what to do."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from rich.table import Table

__all__ = ["CEILING", "Accuracy", "Row", "decibels"]

CEILING = 150.0
"""Largest ratio that is stated, in dB, because float32 resolves no more."""
SPREAD = 8.0
"""Weights are worth equalising if their largest input channel is so many times the median one, or
half the largest weight if that is less."""
EXPLAINED = 3.0
"""A ratio this many decibels below that of one cause is explained by it."""
UNEXPLAINED = 10.0
"""A ratio this many decibels below what rounding explains has another cause."""


@dataclass(frozen=True)
class Row:
    """An integer tensor against its float one.  Ratios are in dB.

    Members
    -------
    name, op : of the node that makes it; ``Input`` for an input
    tensor, float_tensor : names in the integer graph and the float network
    bits, weight_bits : widths; weights None where there are none
    snr_db : of the integer network, end to end
    own_db : of the layer alone, fed with float tensors rounded to its inputs
    output_db : of the float tensor rounded to the output: no layer can be better
    input_db, worst_input : likewise of its worst input, and which that is; None for an input
    weight_db : estimate of what rounding the weights alone leaves; None where there are none
    clipped : share of the float values that lie beyond the range
    clipped_noise : share that clipping has in the noise of ``output_db``
    spread : largest over median input channel of the weights; 1 where there are none
    """

    name: str
    op: str
    tensor: str
    float_tensor: str
    bits: int
    weight_bits: int | None
    snr_db: float
    own_db: float
    output_db: float
    input_db: float | None
    worst_input: str | None
    weight_db: float | None
    clipped: float
    clipped_noise: float
    spread: float

    @property
    def cause(self) -> str:
        """What limits ``own_db`` most: ``output``, ``input``, ``weights`` or ``other``."""
        limits = {"output": self.output_db, "input": self.input_db}
        known = {key: value for key, value in limits.items() if value is not None}
        worst = min(known, key=known.__getitem__)
        explained = known[worst]
        if self.own_db > explained - EXPLAINED:
            return worst
        if self.weight_db is not None and self.weight_db < explained:
            worst, explained = "weights", self.weight_db
        return worst if self.own_db > explained - UNEXPLAINED else "other"

    @property
    def hint(self) -> str:
        """What to do about it, in one line."""
        if self.cause == "other":
            return "its error is larger than rounding explains: its terms cancel each other"
        if self.cause == "weights":
            limit = (1 << (self.weight_bits or 8) - 1) - 1
            if self.spread > max(1.5, min(SPREAD, limit / 2)):
                return (f"its weights' channel spread is {self.spread:.0f}: equalise, or give its "
                        f"weights more than {self.weight_bits} bits")
            return f"too few bits: give its weights more than {self.weight_bits}"
        if self.cause == "input":
            return f"too few bits in front of it: see its input {self.worst_input}"
        if self.clipped_noise > 0.5:
            return (f"its range is clipped, {self.clipped:.2%} of the values lie beyond: calibrate "
                    f"on more frames, or with the method minmax")
        return f"too few bits: give its activations more than {self.bits}"


@dataclass(frozen=True)
class Accuracy:
    """Rows in the order of the graph, over a number of frames."""

    rows: tuple[Row, ...]
    frames: int

    @property
    def worst(self) -> Row | None:
        """The layer with the lowest ratio of its own."""
        layers = [row for row in self.rows if row.op != "Input"]
        return min(layers, key=lambda row: row.own_db, default=None)

    def plain(self) -> dict:
        """What ``report.json`` says of it: all rows, and the worst layer."""
        rows = [
            {key: round(value, 3) if isinstance(value, float) else value
             for key, value in asdict(row).items()} | {"cause": row.cause}
            for row in self.rows
        ]
        worst = self.worst
        return {"accuracy": rows, "worst_layer": None if worst is None else {
            "name": worst.name, "own_db": round(worst.own_db, 3), "cause": worst.cause,
            "hint": worst.hint,
        }}

    def table(self, limit: int = 20) -> Table:
        """The layers with the lowest ratios of their own, worst first."""
        table = Table(title=f"accuracy over {self.frames} frames, in dB", title_justify="left",
                      caption_justify="left")
        for name in ("tensor", "op"):
            table.add_column(name)
        for name in ("bits", "end to end", "alone", "output", "input", "weights"):
            table.add_column(name, justify="right")
        rows = sorted((r for r in self.rows if r.op != "Input"), key=lambda row: row.own_db)
        for row in rows[:limit]:
            bits = f"{row.bits}" if row.weight_bits is None else f"w{row.weight_bits}a{row.bits}"
            ratios = (row.snr_db, row.own_db, row.output_db, row.input_db, row.weight_db)
            table.add_row(row.tensor, row.op, bits,
                          *("" if value is None else f"{value:.1f}" for value in ratios))
        if self.worst is not None:
            table.caption = f"{self.worst.tensor}: {self.worst.hint}"
        return table


def decibels(signal: float, noise: float) -> float:
    """Ratio of two sums of squares in dB, within +-150."""
    if noise <= 0:
        return CEILING
    ratio = signal / noise
    return float(np.clip(10 * math.log10(ratio), -CEILING, CEILING)) if ratio > 0 else -CEILING
