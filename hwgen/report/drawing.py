"""The pipeline as a drawing: its blocks, how busy each is, and the streams between them."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from hwgen.netlist import Edge, Netlist
from hwgen.report.layered import Box, layered

__all__ = ["Node", "Pipework", "Stream", "outline", "pipework"]

LABEL = 23
"""Characters of a block's name for which its box has room."""
BLOCK = (150.0, 22.0)
HELPER = (66.0, 15.0)
"""Sizes of the boxes of blocks, and of those that carry out no op."""


@dataclass(frozen=True)
class Node:
    """A block, or an input or output of the network.

    Members
    -------
    box : where it is
    kind : ``"block"``, ``"helper"`` or ``"end"``
    label : what is written on it
    share : part of the pipeline's interval in which it works; 0 for an end
    binds : whether it works all of it
    text : lines that say more
    """

    box: Box
    kind: str
    label: str
    share: float
    binds: bool
    text: list[str]


@dataclass(frozen=True)
class Stream:
    """An edge: its curve as an SVG path, and lines of text about it."""

    path: str
    text: list[str]


@dataclass(frozen=True)
class Pipework:
    """The whole drawing."""

    width: float
    height: float
    nodes: list[Node]
    streams: list[Stream]


def elided(name: str, most: int = LABEL) -> str:
    """Shorten a name in its middle, until it is no wider than a number of Latin letters."""
    def width(text: str) -> int:
        return sum(1 + (unicodedata.east_asian_width(c) in "WFA") for c in text)

    if width(name) <= most:
        return name
    head, tail = name[:most], name[len(name) - most:]
    while width(head) > most // 2 - 1:
        head = head[:-1]
    while width(head) + width(tail) > most - 1:
        tail = tail[1:]
    return f"{head}…{tail}"


def pipework(netlist: Netlist, layers: Sequence[Mapping], interval: int) -> Pipework:
    """Draw a pipeline.

    Parameters
    ----------
    netlist : its blocks and edges
    layers : what the report says of each block
    interval : cycles a frame
    """
    known = {layer["name"]: layer for layer in layers}
    # Ends have keys of another kind than blocks, whose names are the network's own.
    inputs = {("input", k): name for k, name in enumerate(netlist.inputs)}
    outputs = {("output", k): name for k, name in enumerate(netlist.outputs)}
    sizes: dict[Hashable, tuple[float, float]] = dict.fromkeys(inputs, BLOCK)
    for name in netlist.blocks:
        sizes[name] = BLOCK if known[name]["op"] else HELPER
    sizes.update(dict.fromkeys(outputs, BLOCK))
    ends = [
        (("input", edge.source[1]) if edge.source[0] is None else edge.source[0],
         ("output", edge.sink[1]) if edge.sink[0] is None else edge.sink[0])
        for edge in netlist.edges
    ]
    drawing = layered(sizes, ends)
    nodes = []
    for key, box in drawing.boxes.items():
        if isinstance(key, str):
            nodes.append(_block(known[key], box, interval))
            continue
        name = (inputs | outputs)[key]
        stream = (netlist.inputs | netlist.outputs)[name]
        nodes.append(Node(box, "end", elided(name), 0.0, False, [
            f"{key[0]} {name}", f"{stream.tensor}, {stream.lanes} lanes",
        ]))
    streams = [
        Stream(outline(points), _stream_text(edge, known))
        for edge, points in zip(netlist.edges, drawing.paths, strict=True)
    ]
    return Pipework(drawing.width, drawing.height, nodes, streams)


def _block(layer: Mapping, box: Box, interval: int) -> Node:
    share = layer["interval_cycles"] / interval
    text = [
        layer["name"],
        f"{layer['op']} by {layer['block']}" if layer["op"] else layer["block"],
        f"output {layer['output']}, {layer['lanes'][-1]} lanes",
        f"{layer['interval_cycles']:,} cycles, {share:.1%} of the interval",
    ]
    if layer.get("folding"):
        # What is empty or 0 is left to the block.
        text.append(", ".join(f"{k} {v}" for k, v in layer["folding"].items() if v))
    if layer["macs"]:
        text.append(f"{layer['macs']:,} MACs a frame")
    text.append(", ".join(
        f"{layer[key]:,} {key}" for key in ("dsp", "bram18", "uram", "lut", "ff") if layer[key]
    ))
    text.append(f"queue of {', '.join(f'{depth:,}' for depth in layer['depths'])} beats")
    kind, label = "block", elided(layer["name"])
    if not layer["op"]:
        kind, (before, *_, after) = "helper", layer["lanes"]
        label = "queue" if before == after else f"{before} → {after} lanes"
        if len(layer["depths"]) > 1:
            label = f"fork to {len(layer['depths'])}"
    binds = layer["interval_cycles"] >= interval
    return Node(box, kind, label, share, binds, [line for line in text if line])


def _stream_text(edge: Edge, known: Mapping[str, Mapping]) -> list[str]:
    name, port = edge.source
    if name is None:
        return [edge.name]
    layer = known[name]
    lanes, depth = layer["lanes"][port - len(layer["depths"])], layer["depths"][port]
    return [edge.name, f"{lanes} lanes, {depth:,} beats deep"]


def outline(points: Sequence[tuple[float, float]]) -> str:
    """An SVG path that is straight between two points of one x, else a curve with vertical ends."""
    x, y = points[0]
    parts = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in points[1:]:
        if abs(to_x - x) < 0.05:
            parts.append(f"V{to_y:.1f}")
        else:
            middle = (y + to_y) / 2
            parts.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(parts)
