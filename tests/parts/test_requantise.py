"""RoundShift and Requantiser against the rule of the integer graph, exact ties included."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from hwgen.device.arithmetic import signed_width
from hwgen.device.multiplier import MULTIPLIERS
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, Requantise, requantise
from hwgen.parts.requantise import RequantiserConfig, RoundShift
from hwgen.parts.stream import pack_rows, unpack_rows
from tests.blocks.checks import quantisations
from tests.profiles import examples
from tests.typed import ports


def run_round(width: int, shifts: tuple[int, int], output: Quantisation, values: np.ndarray,
              shift: np.ndarray) -> np.ndarray:
    """Results, as seen ``RoundShift.latency`` cycles after each input."""
    dut = ports(RoundShift(width, shifts, output))
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    seen = []

    async def drive(ctx) -> None:
        for n in range(len(values) + dut.latency):
            if n < len(values):
                ctx.set(dut.i, int(values[n]))
                ctx.set(dut.shift, int(shift[n]) - shifts[0])
            if n >= dut.latency:
                seen.append(ctx.get(dut.o))
            await ctx.tick()

    simulator.add_testbench(drive)
    simulator.run()
    return np.array(seen)


@pytest.mark.parametrize("output", [Quantisation(), Quantisation(1, -128), Quantisation(1, 3, 4)])
@pytest.mark.parametrize("shifts", [(1, 1), (4, 4), (1, 3), (2, 11), (12, 12), (5, 47)])
def test_all_values(shifts: tuple[int, int], output: Quantisation) -> None:
    """Every 9-bit value, so every tie; shifts up to the width of the value and beyond."""
    values = np.tile(np.arange(-256, 256), 2)
    shift = np.random.default_rng(0).integers(shifts[0], shifts[1] + 1, len(values))
    seen = run_round(9, shifts, output, values, shift)
    np.testing.assert_array_equal(seen, requantise(values, 1, shift, output))


@given(st.integers(2, 48), st.integers(1, 47), st.integers(1, 47),
       quantisations(st.sampled_from([2, 4, 8, 16])), st.integers(0, 999))
@examples(60)
def test_any_width_and_shifts(width: int, a: int, b: int, output: Quantisation, seed: int) -> None:
    shifts = min(a, b), max(a, b)
    random = np.random.default_rng(seed)
    shift = random.integers(shifts[0], shifts[1] + 1, 60)
    low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
    # Around ties within the output's range, and the ends of the input's.
    ties = (2 * random.integers(-9, 9, 60) + 1 << (shift - 1)) + random.integers(-1, 2, 60)
    ends = random.choice([low, high], 60)
    anything = random.integers(low, high + 1, 60)
    values = np.clip(np.choose(random.integers(0, 3, 60), [ties, ends, anything]), low, high)
    seen = run_round(width, shifts, output, values, shift)
    np.testing.assert_array_equal(seen, requantise(values, 1, shift, output))


def test_exact_ties_go_to_even() -> None:
    values = np.array([-7, -5, -3, -1, 1, 3, 5, 7]) * 8
    seen = run_round(8, (4, 4), Quantisation(), values, np.full(8, 4))
    np.testing.assert_array_equal(seen, [-4, -2, -2, 0, 0, 2, 2, 4])


def test_saturates() -> None:
    values = np.array([-4096, -257, -256, 253, 255, 4095])
    seen = run_round(13, (1, 1), Quantisation(), values, np.full(6, 1))
    np.testing.assert_array_equal(seen, [-128, -128, -128, 126, 127, 127])


def run_requantiser(
    config: RequantiserConfig, acc: np.ndarray, gaps: np.ndarray, sets: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Activations of accumulators ``(beats, lanes)``, and the delay of each; pauses as given."""
    beats = pack_rows(acc, config.acc_bits)
    dut = ports(config.create())
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    sent, seen, times = np.cumsum(1 + gaps), [], []
    queue = dict(zip(sent.tolist(), beats, strict=True))
    choice = {} if sets is None else dict(zip(sent.tolist(), sets.tolist(), strict=True))

    async def drive(ctx) -> None:
        for cycle in range(sent[-1] + config.latency + 2):
            ctx.set(dut.i.valid, cycle in queue)
            ctx.set(dut.i.payload.as_value(), queue.get(cycle, 0))
            if config.sets > 1:
                ctx.set(dut.set, choice.get(cycle, 0))
            if ctx.get(dut.o.valid):
                seen.append(ctx.get(dut.o.payload.as_value()))
                times.append(cycle)
            await ctx.tick()

    simulator.add_testbench(drive)
    simulator.run()
    return unpack_rows(seen, config.output.bits, config.lanes), np.array(times) - sent


