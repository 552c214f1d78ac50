"""Fine-tuning of pruned networks: zeros stay, and training repeats."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hwgen.errors import HwgenError
from hwgen.models.training.fine_tuning import fine_tune, masks


def trainable():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                         nn.Linear(8 * 16, 3))


def batches():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(96, 2, 6, 6, generator=random)
    y = (x.mean((1, 2, 3)) * 6).clamp(-1, 1).round().long() + 1
    return [(x[k : k + 32], y[k : k + 32]) for k in range(0, 96, 32)]


@pytest.mark.slow
def test_fine_tuning_keeps_zeros():
    module, data = trainable(), batches()
    shares = {"0": 0.5, "4": 0.75}
    before = {name: value.clone() for name, value in module.state_dict().items()}
    lines = []
    tuned = fine_tune(module, shares, data, 6, pe={"0": 2}, rate=0.01, progress=lines.append)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    for name, share in shares.items():
        assert (tuned.get_parameter(f"{name}.weight") == 0).float().mean() == share
    pairs = tuned.get_submodule("0").weight.reshape(2, 2, 2, 9) != 0
    assert torch.equal(pairs[:, :, 0], pairs[:, :, 1])
    assert not tuned.training
    assert len(lines) == 6
    assert float(lines[-1].split()[-1]) < float(lines[0].split()[-1])


def test_masks_stay_and_training_repeats():
    module, data = trainable(), batches()
    kept = masks(module, {"4": 0.5})
    tuned, again = (fine_tune(module, kept, data, 2) for _ in range(2))
    weight = tuned.get_submodule("4").weight
    assert torch.equal(weight != 0, kept["4"])
    assert torch.equal(weight, again.get_submodule("4").weight)


@pytest.mark.parametrize("shares,epochs,message", [
    ({"1": 0.5}, 1, "^The network has no convolution or linear layer '1' to prune$"),
    ({"9": 0.5}, 1, "^The network has no convolution or linear layer '9' to prune$"),
    ({"4": 1.5}, 1, "^Pruning '4': Sparsity must be 0 or more and below 1, not 1.5$"),
    ({"4": 0.5}, 0, "^Fine-tuning needs 1 or more epochs, not 0$"),
    ({"4": torch.ones(3)}, 1, r"^The mask of '4' must be \(3, 128\), not \(3,\)$"),
])
def test_refused_fine_tuning(shares, epochs, message):
    with pytest.raises(HwgenError, match=message):
        fine_tune(trainable(), shares, batches(), epochs)
