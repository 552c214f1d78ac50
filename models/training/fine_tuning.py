"""Training that wins back what pruning lost, while pruned weights stay zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn
from torch.nn import functional

from hwgen.errors import HwgenError, naming
from hwgen.models.compression.pruning import kept_groups

__all__ = ["fine_tune", "masks"]


def masks(
    module: nn.Module, sparsities: Mapping[str, float], pe: int | Mapping[str, int] = 1
) -> dict[str, torch.Tensor]:
    """Which weights of a float network stay, as booleans of their shapes by name of the module.

    Parameters
    ----------
    module : with convolutions and linear layers
    sparsities : share of groups of weights that go, by name as ``named_modules`` gives it
    pe : output channels of a group, one number or by name

    Raises
    ------
    :exc:`HwgenError`
        If there is no such layer, or a number is out of range.
    """
    found = {}
    for name, share in sparsities.items():
        layer = _layer(module, name)
        size = pe if isinstance(pe, int) else pe.get(name, 1)
        with naming(f"Pruning {name!r}"):
            keep = kept_groups(layer.weight.detach().cpu().numpy(), pe=size,
                               groups=getattr(layer, "groups", 1), sparsity=share)
        found[name] = torch.from_numpy(keep).to(layer.weight.device)
    return found


def _layer(module: nn.Module, name: str) -> nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear:
    layer = dict(module.named_modules()).get(name)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
        raise HwgenError(f"The network has no convolution or linear layer {name!r} to prune")
    return layer


def fine_tune(
    module: nn.Module, sparsities: Mapping[str, float] | Mapping[str, torch.Tensor],
    loader: Iterable, epochs: int, *, pe: int | Mapping[str, int] = 1, rate: float = 1e-3,
    loss: Callable | None = None, seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> nn.Module:
    """A copy of a float network that is pruned and trained further; pruned weights stay zero.

    The shares of zeros rise over the first half of the epochs (Zhu and Gupta, "To prune, or not to
    prune", 2017, equation 1); then the zeros stay where they are.  The learning rate falls to zero
    along a cosine.

    Parameters
    ----------
    module : left as it is
    sparsities : share of groups of weights that go, by name; or which weights stay (:func:`masks`)
    loader : batches ``(inputs, targets)``, iterated once an epoch
    epochs : 1 or more
    pe : output channels of a group of weights
    rate : largest learning rate, of Adam
    loss : of (outputs, targets); default the cross entropy of the first output
    seed : of what is random in the network, such as dropout

    Raises
    ------
    :exc:`HwgenError`
        If there is no such layer, a number is out of range, or a mask does not fit.
    """
    if epochs < 1:
        raise HwgenError(f"Fine-tuning needs 1 or more epochs, not {epochs!r}")
    measure = loss or (lambda out, wanted: functional.cross_entropy(
        out[0] if isinstance(out, tuple) else out, wanted))
    tuned = copy.deepcopy(module).train()
    given = {name: value for name, value in sparsities.items() if isinstance(value, torch.Tensor)}
    shares = {name: float(v) for name, v in sparsities.items() if name not in given}
    layers = {name: _layer(tuned, name) for name in sparsities}
    for name, mask in given.items():
        if mask.shape != layers[name].weight.shape:
            raise HwgenError(f"The mask of {name!r} must be {tuple(layers[name].weight.shape)}, "
                             f"not {tuple(mask.shape)}")
    rising = (epochs + 1) // 2 if shares else 1
    optimiser = torch.optim.Adam(tuned.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    kept = dict(given)

    @torch.no_grad()
    def clear() -> None:
        for name, mask in kept.items():
            layers[name].weight.mul_(mask)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            if epoch < rising:
                part = 1 - (1 - (epoch + 1) / rising) ** 3
                kept |= masks(tuned, {name: part * share for name, share in shares.items()}, pe)
            clear()
            total = steps = 0
            for inputs, targets in loader:
                optimiser.zero_grad()
                value = measure(tuned(inputs), targets)
                value.backward()
                optimiser.step()
                clear()
                total, steps = total + float(value.detach()), steps + 1
            schedule.step()
            progress(f"epoch {epoch + 1} of {epochs}: loss {total / max(steps, 1):.4f}")
    return tuned.eval()