@given(st.integers(1, 5), st.integers(1, 3), st.sampled_from([1, 1, 2, 3, 4]), st.booleans(),
       st.integers(12, 32), st.integers(4, 24), quantisations(st.sampled_from([4, 8, 16])),
       st.sampled_from(sorted(MULTIPLIERS)), st.sampled_from([0, 0, 1, 20, 51]),
       st.integers(0, 999))
@examples(80)
def test_requantiser(
    beats: int, lanes: int, sets: int, one_scale: bool, multiplier_bits: int, acc_bits: int,
    output: Quantisation, multiplier_name: str, offset_bits: int, seed: int,
) -> None:
    random = np.random.default_rng(seed)
    channels, half = beats * lanes, 1 << (acc_bits - 2)
    scales = channels if one_scale else channels * sets
    shift = random.integers(1, random.integers(2, 48), scales)
    multiplier = random.integers(0, 1 << multiplier_bits, scales)
    multiplier[random.random(scales) < 0.3] = 1 << (multiplier_bits - 1)
    bias = random.integers(-half, half, (sets, channels))
    offset = random.integers(-(1 << offset_bits), 1 << offset_bits, scales)
    config = RequantiserConfig(
        requantise=Requantise(multiplier, shift, multiplier_bits, offset if offset_bits else None),
        bias=bias if sets > 1 else bias[0], output=output, acc_range=(-2 * half, 2 * half),
        lanes=lanes, multiplier=multiplier_name,
    )
    acc = random.integers(-half, half + 1, (6, channels))
    choice = random.integers(0, sets, 6)
    gaps = random.integers(0, 3, 6 * beats)
    seen, delay = run_requantiser(
        config, acc.reshape(-1, lanes), gaps, np.repeat(choice, beats)
    )
    np.testing.assert_array_equal(seen.reshape(6, channels), config.compute(acc, choice))
    expected = requantise(
        acc + bias[choice], np.resize(multiplier, bias.shape)[choice],
        np.resize(shift, bias.shape)[choice], output,
        np.resize(offset, bias.shape)[choice] if offset_bits else 0,
    )
    np.testing.assert_array_equal(seen.reshape(6, channels), expected)
    assert (delay == config.latency).all()


def test_requantiser_reaches_its_bounds() -> None:
    """The largest product there is, of both signs."""
    config = RequantiserConfig(
        requantise=Requantise([(1 << 17) - 1], [20]), bias=np.array([-1]),
        output=Quantisation(bits=16), acc_range=(-(1 << 15), (1 << 15) - 1),
    )
    acc = np.array([[-(1 << 15) + 1], [(1 << 15) - 1], [0], [1]])
    seen, _ = run_requantiser(config, acc, np.zeros(4, int))
    np.testing.assert_array_equal(seen, config.compute(acc))


@pytest.mark.parametrize("low, high, bits", [
    (0, 0, 1), (-1, 0, 1), (0, 1, 2), (-2, 1, 2), (-3, 0, 3), (-128, 127, 8), (-128, 128, 9),
])
def test_signed_width(low: int, high: int, bits: int) -> None:
    assert signed_width(low, high) == bits


@pytest.mark.parametrize("wrong, message", [
    ({"bias": np.zeros(3, int)}, r"^Bias \(1, 3\) does not fit 4 multipliers$"),
    ({"bias": np.zeros((3, 2), int)}, r"^Bias \(3, 2\) does not fit 4 multipliers$"),
    ({"lanes": 3}, r"^Lanes must divide 4 channels, not 3$"),
    ({"lanes": 0}, r"^Lanes must divide 4 channels, not 0$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    good = {"requantise": Requantise([9] * 4, [1] * 4), "bias": np.zeros(4, int),
            "output": Quantisation(), "acc_range": (-9, 9)}
    with pytest.raises(HwgenError, match=message):
        RequantiserConfig(**{**good, **wrong})


@pytest.mark.parametrize("acc_range, multiplier, dsp", [
    ((-(1 << 20), 1 << 20), "dsp48e2", 1),
    ((-(1 << 26), (1 << 26) - 1), "dsp48e2", 1),
    ((-(1 << 26), (1 << 26) - 1), "dsp48e1", 2),
    ((-(1 << 20), 1 << 20), "mult18", 2),
    ((-(1 << 20), 1 << 20), "fabric", 0),
])
def test_resources(acc_range: tuple[int, int], multiplier: str, dsp: int) -> None:
    config = RequantiserConfig(
        requantise=Requantise([9] * 4, [1] * 4), bias=np.zeros(4, int), output=Quantisation(),
        acc_range=acc_range, lanes=2, multiplier=multiplier,
    )
    assert config.resources().dsp == 2 * dsp
