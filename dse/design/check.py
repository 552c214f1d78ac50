"""Whether a design that was given can be built on a board."""

from __future__ import annotations

from dataclasses import replace

from hwgen.boards import Board
from hwgen.design import DesignPoint
from hwgen.device.cost import Resources
from hwgen.dse.design.bounds import bounds
from hwgen.dse.design.found import GIVEN, Found
from hwgen.dse.design.refusal import lacking
from hwgen.dse.design.streams import Streams
from hwgen.errors import HwgenError
from hwgen.ir import Graph
from hwgen.netlist import Netlist
from hwgen.plan import plan
from hwgen.timing import Timing, analyse

__all__ = ["check_design", "complete"]


def complete(graph: Graph, board: Board, design: DesignPoint, name: str = "The design") -> Found:
    """A design that was given, with all depths and capacities, checked.

    Parameters
    ----------
    graph, board, design : the network, what it must fit, and the design
    name : what messages call the design

    Raises
    ------
    :exc:`HwgenError`
        If the design is for another board or does not fit it, or if a queue or a buffer is so small
        that the pipeline slows down or deadlocks.
    """
    if design.board != board.name:
        raise HwgenError(f"{name} is a design for board {design.board!r}, not {board.name!r}")
    timing = analyse(plan(graph, design))
    foldings, short = dict(design.foldings), []
    for edge, depth in timing.depths.items():
        if edge in design.depths and design.depths[edge] < depth:
            short.append(f"edge {edge!r} needs a depth of {depth}, not {design.depths[edge]}")
    for node, capacity in timing.capacities.items():
        have = foldings[node].capacity if node in foldings else 0
        if 0 < have < capacity:
            short.append(
                f"the buffer of {node!r} needs a capacity of {capacity} pixels, not {have}")
        if not have and node in foldings:
            foldings[node] = replace(foldings[node], capacity=capacity)
    if short:
        more = f"; and {len(short) - 8} more" if short[8:] else ""
        raise HwgenError(
            f"{name}: {'; '.join(short[:8])}{more}: with less the pipeline slows down or "
            f"deadlocks; where it says 0, what is needed is found"
        )
    design = replace(design, depths={**timing.depths, **design.depths}, foldings=foldings)
    return check_design(graph, board, design, timing)


def check_design(graph: Graph, board: Board, design: DesignPoint, timing: Timing) -> Found:
    """A design that was given, with its plan and its bounds.

    Parameters
    ----------
    graph, board, design : the network, what it must fit, and the design
    timing : its schedule

    Raises
    ------
    :exc:`HwgenError`
        If it does not fit, or is for other multipliers.
    """
    board.check_clock(design.clock_mhz, "The design's clock_mhz")
    design = replace(design, family=board.family)
    netlist = plan(graph, design)
    check_multipliers(netlist, board)
    check_fits(netlist, board)
    streams = Streams(graph)
    return Found(design, netlist, timing, bounds(graph, board, streams, design.clock_mhz),
                 GIVEN)


def check_multipliers(netlist: Netlist, board: Board) -> None:
    """Raise :exc:`HwgenError`, naming block and field, if a multiplier is not the board's."""
    legal = ("", board.multiplier, "fabric")
    for name, config in netlist.blocks.items():
        for choice in ("multiplier", "requantiser_multiplier"):
            if choice in config.folding_fields and (value := getattr(config, choice)) not in legal:
                raise HwgenError(
                    f"Node {name!r}: {choice} must be {board.multiplier!r} or 'fabric' on board "
                    f"{board.name}, not {value!r}"
                )


def check_fits(netlist: Netlist, board: Board) -> None:
    """Raise :exc:`HwgenError` if a design is larger than a board.

    It names the resource, and the block or the queue that takes most of it.
    """
    for lack in lacking(netlist.resources(), board.resources):
        takes = {repr(block): getattr(config.resources(netlist.family), lack.resource)
                 for block, config in netlist.blocks.items()}
        for edge in netlist.edges:
            source, k = edge.source
            if source is not None:
                config = netlist.blocks[source]
                queue = getattr(Resources.memory(
                    config.outputs[k].width, config.queue_depths[k], config.queue_styles[k],
                    netlist.family), lack.resource)
                takes[f"the queue {edge.name!r}"] = queue
                takes[repr(source)] -= queue
        largest = max(takes, key=lambda part: takes[part])
        raise HwgenError(
            f"The design needs {lack.need} {lack.resource}, {takes[largest]} of them for "
            f"{largest}; board {board.name} has {lack.have}: give another design, or choose a "
            f"larger board"
        )
