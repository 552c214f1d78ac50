"""Weights tuned without labels: a network that learns to compute what another one does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx
import torch
from torch import Tensor

from hwgen.errors import HwgenError
from hwgen.models.frames.samples import Feed
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import WEIGHTED, attributes
from hwgen.models.onnx.quantisers import CodedConstant
from hwgen.models.training.network import TorchNetwork
from hwgen.models.training.repeatable import repeatable

__all__ = ["Bits", "distil", "imitation", "shuffled", "tune"]

Bits = Callable[[str], int]
"""Bits of the weights of a layer, by its node's name."""


def tune(
    network: Network, loss: Callable[[Callable[..., dict[str, Tensor]], int], Tensor], *,
    steps: int, rate: float = 1e-3, bits: Bits | None = None, seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Network:
    """A copy of a network, with weights tuned to lessen a loss.

    The optimiser is Adam, and its learning rate falls along a cosine.  Weights that are integers
    stay integers of as many bits; with ``bits`` those of all layers become integers.  Integers and
    scales are both learned: gradients pass the rounding as if there were none (Esser et al.,
    "Learned Step Size Quantization", 2020).

    Parameters
    ----------
    network : left as it is
    loss : of (a function like :class:`TorchNetwork`, the number of the step)
    steps : 0 only rounds weights
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

    The loss compares the outputs, and the outputs of layers with weights wherever both have a
    tensor of that name, as a decomposed layer keeps its output (Hinton et al., "Distilling the
    Knowledge in a Neural Network", 2015; Romero et al., "FitNets", 2015).  The squared errors are
    relative.

    Parameters
    ----------
    student, teacher : networks with the same inputs
    feeds : float inputs, one frame each
    steps, rate, bits, seed, progress : see :func:`tune`
    batch : frames a step

    Raises
    ------
    :exc:`HwgenError`
        If there is no frame, or in the cases of :func:`tune`.
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
    """Batches of the indices below ``count``, without end: all once, then all in another order."""
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
    """The rounding of each constant that is integers, or that ``bits`` makes integers."""
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
    """The scales, of a few, with which rounding loses least."""
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
