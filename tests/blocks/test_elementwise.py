"""TableLookup and Adder: values and times, on all codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.adder import AdderConfig
from hwgen.blocks.table import TableLookupConfig
from hwgen.errors import HwgenError
from hwgen.ir import Add, Quantisation, Table, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, divisors, quantisations
from tests.profiles import examples


@st.composite
def tables(draw: st.DrawFn) -> TableLookupConfig:
    """Any table of codes of up to 10 bits, for all channels or for each."""
    input = draw(quantisations(st.sampled_from([2, 4, 7, 8, 10])))
    output = draw(quantisations(st.sampled_from([4, 8, 16])))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    shape = (*draw(st.lists(st.integers(1, 3), max_size=3)), draw(st.integers(1, 6)))
    rows = (shape[-1],) if draw(st.booleans()) else ()
    op = Table(random.integers(output.low, output.high + 1, (*rows, 1 << input.bits)), output)
    return TableLookupConfig(
        op=op, tensor=TensorType(shape, input), lanes=draw(divisors(shape[-1]))
    )


@st.composite
def adders(draw: st.DrawFn) -> AdderConfig:
    """Any sum or difference of two tensors, of the nearest scales or of any multipliers."""
    a, b = (draw(quantisations(st.sampled_from([2, 4, 8, 8, 9, 10, 16]))) for _ in range(2))
    output = draw(quantisations(st.sampled_from([4, 8, 16])))
    if draw(st.booleans()):
        op = Add.from_types(a, b, output, draw(st.sampled_from([1, -1])))
    else:
        largest = (1 << 17) - 1
        op = Add(draw(st.tuples(*[st.integers(-largest, largest)] * 2)),
                 draw(st.integers(1, 47)), output)
    shape = (*draw(st.lists(st.integers(1, 3), max_size=3)), draw(st.integers(1, 6)))
    return AdderConfig(
        op=op, tensors=(TensorType(shape, a), TensorType(shape, b)), lanes=draw(divisors(shape[-1]))
    )


@given(st.one_of(tables(), adders()), st.integers(0, 999))
@examples(40)
def test_values_and_times(config: TableLookupConfig | AdderConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(st.one_of(tables(), adders()), st.integers(0, 999), st.integers(1, 12))
@examples(30)
def test_values_under_stalls(
    config: TableLookupConfig | AdderConfig, seed: int, depth: int
) -> None:
    check_under_stalls(config, seed, depths=(depth,))


@pytest.mark.parametrize("function", [np.tanh, lambda x: x / (1 + np.exp(-x))])
def test_a_function_on_all_codes(function) -> None:
    input, output = Quantisation(0.05, 7), Quantisation(0.02, -100)
    config = TableLookupConfig(
        op=Table.from_function(function, input, output), tensor=TensorType((256, 1), input)
    )
    codes = np.arange(-128, 128).reshape(1, 256, 1)
    run = simulate(config.create(), codes)
    expected = output.quantise(function((codes - 7) * 0.05))
    np.testing.assert_array_equal(run.outputs["o"], expected)


def test_a_sum_on_all_pairs_of_codes() -> None:
    """All pairs of 4-bit codes; halves of equal scales give ties."""
    a, b = Quantisation(0.5, -3, 4), Quantisation(0.5, 2, 4)
    output = Quantisation(1.0, 1, 4)
    config = AdderConfig(
        op=Add.from_types(a, b, output), tensors=(TensorType((256, 1), a), TensorType((256, 1), b))
    )
    pairs = np.array([(x, y) for x in range(-8, 8) for y in range(-8, 8)]).T
    x, y = (side.reshape(1, 256, 1) for side in pairs)
    run = simulate(config.create(), x, y)
    np.testing.assert_array_equal(run.outputs["o"], config.compute(x, y)[0])
    real = np.rint((x + 3) * 0.5 + (y - 2) * 0.5)
    np.testing.assert_array_equal(run.outputs["o"], np.clip(real + 1, -8, 7))


def test_a_sum_reaches_its_bounds() -> None:
    """The largest multipliers and codes, of both signs, and the difference of 16-bit codes."""
    a, b = Quantisation(1.0, -(1 << 15), 16), Quantisation(1.0, (1 << 15) - 1, 16)
    output, largest = Quantisation(1.0, 0, 16), (1 << 17) - 1
    for multipliers in ((largest, largest), (largest, -largest), (-largest, -largest), (0, 0)):
        config = AdderConfig(
            op=Add(multipliers, 18, output), tensors=(TensorType((9, 1), a), TensorType((9, 1), b))
        )
        ends = np.array([-(1 << 15), 0, (1 << 15) - 1])
        x, y = (side.reshape(1, 9, 1) for side in np.meshgrid(ends, ends))
        run = simulate(config.create(), x, y)
        np.testing.assert_array_equal(run.outputs["o"], config.compute(x, y)[0])


@pytest.mark.parametrize("bits, channels, lanes, output_bits, parts, blocks, latency", [
    (10, 1, 1, 8, 1, 1, 3 + 2),       # 1 block of 2048 x 9
    (8, 16, 2, 8, 1, 1, 3 + 2),       # 8 tables a lane: 1 block of 2048 x 9
    (8, 40, 2, 9, 3, 3, 3 + 3),       # 20 tables a lane: 3 blocks, one after the other
    (12, 36, 4, 4, 18, 8, 3 + 5),     # 9 tables a lane: 18 parts side by side, 2048 x 72
    (16, 1, 1, 16, 32, 57, 3 + 5),    # 32 parts side by side, 2048 x 512
])
def test_tables_in_block_memory(
    bits: int, channels: int, lanes: int, output_bits: int, parts: int, blocks: int, latency: int
) -> None:
    random = np.random.default_rng(0)
    input, output = Quantisation(1.0, 3, bits), Quantisation(1.0, 0, output_bits)
    rows = (channels,) if channels > 1 else ()
    values = random.integers(output.low, output.high + 1, (*rows, 1 << bits))
    config = TableLookupConfig(
        op=Table(values, output), tensor=TensorType((20, channels), input), lanes=lanes
    )
    assert (config.memory.parts, config.latency) == (parts, latency)
    assert config.memory.resources().bram18 == blocks
    check_on_time(config)
    check_under_stalls(config)


def test_latencies() -> None:
    q, wide = Quantisation(0.1), Quantisation(0.1, 0, 9)
    tensor, wider = TensorType((3, 2), q), TensorType((3, 2), wide)
    assert TableLookupConfig(op=Table.from_function(np.abs, q, q), tensor=tensor).latency == 4
    assert AdderConfig(op=Add.from_types(q, q, q), tensors=(tensor, tensor)).latency == 11
    config = AdderConfig(op=Add.from_types(q, wide, q), tensors=(tensor, wider))
    assert config.latency == 12
    assert config.resources().dsp == 0


@pytest.mark.parametrize("tensor, lanes, message", [
    (TensorType((3, 4)), 3, r"^Lanes must divide the 4 channels, not 3$"),
    (TensorType((3, 4), Quantisation(bits=7)), 1, r"^A table of 256 does not fit 7-bit codes$"),
])
def test_table_refuses(tensor: TensorType, lanes: int, message: str) -> None:
    op = Table.from_function(np.tanh, Quantisation(), Quantisation())
    with pytest.raises(HwgenError, match=message):
        TableLookupConfig(op=op, tensor=tensor, lanes=lanes)


def test_adder_refuses() -> None:
    q = Quantisation()
    message = r"^Add needs two tensors of one shape, not \(3, 4\) and \(3, 5\)$"
    with pytest.raises(HwgenError, match=message):
        AdderConfig(op=Add.from_types(q, q, q), tensors=(TensorType((3, 4)), TensorType((3, 5))))
