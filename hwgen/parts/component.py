"""Base class of components that are built from a configuration."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from amaranth.lib import wiring

__all__ = ["Configured"]


class _Signed(Protocol):
    """A configuration with the signature of its component."""

    @property
    def signature(self) -> wiring.Signature: ...


C = TypeVar("C", bound=_Signed)


class Configured(wiring.Component, Generic[C]):
    """A component that is built from a configuration and holds it as ``config``.

    Parameters
    ----------
    config
        Its ``signature`` is that of the component.
    """

    def __init__(self, config: C) -> None:
        self.config = config
        super().__init__(config.signature)
