"""Product: values and times, on all pairs of codes, and what it takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.product import ProductConfig
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.errors import HwgenError
from hwgen.ir import Mul, Quantisation, Requantise, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import (
    check_on_time,
    check_under_stalls,
    divisors,
    multipliers,
    quantisations,
)
from tests.profiles import examples


@st.composite
def products(draw: st.DrawFn) -> ProductConfig:
    """Any product of two tensors."""
    a, b = (draw(quantisations(st.sampled_from([2, 4, 8, 8, 12, 16]))) for _ in range(2))
    output = draw(quantisations(st.sampled_from([4, 8, 16])))
    shape = (*draw(st.lists(st.integers(1, 3), max_size=3)), draw(st.integers(1, 6)))
    spread = 2.0 ** (a.bits + b.bits - 1)
    return ProductConfig(
        op=Mul(multipliers(1, spread, output, draw(st.integers(0, 999))), output),
        tensors=(TensorType(shape, a), TensorType(shape, b)),
        lanes=draw(divisors(shape[-1])),
        multiplier=draw(st.sampled_from(sorted(MULTIPLIERS))),
        pace=draw(st.sampled_from([0, 0, 7])),
    )


@given(products(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: ProductConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(products(), st.integers(0, 999), st.integers(1, 16))
@examples(20)
def test_values_under_stalls(config: ProductConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


def test_all_pairs_of_codes() -> None:
    """All pairs of 4-bit codes; a half gives ties."""
    a, b = Quantisation(0.5, -3, 4), Quantisation(1.0, 7, 4)
    output = Quantisation(1.0, 2, 8)
    config = ProductConfig(
        op=Mul(Requantise.from_scale(0.5), output),
        tensors=(TensorType((256, 1), a), TensorType((256, 1), b)),
    )
    x, y = (c.reshape(1, 256, 1) for c in np.meshgrid(np.arange(-8, 8), np.arange(-8, 8)))
    run = simulate(config.create(), x, y)
    np.testing.assert_array_equal(run.outputs["o"], np.rint((x + 3) * 0.5 * (y - 7)) + 2)


@pytest.mark.parametrize("multiplier, bits, dsp, latency", [
    ("dsp48e2", 8, 2, 15), ("dsp48e1", 8, 2, 15), ("mult18", 8, 2, 15), ("fabric", 8, 0, 21),
    ("dsp48e2", 16, 3, 16), ("mult18", 16, 3, 16), ("dsp48e2", 4, 1, 17),
])
def test_dsps_and_latencies(multiplier: str, bits: int, dsp: int, latency: int) -> None:
    q = Quantisation(1.0, 5, bits)
    tensor = TensorType((3, 4), q)
    config = ProductConfig(op=Mul(Requantise.from_scale(0.01), q), tensors=(tensor, tensor),
                           lanes=2, multiplier=multiplier)
    assert config.resources().dsp == 2 * dsp
    assert config.latency == latency


@pytest.mark.parametrize("wrong, message", [
    ({"tensors": (TensorType((3, 4)), TensorType((1, 4)))},
     r"^Mul needs two tensors of one shape, not \(3, 4\) and \(1, 4\)$"),
    ({"pace": -1}, r"^Pace must not be negative, not -1$"),
    ({"lanes": 3}, r"^Lanes must divide the 4 channels, not 3$"),
    ({"multiplier": "dsp"}, r"^Multiplier must be one of dsp48e2, .*, not 'dsp'$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    good = {"op": Mul(Requantise.from_scale(0.1), Quantisation()),
            "tensors": (TensorType((3, 4)), TensorType((3, 4)))}
    with pytest.raises(HwgenError, match=message):
        ProductConfig(**{**good, **wrong})
