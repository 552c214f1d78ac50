"""Memory map of a design: the region and the port of each block that uses off-chip memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from hwgen.errors import HwgenError
from hwgen.offchip.bus import AxiConfig
from hwgen.offchip.port import AxiPortConfig

__all__ = ["PORT_SHARE", "REGION_ALIGNMENT", "Client", "MemoryMap", "OffChip", "map_memory"]

REGION_ALIGNMENT = 4096
"""Bytes of which the start of a region is a multiple, so that aligned bursts never cross a page."""

PORT_SHARE = 0.85
"""Share of a port's cycles that designs may use; the rest makes up for gaps of the memory."""


@dataclass(frozen=True)
class OffChip:
    """What a block keeps in off-chip memory.

    Such a block is a client of an AXI port (:mod:`hwgen.offchip.port`).  It has a member ``read``,
    a member ``write`` if it writes, and ``base``, the start of its region.  ``waits`` tells that it
    had to wait for the memory in this cycle, and ``loaded`` that what is fetched ahead has come.

    Members
    -------
    size : bytes of its region
    reads, writes : bytes read and written per frame
    ahead : bytes read before the first frame
    read_cycles : fewest cycles in which the requests to read of a frame can be made, for clients
        whose requests are so short that these may be more than those of their words
    """

    size: int
    reads: int
    writes: int = 0
    ahead: int = 0
    read_cycles: int = 0

    def moved(self, word_bytes: int) -> int:
        """Bytes per frame, and those that could have been moved between short requests."""
        return max(self.reads, self.read_cycles * word_bytes) + self.writes

    def cycles(self, side: str, word_bytes: int) -> float:
        """Cycles of a port for a frame; ``side``: ``"reads"`` or ``"writes"``."""
        cycles = getattr(self, side) / (word_bytes * PORT_SHARE)
        return max(cycles, self.read_cycles) if side == "reads" else cycles


class Client(Protocol):
    """What the memory map asks of a block."""

    @property
    def offchip(self) -> OffChip | None:
        """What the block keeps off chip, if anything."""

    def image(self) -> bytes:
        """Initial contents of the block's region."""
        ...


@dataclass(frozen=True)
class MemoryMap:
    """Regions of off-chip memory, and the ports through which blocks use them.

    Members
    -------
    axi : widths of the ports
    clients : per port, the blocks that use it
    offsets : per block, the start of its region
    uses : per block, what it keeps there
    size : bytes of all regions
    rate : bytes per cycle that the memory moves in practice; 0: as many as the ports
    """

    axi: AxiConfig
    clients: tuple[tuple[str, ...], ...]
    offsets: Mapping[str, int]
    uses: Mapping[str, OffChip]
    size: int
    rate: float = 0.0

    @property
    def interval(self) -> int:
        """Fewest cycles in which all that is moved for a frame can be requested and moved."""
        sides = [math.ceil(sum(self.uses[name].cycles(side, self.axi.word_bytes)
                               for name in names))
                 for names in self.clients for side in ("reads", "writes")]
        both = math.ceil((self.reads + self.writes) / self.rate) if self.rate else 0
        return max(both, *sides)

    @property
    def ports(self) -> int:
        """Number of AXI ports."""
        return len(self.clients)

    @cached_property
    def port_configs(self) -> tuple[AxiPortConfig, ...]:
        """Configurations of the ports."""
        return tuple(
            AxiPortConfig(axi=self.axi, readers=len(names), writers=len(self.writers(names)))
            for names in self.clients
        )

    def writers(self, names: tuple[str, ...]) -> list[str]:
        """Those of the named blocks that write."""
        return [name for name in names if self.uses[name].writes]

    @property
    def reads(self) -> int:
        """Bytes read per frame."""
        return sum(use.reads for use in self.uses.values())

    @property
    def writes(self) -> int:
        """Bytes written per frame."""
        return sum(use.writes for use in self.uses.values())

    def image(self, blocks: Mapping[str, Client]) -> bytes:
        """Initial contents of the memory: the image of each block, in its region."""
        image = bytearray()
        for name, offset in self.offsets.items():
            if data := blocks[name].image():
                image.extend(bytes(offset - len(image)))
                image.extend(data)
        return bytes(image)


def map_memory(
    blocks: Mapping[str, Client], axi: AxiConfig, ports: int, rate: float = 0.0
) -> MemoryMap | None:
    """Make the memory map of some blocks.

    Regions with initial contents come first.  Every port is busy for about as long per frame.

    Returns
    -------
    the memory map; None if no block uses off-chip memory

    Raises
    ------
    :exc:`HwgenError`
        If ports have too few identifiers, or addresses too few bits.
    """
    uses = {name: use for name, config in blocks.items() if (use := config.offchip) is not None}
    if not uses:
        return None
    offsets, size = {}, 0
    for name in sorted(uses, key=lambda name: uses[name].writes > 0):
        offsets[name] = size
        size += -(-uses[name].size // REGION_ALIGNMENT) * REGION_ALIGNMENT
    if size > 1 << axi.address_bits:
        raise HwgenError(
            f"Off-chip memory must be within {axi.address_bits} bits of address, "
            f"not of {size!r} bytes"
        )
    clients: list[list[str]] = [[] for _ in range(min(ports, len(uses)))]
    if len(uses) > ports << axi.id_bits:
        raise HwgenError(
            f"{ports} ports have identifiers for {ports << axi.id_bits} blocks with off-chip "
            f"memory, not for {len(uses)}"
        )
    loads = [0] * len(clients)
    for name in sorted(uses, key=lambda name: -uses[name].moved(axi.word_bytes)):
        port = min((k for k, names in enumerate(clients) if len(names) < 1 << axi.id_bits),
                   key=loads.__getitem__)
        loads[port] += uses[name].moved(axi.word_bytes)
        clients[port].append(name)
    return MemoryMap(axi, tuple(map(tuple, clients)), offsets, uses, size, rate)
