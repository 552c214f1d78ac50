"""An ONNX network in torch, which can differentiate it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hwgen.errors import HwgenError
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import WEIGHTED, attributes, spatial_pads

__all__ = ["TorchNetwork"]

Operation = Callable[[dict, Sequence[Tensor]], Tensor]
"""From a node's attributes, with the batch size as ``batch``, and its inputs to its output."""

MISSING = torch.empty(0)
"""An input that a node leaves out."""


class TorchNetwork:
    """A float network that torch runs and can differentiate.

    Frames may be batched: the first dimension, which is 1 in the network, may have any extent.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`

    Members
    -------
    weights : constants that a tuning may change, by name: weights and biases of layers

    Raises
    ------
    :exc:`HwgenError`
        If an op is unknown here; it is named.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        for node in network.nodes:
            if node.op_type not in OPERATIONS:
                raise HwgenError(f"Layer {node.name or node.output[0]!r}: op {node.op_type!r} "
                                 f"cannot be tuned: {', '.join(sorted(OPERATIONS))} can")
        self._constants = {name: torch.from_numpy(np.array(value))
                           for name, value in network.constants.items()}
        self.weights = {name: self._constants[name].float() for node in network.nodes
                        if node.op_type in WEIGHTED for name in node.input[1:]
                        if name in self._constants}

    def __call__(
        self, inputs: Mapping[str, Tensor], outputs: Iterable[str] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Values of tensors, from those of others.

        Parameters
        ----------
        inputs : tensors by name, ``(batch, ...)``; any from which the wanted ones follow
        outputs : names of what is wanted; default the network's outputs
        weights : instead of the network's own, by name
        """
        wanted = tuple(self.network.outputs if outputs is None else outputs)
        values: dict[str, Tensor] = {**self._constants, **self.weights, **(weights or {}), **inputs}
        needed = set(wanted)
        chosen = []
        for node in reversed(self.network.nodes):
            if node.output[0] in needed and node.output[0] not in inputs:
                chosen.append(node)
                needed.update(node.input)
        batch = next(iter(inputs.values())).shape[0]
        for node in reversed(chosen):
            at = attributes(node) | {"batch": batch}
            given = [values[name] if name else MISSING for name in node.input]
            values[node.output[0]] = OPERATIONS[node.op_type](at, given)
        return {name: values[name] for name in wanted}


# Operations

def _padded(at: dict, x: Tensor, kernel: Sequence[int], value: float) -> Tensor:
    """A frame with all the padding that windows over it reach."""
    rank = len(kernel)
    dilation = at.get("dilations", (1,) * rank)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    stride = tuple(at.get("strides", (1,) * rank))
    pads = spatial_pads(at, extent, stride, tuple(x.shape[2:]))
    if at.get("ceil_mode"):
        # The last window may reach over the end, if it begins before.
        pads = tuple(
            (b, a + max(0, -(-(n + b + a - e) // s) * s + e - (n + b + a)))
            for (b, a), n, e, s in zip(pads, x.shape[2:], extent, stride, strict=True)
        )
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def _conv(at: dict, given: Sequence[Tensor]) -> Tensor:
    x, weight, *bias = given
    kernel = weight.shape[2:]
    rank = len(kernel)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    return function(
        _padded(at, x, kernel, 0.0), weight, bias[0] if bias and bias[0].numel() else None,
        tuple(at.get("strides", (1,) * rank)), 0, tuple(at.get("dilations", (1,) * rank)),
        int(at.get("group", 1)),
    )


def _gemm(at: dict, given: Sequence[Tensor]) -> Tensor:
    x, weight, *bias = given
    result = (x.T if at.get("transA") else x) @ (weight.T if at.get("transB") else weight)
    result = result * at.get("alpha", 1.0)
    return result + bias[0] * at.get("beta", 1.0) if bias else result


def _max_pool(at: dict, given: Sequence[Tensor]) -> Tensor:
    kernel = at["kernel_shape"]
    rank = len(kernel)
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    return function(
        _padded(at, given[0], kernel, -math.inf), tuple(kernel),
        tuple(at.get("strides", (1,) * rank)), 0, tuple(at.get("dilations", (1,) * rank)),
    )


def _average_pool(at: dict, given: Sequence[Tensor]) -> Tensor:
    kernel = at["kernel_shape"]
    rank = len(kernel)
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    stride = tuple(at.get("strides", (1,) * rank))
    total = function(_padded(at, given[0], kernel, 0.0), tuple(kernel), stride)
    if at.get("count_include_pad"):
        return total
    inside = _padded(at, torch.ones_like(given[0][:1, :1]), kernel, 0.0)
    return total / function(inside, tuple(kernel), stride)


def _reduced(function: Callable) -> Operation:
    def apply(at: dict, given: Sequence[Tensor]) -> Tensor:
        axes = at.get("axes") or (given[1].tolist() if len(given) > 1 else
                                  list(range(given[0].ndim)))
        return function(given[0], dim=tuple(axes), keepdim=bool(at.get("keepdims", 1)))

    return apply


def _reshape(at: dict, given: Sequence[Tensor]) -> Tensor:
    x, shape = given[0], given[1].tolist()
    extents = [x.shape[k] if n == 0 else n for k, n in enumerate(shape)]
    # What is written for one frame holds for all.
    if extents and extents[0] == 1:
        extents[0] = at["batch"]
    return x.reshape(extents)


def _clip(at: dict, given: Sequence[Tensor]) -> Tensor:
    low, high = [*(t.item() if t.numel() else None for t in given[1:]), None, None][:2]
    return given[0].clamp(at.get("min", low), at.get("max", high))


def _one(function: Callable[[Tensor], Tensor]) -> Operation:
    return lambda at, given: function(given[0])


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return lambda at, given: function(given[0], given[1])


def _squeezed(at: dict, given: Sequence[Tensor]) -> Tensor:
    axes: Any = at.get("axes") or given[1].tolist()
    return given[0].squeeze(tuple(axes))


OPERATIONS: dict[str, Operation] = {
    "Add": _two(torch.add),
    "ArgMax": lambda at, given: given[0].argmax(
        at.get("axis", 0), keepdim=bool(at.get("keepdims", 1))),
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": lambda at, given: torch.cat(list(given), at["axis"]),
    "Conv": _conv,
    "Div": _two(torch.div),
    "Erf": _one(torch.erf),
    "Flatten": lambda at, given: given[0].flatten(at.get("axis", 1)),
    "Gelu": lambda at, given: F.gelu(
        given[0], approximate=at.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": _one(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _one(lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)),
    "HardSigmoid": lambda at, given: (
        given[0] * at.get("alpha", 0.2) + at.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": _one(F.hardswish),
    "Identity": _one(lambda x: x),
    "LeakyRelu": lambda at, given: F.leaky_relu(given[0], at.get("alpha", 0.01)),
    "MatMul": _two(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _two(torch.mul),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "Relu": _one(torch.relu),
    "Reshape": _reshape,
    "Sigmoid": _one(torch.sigmoid),
    "Squeeze": _squeezed,
    "Sub": _two(torch.sub),
    "Tanh": _one(torch.tanh),
    "Transpose": lambda at, given: given[0].permute(tuple(at["perm"])),
}
