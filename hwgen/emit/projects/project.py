"""What a project is made from, and what a kind of project says of itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from hwgen.boards import Board
from hwgen.device.cost import Resources
from hwgen.emit.verilog import Rtl
from hwgen.netlist import Netlist
from hwgen.shell.shell import FRAMES_PORT, ShellConfig
from hwgen.top import memory_port

__all__ = ["UNTRIED", "Kind", "Project", "render"]

UNTRIED = "No vendor tool has run this script where it was written."
"""What every script says of itself."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """What is built.

    Parameters
    ----------
    model : name of the network
    board : :class:`Board`
    clock_mhz : the clock that the design is for, MHz
    netlist : :class:`Netlist`
    rtl : :class:`Rtl`
    shell : what is around the accelerator; None: nothing
    """

    model: str
    board: Board
    clock_mhz: float
    netlist: Netlist
    rtl: Rtl
    shell: ShellConfig | None = None

    @property
    def name(self) -> str:
        """The network's name as one that all tools take."""
        words = re.sub(r"\W", "_", self.model, flags=re.A)
        return words if words[:1].isalpha() else f"n_{words}"

    @property
    def period_ns(self) -> float:
        """Period of the clock, ns."""
        return round(1000 / self.clock_mhz, 4)

    @property
    def masters(self) -> list[str]:
        """The AXI4 ports of the shell, that of the frames first."""
        offchip = self.netlist.offchip
        return [FRAMES_PORT, *(memory_port(k) for k in range(offchip.ports if offchip else 0))]

    @property
    def predicted(self) -> Resources:
        """What is predicted for all that is emitted, the shell included."""
        whole = self.netlist.resources()
        if self.shell is not None:
            whole += self.shell.area().resources(self.netlist.family)
        return whole

    def texts(self) -> dict[str, Any]:
        """What every template may use."""
        return {
            "name": self.name, "top": self.rtl.top, "board": self.board,
            "clock_mhz": self.clock_mhz, "period_ns": self.period_ns, "masters": self.masters,
            "predicted": asdict(self.predicted), "untried": UNTRIED,
        }


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of project.

    Parameters
    ----------
    name : what it is called
    shell : whether it has to have a shell around the accelerator
    fits : which boards it fits
    wants : what a board has that it fits, for messages
    files : contents by path from the output directory; raises a
        :exc:`~hwgen.errors.HwgenError` for a design that it does not fit
    """

    name: str
    shell: bool
    fits: Callable[[Board], bool]
    wants: str
    files: Callable[[Project], Mapping[str, str]]


@cache
def _environment() -> Environment:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, loader=FunctionLoader(
            lambda name: files("hwgen.emit.projects").joinpath(name).read_text(encoding="utf-8")))
    environment.filters["json"] = json.dumps
    environment.filters["mhz"] = lambda clock: f"{clock:.10g}"
    return environment


def render(template: str, project: Project, **more: Any) -> str:
    """A file of a project.

    Parameters
    ----------
    template : name of a template beside this module
    project : what it is of
    more : what else the template uses
    """
    return _environment().get_template(template).render(project.texts() | more)
