"""What networks are shown: inputs of every rank, files of arrays, and what is wrong with them."""

import numpy as np
import pytest
from PIL import Image

from hwgen.errors import HwgenError
from hwgen.models.frames import samples
from hwgen.models.frames.images import photographs
from hwgen.models.onnx.normalisation import Normalisation
from tests.models.float_networks import N, network

RANDOM = np.random.default_rng(0)
SHAPE = (1, 3, 8, 12)


def echo(**inputs):
    """A network that does nearly nothing with each input."""
    nodes = [N("Relu", [name], [f"{name}_r"]) for name in inputs]
    return network(nodes, (), inputs, [f"{name}_r" for name in inputs])


@pytest.fixture(scope="module")
def one():
    return echo(x=SHAPE)


def values(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def test_feeds_of_every_rank():
    net = echo(rgb=(1, 3, 16, 16), grey=(1, 1, 16, 16), many=(1, 7, 16, 16), small=(1, 3, 8, 8),
               film=(1, 3, 4, 16, 16), sound=(1, 2, 50), vector=(1, 9))
    photos = photographs(6, (16, 16))
    feeds = samples.feeds(net, photos)
    assert len(feeds) == len(list(feeds)) == 6
    for k, (feed, again) in enumerate(zip(feeds, feeds, strict=True)):
        assert {n: v.shape for n, v in feed.items()} == {n: net.shapes[n] for n in net.inputs}
        assert all(v.dtype == np.float32 for v in feed.values())
        assert all((feed[n] == again[n]).all() for n in feed)
        # Each input of pictures has the photograph after that of the one before.
        images = [photo.transpose(2, 0, 1) / np.float32(255)
                  for photo in np.roll(photos, -k, 0)]
        if k:
            # The sixth photograph is the first one moved, for the last inputs.
            images = images[: 6 - k]
        for name, image in zip(("rgb", "grey", "many", "small", "film"), images):
            if name == "rgb":
                np.testing.assert_array_equal(feed["rgb"][0], image)
            elif name == "grey":
                np.testing.assert_allclose(feed["grey"][0, 0], image.mean(0), rtol=1e-6)
            elif name == "many":
                np.testing.assert_array_equal(feed["many"][0, :3], image)
            elif name == "film":
                np.testing.assert_array_equal(feed["film"][0, :, 0], image)
                np.testing.assert_array_equal(feed["film"][0, :, 2, :, 2:], image[:, :, :-2])
        assert len(np.unique(feed["many"][0].reshape(7, -1), axis=0)) == 7
    a, b, *_ = feeds
    assert (a["sound"] != b["sound"]).all()
    assert abs(a["sound"].mean()) < 0.5


@pytest.mark.parametrize("count", [1, 2, 4])
def test_several_inputs_never_see_the_same_picture(count):
    net = echo(a=SHAPE, b=SHAPE, c=SHAPE)
    for feed in samples.feeds(net, photographs(count, SHAPE[2:])):
        for one, other in (("a", "b"), ("a", "c"), ("b", "c")):
            assert abs(feed[one] - feed[other]).mean() > 0.05


def test_images_are_normalised_as_the_network_takes_them():
    net = echo(first=SHAPE, last=(1, 8, 12, 3), film=(1, 1, 4, 8, 12), sound=(1, 2, 50))
    plain = next(iter(samples.feeds(net, photographs(3, SHAPE[2:]))))
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 2)
    with pytest.raises(HwgenError, match="Input 'film': 3 means and standard deviations do not go"):
        samples.normalised(net, Normalisation(mean, std))
    net.normalised.update(first=Normalisation(mean, std), last=Normalisation(mean, std),
                          film=Normalisation((0.5,), ()))
    feed = next(iter(samples.feeds(net, photographs(3, SHAPE[2:]))))
    for name, axis in (("first", 1), ("last", 3)):
        for c in range(3):
            np.testing.assert_allclose(
                np.take(feed[name], c, axis), (np.take(plain[name], c, axis) - mean[c]) / std[c],
                rtol=1e-6)
    np.testing.assert_allclose(feed["film"], plain["film"] - 0.5)
    np.testing.assert_array_equal(feed["sound"], plain["sound"])
    assert all(value.dtype == np.float32 for value in feed.values())
    with pytest.raises(HwgenError, match=r"takes no image .* normalised by mean 0\.5 and"):
        samples.normalised(echo(x=(1, 4)), Normalisation((0.5,), (1,)))


def test_networks_without_images_get_noise():
    net = echo(x=(1, 64))
    stacked = np.concatenate([f["x"] for f in samples.calibration(net)])
    assert len(stacked) == samples.NOISE
    assert stacked.std() == pytest.approx(1, abs=0.1)


def test_default_and_directory_of_images(one, tmp_path):
    assert len(samples.calibration(one)) == samples.PICTURES
    assert samples.calibration(one).seeded
    for k in range(3):
        Image.fromarray(photographs(1, (20, 30))[0]).save(tmp_path / f"{k}.png")
    (tmp_path / "readme.txt").write_text("ignored")
    assert len(samples.calibration(one, tmp_path)) == 3
    assert not samples.calibration(one, tmp_path).seeded
    assert samples.calibration(echo(x=SHAPE, z=(1, 64)), tmp_path).seeded
    assert len(samples.calibration(one, tmp_path / "1.png")) == 1
    assert len(samples.calibration(one, tmp_path, limit=2)) == 2
    with pytest.raises(HwgenError, match=r"takes no image, so .* must hold \.npy files"):
        samples.calibration(echo(x=(1, 64)), tmp_path)


