"""The design point: every choice that turns an integer graph into one particular pipeline.

Plain data, saved as ``design.json``, so that it can be read, edited by hand and given back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from hwgen.device.multiplier import MULTIPLIERS
from hwgen.device.storage import FAMILY, STYLES
from hwgen.errors import HwgenError, naming, reason
from hwgen.offchip.bus import BURST, MEMORY_LATENCY, AxiConfig
from hwgen.parts.sparse_mac import SKIPS

__all__ = ["OFF_CHIP", "DesignPoint", "EdgeName", "Folding", "MemoryPorts", "Sparse"]

FORMAT = "hwgen-design-2"

EARLIER = {
    "hwgen-design-1": "its fields window, weights, requantiser and latency are now window_style, "
                      "weight_style, requantiser_multiplier and memory_latency, and fold_cycles of "
                      "what is no convolution is pace",
}
"""Formats of earlier versions, and what has changed since."""

OFF_CHIP = "offchip"
"""The memory of a queue whose body is in off-chip memory."""

LEGAL_TEXTS: dict[str, tuple[str, ...]] = {
    "multiplier": tuple(MULTIPLIERS),
    "requantiser_multiplier": ("", *MULTIPLIERS),
    "shared": ("activation", "weight"),
    "window_style": ("", *STYLES, OFF_CHIP),
    "weight_style": ("", *STYLES, OFF_CHIP),
}
"""Legal values of those fields that are texts."""

MOST = 1 << 40
"""No number of a folding is larger."""

UNSET = ("capacity", "fold_cycles", "pace", "products", "resident", "tile")
"""Numeric fields for which 0 is allowed."""


@dataclass(frozen=True)
class Sparse:
    """How a convolution passes over zeros; see :class:`hwgen.blocks.sparse_conv.SparseConvConfig`.

    Parameters
    ----------
    streams : sequence of sequences of :class:`int`
        For each multiplier of an output channel, which of the ``channel_lanes * tap_lanes`` pairs
        it serves.
    skip : :class:`str`
        Which zeros: ``"activation"``, ``"weight"`` or ``"both"``.
    queue : :class:`int`
        Beats that wait for each multiplier; 0: those of two folds, and those on their way.
    cycles : :class:`float`
        Cycles of a fold on average, as they were measured; 0: as if nothing was zero.

    Raises
    ------
    :exc:`HwgenError`
        If a value is not legal for any convolution.
    """

    streams: tuple[tuple[int, ...], ...]
    skip: str = "activation"
    queue: int = 0
    cycles: float = 0.0

    def __post_init__(self) -> None:
        try:
            streams = tuple(tuple(int(n) for n in members) for members in self.streams)
        except (TypeError, ValueError):
            streams = ()
        if not streams or streams != tuple(map(tuple, self.streams)):
            raise HwgenError(f"streams must be lists of integers, not {self.streams!r}")
        object.__setattr__(self, "streams", streams)
        if self.skip not in SKIPS:
            legal = ", ".join(map(repr, SKIPS))
            raise HwgenError(f"skip must be one of {legal}, not {self.skip!r}")
        if type(self.queue) is not int or self.queue < 0:
            raise HwgenError(f"queue must be an integer, 0 or more, not {self.queue!r}")
        if type(self.cycles) not in (int, float) or not 0 <= self.cycles < 1e12:
            raise HwgenError(f"cycles must be a number, 0 or more, not {self.cycles!r}")


@dataclass(frozen=True)
class Folding:
    """How one op is folded onto hardware.

    Parameters
    ----------
    channel_lanes, tap_lanes, group_lanes, pe : :class:`int`
        See :class:`hwgen.blocks.conv.FoldedConvConfig`, and for recurrent cells
        :class:`hwgen.blocks.recurrent.RecurrentConfig`, for products of two streams
        :class:`hwgen.blocks.matmul.MatMulConfig`; pools use ``tap_lanes`` alone.  Which
        fields a block obeys it says itself (:attr:`hwgen.blocks.base.BlockConfig.folding_fields`);
        all others keep their defaults.
    capacity : :class:`int`
        Sites in the op's window buffer; 0: not sized yet.
    multiplier, requantiser_multiplier : :class:`str`
        What multiplies, and what requantises: of :data:`hwgen.device.multiplier.MULTIPLIERS`;
        an empty ``requantiser_multiplier`` is as
        ``multiplier``.
    shared : :class:`str`
        What the products in a multiplier share: ``"activation"`` or ``"weight"``.
    products : :class:`int`
        Products that share a multiplier; 0: as many as fit.
    window_style, weight_style : :class:`str`
        Memories of the window's buffer and of the weights: one of
        :data:`hwgen.device.storage.STYLES`; "": whichever is cheaper, LUTs or block memory.  The
        buffer of a :class:`hwgen.ir.Rearrange` may be :data:`OFF_CHIP`, too, and so may the table
        of a :class:`hwgen.ir.Embedding` (``weight_style``).
    tile, resident : :class:`int`
        Of a convolution whose weights are in off-chip memory: rows that are computed fold by fold,
        and folds that stay on chip; 0: its weights are on chip.
    fold_cycles : :class:`int`
        Least number of cycles of a fold of a convolution; 0: as few as it needs.
    pace : :class:`int`
        Least number of cycles of a site of a sum or product, or of a pixel that is padded or
        repeated; 0: as many as its beats.
    score_lanes, value_lanes, value_pe : :class:`int`
        Of attention: see :class:`hwgen.blocks.attention.AttentionConfig`.
    sparse : :class:`Sparse`
        How a convolution passes over zeros; None: it does not.

    Raises
    ------
    :exc:`HwgenError`
        If a value is not one of those that are legal for any op.
    """

    channel_lanes: int = 1
    tap_lanes: int = 1
    group_lanes: int = 1
    pe: int = 1
    capacity: int = 0
    multiplier: str = "dsp48e2"
    requantiser_multiplier: str = ""
    shared: str = "activation"
    products: int = 0
    window_style: str = ""
    weight_style: str = ""
    tile: int = 0
    resident: int = 0
    fold_cycles: int = 0
    pace: int = 0
    score_lanes: int = 1
    value_lanes: int = 1
    value_pe: int = 1
    sparse: Sparse | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name == "sparse":
                if not (value is None or isinstance(value, Sparse)):
                    raise HwgenError(f"sparse must be an object or null, not {value!r}")
            elif name in LEGAL_TEXTS:
                if value not in LEGAL_TEXTS[name]:
                    legal = ", ".join(map(repr, LEGAL_TEXTS[name]))
                    raise HwgenError(f"{name} must be one of {legal}, not {value!r}")
            elif type(value) is not int or not (name not in UNSET) <= value <= MOST:
                kind = "an integer, 0 or more" if name in UNSET else "a positive integer"
                limit = f", at most {MOST}" if type(value) is int and value > MOST else ""
                raise HwgenError(f"{name} must be {kind}{limit}, not {value!r}")


@dataclass(frozen=True)
class MemoryPorts:
    """The AXI ports to off-chip memory.

    Parameters
    ----------
    count : :class:`int`
        Ports, if there are as many blocks that use them.
    data_bits : :class:`int`
        Width; see :class:`hwgen.offchip.bus.AxiConfig`.
    burst : :class:`int`
        Most words of a request.
    memory_latency : :class:`int`
        Cycles that a request takes at most, waiting for others included.
    rate : :class:`float`
        Bytes a cycle that the memory moves in practice; 0: as many as the ports.

    Raises
    ------
    :exc:`HwgenError`
        If a value is not a positive integer, or the rate is negative.
    """

    count: int = 1
    data_bits: int = 128
    burst: int = BURST
    memory_latency: int = MEMORY_LATENCY
    rate: float = 0.0

    def __post_init__(self) -> None:
        if type(self.rate) not in (int, float) or not 0 <= self.rate < 1e9:
            raise HwgenError(f"rate must be a number, 0 or more, not {self.rate!r}")
        for name, value in vars(self).items():
            if name != "rate" and (type(value) is not int or value < 1):
                raise HwgenError(f"{name} must be a positive integer, not {value!r}")

    @property
    def axi(self) -> AxiConfig:
        """Widths of the ports."""
        return AxiConfig(data_bits=self.data_bits)


@dataclass(frozen=True)
class EdgeName:
    """The name of an edge: which tensor flows, and to whom.

    As text, ``tensor>consumer``, with ``~1``, ``~2``, … where the consumer takes the tensor more
    than once, and ``:behind`` for the last part of an edge that something stands in.

    Members
    -------
    tensor, consumer : names
    repetition : how often the consumer took the tensor before
    behind : what the part of the edge stands behind: :data:`OFF_CHIP`, or a change of lanes, then
        the number of them; "": nothing
    """

    tensor: str
    consumer: str
    repetition: int = 0
    behind: str = ""

    def __str__(self) -> str:
        again = f"~{self.repetition}" if self.repetition else ""
        behind = f":{self.behind}" if self.behind else ""
        return f"{self.tensor}>{self.consumer}{again}{behind}"

    @classmethod
    def parse(cls, text: str) -> EdgeName:
        """The name that ``text`` is.

        Raises
        ------
        :exc:`HwgenError`
            If it is none.
        """
        tensor, arrow, rest = text.partition(">")
        rest, _, behind = rest.partition(":")
        consumer, _, repetition = rest.partition("~")
        if not (tensor and arrow and consumer and (repetition or "0").isdecimal()):
            raise HwgenError(f"An edge is named tensor>consumer, not {text!r}")
        return cls(tensor, consumer, int(repetition or 0), behind)

    def part_behind(self, what: str | int) -> EdgeName:
        """The part of the edge behind something that stands in it."""
        return replace(self, behind=str(what))

    @property
    def whole(self) -> EdgeName:
        """The edge, without what stands between its ends."""
        return replace(self, behind="")

    @property
    def block(self) -> str:
        """The edge in the name of a block that stands in it."""
        return re.sub("[>~:]", "_", str(self))


@dataclass
class DesignPoint:
    """Foldings per op, streams per tensor, queues per edge.

    Members
    -------
    board : board name
    clock_mhz : clock frequency
    family : the board's device family, one of :data:`hwgen.device.cost.COEFFICIENTS`; what LUTs are
        depends on it, and nothing that is built.  It is not in a file, for the board says it.
    foldings : node name to :class:`Folding`; what is missing is folded fully (one MAC a cycle)
    lanes : tensor name to channels a beat, as the tensor's producer sends it; default 1
    pixels : tensor name to pixels a beat; default 1
    depths : edge name to queue depth in beats; what is missing has the block's least depth.
        Names are the text of an :class:`EdgeName`, as :class:`hwgen.netlist.Netlist` lists them.
    memories : edge name to the memory of its queue, which may be :data:`OFF_CHIP`; default:
        whichever is cheaper
    ports : how off-chip memory is reached
    split : names of nodes whose rows are streams of their own, so that their line buffers are
        queues and may be off chip; see :func:`hwgen.ir.split_rows`
    """

    board: str = ""
    clock_mhz: float = 200.0
    foldings: dict[str, Folding] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)
    memories: dict[str, str] = field(default_factory=dict)
    ports: MemoryPorts = field(default=MemoryPorts())
    split: tuple[str, ...] = ()
    family: str = field(default=FAMILY, compare=False)

    def plain(self) -> dict:
        """What a file of it holds."""
        tensors = _columns({"lanes": self.lanes, "pixels": self.pixels})
        edges = _columns({"depth": self.depths, "memory": self.memories})
        return {
            "format": FORMAT, "board": self.board, "clock_mhz": self.clock_mhz,
            "ports": asdict(self.ports), "split": list(self.split),
            "ops": {name: asdict(folding) for name, folding in self.foldings.items()},
            "tensors": tensors, "edges": edges,
        }

    def save(self, path: str | Path) -> None:
        """Write the design point as JSON."""
        Path(path).write_text(json.dumps(self.plain(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> DesignPoint:
        """Read a file written by :meth:`save`.

        Raises
        ------
        :exc:`HwgenError`
            If the file is missing, not JSON, not a design point, or has a value that is not legal:
            then it names the op, tensor or edge, the field and what is legal.
        """
        try:
            body = json.loads(Path(path).read_text())
        except OSError as error:
            raise HwgenError(f"Design file {path} cannot be read: {reason(error)}") from None
        except ValueError as error:
            raise HwgenError(f"{path} is not a design point: {error}") from None
        if isinstance(body, dict) and (changed := EARLIER.get(str(body.get("format")))):
            raise HwgenError(f"{path} is of an earlier version: {changed}; change that and its "
                             f"format to {FORMAT!r}, or search again")
        if not isinstance(body, dict) or body.get("format") != FORMAT:
            raise HwgenError(f"{path} is not a design point: format must be {FORMAT!r}")
        with naming(str(path)):
            return cls.parse(body)

    @classmethod
    def parse(cls, body: dict) -> DesignPoint:
        """The design point that :meth:`plain` describes.

        Raises
        ------
        :exc:`HwgenError`
            If a value is not legal: then it names the op, tensor or edge, the field and what is
            legal.
        """
        _only(body, ["format", "board", "clock_mhz", "ports", "split", "ops", "tensors", "edges"])
        tensors, edges = dict(_tensors(body)), dict(_edges(body))
        return cls(
            board=_text(body, "board"), clock_mhz=_positive(body, "clock_mhz"),
            foldings=dict(_foldings(body)), ports=_ports(body), split=_split(body),
            lanes=_column(tensors, "lanes"), pixels=_column(tensors, "pixels"),
            depths=_column(edges, "depth"), memories=_column(edges, "memory"),
        )


def _ports(body: dict) -> MemoryPorts:
    with naming("ports"):
        ports = body.get("ports", {})
        if not isinstance(ports, dict):
            raise HwgenError(f"must be an object, not {ports!r}")
        _only(ports, [f.name for f in fields(MemoryPorts)])
        return MemoryPorts(**ports)


def _split(body: dict) -> tuple[str, ...]:
    split = body.get("split", [])
    if not isinstance(split, list) or not all(isinstance(name, str) for name in split):
        raise HwgenError(f"split must be a list of names of nodes, not {split!r}")
    return tuple(split)


def _foldings(body: dict) -> Iterator[tuple[str, Folding]]:
    for name, values in _table(body, "ops"):
        with naming(f"op {name!r}"):
            _only(values, [f.name for f in fields(Folding)])
            if isinstance(sparse := values.get("sparse"), dict):
                _only(sparse, [f.name for f in fields(Sparse)])
                if "streams" not in sparse:
                    raise HwgenError("sparse must have streams")
                values = {**values, "sparse": Sparse(**sparse)}
            yield name, Folding(**values)


def _tensors(body: dict) -> Iterator[tuple[str, dict[str, int]]]:
    for name, values in _table(body, "tensors"):
        with naming(f"tensor {name!r}"):
            _only(values, ["lanes", "pixels"])
            yield name, {key: _count(values, key) for key in values}


def _edges(body: dict) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, values in _table(body, "edges"):
        with naming(f"edge {name!r}"):
            _only(values, ["depth", "memory"])
            found: dict[str, Any] = {}
            # 0 stands for a depth that is found, as if it was left out.
            if values.get("depth", 0) != 0 or values.get("depth") is False:
                found["depth"] = _count(values, "depth")
            if "memory" in values:
                legal = *STYLES, OFF_CHIP
                if values["memory"] not in legal:
                    raise HwgenError(f"memory must be one of {', '.join(map(repr, legal))}, "
                                     f"not {values['memory']!r}")
                found["memory"] = values["memory"]
            yield name, found


def _column(rows: Mapping[str, dict], key: str) -> dict[str, Any]:
    """Per name the entry of one key, where there is one."""
    return {name: row[key] for name, row in rows.items() if key in row}


def _columns(columns: dict[str, Mapping]) -> dict[str, dict]:
    """Per name its entries, from a mapping of names for each entry."""
    rows: dict[str, dict] = {}
    for key, column in columns.items():
        for name, value in column.items():
            rows.setdefault(name, {})[key] = value
    return rows


def _text(body: dict, name: str) -> str:
    if not isinstance(value := body.get(name), str):
        raise HwgenError(f"{name} must be a text, not {value!r}")
    return value


def _positive(body: dict, name: str) -> float:
    value = body.get(name)
    if isinstance(value, int | float) and 0 < value < 1e9:
        return float(value)
    raise HwgenError(f"{name} must be a positive number, not {value!r}")


def _count(values: dict, name: str) -> int:
    value = values[name]
    if type(value) is not int or value < 1:
        raise HwgenError(f"{name} must be a positive integer, not {value!r}")
    return value


def _table(body: dict, name: str) -> Iterator[tuple[str, dict]]:
    table = body.get(name, {})
    if not isinstance(table, dict):
        raise HwgenError(f"{name} must be a table, not {table!r}")
    for key, values in table.items():
        if not isinstance(values, dict):
            raise HwgenError(f"{name} {key!r} must be a table, not {values!r}")
        yield key, values


def _only(values: dict, known: list[str]) -> None:
    if unknown := sorted(set(values) - set(known)):
        raise HwgenError(f"{unknown[0]} is not one of {', '.join(known)}")
