"""Docstrings of configurations that extend others: inherited parameters are listed, too."""

from __future__ import annotations

import inspect
import re

__all__ = ["list_parameters"]

SECTION = "Parameters\n----------\n"
ENTRY = re.compile(r"(?m)^(?=\S)")
NEXT = re.compile(r"(?m)^\S[^\n]*\n-{3,}\n")


def _parted(text: str) -> tuple[str, list[str], str]:
    """A docstring in three parts: text before its parameters, their entries, text after them."""
    before, found, rest = text.partition(SECTION)
    if not found:
        following = NEXT.search(text)
        cut = following.start() if following else len(text)
        return text[:cut], [], text[cut:]
    following = NEXT.search(rest)
    cut = following.start() if following else len(rest)
    entries = [entry.rstrip() for entry in ENTRY.split(rest[:cut]) if entry.strip()]
    return before, entries, rest[cut:]


def _names(entry: str) -> set[str]:
    return set(re.findall(r"\w+", entry.partition("\n")[0].partition(" :")[0]))


def list_parameters(kind: type) -> None:
    """Add the parameters that a class inherits to those in its docstring.

    ``help()`` of a configuration then lists all of its parameters, although each is described
    only once, in the class that defines it.
    """
    if not kind.__doc__:
        return
    before, entries, after = _parted(inspect.cleandoc(kind.__doc__))
    for base in kind.__mro__[1:]:
        known = set().union(*map(_names, entries))
        inherited = _parted(inspect.cleandoc(base.__dict__.get("__doc__") or ""))[1]
        entries += [entry for entry in inherited if not _names(entry) & known]
    if entries:
        listed = "\n".join(entries)
        kind.__doc__ = f"{before.rstrip()}\n\n{SECTION}{listed}\n\n{after}".rstrip() + "\n"
