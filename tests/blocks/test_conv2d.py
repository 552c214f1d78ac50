"""A convolution made from a designer's weights, against PyTorch's."""

from __future__ import annotations

import re
from dataclasses import fields
from inspect import getdoc

import numpy as np
import pytest
import torch

import hwgen.blocks
from hwgen.blocks import BlockConfig, conv2d
from hwgen.errors import HwgenError
from hwgen.ir import Quantisation


def frames(input: Quantisation, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(input.low, input.high + 1, (2, *shape))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [
    (1, 1, 1), (2, 0, 1), ((2, 1), (0, 2), 2),
])
def test_real_weights(stride, padding, dilation, groups: int) -> None:
    """Within what rounding the weights and the result can make of it."""
    random = np.random.default_rng(0)
    weights, bias = random.normal(size=(6, 2, 3, 3)), random.normal(size=6)
    input, output = Quantisation(0.02, -7), Quantisation(0.05, 3)
    config = conv2d(weights, size=(9, 8), bias=bias, stride=stride, padding=padding,
                    dilation=dilation, groups=groups, input=input, output=output)
    x = frames(input, 9, 8, 2 * groups)
    (codes,) = config.compute(x)
    real = torch.nn.functional.conv2d(
        torch.tensor(np.moveaxis(input.scale * (x - input.zero_point), -1, 1)),
        torch.tensor(weights), torch.tensor(bias), stride, padding, dilation, groups).numpy()
    wanted = np.clip(np.moveaxis(real, 1, -1) / output.scale + output.zero_point,
                     output.low, output.high)
    assert codes.shape == wanted.shape == (2, *config.outputs[0].tensor.shape)
    assert np.abs(codes - wanted).mean() < 0.5
    assert np.abs(codes - wanted).max() < 6


def test_integer_weights_are_used_as_they_are() -> None:
    weights = np.array([[[[1, -2], [3, 4]]], [[[0, 0], [0, 1]]]])
    config = conv2d(weights, size=(5, 5), bias=[10, 0], output=Quantisation(8.0), pe=2)
    assert config.pe == 2
    assert np.array_equal(np.moveaxis(config.op.weight, -1, 1), weights)
    x = frames(Quantisation(), 5, 5, 1)
    real = torch.nn.functional.conv2d(
        torch.tensor(np.moveaxis(x, -1, 1)), torch.tensor(weights), torch.tensor([10, 0]))
    wanted = np.clip(np.rint(np.moveaxis(real.numpy(), 1, -1) / 8), -128, 127)
    assert np.array_equal(config.compute(x)[0], wanted)


def test_nothing_saturates_by_default() -> None:
    weights = np.ones((3, 4, 3, 3), int)
    config = conv2d(weights, size=(4, 4), bias=[1000, 0, -1000])
    x = np.stack([np.full((4, 4, 4), v) for v in (-128, 127)])
    codes = config.compute(x)[0]
    assert (codes.min(), codes.max()) == (-127, 126)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"weights": np.ones((3, 3))}, r"^Weights must be \(Cout, Cin / groups, height, width\), not "),
    ({"weights": np.full((1, 1, 3, 3), 300)}, r"^Weights must fit 8 signed bits$"),
    ({"weight_bits": 9}, r"^Weights must have 2 to 8 bits, not 9$"),
    ({"weights": np.full((1, 1, 3, 3), np.nan)}, r"^Weights must be finite"),
    ({"bias": [1, 2]}, r"^Bias must have 1 entries, not shape \(2,\)$"),
    ({"stride": (1, 1, 1)}, r"^Stride must be an integer or a pair of them, not \(1, 1, 1\)$"),
    ({"pe": 2}, r"^Pe must be between 1 and 1, not 2$"),
])
def test_refuses(wrong: dict, message: str) -> None:
    options = {"weights": np.ones((1, 1, 3, 3)), "size": (5, 5)} | wrong
    with pytest.raises(HwgenError, match=message):
        conv2d(**options)


CONFIGS = [kind for name in hwgen.blocks.__all__
           if isinstance(kind := getattr(hwgen.blocks, name), type)
           and issubclass(kind, BlockConfig)]


@pytest.mark.parametrize("kind", CONFIGS)
def test_help_lists_all_parameters(kind: type[BlockConfig]) -> None:
    """Those that are inherited, too; each once."""
    text = getdoc(kind) or ""
    listed = text.partition("Parameters\n----------\n")[2].partition("\n-----")[0]
    heads = re.findall(r"(?m)^(\w[\w, ]*?)(?: :.*)?$", listed)
    names = [name for head in heads for name in re.findall(r"\w+", head)]
    for field in fields(kind):
        assert names.count(field.name) == 1, field.name
