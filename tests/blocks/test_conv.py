"""FoldedConv: values and times over foldings, groups, dimensions and widths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.errors import HwgenError
from hwgen.ir import (
    Conv,
    Convolution,
    ConvTranspose,
    Gemm,
    Quantisation,
    Requantise,
    Table,
    TensorType,
    Window,
)
from hwgen.offchip.bus import AxiConfig
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import (
    affordable_taps,
    check_on_time,
    check_under_stalls,
    divisors,
    multipliers,
    quantisations,
    windows,
)
from tests.profiles import examples


def make_weights(
    kernel: tuple[int, ...], cin: int, cout: int, groups: int = 1, *,
    input: Quantisation | None = None, output: Quantisation | None = None, weight_bits: int = 8,
    seed: int = 0,
) -> dict:
    """Parameters of a convolution: random weights, some at the ends of their range."""
    random = np.random.default_rng(seed)
    input, output = input or Quantisation(0.1, 3), output or Quantisation(0.1, -7)
    low, high = -(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1
    shape = (cout, *kernel, cin // groups)
    weight = random.integers(low, high + 1, shape)
    weight = np.where(random.random(shape) < 0.3, random.choice([low, high], shape), weight)
    spread = np.sqrt(weight[0].size) * high * input.high
    return {
        "weight": weight, "bias": random.integers(-int(spread), int(spread) + 1, cout),
        "requantise": multipliers(cout, spread, output, seed), "output": output, "groups": groups,
        "weight_bits": weight_bits,
    }


def make_conv(window: Window, cin: int, cout: int, groups: int = 1, **options) -> Conv:
    """A convolution with random weights."""
    return Conv(**make_weights(window.kernel, cin, cout, groups, **options),
                stride=window.stride, pads=window.pads, dilation=window.dilation)


@st.composite
def weights(draw: st.DrawFn, kernel: tuple[int, ...]) -> dict:
    """Parameters of a convolution: dense, grouped or depthwise, of any widths."""
    kind = draw(st.sampled_from(["dense", "grouped", "depthwise"]))
    if kind == "dense":
        groups, cin, cout = 1, draw(st.integers(1, 7)), draw(st.integers(1, 7))
    elif kind == "grouped":
        groups = draw(st.integers(2, 4))
        cin, cout = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    else:
        groups, cin, cout = draw(st.integers(2, 10)), 1, draw(st.sampled_from([1, 1, 2]))
    input = draw(quantisations(st.sampled_from([4, 5, 6, 7, 8, 8, 16])))
    output = draw(quantisations(st.sampled_from([4, 8, 8, 16])))
    parameters = make_weights(
        kernel, cin * groups, cout * groups, groups, input=input, output=output,
        weight_bits=draw(st.integers(4, 8)), seed=draw(st.integers(0, 999)),
    )
    return parameters | {"input": input}


@st.composite
def foldings(
    draw: st.DrawFn, op: Convolution, spatial: tuple[int, ...], input: Quantisation
) -> FoldedConvConfig:
    """Any folding of a convolution that is small enough to simulate."""
    groups, cin, cout = op.groups, op.weight.shape[-1], op.cout // op.groups
    if groups > 1 and draw(st.booleans()):
        group_lanes, channel_lanes, pe = draw(st.integers(2, groups)), cin, cout
        lanes_in = draw(divisors(np.gcd(cin * groups, cin * group_lanes)))
        last = groups % group_lanes or group_lanes
        lanes_out = draw(divisors(np.gcd(group_lanes * cout, last * cout)))
    else:
        group_lanes, pe = 1, draw(st.integers(1, cout))
        lanes_in = draw(divisors(cin))
        channel_lanes = lanes_in * draw(st.integers(1, cin // lanes_in))
        lanes_out = draw(divisors(np.gcd(pe, cout % pe or pe)))
    folding = {
        "lanes_in": lanes_in, "lanes_out": lanes_out, "channel_lanes": channel_lanes,
        "group_lanes": group_lanes, "pe": pe,
        "multiplier": draw(st.sampled_from(sorted(MULTIPLIERS))),
        "products": draw(st.integers(0, 1)),
    }
    tensor = TensorType((*spatial, cin * groups), input)
    taps = op.window.taps
    parallel = FoldedConvConfig(op=op, tensor=tensor, tap_lanes=taps, **folding)
    return replace(parallel, tap_lanes=draw(affordable_taps(parallel, taps)))


@st.composite
def convolutions(draw: st.DrawFn) -> FoldedConvConfig:
    """Any convolution and folding that is small enough to simulate."""
    dims = draw(st.integers(0, 3))
    largest, pixels = {0: (1, 1), 1: (6, 24), 2: (6, 40), 3: (3, 40)}[dims]
    window, spatial = draw(windows(dims, largest, 36, pixels))
    parameters = draw(weights(window.kernel))
    input = parameters.pop("input")
    op = Conv(**parameters, stride=window.stride, pads=window.pads, dilation=window.dilation)
    return draw(foldings(op, spatial, input))


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> FoldedConvConfig:
    """Any transposed convolution and folding that is small enough to simulate."""
    kernel, stride, pads, spatial, out = [], [], [], [], []
    dims = draw(st.integers(1, 3))
    for _ in range(dims):
        k = draw(st.integers(1, {1: 7, 2: 5, 3: 3}[dims]))
        s = draw(st.sampled_from({1: [1, 2, 3, 4], 2: [1, 2, 2, 3], 3: [1, 2, 2, 3]}[dims]))
        n = draw(st.integers(1, {1: 8, 2: 4, 3: 2}[dims]))
        full = (n - 1) * s + k
        # Pixels are cut off the output, or added to it.
        before = draw(st.integers(-2, min(k, full - 1)))
        most = 50 // int(np.prod(out, initial=1))
        fewest = max(full - before - most, -2)
        after = draw(st.integers(fewest, max(min(k, full - before - 1), fewest)))
        kernel.append(k)
        stride.append(s)
        pads.append((before, after))
        spatial.append(n)
        out.append(full - before - after)
    parameters = draw(weights(tuple(kernel)))
    input = parameters.pop("input")
    op = ConvTranspose(**parameters, stride=tuple(stride), pads=tuple(pads))
    return draw(foldings(op, tuple(spatial), input))


@st.composite
def several_pixels(draw: st.DrawFn) -> FoldedConvConfig:
    """Convolutions of several pixels a beat, which may share their multipliers."""
    pixels_in, pixels_out = draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (4, 2), (2, 4), (1, 3)]))
    stride, kernel = draw(st.integers(1, 2)), draw(st.sampled_from([1, 3, 3, 4]))
    before = draw(st.integers(0, kernel - 1))
    after = kernel - before - 1 - draw(st.integers(0, stride - 1))
    width = int(np.lcm(pixels_in, pixels_out * stride)) * draw(st.integers(1, 2))
    rows = draw(st.sampled_from([1, 3]))
    window = Window((rows, kernel), (draw(st.integers(1, 2)), stride),
                    ((rows // 2, rows // 2), (before, after)))
    parameters = draw(weights(window.kernel))
    input = parameters.pop("input")
    op = Conv(**parameters, stride=window.stride, pads=window.pads)
    spatial = (draw(st.integers(2, 3)), width)
    config = draw(foldings(op, spatial, input))
    return replace(
        config, pixels_in=pixels_in, pixels_out=pixels_out,
        requantiser_multiplier=draw(st.sampled_from(["", "fabric"])),
        shared=draw(st.sampled_from(["activation", "weight"])) if input.bits <= 8 else "activation",
        products=0,
    )


def check_either(config: FoldedConvConfig, seed: int, stalls: bool) -> None:
    """Exact times or values under stalls; the simulation is what costs, so each example has one."""
    (check_under_stalls if stalls else check_on_time)(config, seed)


@given(several_pixels(), st.integers(0, 999), st.booleans())
@examples(45)
def test_several_pixels(config: FoldedConvConfig, seed: int, stalls: bool) -> None:
    check_either(config, seed, stalls)


MEMORY_LATENCY = 20


@st.composite
def tiled(draw: st.DrawFn) -> FoldedConvConfig:
    """Convolutions whose weights are off chip, so that a tile is computed fold by fold."""
    config = draw(st.one_of(convolutions(), transposed_convolutions(), several_pixels()).filter(
        lambda config: config.group_folds == 1 and not any(config.window.crop[0])
    ))
    rows = config.window.course.output[0] // config.window.course.repeat[0]
    row_bits = sum(config.array.weight_widths)
    return replace(
        config, tile=draw(divisors(rows)), memory_latency=MEMORY_LATENCY,
        resident=draw(st.sampled_from([0, 0, draw(st.integers(0, config.channel_folds))])),
        # A word of the bus for every row at least, so that the memory is quick enough.
        axi=AxiConfig(data_bits=min(1 << max(6, (row_bits - 1).bit_length()), 1024)),
        burst=draw(st.sampled_from([1, 3, 4])),
    )


@given(tiled().filter(lambda config: sum(config.array.weight_widths) <= 1024), st.integers(0, 999))
@examples(35)
def test_tiles(config: FoldedConvConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(tiled(), st.sampled_from([32, 64, 128]), st.integers(0, 999), st.data())
@examples(25)
def test_tiles_under_stalls(
    config: FoldedConvConfig, data_bits: int, seed: int, data: st.DataObject
) -> None:
    """The memory may be slower than the multipliers, and rows have many words or share one."""
    config = replace(config, axi=AxiConfig(data_bits=data_bits))
    assert config.order is not None
    depth = data.draw(st.integers(config.order.tile_beats, config.least_depths[0] + 2))
    check_under_stalls(config, seed, depths=(depth,))


@given(convolutions() | transposed_convolutions() | several_pixels(), st.integers(0, 20),
       st.integers(0, 999), st.booleans())
@examples(20)
def test_even_pace(config: FoldedConvConfig, more: int, seed: int, stalls: bool) -> None:
    """Folds that are slower than they need be, whose cycles are exact."""
    window = config.window
    config = replace(config, fold_cycles=window.fold_cycles + more)
    assert config.window.fold_cycles == window.fold_cycles + more
    folds = config.group_folds * config.channel_folds
    assert config.interval == max(config.inputs[0].beats, config.window.windows * folds
                                  * (window.fold_cycles + more))
    assert config.resources().dsp == replace(config, fold_cycles=0).resources().dsp
    check_either(config, seed, stalls)


@given(convolutions() | several_pixels(), st.sampled_from([2, 4, 8, 11]),
       st.integers(0, 999), st.booleans())
@examples(20)
def test_lookup(config: FoldedConvConfig, bits: int, seed: int, stalls: bool) -> None:
    """A function of the results, in LUTs or in block memory."""
    random = np.random.default_rng(seed)
    q = Quantisation(0.3, 1, bits)
    values = random.integers(q.low, q.high + 1, 1 << config.op.output.bits)
    looked_up = replace(config, lookup=Table(values, q))
    assert looked_up.interval == config.interval
    assert looked_up.outputs[0].tensor.quantisation == q
    check_either(looked_up, seed, stalls)


@pytest.mark.parametrize("values", [np.zeros(8), np.zeros((4, 256))])
def test_lookup_that_does_not_fit(values: np.ndarray) -> None:
    conv = make_conv(Window((1, 1)), 2, 4)
    with pytest.raises(HwgenError, match=r"does not fit 8-bit codes|for all channels"):
        _ = FoldedConvConfig(
            op=conv, tensor=TensorType((2, 2, 2), Quantisation()), lookup=Table(values, conv.output)
        ).requantiser


@given(tiled().filter(lambda config: sum(config.array.weight_widths) <= 1024),
       st.integers(1, 20), st.integers(0, 999))
@examples(15)
def test_tiles_at_an_even_pace(config: FoldedConvConfig, more: int, seed: int) -> None:
    """Weights have longer to come, so that there may be fewer places for them."""
    slow = replace(config, fold_cycles=config.window.fold_cycles + more)
    assert config.weight_stream is not None
    assert slow.weight_stream is not None
    assert slow.weight_stream.ring_places <= config.weight_stream.ring_places
    assert slow.interval >= config.interval
    check_on_time(slow, seed)


@pytest.mark.parametrize("tile", [0, 2])
@pytest.mark.parametrize("fold_cycles, interval", [
    (0, 16 * 3 * 6), (6, 16 * 3 * 6), (11, 16 * 3 * 11),
])
def test_pace(tile: int, fold_cycles: int, interval: int) -> None:
    """Frames without a gap: an interval and no burst, for each fold has its cycles."""
    op = make_conv(Window((3, 3), (1, 1), ((1, 1), (1, 1))), 4, 6)
    config = FoldedConvConfig(
        op=op, tensor=TensorType((4, 4, 4), Quantisation(0.1, 3)), channel_lanes=2, tap_lanes=3,
        pe=2, lanes_out=2, fold_cycles=fold_cycles, tile=tile, memory_latency=MEMORY_LATENCY,
    )
    assert config.interval == interval
    arrivals = np.arange(3 * config.inputs[0].beats)
    schedule = config.schedule([arrivals])
    frames = np.random.default_rng(0).integers(-128, 128, (3, 4, 4, 4))
    run = simulate(replace(config, capacity=schedule.capacity).create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])
    np.testing.assert_array_equal(run.times["o"], schedule.outputs[0])
    last = run.times["o"].reshape(3, -1)[:, -1]
    assert (np.diff(last) == interval).all()
    if not tile:
        # Between the results of a frame that is all there are the cycles of a fold.
        assert (np.diff(run.times["o"].reshape(3, -1)[2]) == max(fold_cycles, 6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("weight_style", ["distributed", "block", "ultra"])
@pytest.mark.parametrize("window_style", ["", "ultra"])
def test_memories(weight_style: str, window_style: str) -> None:
    """The same values and times wherever weights and pixels are kept, but for its latency."""
    op = make_conv(Window((3, 3), (1, 1), ((1, 1), (1, 1))), 6, 10)
    config = FoldedConvConfig(
        op=op, tensor=TensorType((4, 4, 6), Quantisation(0.1, 3)), channel_lanes=3, tap_lanes=5,
        pe=4, lanes_out=2, weight_style=weight_style, window_style=window_style,
        styles=(window_style,),
    )
    assert bool(config.loads) == (weight_style == "ultra")
    check_on_time(config)
    check_under_stalls(config)


@given(convolutions(), st.integers(0, 999))
@examples(50)
def test_values_and_times(config: FoldedConvConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(convolutions(), st.integers(0, 999), st.data())
@examples(30)
def test_values_under_stalls(config: FoldedConvConfig, seed: int, data: st.DataObject) -> None:
    fold = int(config.fold_results.max()) // config.lanes_out
    depth = data.draw(st.integers(fold, config.least_depths[0] + 2))
    check_under_stalls(config, seed, depths=(depth,))


@given(transposed_convolutions(), st.integers(0, 999))
@examples(25)
def test_transposed_values_and_times(config: FoldedConvConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(transposed_convolutions(), st.integers(0, 999), st.data())
@examples(15)
def test_transposed_values_under_stalls(
    config: FoldedConvConfig, seed: int, data: st.DataObject
) -> None:
    fold = int(config.fold_results.max()) // config.lanes_out
    depth = data.draw(st.integers(fold, config.least_depths[0] + 2))
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize("kernel, stride, rows", [
    ((2, 2), (2, 2), 1), ((3, 3), (2, 2), 4), ((4, 4), (2, 2), 4), ((3,), (3,), 1), ((2,), (3,), 1),
])
def test_phases_share_the_multipliers(
    kernel: tuple[int, ...], stride: tuple[int, ...], rows: int
) -> None:
    """A phase takes only the taps that meet its pixels: a fraction of the kernel's."""
    op = ConvTranspose(**make_weights(kernel, 4, 6), stride=stride)
    spatial = (5,) * len(kernel)
    config = FoldedConvConfig(op=op, tensor=TensorType((*spatial, 4)), channel_lanes=2, pe=3)
    assert config.window.steps == 2 * rows
    assert config.interval == config.outputs[0].tensor.pixels * 2 * max(2 * rows, 3)
    assert config.weight_depth == np.prod(stride) * 2 * 2 * rows
    assert config.requantiser.sets == np.prod(stride)


