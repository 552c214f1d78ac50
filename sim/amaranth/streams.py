"""Streams of packed beats through a component: sources and sinks that pause at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Value
from amaranth.sim import Simulator

from hwgen.errors import HwgenError

__all__ = ["Beats", "run_streams"]

IDLE_LIMIT = 100_000
"""Cycles without any beat after which a simulation counts as stuck."""
SOURCE_PAUSES, SINK_PAUSES = 4096, 4099
"""Cycles after which the pauses of a source and of a sink come again."""


@dataclass(frozen=True)
class Beats:
    """Beats that went through the streams of a component.

    Members
    -------
    outputs : per output port, the packed beats
    accepts : per input port, cycle in which each beat was taken
    times : per output port, cycle in which each beat was taken
    """

    outputs: dict[str, list[int]]
    accepts: dict[str, np.ndarray]
    times: dict[str, np.ndarray]


def run_streams(
    component: Elaboratable,
    sources: Sequence[tuple[str, Sequence[int]]],
    sinks: Sequence[tuple[str, int]],
    *,
    stall: float | tuple[float, float] = 0.0,
    seed: int = 0,
    arrivals: Sequence[np.ndarray] | None = None,
    ready: Value | None = None,
    processes: Sequence[Callable] = (),
) -> Beats:
    """Drive streams of packed beats through a component in the ``sync`` domain.

    Parameters
    ----------
    component : component whose ports are streams
    sources : (port name, packed beats) for every input
    sinks : (port name, number of beats to wait for) for every output
    stall : probability that a source or a sink pauses, each cycle; or a pair, for sources and sinks
    seed : of the pauses
    arrivals : per source, earliest cycle of each beat; default: as soon as possible
    ready : sources and sinks begin the cycle after it is up first, and cycles count from then on
    processes : test benches that run beside

    Raises
    ------
    :exc:`HwgenError`
        If nothing begins or moves any more, or an output port breaks the stream protocol: valid
        dropped, or payload changed, while not ready.
    """
    source_stall, sink_stall = stall if isinstance(stall, tuple) else (stall, stall)
    simulator = Simulator(component)
    simulator.add_clock(1e-6)
    sending = [
        _Source(getattr(component, name), values, ready,
                np.random.default_rng([seed, k, 0]).random(SOURCE_PAUSES) < source_stall,
                None if arrivals is None else arrivals[k])
        for k, (name, values) in enumerate(sources)
    ]
    taking = [
        _Sink(k, getattr(component, name), count, ready,
              np.random.default_rng([seed, k, 1]).random(SINK_PAUSES) < sink_stall)
        for k, (name, count) in enumerate(sinks)
    ]
    for source in sending:
        simulator.add_testbench(source.run, background=True)
    for sink in taking:
        simulator.add_testbench(sink.run)
    for process in processes:
        simulator.add_testbench(process, background=True)
    simulator.run()
    return Beats(
        outputs={name: sink.beats for (name, _), sink in zip(sinks, taking, strict=True)},
        accepts={name: np.array(source.accepts)
                 for (name, _), source in zip(sources, sending, strict=True)},
        times={name: np.array(sink.times) for (name, _), sink in zip(sinks, taking, strict=True)},
    )


async def _begin(ctx, ready: Value | None) -> None:
    """Wait for the first cycle in which ``ready`` is up."""
    if ready is None:
        return
    ticks = ctx.tick().sample(ready)
    for _ in range(IDLE_LIMIT):
        _, _, up = await ticks
        if up:
            return
    raise HwgenError(f"Not ready to begin within {IDLE_LIMIT} cycles")


class _Source:
    """Offers beats to a port, each from its arrival on until it is taken."""

    def __init__(self, port: Any, values: Sequence[int], begin: Value | None, pauses: np.ndarray,
                 earliest: np.ndarray | None) -> None:
        self.accepts: list[int] = []
        self._port = port
        self._values = values
        self._begin = begin
        self._pauses = pauses
        self._earliest = earliest

    async def run(self, ctx) -> None:
        port, values, earliest = self._port, self._values, self._earliest
        cycle, index, offered = 0, 0, False
        payload = Value.cast(port.payload)
        ticks = ctx.tick().sample(port.ready)
        await _begin(ctx, self._begin)
        while True:
            if not offered and index < len(values):
                due = earliest is None or cycle >= earliest[index]
                if due and not self._pauses[cycle % SOURCE_PAUSES]:
                    ctx.set(payload, values[index])
                    offered = True
            ctx.set(port.valid, offered)
            _, _, ready = await ticks
            if offered and ready:
                self.accepts.append(cycle)
                index, offered = index + 1, False
            cycle += 1


class _Sink:
    """Takes beats from a port until there are enough of them, and checks its protocol."""

    def __init__(self, number: int, port: Any, count: int, begin: Value | None,
                 pauses: np.ndarray) -> None:
        self.beats: list[int] = []
        self.times: list[int] = []
        self._number = number
        self._port = port
        self._count = count
        self._begin = begin
        self._pauses = pauses

    async def run(self, ctx) -> None:
        port, count, number = self._port, self._count, self._number
        cycle, last, waiting = 0, 0, None
        payload = Value.cast(port.payload)
        ticks = ctx.tick().sample(port.valid, payload)
        await _begin(ctx, self._begin)
        while len(self.beats) < count:
            ready = not self._pauses[cycle % SINK_PAUSES]
            ctx.set(port.ready, ready)
            _, _, valid, value = await ticks
            if waiting is not None and (not valid or value != waiting):
                raise HwgenError(f"Output {number} changed while valid and not ready")
            waiting = value if valid and not ready else None
            if valid and ready:
                self.times.append(cycle)
                self.beats.append(value)
                last = cycle
            elif cycle - last > IDLE_LIMIT:
                raise HwgenError(
                    f"Deadlock: output {number} stopped after {len(self.beats)} of {count} beats"
                )
            cycle += 1
