"""The design point: every choice that turns an integer graph into one particular pipeline.

Plain data, saved as ``design.json``, so that it can be read, edited by hand and given back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hwgen.blocks.multiplier import MULTIPLIERS
from hwgen.errors import HwgenError

__all__ = ["DesignPoint", "Folding"]

FORMAT = "hwgen-design-1"


@dataclass(frozen=True)
class Folding:
    """How one op is folded onto hardware.

    Parameters
    ----------
    channel_lanes, tap_lanes, group_lanes, pe : :class:`int`
        See :class:`hwgen.blocks.conv.FoldedConvConfig`; pools use ``tap_lanes`` alone.
    capacity : :class:`int`
        Pixels in the op's window buffer; 0: not sized yet.
    multiplier, products : see :class:`hwgen.blocks.conv.FoldedConvConfig`
    """

    channel_lanes: int = 1
    tap_lanes: int = 1
    group_lanes: int = 1
    pe: int = 1
    capacity: int = 0
    multiplier: str = "dsp48e2"
    products: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name == "multiplier":
                if value not in MULTIPLIERS:
                    raise HwgenError(
                        f"multiplier must be one of {', '.join(MULTIPLIERS)}, not {value!r}"
                    )
            elif not isinstance(value, int) or value < (name not in ("capacity", "products")):
                raise HwgenError(f"{name} must be a positive integer, not {value!r}")


@dataclass
class DesignPoint:
    """Foldings per op, lanes per tensor, queue depths per edge.

    Members
    -------
    board : board name
    clock_mhz : clock frequency
    foldings : node name to :class:`Folding`; what is missing is folded fully (one MAC a cycle)
    lanes : tensor name to channels a beat, as the tensor's producer sends it; default 1
    depths : edge name to queue depth in beats; what is missing has the block's least depth.
        An edge is named ``tensor>consumer``, as :class:`hwgen.pipeline.Netlist` lists them.
    """

    board: str = ""
    clock_mhz: float = 200.0
    foldings: dict[str, Folding] = field(default_factory=dict)
    lanes: dict[str, int] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write the design point as JSON."""
        body = {
            "format": FORMAT, "board": self.board, "clock_mhz": self.clock_mhz,
            "ops": {name: asdict(folding) for name, folding in self.foldings.items()},
            "tensors": {name: {"lanes": lanes} for name, lanes in self.lanes.items()},
            "edges": {name: {"depth": depth} for name, depth in self.depths.items()},
        }
        Path(path).write_text(json.dumps(body, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> DesignPoint:
        """Read a file written by :meth:`save`.

        Raises
        ------
        :exc:`HwgenError`
            If the file is missing, not JSON, or not a design point.
        """
        try:
            body = json.loads(Path(path).read_text())
            if body["format"] != FORMAT:
                raise HwgenError(f"format {body['format']!r} is not {FORMAT!r}")
            return cls(
                board=str(body["board"]), clock_mhz=float(body["clock_mhz"]),
                foldings={name: Folding(**f) for name, f in body["ops"].items()},
                lanes={name: int(t["lanes"]) for name, t in body["tensors"].items()},
                depths={name: int(e["depth"]) for name, e in body["edges"].items()},
            )
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise HwgenError(f"{path} is not a design point: {error}") from None
