"""Normalisations and norms, written out: two passes over what is normalised together.

Mean, difference, mean of squares, reciprocal root as a table, product.  What is between has *fine*
codes, because its errors would be those of all results.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import ELEMENTWISE, attributes, is_square, opset
from hwgen.models.onnx.writer import Writer, rewrites

__all__ = ["known_forms", "within_norms"]

MOVES = {"Expand", "Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Ops through which what is fine goes on."""
MEANS = {"GlobalAveragePool", "ReduceMean", "ReduceSum"}
"""Ops that take means or sums of squares."""
MEAN_VARIANCE = 0, 2, 3
"""Axes of a MeanVarianceNormalization that states none."""


# Normalisations


def known_forms(model: onnx.ModelProto) -> None:
    """Bring normalisations into forms that onnxruntime runs as they stand, in place.

    It would write a GroupNormalization out in a form that loses digits.  It becomes what PyTorch's
    exporter makes of it, around InstanceNormalization, which :func:`_instances` knows.  Shapes of a
    MeanVarianceNormalization are inferred only if it states its axes.
    """
    by_group, nodes = opset(model) < 21, []
    for node in model.graph.node:
        if node.op_type == "GroupNormalization":
            made, constants = _grouped(node, by_group)
            model.graph.initializer.extend(
                numpy_helper.from_array(value, name) for name, value in constants.items())
            nodes += made
            continue
        if node.op_type == "MeanVarianceNormalization" and not node.attribute:
            node.attribute.append(helper.make_attribute("axes", MEAN_VARIANCE))
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _grouped(
    node: onnx.NodeProto, by_group: bool
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes for a GroupNormalization, and their constants.

    Parameters
    ----------
    node : the GroupNormalization
    by_group : whether its scale and shift are those of groups, as before opset 21
    """
    at, out = attributes(node), node.output[0]
    x, scale, shift = node.input
    groups = int(at["num_groups"])

    def named(key: str) -> str:
        return f"{out}.{key}"

    constants = {named("groups"): np.array([0, groups, -1])}
    own = scale, shift
    if not by_group:
        own = named("one"), named("zero")
        constants |= {own[0]: np.ones(groups, np.float32), own[1]: np.zeros(groups, np.float32)}
    nodes = [
        helper.make_node("Reshape", [x, named("groups")], [named("flat")]),
        helper.make_node("InstanceNormalization", [named("flat"), *own], [named("normal")],
                         name=node.name, epsilon=at.get("epsilon", 1e-5)),
    ]
    last = named("normal")
    if not by_group:
        constants |= {named("column"): np.array([-1, 1]), named("same"): np.array([0]),
                      named("rest"): np.array([-1])}
        nodes += [
            helper.make_node("Shape", [scale], [named("channels")]),
            helper.make_node("Concat", [named("same"), named("channels"), named("rest")],
                             [named("apart")], axis=0),
            helper.make_node("Reshape", [last, named("apart")], [named("whole")]),
            helper.make_node("Reshape", [scale, named("column")], [named("scale")]),
            helper.make_node("Reshape", [shift, named("column")], [named("shift")]),
            helper.make_node("Mul", [named("whole"), named("scale")], [named("scaled")]),
            helper.make_node("Add", [named("scaled"), named("shift")], [named("shifted")]),
        ]
        last = named("shifted")
    nodes += [helper.make_node("Shape", [x], [named("shape")]),
              helper.make_node("Reshape", [last, named("shape")], [out])]
    return nodes, constants


@rewrites("InstanceNormalization")
def _instances(writer: Writer, node: onnx.NodeProto) -> str:
    """Each channel of a frame, or each group of channels if it is a view of such."""
    x, scale, shift = node.input
    shape = writer.shape(x)
    groups = shape[1]
    maker = next((n for n in writer.network.nodes if x in n.output), None)
    if maker is not None and maker.op_type == "Reshape" and len(shape) == 3:
        whole = writer.shape(maker.input[0])
        if len(whole) > 1 and whole[0] == 1 and whole[1] % groups == 0:
            x = maker.input[0]
    channels = writer.shape(x)[1]

    def mean(tensor: str) -> str:
        if groups == 1:
            return writer.reduced("ReduceMean", tensor, range(1, len(writer.shape(x))))
        if len(writer.shape(x)) == 2:
            tensor = writer.reshaped(tensor, (1, channels, 1))
        pooled = writer.op("GlobalAveragePool", tensor)
        if channels > groups:
            count, ones = channels // groups, (1,) * max(len(writer.shape(x)) - 2, 1)
            share = writer.constant(np.full((channels, count, *ones), 1 / count))
            pooled = writer.op("Conv", pooled, share, group=groups)
        return writer.reshaped(pooled, (1, channels)) if len(writer.shape(x)) == 2 else pooled

    result = writer.normalised(x, mean, writer.attributes.get("epsilon", 1e-5))
    column = (1, channels, *(1,) * (len(writer.shape(x)) - 2))
    result = writer.scaled(result, scale, shift, column)
    return result if x == node.input[0] else writer.reshaped(result, shape)


@rewrites("LayerNormalization", "RMSNormalization")
def _layer(writer: Writer, node: onnx.NodeProto) -> str | None:
    """Over the last axes, from one of them on; scale and shift have the extents of these."""
    x, scale, shift = (*node.input, "")[:3]
    shape = writer.shape(x)
    axis = writer.attributes.get("axis", -1) % len(shape)
    if any(node.output[1:]):
        return None
    axes = range(max(axis, 1), len(shape))
    result = writer.normalised(
        x, lambda tensor: writer.reduced("ReduceMean", tensor, axes),
        writer.attributes.get("epsilon", 1e-5), centred=node.op_type == "LayerNormalization")
    return writer.scaled(result, scale, shift, shape[axis:])


@rewrites("MeanVarianceNormalization")
def _mean_variance(writer: Writer, node: onnx.NodeProto) -> str:
    axes = [a for a in writer.attributes.get("axes", MEAN_VARIANCE) if a]
    return writer.normalised(
        node.input[0], lambda tensor: writer.reduced("ReduceMean", tensor, axes), 1e-9,
        beside=True)


@rewrites("LpNormalization")
def _lp(writer: Writer, node: onnx.NodeProto) -> str:
    axes = [writer.attributes.get("axis", -1) % len(writer.shape(node.input[0]))]
    kind = "ReduceL1" if writer.attributes.get("p", 2) == 1 else "ReduceL2"
    return writer.quotient(node.input[0], _norm(writer, kind, node.input[0], axes))


@rewrites("LRN")
def _local(writer: Writer, node: onnx.NodeProto) -> str:
    """Divided by a power of the mean square of channels near by: each pixel's are a row."""
    at, x = writer.attributes, node.input[0]
    batch, channels, *spatial = writer.shape(x)
    size, rank = at["size"], len(spatial) + 2
    squares = writer.op("Transpose", writer.op("Mul", x, x), perm=[0, *range(2, rank), 1])
    rows = writer.reshaped(squares, (batch, 1, math.prod(spatial), channels))
    means = writer.op(
        "AveragePool", rows, kernel_shape=[1, size], count_include_pad=1,
        pads=[0, (size - 1) // 2, 0, size // 2])
    means = writer.reshaped(means, (batch, *spatial, channels))
    means = writer.op("Transpose", means, perm=[0, rank - 1, *range(1, rank - 1)])
    grown = writer.op("Mul", means, writer.constant(at.get("alpha", 1e-4)))
    shifted = writer.op("Add", grown, writer.constant(at.get("bias", 1.0)))
    return writer.op("Mul", x, writer.op("Pow", shifted, writer.constant(-at.get("beta", 0.75))))


# Norms


@rewrites("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def _reduction(writer: Writer, node: onnx.NodeProto) -> str:
    shape, axes = writer.shape(node.input[0]), writer.attributes.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = writer.network.constants[node.input[1]].tolist()
    if not axes and writer.attributes.get("noop_with_empty_axes"):
        axes = ()
    elif not axes:
        axes = range(len(shape))
    axes = sorted({a % len(shape) for a in axes} - {0})
    result = _norm(writer, node.op_type, node.input[0], axes)
    return writer.reshaped(result, writer.shape(node.output[0]))


def _norm(writer: Writer, kind: str, tensor: str, axes: Sequence[int]) -> str:
    """A norm along axes, which it keeps."""
    if kind == "ReduceL1":
        return writer.summed(writer.op("Abs", tensor), axes)
    if kind == "ReduceLogSum":
        return writer.op("Log", writer.summed(tensor, axes))
    if kind == "ReduceLogSumExp":
        # Nothing above 1 is summed.
        largest = writer.reduced("ReduceMax", tensor, axes) if axes else tensor
        powers = writer.op("Exp", writer.op("Sub", tensor, largest))
        return writer.op("Add", writer.op("Log", writer.summed(powers, axes)), largest)
    total = writer.summed(writer.op("Mul", tensor, tensor), axes)
    return total if kind == "ReduceSumSquare" else writer.op("Sqrt", total)


@rewrites("Pow")
def _square(writer: Writer, node: onnx.NodeProto) -> str | None:
    """A square is a product."""
    x, exponent = node.input
    value = writer.network.constants.get(exponent)
    if value is None or value.size > 1 or value.item() != 2:
        return None
    return writer.op("Mul", x, x)


# Norms that a file writes out itself


def within_norms(network: Network) -> set[str]:
    """What is between a tensor and the norm that it is multiplied with or divided by.

    That is a difference from a mean, its squares, their mean, and functions of that.
    """
    makers = {out: node for node in network.nodes for out in node.output}
    fine: set[str] = set()
    for node in network.nodes:
        readers = network.users.get(node.output[0], [])
        if not is_square(node) or not readers or any(
                reader.op_type not in MEANS for reader in readers):
            continue
        fine.add(node.output[0])
        difference = makers.get(node.input[0])
        if difference is not None and difference.op_type == "Sub":
            means = [t for t in difference.input if _maker(makers, t) in MEANS]
            fine.update([difference.output[0]] if means else [])
            for mean in means:
                fine.update(_moved(makers, mean))
        for reader in readers:
            fine.update(_functions(network, reader.output[0]))
    return fine


def _maker(makers: dict[str, onnx.NodeProto], tensor: str) -> str:
    """The op that makes a tensor, seen through what only moves it; empty for an input."""
    while tensor in makers and makers[tensor].op_type in MOVES:
        tensor = makers[tensor].input[0]
    return makers[tensor].op_type if tensor in makers else ""


def _moved(makers: dict[str, onnx.NodeProto], tensor: str) -> list[str]:
    """A tensor and those that only were moved to make it."""
    found = [tensor]
    while makers[tensor].op_type in MOVES:
        tensor = makers[tensor].input[0]
        found.append(tensor)
    return found


def _functions(network: Network, tensor: str) -> set[str]:
    """A tensor and what is a function of it alone."""
    found, todo = set(), [tensor]
    while todo:
        name = todo.pop()
        found.add(name)
        for node in network.users.get(name, ()):
            live = {i for i in node.input if i and i not in network.constants}
            if live == {name} and node.op_type in ELEMENTWISE | MOVES:
                todo.append(node.output[0])
    return found


