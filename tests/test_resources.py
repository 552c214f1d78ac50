"""The resource model beside synthesis: a block of each kind, with counts that are kept."""

from __future__ import annotations

import pytest

from benchmarks.random_blocks import component, draw
from benchmarks.resources import MEASURED, TEST, TEST_SEED, error
from hwgen.device.multiplier import FAMILIES

pytestmark = pytest.mark.synthesis


@pytest.mark.parametrize("family", MEASURED)
@pytest.mark.parametrize("kind", TEST)
def test_model_beside_synthesis(kind: str, family: str) -> None:
    """Multipliers and memories exactly, LUTs and flip-flops within a quarter."""
    config = draw(kind, TEST_SEED, FAMILIES[family])
    counted = MEASURED[family].synthesis.area(component(config))
    said = config.resources(family)
    assert (said.dsp, said.bram18, said.uram) == (counted.dsp, counted.bram18, counted.uram)
    assert abs(error(said.lut, counted.lut)) <= 0.25
    assert abs(error(said.ff, counted.ff)) <= 0.25
