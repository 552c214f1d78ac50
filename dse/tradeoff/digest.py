"""Fingerprints of networks and data, by which files state what they are about."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import numpy as np

__all__ = ["digest", "parts"]


def digest(value: object) -> str:
    """A fingerprint of plain data, arrays and dataclasses."""
    state = hashlib.sha256()
    for part in parts(value):
        state.update(part)
    return state.hexdigest()


def parts(value: object) -> Iterator[bytes | memoryview]:
    """All bytes that a value is made of, with mappings in the order of their keys."""
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).data
    elif is_dataclass(value):
        yield type(value).__name__.encode()
        for f in fields(value):
            # A graph by another name is the same graph.
            if f.name != "meta":
                yield f.name.encode()
                yield from parts(getattr(value, f.name))
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from parts([key, value[key]])
    elif isinstance(value, list | tuple):
        yield b"("
        for part in value:
            yield from parts(part)
        yield b")"
    else:
        yield f"{value!r};".encode()
