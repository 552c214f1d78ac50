"""MacColumn: dot products against numpy, on all corner values and at all chain lengths."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.blocks.base import pack_rows
from hwgen.blocks.mac import MacColumnConfig
from hwgen.blocks.requantise import signed_width
from hwgen.errors import HwgenError


def column(simd: int, outputs: int, activation_bits: int = 8, weight_bits: int = 8,
           weight_limit: int | None = None, sums: int = 1) -> MacColumnConfig:
    """A column whose accumulators hold ``sums`` sums."""
    limit = weight_limit or 1 << (weight_bits - 1)
    bound = sums * simd * limit << (activation_bits - 1)
    return MacColumnConfig(
        simd=simd, outputs=outputs, activation_bits=activation_bits, weight_bits=weight_bits,
        weight_limit=limit, acc_bits=signed_width(-bound, bound),
    )


def run_column(config: MacColumnConfig, x: np.ndarray, w: np.ndarray, add: np.ndarray,
               first: np.ndarray) -> np.ndarray:
    """Accumulators ``(cycles, outputs)``, as seen ``config.latency`` cycles after each input."""
    xs = pack_rows(x, config.activation_bits)
    ws = pack_rows(w.reshape(len(w), -1), config.weight_bits)
    dut = config.create()
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    seen = []

    async def drive(ctx) -> None:
        for n in range(len(xs) + config.latency):
            if n < len(xs):
                ctx.set(dut.x.as_value(), xs[n])
                ctx.set(dut.w.as_value(), ws[n])
            late = n - config.sum_latency
            if 0 <= late < len(xs):
                ctx.set(dut.add, int(add[late]))
                ctx.set(dut.first, int(first[late]))
            if n >= config.latency:
                seen.append([ctx.get(dut.acc[k]) for k in range(config.outputs)])
            await ctx.tick()

    simulator.add_testbench(drive)
    simulator.run()
    return np.array(seen)


def check_sums(config: MacColumnConfig, x: np.ndarray, w: np.ndarray) -> None:
    """Every cycle a sum of its own."""
    ones = np.ones(len(x), int)
    seen = run_column(config, x, w, ones, ones)
    np.testing.assert_array_equal(seen, np.einsum("nk,nok->no", x, w))


@pytest.mark.parametrize("bits", [(3, 3), (4, 3), (3, 4)])
def test_all_values_of_a_packed_product(bits: tuple[int, int]) -> None:
    config = column(1, 2, *bits)
    codes = [range(-(1 << (n - 1)), 1 << (n - 1)) for n in bits]
    every = np.array(list(product(codes[0], codes[1], codes[1])))
    check_sums(config, every[:, :1], every[:, 1:, None])


def test_all_corner_values_of_a_packed_product() -> None:
    corners = [-128, -127, -1, 0, 1, 127]
    every = np.array(list(product(corners, corners, corners)))
    check_sums(column(1, 2), every[:, :1], every[:, 1:, None])


@pytest.mark.parametrize("simd", [1, 2, 6, 7, 8, 13, 14, 15, 22])
def test_corner_values_in_all_lanes(simd: int) -> None:
    """The extremes of every field, and a borrow into the high one, at all chain lengths."""
    corners = [-128, -1, 0, 127]
    every = np.array(list(product(corners, corners, corners)))
    x = np.repeat(every[:, :1], simd, axis=1)
    check_sums(column(simd, 2), x, np.repeat(every[:, 1:, None], simd, axis=2))


@pytest.mark.parametrize("limit, chain", [(128, 7), (127, 8), (64, 15), (1, 20)])
def test_a_chain_is_as_long_as_the_low_field_allows(limit: int, chain: int) -> None:
    config = column(20, 2, weight_limit=limit)
    assert config.chain == chain
    x = np.array([[-128] * 20, [127] * 20] * 4)
    signs = np.array(list(product([-limit, limit - (limit == 128)], repeat=2)) * 2)
    check_sums(config, x, np.repeat(signs[:, :, None], 20, axis=2))


@given(st.integers(1, 19), st.integers(1, 2), st.integers(2, 9), st.integers(2, 8),
       st.integers(0, 999))
@settings(max_examples=40)
def test_accumulates(
    simd: int, outputs: int, activation_bits: int, weight_bits: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    cycles = 24
    config = column(simd, outputs, activation_bits, weight_bits, sums=cycles)
    ends = [(-(1 << (n - 1)), (1 << (n - 1)) - 1) for n in (activation_bits, weight_bits)]
    x = random.integers(ends[0][0], ends[0][1] + 1, (cycles, simd))
    w = random.integers(ends[1][0], ends[1][1] + 1, (cycles, outputs, simd))
    x = np.where(random.random(x.shape) < 0.4, random.choice(ends[0], x.shape), x)
    w = np.where(random.random(w.shape) < 0.4, random.choice(ends[1], w.shape), w)
    add, first = random.random(cycles) < 0.8, random.random(cycles) < 0.2
    seen = run_column(config, x, w, add, first)
    acc = np.zeros(outputs, int)
    for n in range(cycles):
        if add[n]:
            acc = acc * (not first[n]) + w[n] @ x[n]
        np.testing.assert_array_equal(seen[n], acc)


def test_wide_activations_have_a_multiplier_each() -> None:
    config = column(3, 1, activation_bits=16)
    every = np.array(list(product([-32768, -1, 32767], [-128, 127])))
    check_sums(config, np.repeat(every[:, :1], 3, axis=1), np.repeat(every[:, 1:, None], 3, axis=2))


@pytest.mark.parametrize("wrong, message", [
    ({"simd": 0}, r"^Simd must be positive, not 0$"),
    ({"outputs": 3}, r"^A column has 1 or 2 outputs, not 3$"),
    ({"activation_bits": 10}, r"^Two products share a multiplier at .* not 8 and 10 bits$"),
    ({"weight_bits": 9}, r"^Two products share a multiplier .* not 9 and 8 bits$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    good = {"simd": 2, "outputs": 2, "activation_bits": 8, "weight_bits": 8, "weight_limit": 127,
            "acc_bits": 20}
    with pytest.raises(HwgenError, match=message):
        MacColumnConfig(**{**good, **wrong})


def test_one_dsp_for_each_product_or_pair() -> None:
    assert column(5, 1).resources("ultrascale+").dsp == 5
    assert column(5, 2).resources("ultrascale+").dsp == 5
