"""The test bench: arrivals, stalls, and what it catches."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hwgen.blocks.fifo import FifoConfig
from hwgen.errors import HwgenError
from hwgen.ir import TensorType
from hwgen.parts.stream import StreamType
from hwgen.sim.amaranth import Beats, run_streams, simulate, streams

BEATS = list(range(40))


class Wire(wiring.Component):
    """Passes beats on, except for one fault.

    Parameters
    ----------
    fault : :class:`str`
        ``"none"``; ``"stuck"`` after 10 beats; ``"drops"`` valid, or ``"changes"`` the payload,
        in every second cycle, whether the beat was taken or not.
    """

    i: stream.Interface
    o: stream.Interface

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault
        super().__init__({
            "i": In(stream.Signature(signed(8))), "o": Out(stream.Signature(signed(8)))
        })

    def elaborate(self, platform):
        m = Module()
        passed, odd = Signal(8), Signal()
        go = Signal(init=1)
        m.d.sync += [odd.eq(~odd), passed.eq(passed + (self.o.valid & self.o.ready))]
        m.d.comb += [
            self.o.payload.eq(self.i.payload),
            self.o.valid.eq(self.i.valid & go),
            self.i.ready.eq(self.o.ready & go),
        ]
        if self.fault == "stuck":
            m.d.comb += go.eq(passed != 10)
        if self.fault == "drops":
            m.d.comb += go.eq(odd)
        if self.fault == "changes":
            m.d.comb += self.o.payload.eq(self.i.payload ^ odd)
        return m


def run_wire(fault: str = "none", **options) -> Beats:
    return run_streams(Wire(fault), [("i", BEATS)], [("o", len(BEATS))], **options)


def test_beats_come_as_soon_as_possible() -> None:
    run = run_wire()
    assert run.outputs == {"o": BEATS}
    np.testing.assert_array_equal(run.accepts["i"], BEATS)
    np.testing.assert_array_equal(run.times["o"], BEATS)


def test_arrivals_are_honoured() -> None:
    arrivals = np.cumsum(np.random.default_rng(0).integers(1, 5, len(BEATS)))
    run = run_wire(arrivals=[arrivals])
    np.testing.assert_array_equal(run.accepts["i"], arrivals)
    np.testing.assert_array_equal(run.times["o"], arrivals)


def test_arrivals_are_the_earliest() -> None:
    """Beats that arrive together wait for each other."""
    run = run_wire(arrivals=[np.repeat([7, 9], 20)])
    np.testing.assert_array_equal(run.times["o"], np.arange(40) + 7)


class Slow(Wire):
    """A wire that says when it is ready: 30 cycles after reset, or never."""

    def __init__(self, never: bool) -> None:
        super().__init__()
        self.up = Signal()
        self.never = never

    def elaborate(self, platform):
        m = super().elaborate(platform)
        count = Signal(range(31))
        m.d.sync += count.eq(count + (count < 30))
        m.d.comb += self.up.eq((count == 30) & (not self.never))
        return m


def test_cycles_count_from_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Slow(never=False)
    run = run_streams(wire, [("i", BEATS)], [("o", len(BEATS))], ready=wire.up)
    assert run.outputs == {"o": BEATS}
    np.testing.assert_array_equal(run.accepts["i"], BEATS)
    monkeypatch.setattr(streams, "IDLE_LIMIT", 50)
    wire = Slow(never=True)
    with pytest.raises(HwgenError, match=r"^Not ready to begin within 50 cycles$"):
        run_streams(wire, [("i", BEATS)], [("o", len(BEATS))], ready=wire.up)


def test_stalls_are_random_and_repeatable() -> None:
    runs = [run_wire(stall=0.5, seed=seed) for seed in (0, 0, 1)]
    assert all(run.outputs == {"o": BEATS} for run in runs)
    np.testing.assert_array_equal(runs[0].times["o"], runs[1].times["o"])
    assert not np.array_equal(runs[0].times["o"], runs[2].times["o"])
    # Both sides pause half of the time; a beat that is offered stays.
    assert 80 < runs[0].times["o"][-1] < 200
    np.testing.assert_array_equal(runs[0].accepts["i"], runs[0].times["o"])


def test_sources_and_sinks_stall_apart() -> None:
    """The sink's pauses are the same; without the source's there are fewer."""
    both, sink = (run_wire(stall=stall) for stall in (0.5, (0.0, 0.5)))
    assert sink.times["o"][-1] < both.times["o"][-1]
    assert run_wire(stall=(0.0, 0.0)).times["o"][-1] == 39


def test_a_deadlock_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_LIMIT", 50)
    with pytest.raises(HwgenError, match=r"^Deadlock: output 0 stopped after 10 of 40 beats$"):
        run_wire("stuck")


def test_a_long_pause_of_the_source_is_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "IDLE_LIMIT", 50)
    run = run_wire(arrivals=[np.arange(40) * 45])
    assert run.outputs == {"o": BEATS}


@pytest.mark.parametrize("fault", ["drops", "changes"])
def test_a_break_of_the_protocol_is_found(fault: str) -> None:
    with pytest.raises(HwgenError, match=r"^Output 0 changed while valid and not ready$"):
        run_wire(fault, stall=0.5)


def test_frames_of_several_outputs() -> None:
    config = FifoConfig(stream=StreamType(TensorType((2, 3, 4)), 2), branches=2)
    frames = np.random.default_rng(0).integers(-128, 128, (3, 2, 3, 4))
    run = simulate(config.create(), frames, stall=0.2)
    assert len(run.outputs) == len(run.times) == 2
    for seen in run.outputs.values():
        assert seen.dtype == np.int8
        np.testing.assert_array_equal(seen, frames)
