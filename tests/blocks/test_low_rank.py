"""LowRankLinear: values and times over shapes, precisions, foldings and multipliers."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Cat, Elaboratable, Module
from amaranth.lib import stream
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.low_rank import LowRankLinearConfig
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.errors import HwgenError
from hwgen.ir import Conv, ConvTranspose, Gemm, Quantisation, TensorType
from hwgen.sim.amaranth import run_streams, simulate
from tests.blocks.checks import (
    check_on_time,
    check_under_stalls,
    divisors,
    multipliers,
    quantisations,
)
from tests.blocks.test_conv import make_weights
from tests.profiles import examples

BITS = st.sampled_from([4, 6, 8])
INPUT, MIDDLE, OUTPUT = Quantisation(0.1, 3), Quantisation(0.2, -1, 6), Quantisation(0.1, -7)


def make_matrix(dims: int | None, cin: int, cout: int, **options) -> Conv | Gemm:
    """A Conv with a kernel of 1 in some dimensions; a Gemm if it is None."""
    parameters = make_weights((1,) * (dims or 0), cin, cout, **options)
    if dims is None:
        del parameters["groups"]
        return Gemm(**parameters)
    return Conv(**parameters)


def pair(dims: int | None, cin: int, rank: int, cout: int, **options) -> dict:
    """Two ops that fit each other."""
    return {
        "first": make_matrix(dims, cin, rank, input=INPUT, output=MIDDLE, **options),
        "second": make_matrix(dims, rank, cout, input=MIDDLE, output=OUTPUT, **options),
    }


@st.composite
def lanes_of_array(draw: st.DrawFn, cin: int, cout: int, lanes_in: int, cycles: int) -> tuple:
    """Channel lanes, pe and lanes of the results of an array, neither too slow nor too wide."""
    pe = draw(st.integers(ceil(cout / cycles), min(cout, 12)))
    least = ceil(ceil(cin / (cycles // ceil(cout / pe))) / lanes_in)
    most = max(min(cin, 12) // lanes_in, least)
    channel_lanes = lanes_in * draw(st.integers(least, most))
    lanes_out = draw(divisors(int(np.gcd(pe, cout % pe or pe))))
    return channel_lanes, pe, lanes_out


@st.composite
def layers(draw: st.DrawFn) -> LowRankLinearConfig:
    """Any layer of low rank, and any folding of its arrays that is short to simulate."""
    cin, rank, cout = draw(st.integers(1, 40)), draw(st.integers(1, 16)), draw(st.integers(1, 40))
    spatial = draw(st.sampled_from([None, (), (3,), (2, 2)]))
    dims = None if spatial is None else len(spatial)
    input, middle, output = (draw(quantisations(BITS)) for _ in range(3))
    seed = draw(st.integers(0, 99))
    first, second = (
        make_matrix(dims, *shape, input=a, output=b, weight_bits=draw(BITS), seed=seed)
        for shape, a, b in (((cin, rank), input, middle), ((rank, cout), middle, output))
    )
    lanes_in = draw(divisors(cin))
    lanes, pe, lanes_rank = draw(lanes_of_array(cin, rank, lanes_in, 40))
    if lanes_rank > 1 and rank % lanes_rank:
        lanes_rank = 1
    lanes_second, pe_second, lanes_out = draw(lanes_of_array(rank, cout, lanes_rank, 40))
    return LowRankLinearConfig(
        first=first, second=second, tensor=TensorType((*(spatial or ()), cin), input),
        lanes_in=lanes_in, lanes_rank=lanes_rank, lanes_out=lanes_out,
        channel_lanes=(lanes, lanes_second), pe=(pe, pe_second),
        multiplier=draw(st.sampled_from(sorted(MULTIPLIERS))),
        requantiser_multiplier=draw(st.sampled_from(["", "fabric"])),
        products=draw(st.integers(0, 1)), capacity=draw(st.integers(0, 3)),
        weight_style=draw(st.sampled_from(["", "", "block", "ultra"])),
        buffer_style=draw(st.sampled_from(["", "block"])),
    )


@given(layers(), st.integers(0, 999))
@examples(14)
def test_values_and_times(config: LowRankLinearConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(layers(), st.integers(0, 999), st.data())
@examples(10)
def test_values_under_stalls(config: LowRankLinearConfig, seed: int, data: st.DataObject) -> None:
    least = config.foldings[1].fold_beats
    depth = data.draw(st.integers(least, config.least_depths[0] + 2))
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize(("folding", "cycles"), [
    ({"channel_lanes": (4, 2), "pe": (3, 4)}, (3 * 3, 3 * 4)),
    ({"channel_lanes": (1, 7), "pe": (7, 5)}, (12, 2 * 5)),
    ({"channel_lanes": (5, 3), "pe": (2, 10), "lanes_out": 5}, (4 * 3, 3)),
    ({"channel_lanes": (12, 7), "pe": (7, 10), "lanes_in": 12, "lanes_rank": 7, "lanes_out": 10},
     (1, 1)),
])
def test_pace_is_that_of_the_slower_array(folding: dict, cycles: tuple[int, int]) -> None:
    """Frames without a gap: an interval apart, whichever array is the slower one."""
    config = LowRankLinearConfig(**pair(1, 12, 7, 10), tensor=TensorType((4, 12), INPUT), **folding)
    assert tuple(f.window.window_cycles for f in config.foldings) == cycles
    assert config.token_cycles == max(cycles)
    assert config.interval == max(4 * max(cycles), config.inputs[0].beats)
    config = config.at_full_speed()
    schedule = config.schedule([np.arange(3 * config.inputs[0].beats)])
    frames = np.random.default_rng(0).integers(-128, 128, (3, 4, 12))
    run = simulate(replace(config, capacity=schedule.capacity).create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])
    np.testing.assert_array_equal(run.times["o"], schedule.outputs[0])
    last = run.times["o"].reshape(3, -1)[:, -1]
    assert (np.diff(last) == config.interval).all()
    assert config.latency == run.times["o"][0]


@pytest.mark.parametrize("stall", [(0.0, 0.9), (0.9, 0.0)])
def test_least_places_are_live(stall: tuple[float, float]) -> None:
    config = LowRankLinearConfig(
        **pair(1, 6, 4, 9), tensor=TensorType((5, 6), INPUT), channel_lanes=(2, 2), pe=(3, 4),
    )
    assert config.arrays[0].places == 1
    check_under_stalls(config, stall=stall, depths=(config.foldings[1].fold_beats,))


@pytest.mark.parametrize("second", [None, 0])
def test_a_whole_frame_as_a_token(second: int | None) -> None:
    """A Gemm takes the frame in the order of its stream; a matrix without dimensions a vector."""
    config = LowRankLinearConfig(
        first=make_matrix(None, 24, 5, input=INPUT, output=MIDDLE),
        second=make_matrix(second, 5, 7, input=MIDDLE, output=OUTPUT),
        tensor=TensorType((2, 3, 4), INPUT), lanes_in=2, channel_lanes=(4, 2), pe=(2, 3),
    )
    assert config.tokens == 1
    assert config.outputs[0].tensor == TensorType((7,), OUTPUT)
    check_on_time(config)
    check_under_stalls(config)


def test_weights_at_the_end_of_their_range() -> None:
    """Accumulators reach their bound: all weights and activations are -128."""
    output = Quantisation(0.1, -128)
    first = Conv(np.full((4, 1, 9), -128), np.zeros(4), multipliers(4, 9 << 14, output, 0), output)
    second = Conv(np.full((3, 1, 4), -128), np.zeros(3), multipliers(3, 4 << 14, output, 0), output)
    config = LowRankLinearConfig(first=first, second=second, tensor=TensorType((2, 9)),
                                 channel_lanes=(9, 4), pe=(4, 3))
    frames = np.full((1, 2, 9), -128)
    run = simulate(config.create(), frames)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(frames)[0])


@pytest.mark.parametrize(("shape", "lanes", "cycles"), [
    ((12, 6, 10), (1, 1), 12), ((12, 6, 10), (3, 5), 4), ((20, 4, 20), (4, 1), 31), ((7, 5, 3),
     (7, 3), 1),
])
@pytest.mark.parametrize("multiplier", ["dsp48e2", "fabric"])
def test_balanced(shape: tuple, lanes: tuple, cycles: int, multiplier: str) -> None:
    """No folding that is as quick has fewer multipliers."""
    cin, rank, cout = shape
    layer = {**pair(1, *shape), "tensor": TensorType((2, cin), INPUT), "multiplier": multiplier,
             "lanes_in": lanes[0], "lanes_out": lanes[1]}
    config = LowRankLinearConfig.balanced(cycles=cycles, **layer)
    assert config.token_cycles <= cycles

    def multipliers(channel_lanes, pe, lanes_rank) -> int:
        products = 2 if multiplier == "dsp48e2" else 1
        return lanes_rank + sum(n * ceil(k / products)
                                for n, k in zip(channel_lanes, pe, strict=True))

    least = min(
        multipliers((n, k), (pe, pe_second), lanes_rank)
        for lanes_rank in range(1, rank + 1) if rank % lanes_rank == 0
        for n, k, pe, pe_second in product(
            range(lanes[0], cin + 1, lanes[0]), range(lanes_rank, rank + 1, lanes_rank),
            range(lanes_rank, rank + 1, lanes_rank), range(lanes[1], cout + 1, lanes[1]),
        )
        if rank % pe % lanes_rank == 0 and cout % pe_second % lanes[1] == 0
        and ceil(rank / pe) * max(ceil(cin / n), pe // lanes_rank) <= cycles
        and ceil(cout / pe_second) * max(ceil(rank / k), pe_second // lanes[1]) <= cycles
    )
    assert multipliers(config.channel_lanes, config.pe, config.lanes_rank) == least
    if multiplier == "dsp48e2":
        assert config.resources().dsp == least + lanes[1]
        check_on_time(config)


def test_balanced_refuses_what_no_folding_reaches() -> None:
    with pytest.raises(HwgenError, match=r"^Cycles of a token must be at least its 12 beats, no"):
        LowRankLinearConfig.balanced(**pair(0, 12, 4, 8), tensor=TensorType((12,)), cycles=9)


class Foreign(Elaboratable):
    """Somebody else's design: takes bytes, and says for each pixel the sum of its two results."""

    def __init__(self, config: LowRankLinearConfig) -> None:
        self.config = config
        self.bytes: Any = stream.Signature(8).create()
        self.sums: Any = stream.Signature(9).create()

    def elaborate(self, platform):
        m = Module()
        layer: Any = self.config.create()
        m.submodules.layer = layer
        m.d.comb += [
            layer.i.valid.eq(self.bytes.valid), self.bytes.ready.eq(layer.i.ready),
            Cat(layer.i.p).eq(self.bytes.p ^ 0x80),
            layer.o.ready.eq(~self.sums.valid | self.sums.ready),
        ]
        with m.If(layer.o.ready):
            m.d.sync += [self.sums.valid.eq(layer.o.valid),
                         self.sums.p.eq(layer.o.p[0] + layer.o.p[1])]
        return m


