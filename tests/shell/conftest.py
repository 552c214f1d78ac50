"""A block that is stuck is found soon."""

from tests.blocks.conftest import short_patience

__all__ = ["short_patience"]
