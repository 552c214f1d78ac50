"""FoldedConv: values and times over foldings, groups, dimensions and widths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwgen.blocks.conv import FoldedConvConfig
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Gemm, Quantisation, TensorType
from hwgen.ir.ops import Window
from tests.blocks.checks import (
    check_block,
    check_on_time,
    check_under_stalls,
    divisors,
    multipliers,
    quantisations,
    windows,
)

LONGEST = 500
"""Cycles a frame that a random case may take."""


def make_conv(
    window: Window, cin: int, cout: int, groups: int = 1, *, input: Quantisation | None = None,
    output: Quantisation | None = None, weight_bits: int = 8, seed: int = 0,
) -> Conv:
    """A convolution with random weights, some at the ends of their range."""
    random = np.random.default_rng(seed)
    input, output = input or Quantisation(0.1, 3), output or Quantisation(0.1, -7)
    low, high = -(1 << (weight_bits - 1)), (1 << (weight_bits - 1)) - 1
    shape = (cout, *window.kernel, cin // groups)
    weight = random.integers(low, high + 1, shape)
    weight = np.where(random.random(shape) < 0.3, random.choice([low, high], shape), weight)
    spread = np.sqrt(weight[0].size) * high * input.high
    bias = random.integers(-int(spread), int(spread) + 1, cout)
    return Conv(
        weight, bias, multipliers(cout, spread, output, seed), output, window.stride, window.pads,
        groups, weight_bits,
    )


@st.composite
def convolutions(draw: st.DrawFn) -> FoldedConvConfig:
    """Any convolution and folding that is small enough to simulate."""
    dims = draw(st.integers(0, 3))
    largest, pixels = {0: (1, 1), 1: (6, 24), 2: (6, 40), 3: (3, 40)}[dims]
    window, spatial = draw(windows(dims, largest, 36, pixels))
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
    op = make_conv(
        window, cin * groups, cout * groups, groups, input=input, output=output,
        weight_bits=draw(st.integers(4, 8)), seed=draw(st.integers(0, 999)),
    )
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
        "group_lanes": group_lanes, "pe": pe, "pack": draw(st.booleans()),
    }
    tensor = TensorType((*spatial, cin * groups), input)
    least = FoldedConvConfig(op=op, tensor=tensor, tap_lanes=window.taps, **folding)
    taps = [
        n for n in range(1, window.taps + 1)
        if replace(least, tap_lanes=n).interval <= max(LONGEST, least.interval)
    ]
    return replace(least, tap_lanes=draw(st.sampled_from(taps)))


@given(convolutions(), st.integers(0, 999))
@settings(deadline=None, max_examples=100)
def test_any_convolution(config: FoldedConvConfig, seed: int) -> None:
    check_block(config, seed)