@pytest.mark.parametrize("groups, group_lanes", [(1, 1), (6, 1), (6, 4)])
def test_full_speed_for_inputs_without_gaps(groups: int, group_lanes: int) -> None:
    op = make_conv(Window((3, 3), (1, 1), ((1, 1), (1, 0))), 6, 6, groups)
    config = FoldedConvConfig(
        op=op, tensor=TensorType((5, 6, 6), Quantisation(0.1, 3)), channel_lanes=1, tap_lanes=9,
        group_lanes=group_lanes, pe=1,
    )
    arrivals = np.arange(3 * config.inputs[0].beats)
    schedule = config.schedule([arrivals])
    config = replace(config, capacity=schedule.capacity)
    frames = np.random.default_rng(0).integers(-128, 128, (3, 5, 6, 6))
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])
    np.testing.assert_array_equal(run.times["o"], schedule.outputs[0])
    last = run.times["o"].reshape(3, -1)[:, -1]
    assert last[2] - last[1] == config.interval
    assert config.latency == run.times["o"][0]


def test_least_capacity_is_live_without_stalls() -> None:
    op = make_conv(Window((3, 3), (2, 1), ((1, 1), (2, 1))), 2, 3)
    config = FoldedConvConfig(op=op, tensor=TensorType((6, 5, 2), Quantisation(0.1, 3)), pe=2)
    check_under_stalls(config, stall=0)
    check_under_stalls(replace(config, capacity=config.window.least_capacity), stall=0.6)


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2)])
def test_fully_connected(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    size = int(np.prod(shape))
    output = Quantisation(0.1, -3)
    gemm = Gemm(random.integers(-127, 128, (5, size)), random.integers(-999, 999, 5),
                multipliers(5, 127 * 127 * np.sqrt(size), output, 0), output)
    tensor = TensorType(shape, Quantisation(0.1, 9))
    config = FoldedConvConfig(op=gemm.as_conv(tensor), tensor=tensor, pe=2, channel_lanes=2)
    check_on_time(config)
    check_under_stalls(config)
    x = random.integers(-128, 128, (2, *shape))
    np.testing.assert_array_equal(
        config.compute(x)[0].reshape(2, 5), gemm.evaluate([x], [tensor])[0]
    )


def test_weights_at_the_end_of_their_range() -> None:
    """Accumulators reach their bound: all weights and activations are -128."""
    output = Quantisation(0.1, -128)
    op = Conv(np.full((3, 3, 3, 5), -128), np.zeros(3), multipliers(3, 45 << 14, output, 0), output)
    config = FoldedConvConfig(
        op=op, tensor=TensorType((3, 3, 5)), channel_lanes=5, tap_lanes=9, pe=3,
    )
    frames = np.full((1, 3, 3, 5), -128)
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])


