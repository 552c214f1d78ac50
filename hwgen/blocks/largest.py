"""What blocks share that compare the channels of each pixel: a tree over a beat, then beats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwgen.blocks.base import OpConfig
from hwgen.blocks.beat import BeatConfig, most_claims
from hwgen.device.arithmetic import levels
from hwgen.parts.stream import StreamType

__all__ = ["LargestConfig"]


@dataclass(frozen=True, kw_only=True)
class LargestConfig(BeatConfig, OpConfig):
    """One channel for each pixel, found by comparing all of its channels."""

    @cached_property
    def outputs(self) -> tuple[StreamType, ...]:
        return (StreamType(self.op.infer(self.tensor)[0]),)

    @property
    def tree_levels(self) -> int:
        """Number of registered levels in the tree that compares the channels of a beat."""
        return levels(self.lanes)

    @property
    def least_depths(self) -> tuple[int, ...]:
        return (most_claims(self.claim_cycles, 1, self.inputs[0].beats_per_site),)

    def claiming(self, beats: np.ndarray) -> np.ndarray:
        count = self.inputs[0].beats_per_site
        return beats[count - 1 :: count]
