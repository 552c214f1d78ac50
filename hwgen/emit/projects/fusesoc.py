"""A core file (CAPI2) for FuseSoC: the Verilog and its images, to be part of another design."""

from __future__ import annotations

from hwgen.emit.projects.project import Kind, Project, render
from hwgen.emit.projects.synthesis import SYNTHESIS

__all__ = ["FUSESOC"]


def _files(project: Project) -> dict[str, str]:
    images = sorted(name for name in project.rtl.files if name.endswith(".mem"))
    return {f"{project.name}.core": render(
        "fusesoc.core.j2", project, verilog=project.rtl.verilog, images=images,
        vivado=SYNTHESIS.fits(project.board))}


FUSESOC = Kind(name="fusesoc", shell=False, fits=lambda board: True, wants="any board",
               files=_files)
