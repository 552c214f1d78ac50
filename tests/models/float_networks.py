"""Small float networks for tests: ONNX models in a few words, read as the importer reads them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from models import onnx_import

N = helper.make_node


def constants_of(seed=0, **shapes):
    """Normal float32 arrays, scaled as weights are."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def network(nodes, constants=(), inputs=None, outputs=("y",), opset=17):
    """A :class:`models.onnx_import.Network` of nodes."""
    inputs = inputs or {"x": (1, 3, 16, 16)}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
         for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    model = shape_inference.infer_shapes(model)
    return onnx_import.normalise(model.SerializeToString(), "net", None)


def noise(net, count=2, seed=0):
    """Standard normal frames for a network."""
    random = np.random.default_rng(seed)
    return [{n: random.standard_normal(net.shapes[n], np.float32) for n in net.inputs}
            for _ in range(count)]
