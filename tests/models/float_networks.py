"""Small float networks for tests: ONNX models in a few words, read as the importer reads them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from hwgen.models.onnx import reader as onnx_import

N = helper.make_node


def constants_of(seed=0, **shapes):
    """Normal float32 arrays, scaled as weights are."""
    random = np.random.default_rng(seed)
    return {
        name: random.normal(0, 1 / np.sqrt(max(1, np.prod(shape[1:]))), shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def network(nodes, constants=(), inputs=None, outputs=("y",), opset=17):
    """A :class:`hwgen.models.onnx.network.Network` of nodes."""
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


def exact_values(net, feed, outputs):
    """Tensors of a network in float64, by ONNX's reference evaluator.

    It makes running means of normalisations before opset 14: those are written out.
    """
    model = onnx.ModelProto()
    model.CopyFrom(net.model)
    graph = model.graph
    for constant in graph.initializer:
        value = numpy_helper.to_array(constant)
        if value.dtype == np.float32:
            constant.CopyFrom(numpy_helper.from_array(value.astype(np.float64), constant.name))
    nodes = [part for node in graph.node for part in _written_out(node, net)]
    del graph.node[:]
    graph.node.extend(nodes)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == 1:
                attribute.i = TensorProto.DOUBLE
    for info in graph.input:
        info.type.tensor_type.elem_type = TensorProto.DOUBLE
    del graph.value_info[:]
    del graph.output[:]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    values = ReferenceEvaluator(model).run(
        list(outputs), {name: np.asarray(v, np.float64) for name, v in feed.items()})
    return dict(zip(outputs, values))


def _written_out(node, net):
    """A normalisation as Sub, Mul, Add; other nodes as they are."""
    if node.op_type != "BatchNormalization":
        return [onnx.NodeProto.FromString(node.SerializeToString())]
    x, *names = node.input
    gain, shift, mean, variance = (net.constants[name].astype(np.float64) for name in names)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    steps = [("Sub", mean), ("Mul", gain / np.sqrt(variance + epsilon)), ("Add", shift)]
    made = []
    for k, (kind, value) in enumerate(steps):
        name = f"{node.output[0]}.{k}"
        out = node.output[0] if k == 2 else f"{name}.out"
        column = value.reshape(-1, *(1,) * (len(net.shapes[node.input[0]]) - 2))
        made += [N("Constant", [], [name], value=numpy_helper.from_array(column)),
                 N(kind, [x, name], [out])]
        x = out
    return made
