"""README and docs say what is so: snippets run, options and files exist."""

import re
from pathlib import Path

import pytest
from amaranth.back import verilog

from hwgen.build import _parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(snippet, id=f"{page.stem}-{number}")
    for page in (ROOT / "README.md", ROOT / "docs" / "guide.md")
    for number, snippet in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
]


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_run(snippet, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(snippet, "snippet", "exec"), names)
    assert capsys.readouterr().out.strip()
    if "component" in names:
        assert "module snippet(" in verilog.convert(names["component"], name="snippet")


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
    for command in re.findall(r"^    make (\S+)", (ROOT / "README.md").read_text(), re.M):
        assert re.search(rf"^{command}:", makefile, re.M)


def test_conformance_page():
    from benchmarks import conformance

    rows = [conformance.check(case) for case in conformance.cases()]
    assert not [row for row in rows if row.outcome == "wrong"]
    assert conformance.PAGE.read_text() == conformance.page(rows)
