"""Networks of the zoo as integer graphs: equal to onnxruntime's integers at every tensor."""

import numpy as np
import pytest

from hwgen.design import DesignPoint
from hwgen.models.export import from_onnx_layout, to_integer, to_onnx_layout
from hwgen.models.load import read
from hwgen.models.onnx.session import session
from hwgen.plan import plan

pytestmark = pytest.mark.network

SIZES = {
    "mobilenetv2": 32, "mobilenetv3-small": 32, "repvgg-a0": 32, "resnet8": 32, "resnet18": 32,
    "squeezenet": 32, "unet-bilinear": 16, "unet-transposed": 16, "x3d-m": 32, "yolov3-tiny": 32,
    "yolov8n": 32,
}


@pytest.mark.parametrize("name", SIZES)
def test_equals_integer_onnx(name):
    source = read(name, size=SIZES[name])
    graph, frames = source.graph, source.frames(1)
    ours = graph.evaluate(frames, keep=list(graph.types))
    model = to_integer(graph)
    names = [output.name for output in model.graph.output]
    feeds = {n: to_onnx_layout(x).astype(np.int8) for n, x in frames.items()}
    for tensor, theirs in zip(names, session(model).run(names, feeds), strict=True):
        np.testing.assert_array_equal(from_onnx_layout(theirs), ours[tensor], err_msg=tensor)
    # Every op has its block.
    plan(graph, DesignPoint())
    (image,) = graph.inputs.values()
    assert (image.scale, image.zero_point) == (np.float32(1 / 255), -128)
