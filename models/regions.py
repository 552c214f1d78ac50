"""Elementwise regions: sub-graphs that are a function of one tensor, element by element.

A region becomes a table, filled by running the sub-graph itself on every code of its source, so
it is exact for any op: SiLU, HardSwish, GELU or whatever a network writes out in pieces.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from hwgen.errors import HwgenError
from models.onnx_import import Network, session

__all__ = ["ELEMENTWISE", "Regions"]

ELEMENTWISE = {
    "Abs", "Add", "Cast", "Ceil", "Celu", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg",
    "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Softplus",
    "Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu", "Dropout",
}


class Regions:
    """Which tensors are functions of one other tensor.

    Members
    -------
    source : tensor name to the tensor it is a function of
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.source: dict[str, str] = {}
        self._maker: dict[str, onnx.NodeProto] = {}
        for node in network.nodes:
            if node.op_type not in ELEMENTWISE:
                continue
            live = [i for i in node.input if i and i not in network.constants]
            fixed = [network.constants[i] for i in node.input if i in network.constants]
            roots = {self.source.get(i, i) for i in live}
            if len(roots) == 1 and all(c.size == 1 for c in fixed):
                self.source[node.output[0]] = roots.pop()
                self._maker[node.output[0]] = node

    def is_clamp(self, tensor: str) -> bool:
        """Whether a tensor is its source cut off at zero (and maybe above)."""
        node = self._maker[tensor]
        if node.input[0] != self.source[tensor]:
            return False
        if node.op_type == "Clip" and len(node.input) > 1:
            low = self.network.constants.get(node.input[1])
            return low is not None and float(low) == 0.0
        return node.op_type == "Relu"

    def apply(self, tensor: str, values: np.ndarray) -> np.ndarray:
        """The function of a region on real values ``(n,)``, run by onnxruntime in float32."""
        root = self.source[tensor]
        nodes: dict[str, onnx.NodeProto] = {}
        todo = [tensor]
        while todo:
            name = todo.pop()
            if name == root or name in nodes or name in self.network.constants or not name:
                continue
            nodes[name] = self._maker[name]
            todo += self._maker[name].input
        ordered = [n for n in self.network.nodes if n.output[0] in nodes]
        used = {i for n in ordered for i in n.input}
        constants = [
            onnx.numpy_helper.from_array(value.reshape(()) if value.size == 1 else value, name)
            for name, value in self.network.constants.items() if name in used
        ]
        shape = [len(values)]
        graph = helper.make_graph(
            ordered, "region",
            [helper.make_tensor_value_info(root, TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)], constants,
        )
        model = helper.make_model(graph, opset_imports=self.network.model.opset_import)
        model.ir_version = self.network.model.ir_version
        (result,) = session(model).run([tensor], {root: values.astype(np.float32)})
        result = np.asarray(result, np.float64)
        if not np.isfinite(result).all():
            raise HwgenError(
                f"Tensor {tensor!r} is infinite or NaN for some values of {root!r}: "
                f"it cannot be made a table"
            )
        return result
