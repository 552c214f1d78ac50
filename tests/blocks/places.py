"""The check of blocks that do not claim a place for every beat they take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwgen.blocks.base import BlockConfig
from hwgen.parts.queue import queue_depth
from hwgen.sim.amaranth import simulate
from tests.blocks.checks import random_arrivals, random_frames, same_until_the_end

__all__ = ["check_least_places"]


def check_least_places(config: BlockConfig, seed: int = 0) -> None:
    """A block keeps its schedule with as many places as the schedule claims at once.

    So beats that claim no place are taken even when all places are.
    """
    random = np.random.default_rng(seed)
    frames, arrivals = random_frames(config, random), random_arrivals(config, random)
    schedule = config.schedule(arrivals)
    depths = tuple(map(queue_depth, schedule.claims, schedule.outputs))
    run = simulate(replace(config, depths=depths).create(), *frames, arrivals=arrivals)
    assert same_until_the_end(run, schedule)
