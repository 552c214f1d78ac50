"""Settings of the site: `make docs` builds it from docs/*.md and from docstrings.

Sphinx, because docstrings have its roles and numpydoc's sections, which its own extensions read;
MyST, because the pages are Markdown that is read on its own, too.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import desc, pending_xref
from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

import hwgen

MOCKED = ["torch"]
"""What takes long to import and of which only names are needed."""

project = "hwgen"
copyright = author = "hwgen contributors"
version = release = hwgen.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "hwgen"

nitpicky = True
myst_heading_anchors = 3
toc_object_entries = False           # what is on a page is found by its search

# The role of Amaranth's docstrings for a piece of Python.
rst_prolog = ".. role:: py(code)\n   :language: python\n"
autodoc_mock_imports = MOCKED
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what a base class says is said there
napoleon_google_docstring = False
napoleon_use_param = False          # types are prose, with roles where they are names
napoleon_use_rtype = False
napoleon_custom_sections = [("Members", "params_style"), "Timing"]


@cache
def source(module: str) -> tuple[Path, ast.Module]:
    """File of a module, and what it holds."""
    spec = find_spec(module)
    path = Path((spec and spec.origin) or "")
    return path, ast.parse(path.read_text())


def modules(name: str) -> Iterator[str]:
    """A module and, if it is a package, all that are in it."""
    path, _ = source(name)
    if path.name != "__init__.py":
        yield name
        return
    for each in sorted(path.parent.rglob("*.py")):
        parts = each.relative_to(path.parent).with_suffix("").parts
        yield ".".join((name, *(part for part in parts if part != "__init__")))


@cache
def defined(module: str) -> dict[str, str]:
    """Names that a module defines, and what they are called in full."""
    names = []
    for node in source(module)[1].body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return {name: f"{module}.{name}" for name in names}


@cache
def known(module: str) -> dict[str, str]:
    """Names that a module defines or imports, also for type checkers alone."""
    names = {}
    for node in ast.walk(source(module)[1]):
        if isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.asname or a.name: a.name for a in node.names}
    return names | defined(module)


@cache
def module_of(name: str) -> str:
    """The module that a full name begins with; empty if there is none."""
    while name:
        with mock(MOCKED):
            try:
                import_module(name)
            except ImportError:
                name = name.rpartition(".")[0]
            else:
                return name
    return ""


def members(name: str) -> list[object]:
    """The module that a full name begins with and what follows; None for what does not exist."""
    module = module_of(name)
    if not module:
        return [None]
    found: list[object] = [import_module(module)]
    for part in filter(None, name[len(module) + 1 :].split(".")):
        fields = getattr(found[-1], "__annotations__", {})
        found.append(fields.get(part) or getattr(found[-1], part, None))
    return found


def full_name(name: str, seen_from: list[str]) -> str:
    """What a name in a docstring is called in full, where it is defined."""
    first, dot, rest = name.partition(".")
    for module in seen_from:
        if first in known(module):
            name = known(module)[first] + dot + rest
            break
    else:
        if hasattr(builtins, first):
            return f"builtins.{name}"
    # A package takes names from its modules.
    while (module := module_of(name)).split(".")[0] == "hwgen" and module != name:
        first, dot, rest = name[len(module) + 1 :].partition(".")
        farther = known(module).get(first, f"{module}.{first}") + dot + rest
        if farther == name:
            break
        name = farther
    return name


class Room(SphinxDirective):
    """`.. room:: NAMES`: the docstrings of modules and of all that are in them, module by module.

    Names that a module takes from another one are shown where they are defined.
    """

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        lines = []
        for name in (m for given in self.arguments[0].split() for m in modules(given)):
            shown = getattr(members(name)[0], "__all__", None)
            if shown is None:
                shown = [each for each in defined(name) if not each.startswith("_")]
            own = ", ".join(each for each in shown if each in defined(name))
            lines += [name, "-" * len(name), "", f".. automodule:: {name}",
                      *([f"   :members: {own}"] if own else []), ""]
        return self.parse_text_to_nodes(StringList(lines, "room"), allow_section_headings=True)


class NamesInPages(SphinxTransform):
    """In pages, `hwgen.something` in backticks is a link to what it names, and has to exist."""

    default_priority = 5

    def apply(self, **kwargs) -> None:
        if self.env.docname.startswith("api/"):
            return
        for literal in list(self.document.findall(nodes.literal)):
            if re.fullmatch(r"hwgen(\.\w+)+", literal.astext()):
                literal.replace_self(pending_xref(
                    "", literal.deepcopy(), refdomain="py", reftype="obj", refexplicit=False,
                    reftarget=literal.astext(), refdoc=self.env.docname, refwarn=True))


class NamesInModules(SphinxPostTransform):
    """A name in a docstring is what it is in its module, and links to where that is defined.

    What is not shown has to exist as well, and is a link to what it is part of; so has what other
    projects define, of which there is no page to link to.
    """

    default_priority = 5  # before references are resolved

    def run(self, **kwargs) -> None:
        data = self.env.domains["py"].data
        shown = {*data["objects"], *data["modules"]}
        for node in list(self.document.findall(pending_xref)):
            if node.get("refdomain") != "py":
                continue
            name = full_name(node["reftarget"].lstrip("."), seen_from(node))
            if name.split(".")[0] in MOCKED:
                node.replace_self(node.children)
            elif members(name)[-1] is None:
                continue
            elif name.split(".")[0] != "hwgen":
                node.replace_self(node.children)
            else:
                while "." in name and name not in shown:
                    name = name.rpartition(".")[0]
                node["reftarget"], node["reftype"] = name, "obj"
                node["refspecific"] = False


def seen_from(node: pending_xref) -> list[str]:
    """Modules whose names a docstring may use: its own, and those of its class's bases."""
    module = node.get("py:module")
    if not module:
        return []
    parent = node.parent
    while parent is not None and not isinstance(parent, desc):
        parent = parent.parent
    names = parent[0]["ids"] if parent is not None else []
    classes = [each for name in names for each in members(name) if isinstance(each, type)]
    bases = [base.__module__ for each in classes for base in each.__mro__]
    return [module, *(base for base in bases if base.split(".")[0] == "hwgen")]


def as_prose(app: Sphinx, what: str, name: str, thing, options, lines: list[str]) -> None:
    """What is before a colon in the docstring of an attribute is no type, as napoleon thinks."""
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, "\\ ")


def as_python(app: Sphinx, what, name, thing, options, signature: str, returns: str):
    """Defaults that a dataclass makes are no Python otherwise, so that types would not be read."""
    return (signature.replace("<factory>", "..."), returns) if signature else None


def setup(app: Sphinx) -> None:
    app.add_directive("room", Room)
    app.add_transform(NamesInPages)
    app.add_post_transform(NamesInModules)
    app.connect("autodoc-process-docstring", as_prose, priority=400)  # napoleon's is 500
    app.connect("autodoc-process-signature", as_python)
