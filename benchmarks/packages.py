"""Draw the packages of hwgen and which imports which, from the code.

    python -m benchmarks.packages

Writes ``docs/packages.svg``.  An arrow is left out where others lead the same way, and so are the
modules that import nothing but each other: whoever needs one imports it.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from xml.sax.saxutils import escape

from hwgen.report.drawing import outline
from hwgen.report.layered import layered

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "packages.svg"
FOLDERS = ("hwgen", "boards", "dse", "models", "sim")
TITLE, TEXT, LINE, PAD, WIDE = 14.0, 11.0, 15.0, 10.0, 36
"""Sizes of letters, height of a line, margin of a box, all in pixels; most characters a line."""
STYLE = """\
text{font-family:system-ui,sans-serif;font-size:11px;fill:#444}
.name{font-size:14px;font-weight:600;fill:#111}
rect{fill:#f4f6fa;stroke:#5b6f95}
.helper{fill:#fafafa;stroke:#aaa;stroke-dasharray:4 3}
path{fill:none;stroke:#5b6f95;stroke-width:1.3}"""


def modules() -> Iterator[tuple[tuple[str, ...], ast.Module]]:
    """Each module's name below hwgen, and what it holds."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts[1:] if folder == "hwgen" else parts
            yield tuple(part for part in parts if part != "__init__"), ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[str]:
    """What a module imports of hwgen, by the first name behind it."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("hwgen."))


def imports() -> tuple[dict[str, set[str]], dict[str, list[str]]]:
    """Per package what it imports, and the names of what is in it."""
    needs: dict[str, set[str]] = {}
    holds: dict[str, list[str]] = {}
    for parts, tree in modules():
        if not parts:
            continue
        needs.setdefault(parts[0], set()).update(imported(tree))
        holds.setdefault(parts[0], [])
        if len(parts) > 1 and parts[1] not in holds[parts[0]]:
            holds[parts[0]].append(parts[1])
    return {name: (found - {name}) & set(needs) for name, found in needs.items()}, holds


def helpers(needs: dict[str, set[str]], holds: dict[str, list[str]]) -> list[str]:
    """Modules that import nothing but each other."""
    found: set[str] = set()
    while more := {name for name, other in needs.items()
                   if not holds[name] and other <= found and name not in found}:
        found |= more
    return sorted(found)


def below(needs: dict[str, set[str]]) -> dict[str, set[str]]:
    """Per package all that it imports, itself or through others."""
    found: dict[str, set[str]] = {}
    for name in TopologicalSorter(needs).static_order():
        found[name] = needs[name].union(*(found[other] for other in needs[name]))
    return found


def drawing() -> str:
    """The drawing, as SVG."""
    needs, holds = imports()
    aside = helpers(needs, holds)
    needs = {name: other - set(aside) for name, other in needs.items() if name not in aside}
    under = below(needs)
    order = sorted(needs, key=lambda name: (-len(under[name]), name))
    edges = [(name, other) for name in order for other in sorted(needs[name])
             if not any(other in under[way] for way in needs[name])]
    lines = {name: wrapped(holds[name]) for name in order}
    sizes = {name: size(name, lines[name]) for name in order}
    laid = layered(sizes, edges)
    width, height = laid.width + 2 * PAD, laid.height + 4 * PAD + 3 * LINE
    parts = [
        (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
         f'width="{width:.0f}" height="{height:.0f}">'),
        f"<style>{STYLE}</style>",
        ('<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
         'markerHeight="7" orient="auto">'
         '<path d="M0 0L8 4L0 8z" style="fill:#5b6f95;stroke:none"/></marker></defs>'),
        f'<g transform="translate({PAD:.0f} {PAD:.0f})">',
    ]
    parts += [f'<path marker-end="url(#tip)" d="{outline(points)}"/>' for points in laid.paths]
    for name in order:
        box = laid.boxes[name]
        parts += boxed(name, lines[name], box.x, box.y, box.width, box.height)
    title = "used by any of them"
    parts += boxed(title, [", ".join(aside)], 0.0, laid.height + 2 * PAD, laid.width,
                   2 * LINE + PAD, "helper")
    return "\n".join([*parts, "</g>", "</svg>", ""])


def wrapped(names: list[str]) -> list[str]:
    """Names in lines of about one length."""
    lines: list[str] = []
    for name in sorted(names):
        if lines and len(lines[-1]) + len(name) + 2 <= WIDE:
            lines[-1] += f", {name}"
        else:
            lines.append(name)
    return [line + "," * (k < len(lines) - 1) for k, line in enumerate(lines)]


def size(name: str, lines: list[str]) -> tuple[float, float]:
    """Width and height of a box."""
    widest = max([len(name) * TITLE * 0.62, *(len(line) * TEXT * 0.53 for line in lines)])
    return widest + 2 * PAD, LINE * (1 + len(lines)) + PAD


def boxed(
    name: str, lines: list[str], x: float, y: float, width: float, height: float, kind: str = ""
) -> list[str]:
    """A box with a name and lines of text."""
    middle = x + width / 2
    text = [(name, "name"), *((line, "") for line in lines)]
    return [
        (f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" '
         f'height="{height:.1f}" rx="4"/>'),
        *(f'<text class="{style}" x="{middle:.1f}" y="{y + PAD / 4 + LINE * (k + 1):.1f}" '
          f'text-anchor="middle">{escape(line)}</text>' for k, (line, style) in enumerate(text)),
    ]


def main() -> int:
    PAGE.write_text(drawing())
    print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
