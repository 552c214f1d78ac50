"""Kinds of memory of queues and of blocks' own buffers: LUTs, block memory, UltraRAM."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen.boards import Board
from hwgen.design import OFF_CHIP, DesignPoint, EdgeName
from hwgen.device.cost import Resources
from hwgen.device.storage import STYLES
from hwgen.dse.design.allocate import allocate
from hwgen.dse.design.amounts import Amounts, vector
from hwgen.dse.design.table import Column, Consumer, FixedTable
from hwgen.ir import Graph
from hwgen.netlist import Netlist
from hwgen.plan import plan

__all__ = ["assign_memories", "memory", "ways"]


def memory(width: int, depth: int, style: str, family: str) -> np.ndarray:
    """Amounts that a memory takes, shape ``(resources,)``; see :meth:`Resources.memory`."""
    return vector(Resources.memory(width, depth, style, family))


def ways(width: int, depth: int, board: Board, copies: int = 1) -> list[Column]:
    """So many copies of a buffer in each kind of memory that a board has."""
    return [Column(Amounts(*(copies * memory(width, depth, style, board.family))), 0, style)
            for style in STYLES[: 3 if board.uram else 2]]


def assign_memories(
    graph: Graph, design: DesignPoint, netlist: Netlist, board: Board
) -> tuple[DesignPoint, Netlist]:
    """Give all queues and buffers kinds of memory with which a design fits a board.

    Their timing is the same for every kind, so the schedule stays what it is.

    Returns
    -------
    design, netlist
        As they were, if no kinds fit.
    """
    queues: dict[str, str] = {}
    buffers: dict[str, str] = {}
    parts: list[Consumer] = []
    fixed = vector(netlist.resources())
    into = {edge.source: edge.name for edge in netlist.edges}
    for name, config in netlist.blocks.items():
        if config.evicts:
            continue
        for k, (stream, depth, style) in enumerate(
            zip(config.outputs, config.queue_depths, config.queue_styles, strict=True)
        ):
            fixed -= memory(stream.width, depth, style, board.family)
            part = f"queue {name} {k}"
            queues[part] = into[name, k]
            parts.append(Consumer((part,), FixedTable(ways(stream.width, depth, board))))
        if config.buffer is not None and name in design.foldings:
            width, depth, copies, style = config.buffer
            fixed -= copies * memory(width, depth, style, board.family)
            part = f"buffer {name}"
            buffers[part] = name
            parts.append(Consumer((part,), FixedTable(ways(width, depth, board, copies))))
    allocation = allocate(parts, vector(board.usable) - fixed, 1)
    if allocation is None:
        return design, netlist
    foldings = dict(design.foldings)
    memories = {name: style for name, style in design.memories.items()
                if OFF_CHIP in (style, EdgeName.parse(name).behind)}
    for part, column in allocation.columns.items():
        style = str(column.choice)
        if part in queues:
            memories.setdefault(queues[part], style)
        else:
            foldings[buffers[part]] = replace(foldings[buffers[part]], window_style=style)
    design = replace(design, foldings=foldings, memories=memories)
    return design, plan(graph, design)
