"""Kinds of memory of queues and window buffers: LUTs, block memory, UltraRAM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen.boards import Board
from hwgen.design import OFF_CHIP, DesignPoint, EdgeName
from hwgen.device.cost import Resources
from hwgen.device.storage import STYLES
from hwgen.dse.design.allocate import Part, allocate
from hwgen.dse.design.foldings import RESOURCES, Column, FixedTable
from hwgen.ir import Graph
from hwgen.netlist import Netlist
from hwgen.plan import plan

__all__ = ["assign_memories", "vector", "ways"]


def vector(resources: Resources) -> np.ndarray:
    """Resources as the search divides them."""
    return np.array([getattr(resources, name, 0) for name in RESOURCES], float)


def ways(width: int, depth: int, board: Board) -> list[Column]:
    """A buffer in each kind of memory that a board has."""
    return [Column(tuple(vector(Resources.memory(width, depth, style, board.family))), 0, style)
            for style in STYLES[: 3 if board.uram else 2]]


def assign_memories(
    graph: Graph, design: DesignPoint, netlist: Netlist, board: Board
) -> tuple[DesignPoint, Netlist]:
    """The kinds of memory of all queues and window buffers, with which a design fits a board.

    Their timing is the same for every kind, so the schedule stays what it is.
    """
    names: dict[str, tuple[str, str]] = {}
    parts: list[Part] = []
    fixed = vector(netlist.resources())
    into = {edge.source: edge.name for edge in netlist.edges}
    for name, config in netlist.blocks.items():
        if config.evicts:
            continue
        for k, (stream, depth, style) in enumerate(
            zip(config.outputs, config.queue_depths, config.queue_styles, strict=True)
        ):
            fixed -= vector(Resources.memory(stream.width, depth, style, board.family))
            names[f"queue {name} {k}"] = "queue", into[name, k]
            parts.append(Part((f"queue {name} {k}",),
                              FixedTable(ways(stream.width, depth, board))))
        window = config.window
        if window is not None and name in design.foldings:
            width = window.word_lanes * window.input.tensor.bits
            copies = window.tap_lanes * window.banks
            style = Resources.memory(width, window.depth, window.style, board.family)
            fixed -= copies * vector(style)
            names[f"window {name}"] = "window", name
            parts.append(Part((f"window {name}",), FixedTable([
                replace(column, takes=tuple(copies * n for n in column.takes))
                for column in ways(width, window.depth, board)
            ])))
    allocation = allocate(parts, vector(board.usable) - fixed, 1)
    if allocation is None:
        return design, netlist
    foldings = dict(design.foldings)
    memories = {name: style for name, style in design.memories.items()
                if OFF_CHIP in (style, EdgeName.parse(name).behind)}
    for name, column in allocation.columns.items():
        kind, target = names[name]
        style = str(column.choice)
        if kind == "queue":
            memories.setdefault(target, style)
        else:
            foldings[target] = replace(foldings[target], window_style=style)
    design = replace(design, foldings=foldings, memories=memories)
    return design, plan(graph, design)
