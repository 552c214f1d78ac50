"""YOLOv5n: published parameter counts, and the integer graph against onnxruntime."""

from functools import cache

import numpy as np
import onnxruntime
import pytest
import torch

from hwgen import models
from hwgen.errors import HwgenError
from hwgen.models import zoo
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout, to_qdq
from hwgen.models.frames.images import photographs, to_stream
from hwgen.models.host import detect
from hwgen.models.onnx.session import session

pytestmark = pytest.mark.network


@cache
def graph():
    return models.load("yolov5n", size=96)


@cache
def tensors():
    """All tensors of the graph on a photograph, name to integers."""
    return graph().evaluate(to_stream(photographs(1, (96, 96), 7), graph()),
                            keep=tuple(graph().types))


def run(model):
    """All tensors of an ONNX model on the same photograph."""
    names = [n for n in graph().types if n not in graph().inputs]
    feed = {n: to_onnx_layout(tensors()[n]) for n in graph().inputs}
    off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    values = session(model, graph_optimization_level=off).run(names, feed)
    found = {n: from_onnx_layout(v) for n, v in zip(names, values)}
    return found | {n: tensors()[n] for n in graph().inputs}


def test_published_counts():
    module = zoo.find("yolov5n").build()
    assert sum(p.numel() for p in module.parameters()) == 1_872_157
    norms = sum(p.numel() for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)
                for p in m.parameters())
    biases = sum(m.num_features for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d))
    # Published for the fused network, whose normalisations became biases.
    assert 1_872_157 - norms + biases == 1_867_405
    g = graph()
    assert [g.types[o].shape for o in g.outputs] == [(12, 12, 255), (6, 6, 255), (3, 3, 255)]
    assert sum(type(n.op).__name__ == "Conv" for n in g.nodes) == 60


def test_integer_onnx_is_equal_everywhere():
    for name, value in run(to_integer(graph())).items():
        assert (value == tensors()[name]).all(), name


def test_qdq_is_within_one_step_op_by_op():
    theirs = run(to_qdq(graph()))
    differing = total = 0
    for node in graph().nodes:
        types = [graph().types[t] for t in node.inputs]
        results = node.op.evaluate([theirs[t] for t in node.inputs], types)
        for name, value in zip(node.outputs, results):
            distance = np.abs(value.astype(int) - theirs[name])
            exact = type(node.op).__name__ not in ("Conv", "Add")
            assert distance.max() <= (0 if exact else 1), node.name
            differing += (distance > 0).sum()
            total += distance.size
    assert differing <= 3e-4 * total


def test_quantised_is_near_float():
    """With 8 bits the first layers are within a few steps of the float network."""
    exported = zoo.find("yolov5n").module(None, photographs(4, (96, 96), 0), 0)
    image = photographs(1, (96, 96), 7)
    x = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        real = exported.model[1](exported.model[0](x)).permute(0, 2, 3, 1).numpy()
    name = "model_1_act"
    ours = graph().types[name].quantisation.dequantise(tensors()[name])
    noise, signal = ((ours - real) ** 2).mean(), (real**2).mean()
    assert 10 * np.log10(signal / noise) > 25


def test_seed_and_repeatability(tmp_path):
    for k, seed in enumerate((0, 0, 1)):
        models.load("yolov5n", size=32, seed=seed).save(tmp_path / str(k))
    first, again, other = ((tmp_path / str(k)).read_bytes() for k in range(3))
    assert first == again
    assert first != other


def test_weights(tmp_path):
    torch.manual_seed(3)
    module = zoo.find("yolov5n").build()
    path = tmp_path / "weights.pt"
    torch.save(module.state_dict(), path)
    loaded = zoo.find("yolov5n").module(path, photographs(1, (32, 32)), 0)
    name = "model.24.m.1.weight"
    assert torch.equal(loaded.get_parameter(name), module.get_parameter(name))
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(HwgenError, match=r"weights\.pt is not a state dict of yolov5n"):
        zoo.find("yolov5n").module(path, photographs(1, (32, 32)), 0)
    path.write_bytes(b"garbage")
    with pytest.raises(HwgenError, match=r"weights\.pt is not a state dict of yolov5n"):
        zoo.find("yolov5n").module(path, photographs(1, (32, 32)), 0)


def test_detections():
    heads = {n: tensors()[n] for n in graph().outputs}
    (found,) = detect.decode(graph(), heads, threshold=0.1)
    assert len(found.scores) > 0
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.shape == (len(found.scores), 4)
    drawn = detect.draw(photographs(1, (96, 96), 7)[0], found)
    assert drawn.shape == (96, 96, 3)
    # One strong cell and nothing else: one box, where its anchor says.
    quiet = {n: np.full_like(h, -128) for n, h in heads.items()}
    name = graph().outputs[0]
    q = graph().types[name].quantisation
    cell = quiet[name][0, 4, 5].reshape(3, 85)
    cell[1, [0, 1, 2, 3]] = q.quantise(np.zeros(4))
    cell[1, [4, 5 + 17]] = 127
    (found,) = detect.decode(graph(), quiet, threshold=0.5 * _peak(q))
    assert found.classes.tolist() == [17]
    assert np.allclose(found.boxes[0], [44 - 8, 36 - 15, 44 + 8, 36 + 15], atol=1)


def _peak(q):
    top = 1 / (1 + np.exp(-(127 - q.zero_point) * q.scale))
    return top**2
