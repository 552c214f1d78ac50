"""Lanes and pixels a beat: the fewest with which every stream carries a frame in an interval.

A block that keeps lanes and pixels has the same of both in all its streams, so their tensors form a
class, which is decided as a whole.  Convolutions lie between classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from hwgen.blocks.registry import keeps_lanes, keeps_pixels
from hwgen.blocks.softmax import least_row_cycles
from hwgen.device.arithmetic import levels
from hwgen.dse.design.cells import fewest_lanes, least_interval
from hwgen.dse.design.extents import divisors, fold_choices
from hwgen.ir import (
    Attention,
    Conv,
    Convolution,
    Graph,
    MatMul,
    Node,
    Rearrange,
    Recurrent,
    Softmax,
    TensorType,
)
from hwgen.parts.stream import StreamType

__all__ = [
    "MOST_PIXELS", "Beats", "StreamClass", "Streams", "divisors", "fold_choices", "is_depthwise",
]

MOST_PIXELS = 8
"""Most pixels a beat that are tried."""


def is_depthwise(conv: Convolution) -> bool:
    """Whether an activation meets a single weight, so that multipliers cannot share it."""
    return conv.groups > 1 and conv.weight.shape[0] == conv.groups


class Beats(NamedTuple):
    """Lanes and pixels a beat of every tensor, by its name."""

    lanes: dict[str, int]
    pixels: dict[str, int]

    def stream(self, name: str, type: TensorType) -> StreamType:
        """The stream of a tensor."""
        return StreamType(type, self.lanes[name], self.pixels[name])


@dataclass
class StreamClass:
    """Tensors that have the same lanes and pixels.

    Members
    -------
    members : names of the tensors
    channels : greatest common divisor of their channels, and of those of a head
    extent : greatest common divisor of their innermost extents
    elements : elements of the largest
    single : whether a block takes them one pixel at a time
    """

    members: list[str] = field(default_factory=list)
    channels: int = 0
    extent: int = 0
    elements: int = 0
    single: bool = False

    def add(self, name: str, type: TensorType) -> None:
        """Take in a tensor."""
        self.members.append(name)
        self.channels = math.gcd(self.channels, type.channels)
        self.extent = math.gcd(self.extent, type.spatial[-1] if type.spatial else 1)
        self.elements = max(self.elements, type.size)

    def lanes(self, interval: int, pixels: int) -> int | None:
        """Fewest lanes that carry a frame in an interval; None: all are too few."""
        least = -(-self.elements // (interval * pixels))
        return next((n for n in self._divisors if n >= least), None)

    def pixels(self, interval: int) -> int | None:
        """Fewest pixels a beat with which some lanes carry a frame in an interval; None: none."""
        for pixels in range(1, (1 if self.single else MOST_PIXELS) + 1):
            if self.extent % pixels == 0 and self.lanes(interval, pixels) is not None:
                return pixels
        return None

    @cached_property
    def _divisors(self) -> list[int]:
        return divisors(self.channels)


class Streams:
    """The classes of a graph.

    Parameters
    ----------
    graph : :class:`Graph`
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        parent = {name: name for name in graph.types}

        def find(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        single = set(graph.outputs)
        for node in graph.nodes:
            tensors = [*node.inputs, *node.outputs]
            first = graph.types[node.inputs[0]]
            conv = node.op.as_conv(first)
            if conv is None and keeps_lanes(node.op, first):
                for other in tensors[1:]:
                    parent[find(other)] = find(tensors[0])
            if not (keeps_pixels(node.op, first) or isinstance(node.op, Conv)):
                single.update(tensors)
        self.classes: dict[str, StreamClass] = {}
        for name, type in graph.types.items():
            self.classes.setdefault(find(name), StreamClass()).add(name, type)
        self.of = {name: self.classes[find(name)] for name in graph.types}
        self.cells = {node.name: (node.op, StreamType(graph.types[node.inputs[0]]))
                      for node in graph.nodes if isinstance(node.op, Recurrent)}
        for node in graph.nodes:
            if isinstance(node.op, Attention):
                # A beat of an attention is of one head.
                _, count = node.op.head_channels(*(graph.types[t] for t in node.inputs))
                self.of[node.name].channels = math.gcd(self.of[node.name].channels, count)
            if isinstance(node.op, MatMul):
                count = node.op.head_results(*(graph.types[t] for t in node.inputs))
                self.of[node.name].channels = math.gcd(self.of[node.name].channels, count)
            if isinstance(node.op, Softmax):
                count = graph.types[node.name].channels // node.op.groups
                self.of[node.name].channels = math.gcd(self.of[node.name].channels, count)
        for name in single:
            self.of[name].single = True

    def least_interval(self) -> int:
        """Cycles below which no streams carry a frame, whatever they cost."""
        return max(self._least_order, self._least_loop, self._least_rows, *(
            -(-each.elements // (each.channels * max(
                n for n in range(1, (1 if each.single else MOST_PIXELS) + 1)
                if each.extent % n == 0
            )))
            for each in self.classes.values()
        ))

    def bound(self) -> int:
        """Cycles that no design is below: all channels of a tensor a beat, and as many pixels.

        Unlike :meth:`least_interval`, where tensors of a class have the same lanes, each tensor may
        have its own: lanes change on the way.  The steps of a recurrent cell wait for one another.
        """
        return max(self._least_loop, *(
            math.prod(self.graph.types[name].spatial) // (1 if each.single else each.extent)
            for each in self.classes.values() for name in each.members
        ))

    @cached_property
    def _least_order(self) -> int:
        """Cycles that frames take at least which are put in another order, a word a cycle."""
        least = 0
        for node in self.graph.nodes:
            if isinstance(node.op, Rearrange):
                source = self.graph.types[node.inputs[0]]
                most = max(source.size, self.graph.types[node.name].size)
                least = max(least, most // node.op.run(source))
        return least

    @cached_property
    def _least_rows(self) -> int:
        """Cycles with which every softmax has time for its divisions, whatever the lanes."""
        return max((
            self.graph.types[node.name].pixels * node.op.groups * (
                least_row_cycles(node.op, each.channels, each.channels) + levels(each.channels))
            for node in self.graph.nodes if isinstance(node.op, Softmax)
            for each in (self.of[node.name],)), default=0)

    @cached_property
    def _least_loop(self) -> int:
        """Cycles that the loops of recurrent cells take at least, a step after the other."""
        return max((least_interval(*cell) for cell in self.cells.values()), default=0)

    def choose(self, interval: int, pairs: bool) -> Beats | None:
        """The fewest lanes, and then pixels, that carry a frame in an interval; None: none do.

        Parameters
        ----------
        interval : cycles a frame
        pairs : whether depthwise convolutions compute pixels in pairs, which share multipliers
        """
        if interval < max(self._least_order, self._least_loop, self._least_rows):
            return None
        pixels: dict[int, int] = {}
        for each in self.classes.values():
            found = each.pixels(interval)
            if found is None:
                return None
            pixels[id(each)] = found
        if not all(self._fits(node, pixels) for node in self.graph.nodes):
            return None
        if pairs:
            for node in self.graph.nodes:
                conv = node.op.as_conv(self.graph.types[node.inputs[0]])
                if isinstance(node.op, Conv) and conv is not None and is_depthwise(conv):
                    self._pair(node, pixels)
        lanes = {}
        for each in self.classes.values():
            count = each.lanes(interval, pixels[id(each)])
            assert count is not None
            for name in each.members:
                if name in self.cells:
                    enough = fewest_lanes(*self.cells[name], interval)
                    if enough is None:
                        return None
                    count = max(count, enough)
            found = next((n for n in divisors(each.channels) if n >= count), None)
            if found is None:
                return None
            lanes.update(dict.fromkeys(each.members, found))
        for name in self.cells:
            self._feed(name, interval, lanes)
        return Beats(lanes, {name: pixels[id(each)] for name, each in self.of.items()})

    def _feed(self, name: str, interval: int, lanes: dict[str, int]) -> None:
        """Give what a cell reads lanes that can be changed to those of the cell in an interval.

        A change goes by the largest number of lanes that divides both.
        """
        op, stream = self.cells[name]
        (source,) = (node.inputs[0] for node in self.graph.nodes if node.name == name)
        each, own = self.of[source], op.gates * lanes[name]
        least = -(-stream.tensor.size // interval)
        found = next((n for n in divisors(each.channels)
                      if n >= lanes[source] and math.gcd(n, own) >= least), lanes[source])
        lanes.update(dict.fromkeys(each.members, found))

    def _pair(self, node: Node, pixels: dict[int, int]) -> None:
        """Let a convolution compute pixels in pairs, if all nodes at its output can take them."""
        each = self.of[node.name]
        if each.single or each.extent % 2 or pixels[id(each)] > 1:
            return
        pixels[id(each)] = 2
        touching = (n for n in self.graph.nodes if n.name in each.members
                    or set(n.inputs) & set(each.members))
        if not all(self._fits(n, pixels) for n in touching):
            pixels[id(each)] = 1

    def _fits(self, node: Node, pixels: dict[int, int]) -> bool:
        """Whether a node can take and send so many pixels a beat; others than convolutions can."""
        before = pixels[id(self.of[node.inputs[0]])]
        after = pixels[id(self.of[node.name])]
        if not isinstance(node.op, Conv) or before == after == 1:
            return True
        width = self.graph.types[node.inputs[0]].spatial[-1]
        stride = node.op.window.stride[-1]
        return (width % math.lcm(before, after * stride) == 0
                and self.graph.types[node.name].spatial[-1] * stride == width)
