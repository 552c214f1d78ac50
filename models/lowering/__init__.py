"""Lowering: from a float network to the integer graph.

Activations are asymmetric, one scale a tensor; weights symmetric, one scale an output channel
(Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference", 2018), unless the file itself states other integers.  Scales are float32, so that an
ONNX file can state them exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwgen.ir import Graph, Rearrange
from hwgen.models.lowering import conv, elementwise, pool, recurrent, resize, route, softmax
from hwgen.models.lowering.core import HANDLERS, Lowering
from hwgen.models.lowering.ranges import Ranges
from hwgen.models.lowering.refusals import refuse_control
from hwgen.models.onnx.network import Network
from hwgen.models.onnx.nodes import ELEMENTWISE
from hwgen.models.onnx.writer import REWRITES
from hwgen.models.quantisation.precision import Precision

__all__ = ["Lowering", "lower", "lowered", "supported"]

# Imported for the handlers that they register.
_ = conv, elementwise, pool, recurrent, resize, route, softmax


def lower(
    network: Network, ranges: Ranges, precision: Precision | None = None,
    means: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The integer graph of a float network.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`
    ranges : tensor name to (smallest, largest) value
    precision : bits of weights and activations; the input image keeps 8 bits
    means : mean per channel of what nodes with weights read; without it biases are not corrected

    Returns
    -------
    :class:`Graph`
        Its ``meta["floats"]`` says which float tensor each of its tensors stands for.

    Raises
    ------
    :exc:`HwgenError`
        If an op, or a form of it, is not supported; the node is named.
    """
    return lowered(network, ranges, precision or Precision.parse("w8a8"), means or {}).graph


def lowered(
    network: Network, ranges: Ranges, precision: Precision, means: Mapping[str, np.ndarray]
) -> Lowering:
    """A network lowered; see :func:`lower`.

    Where a frame would be put in another order as soon as it comes in, inputs come with their
    channels at another axis, if that spares it.
    """
    refuse_control(network)
    best = Lowering(network, ranges, precision, means)
    for name in network.inputs:
        if name in network.ids:
            continue
        for axis in range(1, len(network.shapes[name])):
            if _moves(best.graph) and axis != best.axes[name]:
                other = Lowering(network, ranges, precision, means, {**best.axes, name: axis})
                best = min(best, other, key=lambda each: _moves(each.graph))
    return best


def _moves(graph: Graph) -> int:
    """Number of inputs that are put in another order."""
    return sum(isinstance(node.op, Rearrange) and node.inputs[0] in graph.inputs
               for node in graph.nodes)


def supported() -> list[str]:
    """Names of the ONNX ops that are supported."""
    return sorted({*HANDLERS, *ELEMENTWISE, *REWRITES, "GroupNormalization"})
