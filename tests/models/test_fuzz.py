"""Damaged files: each gives a network or one clear line, soon, and nothing else."""

import time

import pytest

from hwgen.errors import HwgenError
from hwgen.models.frames import samples
from hwgen.models.lowering import lower
from hwgen.models.onnx.reader import normalise
from hwgen.models.quantisation import calibrate
from tests.models.fuzz import damaged

COUNT, PARTS = 500, 4


@pytest.mark.parametrize("part", range(PARTS))
def test_one_line_each(part):
    refused = 0
    for number, (kind, data) in enumerate(damaged(COUNT)):
        if number % PARTS != part:
            continue
        begin = time.perf_counter()
        try:
            network = normalise(data, "net.onnx", None)
            feeds = samples.calibration(network)
            lower(network, calibrate.statistics(network, feeds).ranges)
        except HwgenError:
            refused += 1
        # Far above what any of them takes: hanging is meant.
        assert time.perf_counter() - begin < 300, kind
    assert refused > COUNT // PARTS // 2
