"""Whole frames through a block or a pipeline: packed, driven, unpacked, timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from amaranth.hdl import Elaboratable, Value

from hwgen.errors import HwgenError
from hwgen.netlist import Netlist
from hwgen.pipeline import LOAD, Pipeline
from hwgen.sim.amaranth.axi_memory import AxiMemory, serve_reads
from hwgen.sim.amaranth.streams import run_streams
from hwgen.sim.run import Run
from hwgen.sim.simulated import Simulated, alone

__all__ = ["TimedRun", "simulate", "simulate_netlist"]

LOAD_LATENCY = 32
"""Cycles from the last word of weights until all blocks have theirs, with a reserve."""


@dataclass(frozen=True)
class TimedRun(Run):
    """Frames that came out of a design, and when every beat went in and came out.

    Members
    -------
    accepts : input name to the cycle in which each beat was taken
    times : output name to the cycle in which each beat was taken
    """

    accepts: dict[str, np.ndarray]
    times: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Bench:
    """The hardware of a design, and what is around it.

    Members
    -------
    design : what the simulator knows of it
    component : the hardware
    inputs, outputs : names of its ports, in the order of the design's streams
    ready : it is up once what comes ahead from off-chip memory is there; None: nothing comes
    processes : test benches of the memory
    """

    design: Simulated
    component: Elaboratable
    inputs: Sequence[str]
    outputs: Sequence[str]
    ready: Value | None = None
    processes: Sequence[Callable] = field(default=())

    def run(
        self, frames: Sequence[np.ndarray], stall: float | tuple[float, float], seed: int,
        arrivals: Sequence[np.ndarray] | None,
    ) -> TimedRun:
        """See :func:`simulate`."""
        design = self.design
        inputs = list(zip(self.inputs, design.inputs.items(), frames, strict=True))
        outputs = list(zip(self.outputs, design.outputs.items(), strict=True))
        sources = [(port, stream.pack(values)) for port, (_, stream), values in inputs]
        begin, words = 0, design.load_words()
        if words:
            begin = len(words) + LOAD_LATENCY
            arrivals = [np.zeros(len(beats), int) for _, beats in sources] \
                if arrivals is None else list(arrivals)
            arrivals = [*(times + begin for times in arrivals), np.arange(len(words))]
            sources.append((LOAD, words))
        count = len(frames[0])
        beats = run_streams(
            self.component, sources,
            [(port, stream.beats * count) for port, (_, stream) in outputs],
            stall=stall, seed=seed, arrivals=arrivals, ready=self.ready, processes=self.processes,
        )
        accepts = {name: beats.accepts[port] - begin for port, (name, _), _ in inputs}
        times = {name: beats.times[port] - begin for port, (name, _) in outputs}
        taken = next(iter(accepts.values()))
        by_frame = {name: each.reshape(count, -1) for name, each in times.items()}
        return TimedRun(
            outputs={name: stream.unpack(beats.outputs[port]) for port, (name, stream) in outputs},
            # An output that begins with padding may end before any input.
            start=int(taken[0]) if len(taken) else 0,
            first={name: each[:, 0] for name, each in by_frame.items()},
            last={name: each[:, -1] for name, each in by_frame.items()},
            cycles=1 + max(int(each[-1]) for each in times.values()),
            accepts=accepts, times=times,
        )


def simulate(
    block: Any,
    *frames: np.ndarray,
    stall: float | tuple[float, float] = 0.0,
    seed: int = 0,
    arrivals: Sequence[np.ndarray] | None = None,
    latency: int = 20,
) -> TimedRun:
    """Run whole frames through a single block; names of streams are those of its ports.

    What is fetched ahead from off-chip memory, and weights that are loaded, come first; cycles
    count from then on.

    Parameters
    ----------
    block : a component with a ``config`` (:class:`hwgen.blocks.base.BlockConfig`)
    frames : per input, integer array ``(frames, *shape)``
    stall, seed, arrivals : see :func:`run_streams`
    latency : cycles from a request to off-chip memory to its first word

    Raises
    ------
    :exc:`HwgenError`
        If the block is stuck or breaks the stream protocol, or if it writes to off-chip memory:
        then it needs a port (:func:`hwgen.sim.simulated.alone`, :func:`simulate_netlist`).
    """
    config = block.config
    ready, processes = None, []
    if config.offchip is not None:
        if config.offchip.writes:
            raise HwgenError(f"{config.title} writes to off-chip memory, so it must be simulated "
                             f"behind an AXI port, as a netlist")
        ready, processes = block.loaded, [serve_reads(block.read, config.image(), latency)]
    bench = _Bench(alone(config), block, config.input_ports, config.output_ports, ready, processes)
    return bench.run(frames, stall, seed, arrivals)


def simulate_netlist(
    netlist: Netlist,
    inputs: Mapping[str, np.ndarray],
    *,
    stall: float | tuple[float, float] = 0.0,
    seed: int = 0,
    arrivals: Mapping[str, np.ndarray] | None = None,
    latency: int = 20,
    back_pressure: float = 0.0,
) -> TimedRun:
    """Run whole frames through the pipeline of a netlist.

    What is fetched ahead from off-chip memory, and weights that are loaded, come first; cycles
    count from then on.

    Parameters
    ----------
    netlist : :class:`hwgen.netlist.Netlist`
    inputs : input name to integer array ``(frames, *shape)``
    stall, seed : see :func:`run_streams`
    arrivals : input name to the earliest cycle of each beat; default: as soon as possible
    latency : cycles from an address on a port to off-chip memory to the first word
    back_pressure : probability that a channel of such a port pauses, each cycle

    Raises
    ------
    :exc:`HwgenError`
        If the pipeline is stuck, or breaks the stream protocol or the order of the memory.
    """
    pipeline: Any = Pipeline(netlist)
    ready, processes = None, []
    if (memory_map := netlist.offchip) is not None:
        memory = AxiMemory(memory_map.axi, netlist.memory_image(), memory_map.size, latency=latency,
                           back_pressure=back_pressure, seed=seed)
        ready = pipeline.memory_ready
        processes = memory.processes(pipeline.memory_ports, pipeline.memory_base)
    bench = _Bench(netlist, pipeline, pipeline.input_ports, pipeline.output_ports, ready, processes)
    return bench.run(
        [inputs[name] for name in netlist.inputs], stall, seed,
        None if arrivals is None else [arrivals[name] for name in netlist.inputs],
    )
