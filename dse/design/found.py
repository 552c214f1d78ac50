"""What a search found, how good it is, and what to change to go faster."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from hwgen.design import DesignPoint
from hwgen.dse.design.bounds import Bounds
from hwgen.netlist import Netlist
from hwgen.timing import Timing

__all__ = ["GIVEN", "STREAM", "TARGET", "Found"]

STREAM, TARGET, GIVEN = "stream", "target", "design"
"""Limits that are no resources: the widest stream, what was asked for, a design that was given."""


@dataclass(frozen=True)
class Found:
    """A design and how good it is.

    Members
    -------
    design, netlist, timing : the design, with all depths and capacities
    bounds : what no design of dense work can beat, and what none can that multiplies by DSPs alone
    limit : the resource that is scarcest; or :data:`STREAM`; or :data:`TARGET`, if no more was
        wanted; or :data:`GIVEN`, if nothing was searched
    explored : designs on the way and beyond, as ``report.json`` lists them
    seconds : time that the search took
    """

    design: DesignPoint
    netlist: Netlist
    timing: Timing
    bounds: Bounds
    limit: str
    explored: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def gap(self) -> float:
        """How much longer the interval is than the bound, as a share; negative only if zeros are
        passed over."""
        return self.timing.interval / max(self.bounds.cycles, 1) - 1

    @property
    def dsp_gap(self) -> float:
        """How much longer the interval is than what DSPs alone could reach, as a share; negative
        only if the fabric multiplies too."""
        return self.timing.interval / max(self.bounds.dsp_cycles, 1) - 1

    @property
    def bottlenecks(self) -> list[str]:
        """The blocks that set the interval."""
        return [name for name, config in self.netlist.blocks.items()
                if config.interval == self.netlist.interval]

    def advice(self) -> list[str]:
        """What to change to go faster."""
        if self.limit == STREAM:
            return [("The widest stream sets the interval: a smaller input size makes it faster, "
                     "or a design by hand with more lanes where tensors that are joined or added "
                     "differ in their channels.")]
        if self.limit == TARGET:
            return ["The design is as fast as it was to be: a higher target_fps makes it faster."]
        if self.limit == GIVEN:
            names = ", ".join(map(repr, self.bottlenecks[:3])) or "the streams"
            return [f"The design was given: {names} set its interval, so fold them less."]
        what = {
            "dsp": "DSPs are used up, and so are LUTs to multiply with",
            "lut": "LUTs are used up",
            "ff": "Flip-flops are used up",
            "bram18": "Block memory is used up",
            "uram": "On-chip memory is used up",
            "bandwidth": "The bandwidth of off-chip memory is used up",
        }[self.limit]
        helps = "a larger board"
        if self.limit in ("bram18", "uram", "lut", "ff", "bandwidth"):
            helps += ", fewer bits for weights (precision, such as w4a8)"
        return [f"{what}: {helps} or a smaller input size makes it faster."]

    def plain(self) -> dict:
        """What ``report.json`` says about the search."""
        return {
            "bounds": asdict(self.bounds), "bound_cycles": self.bounds.cycles, "gap": self.gap,
            "dsp_bound_cycles": self.bounds.dsp_cycles, "dsp_gap": self.dsp_gap,
            "limit": self.limit, "bottlenecks": self.bottlenecks, "advice": self.advice(),
            "explored": self.explored,
        }
