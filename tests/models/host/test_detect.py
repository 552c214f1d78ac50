"""Decoding of YOLO heads: known boxes, an independent formula, and suppression."""

import numpy as np
import pytest
import torch

from hwgen.errors import HwgenError
from hwgen.ir import Graph, Quantisation, TensorType
from hwgen.models import zoo
from hwgen.models.frames.images import photographs
from hwgen.models.host.detect import decode, draw

FINE = Quantisation(2.0**-9, 0, 16)
"""Near enough to float: heads within +-64."""
QUIET = -20.0
"""A logit of nothing."""


def graph(name, shapes, quantisation=FINE):
    """A graph that is only the outputs of a network of the zoo, ``shapes`` (h, w, channels)."""
    result = Graph(meta=dict(zoo.find(name).meta))
    for output, shape in zip(zoo.find(name).outputs, shapes, strict=True):
        result.outputs.append(result.add_input(output, TensorType(shape, quantisation)))
    return result


def flat(maps):
    """Heads as integers ``(1, h, w, channels)``."""
    return {name: FINE.quantise(m.reshape(1, *m.shape[:2], -1)) for name, m in maps.items()}


def logit(p):
    return np.log(p / (1 - p))


def anchored(name, size):
    """A graph and quiet heads ``(h, w, anchors, 85)`` by name."""
    strides = zoo.find(name).meta["strides"]
    result = graph(name, [(size // s, size // s, 255) for s in strides])
    return result, {o: np.full((size // s, size // s, 3, 85), QUIET)
                    for o, s in zip(result.outputs, strides, strict=True)}


def distributed(size):
    """A graph of YOLOv8 and quiet heads, ``(h, w, 4, 16)`` and ``(h, w, 80)`` by name."""
    entry = zoo.find("yolov8n")
    shapes = [(size // s, size // s, c) for s in entry.meta["strides"] for c in (64, 80)]
    result = graph("yolov8n", shapes)
    return result, {
        o: np.full((*shape[:2], 4, 16), QUIET) if o.startswith("box") else np.full(shape, QUIET)
        for o, shape in zip(result.outputs, shapes, strict=True)
    }


@pytest.mark.parametrize("name, head, stride, anchor", [
    ("yolov5n", "head_p3", 8, (16, 30)), ("yolov5n", "head_p5", 32, (156, 198)),
    ("yolov3-tiny", "head_p4", 16, (23, 27)), ("yolov3-tiny", "head_p5", 32, (135, 169)),
])
def test_anchor_box_where_it_was_put(name, head, stride, anchor):
    net, maps = anchored(name, 96)
    centre, extent = np.array([45.0, 37.0]), np.array([1.7, 0.4]) * anchor
    x, y = (centre // stride).astype(int)
    cell = maps[head][y, x, 1]
    cell[:2] = logit((centre / stride - (x, y) + 0.5) / 2)
    cell[2:4] = logit(np.sqrt(extent / anchor) / 2)
    cell[4], cell[5 + 17] = logit(0.9), logit(0.8)
    (found,) = decode(net, flat(maps))
    assert found.classes.tolist() == [17]
    assert found.scores == pytest.approx([0.72], abs=1e-3)
    assert np.allclose(found.boxes, [[*(centre - extent / 2), *(centre + extent / 2)]], atol=0.3)


@pytest.mark.parametrize("scale, stride", [("p3", 8), ("p4", 16), ("p5", 32)])
def test_distributed_box_where_it_was_put(scale, stride):
    net, maps = distributed(96)
    x, y = 40 // stride, 70 // stride
    # One bin; two alike; two of weights 1 and 3; all alike.
    side = maps[f"box_{scale}"][y, x]
    side[0, 2] = 8
    side[1, [0, 5]] = 8
    side[2, [4, 8]] = 8, 8 + np.log(3)
    side[3] = 1.5
    maps[f"class_{scale}"][y, x, [3, 41]] = logit(0.4), logit(0.6)
    (found,) = decode(net, flat(maps))
    middle = (np.array([x, y]) + 0.5) * stride
    wanted = [*(middle - np.array([2, 2.5]) * stride), *(middle + np.array([7, 7.5]) * stride)]
    assert found.classes.tolist() == [41]
    assert found.scores == pytest.approx([0.6], abs=1e-3)
    assert np.allclose(found.boxes, [wanted], atol=0.05)


def test_yolov8n_against_the_formula():
    """All boxes of a network with seeded weights, by the formula as published, in float64.

    Of heads rounded to 16 bits, so that both start from the same numbers.
    """
    entry = zoo.find("yolov8n")
    photos = photographs(2, (64, 96), 3)
    module = entry.module(None, photos, 0)
    with torch.no_grad():
        outputs = [o.numpy() for o in module(torch.from_numpy(entry.inputs(photos)))]
    net = graph("yolov8n", [(*o.shape[2:], o.shape[1]) for o in outputs])
    heads = {name: FINE.quantise(np.moveaxis(o, 1, -1))
             for name, o in zip(net.outputs, outputs, strict=True)}
    outputs = [np.moveaxis((h * FINE.scale).astype(np.float64), -1, 1) for h in heads.values()]
    # Without suppression every box above the threshold comes back.
    frames = decode(net, heads, threshold=1e-4, overlap=1.0, most=10_000)

    for k, found in enumerate(frames):
        wanted = []
        for sides, classes, stride in zip(outputs[::2], outputs[1::2], (8, 16, 32), strict=True):
            for y in range(sides.shape[2]):
                for x in range(sides.shape[3]):
                    left, top, right, bottom = (
                        sum(b * np.exp(v) for b, v in enumerate(p)) / np.exp(p).sum()
                        for p in sides[k, :, y, x].reshape(4, 16)
                    )
                    best = classes[k, :, y, x].max()
                    wanted.append([
                        (x + 0.5 - left) * stride, (y + 0.5 - top) * stride,
                        (x + 0.5 + right) * stride, (y + 0.5 + bottom) * stride,
                        1 / (1 + np.exp(-best)),
                    ])
        got = np.column_stack([found.boxes, found.scores])
        assert got.shape == (8 * 12 + 4 * 6 + 2 * 3, 5)
        wanted = np.array(wanted)
        # In the order of the boxes, which differ by far more than rounding moves them.
        order = [int(np.abs(got - row).max(1).argmin()) for row in wanted]
        assert sorted(order) == list(range(len(wanted)))
        assert np.allclose(got[order], wanted, atol=1e-3)


def test_suppression_is_by_class():
    net, maps = distributed(96)
    # Boxes of two cells that share all but one row of pixels; a third far away.
    for x, score in ((4, 0.9), (5, 0.8), (9, 0.7)):
        maps["box_p3"][4, x, :, 3] = 20
        maps["class_p3"][4, x, 6] = logit(score)
    (found,) = decode(net, flat(maps))
    assert found.scores == pytest.approx([0.9, 0.7], abs=1e-3)
    maps["class_p3"][4, 5, 7] = logit(0.85)
    (found,) = decode(net, flat(maps))
    assert found.classes.tolist() == [6, 7, 6]
    (found,) = decode(net, flat(maps), most=1)
    assert found.scores == pytest.approx([0.9], abs=1e-3)
    drawn = draw(np.zeros((96, 96, 3), np.uint8), found)
    assert drawn.any()


def test_nothing_found():
    net, maps = distributed(32)
    (found,) = decode(net, flat(maps))
    assert (found.boxes.shape, found.scores.shape) == ((0, 4), (0,))


def test_refused():
    net, maps = distributed(32)
    net.outputs.pop()
    with pytest.raises(HwgenError, match="of 64, 80, 64, 80, 64 channels, are not the heads"):
        decode(net, flat(maps))
    net = graph("yolov5n", [(4, 4, 85), (2, 2, 85), (1, 1, 85)])
    with pytest.raises(HwgenError, match="are not the heads that the meta data describes"):
        decode(net, {})
    net.meta = {"task": "classify"}
    with pytest.raises(HwgenError, match="not of a detector"):
        decode(net, {})
