"""Normalised images: what a mean and a standard deviation make of pixels, and their codes."""

import numpy as np
import pytest

from hwgen.errors import HwgenError
from hwgen.models.onnx.normalisation import Normalisation, codes_of_pixels

PIXELS = np.arange(256) / 255
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_channels() -> None:
    images = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    made = IMAGENET.apply(images, 1)
    np.testing.assert_array_equal(np.moveaxis(made, 1, -1),
                                  IMAGENET.apply(np.moveaxis(images, 1, -1), 3))
    np.testing.assert_allclose(made[:, 2], (images[:, 2] - 0.406) / 0.225, rtol=1e-5)
    assert made.dtype == np.float32
    low, high = IMAGENET.range
    assert (low, high) == pytest.approx((-0.485 / 0.229, 0.594 / 0.225))
    assert Normalisation((0.5,), ()).of(3) == Normalisation((0.5,) * 3, (1, 1, 1))
    assert Normalisation((), (2, 4)) == Normalisation((0, 0), (2, 4))
    assert IMAGENET.of(3) == IMAGENET
    assert str(IMAGENET) == "mean 0.485,0.456,0.406 and std 0.229,0.224,0.225"


@pytest.mark.parametrize("mean, std, message", [
    ((), (0,), "standard deviations positive as well, not none and 0$"),
    ((), (-1,), "positive"),
    ((np.nan,), (), "must be finite"),
    ((), (np.inf,), "must be finite"),
    ((1, 2), (1, 2, 3), "as many means as standard deviations, not 2 and 3"),
])
def test_refused(mean, std, message) -> None:
    with pytest.raises(HwgenError, match=message):
        Normalisation(mean, std)
    with pytest.raises(HwgenError, match="3 means and standard deviations do not go with 1 chan"):
        IMAGENET.of(1)


@pytest.mark.parametrize("mean, std, distinct", [
    (0, 1, 256), (0, 1 / 255, 256), (0.5, 0.5, 255), (0.5, 0.25, 255), (-0.5, 1, 170),
])
def test_pixels_keep_codes_of_their_own(mean: float, std: float, distinct: int) -> None:
    """None is clipped, and hardly two share a code; where 0 is far away, some do."""
    normalisation = Normalisation((mean,), (std,))
    codes = codes_of_pixels(*normalisation.range, 8)
    real = normalisation.apply(PIXELS.reshape(1, 1, -1), 1).ravel()
    found = codes.quantise(real)
    assert len(np.unique(found)) >= distinct
    assert abs(codes.dequantise(found) - real).max() <= codes.scale * 0.501


def test_images_in_0_to_1_are_their_pixels() -> None:
    codes = codes_of_pixels(0, 1, 8)
    assert (codes.scale, codes.zero_point, codes.bits) == (float(np.float32(1 / 255)), -128, 8)
    assert codes_of_pixels(*IMAGENET.range, 16).bits == 16
