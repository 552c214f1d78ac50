"""LayerNorm and RMSNorm: values, times, and how near they are to float."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks import LayerNormConfig
from hwgen.errors import HwgenError
from hwgen.ir import LayerNorm, Quantisation, TensorType
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


@st.composite
def configs(draw: st.DrawFn) -> LayerNormConfig:
    channels = draw(st.integers(1, 24))
    tensor = TensorType((draw(st.integers(1, 9)), channels), draw(
        quantisations(st.integers(4, 16))))
    output = Quantisation(draw(st.sampled_from([0.01, 1 / 32, 0.3])), draw(st.integers(-8, 7)),
                          draw(st.integers(4, 12)))
    op = LayerNorm.from_types(tensor, output, draw(st.sampled_from([1e-12, 1e-5, 0.1])),
                              centred=draw(st.booleans()))
    multiplier = draw(st.sampled_from(["dsp48e2", "mult18", "fabric"]))
    return LayerNormConfig(op=op, tensor=tensor, lanes=draw(divisors(channels)),
                           multiplier=multiplier)


@given(configs(), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: LayerNormConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999), st.integers(1, 5))
@examples(20)
def test_values_under_stalls(config: LayerNormConfig, seed: int, depth: int) -> None:
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("channels", [1, 7, 192, 4096])
def test_extreme_codes(centred: bool, channels: int) -> None:
    """All codes at one end, at both ends, one away from the others, and all alike."""
    tensor = TensorType((4, channels), Quantisation(0.01, 0 if centred else 5, 12))
    q = tensor.quantisation
    x = np.full((1, 4, channels), q.low)
    x[0, 0, ::2] = q.high
    x[0, 1, 0] += 1
    x[0, 2] = q.high
    op = LayerNorm.from_types(tensor, Quantisation(1 / 16, 0, 8), 1e-6, centred=centred)
    (out,) = op.evaluate((x,), (tensor,))
    real = (x - tensor.zero_point) * tensor.scale
    if centred:
        real = real - real.mean(-1, keepdims=True)
    epsilon = op.epsilon * (tensor.scale / channels) ** 2
    wanted = real / np.sqrt(np.square(real).mean(-1, keepdims=True) + epsilon) * 16
    assert np.abs(np.clip(wanted, -128, 127) - out).max() <= 0.5 + 0.003 * np.abs(wanted).max()


def test_near_float():
    random = np.random.default_rng(0)
    tensor = TensorType((50, 192), Quantisation(0.004, 3, 12))
    real = random.normal(0.2, 1, (1, 50, 192)) * random.uniform(0.2, 2, (1, 50, 1))
    x = np.clip(np.rint(real / tensor.scale) + 3, *(tensor.quantisation.low,
                                                   tensor.quantisation.high)).astype(np.int64)
    fine = Quantisation(1 / 4096, 0, 16)
    (out,) = LayerNorm.from_types(tensor, fine, 1e-6).evaluate((x,), (tensor,))
    real = (x - 3) * tensor.scale
    real = real - real.mean(-1, keepdims=True)
    wanted = real / np.sqrt(np.square(real).mean(-1, keepdims=True) + 1e-6)
    error = np.abs(out / 4096 - wanted) / np.abs(wanted).max(-1, keepdims=True)
    assert error.max() < 0.0025


def test_refusals():
    wide = TensorType((1, 1 << 14), Quantisation(1.0, 0, 16))
    op = LayerNorm.from_types(wide, Quantisation(1 / 32), 1e-5)
    with pytest.raises(HwgenError, match=r"variances of 5\d bits; the most are 56"):
        op.infer(wide)
    with pytest.raises(HwgenError, match="cannot have the scale 1e-06"):
        LayerNorm.from_types(wide, Quantisation(1e-6), 1e-5)
    with pytest.raises(HwgenError, match="Epsilon must be from 1 to"):
        LayerNorm(True, 0, op.roots, op.shift, op.output)
    with pytest.raises(HwgenError, match="Reciprocal roots must be 384 numbers"):
        LayerNorm(True, 1, op.roots[1:], op.shift, op.output)
    small = TensorType((4, 8))
    with pytest.raises(HwgenError, match="Multiplier must be one of"):
        LayerNormConfig(op=LayerNorm.from_types(small, Quantisation(1 / 32), 1e-5), tensor=small,
                        multiplier="dsp")
