"""Every network of the zoo: published counts, sane activations when seeded, and plain ONNX."""

import json
from functools import cache
from io import StringIO
from math import prod

import numpy as np
import pytest
import torch
from torch import nn

from hwgen.models import zoo
from hwgen.models.frames.images import photographs
from hwgen.models.onnx.reader import normalise
from hwgen.models.onnx.session import session
from hwgen.models.zoo.gpt import Product
from hwgen.models.zoo.transformer import Attend

pytestmark = pytest.mark.network

NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
WHOLE = [name for name in zoo.names() if zoo.find(name).layers is None]
"""The others are cut to a layer, in a file of their own."""
WEIGHTED = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.Linear
OPS = {
    "Add", "Clip", "Concat", "Conv", "ConvTranspose", "Div", "Flatten", "Gemm",
    "GlobalAveragePool", "HardSigmoid", "MaxPool", "Mul", "ReduceMean", "Relu", "Resize", "Sigmoid",
    "Split", "Sub",
}
RECURRENT = {
    "Add", "Gather", "Gemm", "GRU", "LSTM", "MatMul", "Reshape", "Squeeze", "Transpose",
}
SMALL = {"alexnet": 64, **{name: 64 for name in zoo.names() if name.startswith("yolo")}}
DENSE = {"vgg11", "vgg16", "alexnet"}


@cache
def bare(name):
    """The network without values: as built, and as deployed."""
    entry = zoo.find(name)
    with torch.device("meta"):
        built = entry.build().eval()
        return built, entry.deploy(entry.build().eval())


def count(module):
    return sum(p.numel() for p in module.parameters())


def fused(module):
    """Parameters once normalisations are folded into the convolutions in front of them."""
    return count(module) - sum(m.num_features for m in module.modules() if isinstance(m, NORMS))


@pytest.mark.parametrize("name", zoo.names())
def test_counts(name):
    entry = zoo.find(name)
    _, module = bare(name)
    assert count(module) == entry.parameters
    macs = 0

    def add(part, inputs, output):
        nonlocal macs
        if isinstance(part, Attend):
            macs += 2 * inputs[0].numel() * inputs[1].shape[1]
            return
        if isinstance(part, nn.RNNBase):
            macs += inputs[0].shape[1] * sum(
                p.numel() for name, p in part.named_parameters() if "weight" in name)
            return
        whole = inputs[0] if isinstance(part, nn.ConvTranspose2d) else output
        sums = part.weight.shape[:1] if isinstance(part, Product) else part.weight.shape[1:]
        macs += whole.numel() * prod(sums)

    hooks = [m.register_forward_hook(add) for m in module.modules()
             if isinstance(m, WEIGHTED | Attend | Product | nn.RNNBase)]
    with torch.device("meta"):
        example = torch.zeros(entry.input_shape(entry.size))
        outputs = module(example.long() if entry.words else example)
    for hook in hooks:
        hook.remove()
    assert macs == entry.macs
    assert len(outputs) == len(entry.outputs) or isinstance(outputs, torch.Tensor)


@pytest.mark.parametrize("name, parameters", [
    ("yolov5n", 1_867_405), ("yolov5s", 7_225_885), ("yolov8n", 3_151_904),
    ("yolov8s", 11_156_544), ("yolov3-tiny", 8_849_182),
])
def test_published_counts_of_fused_networks(name, parameters):
    assert fused(bare(name)[0]) == parameters


@pytest.mark.parametrize("name, units, gates", [("kws-lstm", 118, 4), ("kws-gru", 250, 3)])
def test_counts_of_cells_with_one_bias(name, units, gates):
    """What the cells of TensorFlow have, with the sizes of the authors' training commands."""
    module = bare(name)[0]
    second = sum(p.numel() for key, p in module.named_parameters() if "bias_hh" in key)
    assert count(module) - second == gates * units * (10 + units + 1) + 12 * (units + 1)
    assert second == gates * units


@pytest.mark.parametrize("name, giga", [
    # GFLOPs as papers and releases round them; Ultralytics count two for a MAC.
    ("yolov5n", 4.5 / 2), ("yolov5s", 16.5 / 2), ("yolov8n", 8.7 / 2), ("yolov8s", 28.6 / 2),
    ("yolov3-tiny", 5.56 / 2), ("resnet18", 1.81), ("resnet50", 4.09), ("mobilenetv2", 0.30),
    ("mobilenetv3-large", 0.219), ("mobilenetv3-small", 0.056), ("vgg11", 7.61), ("vgg16", 15.47),
    ("alexnet", 0.71), ("squeezenet", 0.35), ("repvgg-a0", 1.36), ("x3d-m", 4.73),
    ("resnet8", 0.0125), ("deit-tiny", 1.26), ("deit-small", 4.6), ("vit-b16", 17.6),
    ("mixer-s16", 3.78), ("convnext-tiny", 4.47), ("swin-tiny", 4.5),
])
def test_published_macs(name, giga):
    assert zoo.find(name).macs == pytest.approx(giga * 1e9, rel=0.012)


