"""Base classes of all block configurations: the contract, schedules, resources.

A block is a :class:`~amaranth.lib.wiring.Component` built from a frozen configuration.  The
configuration answers everything without elaborating: its golden model (``compute``), its stream
types, its exact timing (``schedule``, ``interval``) and its resources.

Time is counted in cycles; an event's time is the cycle in which it happens.  ``schedule`` is the
max-plus model of docs/time.md: given when input beats *arrive* (become visible at the port), it
tells when the block accepts them and when its output beats become visible, provided that no block
downstream ever stalls.  Depths and capacities are then chosen so that none does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from amaranth.lib import stream, wiring

from hwgen.design import Folding
from hwgen.device.cost import Area, Part, Resources, total
from hwgen.device.storage import STYLES
from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType
from hwgen.offchip.memory_map import OffChip
from hwgen.parts.document import list_parameters
from hwgen.parts.queue import queue_area
from hwgen.parts.stream import StreamType
from hwgen.parts.weights import LOAD_BITS
from hwgen.parts.window import SlidingWindowConfig

__all__ = ["BLOCK_KINDS", "Area", "BlockConfig", "OpConfig", "Resources", "Schedule", "own_fields"]


BLOCK_KINDS = ("convolution", "queue", "elementwise", "pool", "route")
"""Kinds of blocks in a report, under which the rest of a block beside its parts is counted."""


@dataclass(frozen=True)
class Schedule:
    """When the beats of whole frames move through a block, if no block downstream stalls.

    Members
    -------
    accepts : per input, cycle in which each beat is accepted
    outputs : per output, first cycle in which each beat is visible at the port
    claims : per output, cycle in which the beat's place in the output queue is claimed
    capacity : sites (or tokens) that the block's own buffer must hold, if it has one
    """

    accepts: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    claims: tuple[np.ndarray, ...]
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
    """Fields of :class:`hwgen.design.Folding` that are parameters of a block's configuration."""
    own = {each.name for each in fields(config)}
    return tuple(each.name for each in fields(Folding) if each.name in own)


@dataclass(frozen=True, kw_only=True)
class BlockConfig(Part):
    """Contract of a block's configuration, which validates itself and answers without elaborating.

    Parameters
    ----------
    depths : sequence of :class:`int`
        Depth of the queue at each output, in beats; the queue is the FIFO of the edge that leaves
        there.  Empty: the least depths that keep the block at full speed if the consumer never
        stalls.
    styles : sequence of :class:`str`
        Memory style of the queue at each output, one of :data:`hwgen.device.storage.STYLES`;
        ``""``, or no entries at all: LUTs or block memory, whichever is cheaper.

    Members
    -------
    kind : what a report counts the block as, one of :data:`BLOCK_KINDS`
    depends_on_data : whether its times depend on the data; they are then averages
    evicts : whether what passes through it is kept off chip, so that its queue is not of one memory
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
        """Name of the kind of block in reports and messages."""
        return type(self).__name__.removesuffix("Config")

    @property
    def folding_fields(self) -> tuple[str, ...]:
        """Fields of :class:`hwgen.design.Folding` that the block obeys: those it has itself."""
        return own_fields(type(self))

    @property
    def window(self) -> SlidingWindowConfig | None:
        """The sliding window over the block's input, if it has one."""
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
        """Number of words of weights that are loaded after reset."""
        return 0

    def load_words(self) -> list[int]:
        """The words of weights that are loaded, in order."""
        return []

    @property
    def tile_sites(self) -> int:
        """Sites computed for each fetch of the weights from off-chip memory; 0: none are there."""
        return 0

    def parts(self) -> dict[str, Area]:
        """Areas of the block's parts, by name; the rest of the block is its control logic."""
        parts = {"queue": self.queues_area()}
        return parts if self.window is None else {**parts, "window": self.window.area()}

    def queues_area(self, claims: int = 1) -> Area:
        """Area of the queues at the outputs, each with ``claims`` numbers of places to claim."""
        return total(queue_area(stream.width, depth, claims, style) for stream, depth, style in
                     zip(self.outputs, self.queue_depths, self.queue_styles, strict=True))

    def figures(self) -> dict[str, Any]:
        """Figures of this kind of block for the report, as plain data."""
        return {}

    @property
    def dsp_products(self) -> int:
        """Products of weights and activations that its DSPs can compute in a cycle.

        It is 0 if there are none, or if they are computed in the fabric.
        """
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
        """Signature of the component, with ports for words of weights if any are loaded."""
        members = {n: wiring.In(t.signature)
                   for n, t in zip(self.input_ports, self.inputs, strict=True)}
        members |= {n: wiring.Out(t.signature)
                    for n, t in zip(self.output_ports, self.outputs, strict=True)}
        if self.loads:
            words = stream.Signature(LOAD_BITS, always_ready=True)
            members |= {"load": wiring.In(words), "next": wiring.Out(words)}
        return wiring.Signature(members)

    @property
    def offchip(self) -> OffChip | None:
        """What the block keeps off chip, if anything."""
        return None

    def image(self) -> bytes:
        """Initial contents of the block's region of off-chip memory."""
        return b""

    @property
    @abstractmethod
    def least_depths(self) -> tuple[int, ...]:
        """Per output, the least queue depth that does not slow the block down."""

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
        """Golden model: exact outputs for frames ``(frames, *shape)``."""

    @abstractmethod
    def create(self) -> wiring.Component:
        """The hardware."""

    def at_full_speed(self) -> Self:
        """The same block with a buffer large enough to reach its interval.

        By default a window buffer has the smallest capacity with which it works, so the block
        waits for its input.  (In a pipeline, :func:`hwgen.timing.sized` finds the capacities.)
        """
        arrivals = [
            np.arange(2 * t.beats, dtype=np.int64) * self.interval // t.beats for t in self.inputs
        ]
        capacity = self.schedule(arrivals).capacity
        return self if capacity is None else replace(self, capacity=capacity)

    @property
    def latency(self) -> int:
        """Cycles from first input beat to first output beat if input arrives every cycle."""
        arrivals = [np.arange(t.beats, dtype=np.int64) for t in self.inputs]
        return int(min(out[0] for out in self.schedule(arrivals).outputs))


@dataclass(frozen=True, kw_only=True)
class OpConfig(BlockConfig):
    """Base of configurations of blocks that carry out an op on one tensor.

    All ports have the same number of lanes.

    Parameters
    ----------
    op : :class:`hwgen.ir.Op`
    tensor : :class:`TensorType`
        Type of the input.
    lanes : :class:`int`
        Channels per beat.
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
