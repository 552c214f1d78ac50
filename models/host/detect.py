"""What the host does with the heads of a YOLO network: boxes, scores, non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Detections from the integer heads of a YOLO network, one entry a frame.

    Parameters
    ----------
    graph : the integer graph; its ``meta`` says what the heads are
        With ``anchors`` (YOLOv3, YOLOv5): an output ``(h, w, anchors * (5 + classes))`` for each
        of ``strides``.  With ``bins`` (YOLOv8): two for each, sides ``(h, w, 4 * bins)`` and
        classes ``(h, w, classes)``.
    heads : output name to integers ``(frames, h, w, channels)``
    threshold : least score
    overlap : intersection over union above which the weaker of two boxes of a class is dropped
    most : detections kept

    Raises
    ------
    :exc:`HwgenError`
        If the graph is not of a detector, or its outputs are not what its ``meta`` says.
    """
    meta = graph.meta
    if meta.get("task") != "detect":
        raise HwgenError("The graph is not of a detector: its meta data has no task 'detect'")
    channels = [graph.types[name].channels for name in graph.outputs]
    if "bins" in meta:
        fits = (len(channels) == 2 * len(meta["strides"])
                and all(count == 4 * meta["bins"] for count in channels[::2]))
    else:
        fits = (len(channels) == len(meta["strides"])
                and all(count % len(anchors) == 0 and count > 5 * len(anchors)
                        for count, anchors in zip(channels, meta["anchors"], strict=True)))
    if not fits:
        raise HwgenError(f"The outputs, of {', '.join(map(str, channels))} channels, are not the "
                         f"heads that the meta data describes")
    maps = [graph.types[name].quantisation.dequantise(heads[name]) for name in graph.outputs]
    if "bins" in meta:
        scales = [
            _distributed(sides, classes, stride, meta["bins"])
            for sides, classes, stride in zip(maps[::2], maps[1::2], meta["strides"], strict=True)
        ]
    else:
        scales = [
            _anchored(head, stride, anchors)
            for head, stride, anchors in zip(maps, meta["strides"], meta["anchors"], strict=True)
        ]
    rows = np.concatenate(scales, axis=1)
    return [_select(frame, threshold, overlap, most) for frame in rows]


def _anchored(head: np.ndarray, stride: int, anchors: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows (left, top, right, bottom, scores) ``(frames, boxes, 4 + classes)`` of anchor boxes.

    Of each anchor a cell has centre, size, objectness and classes (YOLOv5, and Ultralytics'
    YOLOv3): the sigmoid moves the centre by up to a cell, and scales the anchor by 0 to 4.
    """
    frames, height, width, _ = head.shape
    maps = _sigmoid(head.reshape(frames, height, width, len(anchors), -1))
    centre = (maps[..., :2] * 2 - 0.5 + _cells(height, width)[:, :, None]) * stride
    half = (maps[..., 2:4] * 2) ** 2 * np.array(anchors, np.float32) / 2
    scores = maps[..., 4:5] * maps[..., 5:]
    rows = np.concatenate([centre - half, centre + half, scores], -1)
    return rows.reshape(frames, -1, rows.shape[-1])


def _distributed(sides: np.ndarray, classes: np.ndarray, stride: int, bins: int) -> np.ndarray:
    """As :func:`_anchored`, of boxes whose four sides have a distribution each (YOLOv8).

    The distance of a side from the middle of the cell, in strides, is the expectation of a
    softmax over ``bins`` values 0, 1, … (Li et al., "Generalized Focal Loss", 2020).
    """
    frames, height, width, _ = sides.shape
    logits = sides.reshape(frames, height, width, 4, bins)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    distances = weights @ np.arange(bins, dtype=weights.dtype) / weights.sum(-1)
    middle = _cells(height, width) + 0.5
    near, far = middle - distances[..., :2], middle + distances[..., 2:]
    rows = np.concatenate([near * stride, far * stride, _sigmoid(classes)], -1)
    return rows.reshape(frames, -1, rows.shape[-1])


def _cells(height: int, width: int) -> np.ndarray:
    """Coordinates x, y of the cells of a map, ``(height, width, 2)``."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)


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
