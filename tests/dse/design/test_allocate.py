"""Dividing a device: against trying everything, and what is proved when nothing fits."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.dse.design.allocate import WEIGHTS, allocate, fits
from hwgen.dse.design.amounts import RESOURCES, Amounts
from hwgen.dse.design.table import Column, Consumer, FixedTable
from tests.profiles import examples
from tests.typed import of_kind


def parts_of(seed: int, count: int, ways: int) -> list[Consumer]:
    random = np.random.default_rng(seed)
    return [
        Consumer((f"p{k}",), FixedTable([
            Column(Amounts(*map(float, random.integers(0, 9, len(RESOURCES)))), 1, n)
            for n in range(ways)
        ]))
        for k in range(count)
    ]


def every_way(parts: list[Consumer]) -> np.ndarray:
    """What each combination of ways takes."""
    tables = [of_kind(part.table, FixedTable) for part in parts]
    return np.array([np.sum([c.takes for c in columns], axis=0)
                     for columns in product(*(table.columns for table in tables))])


@given(st.integers(0, 9999), st.integers(1, 5), st.integers(1, 4), st.integers(8, 30))
@examples(60)
def test_against_trying_everything(seed: int, count: int, ways: int, each: int) -> None:
    parts, have = parts_of(seed, count, ways), np.full(len(RESOURCES), float(each))
    takes = every_way(parts)
    good = takes[(takes <= have).all(1)]
    found = allocate(parts, have, 1)
    share, prices = fits(parts, have, 1, exact=True)
    assert share <= (takes / have).max(1).min() + 1e-6
    assert (prices >= 0).all()
    if found is None:
        # Only some of the ways were named: near the limit a way out may be missed.
        assert not len(good) or share > 0.6
        return
    assert (found.takes <= have + 1e-6).all()
    assert set(found.columns) == {part.names[0] for part in parts}
    total = np.sum([column.takes for column in found.columns.values()], axis=0)
    np.testing.assert_allclose(found.takes, total)
    weights = WEIGHTS / have
    assert weights @ found.takes <= (good @ weights).min() * 1.25 + 0.1


def test_alike_parts_are_decided_together() -> None:
    ways = Column(Amounts(dsp=4), 1, "dsp"), Column(Amounts(lut=9), 1, "lut")
    table = FixedTable(ways)
    parts = [Consumer(("a", "b", "c"), table)]
    found = allocate(parts, np.array(Amounts(9, 9, 9, 1, 1, 1), float), 1)
    assert found is not None
    assert sorted(str(column.choice) for column in found.columns.values()) == ["dsp", "dsp", "lut"]


@pytest.mark.parametrize("have, share", [(8.0, 1.5), (12.0, 1.0), (24.0, 0.5)])
def test_share_of_what_is_needed(have: float, share: float) -> None:
    parts = [Consumer(("a", "b", "c"), FixedTable([Column(Amounts(dsp=4), 1, "")]))]
    found, prices = fits(parts, np.array([have, 1, 1, 1, 1, 1]), 1, exact=True)
    assert found == pytest.approx(share)
    assert prices.argmax() == 0
    assert (allocate(parts, np.array([have, 1, 1, 1, 1, 1]), 1) is None) == (share > 1)
