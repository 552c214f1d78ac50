"""Constraints for pip that ask for the oldest of every dependency: lower bounds of pyproject.toml.

    python -m tests.oldest > oldest.txt
    pip install --constraint oldest.txt '.[network,zoo,search,dev]'

It needs nothing that is not in Python.
"""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
REQUIREMENT = re.compile(
    r"(?P<name>[\w-]+)(\[[\w,]+\])?(?P<kind>>=|==)(?P<oldest>[\w.]+)(,<[\w.]+)?"
)


def constraints(path: Path = PROJECT) -> dict[str, str]:
    """The oldest release that a project allows, per package of all extras, as pip takes it.

    Of a lower bound ``2.0`` that is any ``2.0.*``.

    Raises
    ------
    :exc:`ValueError`
        If a dependency has no lower bound, or two that differ.
    """
    project = tomllib.loads(path.read_text())["project"]
    found: dict[str, str] = {}
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        match = REQUIREMENT.fullmatch(line)
        if match is None:
            raise ValueError(
                f"Requirement must look like 'name>=1.2,<2' or 'name==1.2', not {line!r}"
            )
        name = match["name"]
        oldest = f"=={match['oldest']}" + (".*" if match["kind"] == ">=" else "")
        if found.setdefault(name, oldest) != oldest:
            raise ValueError(f"Package {name!r} must have one lower bound, not two")
    return found


if __name__ == "__main__":
    for name, oldest in constraints().items():
        print(name + oldest)
