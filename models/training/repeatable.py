"""Training that gives the same network every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["repeatable"]


@contextmanager
def repeatable(seed: int, threads: int = 1) -> Iterator[None]:
    """Seed torch, and limit it to a number of threads, which add in one order; then restore both.

    Layers of small networks are also quicker on one thread than on several.
    """
    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
