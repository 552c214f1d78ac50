"""What every block shares: the configuration's contract, schedules, resources.

A block is a :class:`~amaranth.lib.wiring.Component` built from a frozen configuration.  The
configuration answers everything without elaborating: its golden meaning (``compute``), its
stream types, its exact timing (``schedule``, ``interval``) and its resources.

Time is counted in cycles; an event's time is the cycle in which it happens.  ``schedule`` is the
max-plus model of docs/time.md: given when input tokens *arrive* (become visible at the port), it
says when the block accepts them and when its output tokens become visible, if nobody downstream
ever stalls.  Depths and capacities are then chosen so that this is what happens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from amaranth.lib import wiring

from hwgen.design import Folding
from hwgen.device.cost import Area, Part, Resources, total
from hwgen.device.storage import STYLES
from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType
from hwgen.offchip.layout import OffChip
from hwgen.parts.document import list_parameters
from hwgen.parts.queue import queue_area
from hwgen.parts.stream import StreamType
from hwgen.parts.window import SlidingWindowConfig

__all__ = ["KINDS", "Area", "BlockConfig", "OpConfig", "Resources", "Schedule", "own_fields"]


KINDS = ("convolution", "queue", "elementwise", "pool", "route")
"""Kinds of blocks in a report: what is left of a block beside its parts is counted as its kind."""


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


class Buffer(NamedTuple):
    """Memories in which a block keeps part of a frame.

    Members
    -------
    width, depth : of each, in bits and words
    copies : how many there are
    style : of :data:`hwgen.device.storage.STYLES`, or empty
    """

    width: int
    depth: int
    copies: int
    style: str


@cache
def own_fields(config: type[BlockConfig]) -> tuple[str, ...]:
    """Fields of a :class:`hwgen.design.Folding` that are parameters of a block."""
    own = {each.name for each in fields(config)}
    return tuple(each.name for each in fields(Folding) if each.name in own)


@dataclass(frozen=True, kw_only=True)
class BlockConfig(Part):
    """Contract of a block's configuration: validates when made, answers without elaborating.

    Parameters
    ----------
    depths : sequence of :class:`int`
        Depth of the queue at each output, in beats; the FIFO of the edge behind it.  Empty: the
        least that keeps the block at full speed when the consumer never stalls.
    styles : sequence of :class:`str`
        Memory of the queue at each output, of :data:`hwgen.device.storage.STYLES`; ``""``, or no
        entries at all: LUTs or block memory, whichever is cheaper.

    Members
    -------
    kind : what the block is in a report: one of :data:`KINDS`
    depends_on_data : whether its times depend on the data; they are averages then
    evicts : whether it is a queue whose body is off chip
    """

    kind: ClassVar[str] = "route"
    depends_on_data: ClassVar[bool] = False
    evicts: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        list_parameters(cls)

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
        """Fields of a :class:`hwgen.design.Folding` that the block obeys: its own parameters."""
        return own_fields(type(self))

    @property
    def window(self) -> SlidingWindowConfig | None:
        """The window over the block's input, if there is one."""
        return None

    @property
    def buffer(self) -> Buffer | None:
        """The memories of the block's own buffer, whose size the schedule finds; None: it has none.
        """
        window = self.window
        if window is None:
            return None
        width = window.word_lanes * window.input.tensor.bits
        return Buffer(width, max(window.depth, 2), window.tap_lanes * window.banks, window.style)

    @property
    def loads(self) -> int:
        """Words of weights that are loaded after reset."""
        return 0

    def load_words(self) -> list[int]:
        """The words of weights that are loaded, in order."""
        return []

    @property
    def tile_sites(self) -> int:
        """Sites that are computed with each reading of weights from off-chip memory; 0: none."""
        return 0

    def parts(self) -> dict[str, Area]:
        """What the parts of the block take, by name; what is left is its control."""
        parts = {"queue": self.queues_area()}
        return parts if self.window is None else {**parts, "window": self.window.area()}

    def queues_area(self, claims: int = 1) -> Area:
        """What the queues at the outputs take, each with so many numbers of places to claim."""
        return total(queue_area(stream.width, depth, claims, style) for stream, depth, style in
                     zip(self.outputs, self.queue_depths, self.queue_styles, strict=True))

    def figures(self) -> dict[str, Any]:
        """What a report says about the block that is particular of it: plain data."""
        return {}

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
        makes it wait for its input.  (In a pipeline :func:`hwgen.timing.sized` finds the sizes.)
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
