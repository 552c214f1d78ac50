"""Which block carries out which op: a registration beside each block, which planning asks.

A block's file says with :func:`carries_out` which ops it is for, and how it is made for one::

    @carries_out(ArgMax)
    def argmax(request: Request) -> ArgMaxConfig:
        return ArgMaxConfig(op=request.op, tensor=request.tensor, lanes=request.streams[0].lanes)

Nothing else names it: :func:`block_config` finds it for the graph builder and for the search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hwgen.blocks.base import BlockConfig, own_fields
from hwgen.design import Folding, MemoryPorts
from hwgen.errors import HwgenError
from hwgen.ir.op import Op
from hwgen.ir.types import TensorType
from hwgen.parts.stream import StreamType

__all__ = ["Request", "block_config", "carries_out", "keeps_pixels", "unchanged"]


@dataclass(frozen=True)
class Request:
    """What a block is asked to be.

    Members
    -------
    op : what is computed
    streams : its inputs, as they come
    lanes, pixels : channels and pixels a beat of the output
    folding : how the op is folded
    ports : how off-chip memory is reached
    table : of a convolution, the table that its results go through
    """

    op: Any
    streams: tuple[StreamType, ...]
    lanes: int
    pixels: int = 1
    folding: Folding = field(default=Folding())
    ports: MemoryPorts = field(default=MemoryPorts())
    table: Op | None = None

    def folded(self, config: type[BlockConfig]) -> dict[str, Any]:
        """The part of the folding that a block obeys, as parameters of its configuration."""
        return {name: getattr(self.folding, name) for name in own_fields(config)}

    @property
    def tensors(self) -> tuple[TensorType, ...]:
        """Types of the inputs."""
        return tuple(stream.tensor for stream in self.streams)

    @property
    def tensor(self) -> TensorType:
        """Type of the first input."""
        return self.streams[0].tensor


Maker = Callable[[Request], BlockConfig]
ByPixel = Callable[[Any, int], Op]


@dataclass(frozen=True)
class _Registration:
    """How a block is made, when it is the one, and what it does to pixels."""

    make: Maker
    when: Callable[[Folding], bool] | None
    pixels: ByPixel | None
    own_pixels: bool


_BLOCKS: dict[type[Op], list[_Registration]] = {}


def unchanged(op: Op, pixels: int) -> Op:
    """For ops that are the same whether channels of several pixels are seen as more channels."""
    return op


def carries_out(
    *kinds: type[Op], when: Callable[[Folding], bool] | None = None,
    pixels: ByPixel | None = None, own_pixels: bool = False,
) -> Callable[[Maker], Maker]:
    """Register a function that makes the configuration of a block for an op.

    Parameters
    ----------
    kinds : classes of ops; subclasses are included
    when : with which foldings it is this block; those that ask go first
    pixels : for blocks that see the pixels of a beat as more channels: the op on streams of so
        many pixels a beat, seen like that.  The request then has flat streams.  Left out: the
        block takes one pixel a beat.
    own_pixels : the block deals with several pixels a beat itself
    """
    def register(make: Maker) -> Maker:
        for kind in kinds:
            found = _BLOCKS.setdefault(kind, [])
            found.append(_Registration(make, when, pixels, own_pixels))
            found.sort(key=lambda each: each.when is None)
        return make

    return register


def _registrations(kind: type[Op]) -> list[_Registration]:
    """Those of an op, most particular first."""
    return [found for parent in kind.__mro__ for found in _BLOCKS.get(parent, ())]


def keeps_pixels(op: Op) -> bool:
    """Whether the op's block takes any number of pixels a beat, and sends as many."""
    return any(found.pixels is not None for found in _registrations(type(op)))


def block_config(
    op: Op, streams: tuple[StreamType, ...], folding: Folding, lanes: int, pixels: int = 1,
    ports: MemoryPorts | None = None, table: Op | None = None,
) -> BlockConfig:
    """The block that carries out an op.

    Parameters
    ----------
    op : what is computed
    streams : its inputs, as they come (convolutions take fewer lanes if their folding needs it)
    folding : how it is folded
    lanes, pixels : channels and pixels a beat of the output; all blocks but convolutions and
        ArgMax take the same at the input
    ports : how off-chip memory is reached
    table : of a convolution, what its results go through

    Raises
    ------
    :exc:`HwgenError`
        If no block carries out the op, the folding does not fit it, or the folding says something
        that its block does not obey.
    """
    found = next((each for each in _registrations(type(op))
                  if each.when is None or each.when(folding)), None)
    if found is None:
        raise HwgenError(f"No block carries out {type(op).__name__}")
    request = Request(op, streams, lanes, pixels, folding, ports or MemoryPorts(), table)
    config = found.make(request if found.own_pixels else _flat(request, found))
    for each in fields(Folding):
        value = getattr(folding, each.name)
        if value != each.default and each.name not in config.folding_fields:
            legal = ", ".join(config.folding_fields) or "none"
            raise HwgenError(
                f"{each.name} must be {each.default!r}, not {value!r}, for a "
                f"{config.title} does not use it; fields that it uses: {legal}"
            )
    return config


def _flat(request: Request, found: _Registration) -> Request:
    """The request, with several pixels a beat seen as more channels.

    Raises
    ------
    :exc:`HwgenError`
        If the streams differ in their pixels, or the block takes one pixel a beat.
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
