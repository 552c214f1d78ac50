"""Sizes, inputs, normalisation and seeds of the zoo's networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hwgen import models
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Quantisation
from hwgen.models import zoo
from hwgen.models.accuracy import measure
from hwgen.models.frames.images import photographs
from hwgen.models.load import read
from tests.typed import of_kind

pytestmark = pytest.mark.network


@pytest.mark.parametrize("name, size, message", [
    ("yolov5n", 100, "needs a size that is a multiple of 32, not 100: try 96 or 128$"),
    ("yolov5n", 0, "a multiple of 32, not 0: try 32$"),
    ("yolov5n", -3, "a multiple of 32, not -3: try 32$"),
    ("resnet18", 31, "resnet18 needs a size that is at least 32, not 31: try 32$"),
    ("vgg11", 100, "32nd part divides 7 or is a multiple of 7, not 100: try 32 or 224$"),
    ("vgg16", 256, "not 256: try 224 or 448"),
    ("alexnet", 160, r"whose last map has an extent that .* 6, not 160: try 158 or 223$"),
    ("alexnet", 10, "not 10: try 63$"),
    ("unet-bilinear", 40, "a multiple of 16, not 40: try 32 or 48"),
])
def test_sizes_refused(name, size, message):
    with pytest.raises(HwgenError, match=message):
        zoo.find(name).check_size(size)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "squeezenet", "resnet8"])
def test_sizes_allowed_are_those_that_work(name):
    entry = zoo.find(name)
    with torch.device("meta"):
        module = entry.build().eval()
        for size in (*range(8, 80), 96, 100, 158, 159, 222, 223, 254, 255, 256, 415, 448):
            try:
                allowed = entry.check_size(size) == size
            except HwgenError:
                allowed = False
            if allowed:
                assert module(torch.zeros(entry.input_shape(size))).shape[0] == 1
            elif name == "alexnet":
                with pytest.raises((ValueError, RuntimeError)):
                    module(torch.zeros(entry.input_shape(size)))


def test_clips_pan_over_photographs():
    entry, photos = zoo.find("x3d-m"), photographs(2, (64, 64))
    clips = entry.inputs(photos)
    assert (clips.shape, clips.dtype) == ((2, 3, 16, 64, 64), np.float32)
    images = zoo.find("resnet18").inputs(photos)
    assert images.shape == (2, 3, 64, 64)
    assert (clips[:, :, 0] == images).all()
    assert (clips[:, :, 5, :, 5:] == images[..., :-5]).all()


def test_one_photograph_and_the_callers_random_numbers():
    """Statistics of maps of one pixel need several images; dropout must not draw."""
    state = torch.get_rng_state()
    for name in ("mobilenetv3-small", "x3d-m"):
        entry, photo = zoo.find(name), photographs(1, (32, 32))
        module = entry.module(None, photo, 0)
        assert not module.training
        with torch.no_grad():
            first = module(torch.from_numpy(entry.inputs(photo)))
        again = entry.module(None, photo, 0)
        with torch.no_grad():
            assert torch.equal(again(torch.from_numpy(entry.inputs(photo))), first)
        assert first.isfinite().all()
    assert torch.equal(torch.get_rng_state(), state)


def test_large_photographs_are_reduced_for_statistics():
    entry = zoo.find("resnet8")
    seen = []

    def build():
        module = entry.build()
        module.register_forward_pre_hook(lambda m, inputs: seen.append(tuple(inputs[0].shape)))
        return module

    replace(entry, build=build).module(None, photographs(5, (300, 300)), 0)
    assert seen == [(4, 3, 256, 256)]


@pytest.mark.parametrize("name, mean, std", [
    ("resnet18", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ("x3d-m", [0.45] * 3, [0.225] * 3),
])
def test_networks_normalise_as_published(name, mean, std, tmp_path):
    entry, photos = zoo.find(name), photographs(4, (160, 160))
    module = entry.module(None, photos, 0)
    bare = entry.build().eval()
    # Nothing but the published names: state dicts go both ways.
    bare.load_state_dict(module.state_dict())
    x = torch.from_numpy(entry.inputs(photos[:1]))
    shape = (1, 3, *(1,) * (x.ndim - 2))
    plain = (x - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
    with torch.no_grad():
        assert torch.equal(module(x), bare(plain))

    path = tmp_path / "weights.pt"
    torch.save(bare.state_dict(), path)
    with torch.no_grad():
        assert torch.equal(entry.module(path, photos, 1)(x), module(x))


@pytest.mark.parametrize("name, layer", [("yolov5n", 24), ("yolov3-tiny", 20)])
def test_anchors_of_releases(name, layer, tmp_path):
    entry, photos = zoo.find(name), photographs(1, (32, 32))
    state = entry.build().state_dict()
    heads = len(entry.meta["strides"])
    state[f"model.{layer}.anchors"] = torch.rand(heads, 3, 2)
    state[f"model.{layer}.anchor_grid"] = torch.rand(heads, 1, 3, 1, 1, 2)
    path = tmp_path / "weights.pt"
    torch.save(state, path)
    module, weight = entry.module(path, photos, 0), "model.0.conv.weight"
    assert torch.equal(module.get_parameter(weight), state[weight])
    # What belongs to no network is still refused.
    torch.save({**state, "model.0.anchor_grid": torch.zeros(1)}, path)
    with pytest.raises(HwgenError, match=f"is not a state dict of {name}"):
        entry.module(path, photos, 0)


def test_statistics_are_of_normalised_images():
    entry, photos = zoo.find("resnet18"), photographs(4, (160, 160))
    module = entry.module(None, photos, 0)
    assert entry.colours is not None
    mean, std = (np.float32(c).reshape(3, 1, 1) for c in entry.colours)
    with torch.no_grad():
        x = module.conv1(torch.from_numpy((entry.inputs(photos) - mean) / std))
    assert torch.allclose(module.get_buffer("bn1.running_mean"), x.mean((0, 2, 3)), atol=1e-4)


def test_the_accelerator_takes_images_and_normalises_in_one_op():
    source = read("resnet18", size=64, weights=None, calibration=None, precision="w8a8",
                  calibrate="minmax", equalise=False, correct_bias=False, seed=0,
                  progress=lambda _: None)
    graph = source.graph
    assert not {"mean", "std"} & set(graph.meta)
    ((name, type),) = graph.inputs.items()
    assert type.quantisation == Quantisation(float(np.float32(1 / 255)), -128, 8)
    first, second = graph.nodes[:2]
    assert (first.inputs, second.inputs) == ((name,), (first.name,))
    assert first.name == "normalise_div"
    assert isinstance(first.op, Conv)
    assert (first.op.weight.shape, first.op.groups) == ((3, 1, 1, 1), 3)
    # Padding of the next layer is a normalised 0, not a black pixel: the two cannot be one op.
    assert any(any(pads) for pads in of_kind(second.op, Conv).pads)
    rows = {row.name: row for row in measure(source.network, graph, source.feeds).rows}
    assert rows[first.name].own_db > 40
    assert rows[graph.outputs[0]].snr_db > 20


def test_resnet8_takes_images_as_they_are():
    graph = models.load("resnet8")
    (type,) = graph.inputs.values()
    assert type.quantisation == Quantisation(float(np.float32(1 / 255)), -128, 8)
    assert of_kind(graph.nodes[0].op, Conv).weight.shape == (16, 3, 3, 3)