def test_a_dead_channel_stays_at_its_zero_point() -> None:
    """A channel whose scale is nearly nothing has the largest shift there is."""
    op = make_conv(Window((1, 1)), 2, 2)
    requantise = Requantise.from_scale([0.01, 1e-12])
    op = replace(op, requantise=requantise)
    config = FoldedConvConfig(op=op, tensor=TensorType((3, 3, 2), Quantisation(0.1, 3)), pe=2)
    check_on_time(config)
    frames = np.random.default_rng(0).integers(-128, 128, (1, 3, 3, 2))
    assert (config.compute(frames)[0][..., 1] == op.output.zero_point).all()


GOOD = {"op": make_conv(Window((3, 3)), 4, 6, 2), "tensor": TensorType((5, 5, 4))}


@pytest.mark.parametrize("wrong, message", [
    ({"tensor": TensorType((5, 5, 3))}, r"^Conv needs 4 input channels, not 3$"),
    ({"tensor": TensorType((2, 5, 4))}, r"^Window \(3, 3\) does not fit into \(2, 5\)$"),
    ({"channel_lanes": 3}, r"^Channel lanes must be between 1 and 2, not 3$"),
    ({"channel_lanes": 0}, r"^Channel lanes must be between 1 and 2, not 0$"),
    ({"pe": 4}, r"^Pe must be between 1 and 3, not 4$"),
    ({"pe": 0}, r"^Pe must be between 1 and 3, not 0$"),
    ({"group_lanes": 3}, r"^Group lanes must be between 1 and 2, not 3$"),
    ({"group_lanes": 2, "pe": 3},
     r"^Groups in parallel are taken whole: channel lanes 2 and pe 3, not 1 and 3$"),
    ({"pe": 2, "lanes_out": 2}, r"^Output lanes must divide the 1 results of a fold, not 2: "),
    ({"lanes_in": 3}, r"^Lanes must divide the 4 channels, not 3$"),
    ({"lanes_in": 2, "channel_lanes": 1},
     r"^Word lanes must be a multiple of the 2 input lanes and at most 2, not 1$"),
    ({"lanes_in": 4, "channel_lanes": 2}, r"^Segment must divide the channels and be a multiple"),
    ({"tap_lanes": 10}, r"^Tap lanes must be between 1 and 9, not 10$"),
    ({"capacity": 3}, r"^Capacity must be at least 13 sites, not 3$"),
    ({"lanes_out": 0}, r"^Output lanes must divide the 1 results of a fold, not 0: "),
])
def test_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        FoldedConvConfig(**{**GOOD, **wrong})


