"""The house: imports run one way, and nobody but a block decides by what a block is."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("hwgen", "boards", "dse", "models", "sim")
LAYERS = (
    ("__init__", "errors"),
    ("ir", "children", "extras", "options", "output", "provenance"),
    ("device", "interrupt"),
    ("parts", "boards", "models"),
    ("offchip",),
    ("design",),
    ("blocks",),
    ("netlist",),
    ("plan", "pipeline"),
    ("timing", "top"),
    ("shell",),
    ("emit",),
    ("sim", "dse", "report"),
    ("flow", "run"),
    ("build",),
    ("__main__",),
)
"""From the ground up: a room imports from those below it, and from itself."""
ROOMS = {room: height for height, layer in enumerate(LAYERS) for room in layer}
STEPS = (
    ("onnx", "zoo"),
    ("frames",),
    ("quantisation",),
    ("compression",),
    ("lowering", "training"),
    ("export", "host"),
    ("accuracy",),
    ("load",),
    ("__init__",),
)
"""From a file to the integer graph: what a room of ``hwgen.models`` imports of it stands before."""
HEIGHTS = {step: height for height, layer in enumerate(STEPS) for step in layer}
ABOUT_BLOCKS = ("blocks", "parts", "offchip")


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Each module's name as it is imported, and what it holds."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if parts[0] == "hwgen" else ("hwgen", *parts))
            yield name.removesuffix(".__init__") or name, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """Modules of hwgen that a module imports, or names in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hwgen":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "hwgen")


def test_the_driver_stands_alone():
    """It is a package of its own: numpy, and what one transport needs when that is made."""
    for path in (ROOT / "driver").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found = {(node.module or "").split(".")[0]}
            else:
                continue
            assert found <= {*sys.stdlib_module_names, "numpy"}, f"{path} imports {found}"


def test_one_module_asks_for_what_amaranth_keeps_private():
    private = re.compile(r"^\s*(from|import) amaranth(\.\w+)*\._", re.M)
    found = [path for folder in (*FOLDERS, "benchmarks", "examples", "tests")
             for path in (ROOT / folder).rglob("*.py") if private.search(path.read_text())]
    assert found == [ROOT / "hwgen" / "emit" / "verilog.py"]


def room(name: str) -> str:
    """The room that a module or a name is in."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"


def test_every_room_has_its_place():
    assert {room(name) for name, _ in modules()} == set(ROOMS)


@pytest.mark.parametrize("name, tree", [pytest.param(n, t, id=n) for n, t in modules()])
def test_imports_run_one_way(name, tree):
    here = room(name)
    above = {other for other in imported(tree)
             if room(other) != here and ROOMS[room(other)] >= ROOMS[here]}
    assert not above, f"{name} imports {', '.join(sorted(above))}, which is not below {here}"


def step(name: str) -> str:
    """The room of ``hwgen.models`` that a module or a name is in; the empty text if in none."""
    parts = name.split(".")
    if parts[1:2] != ["models"]:
        return ""
    return parts[2] if len(parts) > 2 and parts[2] in HEIGHTS else "__init__"


def test_every_step_has_its_place():
    assert {step(name) for name, _ in modules()} == {"", *HEIGHTS}


@pytest.mark.parametrize(
    "name, tree", [pytest.param(n, t, id=n) for n, t in modules() if step(n)])
def test_an_earlier_step_imports_nothing_of_a_later_one(name, tree):
    here = step(name)
    later = {other for other in imported(tree)
             if step(other) not in ("", here) and HEIGHTS[step(other)] >= HEIGHTS[here]}
    assert not later, f"{name} imports {', '.join(sorted(later))}, which is not before {here}"


def test_no_block_class_decides_elsewhere():
    configs = {
        node.name for name, tree in modules() if room(name) in ABOUT_BLOCKS
        for node in tree.body if isinstance(node, ast.ClassDef)
    }
    pattern = re.compile(r"isinstance\([^()]*\b(" + "|".join(sorted(configs)) + r")\b")
    for name, tree in modules():
        if room(name) in ABOUT_BLOCKS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                text = ast.unparse(node)
                # Ops have names of their own, which some components share.
                taken = {n for n in imported(tree) if n.startswith("hwgen.ir")}
                found = pattern.search(text)
                assert not found or f"hwgen.ir.{found[1]}" in taken, f"{name}: {text}"
