"""Images to show a network: those of a directory, one file, or crops of two photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwgen.errors import HwgenError, reason
from hwgen.ir import Graph

__all__ = ["directory", "fit", "photographs", "to_stream"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
WIDE = "I", "F"
"""Modes of PIL, or how they begin, with more than 8 bits a pixel."""
GREY = 114
"""What is around an image of other proportions, as detectors are trained with."""


def photographs(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Different crops of scikit-learn's two sample photographs, scaled to ``size``.

    Returns
    -------
    uint8 array ``(count, height, width, 3)``
    """
    from PIL import Image
    from sklearn.datasets import load_sample_image

    pictures = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    random = np.random.default_rng(seed)
    out = []
    for k in range(count):
        picture = pictures[k % 2]
        height, width = picture.shape[:2]
        share = 1.0 if k < 2 else random.uniform(0.5, 0.9)
        h = int(height * share)
        w = min(width, max(1, h * size[1] // size[0]))
        top, left = random.integers(0, height - h + 1), random.integers(0, width - w + 1)
        crop = Image.fromarray(picture[top : top + h, left : left + w])
        out.append(np.asarray(crop.resize(size[::-1], Image.Resampling.BILINEAR)))
    return np.stack(out)


def fit(path: Path, size: tuple[int, int]) -> np.ndarray:
    """An image file of any size, turned upright, scaled into ``size`` with grey around it.

    Parameters
    ----------
    path : the file
    size : height and width

    Returns
    -------
    uint8 array ``(height, width, 3)``, RGB

    Raises
    ------
    :exc:`HwgenError`
        If it cannot be read, or has more than 8 bits a colour.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            if file.mode.startswith(WIDE):
                raise HwgenError(f"{path} has more than 8 bits a pixel: save it with 8")
            picture = ImageOps.exif_transpose(file).convert("RGB")
    except HwgenError:
        raise
    except OSError as error:
        raise HwgenError(f"{path} cannot be read as an image: {reason(error)}") from None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise HwgenError(f"{path} cannot be read as an image: {error}") from None
    scale = min(size[0] / picture.height, size[1] / picture.width)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = Image.new("RGB", size[::-1], (GREY, GREY, GREY))
    canvas.paste(
        picture.resize(inner, Image.Resampling.BILINEAR),
        ((size[1] - inner[0]) // 2, (size[0] - inner[1]) // 2),
    )
    return np.asarray(canvas)


def directory(path: Path, size: tuple[int, int], limit: int | None = None) -> np.ndarray:
    """The images of a directory, by name, or a single one; each as :func:`fit` makes it.

    Parameters
    ----------
    path : the directory or the file
    size : height and width
    limit : most images that are taken; None: all

    Returns
    -------
    uint8 array ``(N, height, width, 3)``

    Raises
    ------
    :exc:`HwgenError`
        If there is no such directory, no image in it, or one cannot be read.
    """
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return fit(path, size)[None]
    if not path.is_dir():
        raise HwgenError(f"{path} is not a directory of images, nor an image")
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)[:limit]
    if not found:
        raise HwgenError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
    return np.stack([fit(p, size) for p in found])


def to_stream(images: np.ndarray, graph: Graph) -> dict[str, np.ndarray]:
    """The integer input of a graph with one image input, for uint8 images ``(N, H, W, 3)``."""
    if len(graph.inputs) != 1:
        raise HwgenError(f"The network has {len(graph.inputs)} inputs, not one image")
    ((name, type),) = graph.inputs.items()
    if len(type.shape) != 3 or type.channels not in (1, 3):
        raise HwgenError(f"The input {name!r} ({type}) is not an image")
    real = images.astype(np.float64) / 255
    if type.channels == 1:
        real = real.mean(-1, keepdims=True)
    return {name: type.quantisation.quantise(real)}
