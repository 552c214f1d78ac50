"""What Yosys makes of emitted components."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth.hdl import Module
from amaranth.lib import wiring

from benchmarks.synthesis import run_yosys
from hwgen.device.cost import Resources
from hwgen.emit.verilog import emit_component

CELLS = {
    "RAMB18E1": Resources(bram18=1), "RAMB18E2": Resources(bram18=1),
    "RAMB36E1": Resources(bram18=2), "RAMB36E2": Resources(bram18=2),
    "URAM288": Resources(uram=1), "RAM64M8": Resources(lut=8), "RAM32M16": Resources(lut=8),
    "FDRE": Resources(ff=1), "FDSE": Resources(ff=1),
    **{f"LUT{n}": Resources(lut=1) for n in range(2, 7)},
}


class _Alone:
    """A component as a configuration, to have it emitted as a module of its own."""

    def __init__(self, component: wiring.Component) -> None:
        self.component = component
        self.signature = component.signature

    def create(self) -> wiring.Component:
        return self.component


class _Together(wiring.Component):
    """Components side by side."""

    def __init__(self, components: Mapping[str, wiring.Component]) -> None:
        self.components = components
        self.modules: dict[str, str] = {}
        super().__init__({
            name: wiring.Out(component.signature) for name, component in components.items()
        })

    def elaborate(self, platform):
        m = Module()
        for name, component in self.components.items():
            instance = platform.instance_of(_Alone(component), getattr(self, name))
            self.modules[name] = instance.type
            m.submodules[name] = instance
        return m


def synthesised(
    components: Mapping[str, wiring.Component], family: str = "xcup"
) -> dict[str, Resources]:
    """What each of some components takes, in one run of Yosys."""
    together = _Together(components)
    rtl = emit_component(together)
    modules = " ".join(together.modules.values())
    uram = "-uram" if family == "xcup" else ""
    script = (
        f"hierarchy -top top; "
        f"setattr -mod -set keep_hierarchy 1 {modules}; proc; flatten; "
        f"synth_xilinx -family {family} {uram} -noiopad -noclkbuf -top top"
    )
    found = run_yosys(rtl, script, "-DSYNTHESIS")["modules"]
    taken = {}
    for name, module in together.modules.items():
        taken[name] = Resources()
        for cell, count in found[f"\\{module}"]["num_cells_by_type"].items():
            for _ in range(count):
                taken[name] += CELLS.get(cell, Resources())
    return taken
