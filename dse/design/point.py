"""From what a search chose to a design point."""

from __future__ import annotations

from dataclasses import replace

from hwgen.design import OFF_CHIP, DesignPoint, EdgeName, Folding
from hwgen.dse.design.allocate import Allocation
from hwgen.dse.design.learned import QUEUE, Evicted
from hwgen.dse.design.streaming import External
from hwgen.dse.design.streams import Beats, fold_choices
from hwgen.ir import AveragePool, Graph, MaxPool, Mul, Node, Pad, Rearrange, Resize

__all__ = ["fill_in"]


def fill_in(
    design: DesignPoint, graph: Graph, allocation: Allocation, interval: int, beats: Beats,
    external: External | None,
) -> DesignPoint:
    """Fill in a design point that says nothing yet but its board and clock.

    Parameters
    ----------
    design : what is filled in, and returned
    graph : the network
    allocation : the ways that were chosen for its parts
    interval : cycles a frame
    beats : lanes and pixels of the streams
    external : off-chip memory, if it is used
    """
    design.lanes = dict(beats.lanes)
    design.pixels = {name: n for name, n in beats.pixels.items() if n > 1}
    for name, column in allocation.columns.items():
        edge, choice = name.removeprefix(QUEUE), column.choice
        if isinstance(choice, Evicted):
            design.memories[edge] = OFF_CHIP
            if choice.style:
                design.memories[str(EdgeName.parse(edge).part_behind(OFF_CHIP))] = choice.style
    if external is not None:
        design.ports = external.ports
    for node in graph.nodes:
        name, output = node.name, graph.types[node.name]
        if name in allocation.columns:
            folding = allocation.columns[name].choice
            assert isinstance(folding, Folding)
            design.foldings[name] = folding
        changes = {}
        if isinstance(node.op, Rearrange) or (external is not None and _bursts(node, graph)):
            # Evenly, for bursts would have to be kept by who takes them.
            stream = beats.stream(name, output)
            changes["pace"] = interval * stream.beats_per_site // stream.beats
        if isinstance(node.op, MaxPool | AveragePool):
            taps, count = node.op.window.taps, output.size // beats.lanes[name]
            changes["tap_lanes"] = next(
                (int(n) for n in fold_choices(taps) if count * -(-taps // n) <= interval), taps)
        if changes:
            design.foldings[name] = replace(design.foldings.get(name, Folding()), **changes)
    return design


def _bursts(node: Node, graph: Graph) -> bool:
    """Whether a node, left to itself, would send much at once that its inputs did not."""
    if isinstance(node.op, Pad):
        # Rows that are put behind the frame, and none before it.
        return (any(after > 0 for _, after in node.op.pads)
                and all(before <= 0 for before, _ in node.op.pads))
    single = graph.types[node.inputs[0]].pixels == 1
    return isinstance(node.op, Mul) or (isinstance(node.op, Resize) and single)
