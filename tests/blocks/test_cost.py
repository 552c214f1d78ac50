"""The model of LUTs and flip-flops: features, coefficients, notes."""

from __future__ import annotations

import numpy as np

from hwgen.blocks import cost
from hwgen.blocks.base import Resources


def test_coefficients_are_rates() -> None:
    for kind, features in cost.coefficients().items():
        for name, rates in features.items():
            only = {"lut", "ff"} & {name.partition("_")[0]} or {"lut", "ff"}
            assert set(rates) <= only, (kind, name)
            assert all(rate > 0 for rate in rates.values()), (kind, name)


def test_a_skid_buffer_is_two_registers_and_a_choice() -> None:
    area = cost.logic("skid", one=1, width=32)
    assert abs(area.ff - 2 * 32) <= 4
    assert abs(area.lut - 32) <= 8
    assert (area.dsp, area.bram18, area.uram) == (0, 0, 0)


def test_features_may_be_arrays() -> None:
    widths = np.array([8, 64])
    one = [cost.estimate("skid", "lut", one=1, width=int(width)) for width in widths]
    np.testing.assert_allclose(cost.estimate("skid", "lut", one=1, width=widths), one)


def test_a_feature_for_one_kind_of_cell_does_not_count_for_the_other() -> None:
    wider = cost.logic("queue", one=1, bits=4, ff_register=64)
    narrow = cost.logic("queue", one=1, bits=4, ff_register=0)
    assert wider.lut == narrow.lut
    assert wider.ff > narrow.ff


def test_what_is_not_known_costs_nothing() -> None:
    assert cost.logic("no such part", one=1) == Resources()


def test_notes() -> None:
    with cost.noted() as parts:
        cost.logic("skid", one=1, width=8)
    cost.logic("skid", one=1, width=9)
    assert parts == [("skid", {"one": 1, "width": 8})]
