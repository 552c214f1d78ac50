"""Counters for streams that take turns."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Mux, Signal, Value, signed

from hwgen.device.arithmetic import counter, levels

__all__ = ["last_of", "turns"]


def last_of(m: Module, count: int, step, name: str) -> Value:
    """Whether the next step completes a run of ``count`` steps.

    The result is the sign bit of a down counter, so there is no comparison in the path.
    """
    left = Signal(signed(max(count - 1, 1).bit_length() + 1), init=count - 2, name=name)
    with m.If(step):
        m.d.sync += left.eq(Mux(left[-1], count - 2, left - 1))
    return left[-1]


def turns(m: Module, counts: Sequence[int], step) -> tuple[Signal, list]:
    """Round-robin selector: participant ``k`` has ``counts[k]`` beats, then the next one.

    Parameters
    ----------
    counts : number of beats of each participant
    step : whether a beat is taken in this cycle

    Returns
    -------
    turn : number of the participant that has the next beat
    selected : for each participant, whether it has the next beat
    """
    turn, beat = counter(len(counts), name="turn"), counter(max(counts), name="beat")
    with m.Switch(turn):
        for k, count in enumerate(counts):
            with m.Case(k) if k < len(counts) - 1 else m.Default():
                with m.If(step):
                    m.d.sync += beat.eq(Mux(beat == count - 1, 0, beat + 1))
                    with m.If(beat == count - 1):
                        m.d.sync += turn.eq((k + 1) % len(counts))
    return turn, [turn == k for k in range(len(counts))]


def turn_features(counts: list[int]) -> dict[str, float]:
    """Features of the logic of :func:`turns`; see :func:`hwgen.device.cost.logic`."""
    return {"turns": len(counts), "beats": levels(max(counts)),
            "ends": sum(max(n - 1, 1).bit_length() for n in counts)}