@pytest.mark.parametrize("name", WHOLE)
def test_seeded_weights_are_sane_and_the_export_is_plain(name):
    entry = zoo.find(name)
    size = SMALL.get(name, 32)
    module = entry.module(None, photographs(4, (size, size), 0), 0)
    inside = {}
    hooks = [
        m.register_forward_hook(lambda m, i, out, key=key: inside.update({key: out}))
        for key, m in module.named_modules() if isinstance(m, WEIGHTED)
    ]
    # Not the photographs that the statistics are of.
    x = torch.from_numpy(entry.inputs(photographs(6, (size, size), 7)))
    with torch.no_grad():
        outputs = module(x)
    for hook in hooks:
        hook.remove()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for key, value in inside.items():
        assert value.isfinite().all(), key
        assert 1e-3 < value.std() < 100, key
    for value in outputs:
        assert 3e-3 < value.std() < 30
        assert value.std(0).mean() > 0.03 * value.std()

    if name in DENSE:
        # A hundred million weights say nothing about ops.
        for k, part in enumerate(module.classifier):
            if isinstance(part, nn.Linear):
                cin = part.in_features if part.in_features > 4096 else 8
                module.classifier[k] = nn.Linear(cin, 8)
        with torch.no_grad():
            outputs = (module(x),)
    network = normalise(entry.serialise(module, size), name, None)
    ops = RECURRENT if entry.features else OPS
    assert {node.op_type for node in network.nodes} <= ops
    assert [n.name for n in network.nodes if n.op_type in ("Sub", "Div")] == (
        ["normalise/Sub", "normalise/Div"] if entry.colours else [])
    assert network.outputs == list(entry.outputs)
    assert network.shapes[network.inputs[0]] == entry.input_shape(size)
    for node in network.nodes:
        at = {a.name: a for a in node.attribute}
        if node.op_type == "Resize":
            form = at["mode"].s, at["coordinate_transformation_mode"].s
            assert form in ((b"nearest", b"asymmetric"), (b"linear", b"half_pixel"))
        if node.op_type in ("Split", "Concat"):
            assert at["axis"].i == 1
    runner = session(network.model, intra_op_num_threads=1)
    values = runner.run(network.outputs, {network.inputs[0]: x[:1].numpy()})
    for got, want in zip(values, outputs, strict=True):
        assert np.abs(got - want[:1].numpy()).max() < 1e-3 * want.abs().max()


def test_names():
    assert set(zoo.names()) == {
        "yolov3-tiny", "yolov5n", "yolov5s", "yolov8n", "yolov8s", "resnet18", "resnet50",
        "mobilenetv2", "mobilenetv3-small", "mobilenetv3-large", "vgg11", "vgg16", "alexnet",
        "squeezenet", "repvgg-a0", "unet-bilinear", "unet-transposed", "x3d-m", "resnet8",
        "deit-tiny", "deit-small", "vit-b16", "mixer-s16", "convnext-tiny", "swin-tiny",
        "mobilevit-xxs", "gpt2", "opt-125m", "tinyllama-like", "bert-mini", "minilm-l6",
        "kws-lstm", "kws-gru",
    }


@pytest.mark.parametrize("name", zoo.names())
def test_entries_are_plain_and_consistent(name):
    entry = zoo.find(name)
    assert json.loads(json.dumps(entry.meta)) == entry.meta
    assert entry.task in ("detect", "classify", "segment", "video", "sound", "text")
    assert entry.check_size(None) == entry.size
    assert (entry.task == "text") == (entry.words is not None)
    assert (entry.task == "sound") == (entry.features is not None)
    assert entry.words or str(entry.meta["classes"]) in entry.heads
    if entry.task == "detect":
        maps = len(entry.outputs) // (2 if "bins" in entry.meta else 1)
        assert maps == len(entry.meta["strides"])
        assert len(entry.meta.get("anchors", entry.meta["strides"])) == maps


def test_who_normalises():
    """Those with published weights for normalised images."""
    assert {name for name in zoo.names() if zoo.find(name).colours is None} == {
        "yolov3-tiny", "yolov5n", "yolov5s", "yolov8n", "yolov8s", "unet-bilinear",
        "unet-transposed", "resnet8", "mobilevit-xxs", "gpt2", "opt-125m", "tinyllama-like",
        "bert-mini", "minilm-l6", "kws-lstm", "kws-gru",
    }


def test_listing():
    from rich.console import Console

    text = StringIO()
    Console(width=160, file=text).print(zoo.listing())
    lines = text.getvalue().splitlines()
    assert len(lines) == 1 + len(zoo.names())
    row = next(line for line in lines if line.startswith("x3d-m"))
    assert row.split()[:8] == ["x3d-m", "video", "4,732.5", "M", "3.79", "M", "16x224x224", "400"]
    text = StringIO()
    Console(width=80, file=text).print(zoo.listing())
    lines = text.getvalue().splitlines()
    assert len(lines) == 1 + len(zoo.names())
    assert "16x224x224  400 class" in next(line for line in lines if line.startswith("x3d-m"))
