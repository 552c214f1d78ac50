"""Every op against a slow implementation, element by element."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.errors import HwgenError
from hwgen.ir import (
    Add,
    ArgMax,
    AveragePool,
    ChannelMax,
    Concat,
    Conv,
    ConvTranspose,
    Extremum,
    GatherChannels,
    Gemm,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Mul,
    Pad,
    Quantisation,
    Rearrange,
    Requantise,
    Reshape,
    Resize,
    Split,
    Table,
    TensorType,
    Window,
    requantise,
)
from tests.profiles import examples

Q = Quantisation(0.1, 3)


@st.composite
def windows(draw):
    """Spatial extents and a window that fits, in one to three dimensions; any pads, dilation."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    stride = [draw(st.integers(1, 3)) for _ in range(rank)]
    dilation = [draw(st.integers(1, 2)) for _ in range(rank)]
    pads = [tuple(draw(st.integers(-1, k + 1)) for _ in range(2)) for k in kernel]
    spatial = [max((k - 1) * d + 1 - sum(p), 1) + draw(st.integers(0, 3))
               for k, d, p in zip(kernel, dilation, pads)]
    return spatial, Window(tuple(kernel), tuple(stride), tuple(pads), tuple(dilation))


def slow_windows(x, window):
    """(output position, [(tap, pixel or None)]) for one frame."""
    spatial = x.shape[:-1]
    kernel, stride, pads = window.kernel, window.stride, window.pads
    extents = [(n + sum(p) - (k - 1) * d - 1) // s + 1
               for n, k, s, p, d in zip(spatial, kernel, stride, pads, window.dilation)]
    for position in np.ndindex(*extents):
        taps = []
        for tap in product(*map(range, kernel)):
            at = [o * s + t * d - p[0]
                  for o, s, t, p, d in zip(position, stride, tap, pads, window.dilation)]
            inside = all(0 <= a < n for a, n in zip(at, spatial))
            taps.append((tap, x[tuple(at)].astype(int) if inside else None))
        yield position, taps


@examples(60)
@given(windows(), st.sampled_from([(1, 3, 2), (2, 2, 3), (4, 1, 1), (3, 1, 2)]), st.integers(0, 99))
def test_conv(window, channels, seed):
    spatial, window = window
    groups, cin, cout = channels
    random = np.random.default_rng(seed)
    weight = random.integers(-127, 128, (groups * cout, *window.kernel, cin))
    bias = random.integers(-500, 500, groups * cout)
    scale = Requantise.from_scale(random.uniform(0.001, 0.01, groups * cout))
    op = Conv(weight, bias, scale, Q, window.stride, window.pads, groups,
              dilation=window.dilation)
    type = TensorType((*spatial, groups * cin), Quantisation(0.1, -7))
    x = random.integers(-128, 128, (2, *type.shape)).astype(np.int8)
    (got,) = op.evaluate([x], [type])
    (out,) = op.infer(type)
    assert got.shape == (2, *out.shape)
    low, high = op.accumulator_range(type)
    for frame in range(2):
        for position, taps in slow_windows(x[frame], window):
            for channel in range(groups * cout):
                group = channel // cout
                acc = int(bias[channel])
                for tap, pixel in taps:
                    values = [-7] * cin if pixel is None else pixel[group * cin:(group + 1) * cin]
                    acc += int(np.dot(weight[channel][tap], values))
                assert low <= acc <= high
                want = requantise(np.array(acc), scale.multiplier[channel], scale.shift[channel], Q)
                assert got[(frame, *position, channel)] == want


