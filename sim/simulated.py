"""What can be simulated: a whole pipeline, or a single block as a pipeline of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hwgen.blocks.base import BlockConfig
from hwgen.design import EdgeName
from hwgen.ir import Graph
from hwgen.netlist import Edge, Netlist
from hwgen.offchip.bus import AxiConfig
from hwgen.offchip.memory_map import map_memory
from hwgen.parts.stream import StreamType

__all__ = ["AxiPorts", "Simulated", "alone"]


class AxiPorts(Protocol):
    """The AXI4 ports to off-chip memory, such as those of a
    :class:`hwgen.offchip.memory_map.MemoryMap`.

    Members
    -------
    axi : widths of each port
    ports : how many there are
    size : bytes of the memory behind them
    """

    @property
    def axi(self) -> AxiConfig: ...

    @property
    def ports(self) -> int: ...

    @property
    def size(self) -> int: ...


class Simulated(Protocol):
    """What both simulators ask of a design: its streams, and what its memories begin with.

    A :class:`hwgen.netlist.Netlist` says all this of a whole pipeline; :func:`alone` makes one of
    a single block.

    Members
    -------
    inputs, outputs : stream types by the names under which frames go in and come out
    offchip : ports to off-chip memory; None if there are none
    """

    @property
    def inputs(self) -> Mapping[str, StreamType]: ...

    @property
    def outputs(self) -> Mapping[str, StreamType]: ...

    @property
    def offchip(self) -> AxiPorts | None: ...

    def load_words(self) -> list[int]:
        """Words of weights that are loaded after reset, in order."""
        ...

    def memory_image(self) -> bytes:
        """What off-chip memory holds at the beginning."""
        ...


def alone(config: BlockConfig, axi: AxiConfig | None = None) -> Netlist:
    """A single block as a whole pipeline, whose streams have the names of the block's ports.

    Parameters
    ----------
    config : the block's configuration
    axi : widths of an AXI4 port, for a block that uses off-chip memory; without, the netlist has
        no port
    """
    name = "block"
    blocks = {name: config}
    return Netlist(
        Graph(), blocks,
        edges=[
            *(Edge(str(EdgeName(port, name)), port, (None, k), (name, k))
              for k, port in enumerate(config.input_ports)),
            *(Edge(str(EdgeName(port, "output")), port, (name, k), (None, k))
              for k, port in enumerate(config.output_ports)),
        ],
        inputs=dict(zip(config.input_ports, config.inputs, strict=True)),
        outputs=dict(zip(config.output_ports, config.outputs, strict=True)),
        offchip=None if axi is None else map_memory(blocks, axi, ports=1),
    )
