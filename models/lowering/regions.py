"""Elementwise regions: sub-graphs that are a function of one tensor, element by element.

A region becomes a table, filled by running the sub-graph itself on every code of its source, so
it is exact for any op: SiLU, HardSwish, GELU or whatever a network writes out in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from hwgen.errors import HwgenError
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import ELEMENTWISE, is_square
from hwgen.models.onnx.session import session

__all__ = ["Regions"]


class Regions:
    """Which tensors are functions of one other tensor.

    Parameters
    ----------
    network : the float network
    absorbed : outputs of nodes that belong to another op, and begin no region

    Members
    -------
    source : tensor name to the tensor it is a function of
        The nearest one that is either no function of another, or has codes of its own.
    """

    def __init__(self, network: Network, absorbed: Iterable[str] = ()) -> None:
        self.network = network
        self.source: dict[str, str] = {}
        self._maker: dict[str, onnx.NodeProto] = {}
        skipped = set(absorbed)
        for node in network.nodes:
            if node.op_type not in ELEMENTWISE or node.output[0] in skipped:
                continue
            if is_square(node) and {node.input[0], node.output[0]} <= network.fine:
                # A product of fine codes is smaller than a table of them.
                continue
            live = [i for i in node.input if i and i not in network.constants]
            fixed = [network.constants[i] for i in node.input if i in network.constants]
            if not live or any(c.size != 1 for c in fixed):
                continue
            if node.op_type == "Dropout" and len(node.input) > 2 and fixed[-1].any():
                # In training it is no function.
                continue
            root = self._common(live)
            if root is not None and network.shapes.get(root) == network.shapes.get(node.output[0]):
                self.source[node.output[0]] = root
                self._maker[node.output[0]] = node
        self.wanted = self._find_wanted()

    def _ancestors(self, tensor: str) -> list[str]:
        """Tensors that may begin a region and that a tensor is a function of, nearest first."""
        begins = tensor not in self.source or tensor in self.network.codes
        chain = [tensor] if begins else []
        while tensor in self.source:
            tensor = self.source[tensor]
            chain.append(tensor)
        return chain

    def _common(self, tensors: list[str]) -> str | None:
        """The nearest tensor that all of these are functions of."""
        first, *rest = [self._ancestors(t) for t in dict.fromkeys(tensors)]
        return next((t for t in first if all(t in chain for chain in rest)), None)

    def _find_wanted(self) -> set[str]:
        """Tensors that something other than a region of the same source reads."""
        wanted = set(self.network.outputs)
        for node in self.network.nodes:
            if node.output[0] not in self.source:
                wanted.update(node.input)
        for tensor in reversed(list(self.source)):
            if tensor in wanted:
                wanted.add(self.source[tensor])
        return wanted

    def functions(self, tensor: str) -> list[str]:
        """Wanted tensors that are functions of a tensor."""
        return [t for t, source in self.source.items() if source == tensor and t in self.wanted]

    def read_itself(self, tensor: str) -> bool:
        """Whether something other than its regions reads a tensor."""
        return tensor in self.network.outputs or any(
            node.output[0] not in self.source for node in self.network.users.get(tensor, ())
        )

    def apply(self, tensor: str, values: np.ndarray) -> np.ndarray:
        """The function of a region on real values ``(n,)``, run by onnxruntime in float32.

        Results may be infinite, where codes saturate, or NaN.

        Raises
        ------
        :exc:`HwgenError`
            If the sub-graph cannot be run.
        """
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
            onnx.numpy_helper.from_array(value.reshape(()), name)
            for name, value in self.network.constants.items() if name in used
        ]
        shape = [len(values)]
        graph = helper.make_graph(
            ordered, "region",
            [helper.make_tensor_value_info(root, TensorProto.FLOAT, shape)],
            [onnx.ValueInfoProto(name=tensor)], constants,
        )
        model = helper.make_model(graph, opset_imports=self.network.model.opset_import)
        model.ir_version = self.network.model.ir_version
        try:
            (result,) = session(model).run([tensor], {root: values.astype(np.float32)})
        except Exception as error:  # onnxruntime raises classes of its own for every fault
            raise HwgenError(
                f"Tensor {tensor!r} cannot be computed from {root!r}: {str(error)[:200]}"
            ) from None
        return np.asarray(result, np.float64)
