"""What every block shares: stream types, the configuration's contract, schedules, resources.

A block is a :class:`~amaranth.lib.wiring.Component` built from a frozen configuration.  The
configuration answers everything without elaborating: its golden meaning (``compute``), its
stream types, its exact timing (``schedule``, ``interval``) and its resources.

Time is counted in cycles; an event's time is the cycle in which it happens.  ``schedule`` is the
max-plus model of docs/timing.md: given when input tokens *arrive* (become visible at the port), it
says when the block accepts them and when its output tokens become visible, if nobody downstream
ever stalls.  Depths and capacities are then chosen so that this is what happens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from amaranth.hdl import ClockSignal, Instance, Module, Signal, signed
from amaranth.lib import data, stream, wiring

from hwgen.blocks.cost import Area, Resources
from hwgen.blocks.storage import FAMILY, STYLES
from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType

__all__ = [
    "KINDS",
    "Area",
    "BlockConfig",
    "OffChip",
    "OpConfig",
    "Part",
    "Resources",
    "Schedule",
    "StreamType",
    "counter",
    "in_order",
    "library_instance",
    "pack_rows",
    "shared",
]


KINDS = ("convolution", "queue", "elementwise", "pool", "route")
"""Kinds of blocks in a report: what is left of a block beside its parts is counted as its kind."""


def pack_rows(values: np.ndarray, bits: int) -> list[int]:
    """Each row of a signed integer matrix ``(rows, n)`` as one integer, element 0 lowest."""
    values = np.ascontiguousarray(values)
    if bits == 8:
        raw = values.astype(np.int8).view(np.uint8)
    elif bits == 16:
        raw = values.astype("<i2").view(np.uint8)
    else:
        split = (values.astype(np.int64)[..., None] >> np.arange(bits)) & 1
        flat = split.reshape(len(values), -1).astype(np.uint8)
        raw = np.packbits(flat, axis=1, bitorder="little")
    return [int.from_bytes(row.tobytes(), "little") for row in raw]


def unpack_rows(rows: Sequence[int], bits: int, count: int) -> np.ndarray:
    """Inverse of :func:`pack_rows`: an int64 matrix ``(rows, count)``."""
    size = (bits * count + 7) // 8
    raw = np.frombuffer(b"".join(int(r).to_bytes(size, "little") for r in rows), np.uint8)
    split = np.unpackbits(raw.reshape(len(rows), size), axis=1, bitorder="little")
    split = split[:, : bits * count].reshape(len(rows), count, bits).astype(np.int64)
    split[..., -1] *= -1
    return (split << np.arange(bits)).sum(-1)


@dataclass(frozen=True)
class StreamType:
    """A tensor as a stream: sites in row-major order, ``channels / lanes`` beats for each.

    A site is a pixel, or several side by side (along the innermost dimension).  Each beat holds
    the same ``lanes`` channels of all pixels of a site: channel after channel, for each its pixels.

    Parameters
    ----------
    tensor : :class:`TensorType`
    lanes : :class:`int`
        Channels a beat; divides the channel count, so a stream never carries phantom channels.
    pixels : :class:`int`
        Pixels a beat; divides the innermost extent.

    Raises
    ------
    :exc:`HwgenError`
        If ``lanes`` does not divide the channels, or ``pixels`` the innermost extent.
    """

    tensor: TensorType
    lanes: int = 1
    pixels: int = 1

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.tensor.channels % self.lanes:
            raise HwgenError(
                f"Lanes must divide the {self.tensor.channels} channels, not {self.lanes!r}"
            )
        extent = self.tensor.spatial[-1] if self.tensor.spatial else 1
        if self.pixels < 1 or extent % self.pixels:
            raise HwgenError(f"Pixels a beat must divide the extent {extent}, not {self.pixels!r}")

    @property
    def elements(self) -> int:
        """Elements a beat."""
        return self.lanes * self.pixels

    @property
    def payload(self) -> data.ArrayLayout:
        """Shape of a beat."""
        return data.ArrayLayout(signed(self.tensor.bits), self.elements)

    @property
    def signature(self) -> stream.Signature:
        """Signature of the port, seen from the producer."""
        return stream.Signature(self.payload)

    @property
    def width(self) -> int:
        """Bits a beat."""
        return self.tensor.bits * self.elements

    @property
    def beats_per_site(self) -> int:
        """Beats a site."""
        return self.tensor.channels // self.lanes

    @property
    def beats(self) -> int:
        """Beats a frame."""
        return self.tensor.size // self.elements

    @cached_property
    def flat(self) -> StreamType:
        """The same beats as a stream of one pixel each, which has the channels of all of them.

        To a block that works element by element, or that only moves channels, it is all the same.
        """
        if self.pixels == 1:
            return self
        *outer, inner, channels = self.tensor.shape
        shape = (*outer, inner // self.pixels, channels * self.pixels)
        return StreamType(TensorType(shape, self.tensor.quantisation), self.elements)

    def pack(self, frames: np.ndarray) -> list[int]:
        """Frames ``(frames, *shape)`` as one integer a beat."""
        sites = np.asarray(frames).reshape(-1, self.pixels, self.tensor.channels)
        return pack_rows(sites.swapaxes(1, 2).reshape(-1, self.elements), self.tensor.bits)

    def unpack(self, beats: Sequence[int]) -> np.ndarray:
        """Inverse of :meth:`pack`."""
        flat = unpack_rows(beats, self.tensor.bits, self.elements)
        sites = flat.reshape(-1, self.tensor.channels, self.pixels).swapaxes(1, 2)
        return sites.reshape(-1, *self.tensor.shape).astype(self.tensor.quantisation.dtype)


class Part(ABC):
    """What takes part of a device, and knows how much."""

    @abstractmethod
    def area(self) -> Area:
        """What it takes, whatever the device."""

    def resources(self, family: str = FAMILY) -> Resources:
        """What it takes of devices of a family, one of :data:`hwgen.blocks.cost.COEFFICIENTS`."""
        return self.area().resources(family)


@dataclass(frozen=True)
class OffChip:
    """What a block keeps in off-chip memory.

    Such a block is a client of an AXI port (:mod:`hwgen.blocks.axi`): it has a member ``read``, if
    it writes also ``write``, and ``base``, where its region begins; ``waits`` says that it had to
    wait for the memory in this cycle, and ``loaded`` that what is fetched ahead has come.

    Members
    -------
    size : bytes of its region
    reads, writes : bytes a frame
    ahead : bytes read before the first frame
    """

    size: int
    reads: int
    writes: int = 0
    ahead: int = 0


def in_order(times: np.ndarray, spacing: float = 1, count: int = 1) -> np.ndarray:
    """Earliest times, not before ``times``, that are in order and ``spacing`` apart.

    The max-plus recurrence ``t[j] = max(times[j], t[j-1] + spacing)``.  With a spacing that is no
    whole number they are that far apart on average; ``count`` of them take whole cycles.
    """
    if (times[1:] - times[:-1] >= spacing).all():
        return times
    index = np.arange(len(times), dtype=np.int64)
    if spacing == int(spacing):
        ramp = index * int(spacing)
    else:
        run, place = np.divmod(index, count)
        ramp = run * math.ceil(count * spacing) + (place * spacing).astype(np.int64)
    ahead = times - ramp
    np.maximum.accumulate(ahead, out=ahead)
    ahead += ramp
    return ahead


@dataclass(frozen=True)
class Schedule:
    """When tokens move through a block, for whole frames, if nobody downstream stalls.

    Members
    -------
    accepts : per input, cycle in which each beat is taken
    outputs : per output, first cycle in which each beat is visible at the port
    reserves : per output, cycle in which the beat's place in the output queue is claimed
    capacity : pixels that the block's own buffer must hold, where it has one
    """

    accepts: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    reserves: tuple[np.ndarray, ...]
    capacity: int | None = None


@dataclass(frozen=True, kw_only=True)
class BlockConfig(Part):
    """Contract of a block's configuration: validates when made, answers without elaborating.

    Parameters
    ----------
    depths : sequence of :class:`int`
        Depth of the queue at each output, in beats; the FIFO of the edge behind it.  Empty: the
        least that keeps the block at full speed when the consumer never stalls.
    styles : sequence of :class:`str`
        Memory of the queue at each output, of :data:`hwgen.blocks.storage.STYLES`; ``""``, or no
        entries at all: LUTs or block memory, whichever is cheaper.

    Members
    -------
    kind : what the block is in a report: one of :data:`KINDS`
    """

    kind: ClassVar[str] = "route"

    depths: tuple[int, ...] = field(default=())
    styles: tuple[str, ...] = field(default=())

    @property
    @abstractmethod
    def inputs(self) -> tuple[StreamType, ...]:
        """Types of the input streams."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[StreamType, ...]:
        """Types of the output streams."""

    @property
    def title(self) -> str:
        """What the block is called in reports and messages."""
        return type(self).__name__.removesuffix("Config")

    @property
    def folding_fields(self) -> tuple[str, ...]:
        """Fields of a :class:`hwgen.design.Folding` that the block obeys."""
        return ()

    @property
    def dsp_products(self) -> int:
        """Products of weights and activations that its DSPs could make in a cycle; 0: none, or the
        fabric makes them."""
        return 0

    @property
    def input_ports(self) -> tuple[str, ...]:
        """Names of the input ports."""
        return ("i",) if len(self.inputs) == 1 else tuple(f"i_{k}" for k in range(len(self.inputs)))

    @property
    def output_ports(self) -> tuple[str, ...]:
        """Names of the output ports."""
        n = len(self.outputs)
        return ("o",) if n == 1 else tuple(f"o_{k}" for k in range(n))

    @property
    def signature(self) -> wiring.Signature:
        """Signature of the component: all streams."""
        members = {n: wiring.In(t.signature)
                   for n, t in zip(self.input_ports, self.inputs, strict=True)}
        members |= {n: wiring.Out(t.signature)
                    for n, t in zip(self.output_ports, self.outputs, strict=True)}
        return wiring.Signature(members)

    @property
    def offchip(self) -> OffChip | None:
        """What the block keeps off chip, if anything."""
        return None

    def image(self) -> bytes:
        """What the block's region of off-chip memory holds at the beginning."""
        return b""

    @property
    @abstractmethod
    def least_depths(self) -> tuple[int, ...]:
        """Per output, the queue depth below which the block would slow itself down."""

    @property
    def queue_depths(self) -> tuple[int, ...]:
        """Per output, the queue depth that is built."""
        if not self.depths:
            return self.least_depths
        if len(self.depths) != len(self.outputs):
            raise HwgenError(f"Depths must have {len(self.outputs)} entries, not {self.depths!r}")
        return self.depths

    @property
    def queue_styles(self) -> tuple[str, ...]:
        """Per output, the style of the queue's memory."""
        if not self.styles:
            return ("",) * len(self.outputs)
        if len(self.styles) != len(self.outputs):
            raise HwgenError(f"Styles must have {len(self.outputs)} entries, not {self.styles!r}")
        if not set(self.styles) <= {"", *STYLES}:
            raise HwgenError(f"Styles must be of {STYLES} or empty, not {self.styles!r}")
        return self.styles

    @property
    def interval(self) -> int:
        """Fewest cycles between two frames."""
        return max(t.beats for t in (*self.inputs, *self.outputs))

    @abstractmethod
    def schedule(self, arrivals: Sequence[np.ndarray]) -> Schedule:
        """Exact timing, for arrivals of a whole number of frames at each input."""

    @abstractmethod
    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        """Golden meaning: exact outputs for frames ``(frames, *shape)``."""

    @abstractmethod
    def create(self) -> wiring.Component:
        """The hardware."""

    def at_full_speed(self) -> Self:
        """The same block, its buffer large enough that it reaches its interval.

        A block with a window buffer is otherwise built with the smallest one that works, which
        makes it wait for its input.  (In a pipeline :func:`sim.timing.sized` finds the sizes.)
        """
        arrivals = [
            np.arange(2 * t.beats, dtype=np.int64) * self.interval // t.beats for t in self.inputs
        ]
        capacity = self.schedule(arrivals).capacity
        return self if capacity is None else replace(self, capacity=capacity)

    @property
    def latency(self) -> int:
        """Cycles from first input beat to first output beat, inputs arriving every cycle."""
        arrivals = [np.arange(t.beats, dtype=np.int64) for t in self.inputs]
        return int(min(out[0] for out in self.schedule(arrivals).outputs))


