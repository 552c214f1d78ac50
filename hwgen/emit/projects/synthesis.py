"""Synthesis alone, by Vivado out of context: what a design takes, and how fast it is."""

from __future__ import annotations

from hwgen.emit.projects.project import Kind, Project, render

__all__ = ["SYNTHESIS"]

FAMILIES = ("ultrascale+", "ultrascale", "7series")
"""Families that Vivado has."""


def _files(project: Project) -> dict[str, str]:
    clock = f"create_clock -name aclk -period {project.period_ns} [get_ports aclk]\n"
    return {"synthesis/synthesis.tcl": render("synthesis.tcl.j2", project),
            "synthesis/clock.xdc": clock}


SYNTHESIS = Kind(name="synthesis", shell=False, fits=lambda board: board.family in FAMILIES,
                 wants="a device that Vivado has", files=_files)
