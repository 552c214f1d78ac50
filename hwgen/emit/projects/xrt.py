"""A project for accelerator cards under XRT: a kernel (``.xo``) and its linking by ``v++``.

The kernel is user-managed (UG1393, "Creating User-Managed RTL Kernels"): the driver reads and
writes its registers itself, by ``xrt::ip``.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace

from hwgen.emit.projects.project import Kind, Project, render
from hwgen.shell.registers import Argument
from hwgen.shell.shell import FRAMES_PORT
from hwgen.top import memory_port

__all__ = ["XRT", "arguments", "one_die"]

BANKS = {"HBM": "HBM", "DDR4": "DDR"}
"""What the linker calls memories, by their kind."""


def arguments(project: Project) -> list[tuple[Argument, str]]:
    """The arguments of the kernel, with names that C has, and the ports that addresses go with.

    XRT knows of a port by an argument that goes with it.  One address is that of off-chip memory
    at all its ports; the others get an argument that the shell has no register for.
    """
    assert project.shell is not None
    found: list[tuple[Argument, str]] = []
    names: set[str] = set()
    for each in project.shell.arguments:
        name = re.sub(r"\W", "_", each.name, flags=re.A)
        while name in names:
            name += "_"
        names.add(name)
        port = "" if each.bits != 64 else memory_port(0) if each.name == "memory" else FRAMES_PORT
        found.append((replace(each, name=name), port))
    behind = found[-1][0].offset + 8
    found += [(Argument(f"memory_{k}", behind + 8 * (k - 1), 64), memory_port(k))
              for k in range(1, len(project.masters) - 1)]
    return found


def one_die(project: Project) -> bool:
    """Whether all is predicted to fit into one of the device's dies."""
    board = project.board
    has, want = asdict(board.usable), asdict(project.predicted)
    return board.slrs > 1 and all(want[name] * board.slrs <= has[name] for name in want)


def _files(project: Project) -> dict[str, str]:
    memory = project.board.memory[0]
    bank = BANKS[memory.kind]
    # All ports reach the same memory, so that it does not matter for which a buffer is allocated.
    # HBM takes one that is larger than a channel; DDR is a bank to itself.
    every = f"{bank}[0:{memory.count - 1}]" if bank == "HBM" else f"{bank}[0]"
    banks = dict.fromkeys(project.masters, every)
    more = {"arguments": arguments(project), "banks": banks, "one_die": one_die(project),
            "memory": memory}
    return {f"xrt/{name}": render(f"{template}.j2", project, **more) for name, template in (
        ("package.tcl", "xrt.tcl"), ("link.cfg", "xrt.cfg"), ("Makefile", "xrt.mk"))}


XRT = Kind(
    name="xrt", shell=True,
    fits=lambda board: bool(board.platform and board.memory and board.memory[0].kind in BANKS),
    wants="an accelerator card with a Vitis platform", files=_files,
)
