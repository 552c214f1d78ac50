"""LUTs and flip-flops of parts of blocks: sums of features, with coefficients fitted to synthesis.

A *kind* of part has *features*, numbers that its structure gives: bits of an adder, bits that go
through a multiplexer.  Coefficients are in ``cost.toml``, which ``python -m benchmarks.resources
--fit`` writes: LUTs and flip-flops for each unit of a feature, never negative.  Memories and DSPs
are not estimated here: they are counted.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

from hwgen.blocks.base import Resources

__all__ = ["coefficients", "estimate", "logic", "noted"]

_notes: list[tuple[str, dict[str, float]]] | None = None


@cache
def coefficients() -> dict[str, dict[str, dict[str, float]]]:
    """Per kind, per feature, the ``lut`` and ``ff`` of a unit; what is missing costs nothing."""
    return tomllib.loads(files("hwgen.blocks").joinpath("cost.toml").read_text())


def estimate(kind: str, what: str, **features: Any) -> Any:
    """LUTs (``what`` is ``"lut"``) or flip-flops (``"ff"``) of a part, not rounded.

    Features are numbers or arrays.  One whose name begins with ``lut_`` or ``ff_`` counts for those
    alone.
    """
    rates = coefficients().get(kind, {})
    return sum(rates[name].get(what, 0.0) * value
               for name, value in features.items() if name in rates)


def logic(kind: str, **features: float) -> Resources:
    """What a part takes of LUTs and flip-flops, memories not included."""
    if _notes is not None:
        _notes.append((kind, features))
    return Resources(lut=round(estimate(kind, "lut", **features)),
                     ff=round(estimate(kind, "ff", **features)))


@contextmanager
def noted() -> Iterator[list[tuple[str, dict[str, float]]]]:
    """Notes the parts that are asked for, each as its kind and features: what a fit needs."""
    global _notes
    before, _notes = _notes, []
    try:
        yield _notes
    finally:
        _notes = before
