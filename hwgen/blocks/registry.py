"""Registry of the blocks that carry out ops.

The file of a block registers with :func:`carries_out` for which ops the block is, and how its
configuration is made::

    @carries_out(ArgMax)
    def argmax(request: BlockRequest) -> ArgMaxConfig:
        return ArgMaxConfig(op=request.op, tensor=request.tensor, lanes=request.streams[0].lanes)

Nothing else names the block: :func:`block_config` finds it for planning and for the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hwgen.blocks.base import BlockConfig, own_fields
from hwgen.design import OFF_CHIP, Folding, MemoryPorts
from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType
from hwgen.parts.stream import StreamType

__all__ = [
    "BlockRequest", "block_config", "carries_out", "keeps_lanes", "keeps_pixels", "unchanged",
]


@dataclass(frozen=True)
class BlockRequest:
    """A request for a block that carries out an op.

    Members
    -------
    op : the op
    streams : types of its inputs, as they come
    lanes, pixels : channels and pixels per beat of the output
    folding : folding of the op
    ports : ports to off-chip memory
    table : for a convolution, the table that is applied to its results
    """

    op: Any
    streams: tuple[StreamType, ...]
    lanes: int
    pixels: int = 1
    folding: Folding = field(default=Folding())
    ports: MemoryPorts = field(default=MemoryPorts())
    table: Op | None = None

    def folded(self, config: type[BlockConfig]) -> dict[str, Any]:
        """The fields of the folding that a block obeys, as parameters of its configuration."""
        return {name: getattr(self.folding, name) for name in own_fields(config)}

    @property
    def tensors(self) -> tuple[TensorType, ...]:
        """Types of the inputs."""
        return tuple(stream.tensor for stream in self.streams)

    @property
    def tensor(self) -> TensorType:
        """Type of the first input."""
        return self.streams[0].tensor


Maker = Callable[[BlockRequest], BlockConfig]
ByPixel = Callable[[Any, int], Op]


@dataclass(frozen=True)
class _Registration:
    """How a block is made, for which foldings, and how it takes pixels; see :func:`carries_out`."""

    make: Maker
    when: Callable[[Folding], bool] | None
    of: Callable[[Any, TensorType], bool] | None
    pixels: ByPixel | None
    own_pixels: bool
    own_lanes: bool


_BLOCKS: dict[type[Op], list[_Registration]] = {}


def unchanged(op: Op, pixels: int) -> Op:
    """For ops that do not change if the channels of several pixels are taken for more channels."""
    return op


def carries_out(
    *kinds: type[Op], when: Callable[[Folding], bool] | None = None,
    of: Callable[[Any, TensorType], bool] | None = None,
    pixels: ByPixel | None = None, own_pixels: bool = False, own_lanes: bool = False,
) -> Callable[[Maker], Maker]:
    """Register a function that makes the configuration of a block for an op.

    Parameters
    ----------
    kinds : classes of ops; subclasses are included
    when : for which foldings this block is used; None: for all.  Blocks with a condition are
        asked first.
    of : for which ops of these classes, and types of their first input; None: for all
    pixels : for blocks that take the pixels of a beat for more channels: function of an op and a
        number of pixels per beat that returns the op on such flat streams.  The request then has
        flat streams.  None: the block takes one pixel per beat.
    own_pixels : whether the block itself handles several pixels per beat
    own_lanes : whether the lanes of its output do not depend on those of its inputs
    """
    def register(make: Maker) -> Maker:
        for kind in kinds:
            found = _BLOCKS.setdefault(kind, [])
            found.append(_Registration(make, when, of, pixels, own_pixels, own_lanes))
            found.sort(key=lambda each: each.when is None and each.of is None)
        return make

    return register


def _registrations(kind: type[Op]) -> list[_Registration]:
    """Registrations for an op, the most specific first."""
    return [found for parent in kind.__mro__ for found in _BLOCKS.get(parent, ())]


def _candidates(op: Op, tensor: TensorType) -> list[_Registration]:
    """Registrations that an op may come to, whatever its folding."""
    found = [each for each in _registrations(type(op)) if each.of is None or each.of(op, tensor)]
    return [each for each in found if each.of is not None] or found


def keeps_pixels(op: Op, tensor: TensorType) -> bool:
    """Whether the op's block takes any number of pixels per beat, and sends as many.

    Parameters
    ----------
    op : the op
    tensor : type of its first input
    """
    return any(each.pixels is not None for each in _candidates(op, tensor))


def keeps_lanes(op: Op, tensor: TensorType) -> bool:
    """Whether all streams of the op's block have the same lanes; see :func:`keeps_pixels`."""
    return not any(each.own_lanes for each in _candidates(op, tensor))


def block_config(
    op: Op, streams: tuple[StreamType, ...], folding: Folding, lanes: int, pixels: int = 1,
    ports: MemoryPorts | None = None, table: Op | None = None,
) -> BlockConfig:
    """The configuration of the block that carries out an op.

    Parameters
    ----------
    op : the op
    streams : types of its inputs, as they come (convolutions take fewer lanes if their folding
        needs it)
    folding : folding of the op
    lanes, pixels : channels and pixels per beat of the output; all blocks but convolutions and
        ArgMax take the same at the input
    ports : ports to off-chip memory
    table : for a convolution, the table that is applied to its results

    Raises
    ------
    :exc:`HwgenError`
        If no block carries out the op, if the folding does not fit it, if the folding sets a field
        that the block does not obey, or if it puts a buffer off chip that cannot be there.
    """
    found = next((each for each in _candidates(op, streams[0].tensor)
                  if each.when is None or each.when(folding)), None)
    if found is None:
        raise HwgenError(f"No block carries out {type(op).__name__}")
    request = BlockRequest(op, streams, lanes, pixels, folding, ports or MemoryPorts(), table)
    config = found.make(request if found.own_pixels else _flat(request, found))
    if folding.window_style == OFF_CHIP and not config.evicts:
        raise HwgenError(
            f"window_style must not be {OFF_CHIP!r}, for the buffer of a {config.title} is on the "
            f"chip"
        )
    for each in fields(Folding):
        value = getattr(folding, each.name)
        if value != each.default and each.name not in config.folding_fields:
            legal = ", ".join(config.folding_fields) or "none"
            raise HwgenError(
                f"{each.name} must be {each.default!r}, not {value!r}, for a "
                f"{config.title} does not use it; fields that it uses: {legal}"
            )
    return config


def _flat(request: BlockRequest, found: _Registration) -> BlockRequest:
    """The request with flat streams, in which the pixels of a beat are more channels.

    Raises
    ------
    :exc:`HwgenError`
        If the streams differ in their pixels per beat, or if the block takes one pixel per beat.
    """
    op, pixels = request.op, request.pixels
    if any(stream.pixels != pixels for stream in request.streams):
        raise HwgenError(
            f"{type(op).__name__} takes as many pixels a beat as it sends, {pixels!r}, "
            f"not {[stream.pixels for stream in request.streams]!r}"
        )
    if pixels == 1:
        return request
    if found.pixels is None:
        raise HwgenError(f"{type(op).__name__} takes one pixel a beat, not {pixels!r}")
    return replace(
        request, op=found.pixels(op, pixels), lanes=request.lanes * pixels, pixels=1,
        streams=tuple(stream.flat for stream in request.streams),
    )
