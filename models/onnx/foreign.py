"""Ops that are none of ONNX's, left in a file by an exporter that had nothing to write for them.

tf2onnx keeps the name that an op has in TensorFlow or TensorFlow Lite, and only prints an error.
Those that are a few ops of ONNX are written as these; any other one is refused by name.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.errors import HwgenError
from hwgen.models.onnx.nodes import attributes

__all__ = ["write_foreign_ops"]

QONNX = {"BipolarQuant", "IntQuant", "Quant", "Trunc"}
"""Ops that some files have without their domain."""
Formula = list[tuple[str, tuple[str | float, ...]]]
"""Ops one after the other; an input is ``x``, the result before (``""``), or a number."""
FORMULAS: dict[str, Formula] = {
    "Erfc": [("Erf", ("x",)), ("Sub", (1.0, ""))],
    "Expm1": [("Exp", ("x",)), ("Sub", ("", 1.0))],
    "Log1p": [("Add", ("x", 1.0)), ("Log", ("",))],
    "Rsqrt": [("Sqrt", ("x",)), ("Reciprocal", ("",))],
    "TFL_GELU": [("Mul", ("x", math.sqrt(0.5))), ("Erf", ("",)), ("Add", ("", 1.0)),
                 ("Mul", ("", "x")), ("Mul", ("", 0.5))],
    "TFL_RELU_N1_TO_1": [("Clip", ("x", -1.0, 1.0))],
}
APPROXIMATE: Formula = [
    ("Mul", ("x", "x")), ("Mul", ("", 0.044715)), ("Add", ("", 1.0)), ("Mul", ("", "x")),
    ("Mul", ("", math.sqrt(2 / math.pi))), ("Tanh", ("",)), ("Add", ("", 1.0)),
    ("Mul", ("", "x")), ("Mul", ("", 0.5)),
]
"""TFL_GELU where its attribute ``approximate`` asks for the form with a hyperbolic tangent."""


def write_foreign_ops(model: onnx.ModelProto, name: str) -> None:
    """Write ops that are none of ONNX's as some that are, in place.

    Raises
    ------
    :exc:`HwgenError`
        If there is no such form.
    """
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        kind = node.op_type
        if node.domain not in ("", "ai.onnx") or onnx.defs.has(kind) or kind in QONNX:
            nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        elif kind in FORMULAS and len(node.input) == 1:
            approximate = kind == "TFL_GELU" and attributes(node).get("approximate")
            nodes += _written(model, node, APPROXIMATE if approximate else FORMULAS[kind])
        else:
            raise HwgenError(
                f"{name} is not a valid ONNX file: node {node.name or node.output[0]!r} has op "
                f"{kind!r}, which is none of ONNX's: the exporter did not know it and left it as "
                f"it was: look at what it printed, and write the layer in other ops"
            )
    if [n.op_type for n in nodes] != [n.op_type for n in model.graph.node]:
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def _written(
    model: onnx.ModelProto, node: onnx.NodeProto, formula: Formula
) -> list[onnx.NodeProto]:
    """The nodes of a formula in place of a node."""
    out, made = node.output[0], ""
    nodes = []
    for k, (kind, operands) in enumerate(formula):
        inputs = []
        for j, operand in enumerate(operands):
            if isinstance(operand, float):
                value = f"{out}.{k}.{j}"
                model.graph.initializer.append(
                    numpy_helper.from_array(np.float32(operand), value))
                inputs.append(value)
            else:
                inputs.append(node.input[0] if operand else made)
        made = out if k == len(formula) - 1 else f"{out}.{k}"
        nodes.append(helper.make_node(kind, inputs, [made], name=node.name and made))
    return nodes
