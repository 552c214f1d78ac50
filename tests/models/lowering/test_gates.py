"""Gates and normalisations as PyTorch's exporters write them, both the one by tracing and the new.

Squeeze-and-excite (Hu et al., 2018), ECA (Wang et al., 2020), selective kernels (Li et al., 2019),
split attention (Zhang et al., 2020), CBAM and BAM (Woo et al., Park et al., 2018), coordinate
attention (Hou et al., 2021), gather-excite (Hu et al., 2018), SimAM (Yang et al., 2021), global
response normalisation (Woo et al., 2023).
"""

from __future__ import annotations

import contextlib
import io
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from hwgen.ir import Rearrange
from tests.models.whole import compared

C = 16


class Applied(nn.Module):
    """A function of a frame and of parts with weights."""

    def __init__(self, function, **parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleDict(parts)

    def forward(self, x):
        return self.function(x, self.parts)


def dense(inputs: int = C, outputs: int = C) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 4), nn.ReLU(), nn.Linear(4, outputs))


def means(x):
    return functional.adaptive_avg_pool2d(x, 1)


def excited(shape):
    """A squeeze-and-excite, with the gate brought to the frame's shape by ``shape``."""
    return Applied(lambda x, p: x * shape(torch.sigmoid(p["fc"](means(x).flatten(1))), x),
                   fc=dense())


def excited_last(x, p):
    gate = functional.hardsigmoid(p["fc"](x.mean((2, 3))))
    return (x.permute(0, 2, 3, 1) * gate[:, None, None, :]).permute(0, 3, 1, 2)


def eca(x, p):
    y = p["conv"](means(x).squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
    return x * torch.sigmoid(y).expand_as(x)


def selected(weigh):
    """Selective kernels: branches stacked, weighed by ``weigh``, summed."""
    def forward(x, p):
        f = torch.cat([p[key](x).relu().unsqueeze(1) for key in ("a", "b")], 1)
        z = p["fc"](f.sum(1).mean(-1).mean(-1))
        gate = weigh(torch.cat([p[key](z).unsqueeze(1) for key in ("ga", "gb")], 1))
        return (f * gate.unsqueeze(-1).unsqueeze(-1)).sum(1)

    return Applied(forward, a=nn.Conv2d(C, C, 3, padding=1), b=nn.Conv2d(
        C, C, 3, padding=2, dilation=2), fc=nn.Linear(C, 8), ga=nn.Linear(8, C), gb=nn.Linear(8, C))


def chunked(x, p):
    """Selective kernels with convolutions, branch by branch."""
    f = [p[key](x).relu() for key in ("a", "b")]
    gate = p["last"](p["first"](means(f[0] + f[1])).relu()).reshape(1, 2, C, -1).softmax(1)
    return sum(a * b.reshape(1, C, 1, 1) for a, b in zip(f, gate.chunk(2, 1), strict=True))


def split(radix: int, cardinal: int, weigh):
    """Split attention of ResNeSt."""
    def forward(x, p):
        x = p["conv"](x).relu()
        parts = torch.split(x, C, 1)
        gate = p["last"](p["first"](means(sum(parts))).relu())
        gate = weigh(gate.view(1, cardinal, radix, -1).transpose(1, 2)).reshape(1, -1)
        gates = torch.split(gate.view(1, -1, 1, 1), C, 1)
        return sum(a * b for a, b in zip(gates, parts, strict=True))

    return Applied(
        forward, conv=nn.Conv2d(C, radix * C, 3, padding=1, groups=cardinal),
        first=nn.Conv2d(C, 8, 1, groups=cardinal),
        last=nn.Conv2d(8, radix * C, 1, groups=cardinal))


def cbam(x, p):
    sizes = x.shape[2:]
    pooled = (functional.avg_pool2d(x, sizes), functional.max_pool2d(x, sizes))
    gate = torch.sigmoid(p["fc"](pooled[0].flatten(1)) + p["fc"](pooled[1].flatten(1)))
    x = x * gate.unsqueeze(2).unsqueeze(3).expand_as(x)
    both = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), 1)
    return x * torch.sigmoid(p["norm"](p["conv"](both)))


def bam(x, p):
    gate = p["fc"](x.mean((2, 3)))[:, :, None, None].expand_as(x)
    return x * (1 + torch.sigmoid(gate * p["conv"](x).expand_as(x)))


def coordinates(x, p):
    height, width = x.shape[2:]
    rows = functional.adaptive_avg_pool2d(x, (None, 1))
    columns = functional.adaptive_avg_pool2d(x, (1, None)).permute(0, 1, 3, 2)
    y = functional.hardswish(p["norm"](p["first"](torch.cat([rows, columns], 2))))
    rows, columns = torch.split(y, [height, width], 2)
    return x * p["w"](columns.permute(0, 1, 3, 2)).sigmoid() * p["h"](rows).sigmoid()


def gathered(x, _):
    gate = functional.interpolate(functional.avg_pool2d(x, 4, 4), size=x.shape[2:])
    return x * torch.sigmoid(gate)


def simam(x, _):
    square = (x - x.mean((2, 3), keepdim=True)).pow(2)
    spread = square.sum((2, 3), keepdim=True) / (x.shape[2] * x.shape[3] - 1)
    return x * torch.sigmoid(square / (4 * (spread + 1e-4)) + 0.5)


