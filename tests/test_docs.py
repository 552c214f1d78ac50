"""README and docs say what is so: snippets and commands run, options, files and names exist."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.back import verilog

from benchmarks import packages
from hwgen.build import _parser

ROOT = Path(__file__).parent.parent
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
         *sorted((ROOT / "docs").glob("*.md"))]
FENCES = re.compile(r"^```(python|sh|text)\n(.*?)^```", re.M | re.S)
AS_PRINTED = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if FENCES.search(page.read_text())], ids=lambda p: p.name)
def test_snippets_and_commands_run(page, tmp_path, monkeypatch, capsys):
    """A page's Python shares its names; what is said behind a snippet is what it prints."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    printed = ""
    for kind, body in FENCES.findall(page.read_text()):
        if kind == "python":
            exec(compile(body, page.name, "exec"), names)
            printed = capsys.readouterr().out
        elif kind == "sh":
            printed = shell(body)
        else:
            assert doctest.OutputChecker().check_output(
                body.replace("…", "..."), printed, AS_PRINTED), f"{body}\nbut it is\n{printed}"
    if page.name == "README.md":
        assert "module snippet(" in verilog.convert(names["component"], name="snippet")


def shell(commands: str) -> str:
    """What commands print, with this environment's Python as ``python``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-e", "-c", commands], capture_output=True, text=True,
                          check=False, env={**os.environ, "PATH": path, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_paths(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:hwgen|models|dse|sim|boards|docs|examples)/[\w./]*)`", text):
        assert (ROOT / name).exists(), name


def test_options_are_documented():
    guide = (ROOT / "docs" / "guide.md").read_text()
    options = {o for a in _parser()._actions for o in a.option_strings if o.startswith("--")}
    assert set(re.findall(r"^\| `(--[\w-]+)", guide, re.M)) == options - {"--help"}


def test_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    commands = [c for page in PAGES for c in re.findall(r"^    make (\S+)", page.read_text(), re.M)]
    assert commands
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.M)


def test_drawing_of_the_packages():
    assert packages.PAGE.read_text() == packages.drawing()


@pytest.mark.slow
def test_conformance_page():
    from benchmarks import conformance

    rows = [conformance.check(case) for case in conformance.cases()]
    assert not [row for row in rows if row.outcome == "wrong"]
    assert conformance.PAGE.read_text() == conformance.page(rows)
