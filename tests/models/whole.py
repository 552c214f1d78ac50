"""Whole networks: accelerator and ``host.onnx`` against onnxruntime on the file itself."""

import contextlib
import io
import warnings

import numpy as np
import torch
from torch import nn

from hwgen.design import DesignPoint
from hwgen.models.load import Source
from hwgen.plan import plan
from tests.models.float_networks import N
from tests.models.host.test_model import run

CONV = N("Conv", ["x", "w"], ["c"], pads=[1] * 4)
LAST = N("Conv", ["t", "e"], ["y"])


def weights(*shape: int) -> np.ndarray:
    """Normal numbers, the same for the same shape."""
    random = np.random.default_rng(sum(shape))
    return (random.standard_normal(shape) / 3).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """Constants of int64."""
    return np.array(values, np.int64)


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


def exported(module: nn.Module, path, opset: int = 17) -> None:
    """Write a module with seeded weights."""
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()  # pyright: ignore[reportCallIssue]
    options = {"external_data": False} if opset >= 18 else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.rand(1, 3, 16, 16),), str(path),
                          dynamo=opset >= 18, opset_version=opset, **options)
