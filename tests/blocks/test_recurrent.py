"""Recurrent cells: values and times for any folding, over frames that follow one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwgen.blocks.recurrent import RecurrentConfig
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation, Recurrent, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import check_on_time, check_under_stalls, divisors
from tests.profiles import examples

CODES = Quantisation(2.0**-8, 3, 12)


def config(
    kind="lstm", units=4, steps=3, seed=0, codes=CODES, starts=False, function="Tanh",
    output=None, weight_bits=8, keep=False, **folding
) -> RecurrentConfig:
    # A GRU whose reset gate stands in front of the matrix.
    first, kind = kind == "reset", "gru" if kind == "reset" else kind
    random, gates = np.random.default_rng(seed), {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    type = TensorType((steps, units * gates), codes)
    weight = random.uniform(-2, 2, (units, gates, units)) / np.sqrt(units)
    more = {"bias": random.normal(0, 0.3, units)} if kind == "gru" else {}
    if starts:
        more["initial_h"] = random.uniform(-0.9, 0.9, units)
        more |= {"initial_c": random.uniform(-1, 1, units)} if kind == "lstm" else {}
    op = Recurrent.from_float(kind, weight, type, output or Quantisation(1 / 128),
                              function=function, weight_bits=weight_bits, reset_first=first,
                              keep=keep, **more)
    return RecurrentConfig(op=op, tensor=type, **folding)


@st.composite
def configs(draw: st.DrawFn) -> RecurrentConfig:
    units = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    lanes = draw(divisors(units))
    several = st.sampled_from(list(range(lanes, units + 1, lanes)))
    return config(
        draw(st.sampled_from(["lstm", "gru", "reset", "rnn"])), units, draw(st.integers(1, 5)),
        draw(st.integers(0, 99)),
        draw(st.sampled_from([CODES, Quantisation(0.02, -5, 8), Quantisation(0.0006, 1, 16)])),
        draw(st.booleans()), draw(st.sampled_from(["Tanh", "Relu"])),
        Quantisation(1 / 128, 0, draw(st.sampled_from([8, 8, 12]))), draw(st.sampled_from([4, 8])),
        draw(st.booleans()), lanes=lanes, channel_lanes=draw(several), pe=draw(several),
        multiplier=draw(st.sampled_from(["dsp48e2", "mult18", "fabric"])),
        requantiser_multiplier=draw(st.sampled_from(["", "dsp48e1"])))


@given(configs(), st.integers(0, 999))
@examples(30)
def test_values_and_times(config: RecurrentConfig, seed: int) -> None:
    check_on_time(config, seed)


@given(configs(), st.integers(0, 999))
@examples(20)
def test_values_under_stalls(config: RecurrentConfig, seed: int) -> None:
    check_under_stalls(config, seed)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru", "reset", "rnn"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_frames_one_after_the_other(kind, steps, keep):
    """At full speed: a frame begins before the last results of the one before are there, unless it
    needs them."""
    cell = config(kind, 8, steps, lanes=2, channel_lanes=4, pe=4, keep=keep, starts=True)
    random, count = np.random.default_rng(0), 5
    frames = random.integers(-700, 700, (count, *cell.tensor.shape))
    arrivals = [np.arange(count * cell.inputs[0].beats)]
    schedule = cell.schedule(arrivals)
    run = simulate(cell.create(), frames, arrivals=arrivals)
    np.testing.assert_array_equal(run.outputs["o"], cell.compute(frames)[0])
    np.testing.assert_array_equal(run.times["o"], schedule.outputs[0])
    ends = schedule.outputs[0].reshape(count, -1)[:, -1]
    # Frames of a single step come in pairs, as places for their input become free.
    assert set(ends[2:] - ends[:-2]) <= {2 * cell.interval, 2 * cell.interval - (steps == 1)}
    assert (cell.interval == steps * cell.step_cycles) == (keep or kind == "reset")


@pytest.mark.parametrize("kind", ["gru", "reset"])
def test_weights_that_are_loaded(kind):
    cell = config(kind, 8, 3, lanes=2, channel_lanes=2, pe=4, weight_style="ultra", starts=True)
    assert cell.loads
    check_on_time(cell)
    check_under_stalls(cell)


def test_two_products_to_a_dsp():
    cell = config("lstm", 16, channel_lanes=8, pe=4)
    assert cell.matrices[0].folding.array.resources().dsp == 4 * 4 * 8 // 2


def test_both_matrices_take_what_one_would():
    one, two = (config(kind, 16, channel_lanes=8, pe=4) for kind in ("gru", "reset"))
    dsp = [sum(m.folding.array.resources().dsp for m in c.matrices) for c in (one, two)]
    assert dsp == [48, 48]
    assert one.step_cycles < two.step_cycles < 2 * one.step_cycles


def test_a_wider_array_takes_fewer_cycles():
    slow, fast = (config("lstm", 16, channel_lanes=n, pe=n, lanes=n) for n in (1, 16))
    assert slow.step_cycles - fast.step_cycles >= 16 * 16 - 1 - 16
    assert fast.last_cycles < fast.step_cycles


@pytest.mark.parametrize("folding,message", [
    ({"channel_lanes": 5}, "channel_lanes must be between 1 and the 4 units"),
    ({"pe": 0}, "pe must be between 1 and the 4 units"),
    ({"lanes": 3}, "lanes must divide units 4"),
    ({"lanes": 2}, "lanes must divide channel_lanes 1"),
    ({"lanes": 2, "channel_lanes": 2}, "lanes must divide pe 1"),
    ({"depths": (3,)}, "Depth must be at least the 4 beats of a step, not 3"),
])
def test_refusals(folding, message):
    with pytest.raises(HwgenError, match=message):
        config(**folding)
