"""Time predicted to the cycle: the max-plus schedule of a whole pipeline.

Every block's configuration says when its output beats leave, given when its input beats came
(:meth:`hwgen.blocks.base.BlockConfig.schedule`).  Here the whole graph is walked in topological
order with frames that arrive evenly, one every ``interval`` cycles.  The depth of a queue is the
largest number of its places that are ever claimed at once, and a window buffer's capacity the
largest number of pixels that it ever holds.

With these depths no block is ever stalled by one behind it, so the schedule is what the hardware
does.  A pipeline of queues is a marked graph, whose self-timed run is monotonic: a beat that comes
earlier never makes another one later (Baccelli et al., "Synchronization and Linearity").
Therefore input that comes faster, or outputs that stall, cannot deadlock it or lower its
throughput.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hwgen.design import DesignPoint, Folding
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.netlist import Netlist
from hwgen.parts.queue import queue_depth
from hwgen.plan import plan

__all__ = ["Timing", "analyse", "arrivals", "sized"]

FRAMES = 3
"""Frames that are walked at first."""
LONGER = 64
"""Times as many frames that are walked at most until the schedule settles."""
SAMPLE, FEW = 17, 0.02
"""Which beats are looked at for how long they wait, and the share that may wait less."""
DEEP = 18432
"""Bits of a queue from which on it is asked how long beats wait in it: those of a block."""


@dataclass(frozen=True)
class Timing:
    """The schedule of a pipeline in the steady state.

    Members
    -------
    interval : cycles from a frame to the next
    latency : cycles from a frame's first input beat to the last beat of its last output (first
        frame)
    first_output : the same, to the first beat of its first output
    depths : edge name to queue depth, in beats
    capacities : block name to pixels in its window buffer
    waits : of edges with a queue of :data:`DEEP` bits or more, edge name to cycles from the claim
        of a place to its beat being taken: more for nearly all beats (not for those that a consumer
        takes before it needs them)
    first, last : per output, cycle of the first and last beat of each frame that was analysed
    """

    interval: int
    latency: int
    first_output: int
    depths: dict[str, int]
    capacities: dict[str, int]
    waits: dict[str, int]
    first: list[np.ndarray]
    last: list[np.ndarray]

    def of_frames(self, frames: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """``first`` and ``last`` of some frames; those not analysed are like the one before."""
        later = self.interval * np.arange(1, frames + 1)
        first, last = ([np.append(each, each[-1] + later)[:frames] for each in times]
                       for times in (self.first, self.last))
        return first, last


def arrivals(beats: int, interval: int, frames: int) -> np.ndarray:
    """Cycles at which evenly spaced beats arrive, ``(frames * beats,)``."""
    frame = np.arange(beats, dtype=np.int64) * interval // beats
    return (np.arange(frames, dtype=np.int64)[:, None] * interval + frame).ravel()


def analyse(netlist: Netlist, interval: int = 0) -> Timing:
    """The schedule of a netlist, its queue depths and buffer capacities.

    Parameters
    ----------
    netlist : :class:`hwgen.netlist.Netlist`
        Depths and capacities in it are ignored: they are what is found.
    interval : :class:`int`
        Cycles between frames at the input; 0: the least possible.

    Raises
    ------
    :exc:`HwgenError`
        If the interval is below what the slowest block needs.
    """
    least = netlist.interval
    interval = interval or least
    if interval < least:
        raise HwgenError(f"Interval must be at least {least} cycles, not {interval!r}")
    frames = FRAMES
    needed, most = frames, LONGER * frames
    while frames <= most:
        timing, steady, together = _walk(netlist, interval, frames)
        if steady and frames >= together:
            return timing
        # Frames that a block holds at once are walked without limit: it knows how many they are.
        needed = max(needed, together)
        most = max(most, LONGER * needed)
        frames = max(2 * frames, needed)
    raise HwgenError(f"The schedule does not settle within {most} frames")


def _walk(netlist: Netlist, interval: int, frames: int) -> tuple[Timing, bool, int]:
    """Schedule ``frames`` frames.

    Also returns whether the last two are alike, and the number of frames that must be walked so
    that a buffer once holds as many of them as it ever will.
    """
    visible: dict[tuple[str | None, int], np.ndarray] = {}
    claims: dict[tuple[str | None, int], np.ndarray] = {}
    for k, stream in enumerate(netlist.inputs.values()):
        visible[None, k] = arrivals(stream.beats, interval, frames)
    into = {edge.sink: edge for edge in netlist.edges}
    depths: dict[str, int] = {}
    waits: dict[str, int] = {}
    capacities: dict[str, int] = {}
    steady = True
    together = FRAMES
    for name, config in netlist.blocks.items():
        edges = [into[name, k] for k in range(len(config.inputs))]
        schedule = config.schedule([visible.pop(edge.source) for edge in edges])
        for port, (edge, accept) in enumerate(zip(edges, schedule.accepts, strict=True)):
            claim = claims.pop(edge.source, None)
            if claim is not None:
                depths[edge.name] = depth = _depth(claim, accept, interval, frames)
                if depth * config.inputs[port].width >= DEEP:
                    waits[edge.name] = int(np.quantile(accept[::SAMPLE] - claim[::SAMPLE], FEW))
        if schedule.capacity is not None:
            capacities[name] = schedule.capacity
            stay = max(int(times[-1]) for times in schedule.outputs) - min(
                int(times.reshape(frames, -1)[-1, 0]) for times in schedule.accepts)
            together = max(together, stay // interval + 2)
        for k, (times, claim) in enumerate(zip(schedule.outputs, schedule.claims, strict=True)):
            visible[name, k], claims[name, k] = times, claim
            by_frame = times.reshape(frames, -1)
            steady = steady and bool((by_frame[-1] == by_frame[-2] + interval).all())
    first, last = [], []
    for k in range(len(netlist.outputs)):
        edge = into[None, k]
        by_frame = visible[edge.source].reshape(frames, -1)
        depths[edge.name] = queue_depth(claims[edge.source], visible[edge.source])
        first.append(by_frame[:, 0])
        last.append(by_frame[:, -1])
    return Timing(
        interval=interval,
        latency=int(max(n[0] for n in last)),
        first_output=int(min(f[0] for f in first)),
        depths=depths,
        capacities=capacities,
        waits=waits,
        first=first,
        last=last,
    ), steady, together


def _depth(claims: np.ndarray, pops: np.ndarray, interval: int, frames: int) -> int:
    """Depth of a queue, also if it holds more frames than were walked: they are like the last."""
    depth = queue_depth(claims, pops)
    claims, pops = (times.reshape(frames, -1)[-1] for times in (claims, pops))
    wait = int((pops - claims).max())
    if wait > (frames - 1) * interval:
        shifts = interval * np.arange(wait // interval + 2)[:, None]
        depth = max(depth, queue_depth((claims + shifts).ravel(), (pops + shifts).ravel()))
    return depth


def sized(graph: Graph, design: DesignPoint) -> tuple[DesignPoint, Netlist, Timing]:
    """A design point with every depth and capacity found, its netlist and its schedule.

    Depths and capacities that the design point already sets are replaced.
    """
    bare = replace(
        design, depths={},
        foldings={name: replace(f, capacity=0) for name, f in design.foldings.items()},
    )
    netlist = plan(graph, bare)
    timing = analyse(netlist)
    foldings = dict(bare.foldings)
    for name, capacity in timing.capacities.items():
        foldings[name] = replace(foldings.get(name, Folding()), capacity=capacity)
    full = replace(bare, depths=timing.depths, foldings=foldings)
    return full, plan(graph, full), timing