@pytest.mark.parametrize("shape, count", [((3, 8, 12), 1), (SHAPE, 1), ((5, 3, 8, 12), 5)])
def test_array_file(one, tmp_path, shape, count):
    array = values(*shape)
    np.save(tmp_path / "a.npy", array.astype(np.float64))
    np.savez(tmp_path / "a.npz", array)
    for name in ("a.npy", "a.npz"):
        feeds = list(samples.calibration(one, tmp_path / name))
        assert len(feeds) == count
        assert all(f["x"].shape == SHAPE and f["x"].dtype == np.float32 for f in feeds)
        np.testing.assert_array_equal(np.concatenate([f["x"] for f in feeds]).ravel(),
                                      array.ravel())


def test_directory_of_arrays(one, tmp_path):
    arrays = [values(2, *SHAPE[1:]), values(*SHAPE[1:])]
    for k, array in enumerate(arrays):
        np.save(tmp_path / f"{k}.npy", array)
    feeds = list(samples.calibration(one, tmp_path))
    np.testing.assert_array_equal(np.concatenate([f["x"] for f in feeds]),
                                  np.concatenate([arrays[0], arrays[1][None]]))
    np.save(tmp_path / "2.npy", values(100, *SHAPE[1:]))
    assert len(samples.calibration(one, tmp_path)) == samples.LIMIT
    assert samples.pictures(tmp_path, (8, 12)).shape == (4, 8, 12, 3)


def test_several_inputs(tmp_path):
    net = echo(x=(1, 4), z=(1, 3))
    path, x, z = tmp_path / "a.npz", values(6, 4), values(6, 3)
    np.savez(path, x=x, z=z)
    feeds = list(samples.calibration(net, path))
    assert len(feeds) == 6
    np.testing.assert_array_equal(feeds[2]["z"], z[2:3])
    np.savez(path, x=x)
    with pytest.raises(HwgenError, match=r"holds 'x', but the network's inputs are 'x', 'z'"):
        samples.calibration(net, path)
    np.savez(path, x=x, z=z[:5])
    with pytest.raises(HwgenError, match="at least one frame, and as many for every input"):
        samples.calibration(net, path)


@pytest.mark.parametrize("array, message", [
    (values(3, 12, 8), r"input 'x' needs shape \(1, 3, 8, 12\) .*, not \(3, 12, 8\)"),
    (values(2, 8, 12, 3), r"not \(2, 8, 12, 3\)"),
    (np.float32(1), r"not \(\)"),
    (np.zeros((0, 3, 8, 12), np.float32), "must hold at least one frame"),
    (np.zeros((3, 8, 12), np.uint8), "input 'x' takes floats, not uint8"),
    (np.full((3, 8, 12), np.nan), "for input 'x' hold NaN, infinity"),
    (np.full((3, 8, 12), -np.inf), "hold NaN, infinity"),
    (np.full((3, 8, 12), 1e300), "hold NaN, infinity, or what float32 does not hold"),
    (np.full((3, 8, 12), None),
     r"a\.npy is not a file of arrays that can be read: \.npy files hold one array of numbers, "),
])
def test_wrong_arrays(one, tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(HwgenError, match=message):
        samples.calibration(one, tmp_path / "a.npy")


def test_damaged_files(one, tmp_path):
    np.save(tmp_path / "good.npy", values(4, *SHAPE[1:]))
    np.savez(tmp_path / "good.npz", values(4, *SHAPE[1:]))
    for name in ("good.npy", "good.npz"):
        data = (tmp_path / name).read_bytes()
        path = tmp_path / f"bad{name[-4:]}"
        for broken in (b"", b"nothing", data[:40], data[: len(data) // 2],
                       data[:8] + b"\xff" * 60 + data[68:]):
            path.write_bytes(broken)
            with pytest.raises(HwgenError, match=r"bad\.np. (is not a file of arrays|holds)"):
                samples.calibration(one, path)
    with pytest.raises(HwgenError, match=r"none\.npy cannot be read: No such file"):
        samples.calibration(one, tmp_path / "none.npy")


def test_wrong_directories(one, tmp_path):
    with pytest.raises(HwgenError, match=r"holds no image \(.*\) and no \.npy file"):
        samples.calibration(one, tmp_path)
    np.save(tmp_path / "a.npy", values(*SHAPE))
    Image.fromarray(photographs(1, (20, 30))[0]).save(tmp_path / "b.png")
    with pytest.raises(HwgenError, match=r"holds images and arrays \(b\.png, a\.npy\)"):
        samples.calibration(one, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    for name, message in (
            ("none", r"none does not exist: give a directory of images or arrays, an image, or an"),
            ("none.png", r"none\.png does not exist"),
            ("notes.txt", r"is not a directory of images or arrays, nor an image \(\.bmp")):
        with pytest.raises(HwgenError, match=message):
            samples.calibration(one, tmp_path / name)