@examples(80)
@given(st.data(), st.integers(1, 3), st.integers(0, 99))
def test_transposed_convolution_and_its_phases(data, groups, seed):
    """As a sum over input pixels; and as hardware sees it, phase by phase over windows."""
    rank = data.draw(st.integers(1, 2))
    kernel = [data.draw(st.integers(1, 5)) for _ in range(rank)]
    stride = [data.draw(st.integers(1, 4)) for _ in range(rank)]
    pads = [(data.draw(st.integers(-2, k)), data.draw(st.integers(-3, k))) for k in kernel]
    spatial = [max(-(-(sum(p) - k + 1) // s) + 1, 1) + data.draw(st.integers(0, 3))
               for k, s, p in zip(kernel, stride, pads)]
    random = np.random.default_rng(seed)
    weight = random.integers(-8, 8, (2 * groups, *kernel, 2))
    op = ConvTranspose(weight, random.integers(-50, 50, 2 * groups),
                       Requantise.from_scale([0.1] * 2 * groups), Q, tuple(stride), tuple(pads),
                       groups)
    type = TensorType((*spatial, 2 * groups), Q)
    x = random.integers(-128, 128, (1, *type.shape))
    got = op.accumulators(x, type)
    (out,) = op.infer(type)
    assert got.shape == (1, *out.shape)
    slow = np.zeros(got.shape[1:], int) + op.bias
    for i in np.ndindex(*spatial):
        for tap in product(*map(range, kernel)):
            o = tuple(s * n + k - p[0] for s, n, k, p in zip(stride, i, tap, pads))
            if all(0 <= n < m for n, m in zip(o, out.spatial)):
                pixel = x[(0, *i)].reshape(groups, 1, 2) - Q.zero_point
                part = (weight[(slice(None), *tap)].reshape(groups, 2, 2) * pixel).sum(-1)
                slow[o] += part.ravel()
    np.testing.assert_array_equal(got[0], slow)
    grid = np.zeros((*(n * r for n, r in zip(op.window.output(spatial), op.repeat)), 2 * groups),
                    int)
    views = op.window.views(x, Q.zero_point)
    for phase, position in enumerate(product(*map(range, op.repeat))):
        flat = op.kernels[phase].reshape(groups, 2, op.window.taps, 2)
        acc = np.sum([
            np.einsum("...gi,goi->...go", view.reshape(*view.shape[:-1], groups, 2), flat[:, :, k])
            for k, view in enumerate(views)
        ], axis=0).reshape(*views[0].shape[:-1], -1) + op.biases(type)[phase]
        grid[tuple(slice(p, None, r) for p, r in zip(position, op.repeat))] = acc[0]
    assert all(0 <= n < r for cut, r in zip(op.crop, op.repeat) for n in cut)
    cut = tuple(slice(a, n - b) for (a, b), n in zip(op.crop, grid.shape))
    np.testing.assert_array_equal(grid[cut], slow)
    low, high = op.accumulator_range(type)
    assert low <= slow.min()
    assert slow.max() <= high


@pytest.mark.parametrize("bits, cin", [(8, 1032), (8, 1033), (12, 80), (16, 9), (16, 3000)])
def test_accumulators_are_exact_at_their_worst_case(bits, cin):
    """Around 2**24, where float32 stops counting, and far beyond."""
    type = TensorType((1, cin), Quantisation(1.0, 0, bits))
    weight = np.full((2, 1, cin), -127)
    weight[1, 0, 0] = 126
    x = np.full((1, 1, cin), type.quantisation.low)
    x[0, 0, -1] += 1
    op = Conv(weight, [1, -1], Requantise.from_scale([0.1, 0.1]), Quantisation(1.0, 0, 16))
    want = [sum(int(w) * int(v) for w, v in zip(row, x.ravel())) for row in weight[:, 0]]
    assert op.accumulators(x.astype(np.int16), type).ravel().tolist() == [want[0] + 1, want[1] - 1]
    low, high = op.accumulator_range(type)
    assert high == 127 * cin * -type.quantisation.low + 1
    assert low == -127 * cin * type.quantisation.high


def test_an_accumulator_too_wide_to_requantise_is_refused():
    op = Conv(np.ones((1, 1, 1)), [1 << 47], Requantise.from_scale(0.9), Q)
    with pytest.raises(HwgenError, match="overflow their requantisation"):
        op.evaluate([np.zeros((1, 1, 1), np.int8)], [TensorType((1, 1))])


@examples(40)
@given(windows(), st.integers(0, 99))
def test_pools(window, seed):
    spatial, window = window
    random = np.random.default_rng(seed)
    type = TensorType((*spatial, 2), Q)
    x = random.integers(-128, 128, (1, *type.shape)).astype(np.int8)
    geometry = window.stride, window.pads
    (largest,) = MaxPool(window.kernel, *geometry, window.dilation).evaluate([x], [type])
    scale = Requantise.from_scale(0.3)
    average = AveragePool(window.kernel, scale, Q, *geometry, dilation=window.dilation)
    (mean,) = average.evaluate([x], [type])
    scales = Requantise.from_scale(1 / np.arange(1, window.taps + 1))
    inner = AveragePool(window.kernel, scales, Q, *geometry, False, window.dilation)
    (inner_mean,) = inner.evaluate([x], [type])
    for position, taps in slow_windows(x[0], window):
        real = np.array([p for _, p in taps if p is not None]).reshape(-1, 2)
        assert (largest[(0, *position)] == real.max(0, initial=-128)).all()
        sums = (real - Q.zero_point).sum(0)
        want = requantise(sums, scale.multiplier, scale.shift, Q)
        assert (mean[(0, *position)] == want).all()
        k = max(len(real), 1) - 1
        want = requantise(sums, scales.multiplier[k], scales.shift[k], Q)
        assert (inner_mean[(0, *position)] == want).all()


def test_global_average_pool_and_gemm():
    random = np.random.default_rng(0)
    type = TensorType((3, 4, 5), Q)
    x = random.integers(-128, 128, (2, 3, 4, 5)).astype(np.int8)
    op = GlobalAveragePool(Requantise.from_scale(1 / 12), Q)
    assert op.infer(type)[0].shape == (1, 1, 5)
    mean = (x.astype(int) - 3).sum((1, 2)) / 12
    assert abs(op.evaluate([x], [type])[0][:, 0, 0] - 3 - mean).max() <= 0.51
    weight = random.integers(-127, 128, (7, 60))
    bias = random.integers(-99, 99, 7)
    gemm = Gemm(weight, bias, Requantise.from_scale(np.full(7, 0.001)), Q)
    assert gemm.infer(type)[0].shape == (7,)
    want = gemm.requantise.apply(x.reshape(2, -1).astype(int) @ weight.T + bias, Q)
    assert (gemm.evaluate([x], [type])[0] == want).all()
    assert gemm.macs(type) == 420


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(-128, 127))
def test_add_is_near_the_real_sum(scale_a, scale_b, zero):
    a, b = Quantisation(scale_a, 5), Quantisation(scale_b, -9)
    output = Quantisation(scale_a + scale_b, zero)
    op = Add.from_types(a, b, output)
    codes = np.arange(-128, 128, dtype=np.int8)
    x, y = codes[None], codes[::-1][None]
    (got,) = op.evaluate([x, y], [TensorType((256,), a), TensorType((256,), b)])
    real = (x.astype(int) - 5) * scale_a + (y.astype(int) + 9) * scale_b
    want = np.clip(real / output.scale + zero, -128, 127)
    assert abs(got - want).max() < 0.51


def test_concat_split_resize_table():
    random = np.random.default_rng(0)
    x = random.integers(-128, 128, (1, 2, 3, 4)).astype(np.int8)
    type = TensorType((2, 3, 4), Q)
    parts = Split((1, 3)).evaluate([x], [type])
    assert [p.shape[-1] for p in parts] == [1, 3]
    assert (Concat().evaluate(parts, Split((1, 3)).infer(type))[0] == x).all()
    (big,) = Resize((2, 3)).evaluate([x], [type])
    for i, j in np.ndindex(4, 9):
        assert (big[0, i, j] == x[0, i // 2, j // 3]).all()
    table = Table.from_function(np.tanh, Q, Quantisation(1 / 127, 0))
    (y,) = table.evaluate([x], [type])
    assert (y == np.rint(np.tanh((x.astype(int) - 3) * 0.1) * 127)).all()


def test_mul_and_argmax():
    random = np.random.default_rng(0)
    a, b = TensorType((4, 5), Quantisation(0.1, 3)), TensorType((4, 5), Quantisation(0.2, -5))
    x, y = (random.integers(-128, 128, (2, 4, 5)).astype(np.int8) for _ in range(2))
    op = Mul(Requantise.from_scale(0.1 * 0.2 / 0.5), Quantisation(0.5))
    (got,) = op.evaluate([x, y], [a, b])
    real = (x.astype(int) - 3) * 0.1 * (y.astype(int) + 5) * 0.2
    assert abs(got - np.clip(real / 0.5, -128, 127)).max() < 0.51
    x[0, 0] = 7
    (which,) = ArgMax().evaluate([x], [a])
    assert which.shape == (2, 4, 1)
    assert which[0, 0, 0] == 0
    assert (which[..., 0] == x.argmax(-1)).all()
    assert ArgMax().infer(TensorType((1000,)))[0].bits == 11


def test_channel_max():
    type = TensorType((4, 5, 6), Q)
    x = np.random.default_rng(0).integers(-128, 128, (2, 4, 5, 6)).astype(np.int8)
    (y,) = ChannelMax().evaluate([x], [type])
    assert (y[..., 0] == x.max(-1)).all()
    assert ChannelMax().infer(type) == (TensorType((4, 5, 1), Q),)


def test_extremum():
    random = np.random.default_rng(0)
    type = TensorType((4, 5), Q)
    x, y = (random.integers(-128, 128, (2, 4, 5)).astype(np.int8) for _ in range(2))
    assert (Extremum().evaluate([x, y], [type, type])[0] == np.maximum(x, y)).all()
    assert (Extremum(smaller=True).evaluate([x, y], [type, type])[0] == np.minimum(x, y)).all()
    assert Extremum().infer(type, type) == (type,)


def test_rearrange():
    type = TensorType((4, 5, 6), Q)
    x = np.random.default_rng(0).integers(-128, 128, (2, 4, 5, 6)).astype(np.int8)
    order = np.arange(120).reshape(4, 5, 6).transpose(2, 0, 1)
    op = Rearrange(order)
    (y,) = op.evaluate([x], [type])
    assert (y == x.transpose(0, 3, 1, 2)).all()
    assert op.infer(type) == (TensorType((6, 4, 5), Q),)
    assert op.run(type) == 1
    assert Rearrange(order.transpose(1, 2, 0)[::-1]).run(type) == 6
    # Halves of a pixel's channels are exchanged.
    halves = np.arange(120).reshape(4, 5, 2, 3)[:, :, ::-1].reshape(4, 5, 6)
    assert Rearrange(halves).run(type) == 3


def test_moves():
    random = np.random.default_rng(0)
    type = TensorType((4, 5, 3), Q)
    x = random.integers(-128, 128, (2, 4, 5, 3)).astype(np.int8)
    (chosen,) = GatherChannels((2, 0, 0)).evaluate([x], [type])
    assert (chosen == x[..., [2, 0, 0]]).all()
    op = Pad(((1, -1), (-2, 2)), 9, (2, 1))
    (padded,) = op.evaluate([x], [type])
    assert padded.shape[1:] == op.infer(type)[0].shape == (2, 5, 3)
    assert (padded[:, 0] == 9).all()
    assert (padded[:, 1, :3] == x[:, 1, 2:]).all()
    (edged,) = Pad(((1, 0), (0, 2))).evaluate([x], [type])
    assert (edged[:, 0, 5:] == x[:, :1, -1]).all()
    (flat,) = Reshape((60,)).evaluate([x], [type])
    assert (flat == x.reshape(2, 60)).all()
    (most,) = GlobalMaxPool().evaluate([x], [type])
    assert (most[:, 0, 0] == x.max((1, 2))).all()
    table = Table(random.integers(-128, 128, (3, 256)), Q)
    (y,) = table.evaluate([x], [type])
    assert all((y[..., c] == table.values[c, x[..., c].astype(int) + 128]).all() for c in range(3))


@pytest.mark.parametrize("make, message", [
    (lambda: GatherChannels((0, 5)).infer(TensorType((2, 3))), "no channel 5 among 3"),
    (lambda: Rearrange(np.array([[0, 6]])).infer(TensorType((2, 3))), "no element 6 among 6"),
    (lambda: Rearrange(np.array([[0, -1]])), "numbers that are not negative"),
    (lambda: Rearrange(np.array([[0.5]])), "whole numbers"),
    (lambda: Pad(((1, 1),), 300).infer(TensorType((2, 3))), "Fill must be within"),
    (lambda: Reshape((5,)).infer(TensorType((2, 3))), "does not hold the 6 elements"),
    (lambda: Table(np.zeros((2, 256)), Q).infer(TensorType((2, 3))), "2 channels does not fit 3"),
    (lambda: Mul(Requantise.from_scale([1.0, 1.0]), Q), "needs one multiplier, not 2"),
    (lambda: AveragePool((2, 2), Requantise.from_scale(1.0), Q, count_include_pad=False),
     "needs 4 multipliers, not 1"),
    (lambda: ConvTranspose(np.ones((1, 2, 1)), [0], Requantise.from_scale(0.1), Q, (1,),
                           ((3, 3),)).infer(TensorType((2, 1))), "leave nothing of the output"),
    (lambda: MaxPool((2, 2), pads=((-2, -1), (0, 0))).infer(TensorType((4, 4, 1))), "does not fit"),
    (lambda: MaxPool((2, 2), dilation=(0, 1)), "must be positive"),
    (lambda: MaxPool((2,), (1, 1)), "must have one rank"),
    (lambda: MaxPool((9, 9)).infer(TensorType((4, 4, 1))), "does not fit"),
    (lambda: MaxPool((2,)).infer(TensorType((4, 4, 1))), "as many spatial dimensions"),
    (lambda: Split((1, 1)).infer(TensorType((4, 4, 3))), "does not add up to 3"),
    (lambda: Resize((2,)).infer(TensorType((4, 4, 3))), "does not fit spatial"),
    (lambda: Table(np.zeros(7), Q), "Table must have 4..65536 entries"),
    (lambda: Table(np.full(256, 128), Q), "must fit 8 signed bits"),
    (lambda: Table(np.zeros(16), Q).infer(TensorType((4,))), "does not fit 8-bit codes"),
    (lambda: Concat().infer(TensorType((2, 2)), TensorType((2, 2), Q)), "equal spatial extents"),
    (lambda: Add((1, 1 << 17), 3, Q), r"below 2\*\*17"),
    (lambda: Add.from_types(Q, Q, Q).infer(TensorType((2, 2)), TensorType((2, 3))), "one shape"),
    (lambda: Conv(np.full((1, 1, 1), 9), [0], Requantise.from_scale(0.1), Q, weight_bits=4),
     "must fit 4 signed bits"),
    (lambda: Conv(np.zeros((2, 1, 1)), [0], Requantise.from_scale(0.1), Q), "must have 2 entries"),
    (lambda: Conv(np.zeros((1, 1, 2)), [0], Requantise.from_scale(0.1), Q).infer(
        TensorType((4, 3))), "needs 2 input channels"),
    (lambda: Conv(np.full((1, 1, 1), 65537), [0], Requantise.from_scale(0.1), Q),
     "must fit 8 signed bits"),
    (lambda: Conv(np.full((1, 1, 1), 0.5), [0], Requantise.from_scale(0.1), Q),
     "Weights must be whole numbers"),
    (lambda: Conv(np.ones((1, 1, 1)), [0.5], Requantise.from_scale(0.1), Q),
     "Biases must be whole numbers"),
    (lambda: Conv(np.ones(3), np.zeros(3), Requantise.from_scale(np.ones(3)), Q),
     r"must be \(Cout, \*kernel, Cin\)"),
    (lambda: Gemm(np.full((1, 1), 65537), [0], Requantise.from_scale(0.1), Q),
     "must fit 8 signed bits"),
    (lambda: Table(np.full(4, 0.5), Q), "Table values must be whole numbers"),
    (lambda: TensorType(()), "positive extents"),
    (lambda: TensorType((0, 3)), "positive extents"),
    (lambda: Quantisation(0.0), "Scale must be positive"),
    (lambda: Quantisation(1.0, 300), "Zero point must be within"),
    (lambda: Quantisation(1.0, 0, 1), "Bit width"),
])
def test_refusals(make, message):
    with pytest.raises(HwgenError, match=message):
        make()