def test_depths_are_one_for_each_output() -> None:
    config = FoldedConvConfig(**GOOD, depths=(3, 3))
    with pytest.raises(HwgenError, match=r"^Depths must have 1 entries, not \(3, 3\)$"):
        _ = config.queue_depths


def test_resources_grow_with_the_folding() -> None:
    small = FoldedConvConfig(**GOOD)
    large = FoldedConvConfig(**GOOD, channel_lanes=2, tap_lanes=9, pe=3)
    alone = FoldedConvConfig(**GOOD, channel_lanes=2, tap_lanes=9, pe=3, products=1)
    requantiser = small.requantiser.resources().dsp
    assert small.resources().dsp == 1 + requantiser
    assert large.resources().dsp == 2 * 18 + requantiser
    assert alone.resources().dsp == 3 * 18 + requantiser
    assert small.interval == 9 * 18 * 6
    assert large.interval == max(100, 9 * 3 * 2)


@pytest.mark.slow
@pytest.mark.parametrize("bits, weight_bits, multiplier", [
    (16, 8, "dsp48e2"), (16, 9, "dsp48e1"), (16, 8, "mult18"), (8, 9, "dsp48e2"),
    (8, 9, "fabric"),
])
def test_wide_activations_and_weights_without_their_zero_point(bits, weight_bits, multiplier):
    quantisation = Quantisation(0.1, -3, bits)
    op = make_conv(Window((3, 3), (), ((1, 1), (1, 1))), 4, 6, input=quantisation,
                   output=quantisation, weight_bits=weight_bits)
    config = FoldedConvConfig(
        op=op, tensor=TensorType((5, 6, 4), quantisation), lanes_in=2, lanes_out=2,
        channel_lanes=4, tap_lanes=2, pe=4, multiplier=multiplier,
    )
    check_on_time(config)
    check_under_stalls(config)
