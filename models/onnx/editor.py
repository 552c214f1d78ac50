"""A graph that is edited: nodes are replaced, constants added, and what nothing reads goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from hwgen.models.onnx.nodes import reads

__all__ = ["Editor"]


class Editor:
    """The graph of a model, with constants folded and shapes inferred, to be changed in place.

    Parameters
    ----------
    model : :class:`onnx.ModelProto`

    Members
    -------
    constants : by name
    shapes, kinds : of tensors, as far as they were known in the beginning
    outputs : names of the outputs
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.graph = model, model.graph
        self.constants = {c.name: c for c in self.graph.initializer}
        values = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self.shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
                       for v in values}
        self.kinds = {v.name: v.type.tensor_type.elem_type for v in values}
        self.outputs = {v.name for v in self.graph.output}

    def constant(self, name: str) -> np.ndarray | None:
        """Value of a constant; None: it is none."""
        found = self.constants.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def add(self, array: np.ndarray, name: str) -> str:
        """Add a constant, and return its name."""
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        self.constants[name] = self.graph.initializer[-1]
        return name

    def readers(self, name: str) -> list[onnx.NodeProto]:
        """Nodes that read a tensor."""
        return [node for node in self.graph.node if name in reads(node)]

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor."""
        return next((node for node in self.graph.node if name in node.output), None)

    def replace(self, node: onnx.NodeProto, others: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in the place of one."""
        at = next(k for k, each in enumerate(self.graph.node) if each is node)
        for k, other in enumerate(others):
            self.graph.node.insert(at + k, other)
        self.graph.node.remove(node)

    def drop_unread(self) -> None:
        """Remove nodes and constants that no output depends on."""
        read = set(self.outputs)
        for node in reversed(list(self.graph.node)):
            if read.intersection(node.output):
                read.update(reads(node))
            else:
                self.graph.node.remove(node)
        for constant in list(self.graph.initializer):
            if constant.name not in read:
                self.graph.initializer.remove(constant)
