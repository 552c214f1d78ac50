"""SparseConv: values at any sparsity, cycles as they are predicted from the data, no standstill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams, fold_ends
from hwgen.errors import HwgenError
from hwgen.ir import Conv, ConvTranspose, Gemm, Quantisation, TensorType, Window
from hwgen.parts.queue import QUEUE_LATENCY
from hwgen.parts.sparse_mac import SKIPS
from hwgen.parts.window import READ_LATENCY
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import STALLS, divisors, quantisations, windows
from tests.blocks.test_conv import make_conv, make_weights
from tests.profiles import examples

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
    dims = draw(st.integers(1, 2))
    window, spatial = draw(windows(dims, largest=3, taps=9, pixels=24, outputs=8))
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


@examples(15)
@given(configs(), st.sampled_from([0.0, 0.3, 0.6, 0.8, 0.95]), st.integers(0, 999))
def test_values_under_stalls(config: SparseConvConfig, sparsity: float, seed: int) -> None:
    """Data equal at any sparsity, whoever pauses, with the least places in queues, too."""
    random = np.random.default_rng(seed)
    frames = sparse_frames(config, sparsity, 2, random)
    if seed % 2:
        config = replace(config, depths=(config.fold_beats,), queue=config.window.steps)
    run = simulate(config.create(), frames, stall=STALLS[seed % len(STALLS)], seed=seed)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])


def layer(**folding) -> SparseConvConfig:
    op = pruned(make_conv(Window((3, 3), pads=((1, 1), (1, 1))), 16, 12, input=LOW), 0.6)
    return SparseConvConfig(op=op, tensor=TensorType((4, 4, 16), LOW), **{
        "lanes_in": 4, "channel_lanes": 4, "tap_lanes": 3, "pe": 4,
        "streams": even_streams(12, 4), **folding,
    }).at_full_speed()


@pytest.mark.slow
@pytest.mark.parametrize(("folding", "sparsity"), [
    ({}, 0.0), ({}, 0.5), ({}, 0.95), ({"skip": "weight"}, 0.8), ({"skip": "both", "pe": 2}, 0.3),
    ({"queue": 12}, 0.5), ({"queue": 64, "streams": even_streams(12, 6)}, 0.7),
    ({"tap_lanes": 1, "channel_lanes": 16, "streams": even_streams(16, 2)}, 0.6),
])
def test_mean_cycles(folding: dict, sparsity: float) -> None:
    """The mean rate is that which is predicted from the data, within 3 %."""
    random = np.random.default_rng(1)
    config = layer(**folding)
    frames = sparse_frames(config, sparsity, 2, random)
    predicted = config.mean_cycles(frames)
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])
    # From the first fold's results to the last one's.
    folds = len(frames) * config.window.windows * len(config.fold_results) - 1
    took = run.times["o"][-config.fold_beats] - run.times["o"][0]
    assert took / folds == pytest.approx(predicted, rel=0.03)


def beat_by_beat(work: np.ndarray, spacing: int, depth: int, late: int = 0) -> np.ndarray:
    """What :func:`fold_ends` says, by the recurrence over beats."""
    folds, steps, lanes = work.shape
    ends = np.empty(folds, np.int64)
    kept = -(-depth // steps) + 1
    # When places that were claimed became free, fold by fold.
    freed = np.zeros((folds, steps, lanes), np.int64)
    over, start, end = np.zeros(lanes, np.int64), -steps, -spacing
    for fold, beats in enumerate(work):
        start += steps
        if (need := steps * (fold + 1) - depth) > 0:
            first = max(fold - kept, 0)
            recent = freed[first:fold].reshape(-1, lanes)
            free = np.partition(recent, need - 1 - first * steps, axis=0)[need - 1 - first * steps]
            start = max(start, int(free.max()) + 2)
        arrive = start + READ_LATENCY + late + 1
        held = np.zeros(lanes, np.int64)
        for step, count in enumerate(beats):
            # A beat with products sends the one that is held on its way.
            sent = (held > 0) & (count > 0)
            taken = np.maximum(arrive + step + QUEUE_LATENCY, over)
            over = np.where(sent, taken + held, over)
            freed[fold, step] = np.where(sent, taken, arrive + step)
            held = np.where(count > 0, count, held)
        # The last one is sent by the end of the sum.  Of as many places as beats, all but those
        # of beats that were sent became free at once, in whichever order they are noted.
        taken = np.maximum(arrive + steps + QUEUE_LATENCY, over)
        first = (beats > 0).argmax(0)
        freed[fold, first, np.arange(lanes)] = taken
        end = max(int((taken + np.maximum(held, 1)).max()), end + spacing)
        over = np.full(lanes, end)
        ends[fold] = end
    return ends


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(1, 5)), st.integers(1, 8),
    st.integers(0, 60), st.integers(0, 3), st.floats(0, 1), st.integers(0, 999),
)
def test_fold_ends(
    shape: tuple[int, int, int], spacing: int, more: int, late: int, density: float, seed: int
) -> None:
    """Summed up fold by fold as beat by beat."""
    random = np.random.default_rng(seed)
    work = random.integers(0, 4, shape) * (random.random(shape) < density)
    work *= random.random((shape[0], 1, 1)) < 0.8
    depth = shape[1] + more
    np.testing.assert_array_equal(
        fold_ends(work, spacing, depth, late), beat_by_beat(work, spacing, depth, late)
    )


def test_no_cycle_for_zeros() -> None:
    """Beats without products take none: a frame of zeros takes as long as it is read."""
    config = layer(queue=64)
    zeros = np.full((2, *config.tensor.shape), config.tensor.zero_point)
    assert config.mean_cycles(zeros) == config.window.steps
    assert not config.work(zeros).any()
    run = simulate(config.create(), zeros)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(zeros)[0])
    starts = run.times["o"][:: config.fold_beats]
    assert (np.diff(starts)[20:] == config.window.steps).mean() > 0.9


def test_gemm_and_one_by_one() -> None:
    """Groups of streams over channels alone."""
    random = np.random.default_rng(3)
    parameters = make_weights((), 24, 10, input=LOW)
    del parameters["groups"], parameters["weight_bits"]
    tensor = TensorType((24,), LOW)
    for op, shape in (
        (Gemm(**parameters).as_conv(tensor), tensor),
        (make_conv(Window((1, 1)), 24, 10, input=LOW), TensorType((5, 4, 24), LOW)),
    ):
        config = SparseConvConfig(
            op=op, tensor=shape, lanes_in=4, lanes_out=5, channel_lanes=12, pe=5,
            streams=even_streams(12, 3),
        )
        frames = sparse_frames(config, 0.7, 2, random)
        run = simulate(config.create(), frames, stall=0.2, seed=1)
        np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])


@pytest.mark.parametrize("multiplier", ["dsp48e2", "dsp48e1", "mult18", "fabric"])
def test_two_products_a_multiplier(multiplier: str) -> None:
    """Skipping takes no packing away, though activations less their zero have a bit more."""
    config = layer(multiplier=multiplier, products=0)
    assert config.packing.activation_bits == 9
    assert config.packing.products == (2 if multiplier == "dsp48e2" else config.packing.products)
    dsp = config.array.resources().dsp
    assert dsp == config.packing.device.dsp * config.multipliers * -(-4 // config.packing.products)


@pytest.mark.parametrize(("change", "message"), [
    ({"streams": ((0, 1), (2, 3))}, "Streams must be the 12 of channel lanes times tap lanes"),
    ({"streams": (tuple(range(12)), ())}, "divided among the multipliers, each once"),
    ({"skip": "none"}, "Skip must be one of activation, weight, both"),
    ({"queue": 11}, "Depth must be at least the 12 beats of a sum"),
    ({"pe": 13}, "Pe must be between 1 and 12"),
    ({"channel_lanes": 17}, "Channel lanes must be between 1 and 16"),
    ({"lanes_out": 3}, "Output lanes must divide the 4 results"),
    ({"cycles": -1.0}, "Cycles must be a number, 0 or more"),
])
def test_refused(change: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        layer(**change)


def test_transposed_is_refused() -> None:
    parameters = make_weights((2, 2), 4, 4, input=LOW)
    op = ConvTranspose(**parameters, stride=(2, 2))
    with pytest.raises(HwgenError, match="transposed convolution is computed dense"):
        SparseConvConfig(op=op, tensor=TensorType((4, 4, 4), LOW), streams=((0,),))