def response(x, p):
    x = x.permute(0, 2, 3, 1)
    norm = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
    x = p["scale"](x * (norm / (norm.mean(-1, keepdim=True) + 1e-6))) + x
    return x.permute(0, 3, 1, 2)


def layer_first(x, p):
    return p["norm"](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


GATES = {
    "squeeze-and-excite, view": excited(lambda g, x: g.view(1, C, 1, 1)),
    "squeeze-and-excite, unsqueezed": excited(lambda g, x: g.unsqueeze(-1).unsqueeze(-1)),
    "squeeze-and-excite, expanded": excited(lambda g, x: g.reshape(1, C, 1, 1).expand(x.shape)),
    "squeeze-and-excite, expand_as": excited(lambda g, x: g[:, :, None, None].expand_as(x)),
    "squeeze-and-excite, channels last": Applied(excited_last, fc=dense()),
    "ECA": Applied(eca, conv=nn.Conv1d(1, 1, 3, padding=1, bias=False)),
    "selective kernels": selected(lambda g: functional.softmax(g, 1)),
    "selective kernels, no Softmax": selected(torch.sigmoid),
    "selective kernels, chunks": Applied(
        chunked, a=nn.Conv2d(C, C, 3, padding=1), b=nn.Conv2d(C, C, 1),
        first=nn.Conv2d(C, 4, 1), last=nn.Conv2d(4, 2 * C, 1)),
    "split attention": split(2, 1, lambda g: functional.softmax(g, 1)),
    "split attention, no Softmax": split(2, 1, torch.sigmoid),
    "split attention, three of two": split(3, 2, lambda g: functional.softmax(g, 1)),
    "CBAM": Applied(cbam, fc=dense(), norm=nn.BatchNorm2d(1),
                    conv=nn.Conv2d(2, 1, 7, padding=3, bias=False)),
    "BAM": Applied(bam, fc=dense(), conv=nn.Conv2d(C, 1, 3, padding=2, dilation=2)),
    "coordinates": Applied(
        coordinates, norm=nn.BatchNorm2d(8),
        first=nn.Conv2d(C, 8, 1), h=nn.Conv2d(8, C, 1), w=nn.Conv2d(8, C, 1)),
    "gather-excite": Applied(gathered),
    "SimAM": Applied(simam),
    "global response": Applied(response, scale=nn.Linear(C, C)),
    "gated linear unit": Applied(lambda x, p: functional.glu(p["conv"](x), 1),
                                 conv=nn.Conv2d(C, 2 * C, 1)),
    "SwiGLU": Applied(
        lambda x, p: p["down"](functional.silu(p["gate"](x)) * p["up"](x)),
        gate=nn.Conv2d(C, 24, 1), up=nn.Conv2d(C, 24, 1), down=nn.Conv2d(24, C, 1)),
    "GroupNorm": nn.GroupNorm(4, C),
    "InstanceNorm": nn.InstanceNorm2d(C, affine=True),
    "LayerNorm, channels first": Applied(layer_first, norm=nn.LayerNorm(C)),
    "LayerNorm of all": nn.LayerNorm([C, 12, 12]),
    "RMSNorm": Applied(layer_first, norm=nn.RMSNorm(C)),
    "local response": nn.LocalResponseNorm(5, alpha=1.0),
    "normalised features": Applied(lambda x, _: functional.normalize(x, dim=1)),
}
WITHOUT_ORDERS = {
    *(name for name in GATES if name.startswith(
        ("squeeze", "ECA", "CBAM", "BAM", "gather", "SimAM", "selective kernels"))),
    "split attention", "split attention, no Softmax", "GroupNorm", "InstanceNorm",
    "LayerNorm, channels first", "gated linear unit", "RMSNorm",
} - {"selective kernels, chunks"}
"""What needs no frame in another order."""


def exported(gate: nn.Module, path, new: bool) -> None:
    """Write a gate between two convolutions to a file; normalisations stand before the ReLU."""
    torch.manual_seed(0)
    order = [gate, nn.ReLU()] if "Norm" in type(gate).__name__ else [nn.ReLU(), gate]
    network = nn.Sequential(nn.Conv2d(3, C, 3, padding=1), *order,
                            nn.Conv2d(C, 8, 3, padding=1)).eval()
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # pyright: ignore[reportCallIssue]
        if isinstance(module, nn.Conv1d):
            nn.init.constant_(module.weight, 0.5)
    options = {"external_data": False} if new else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.rand(1, 3, 12, 12),), str(path), dynamo=new,
                          opset_version=18 if new else 17, **options)


@pytest.mark.parametrize("name, new", [
    # The exporter by tracing knows no RMSNorm.
    (name, new) for name in GATES for new in (False, True) if new or name != "RMSNorm"])
def test_equals_the_file(name, new, tmp_path):
    path = tmp_path / "net.onnx"
    exported(GATES[name], path, new)
    source, decibels = compared(path)
    assert decibels > 30
    if name in WITHOUT_ORDERS:
        assert not any(isinstance(node.op, Rearrange) for node in source.graph.nodes)
