"""Whole networks: accelerator and ``host.onnx`` against onnxruntime on the file itself."""

import numpy as np

from hwgen.design import DesignPoint
from hwgen.models.load import Source
from hwgen.plan import plan
from tests.models.host.test_model import run


def compared(path, **options) -> tuple[Source, float]:
    """Source of a file that can be planned, and the decibels of its outputs."""
    source, _, wanted, got = run(path, **options)
    plan(source.graph, DesignPoint())
    signal = noise = 0.0
    for one, other in zip(wanted, got, strict=True):
        for want, value in zip(one, other, strict=True):
            assert want.shape == value.shape
            signal += np.square(want.astype(np.float64)).sum()
            noise += np.square(want.astype(np.float64) - value).sum()
    return source, 10 * np.log10(signal / max(noise, 1e-30))
