"""What the host does with the heads of a YOLO network: boxes, scores, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hwgen.errors import HwgenError
from hwgen.ir import Graph

__all__ = ["Detections", "decode", "draw"]


@dataclass(frozen=True)
class Detections:
    """Boxes found in one image.

    Members
    -------
    boxes : float array ``(n, 4)``, left, top, right, bottom in pixels
    scores : float array ``(n,)``, best first
    classes : integer array ``(n,)``
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(x / 2)) / 2


def decode(
    graph: Graph, heads: Mapping[str, np.ndarray], *, threshold: float = 0.25,
    overlap: float = 0.45, most: int = 100,
) -> list[Detections]:
    """Detections from the integer heads of a YOLOv5 network, one entry a frame.

    Parameters
    ----------
    graph : the integer graph; its ``meta`` holds strides and anchors
    heads : output name to integers ``(frames, h, w, anchors * (5 + classes))``
    threshold : least score
    overlap : intersection over union above which the weaker of two boxes of a class is dropped
    most : detections kept

    Raises
    ------
    :exc:`HwgenError`
        If the graph is not of a detector.
    """
    if graph.meta.get("task") != "detect":
        raise HwgenError("The graph is not of a detector: its meta data has no task 'detect'")
    frames = len(next(iter(heads.values())))
    parts: list[list[np.ndarray]] = [[] for _ in range(frames)]
    for name, stride, anchors in zip(
        graph.outputs, graph.meta["strides"], graph.meta["anchors"], strict=True
    ):
        real = graph.types[name].quantisation.dequantise(heads[name])
        _, height, width, _ = real.shape
        maps = _sigmoid(real.reshape(frames, height, width, len(anchors), -1))
        grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)[None, :, :, None]
        centre = (maps[..., :2] * 2 - 0.5 + grid) * stride
        half = (maps[..., 2:4] * 2) ** 2 * np.array(anchors, np.float32) / 2
        scores = maps[..., 4:5] * maps[..., 5:]
        rows = np.concatenate([centre - half, centre + half, scores], -1)
        for frame in range(frames):
            parts[frame].append(rows[frame].reshape(-1, rows.shape[-1]))
    return [_select(np.concatenate(p), threshold, overlap, most) for p in parts]


def _select(rows: np.ndarray, threshold: float, overlap: float, most: int) -> Detections:
    """Class-wise non-maximum suppression."""
    classes = rows[:, 4:].argmax(1)
    scores = rows[np.arange(len(rows)), 4 + classes]
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] >= threshold][:3000]
    boxes, classes, scores = rows[order, :4], classes[order], scores[order]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    alive = np.ones(len(boxes), bool)
    kept: list[int] = []
    for k in range(len(boxes)):
        if not alive[k] or len(kept) == most:
            continue
        kept.append(k)
        low = np.maximum(boxes[k, :2], boxes[k + 1 :, :2])
        high = np.minimum(boxes[k, 2:], boxes[k + 1 :, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        union = areas[k] + areas[k + 1 :] - common
        alive[k + 1 :] &= (common <= overlap * union) | (classes[k + 1 :] != classes[k])
    return Detections(boxes[kept], scores[kept], classes[kept])


def draw(image: np.ndarray, detections: Detections) -> np.ndarray:
    """A copy of an image, uint8 ``(h, w, 3)``, with the boxes and their classes drawn on it."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image)
    pen = ImageDraw.Draw(picture)
    for box, score, label in zip(
        detections.boxes, detections.scores, detections.classes, strict=True
    ):
        hue = int(label) * 37 % 360
        colour = f"hsl({hue}, 100%, 50%)"
        pen.rectangle([float(v) for v in box], outline=colour, width=2)
        pen.text((float(box[0]) + 3, float(box[1]) + 2), f"{int(label)} {score:.2f}", fill=colour)
    return np.asarray(picture)
