"""Blocks and the streams between them: configurations only, for times and totals."""

from __future__ import annotations

from dataclasses import dataclass, field

from hwgen.blocks.base import BlockConfig
from hwgen.device.cost import Resources, total
from hwgen.device.storage import FAMILY
from hwgen.ir import Graph
from hwgen.offchip.memory_map import MemoryMap
from hwgen.parts.stream import StreamType

__all__ = ["Edge", "Netlist"]


@dataclass(frozen=True)
class Edge:
    """A stream from an output port to an input port; ``None`` stands for the outside.

    Members
    -------
    name : ``tensor>consumer``
    tensor : name of the tensor that flows
    source, sink : (block name, port index) or, outside, (None, index of graph input or output)
    """

    name: str
    tensor: str
    source: tuple[str | None, int]
    sink: tuple[str | None, int]


@dataclass
class Netlist:
    """Blocks in topological order, and the edges between them.

    Members
    -------
    graph : the integer graph it came from, with the design's nodes split
    blocks : block name to configuration
    ops : block name to the names of the nodes that it carries out, one after the other (helpers
        are missing)
    edges : every stream
    inputs, outputs : tensor names and stream types at the outside
    offchip : how off-chip memory is used, if it is
    family : device family, one of :data:`hwgen.device.cost.COEFFICIENTS`
    """

    graph: Graph
    blocks: dict[str, BlockConfig] = field(default_factory=dict)
    ops: dict[str, tuple[str, ...]] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    inputs: dict[str, StreamType] = field(default_factory=dict)
    outputs: dict[str, StreamType] = field(default_factory=dict)
    offchip: MemoryMap | None = None
    family: str = FAMILY

    @property
    def interval(self) -> int:
        """Cycles a frame: those of the slowest block, of the longest stream, or of the off-chip
        memory."""
        streams = (*self.inputs.values(), *self.outputs.values())
        return max(
            max(config.interval for config in self.blocks.values()),
            max(stream.beats for stream in streams),
            self.offchip.interval if self.offchip else 0,
        )

    @property
    def sparse(self) -> list[str]:
        """Blocks that pass over zeros: how long they take depends on the data, and all times are
        those of the average."""
        return [name for name, config in self.blocks.items() if config.depends_on_data]

    @property
    def loading(self) -> list[str]:
        """Blocks whose weights are loaded after reset, in that order."""
        return [name for name, config in self.blocks.items() if config.loads]

    def load_words(self) -> list[int]:
        """Words of weights that are loaded after reset, in order."""
        return [word for name in self.loading for word in self.blocks[name].load_words()]

    def memory_image(self) -> bytes:
        """What off-chip memory holds at the beginning, from its base on."""
        return self.offchip.image(self.blocks) if self.offchip else b""

    def resources(self) -> Resources:
        """What all blocks take together, and the ports to off-chip memory."""
        ports = self.offchip.port_configs if self.offchip else ()
        areas = (config.area() for config in (*self.blocks.values(), *ports))
        return total(areas).resources(self.family)
