"""The Amaranth test bench: frames in, frames out, cycles of every beat; stalls on request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from amaranth.hdl import Elaboratable, Value
from amaranth.sim import Simulator

from hwgen.errors import HwgenError
from hwgen.parts.stream import StreamType
from hwgen.sim.amaranth.axi_memory import AxiMemory, serve_reads

__all__ = ["Run", "run_streams", "simulate"]

LOAD_LATENCY = 32
"""Cycles from the last word of weights until all blocks have theirs, with a reserve."""
IDLE_LIMIT = 100_000
"""Cycles without any beat after which a simulation counts as stuck."""


@dataclass(frozen=True)
class Run:
    """What a simulation saw.

    Members
    -------
    outputs : per output, the frames ``(frames, *shape)`` or, from :func:`run_streams`, the beats
    accepts : per input, cycle in which each beat was taken
    times : per output, cycle in which each beat was taken
    """

    outputs: list
    accepts: list[np.ndarray]
    times: list[np.ndarray]


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
) -> Run:
    """Drive streams of packed beats through a component in the ``sync`` domain.

    Parameters
    ----------
    component : component whose ports are streams
    sources : (port name, packed beats) for every input
    sinks : (port name, number of beats to wait for) for every output
    stall : probability that a source or a sink pauses, each cycle; or a pair, for sources and sinks
    arrivals : per source, earliest cycle of each beat; default as soon as possible
    ready : sources and sinks begin the cycle after it is up first, and cycles count from then on
    processes : test benches that run beside

    Raises
    ------
    :exc:`HwgenError`
        If nothing begins or moves any more, or a source port breaks the stream protocol: valid
        dropped, or payload changed, while not ready.
    """
    accepts: list[list[int]] = [[] for _ in sources]
    times: list[list[int]] = [[] for _ in sinks]
    beats: list[list[int]] = [[] for _ in sinks]
    source_stall, sink_stall = stall if isinstance(stall, tuple) else (stall, stall)
    simulator = Simulator(component)
    simulator.add_clock(1e-6)

    async def begin(ctx):
        if ready is None:
            return
        ticks = ctx.tick().sample(ready)
        for _ in range(IDLE_LIMIT):
            _, _, up = await ticks
            if up:
                return
        raise HwgenError(f"Not ready to begin within {IDLE_LIMIT} cycles")

    def source(k: int, port, values: Sequence[int]):
        random = np.random.default_rng([seed, k, 0])
        pauses = random.random(4096) < source_stall
        earliest = None if arrivals is None else arrivals[k]

        async def process(ctx):
            cycle, index, offered = 0, 0, False
            payload = port.payload.as_value() if hasattr(port.payload, "as_value") else port.payload
            ticks = ctx.tick().sample(port.ready)
            await begin(ctx)
            while True:
                if not offered and index < len(values):
                    due = earliest is None or cycle >= earliest[index]
                    if due and not pauses[cycle & 4095]:
                        ctx.set(payload, values[index])
                        offered = True
                ctx.set(port.valid, offered)
                _, _, ready = await ticks
                if offered and ready:
                    accepts[k].append(cycle)
                    index, offered = index + 1, False
                cycle += 1

        return process

    def sink(k: int, port, count: int):
        random = np.random.default_rng([seed, k, 1])
        pauses = random.random(4099) < sink_stall

        async def process(ctx):
            cycle, last, waiting = 0, 0, None
            payload = port.payload.as_value() if hasattr(port.payload, "as_value") else port.payload
            ticks = ctx.tick().sample(port.valid, payload)
            await begin(ctx)
            while len(beats[k]) < count:
                ready = not pauses[cycle % 4099]
                ctx.set(port.ready, ready)
                _, _, valid, value = await ticks
                if waiting is not None and (not valid or value != waiting):
                    raise HwgenError(f"Output {k} changed while valid and not ready")
                waiting = value if valid and not ready else None
                if valid and ready:
                    times[k].append(cycle)
                    beats[k].append(value)
                    last = cycle
                elif cycle - last > IDLE_LIMIT:
                    raise HwgenError(
                        f"Deadlock: output {k} stopped after {len(beats[k])} of {count} beats"
                    )
                cycle += 1

        return process

    for k, (name, values) in enumerate(sources):
        simulator.add_testbench(source(k, getattr(component, name), values), background=True)
    for k, (name, count) in enumerate(sinks):
        simulator.add_testbench(sink(k, getattr(component, name), count))
    for process in processes:
        simulator.add_testbench(process, background=True)
    simulator.run()
    return Run(beats, [np.array(a) for a in accepts], [np.array(t) for t in times])


def simulate(
    block,
    *frames: np.ndarray,
    stall: float | tuple[float, float] = 0.0,
    seed: int = 0,
    arrivals: Sequence[np.ndarray] | None = None,
    latency: int = 20,
    back_pressure: float = 0.0,
) -> Run:
    """Run whole frames through a block or a pipeline in the Amaranth simulator.

    What is fetched ahead from off-chip memory, and weights that are loaded, come first; cycles
    count from then on.

    Parameters
    ----------
    block : a component with a ``config`` (:class:`hwgen.blocks.base.BlockConfig`), or a
        :class:`hwgen.pipeline.Pipeline`
    frames : per input, integer array ``(frames, *shape)``
    stall, seed, arrivals : see :func:`run_streams`
    latency : of off-chip memory: cycles from a request of a client, or from an address of a
        pipeline's port, to the first word
    back_pressure : probability that a channel of a pipeline's ports pauses, each cycle
    """
    config, members = block.config, block.signature.members
    inputs: Sequence[StreamType] = config.inputs
    outputs: Sequence[StreamType] = config.outputs
    count = len(frames[0])
    sources = [(n, t.pack(f)) for n, t, f in zip(config.input_ports, inputs, frames, strict=True)]
    begin, ready, processes = 0, None, []
    if "memory_ready" in members:
        netlist, layout = block.netlist, block.netlist.offchip
        memory = AxiMemory(layout.axi, layout.image(netlist.blocks), layout.size, latency=latency,
                           back_pressure=back_pressure, seed=seed)
        ready, processes = block.memory_ready, memory.processes(block)
    elif "loaded" in members:
        ready, processes = block.loaded, [serve_reads(block.read, config.image(), latency)]
    if "load" in members:
        words = config.load_words()
        begin = len(words) + LOAD_LATENCY
        arrivals = [np.zeros(len(beats), int) for _, beats in sources] \
            if arrivals is None else list(arrivals)
        arrivals = [*(times + begin for times in arrivals), np.arange(len(words))]
        sources.append(("load", words))
    run = run_streams(
        block, sources,
        [(n, t.beats * count) for n, t in zip(config.output_ports, outputs, strict=True)],
        stall=stall, seed=seed, arrivals=arrivals, ready=ready, processes=processes,
    )
    unpacked = [t.unpack(b) for t, b in zip(outputs, run.outputs, strict=True)]
    return Run(unpacked, [times - begin for times in run.accepts[: len(inputs)]],
               [times - begin for times in run.times])
