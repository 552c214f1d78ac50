"""Calibration: the range of every tensor that will be quantised, over real images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from hwgen.errors import HwgenError
from models.onnx_import import Network, session

__all__ = ["feeds", "ranges"]


def feeds(network: Network, photos: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """Float inputs, one image each, for uint8 photographs ``(N, H, W, 3)``."""
    shapes = [network.shapes[name] for name in network.inputs]
    for photo in photos:
        image = photo.astype(np.float32).transpose(2, 0, 1)[None] / 255
        feed = {}
        for name, shape in zip(network.inputs, shapes, strict=True):
            if len(shape) != 4 or shape[2:] != image.shape[2:]:
                raise HwgenError(f"Input {name!r} of shape {shape} is not an image like the others")
            channels = shape[1]
            feed[name] = image if channels == 3 else np.repeat(
                image.mean(1, keepdims=True), channels, axis=1
            )
        yield feed


def ranges(
    network: Network, inputs: Iterable[dict[str, np.ndarray]]
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of every float tensor, over all inputs.

    Raises
    ------
    :exc:`HwgenError`
        If a tensor takes NaN or infinite values.
    """
    names = [out for node in network.nodes for out in node.output if out]
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runner = session(model)
    found: dict[str, tuple[float, float]] = {}

    def widen(name: str, value: np.ndarray) -> None:
        if value.dtype.kind != "f":
            return
        low, high = float(value.min()), float(value.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise HwgenError(f"Tensor {name!r} becomes infinite or NaN on the calibration images")
        before = found.get(name, (low, high))
        found[name] = min(low, before[0]), max(high, before[1])

    for feed in inputs:
        try:
            values = runner.run(names, feed)
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            raise HwgenError(f"The network cannot be run: {str(error)[:300]}") from None
        for name, value in zip(names, values, strict=True):
            widen(name, np.asarray(value))
        for name, value in feed.items():
            widen(name, value)
    return found
