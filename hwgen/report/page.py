"""The report as a page: what ``report.json`` holds, drawn.

One file with no reference to anything outside it, made of ``report.html.j2`` and the figures that
this module computes for it.  The same design gives the same page: times that phases took are left
to ``report.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from hwgen.device.cost import Resources
from hwgen.netlist import Netlist
from hwgen.report.charts import Chart, memory_mbit, pareto
from hwgen.report.drawing import Pipework, pipework
from hwgen.report.figures import fabric_share, left_to_host

__all__ = ["render"]

RESOURCES = {"dsp": "DSP", "bram18": "BRAM, 18 Kb", "uram": "UltraRAM", "lut": "LUT", "ff": "FF"}
"""Resources, in the order in which they are shown, and what they are called."""

KIND_LABELS = {
    "weights": "weights",
    "window": "window buffers",
    "multiply": "multipliers",
    "requantise": "requantisers",
    "convolution": "convolutions",
    "queue": "queues and forks",
    "elementwise": "tables, sums and products",
    "pool": "pools",
    "route": "routing and shape",
}
"""What resources are spent on: parts of blocks as the report names them, then whole blocks."""

BOUNDS = {
    "dsp": "products, by DSPs alone",
    "products": "products, by all DSPs and all LUTs",
    "memory": "reads of weights",
    "bandwidth": "off-chip bandwidth",
    "stream": "widest stream",
}
"""Bounds, and what they are called."""

LIMITS = {
    "dsp": "DSPs",
    "lut": "LUTs",
    "ff": "flip-flops",
    "bram18": "block memory",
    "uram": "on-chip memory",
    "bandwidth": "off-chip bandwidth",
    "stream": "the widest stream",
    "target": "the rate that was asked for",
    "design": "the design that was given",
}
"""What limits a design, and what it is called."""


@dataclass(frozen=True)
class Piece:
    """A piece of a stacked bar, in percent of its whole."""

    kind: str
    label: str
    amount: int
    start: float
    width: float


@dataclass(frozen=True)
class Stack:
    """What is used of a resource, by kind, against what the board holds."""

    label: str
    used: int
    held: int
    usable: int | None
    mark: float | None
    """Where the part ends that a design may use, in percent of the bar."""
    end: float
    """Where the part ends that the board holds, in percent of the bar."""
    pieces: list[Piece]

    @property
    def share(self) -> float:
        """Share of what the board holds."""
        return self.used / self.held if self.held else 0.0


@dataclass(frozen=True)
class Row:
    """A row of the table of layers."""

    layer: Mapping
    share: float
    """Share of the pipeline's interval in which it works."""
    folding: str
    use: float | None
    """Share of what its DSPs could multiply that the network asks for, products of zeros that are
    passed over included; None if its DSPs multiply nothing."""


@dataclass(frozen=True)
class Bound:
    """A least number of cycles, or the one that was reached."""

    label: str
    cycles: float
    width: float
    binds: bool
    reached: bool = False


