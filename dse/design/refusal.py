"""Why no design fits a board: which resources are short, what takes most, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hwgen.device.cost import Resources
from hwgen.device.storage import ULTRA_SHAPE
from hwgen.dse.design.allocate import fits
from hwgen.dse.design.amounts import PLENTY, RESOURCES
from hwgen.dse.design.table import Consumer
from hwgen.ir import Embedding

if TYPE_CHECKING:
    from hwgen.dse.design.state import SearchState

__all__ = ["Lack", "lacking", "refusal"]

BLOCK_BITS = 18 << 10
LARGE = 0.25
"""Share of the chip's memory from which on a table is large."""
SCARCE = 1e-3
"""Price of all that there is of a resource above which it is short; prices of all add up to 1."""


class Lack(NamedTuple):
    """A resource of which a design needs more than there is."""

    resource: str
    need: int
    have: int


def lacking(need: Resources, have: Resources) -> list[Lack]:
    """The resources of which more is needed than there is."""
    return [Lack(name, getattr(need, name), getattr(have, name)) for name in vars(need)
            if getattr(need, name) > getattr(have, name)]


class _Look(NamedTuple):
    """Designs for an interval: what is to be built, and how scarce resources are for it."""

    interval: int
    parts: list[Consumer]
    share: float
    prices: np.ndarray


def refusal(state: SearchState) -> str:
    """Why nothing fits: the scarcest resources, what takes most of them, and what to change."""
    return _why(state) + _large_table(state)


def _large_table(state: SearchState) -> str:
    """What is said of the largest table of an embedding, if it alone takes much of the chip."""
    found = [(op.rows.size * op.output.bits, len(op.rows), node.name)
             for node in state.graph.nodes if isinstance(op := node.op, Embedding)]
    if not found or state.external is not None:
        return ""
    bits, rows, name = max(found)
    chip = state.board.bram18 * BLOCK_BITS + state.board.uram * math.prod(ULTRA_SHAPE)
    if bits < LARGE * chip:
        return ""
    return (f"; the table of embedding {name!r}, {rows} rows, has {bits:,} bits, "
            f"{bits / chip:.1f} times the memory of the chip: it must be in off-chip memory")


def _why(state: SearchState) -> str:
    looks = []
    for interval in state.slow:
        beats = state.streams.choose(interval, False)
        # No streams may be so quick; at the slowest there always are some.
        if beats is not None:
            parts = state.parts(beats)
            looks.append(_Look(
                interval, parts, *fits(parts, state.have(interval), interval, exact=True)))
    best = min(looks, key=lambda look: look.share)
    begin = f"Board {state.board.name} is too small for this network"
    advice = "choose a larger board or a smaller input size"
    if best.share > 1:
        advice = ("choose a larger board, a smaller input size or fewer bits (precision, such as "
                  "w4a8 or w4a4)")
    if alone := _short_of_one(state, best):
        return f"{begin}: {alone}: {advice}"
    names = " and ".join(_short_together(state, best, looks))
    if best.share > 1:
        return (f"{begin}: each design needs more of {names} than there is of them, "
                f"{best.share:.2f} times as much at least: {advice}")
    if state.lacking:
        needs = " and ".join(f"{lack.need:,} {lack.resource} of {lack.have:,} that may be used"
                             for lack in state.lacking)
        return f"{begin}, by a little: the smallest design found needs {needs}: {advice}"
    return f"{begin}, by a little: no way to divide its {names} was found: {advice}"


def _short_of_one(state: SearchState, look: _Look) -> str:
    """Which resource is too little on its own, whatever a design takes of the others; "": none."""
    have, missing = state.have(look.interval), state.learned.missing
    for part in look.parts:
        part.table.limit(look.interval)
    each = np.stack([part.table.cheapest(np.eye(len(have))).costs for part in look.parts])
    least = np.array([len(part.names) for part in look.parts]) @ each
    if not (least > have).any():
        return ""
    worst = int(np.where(
        least > have, (least + missing) / np.maximum(have + missing, 1e-6), 0
    ).argmax())
    largest = int(each[:, worst].argmax())
    most = (f", {each[largest, worst]:,.0f} of them for {look.parts[largest].names[0]!r}"
            if each[largest, worst] else "")
    return (f"it needs at least {least[worst] + missing[worst]:,.0f} {RESOURCES[worst]} of "
            f"{have[worst] + missing[worst]:,.0f} that may be used{most}")


def _short_together(state: SearchState, best: _Look, looks: Iterable[_Look]) -> list[str]:
    """The resources that are short together: to take less of one is to take more of another.

    Those have a price; but if nothing fits, not those of which more would not help alone.
    """
    have, prices = state.have(best.interval), best.prices
    scarce = prices * np.maximum(have, 0) > SCARCE
    if best.share > 1:
        # With more of a resource, quicker designs come into question too.
        tries = [(n, state.parts(beats)) for n in (state.quick, 4 * state.quick)
                 if (beats := state.streams.choose(n, False)) is not None]
        tries += [(look.interval, look.parts) for look in looks]
        others = np.zeros(len(RESOURCES), bool)
        for k in np.flatnonzero(scarce)[np.argsort(prices[scarce] * have[scarce])]:
            if scarce.sum() > 1:
                others[k] = True
                others[k] = all(
                    fits(parts, np.where(others, PLENTY, state.have(n)), n, exact=True).share > 1
                    for n, parts in tries)
                scarce[k] = not others[k]
    return [name for name, is_short in zip(RESOURCES, scarce, strict=True) if is_short]
