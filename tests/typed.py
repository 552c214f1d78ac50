"""Types that a checker cannot see: ports of components; what a block or the op of a node is."""

from __future__ import annotations

from typing import Any, TypeVar

from amaranth.lib import wiring

Kind = TypeVar("Kind")


def ports(component: wiring.Component) -> Any:
    """The component itself; its ports are attributes that its signature makes at run time."""
    return component


def of_kind(thing: object, kind: type[Kind]) -> Kind:
    """The thing itself, which must be of a kind."""
    assert isinstance(thing, kind)
    return thing
