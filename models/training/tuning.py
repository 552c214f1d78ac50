"""Networks that learn: an ONNX network in torch, and weights tuned without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional as F

from hwgen.errors import HwgenError
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import WEIGHTED, attributes, spatial_pads
from hwgen.models.onnx.quantisers import CodedConstant
from hwgen.models.training.repeatable import repeatable

__all__ = ["Bits", "TorchNetwork", "distil", "imitation", "shuffled", "tune"]

Bits = Callable[[str], int]
"""Bits of the weights of a layer, by its node's name."""
Operation = Callable[[dict, Sequence[Tensor]], Tensor]

MISSING = torch.empty(0)
"""An input that a node leaves out."""


class TorchNetwork:
    """A float network that torch runs, and can differentiate.

    Frames may be batched: the first dimension, which is 1 in the network, is as large as one likes.

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
        inputs : tensors by name, ``(batch, ...)``; any that cut off what is wanted
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


def tune(
    network: Network, loss: Callable[[Callable[..., dict[str, Tensor]], int], Tensor], *,
    steps: int, rate: float = 1e-3, bits: Bits | None = None, seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Network:
    """A copy of a network whose weights lessen a loss, by Adam along a cosine.

    Weights that are integers stay integers, of as many bits; with ``bits`` all become so.  Both
    integers and scales are learned, straight through the rounding (Esser et al., "Learned Step Size
    Quantization", 2020).

    Parameters
    ----------
    network : left as it is
    loss : of (a function like :class:`TorchNetwork`, the number of the step)
    steps : 0: only what is to be rounded is
    rate : largest learning rate, relative to the root of the mean square of each constant
    bits : of the weights of every layer, 2 to 8
    seed : of what is random in ``loss``, if it uses torch's generator

    Raises
    ------
    :exc:`HwgenError`
        If a number is out of range, or an op cannot be tuned.
    """
    if steps < 0:
        raise HwgenError(f"Tuning needs 0 or more steps, not {steps!r}")
    model = TorchNetwork(network)
    rounded = _rounded(network, bits)
    leaves, groups = {}, []
    for name, value in model.weights.items():
        leaves[name] = value.clone().requires_grad_()
        size = float(value.square().mean().sqrt()) or 1.0
        groups.append({"params": [leaves[name]], "lr": rate * size})
    for rounding in rounded.values():
        groups.append({"params": [rounding.steps], "lr": rate})

    def current() -> dict[str, Tensor]:
        return {name: rounded[name](value) if name in rounded else value
                for name, value in leaves.items()}

    with repeatable(seed):
        if steps:
            optimiser = torch.optim.Adam(groups)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for step in range(steps):
            weights = current()
            value = loss(lambda inputs, outputs=None, w=weights: model(inputs, outputs, w), step)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            schedule.step()
            if (step + 1) % 50 == 0 or step + 1 == steps:
                progress(f"step {step + 1} of {steps}: loss {float(value.detach()):.5f}")
    with torch.no_grad():
        coded = {name: rounding.coded(leaves[name]) for name, rounding in rounded.items()}
        tuned = {name: value.numpy() for name, value in current().items()}
    return network.with_constants(tuned, coded)


def distil(
    student: Network, teacher: Network, feeds: Iterable[Feed], *, steps: int, batch: int = 32,
    rate: float = 1e-3, bits: Bits | None = None, seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Network:
    """A student that is tuned to compute what its teacher does, on frames without labels.

    Compared are the outputs, and what layers with weights make, wherever both have a tensor of that
    name: a layer that was decomposed keeps its output (Hinton et al., "Distilling the Knowledge
    in a Neural Network", 2015; Romero et al., "FitNets", 2015).  The squared errors are relative.

    Parameters
    ----------
    student, teacher : networks with the same inputs
    feeds : float inputs, one frame each
    steps, rate, bits, seed, progress : see :func:`tune`
    batch : frames a step

    Raises
    ------
    :exc:`HwgenError`
        If there is no frame, or see :func:`tune`.
    """
    loss = imitation(student, teacher, feeds, batch=batch, seed=seed)
    return tune(student, loss, steps=steps, rate=rate, bits=bits, seed=seed, progress=progress)


def imitation(
    student: Network, teacher: Network, feeds: Iterable[Feed], *, batch: int = 32, seed: int = 0
) -> Callable[[Callable[..., dict[str, Tensor]], int], Tensor]:
    """The loss of :func:`distil`, for :func:`tune`: how far a student is from its teacher.

    Parameters
    ----------
    student, teacher, feeds, batch : see :func:`distil`
    seed : of the order of frames

    Raises
    ------
    :exc:`HwgenError`
        If there is no frame, or the teacher has an op that torch does not run.
    """
    frames = list(feeds)
    if not frames:
        raise HwgenError("Distillation needs at least one frame")
    inputs = {name: torch.from_numpy(np.concatenate([feed[name] for feed in frames]))
              for name in teacher.inputs}
    count = len(frames)
    made = {node.output[0] for node in student.nodes}
    names = list(dict.fromkeys([
        *(n.output[0] for n in teacher.nodes if n.op_type in WEIGHTED and n.output[0] in made),
        *teacher.outputs,
    ]))
    master = TorchNetwork(teacher)
    with torch.no_grad():
        parts = [master({k: v[i : i + batch] for k, v in inputs.items()}, names)
                 for i in range(0, count, batch)]
    targets = {name: torch.cat([part[name] for part in parts]) for name in names}
    targets = {name: value for name, value in targets.items() if value.is_floating_point()}
    energy = {name: value.square().mean() + 1e-12 for name, value in targets.items()}
    batches = shuffled(count, batch, seed)

    def loss(run: Callable[..., dict[str, Tensor]], _: int) -> Tensor:
        chosen = next(batches)
        found = run({name: value[chosen] for name, value in inputs.items()}, list(targets))
        errors = {name: (found[name] - targets[name][chosen]).square().mean() / energy[name]
                  for name in targets}
        outputs = [errors[name] for name in teacher.outputs if name in errors]
        return torch.stack(list(errors.values())).mean() + torch.stack(outputs).mean()

    return loss


def shuffled(count: int, batch: int, seed: int = 0) -> Iterator[Tensor]:
    """Batches of ``count`` indices, without end: all of them once, then all in another order."""
    random = torch.Generator().manual_seed(seed)
    while True:
        yield from reversed(torch.randperm(count, generator=random).split(batch))


# Integers

class _Rounding:
    """Rounds the weights of a layer to integers, with a scale for each output channel.

    Members
    -------
    steps : logarithms of the scales
    """

    def __init__(self, limit: int, scale: Tensor) -> None:
        self.limit = limit
        self.steps = scale.log().requires_grad_()

    def __call__(self, weight: Tensor) -> Tensor:
        scale = self.steps.exp()
        real = (weight / scale).clamp(-self.limit, self.limit)
        return (real + (real.round() - real).detach()) * scale

    def coded(self, weight: Tensor) -> CodedConstant:
        scale = self.steps.exp()
        integers = (weight / scale).clamp(-self.limit, self.limit).round().long().numpy()
        return CodedConstant(integers, np.broadcast_to(scale.double().numpy(), integers.shape))


def _rounded(network: Network, bits: Bits | None) -> dict[str, _Rounding]:
    """How constants are rounded that are integers or shall be."""
    found: dict[str, _Rounding] = {}
    for node in network.nodes:
        name = node.input[1] if len(node.input) > 1 else ""
        if node.op_type not in WEIGHTED or name not in network.constants or name in found:
            continue
        weight = network.constants[name]
        axis = _output_axis(node)
        others = tuple(k for k in range(weight.ndim) if k != axis)
        if name in network.weights:
            coded = network.weights[name]
            limit = max(int(np.abs(coded.integers).max()), 1)
            limit = (1 << limit.bit_length()) - 1
            scale = coded.scale.max(others, keepdims=True)
        elif bits is not None:
            width = bits(node.name)
            if width not in range(2, 9):
                raise HwgenError(f"Layer {node.name!r}: weights must have 2 to 8 bits, "
                                 f"not {width!r}")
            limit = (1 << (width - 1)) - 1
            scale = _least_squares(weight, limit, others)
        else:
            continue
        found[name] = _Rounding(limit, torch.from_numpy(scale).float())
    return found


def _least_squares(weight: np.ndarray, limit: int, others: tuple[int, ...]) -> np.ndarray:
    """Scales with which rounding loses least, of a few."""
    peak = np.abs(weight).max(others, keepdims=True)
    peak = np.where(peak > 0, peak, 1).astype(np.float64)
    best, lowest = peak / limit, np.full(peak.shape, np.inf)
    for share in np.linspace(1, 0.5 if limit < 16 else 0.9, 11):
        scale = share * peak / limit
        lost = weight - np.clip(np.rint(weight / scale), -limit, limit) * scale
        error = np.square(lost).sum(others, keepdims=True)
        best = np.where(error < lowest, scale, best)
        lowest = np.minimum(error, lowest)
    return best


def _output_axis(node: onnx.NodeProto) -> int:
    """The dimension of a layer's weights that has its output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    return 0 if node.op_type == "Gemm" and attributes(node).get("transB") else 1


# Operations

def _padded(at: dict, x: Tensor, kernel: Sequence[int], value: float) -> Tensor:
    """A frame with its padding, all of it, in front of a window."""
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
