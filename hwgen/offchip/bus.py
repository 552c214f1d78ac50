"""The AXI4 bus: its widths, its channels, its pins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from amaranth.hdl import Module, Shape
from amaranth.lib import stream, wiring
from amaranth.lib.data import StructLayout
from amaranth.lib.wiring import In, Out

from hwgen.errors import HwgenError

__all__ = [
    "BURST", "BURST_LIMIT", "ID_BITS", "INCREMENTING", "MEMORY_LATENCY", "MODIFIABLE", "PAGE",
    "REQUEST_LIMIT", "AxiConfig", "axi_ports", "connect_axi",
]


PAGE = 4096
"""Bytes of a page, whose boundary no burst may cross."""


BURST_LIMIT = 256
"""Most words in a burst."""


REQUEST_LIMIT = 4096
"""Most bytes in a request."""


BURST = 64
"""Default number of words in a request."""


MEMORY_LATENCY = 360
"""Default for the most cycles that a request takes.

It is that of DDR4 behind the ports of a Zynq UltraScale+, if others use them, too.
"""


INCREMENTING = 1
"""``AxBURST``: the address goes up by a word from beat to beat."""


ID_BITS = 6
"""Bits of AXI identifiers at the ports of Zynq UltraScale+."""


MODIFIABLE = 3
"""``AxCACHE``: normal memory, bufferable, not cached; the interconnect may merge bursts."""


@dataclass(frozen=True, kw_only=True)
class AxiConfig:
    """Widths of an AXI4 master, and what is derived from them.

    Parameters
    ----------
    data_bits : :class:`int`
        Bits of a word, a power of two from 32 to 1024.
    address_bits : :class:`int`
        Bits of a byte address, 12 to 64.
    id_bits : :class:`int`
        Bits of an identifier, 1 to 16.

    Raises
    ------
    :exc:`HwgenError`
        If a width is out of range.
    """

    data_bits: int = 128
    address_bits: int = 40
    id_bits: int = ID_BITS

    def __post_init__(self) -> None:
        if not 32 <= self.data_bits <= 1024 or self.data_bits & (self.data_bits - 1):
            raise HwgenError(
                f"AXI data bits must be a power of two from 32 to 1024, not {self.data_bits!r}"
            )
        if not 12 <= self.address_bits <= 64:
            raise HwgenError(
                f"AXI address bits must be between 12 and 64, not {self.address_bits!r}"
            )
        if not 1 <= self.id_bits <= 16:
            raise HwgenError(f"AXI identifier bits must be between 1 and 16, not {self.id_bits!r}")

    @property
    def word_bytes(self) -> int:
        """Bytes of a word."""
        return self.data_bits // 8

    @property
    def word_shift(self) -> int:
        """Bits of the offset of a byte within a word."""
        return self.word_bytes.bit_length() - 1

    @property
    def burst_bits(self) -> int:
        """Bits of the offset of a word within the aligned block that no burst leaves.

        The block is a page, or 256 words of it if that is less.
        """
        return min(PAGE // self.word_bytes, BURST_LIMIT).bit_length() - 1

    def words(self, size: int) -> int:
        """Words that ``size`` bytes take."""
        return -(-size // self.word_bytes)

    @property
    def request_layout(self) -> StructLayout:
        """Request of a client: byte offset and number of bytes."""
        return StructLayout({
            "address": self.address_bits, "bytes": REQUEST_LIMIT.bit_length(),
        })

    @property
    def address_layout(self) -> StructLayout:
        """Payload of AW and AR."""
        return StructLayout({"addr": self.address_bits, "len": 8, "id": self.id_bits})

    @property
    def write_layout(self) -> StructLayout:
        """Payload of W."""
        return StructLayout({"data": self.data_bits, "strb": self.word_bytes, "last": 1})

    @property
    def signature(self) -> wiring.Signature:
        """The five channels, seen from the master, without pins that are constant."""
        return wiring.Signature({
            "aw": Out(stream.Signature(self.address_layout)),
            "w": Out(stream.Signature(self.write_layout)),
            "b": In(stream.Signature(StructLayout({"id": self.id_bits, "resp": 2}))),
            "ar": Out(stream.Signature(self.address_layout)),
            "r": In(stream.Signature(StructLayout({
                "id": self.id_bits, "data": self.data_bits, "resp": 2, "last": 1,
            }))),
        })

    @property
    def read_client(self) -> wiring.Signature:
        """Signature of a client that reads: its requests, and their words in order.

        The last word of a request is always complete.  A client requests only what it has room for.
        """
        return wiring.Signature({
            "request": Out(stream.Signature(self.request_layout)),
            "data": In(stream.Signature(self.data_bits, always_ready=True)),
        })

    @property
    def write_client(self) -> wiring.Signature:
        """Signature of a client that writes: its requests, their words in order, and ``done``.

        Of the last word of a request, only the bytes that the request covers are written.  When a
        client makes a request, it has all of the words, or they will come every cycle.  There is a
        pulse of ``done`` for each request, when all of it is in memory.
        """
        return wiring.Signature({
            "request": Out(stream.Signature(self.request_layout)),
            "data": Out(stream.Signature(self.data_bits)),
            "done": In(1),
        })


@dataclass(frozen=True)
class _Pin:
    """A pin of an AXI4 master: the part of a channel that it is, or its constant value."""

    name: str
    flow: wiring.Flow
    width: int
    channel: str
    part: str | int


def _pins(config: AxiConfig) -> Iterator[_Pin]:
    constants = {"size": (3, config.word_shift), "burst": (2, INCREMENTING),
                 "cache": (4, MODIFIABLE), "prot": (3, 0)}
    for channel, member in config.signature.members.items():
        flow = member.flow
        for name, shape in member.signature.members["payload"].shape.members.items():
            yield _Pin(channel + name, flow, Shape.cast(shape).width, channel, name)
        if channel in ("aw", "ar"):
            for name, (width, value) in constants.items():
                yield _Pin(channel + name, flow, width, channel, value)
        yield _Pin(f"{channel}valid", flow, 1, channel, "valid")
        yield _Pin(f"{channel}ready", flow.flip(), 1, channel, "ready")


def axi_ports(config: AxiConfig, name: str) -> dict[str, wiring.Member]:
    """Members for the pins of an AXI4 master with their usual names, such as ``m_axi_0_awaddr``.

    Parameters
    ----------
    config : :class:`AxiConfig`
    name : prefix of all names, such as ``"m_axi_0"``
    """
    return {f"{name}_{pin.name}": pin.flow(pin.width) for pin in _pins(config)}


def connect_axi(m: Module, config: AxiConfig, axi, outer, name: str) -> None:
    """Connect an AXI4 master to the members of :func:`axi_ports`.

    Parameters
    ----------
    m : the module of which the master is a submodule
    config : :class:`AxiConfig`
    axi : the master's interface, such as ``port.axi``
    outer : the component that has the members
    name : prefix of their names
    """
    for pin in _pins(config):
        outside = getattr(outer, f"{name}_{pin.name}")
        if isinstance(pin.part, int):
            m.d.comb += outside.eq(pin.part)
            continue
        channel = getattr(axi, pin.channel)
        inside = getattr(channel if pin.part in ("valid", "ready") else channel.p, pin.part)
        m.d.comb += outside.eq(inside) if pin.flow == Out else inside.eq(outside)
