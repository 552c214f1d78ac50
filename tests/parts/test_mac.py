"""MAC arrays: sums against numpy, on all corner values, for every multiplier and packing."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.device.arithmetic import signed_width
from hwgen.device.multiplier import MULTIPLIERS, Packing
from hwgen.errors import HwgenError
from hwgen.parts.mac import MacArrayConfig
from hwgen.parts.stream import pack_rows
from tests.profiles import examples
from tests.typed import ports

PRECISIONS = [(8, 127), (8, 128), (8, 7), (5, 15), (4, 7), (2, 1)]
"""Activation bits and largest weight."""


def array(simd: int, pe: int, activation_bits: int = 8, weight_limit: int = 127, *,
          multiplier: str = "dsp48e2", products: int = 0, groups: int = 1,
          sums: int = 1) -> MacArrayConfig:
    """An array whose accumulators hold ``sums`` sums; ``products`` 0: as many as fit."""
    bits = signed_width(-weight_limit, min(weight_limit, 127))
    key = multiplier, activation_bits, bits, weight_limit
    packing = Packing(key[0], products, *key[1:]) if products else Packing.densest(*key)
    bound = packing.bound(sums * simd)
    return MacArrayConfig(simd=simd, pe=pe, groups=groups, packing=packing,
                          acc_bits=signed_width(-bound, bound))


def run_array(config: MacArrayConfig, x: np.ndarray, w: np.ndarray, add: np.ndarray,
              first: np.ndarray) -> np.ndarray:
    """Accumulators ``(cycles, groups * pe)``, ``config.latency`` cycles after each input."""
    xs = pack_rows(x.reshape(len(x), -1), config.x_bits)
    ws = [pack_rows(words, config.w_bits) for words in config.weight_words(w)]
    dut = ports(config.create())
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    seen = []

    async def drive(ctx) -> None:
        for n in range(len(xs) + config.latency):
            if n < len(xs):
                ctx.set(dut.x.as_value(), xs[n])
            for k, (skew, words) in enumerate(zip(config.skews, ws, strict=True)):
                if 0 <= n - skew < len(words):
                    ctx.set(getattr(dut, f"w_{k}"), words[n - skew])
            late = n - config.sum_latency
            if 0 <= late < len(xs):
                ctx.set(dut.add, int(add[late]))
                ctx.set(dut.first, int(first[late]))
            if n >= config.latency:
                seen.append([ctx.get(acc) for acc in dut.acc])
            await ctx.tick()

    simulator.add_testbench(drive)
    simulator.run()
    return np.array(seen)


def check_sums(config: MacArrayConfig, x: np.ndarray, w: np.ndarray) -> None:
    """Every cycle a sum of its own: ``x`` is ``(cycles, simd)``, ``w`` ``(cycles, pe, simd)``."""
    ones = np.ones(len(x), int)
    seen = run_array(config, x, w, ones, ones)
    np.testing.assert_array_equal(seen, np.einsum("nk,nok->no", x, w))


def corners(bits: int, limit: int) -> tuple[list[int], list[int]]:
    """Extreme activations and weights, and those around zero."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return [low, -1, 0, high], sorted({-limit, -1, 0, 1, min(limit, 127)})


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("bits, limit", [(3, 3), (4, 1)])
def test_all_values_of_a_product(multiplier: str, bits: int, limit: int) -> None:
    products = Packing.densest(multiplier, bits, 4, limit).products
    config = array(1, min(products, 3), bits, limit, multiplier=multiplier)
    codes = range(-(1 << (bits - 1)), 1 << (bits - 1))
    every = np.array(list(product(codes, *[range(-limit, limit + 1)] * config.pe)))
    check_sums(config, every[:, :1], every[:, 1:, None])


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("bits, limit", PRECISIONS)
def test_all_corners_of_a_product(multiplier: str, bits: int, limit: int) -> None:
    """Every combination of extremes in the fields of one multiplier."""
    products = Packing.densest(multiplier, bits, 8, limit).products
    config = array(1, min(products, 4), bits, limit, multiplier=multiplier)
    xs, ws = corners(bits, limit)
    every = np.array(list(product(xs, *[ws] * config.pe)))
    check_sums(config, every[:, :1], every[:, 1:, None])


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", MULTIPLIERS)
@pytest.mark.parametrize("bits, limit", PRECISIONS)
@pytest.mark.parametrize("simd", [2, 3, 8, 17, 33])
def test_corners_in_all_lanes(multiplier: str, bits: int, limit: int, simd: int) -> None:
    """Sums at their extremes in every field, at all chain lengths, and random sums."""
    products = Packing.densest(multiplier, bits, 8, limit).products
    config = array(simd, products + 1, bits, limit, multiplier=multiplier)
    random = np.random.default_rng(simd)
    xs, ws = corners(bits, limit)
    x = np.array([xs[0], xs[-1]] * 40)[:, None].repeat(simd, axis=1)
    w = random.choice([ws[0], ws[-1]], (80, config.pe, 1)).repeat(simd, axis=2)
    some_x = random.choice(xs, (60, simd))
    some_w = random.choice(ws, (60, config.pe, simd))
    check_sums(config, np.concatenate([x, some_x]), np.concatenate([w, some_w]))