@dataclass(frozen=True, kw_only=True)
class OpConfig(BlockConfig):
    """A block that carries out an op on one tensor, with the same lanes at all ports.

    Parameters
    ----------
    op : :class:`hwgen.ir.Op`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels a beat.
    """

    op: Op
    tensor: TensorType
    lanes: int = 1

    def __post_init__(self) -> None:
        _ = self.inputs, self.outputs

    @cached_property
    def inputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.tensor, self.lanes),)

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return tuple(StreamType(tensor, self.lanes) for tensor in self.op.infer(self.tensor))

    def compute(self, *frames: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.op.evaluate(frames, (self.tensor,))


def shared(m: Module, name: str, config, platform):
    """Add the component of a configuration as a submodule; returns its ports.

    In simulation (no emission platform) that is the component itself.  In emission the platform
    converts each distinct configuration to a Verilog module once, and this adds an instance of it.
    """
    if hasattr(platform, "instance_of"):
        ports = config.signature.create(path=(name,))
        m.submodules[name] = platform.instance_of(config, ports)
        return ports
    component = config.create()
    m.submodules[name] = component
    return component


def library_instance(platform, name: str, **ports) -> Instance | None:
    """An instance of a hand-written Verilog module of :mod:`hwgen.emit`, clocked by ``sync``.

    None if the platform does not take one: the caller then elaborates the module's meaning.
    """
    if not hasattr(platform, "library_instance"):
        return None
    return platform.library_instance(name, i_clk=ClockSignal(), **ports)


def counter(count: int, **options) -> Signal:
    """A register for 0..count-1; one bit at least, for Verilog knows no empty vectors."""
    return Signal(range(max(count, 2)), **options)
