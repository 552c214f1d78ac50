"""docs/zoo.md says what the zoo knows."""

import re
from pathlib import Path

from hwgen.models import zoo

PAGE = (Path(__file__).parents[3] / "docs" / "zoo.md").read_text()


def table():
    """The table of networks, as it must be."""
    lines = ["| name | task | MACs | parameters | size | sizes that it takes |",
             "|---|---|---|---|---|---|"]
    for name in zoo.names():
        entry = zoo.find(name)
        lines.append(f"| `{name}` | {entry.task} | {entry.macs / 1e6:,.1f} M | "
                     f"{entry.parameters / 1e6:,.2f} M | {entry.extents(entry.size)} | "
                     f"{entry.sizes.rule} |")
    return "\n".join(lines)


def rows(heading):
    """First cells of the table below a heading, as lists of names, with the other cells."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines()
             if line.startswith("| ")][1:]
    return {tuple(re.findall(r"`([^`]+)`", first)): rest for first, *rest in cells}


def test_networks():
    assert f"\n{table()}\n" in PAGE


def test_heads():
    others = set(zoo.names())
    for names, (outputs, _) in rows("Heads").items():
        for name in names or sorted(others):
            stated = re.findall(r"`([^`]+)`", outputs)
            have = zoo.find(name).outputs
            assert list(have) == stated or ("…" in outputs and set(stated) < set(have)), name
        others -= set(names)


def test_every_network_has_a_source():
    assert {n for names in rows("Published weights") for n in names} == set(zoo.names())


def test_classes_of_ultralytics_and_counts_of_repvgg():
    assert zoo.find("yolov8n").meta["bins"] == 16
    assert f"become {zoo.find('repvgg-a0').parameters / 1e6:.2f} M" in PAGE
