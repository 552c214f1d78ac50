"""SparseConv: values at any sparsity, cycles as they are predicted from the data, no standstill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.blocks.sparse_conv import SKIPS, SparseConvConfig, even_streams
from hwgen.ir import Conv, Quantisation, TensorType, Window
from sim.testbench import simulate
from tests.blocks.checks import STALLS, divisors, quantisations, windows
from tests.blocks.test_conv import make_conv

LOW = Quantisation(0.1, -128)


def sparse_frames(
    config: SparseConvConfig, sparsity: float, count: int, random: np.random.Generator
) -> np.ndarray:
    """Frames of which a share is zero: single elements, and whole channels of pixels."""
    quantisation = config.tensor.quantisation
    shape = (count, *config.tensor.shape)
    frames = random.integers(quantisation.low, quantisation.high + 1, shape)
    ends = random.choice([quantisation.low, quantisation.high], shape)
    frames = np.where(random.random(shape) < 0.3, ends, frames)
    zero = random.random(shape) < sparsity
    pixels = random.random(shape[:-1]) < sparsity**2
    return np.where(zero | pixels[..., None], quantisation.zero_point, frames)


def pruned(op: Conv, share: float, seed: int = 0) -> Conv:
    """A convolution some of whose weights are zero: single ones, and of all output channels."""
    random = np.random.default_rng(seed)
    keep = random.random(op.weight.shape) >= share
    keep &= random.random(op.weight.shape[1:]) >= share / 2
    return replace(op, weight=np.where(keep, op.weight, 0))


@st.composite
def configs(draw: st.DrawFn) -> SparseConvConfig:
    """Any convolution, and any way to fold it and to divide its streams."""
    window, spatial = draw(windows(draw(st.integers(1, 2)), largest=3, taps=9, outputs=20))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    cin, cout = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    input, output = draw(quantisations()), draw(quantisations())
    op = make_conv(window, cin * groups, cout * groups, groups, input=input, output=output,
                   weight_bits=draw(st.integers(4, 8)), seed=draw(st.integers(0, 99)))
    op = pruned(op, draw(st.sampled_from([0.0, 0.4, 0.9])))
    tap_lanes = draw(st.integers(1, window.taps))
    lanes_in = draw(divisors(cin))
    channel_lanes = lanes_in * draw(st.integers(1, cin // lanes_in))
    pe = draw(st.integers(1, cout))
    count = tap_lanes * channel_lanes
    multipliers = draw(st.integers(1, count))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(count).tolist()
    cuts = [0, *sorted(draw(st.permutations(range(1, count)))[: multipliers - 1]), count]
    streams = tuple(tuple(order[a:b]) for a, b in zip(cuts, cuts[1:], strict=False))
    config = SparseConvConfig(
        op=op, tensor=TensorType((*spatial, cin * groups), input), lanes_in=lanes_in,
        channel_lanes=channel_lanes, tap_lanes=tap_lanes, pe=pe, streams=streams,
        skip=draw(st.sampled_from(SKIPS)),
        multiplier=draw(st.sampled_from(["dsp48e2", "dsp48e1", "mult18", "fabric"])),
    )
    lanes_out = draw(divisors(int(np.gcd.reduce(config.fold_results))))
    queue = config.window.steps + draw(st.integers(0, 2 * config.window.steps))
    return replace(config, lanes_out=lanes_out, queue=queue)


@settings(max_examples=40)
@given(configs(), st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.95]), st.integers(0, 999))
def test_values_under_stalls(config: SparseConvConfig, sparsity: float, seed: int) -> None:
    """Data equal at any sparsity, whoever pauses, with the least places in queues, too."""
    random = np.random.default_rng(seed)
    frames = sparse_frames(config, sparsity, 2, random)
    if seed % 2:
        config = replace(config, depths=(config.spacing,), queue=config.window.steps)
    run = simulate(config.create(), frames, stall=STALLS[seed % len(STALLS)], seed=seed)
    np.testing.assert_array_equal(run.outputs[0], config.compute(frames)[0])


def layer(**folding) -> SparseConvConfig:
    op = pruned(make_conv(Window((3, 3), pads=((1, 1), (1, 1))), 16, 12, input=LOW), 0.6)
    return SparseConvConfig(op=op, tensor=TensorType((10, 10, 16), LOW), **{
        "lanes_in": 4, "channel_lanes": 4, "tap_lanes": 3, "pe": 4,
        "streams": even_streams(12, 4), **folding,
    }).at_full_speed()


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.7, 0.9, 0.95])
@pytest.mark.parametrize("folding", [
    {"skip": "activation"}, {"skip": "weight"}, {"skip": "both", "pe": 1},
    {"queue": 12}, {"queue": 64, "streams": even_streams(12, 6)},
    {"tap_lanes": 1, "channel_lanes": 16, "streams": even_streams(16, 2)},
])
def test_mean_cycles(sparsity: float, folding: dict) -> None:
    """The mean rate is that which is predicted from the data, within 3 %."""
    random = np.random.default_rng(1)
    config = layer(**folding)
    frames = sparse_frames(config, sparsity, 3, random)
    predicted = config.mean_cycles(frames)
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs[0], config.compute(frames)[0])
    folds = len(frames) * config.window.windows * len(config.fold_results)
    took = run.times[0][-1] - run.times[0][0]
    assert took / folds == pytest.approx(predicted, rel=0.03)
