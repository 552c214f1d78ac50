"""GlobalPool: values and times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.globalpool import GlobalPoolConfig
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.errors import HwgenError
from hwgen.ir import GlobalAveragePool, GlobalMaxPool, Quantisation, Requantise, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, multipliers, quantisations
from tests.blocks.places import check_least_places
from tests.profiles import examples

MEAN = GlobalAveragePool(Requantise.from_scale(0.1), Quantisation())


@st.composite
def pools(draw: st.DrawFn) -> GlobalPoolConfig:
    """Any global pool of a small frame, with few beats a pixel or with many."""
    quantisation = draw(quantisations(st.sampled_from([2, 4, 8, 8, 16])))
    spatial = draw(st.lists(st.integers(1, 4), max_size=3))
    lanes = draw(st.integers(1, 3))
    tensor = TensorType((*spatial, lanes * draw(st.integers(1, 8))), quantisation)
    if draw(st.booleans()):
        op = GlobalMaxPool()
    else:
        output = draw(quantisations(st.sampled_from([4, 8, 16])))
        spread = tensor.pixels * 2.0**quantisation.bits
        op = GlobalAveragePool(multipliers(1, spread, output, draw(st.integers(0, 999))), output)
    return GlobalPoolConfig(op=op, tensor=tensor, lanes=lanes,
                            multiplier=draw(st.sampled_from(sorted(MULTIPLIERS))))


@given(pools(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: GlobalPoolConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(pools(), st.integers(0, 999))
@examples(20)
def test_least_places(config: GlobalPoolConfig, seed: int) -> None:
    check_least_places(config, seed)


@given(pools(), st.integers(0, 999), st.integers(1, 12))
@examples(30)
def test_values_under_stalls(config: GlobalPoolConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize("beats", range(1, 9))
@pytest.mark.parametrize("op", [GlobalMaxPool(), MEAN], ids=["maximum", "mean"])
def test_a_beat_a_cycle(op, beats: int) -> None:
    """Frames one right after the other, with the depth that is built by default."""
    config = GlobalPoolConfig(op=op, tensor=TensorType((2, 2, beats)))
    assert config.interval == 4 * beats
    frames = np.random.default_rng(beats).integers(-128, 128, (6, 2, 2, beats))
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.accepts["i"], np.arange(24 * beats))
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])


def test_extremes_of_a_large_frame() -> None:
    """The largest sums there are, of both signs."""
    q = Quantisation(1.0, 127)
    op = GlobalAveragePool(Requantise.from_scale(1 / 400), Quantisation(2.0, 0))
    config = GlobalPoolConfig(op=op, tensor=TensorType((20, 20, 1), q))
    frames = np.stack([np.full((20, 20, 1), c) for c in (-128, 127)])
    run = simulate(config.create(), frames)
    assert run.outputs["o"].ravel().tolist() == [-128, 0]


@pytest.mark.parametrize("op, channels, latency", [
    (GlobalMaxPool(), 4, 12 + 5), (GlobalMaxPool(), 5, 15 + 6),
    (MEAN, 4, 12 + 14), (MEAN, 5, 15 + 15),
])
def test_latencies(op, channels: int, latency: int) -> None:
    config = GlobalPoolConfig(op=op, tensor=TensorType((2, 2, channels)))
    assert config.latency == latency
    assert config.resources().dsp == (op is MEAN)


def test_refuses() -> None:
    with pytest.raises(HwgenError, match=r"^Lanes must divide the 4 channels, not 3$"):
        GlobalPoolConfig(op=GlobalMaxPool(), tensor=TensorType((3, 4)), lanes=3)
    with pytest.raises(HwgenError, match=r"^Multiplier must be one of .*, not 'dsp'$"):
        GlobalPoolConfig(op=MEAN, tensor=TensorType((3, 4)), multiplier="dsp")