def test_inside_a_foreign_design() -> None:
    config = LowRankLinearConfig.balanced(
        **pair(2, 8, 3, 2), tensor=TensorType((3, 4, 8), INPUT), cycles=8, lanes_out=2,
    ).at_full_speed()
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 8))
    run = run_streams(Foreign(config), [("bytes", frames.ravel().tolist())], [("sums", 24)],
                      stall=0.2)
    expected = config.compute(frames - 128)[0].astype(int).sum(-1).ravel()
    np.testing.assert_array_equal(np.array(run.outputs["sums"]), expected & 0x1FF)
    design = Foreign(config)
    ports = [getattr(port, name) for port in (design.bytes, design.sums)
             for name in ("payload", "valid", "ready")]
    assert "module foreign(" in verilog.convert(design, name="foreign", ports=ports)


GOOD = {**pair(2, 8, 6, 10), "tensor": TensorType((2, 2, 8), INPUT)}


@pytest.mark.parametrize(("wrong", "message"), [
    ({"second": make_matrix(2, 5, 10)},
     r"^The second op must have the 6 outputs of the first as its inputs, not 5$"),
    ({"second": make_matrix(None, 24, 10)},
     r"^The second op must have the 6 outputs of the first as its inputs, not 24$"),
    ({"first": make_matrix(None, 8, 6)}, r"^Of the first op: Gemm needs 8 inputs, not 32$"),
    ({"first": Conv(**make_weights((1, 3), 8, 6))},
     r"^The first op must be a Gemm, or a Conv in one group with a kernel of 1 that keeps all "),
    ({"second": Conv(**make_weights((1, 1), 12, 10, 2))}, r"^The second op must be a Gemm, or a "),
    ({"first": Conv(**make_weights((1, 1), 8, 6), stride=(2, 1))}, r"^The first op must be a "),
    ({"first": ConvTranspose(**make_weights((1, 1), 8, 6))}, r"^The first op must be a Gemm, or "),
    ({"first": make_matrix(1, 8, 6)}, r"^Of the first op: A 1-dimensional window needs as many"),
    ({"tensor": TensorType((2, 2, 9))}, r"^Of the first op: Conv needs 8 input channels, not 9$"),
    ({"channel_lanes": (9, 1)}, r"^Of the first array: Channel lanes must be between 1 and 8, not"),
    ({"channel_lanes": (1, 0)}, r"^Of the second array: Channel lanes must be between 1 and 6, no"),
    ({"pe": (7, 1)}, r"^Of the first array: Pe must be between 1 and 6, not 7$"),
    ({"pe": (1, 11)}, r"^Of the second array: Pe must be between 1 and 10, not 11$"),
    ({"pe": 2}, r"^Pe must be a pair, for both arrays, not 2$"),
    ({"channel_lanes": (1, 2, 3)}, r"^Channel lanes must be a pair, for both arrays, not \(1, 2,"),
    ({"lanes_in": 3}, r"^Lanes must divide the 8 channels, not 3$"),
    ({"lanes_in": 2}, r"^Of the first array: Word lanes must be a multiple of the 2 input lanes"),
    ({"lanes_out": 3}, r"^Lanes must divide the 10 channels, not 3$"),
    ({"lanes_out": 2}, r"^Of the second array: Output lanes must divide the 1 results of a fold"),
    ({"pe": (4, 1), "lanes_rank": 4}, r"^Of the first array: Output lanes must divide the 2 resu"),
    ({"pe": (2, 1), "lanes_rank": 2}, r"^Of the second array: Word lanes must be a multiple of t"),
    ({"multiplier": "dsp58"}, r"^Of the first array: Multiplier must be one of .*, not 'dsp58'$"),
    ({"capacity": -1}, r"^Capacity must be 0 or more tokens, not -1$"),
    ({"pe": (1, 4), "depths": (3,)}, r"^Of the second array: Depth must be at least the 4 beats"),
    ({"products": 5, "pe": (6, 10)},
     r"^Of the first array: 5 products of 8-bit activations and 8-bit weights up"),
    ({"requantiser_multiplier": "lut"}, r"^Requantiser multiplier must be one of .*, not 'lut'$"),
    ({"weight_style": "rom"}, r"^Of the first array: Memory style must be one of .*, not 'rom'$"),
    ({"buffer_style": "rom"}, r"^Memory style must be one of .*, not 'rom'$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(HwgenError, match=message):
        LowRankLinearConfig(**{**GOOD, **wrong})