@pytest.mark.slow
@pytest.mark.parametrize("multiplier, bits, limit, products, field, chain", [
    ("dsp48e2", 8, 127, 2, 19, 16),
    ("dsp48e2", 8, 128, 2, 18, 7),
    ("dsp48e2", 8, 7, 3, 11, 2),
    ("dsp48e2", 5, 15, 3, 11, 8),
    ("dsp48e2", 4, 7, 4, 7, 2),
    ("dsp48e1", 8, 127, 2, 17, 8),
    ("dsp48e1", 4, 7, 4, 7, 2),
    ("mult18", 8, 127, 1, 18, 64),
    ("mult18", 4, 7, 3, 7, 2),
    ("mult18", 8, 7, 2, 14, 8),
    ("fabric", 8, 127, 1, 18, 64),
])
def test_chains_are_as_long_as_fields_allow(
    multiplier: str, bits: int, limit: int, products: int, field: int, chain: int
) -> None:
    config = array(64, products, bits, limit, multiplier=multiplier)
    column = config.columns[0]
    assert (config.packing.products, config.packing.field, column.chain) == (products, field, chain)
    signs = np.random.default_rng(0).choice([-limit, min(limit, 127)], (24, products, 1))
    x = np.array([[-(1 << (bits - 1))] * 64, [(1 << (bits - 1)) - 1] * 64] * 12)
    check_sums(config, x, signs.repeat(64, axis=2))


@given(st.sampled_from(sorted(MULTIPLIERS)), st.integers(1, 35), st.integers(1, 6),
       st.integers(1, 2), st.integers(2, 9), st.integers(1, 127), st.integers(0, 999))
