"""Parts with a form of their own, against what they stand for."""

import pytest
import torch
from torch import nn

from hwgen.models.onnx.reader import normalise
from hwgen.models.zoo import find
from hwgen.models.zoo.layers import WholePool, round_channels
from hwgen.models.zoo.repvgg import RepVGG, deploy
from hwgen.models.zoo.resnet import ResNet8
from hwgen.models.zoo.yolov3 import EdgePool


@pytest.mark.parametrize("have", [1, 7, 14, 21])
def test_whole_pool_is_adaptive_pooling(have):
    x = torch.rand(2, 3, have, have)
    assert torch.allclose(WholePool(7)(x), nn.AdaptiveAvgPool2d(7)(x), atol=1e-6)
    with pytest.raises(ValueError, match="have no whole factor"):
        WholePool(7)(torch.rand(1, 1, have + 2, have + 2))


def test_round_channels():
    """Values of the papers' tables; x3d rounds the few channels of its squeeze up to 8."""
    assert [round_channels(c) for c in (4, 16, 18, 24, 30, 168, 3.4)] == [8, 16, 24, 24, 32, 168, 8]


def test_edge_pool_ignores_what_lies_outside():
    x = -torch.rand(1, 2, 5, 5)
    y = EdgePool()(x)
    assert y.shape == x.shape
    assert torch.equal(y[..., -1, -1], x[..., -1, -1])
    assert torch.equal(y[..., 1, 2], x[..., 1:3, 2:4].amax((-1, -2)))


def exported_pads(entry, module, op):
    network = normalise(entry.serialise(module.eval(), 64), entry.name, None)
    return [list(a.ints) for n in network.nodes if n.op_type == op
            for a in n.attribute if a.name == "pads"]


def test_one_sided_padding_is_one_node():
    tiny = find("yolov3-tiny")
    assert exported_pads(tiny, tiny.build(), "MaxPool") == [[0] * 4] * 5 + [[0, 0, 1, 1]]
    pads = exported_pads(find("resnet8"), ResNet8(), "Conv")
    assert pads.count([0, 0, 1, 1]) == 2
    assert pads.count([1, 1, 1, 1]) == 5


def test_resnet8_counts_as_keras_does():
    module = ResNet8()
    running = sum(b.numel() for b in module.buffers() if b.ndim)
    assert sum(p.numel() for p in module.parameters()) + running == 78_666


def test_repvgg_deploys_to_the_same_function():
    torch.manual_seed(0)
    module = RepVGG((2, 1, 1, 1), (8, 8, 12, 16, 24), 10)
    module(torch.rand(4, 3, 64, 64))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        want = module.eval()(x)
        got = deploy(module)(x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    assert torch.allclose(got, want, atol=1e-5 * float(want.abs().max()))


def test_repvgg_has_both_published_counts():
    with torch.device("meta"):
        module = find("repvgg-a0").build()
    assert sum(p.numel() for p in module.parameters()) == 9_108_968
    assert find("repvgg-a0").parameters == 8_309_384
