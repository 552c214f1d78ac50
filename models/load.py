"""From a model's name or file to the integer graph: the one road in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import Graph
from models import images, zoo

__all__ = ["Precision", "load"]


class Precision:
    """Bit widths of weights and activations, from text such as ``w8a8``."""

    def __init__(self, text: str) -> None:
        match = re.fullmatch(r"w([2-8])a([2-8])", text)
        if match is None:
            raise HwgenError(
                f"Precision must look like 'w8a8', with 2 to 8 bits for weights and activations, "
                f"not {text!r}"
            )
        self.weights, self.activations = int(match[1]), int(match[2])


def load(
    model: str,
    *,
    size: int | None = None,
    weights: Path | None = None,
    calibration: Path | None = None,
    precision: str = "w8a8",
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Graph:
    """Read a network, quantise it, and return its integer graph.

    Parameters
    ----------
    model : zoo name, or path of an ``.onnx`` file
    size : height and width of the input; default the model's own
    weights : state dict (``.pt``) or ``.onnx`` with the weights of a zoo model; default seeded ones
    calibration : directory of images; default crops of two photographs
    precision : such as ``w8a8``
    seed : of the weights and the crops
    progress : called with what is being done

    Raises
    ------
    :exc:`HwgenError`
        If the model is unknown, a file cannot be read, or the network cannot be built.
    """
    from models import calibrate, onnx_import, quantise

    bits = Precision(precision)
    meta: dict = {}
    if model.endswith(".onnx"):
        if weights is not None:
            raise HwgenError("--weights goes with a zoo model: an .onnx file has its own")
        progress("read")
        network = onnx_import.read(Path(model), size)
        meta["model"] = Path(model).stem
    else:
        entry = zoo.find(model)
        extent = entry.check_size(size)
        if weights is not None and weights.suffix == ".onnx":
            progress("read")
            network = onnx_import.read(weights, extent)
        else:
            progress("export")
            photos = _calibration_images(calibration, (extent, extent), seed)
            exported = entry.export(extent, weights, photos, seed)
            progress("read")
            network = onnx_import.normalise(exported, model, None)
        meta |= {"model": model, **entry.meta}
    height, width = network.image_size
    progress("calibrate")
    photos = _calibration_images(calibration, (height, width), seed)
    ranges = calibrate.ranges(network, calibrate.feeds(network, photos))
    progress("quantise")
    graph = quantise.quantise(network, ranges, bits.weights, bits.activations)
    graph.meta = {**meta, "precision": precision, **graph.meta}
    return graph


def _calibration_images(directory: Path | None, size: tuple[int, int], seed: int) -> np.ndarray:
    if directory is not None:
        return images.directory(directory, size)
    return images.photographs(4, size, seed)