@examples(35)
def test_accumulates(
    multiplier: str, simd: int, pe: int, groups: int, bits: int, limit: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    cycles = 24
    config = array(simd, pe, bits, limit, multiplier=multiplier, groups=groups, sums=cycles)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    x = random.integers(low, high + 1, (cycles, groups, simd))
    w = random.integers(-limit, limit + 1, (cycles, groups, pe, simd))
    x = np.where(random.random(x.shape) < 0.4, random.choice([low, high], x.shape), x)
    w = np.where(random.random(w.shape) < 0.4, random.choice([-limit, limit], w.shape), w)
    add, first = random.random(cycles) < 0.8, random.random(cycles) < 0.2
    seen = run_array(config, x, w.reshape(cycles, groups * pe, simd), add, first)
    acc = np.zeros((groups, pe), int)
    for n in range(cycles):
        if add[n]:
            acc = acc * (not first[n]) + np.einsum("gk,gok->go", x[n], w[n])
        np.testing.assert_array_equal(seen[n], acc.ravel())


@given(st.sampled_from(sorted(MULTIPLIERS)), st.integers(1, 20), st.integers(1, 3),
       st.integers(1, 3), st.integers(1, 5), st.sampled_from([(8, 127), (8, 128), (4, 8), (4, 7)]),
       st.sampled_from(["activation", "weight"]), st.integers(0, 999))
@examples(35)
def test_several_pixels(
    multiplier: str, simd: int, pe: int, groups: int, pixels: int, precision: tuple[int, int],
    shared: str, seed: int,
) -> None:
    """Pixels side by side share the weights, and with them perhaps the multipliers."""
    random = np.random.default_rng(seed)
    bits, limit = precision
    half, cycles = 1 << (bits - 1), 12
    key = (bits, bits, half) if shared == "weight" else (bits, bits, limit)
    packing = Packing.densest(multiplier, *key)
    config = MacArrayConfig(
        simd=simd, pe=pe, groups=groups, pixels=pixels, shared=shared, packing=packing,
        acc_bits=signed_width(0, cycles * simd * half * half),
    )
    x = random.choice([-half, -1, 0, 1, half - 1], (cycles, pixels, groups, simd))
    w = random.choice([-limit, -1, 0, 1, min(limit, half - 1)], (cycles, groups, pe, simd))
    add, first = random.random(cycles) < 0.8, random.random(cycles) < 0.3
    seen = run_array(config, x, w.reshape(cycles, groups * pe, simd), add, first)
    acc = np.zeros((pixels, groups, pe), int)
    for n in range(cycles):
        if add[n]:
            acc = acc * (not first[n]) + np.einsum("pgk,gok->pgo", x[n], w[n])
        np.testing.assert_array_equal(seen[n], acc.ravel())


@pytest.mark.parametrize("shared, pixels, dsp", [
    ("activation", 1, 9), ("activation", 2, 18), ("weight", 2, 9), ("weight", 3, 18),
])
def test_depthwise_pixels_share_multipliers(shared: str, pixels: int, dsp: int) -> None:
    key = (8, 8, 128) if shared == "weight" else (8, 8, 127)
    config = MacArrayConfig(simd=9, pe=1, pixels=pixels, shared=shared, acc_bits=24,
                            packing=Packing.densest("dsp48e2", *key))
    assert config.resources().dsp == dsp


def test_wide_activations_have_a_multiplier_each() -> None:
    config = array(3, 2, activation_bits=16)
    assert config.packing.products == 1
    every = np.array(list(product([-32768, -1, 32767], [-127, 127])))
    x = np.repeat(every[:, :1], 3, axis=1)
    check_sums(config, x, np.repeat(every[:, 1:, None], 3, axis=2).repeat(2, axis=1))


@pytest.mark.parametrize("wrong, message", [
    ({"simd": 0}, r"^simd must be positive, not 0$"),
    ({"products": 3}, r"^3 products of 8-bit activations .* do not fit a dsp48e2$"),
    ({"products": -1}, r"^Products must be positive, not -1$"),
    ({"multiplier": "dsp58", "products": 1}, r"^Multiplier must be one of .*, not 'dsp58'$"),
    ({"multiplier": "fabric", "products": 2}, r"^2 products .* do not fit a fabric$"),
    ({"activation_bits": 19}, r"^1 products of 19-bit activations .* do not fit a dsp48e2$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        array(**{"simd": 2, "pe": 2, **wrong})


@pytest.mark.parametrize("multiplier, bits, limit, dsp", [
    ("dsp48e2", 8, 127, 128), ("dsp48e2", 8, 7, 96), ("dsp48e2", 4, 7, 64),
    ("dsp48e1", 8, 127, 128), ("mult18", 8, 127, 256), ("fabric", 8, 127, 0),
])
def test_multipliers_of_an_array(multiplier: str, bits: int, limit: int, dsp: int) -> None:
    assert array(16, 16, bits, limit, multiplier=multiplier).resources().dsp == dsp
