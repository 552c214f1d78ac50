"""The real topologies inside the onnx package: read whole, right in float and quantised.

Their weights are constants of one value, so every class comes out alike; for quantisation they
get random weights in their place.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwgen.ir import GatherChannels
from hwgen.models.accuracy import decibels
from hwgen.models.lowering import lower
from hwgen.models.onnx.reader import normalise, read
from hwgen.models.quantisation.calibrate import probe, statistics

pytestmark = pytest.mark.network

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
BUILT = {
    # Name to the least signal-to-noise ratio of the result at 8 bits, in dB.
    "bvlc_alexnet": 20, "densenet121": 20, "inception_v1": 20, "inception_v2": 20, "resnet50": 20,
    "shufflenet": 20, "squeezenet": 20, "zfnet512": 20,
}


def inputs(network):
    (name,) = network.inputs
    shape = network.shapes[name]
    return {name: np.random.default_rng(0).random(shape, dtype=np.float32)}


def with_random_weights(path: Path) -> onnx.ModelProto:
    """The model, with other weights in place of its constants of one value."""
    model = onnx.load(path)
    model.ir_version = 4
    random = np.random.default_rng(0)
    shapes = {c.name: numpy_helper.to_array(c) for c in model.graph.initializer}
    users = {}
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            users.setdefault(name, (node.op_type, k))
    for node in list(model.graph.node):
        if node.op_type != "ConstantOfShape":
            continue
        shape = tuple(shapes[node.input[0]])
        kind, place = users[node.output[0]]
        if kind == "BatchNormalization" and place in (1, 4):
            value = random.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            value = random.normal(0, 0.1, shape)
        model.graph.initializer.append(
            numpy_helper.from_array(value.astype(np.float32), node.output[0]))
        model.graph.node.remove(node)
    return model


@pytest.mark.parametrize("name", [*BUILT, "vgg19"])
def test_float_network_gives_the_stored_output(name):
    network = read(LIGHT / f"light_{name}.onnx", None)
    stored = onnx.TensorProto.FromString((LIGHT / f"light_{name}_output_0.pb").read_bytes())
    want = numpy_helper.to_array(stored).ravel()
    (out,) = network.outputs
    got = probe(network, [out])(inputs(network))[out].ravel().astype(np.float64)
    if abs(want.sum() - 1) < 1e-3:
        # The softmax behind it is the host's.
        got = np.exp(got - got.max())
        got /= got.sum()
    np.testing.assert_allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize("name", BUILT)
def test_quantised(name):
    model = with_random_weights(LIGHT / f"light_{name}.onnx")
    # Most end in a pool of 7x7, or in a matrix for it.
    network = normalise(model.SerializeToString(), name, 64 if name == "densenet121" else None)
    feed = inputs(network)
    graph = lower(network, statistics(network, [feed]).ranges)
    (source,), (out,) = network.inputs, network.outputs
    want = probe(network, [out])(feed)[out].ravel().astype(np.float64)
    ((name_in, type),) = graph.inputs.items()
    codes = type.quantisation.quantise(np.moveaxis(feed[source], 1, -1))
    (tensor,) = graph.outputs
    got = graph.types[tensor].quantisation.dequantise(graph.evaluate({name_in: codes})[tensor])
    noise = ((got.ravel() - want) ** 2).mean()
    assert decibels(want.var(), noise) > BUILT[name]
    if name == "shufflenet":
        assert sum(isinstance(n.op, GatherChannels) for n in graph.nodes) == 16
