"""What a simulation gives, whichever simulator it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """Frames that came out of a design, and when.

    Members
    -------
    outputs : output name to integer array ``(frames, *shape)``
    start : cycle of the first input's first beat
    first, last : output name to the cycle of each frame's first and last beat, ``(frames,)``
    cycles : cycles from when inputs could begin to the last output beat
    """

    outputs: dict[str, np.ndarray]
    start: int
    first: dict[str, np.ndarray]
    last: dict[str, np.ndarray]
    cycles: int

    @property
    def latency(self) -> int:
        """Cycles from the first input beat to the last beat of the last output, of the first
        frame."""
        return max(int(times[0]) for times in self.last.values()) - self.start

    @property
    def first_output(self) -> int:
        """Cycles from the first input beat to the first output beat."""
        return min(int(times[0]) for times in self.first.values()) - self.start

    @property
    def interval(self) -> int:
        """Cycles between the last two frames, at the slowest output; 0 for a single frame."""
        return max((int(times[-1] - times[-2]) for times in self.last.values() if len(times) > 1),
                   default=0)
