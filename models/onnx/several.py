"""Ops that combine several streams, written out in sums, differences, products and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce

import numpy as np
import onnx
from onnx import TensorProto

from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import ELEMENTWISE
from hwgen.models.onnx.writer import Writer, rewrites

__all__ = ["BRANCHES"]

BRANCHES = 8
"""Most elements that a Softmax weighs against each other, as a choice between branches does."""


def _is_table(network: Network, node: onnx.NodeProto) -> bool:
    """Whether a node is a function of one tensor, element by element, and so a table anyway."""
    roots: dict[str, str] = {}
    for each in network.nodes:
        live = {roots.get(i, i) for i in each.input if i and i not in network.constants}
        alike = all(network.constants[i].size == 1 for i in each.input if i in network.constants)
        if each.op_type in ELEMENTWISE and len(live) == 1 and alike:
            (root,) = live
            if network.shapes.get(root) == network.shapes.get(each.output[0]):
                roots[each.output[0]] = root
        if each is node:
            break
    return node.output[0] in roots


def _kinds(network: Network, names: Iterable[str]) -> str:
    """The kinds of the constants among tensors, as numpy's letters."""
    return "".join(network.constants[i].dtype.kind for i in names if i in network.constants)


@rewrites("Div")
def _quotient(writer: Writer, node: onnx.NodeProto) -> str | None:
    """A product with a reciprocal, whose table saturates where it would be infinite."""
    if node.input[1] in writer.network.constants or _is_table(writer.network, node):
        return None
    return writer.quotient(*node.input)


@rewrites("Sum", "Mean")
def _sum(writer: Writer, node: onnx.NodeProto) -> str | None:
    total, *rest = node.input
    if node.op_type == "Sum" and (len(rest) == 1 or _is_table(writer.network, node)):
        return None
    for name in rest:
        total = writer.op("Add", total, name)
    if node.op_type == "Mean" and rest:
        return writer.op("Mul", total, writer.constant(1 / len(node.input)))
    return total


@rewrites("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
def _compared(writer: Writer, node: onnx.NodeProto) -> str | None:
    """The sign of the difference."""
    if _is_table(writer.network, node) or set(_kinds(writer.network, node.input)) - {"f"}:
        return None
    difference = writer.op("Sub", *node.input)
    return writer.op(node.op_type, difference, writer.constant(0.0))


def _number(writer: Writer, condition: str) -> str:
    """A condition as 0 or 1, which its codes hold exactly."""
    if condition in writer.network.constants:
        return writer.constant(writer.network.constants[condition])
    return writer.op("Cast", condition, to=TensorProto.FLOAT, fine=False)


@rewrites("And", "Or", "Xor")
def _logic(writer: Writer, node: onnx.NodeProto) -> str | None:
    if _is_table(writer.network, node):
        return None
    kind = {"And": "Mul", "Or": "Add", "Xor": "Sub"}[node.op_type]
    number = writer.op(kind, *(_number(writer, name) for name in node.input), fine=False)
    return writer.op("Cast", number, to=TensorProto.BOOL, fine=False)


@rewrites("Where")
def _where(writer: Writer, node: onnx.NodeProto) -> str | None:
    """``b + condition * (a - b)``."""
    if _is_table(writer.network, node):
        return None
    condition, first, second = node.input
    chosen = _number(writer, condition)
    if {first, second} <= set(writer.network.constants):
        a, b = (writer.network.constants[name] for name in (first, second))
        difference = writer.constant(a - b)
    else:
        difference = writer.op("Sub", first, second)
    return writer.op("Add", writer.op("Mul", difference, chosen), second)


@rewrites("Softmax")
def _branches(writer: Writer, node: onnx.NodeProto) -> str | None:
    """Weights of a few branches: exponentials, none above 1, divided by their sum."""
    x = node.input[0]
    shape, old = writer.shape(x), writer.opset < 13
    axis = writer.attributes.get("axis", 1 if old else -1) % len(shape)
    together = math.prod(shape[axis:]) if old else shape[axis]
    if axis == 0 or not 2 <= together <= BRANCHES or together != shape[axis]:
        return None
    difference = writer.op("Sub", x, writer.reduced("ReduceMax", x, [axis]))
    power = writer.op("Exp", difference)
    return writer.quotient(power, writer.reduced("ReduceSum", power, [axis]))


@rewrites("Max", "Min")
def _bounded(writer: Writer, node: onnx.NodeProto) -> str | None:
    """``max(x, c) = c + max(x - c, 0)``, if the constant ``c`` is no scalar."""
    constants = writer.network.constants
    fixed = [name for name in node.input if name in constants]
    streams = [name for name in node.input if name not in constants]
    if not fixed or not streams or all(constants[name].size == 1 for name in fixed):
        return None
    largest = node.op_type == "Max"
    together = np.maximum if largest else np.minimum
    bound = writer.constant(reduce(together, (constants[name] for name in fixed)))
    x = streams[0] if len(streams) == 1 else writer.op(node.op_type, *streams)
    if largest:
        return writer.op("Add", writer.op("Relu", writer.op("Sub", x, bound)), bound)
    return writer.op("Sub", bound, writer.op("Relu", writer.op("Sub", bound, x)))


@rewrites("PRelu")
def _sloped(writer: Writer, node: onnx.NodeProto) -> str | None:
    """``max(x, 0) + slope * min(x, 0)``, if slopes are not those of channels."""
    x, slopes = node.input
    constant = writer.network.constants.get(slopes)
    if constant is None or sum(extent > 1 for extent in constant.shape) < 2:
        return None
    above, below = writer.op("Relu", x), writer.op("Min", x, writer.constant(0.0))
    return writer.op("Add", above, writer.op("Mul", below, slopes))
