"""The model of LUTs and flip-flops: features, coefficients, notes."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.device import cost
from hwgen.device.cost import Area, Resources
from hwgen.device.multiplier import FAMILIES


def test_every_family_has_coefficients() -> None:
    assert set(cost.COEFFICIENTS) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_coefficients_are_rates(family: str) -> None:
    for kind, features in cost.coefficients(family).items():
        for name, rates in features.items():
            prefix = name.partition("_")[0]
            assert family == "ecp5" or prefix not in ("lut4", "ff4")
            only = {"lut", "ff"} & {prefix.removesuffix("4")} or {"lut", "ff"}
            assert set(rates) <= only, (kind, name)
            assert all(rate > 0 for rate in rates.values()), (kind, name)


def test_a_skid_buffer_is_two_registers_and_a_choice() -> None:
    area = cost.logic("skid", one=1, width=32).resources()
    assert abs(area.ff - 2 * 32) <= 4
    assert abs(area.lut - 32) <= 8
    assert (area.dsp, area.bram18, area.uram) == (0, 0, 0)


def test_features_may_be_arrays() -> None:
    widths = np.array([8, 64])
    one = [cost.estimate("skid", "lut", one=1, width=int(width)) for width in widths]
    np.testing.assert_allclose(cost.estimate("skid", "lut", one=1, width=widths), one)


def test_a_feature_for_one_kind_of_cell_does_not_count_for_the_other() -> None:
    wider = cost.logic("queue", one=1, bits=4, ff_register=64).resources()
    narrow = cost.logic("queue", one=1, bits=4, ff_register=0).resources()
    assert wider.lut == narrow.lut
    assert wider.ff > narrow.ff


def test_what_is_not_known_costs_nothing() -> None:
    assert cost.logic("no such part", one=1).resources() == Resources()


def test_areas_add_up() -> None:
    """Counts and parts; each part is rounded for itself, as it is when it stands alone."""
    parts = [cost.logic("skid", one=1, width=9), cost.counted(dsp=3, lut=2),
             cost.counted(Resources(lut=7), lut=5)]
    for family in FAMILIES:
        alone = [part.resources(family) for part in parts]
        assert sum(alone, Resources()) == cost.total(parts).resources(family)
        assert (parts[0] + parts[1]).resources(family) == alone[0] + alone[1]
    assert cost.total([]) == Area()


def test_four_inputs_are_counted_apart() -> None:
    assert cost.counted(Resources(lut=7), lut=5).resources("ecp5") == Resources(lut=7)
    assert cost.counted(Resources(lut=7), lut=5).resources("7series") == Resources(lut=5)
    assert cost.counted(lut=5).resources("ecp5") == Resources(lut=5)


def test_shift_registers_are_flip_flops_where_luts_have_four_inputs() -> None:
    row = cost.logic("array", lut_shift=100, ff4_shift=500)
    assert row.resources().ff == 0
    assert 80 <= row.resources().lut <= 120
    assert row.resources("ecp5").ff > 100


def test_memories_by_family() -> None:
    """RAMs of 64 x 7 bits in eight LUTs, or of 16 x 4 in six."""
    assert cost.memory(7, 16, "distributed").resources() == Resources(lut=8)
    assert cost.memory(8, 16, "distributed").resources("ecp5") == Resources(lut=12)
    assert cost.memory(36, 512, "block").resources("ecp5") == Resources(bram18=1)
