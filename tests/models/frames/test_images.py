"""Photographs of any size: fitted into that of a network, and what is no photograph."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hwgen.errors import HwgenError
from hwgen.models.frames.images import GREY, directory, fit


def saved(path: Path, pixels: np.ndarray, **options) -> Path:
    """An image file of an array."""
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("height, width", [(8, 12), (16, 24), (5, 40), (50, 3), (1, 1)])
def test_any_size_keeps_its_proportions(tmp_path: Path, height: int, width: int) -> None:
    made = fit(saved(tmp_path / "a.png", np.full((height, width, 3), 200, np.uint8)), (8, 12))
    assert made.shape == (8, 12, 3)
    assert made.dtype == np.uint8
    scale = min(8 / height, 12 / width)
    inner = max(1, round(height * scale)) * max(1, round(width * scale))
    assert (made == 200).all(-1).sum() == inner
    assert (made == GREY).all(-1).sum() == 96 - inner


def test_a_camera_that_was_turned(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    made = fit(saved(tmp_path / "a.png", pixels, exif=exif), (8, 8))
    np.testing.assert_array_equal(made, pixels[::-1])


def test_one_file_or_all_of_a_directory(tmp_path: Path) -> None:
    for k in range(70):
        saved(tmp_path / f"{k:02}.png", np.full((4, 4, 3), k, np.uint8))
    assert directory(tmp_path, (4, 4))[:, 0, 0, 0].tolist() == list(range(70))
    assert directory(tmp_path, (4, 4), 64).shape == (64, 4, 4, 3)
    assert directory(tmp_path / "07.png", (4, 4))[:, 0, 0, 0].tolist() == [7]


def test_what_is_no_image(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.png", np.zeros((40, 40, 3), np.uint8)).read_bytes()
    for k, data in enumerate((b"", b"nothing", good[:30], good[:60], good[:45] + bytes(20))):
        path = tmp_path / f"{k}.png"
        path.write_bytes(data)
        with pytest.raises(HwgenError, match=rf"{k}\.png cannot be read as an image: "):
            fit(path, (4, 4))
    saved(tmp_path / "wide.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(HwgenError, match=r"wide\.png has more than 8 bits a pixel"):
        fit(tmp_path / "wide.png", (4, 4))
    with pytest.raises(HwgenError, match=r"none\.png cannot be read as an image: No such file"):
        directory(tmp_path / "none.png", (4, 4))


def test_an_image_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = saved(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    with pytest.raises(HwgenError, match=r"a\.png cannot be read as an image: .* exceeds limit"):
        fit(path, (4, 4))