def render(data: Mapping, netlist: Netlist, board_resources: Resources) -> str:
    """Draw the page.

    Parameters
    ----------
    data : what ``report.json`` holds; of its keys ``search``, ``usable``, ``simulated``,
        ``sparsity``, ``seeded``, ``warnings``, ``host``, ``provenance`` and a layer's ``parts``
        and ``folding`` may be missing
    netlist : the blocks and edges of the design
    board_resources : what the board holds

    Returns
    -------
    str
        HTML that needs no other file.
    """
    layers = data["layers"]
    search = data.get("search") or {}
    usable = data.get("usable") or {}
    stacks = _stacks(layers, data, asdict(board_resources), usable)
    slowest = search.get("bottlenecks") or [
        layer["name"] for layer in layers if layer["interval_cycles"] == data["interval_cycles"]
    ]
    drawn: Pipework = pipework(netlist, layers, data["interval_cycles"])
    return _template().render(
        data=data,
        search=search,
        sparsity=data.get("sparsity"),
        rows=[_row(layer, data["interval_cycles"]) for layer in layers],
        stacks=stacks,
        kinds=[(kind, label) for kind, label in KIND_LABELS.items()
               if any(piece.kind == kind for stack in stacks for piece in stack.pieces)],
        fullest=max(stacks, key=lambda stack: stack.share, default=None),
        slowest=slowest,
        bounds=_bounds(search, data["interval_cycles"]),
        limit=LIMITS.get(search.get("limit", ""), search.get("limit")),
        fabric_share=fabric_share(data).removeprefix("; "),
        charts=_charts(data, search, board_resources, usable),
        drawn=drawn,
        left_to_host=left_to_host(data.get("host", ())),
    )


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{share:.0%}".replace("%", "\u00a0%")
    environment.filters["whole"] = lambda number: f"{number:,.0f}"
    environment.filters["place"] = lambda number: f"{number:.1f}".removesuffix(".0")
    return environment.from_string(
        files("hwgen.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    )


def _row(layer: Mapping, interval: int) -> Row:
    folding = layer.get("folding") or {}
    lanes = [folding.get(key, 1) for key in ("channel_lanes", "tap_lanes", "group_lanes", "pe")]
    use = None
    if layer["dsp_products"] and layer["macs"]:
        use = layer["macs"] / (interval * layer["dsp_products"])
    return Row(
        layer, layer["interval_cycles"] / interval,
        " × ".join(map(str, lanes)) if folding else "", use,
    )


def _spent(layer: Mapping, resource: str) -> Iterator[tuple[str, int]]:
    """What a layer takes of a resource, by kind."""
    rest = layer[resource]
    for part, amounts in (layer.get("parts") or {}).items():
        amount = amounts.get(resource, 0)
        if part in KIND_LABELS and amount:
            rest -= amount
            yield part, amount
    if rest > 0:
        yield layer["kind"], rest


def _stacks(
    layers: Sequence[Mapping], data: Mapping, held: Mapping[str, int], usable: Mapping[str, int]
) -> list[Stack]:
    stacks = []
    for resource, label in RESOURCES.items():
        used, whole = data[resource], held[resource]
        if not used and not whole:
            continue
        amounts = dict.fromkeys(KIND_LABELS, 0)
        for layer in layers:
            for kind, amount in _spent(layer, resource):
                amounts[kind] += amount
        scale = 100 / max(whole, used, sum(amounts.values()))
        pieces, start = [], 0.0
        for kind, amount in amounts.items():
            if amount:
                pieces.append(Piece(kind, KIND_LABELS[kind], amount, start, amount * scale))
                start += amount * scale
        may = usable.get(resource)
        mark = None if may is None else may * scale
        stacks.append(Stack(label, used, whole, may, mark, whole * scale, pieces))
    return stacks


def _bounds(search: Mapping, interval: int) -> list[Bound]:
    """The bounds of the search, the largest last, and behind them what was reached."""
    given = {key: cycles for key, cycles in (search.get("bounds") or {}).items() if cycles}
    if not given:
        return []
    whole = max(interval, *given.values())
    rows = [
        Bound(BOUNDS.get(key, key), cycles, 100 * cycles / whole, key == search.get("limit"))
        for key, cycles in sorted(given.items(), key=lambda pair: pair[1])
    ]
    return [*rows, Bound("this design", interval, 100 * interval / whole, False, True)]


def _charts(
    data: Mapping, search: Mapping, held: Resources, usable: Mapping[str, int]
) -> list[Chart]:
    """Interval against DSPs, and against on-chip memory, of all that the search looked at."""
    explored = search.get("explored") or []
    if not explored:
        return []
    limit = {**asdict(held), **usable}
    return [
        pareto(
            "DSPs", data["interval_cycles"], data["dsp"], limit["dsp"],
            [(e["interval_cycles"], e["dsp"], e["fits"]) for e in explored],
        ),
        pareto(
            "on-chip memory, Mbit", data["interval_cycles"], memory_mbit(data),
            memory_mbit(limit),
            [(e["interval_cycles"], memory_mbit(e), e["fits"]) for e in explored],
        ),
    ]
